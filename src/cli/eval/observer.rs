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
        self.display.update(&Snapshot {
            done: progress.done,
            total: progress.total,
            resumed: progress.resumed,
            running: progress.load.running,
            generated_tokens: progress.load.generated_tokens,
            prefill_tokens: progress.load.prefill_tokens,
            kv_use: progress.load.kv_usage,
        });
    }

    fn is_interrupted(&self) -> bool {
        self.interrupt.is_set()
    }
}
