//! Files that survive a crash: complete or absent, or a journal that loses at most its last line.
//!
//! Everything the program writes for people goes through here. [`AtomicFile`] writes to a sibling
//! temporary file, flushes it to the disk, and renames it over the target; the folder is flushed
//! too. [`Journal`] keeps what a long run has finished.

mod atomic;
mod error;
mod journal;
mod space;
mod writable;

pub use atomic::{AtomicFile, write_atomic};
pub use error::JournalError;
pub use journal::{Journal, SYNC_INTERVAL};
pub use space::free_bytes;
pub use writable::check_writable;
