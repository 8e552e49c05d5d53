//! Messages to the user beside the result: on stderr, one line each.

use std::io::Write;

/// Writes a line to stderr. A closed stderr leaves nobody to tell, and is no reason to stop.
pub(super) fn notice(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
