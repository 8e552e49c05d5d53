//! Diagnostics on stderr: what `tracing` events of the rooms are shown, beside the program's notices.

use std::sync::Once;

use tracing_subscriber::EnvFilter;

use super::exit::usage;

/// lm_eval's levels, and what they are here.
const LEVELS: [(&str, &str); 6] = [
    ("CRITICAL", "error"),
    ("ERROR", "error"),
    ("WARNING", "warn"),
    ("WARN", "warn"),
    ("INFO", "info"),
    ("DEBUG", "debug"),
];

static STARTED: Once = Once::new();

/// Shows events of at least `level`: a name of lm_eval's (`--verbosity`), else what
/// `LMEVAL_LOG_LEVEL` or `RUST_LOG` say, else information. At ERROR and CRITICAL, notices and
/// progress are quiet too.
///
/// # Errors
/// A level of another name.
pub(super) fn start(level: Option<&str>) -> anyhow::Result<()> {
    let variable = std::env::var("LMEVAL_LOG_LEVEL").ok();
    let filter = match (level, variable.filter(|level| !level.is_empty())) {
        (Some(level), _) => by_name(level).ok_or_else(|| unknown("--verbosity", level))?,
        (None, Some(level)) => {
            by_name(&level).ok_or_else(|| unknown("LMEVAL_LOG_LEVEL", &level))?
        }
        (None, None) => "info",
    };
    if filter == "error" {
        super::notice::silence();
    }
    let rust_log = std::env::var("RUST_LOG").ok().filter(|_| level.is_none());
    // Only our own events, unless RUST_LOG asks for more.
    let directives = rust_log.unwrap_or_else(|| format!("micota={filter}"));
    STARTED.call_once(|| {
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(directives))
            .with_writer(std::io::stderr)
            .without_time()
            .with_target(false)
            .with_ansi(false)
            .init();
    });
    Ok(())
}

fn by_name(level: &str) -> Option<&'static str> {
    let known = LEVELS.iter();
    let mut known = known.filter(|(name, _)| name.eq_ignore_ascii_case(level));
    known.next().map(|(_, filter)| *filter)
}

fn unknown(flag: &str, level: &str) -> anyhow::Error {
    let names: Vec<&str> = LEVELS.iter().map(|(name, _)| *name).collect();
    usage(anyhow::anyhow!(
        "{flag} {level}: expected one of {}",
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_lm_eval_s_in_any_case() {
        assert_eq!(by_name("debug"), Some("debug"));
        assert_eq!(by_name("WARNING"), Some("warn"));
        assert_eq!(by_name("loud"), None);
        let message = unknown("--verbosity", "loud").to_string();
        assert!(message.contains("CRITICAL"), "{message}");
    }
}
