//! `imgmount completions SHELL`: prints completion scripts.
//!
//! clap writes the scripts for commands and options. The scripts for bash, zsh and fish also call
//! `imgmount complete`, which offers names of images. clap's own way to do this is marked unstable.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::commands::{Command, Example};
use super::{Cli, output::stdout};

const BASH_NAMES: &str = include_str!("completions/names.bash");
const ZSH_NAMES: &str = include_str!("completions/names.zsh");
const FISH_NAMES: &str = include_str!("completions/names.fish");

/// The end of clap's script for zsh, which calls or registers the function above it.
const ZSH_END: &str = "if [ \"$funcstack[1]\" = \"_imgmount\" ]; then";

/// Print a completion script for a shell
///
/// In bash, zsh and fish, names of images are completed, too, after a colon: in archives, layouts and the
/// stores of engines, as in docker-graph:ngi. Names of containers are completed after @.
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
    let mut out = stdout();
    out.write_all(script(args.shell).as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible_commands(), "imgmount", &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => script.push_str(BASH_NAMES),
        Shell::Fish => script.push_str(FISH_NAMES),
        Shell::Zsh => {
            if let Some(end) = script.rfind(ZSH_END) {
                script.insert_str(end, ZSH_NAMES);
            }
        }
        _ => {}
    }
    script
}

/// Returns the command line without hidden commands, which clap would offer.
fn visible_commands() -> clap::Command {
    let all = Cli::command();
    let visible = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    clap::Command::new("imgmount")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .args(all.get_arguments().cloned())
        .subcommands(visible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_by_each_script_and_hidden_commands_are_not_offered() {
        for (shell, names) in [(Shell::Bash, BASH_NAMES), (Shell::Zsh, ZSH_NAMES), (Shell::Fish, FISH_NAMES)]
        {
            let script = script(shell);
            assert!(script.contains(names), "{shell}");
            let offered = script.replace(names, "");
            assert!(offered.contains("inspect") && !offered.contains("manual pages"), "{shell}");
        }
        // In zsh, the function must be replaced before it is called.
        assert!(script(Shell::Zsh).trim_end().ends_with("compdef _imgmount imgmount\nfi"));
    }
}
