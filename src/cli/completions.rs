//! `micota completions`: completion scripts and manual pages, made from the parser itself.

use std::io::Write;
use std::path::PathBuf;

use clap::CommandFactory;

use super::Cli;
use super::exit::Exit;
use crate::durable::write_atomic;

/// Print the completion script for a shell, or write the manual pages.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The shell that will load the script
    #[arg(required_unless_present = "man")]
    shell: Option<clap_complete::Shell>,
    /// Write a manual page for each command into this folder instead
    #[arg(long, value_name = "FOLDER", conflicts_with = "shell")]
    man: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let mut command = Cli::command();
    if let Some(shell) = args.shell {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, "micota", &mut script);
        std::io::stdout().write_all(&script)?;
    }
    if let Some(folder) = &args.man {
        std::fs::create_dir_all(folder)?;
        command.build();
        let commands = command.get_subcommands().cloned();
        for command in commands.chain([command.clone()]) {
            let name = command.get_display_name().unwrap_or("micota").to_owned();
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            write_atomic(&folder.join(format!("{name}.1")), &page)?;
        }
    }
    Ok(Exit::Done)
}
