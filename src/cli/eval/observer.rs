//! Shows a run's progress and passes Ctrl-C on to it.

use crate::cli::interrupt::Interrupt;
use crate::cli::progress::{ProgressDisplay, Snapshot};
use crate::eval::execute::{Observer, Progress};

pub(super) struct Display {
    display: ProgressDisplay,
    interrupt: Interrupt,
}

impl Display {
    pub(super) fn new() -> Self {
        Self {
            display: ProgressDisplay::new(),
            interrupt: Interrupt::listen(),
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.display.finish();
    }
}

impl Observer for Display {
    fn progress(&mut self, progress: &Progress) {
        let Progress {
            done,
            total,
            resumed,
            load,
            ..
        } = progress;
        self.display
            .update(&Snapshot::new(*done, *total, *resumed, load));
    }

    fn is_interrupted(&self) -> bool {
        self.interrupt.is_set()
    }
}
