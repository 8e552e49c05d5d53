//! Storing on the disk what has been written while more is being written, so that little is left
//! to wait for at the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

/// Bytes after which the disk is asked to begin.
const SYNC_BYTES: u64 = 64 << 20;

/// Wakes the thread that syncs.
pub(crate) struct WriteBehind {
    wake: SyncSender<()>,
    unsynced: AtomicU64,
}

impl WriteBehind {
    /// Tells that so many bytes more were written. Never waits.
    pub(crate) fn wrote(&self, bytes: u64) {
        let unsynced = self.unsynced.fetch_add(bytes, Ordering::Relaxed) + bytes;
        // One that is still under way will be followed by another.
        if unsynced >= SYNC_BYTES && self.wake.try_send(()).is_ok() {
            self.unsynced.store(0, Ordering::Relaxed);
        }
    }
}

/// Runs `write`, and beside it `sync`, which stores what has been written so far.
///
/// # Errors
/// What either of them returns.
pub(crate) fn write_behind<R, E: Send>(
    sync: impl Fn() -> Result<(), E> + Send,
    write: impl FnOnce(&WriteBehind) -> Result<R, E>,
) -> Result<R, E> {
    std::thread::scope(|scope| {
        let (wake, woken) = sync_channel(1);
        let syncing = scope.spawn(move || woken.into_iter().try_for_each(|()| sync()));
        let behind = WriteBehind {
            wake,
            unsynced: AtomicU64::new(0),
        };
        let result = write(&behind);
        drop(behind);
        let synced = syncing.join().expect("the syncing thread does not panic");
        result.and_then(|result| synced.map(|()| result))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_is_synced_and_errors_of_either_side_come_back() {
        let syncs = AtomicU64::new(0);
        let count = || {
            syncs.fetch_add(1, Ordering::Relaxed);
            Ok::<_, &str>(())
        };
        let wrote = |bytes| {
            write_behind(count, |behind| {
                behind.wrote(bytes);
                Ok(())
            })
        };
        assert_eq!(wrote(SYNC_BYTES - 1), Ok(()));
        assert_eq!(syncs.load(Ordering::Relaxed), 0);
        assert_eq!(wrote(SYNC_BYTES), Ok(()));
        assert_eq!(syncs.load(Ordering::Relaxed), 1);
        let refused = write_behind(
            || Err("disk"),
            |behind| {
                behind.wrote(SYNC_BYTES);
                Ok(())
            },
        );
        assert_eq!(refused, Err("disk"));
        assert_eq!(write_behind(count, |_| Err::<(), _>("own")), Err("own"));
    }
}
