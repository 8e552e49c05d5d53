//! The `micota` program: hands its arguments to [`micota::cli`] and exits with its code.

fn main() -> std::process::ExitCode {
    micota::cli::run(std::env::args_os())
}
