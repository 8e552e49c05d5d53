//! Exit codes, and the one place that prints an error.

use std::io::Write;
use std::process::ExitCode;

/// How a command ended. Each has a documented exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// 0: done.
    Done,
    /// 3: finished, but a gate failed (truncation share, determinism check, `compare` says worse), or `grade`'s
    /// judge did: what it did not judge is missing.
    GateFailed,
    /// 130: interrupted by the user; the journal is safe and the same command resumes.
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::GateFailed => Self::from(3),
            Exit::Interrupted => Self::from(130),
        }
    }
}

/// Marks an error as the user's usage or configuration: exit code 2 instead of 1.
///
/// Attach it with `.context(UsageError)` or wrap an error in [`usage`].
#[derive(Debug)]
struct UsageError(anyhow::Error);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for UsageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Wraps an error so that the program ends with exit code 2 (wrong usage or configuration).
pub(super) fn usage(error: impl Into<anyhow::Error>) -> anyhow::Error {
    anyhow::Error::new(UsageError(error.into()))
}

/// Prints the error of a failed command and maps the outcome to its exit code.
pub(super) fn report(outcome: anyhow::Result<Exit>) -> ExitCode {
    match outcome {
        Ok(exit) => exit.into(),
        // A closed pipe is how readers (`| head`) say that they have seen enough.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stderr leaves nobody to tell; the exit code still says it.
            let _ = writeln!(std::io::stderr(), "error: {}", sentence(&error));
            if error.chain().any(|cause| cause.is::<UsageError>()) {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The error and its causes in one text. A cause that the text before it quotes already is left out,
/// and so is a path that the cause begins with itself.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if cause.starts_with(&text) {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Prints clap's message (help and version are not errors) and maps it to its exit code.
pub(super) fn report_usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::from(2)
    } else {
        ExitCode::SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("a.json: cannot write: {0}")]
        struct Quoting(#[source] std::io::Error);
        let cause = std::io::Error::other("the disk is on fire");
        let error = Err::<(), _>(Quoting(cause)).context("--out").unwrap_err();
        let expected = "--out: a.json: cannot write: the disk is on fire";
        assert_eq!(sentence(&error), expected);
        assert_eq!(sentence(&usage(error)), expected);
        let error = anyhow::anyhow!("m/config.json: not there").context("m");
        assert_eq!(sentence(&error), "m/config.json: not there");
    }
}
