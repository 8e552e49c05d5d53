//! Files that are complete or absent: a reader never sees half of one, and a crash keeps the old.
//!
//! Everything the program writes for people goes through here. Contents are written to a sibling
//! temporary file, flushed to the disk, and renamed over the target; the folder is flushed too.

mod atomic;
mod space;

pub use atomic::{AtomicFile, write_atomic};
pub use space::free_bytes;
