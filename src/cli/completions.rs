//! `imgmount completions SHELL`: prints completion scripts.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::commands::{Command, Example};
use super::{Cli, output::stdout};

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Shell to print the script for
    shell: Shell,
}

impl Command for CompletionsArgs {
    const NAME: &'static str = "completions";
    const EXAMPLES: &'static [Example] = &[(
        "imgmount completions bash > ~/.local/share/bash-completion/completions/imgmount",
        "Install completions for bash:",
    )];

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "imgmount", &mut script);
    let mut out = stdout();
    out.write_all(&script)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
