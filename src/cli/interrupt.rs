//! Ctrl-C: the first one asks a run to end after its current step, the second ends it at once.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use super::notice::notice;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static INSTALLED: Once = Once::new();

/// Tells whether the user asked the program to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interrupt(());

impl Interrupt {
    /// Listens from now on. Where no handler can be installed, Ctrl-C ends the program at once,
    /// which loses nothing either.
    pub(super) fn listen() -> Self {
        INSTALLED.call_once(|| {
            let installed = ctrlc::set_handler(|| {
                if INTERRUPTED.swap(true, Ordering::SeqCst) {
                    std::process::exit(130);
                }
                notice("ending after this step; what is finished is kept (Ctrl-C again: at once)");
            });
            if let Err(error) = installed {
                tracing::debug!("no handler for Ctrl-C: {error}");
            }
        });
        Self(())
    }

    /// Whether the user did.
    pub(super) fn is_set(&self) -> bool {
        INTERRUPTED.load(Ordering::SeqCst)
    }
}
