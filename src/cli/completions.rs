//! `micota completions`: the shell's completion script, made from the same parser.

use clap::CommandFactory;

use super::{Cli, Exit};

/// Print the completion script for a shell.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The shell that will load the script.
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args) -> Exit {
    let mut command = Cli::command();
    clap_complete::generate(args.shell, &mut command, "micota", &mut std::io::stdout());
    Exit::Done
}
