//! The command line: arguments in, text out, one file for each command.
//!
//! This module owns exit codes and the format of error messages; [`failure`] chooses code, message and
//! hint. Only the files of this folder print.

mod args;
mod bus_error;
mod cache;
mod cat;
mod commands;
mod complete;
mod completions;
mod cp;
#[cfg(feature = "fuse")]
mod daemon;
mod deleted;
mod diff;
mod diff_html;
mod diff_html_tree;
mod diff_stat;
mod diff_text;
mod export;
mod extract;
mod failure;
mod file_output;
mod history;
mod images;
mod inspect;
mod interrupt;
mod known;
mod limits;
mod logging;
mod ls;
mod man;
mod memory;
#[cfg(feature = "fuse")]
mod mount;
mod net;
mod options;
mod output;
mod places;
mod progress;
mod resources;
#[cfg(feature = "fuse")]
mod umount;
mod verify;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{ArgAction, Parser};
use imgmount::Transport;

use self::commands::Chosen;

/// Exit code for a negative answer: a difference or a mismatch was found.
const NEGATIVE: u8 = 1;
/// Exit code for a failure or wrong usage.
const FAILURE: u8 = 2;

/// Mount container images as read-only directories, or read them without mounting
#[derive(Parser)]
#[command(name = "imgmount", version, disable_help_subcommand = true)]
#[command(
    override_usage = "imgmount IMAGE DIR [OPTIONS]\n       imgmount SOURCE\n       imgmount COMMAND ..."
)]
#[command(after_help = image_help())]
pub(crate) struct Cli {
    /// Increase verbosity; repeat (-vv) for debug output
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Print only errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    #[command(subcommand)]
    command: Chosen,
}

/// The help text about images in registries.
const IN_REGISTRIES: &str = " An image in a registry is docker://[HOST/]NAME[:TAG][@DIGEST], as in \
    docker://alpine:3.20; the default HOST is docker.io, and the default TAG is latest.";

/// Returns the help text about IMAGE, with the transports that can be opened.
fn image_help() -> String {
    let transports: Vec<_> =
        Transport::supported().map(|one| format!("{} ({})", one.name(), one.about())).collect();
    let stores: Vec<_> = Transport::supported().filter(|one| one.is_store()).map(Transport::name).collect();
    format!(
        "IMAGE is [TRANSPORT:]PATH[:REF | @INDEX | @CONTAINER]. PATH is a directory, an archive, or - for an \
         archive on standard input; an archive can be compressed with gzip, zstd, xz or bzip2. REF is a name, tag \
         or ID, INDEX a position from 0, CONTAINER the name or ID of a container. TRANSPORT is one of {}; the \
         default is to detect the format from the content; rootfs and docker-daemon are never detected. For {}, \
         PATH is optional: the default is the location where the engine on this host keeps its images, as in \
         docker-graph:nginx:1.27. docker-daemon takes no PATH, as in docker-daemon:nginx:1.27.{}",
        transports.join(", "),
        stores.join(", "),
        if Transport::supported().any(Transport::is_remote) { IN_REGISTRIES } else { "" },
    )
}

/// Runs the program: parses `arguments` (the first is the program's name), sets up logging and runs the
/// command. Returns the exit code: 0 success, 1 a negative answer, 2 failure or wrong usage.
pub(crate) fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match parse(arguments.into_iter().map(args::mark_standard_input).collect()) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    memory::map_large_blocks();
    bus_error::handle();
    logging::init(cli.verbose, cli.quiet);
    resources::raise_descriptors();
    resources::report_file_size_limit();
    let code = cli.command.run().unwrap_or_else(|error| failure::fail(&error));
    if imgmount::mapping_is_lost() {
        complain(bus_error::LOST);
        return ExitCode::from(FAILURE);
    }
    code
}

/// Parses the arguments. `imgmount IMAGE DIR` is short for `imgmount mount IMAGE DIR`, and `imgmount SOURCE` for
/// `imgmount images SOURCE`, unless the first word is similar to a command and is not an image.
fn parse(mut arguments: Vec<OsString>) -> Result<Cli, clap::Error> {
    use clap::CommandFactory as _;
    let is_option = |argument: &OsString| argument != "-" && argument.as_encoded_bytes().starts_with(b"-");
    let first = arguments.iter().skip(1).find(|argument| !is_option(argument));
    let command = Cli::command();
    let named = |name: &OsString| command.get_subcommands().any(|command| command.get_name() == name);
    if let Some(first) = first.filter(|first| !named(first) && cfg!(feature = "fuse")) {
        let mistyped = Cli::try_parse_from(&arguments).err().filter(|error| {
            let similar = error.get(clap::error::ContextKind::SuggestedSubcommand).is_some();
            // `image.tar` is similar to `images`, but no command has a dot, a colon or a slash.
            let is_word =
                first.as_encoded_bytes().iter().all(|byte| byte.is_ascii_alphabetic() || *byte == b'-');
            similar && is_word && !std::path::Path::new(first).exists()
        });
        if let Some(error) = mistyped {
            return Err(error);
        }
        // A lone word is a place whose images the user wants to see: without DIR nothing can be mounted.
        let is_alone = arguments.iter().skip(1).filter(|argument| !is_option(argument)).count() == 1;
        arguments.insert(1, OsString::from(if is_alone { "images" } else { "mount" }));
    }
    Cli::try_parse_from(arguments)
}

/// Prints help and version to standard output, with success. Wrong usage is reported like every other
/// error.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // If this cannot be written, no error message can be written either.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    match text.strip_prefix("error: ") {
        Some(text) => complain(text.trim_end()),
        // Without arguments, the help text is printed.
        None => print_line(text.trim_end()),
    }
    ExitCode::from(FAILURE)
}

fn complain(text: &str) {
    print_line(&format!("{}{text}", logging::prefix()));
}

/// Prints a line to standard error. A failure is ignored: standard error may be closed.
fn print_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(text));
}

/// Escapes what could control a terminal. Messages escape the names that they contain; this covers texts of the
/// system and of other packages.
fn printable(text: &str) -> String {
    text.split('\n').map(|line| output::visible(line.as_bytes())).collect::<Vec<_>>().join("\n")
}
