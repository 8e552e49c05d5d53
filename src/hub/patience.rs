//! Waiting for the network no longer than agreed.
//!
//! hf-hub's client has no timeouts of its own: a server that accepts a connection and says nothing
//! would hold the program for ever. So its calls run on a thread, which is left behind when nothing
//! is heard of it; it ends with the program, and what it had downloaded is there for the next one.

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// What a call under way lets be heard.
enum Heard<T> {
    Pulse,
    Done(T),
}

/// Tells the waiting side that a call gets on.
#[derive(Clone)]
pub(super) struct Pulse<T>(Sender<Heard<T>>);

impl<T> Pulse<T> {
    /// Bytes have come.
    pub(super) fn beat(&self) {
        // Nobody waits any more: the call has been given up.
        let _ = self.0.send(Heard::Pulse);
    }
}

/// Runs `call`, and gives up when neither a pulse nor its end is heard for `patience`.
pub(super) fn patiently<T: Send + 'static>(
    patience: Duration,
    call: impl FnOnce(Pulse<T>) -> T + Send + 'static,
) -> Option<T> {
    let (sender, heard) = channel();
    std::thread::spawn(move || {
        let done = call(Pulse(sender.clone()));
        let _ = sender.send(Heard::Done(done));
    });
    loop {
        match heard.recv_timeout(patience) {
            Ok(Heard::Pulse) => {}
            Ok(Heard::Done(done)) => return Some(done),
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_gets_on_is_waited_for_and_a_silent_one_is_not() {
        let patience = Duration::from_millis(200);
        let slow = patiently(patience, |pulse| {
            for _ in 0..10 {
                std::thread::sleep(Duration::from_millis(40));
                pulse.beat();
            }
            7
        });
        assert_eq!(slow, Some(7));
        let silent = patiently(Duration::from_millis(1), |_| {
            std::thread::sleep(Duration::from_secs(5));
        });
        assert_eq!(silent, None);
    }
}
