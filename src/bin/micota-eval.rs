//! The `micota-eval` program: the same as `micota eval`.

fn main() -> std::process::ExitCode {
    micota::cli::run_eval(std::env::args_os())
}
