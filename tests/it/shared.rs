//! Golden data that lies beside the checkout, where it is present.

use std::path::PathBuf;

/// The folder of golden data and benchmarks: `$MICOTA_SHARED`, else `../shared` beside the
/// checkout. `None`, said aloud, where there is neither: the test then has nothing to compare with.
pub(crate) fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("MICOTA_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")),
        PathBuf::from,
    );
    if folder.join("golden").is_dir() {
        return Some(folder);
    }
    eprintln!(
        "SKIPPED: no golden data at {} (set MICOTA_SHARED)",
        folder.display()
    );
    None
}
