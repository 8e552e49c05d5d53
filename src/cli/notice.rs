//! Messages to the user beside the result: on stderr, one line each.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

static IS_SILENT: AtomicBool = AtomicBool::new(false);

/// Shows no notices from now on (`--verbosity ERROR`).
pub(super) fn silence() {
    IS_SILENT.store(true, Ordering::Relaxed);
}

/// Writes a line to stderr.
pub(super) fn notice(line: &str) {
    if !IS_SILENT.load(Ordering::Relaxed) {
        asked_for(line);
    }
}

/// Writes what a flag asked for, such as `--show_config`, which no verbosity hides.
pub(super) fn asked_for(text: &str) {
    // A closed stderr leaves nobody to tell, and is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{text}");
}
