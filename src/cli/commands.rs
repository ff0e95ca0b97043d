//! The table of commands.
//!
//! This module owns what a command consists of. Parsing, the help text, the manual pages and the
//! completions all read the table, so a new command is one module and one row.

use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgMatches, Args, FromArgMatches, Subcommand};

/// The commands in the order of the help text.
static COMMANDS: &[Row] = &[
    #[cfg(feature = "fuse")]
    row::<super::mount::MountArgs>(),
    #[cfg(feature = "fuse")]
    row::<super::umount::UmountArgs>(),
    row::<super::ls::LsArgs>(),
    row::<super::cat::CatArgs>(),
    row::<super::cp::CpArgs>(),
    row::<super::extract::ExtractArgs>(),
    row::<super::export::ExportArgs>(),
    row::<super::inspect::InspectArgs>(),
    row::<super::history::HistoryArgs>(),
    row::<super::deleted::DeletedArgs>(),
    row::<super::diff::DiffArgs>(),
    row::<super::verify::VerifyArgs>(),
    row::<super::images::ImagesArgs>(),
    row::<super::cache::CacheArgs>(),
    row::<super::completions::CompletionsArgs>(),
    row::<super::complete::CompleteArgs>(),
    row::<super::man::ManArgs>(),
];

/// A command: its arguments, whose doc comment is its help text, and the function that runs it.
pub(super) trait Command: Args + 'static {
    /// The name of the command on the command line.
    const NAME: &'static str;
    /// Typical uses, for the manual pages. The page of a nested command shows the examples that contain its
    /// name.
    const EXAMPLES: &'static [Example];
    /// Whether exit status 1 is a negative answer: a difference or a mismatch.
    const ASKS: bool = false;
    /// Whether the help text leaves out the command.
    const HIDDEN: bool = false;

    /// Runs the command and returns its exit status.
    fn run(self) -> Result<ExitCode>;
}

/// A command line, and its purpose.
pub(super) type Example = (&'static str, &'static str);

/// A command without its type.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) examples: &'static [Example],
    pub(super) asks: bool,
    define: fn() -> clap::Command,
    run: fn(&ArgMatches) -> Result<Runnable, clap::Error>,
}

type Runnable = Box<dyn FnOnce() -> Result<ExitCode>>;

const fn row<C: Command>() -> Row {
    Row {
        name: C::NAME,
        examples: C::EXAMPLES,
        asks: C::ASKS,
        define: || C::augment_args(clap::Command::new(C::NAME)).hide(C::HIDDEN),
        run: |matches| {
            let arguments = C::from_arg_matches(matches)?;
            Ok(Box::new(|| arguments.run()))
        },
    }
}

impl Row {
    /// Returns the command with this name.
    pub(super) fn named(name: &str) -> Option<&'static Row> {
        COMMANDS.iter().find(|row| row.name == name)
    }
}

/// The command that was typed, with its arguments.
pub(super) struct Chosen(Runnable);

impl Chosen {
    /// Runs the command and returns its exit status.
    pub(super) fn run(self) -> Result<ExitCode> {
        (self.0)()
    }
}

impl FromArgMatches for Chosen {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (name, matches) = matches.subcommand().ok_or_else(missing)?;
        let row = Row::named(name).ok_or_else(missing)?;
        (row.run)(matches).map(Chosen)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Chosen::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Subcommand for Chosen {
    fn augment_subcommands(program: clap::Command) -> clap::Command {
        program.subcommands(COMMANDS.iter().map(|row| (row.define)()))
    }

    fn augment_subcommands_for_update(program: clap::Command) -> clap::Command {
        Chosen::augment_subcommands(program)
    }

    fn has_subcommand(name: &str) -> bool {
        Row::named(name).is_some()
    }
}
