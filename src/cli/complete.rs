//! `imgmount complete WORD`: prints the references that a shell offers for a word that is not complete.
//!
//! This module owns which names are offered. It prints nothing else, and no error: a shell is waiting.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::args::{SelectArgs, open_store};
use super::commands::{Command, Example};
use super::output::stdout;
use imgmount::{Engine, ImageKind, ImageSummary, Location, Reference, Selection, Transport};

/// Print the references to images that begin with a word
#[derive(Debug, Args)]
pub(crate) struct CompleteArgs {
    /// Beginning of a reference, as typed in a shell
    word: OsString,
    #[command(flatten)]
    select: SelectArgs,
}

impl Command for CompleteArgs {
    const NAME: &'static str = "complete";
    const EXAMPLES: &'static [Example] = &[];
    const HIDDEN: bool = true;

    fn run(self) -> Result<ExitCode> {
        log::set_max_level(log::LevelFilter::Off);
        let mut out = stdout();
        for candidate in candidates(&self) {
            out.write_all(candidate.as_bytes())?;
            out.write_all(b"\n")?;
        }
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The number of digits of an ID that is offered, as engines shorten it.
const SHORT_ID_DIGITS: usize = 12;

/// Returns the references that begin with the word; none if the word leads to no place.
fn candidates(args: &CompleteArgs) -> Vec<OsString> {
    let Some((reference, place)) = split(&args.word) else { return Vec::new() };
    // A shell must not wait for a network, and a registry not count what is only typed.
    if reference.transport.is_some_and(Transport::is_remote) {
        return Vec::new();
    }
    // An archive that is compressed as a whole is indexed, as the command that follows would do.
    let engine = Engine::new(args.select.engine_options().store(open_store()));
    let images = engine.open(&reference).and_then(|source| source.images()).unwrap_or_default();
    let typed = args.word.as_bytes();
    let offered = images.iter().flat_map(selectors).filter(|selector| is_plain(selector));
    let mut candidates: Vec<OsString> = offered
        .map(|selector| OsString::from_vec([place, selector.as_bytes()].concat()))
        .filter(|candidate| candidate.as_bytes().starts_with(typed))
        .collect();
    candidates.sort();
    candidates.dedup();
    candidates
}

/// Splits a word into the reference to a place and the text that a selector follows: `a.tar:` of `a.tar:1`,
/// `docker-graph:` of `docker-graph:@we`.
fn split(word: &OsStr) -> Option<(Reference, &[u8])> {
    // A selector cannot be empty, so one letter is added.
    let mut probe = word.to_owned();
    probe.push("x");
    let reference = Reference::parse(&probe, None).ok().filter(|found| found.location != Location::Stdin)?;
    let begun = match &reference.selection {
        Selection::Name(name) => name.len(),
        Selection::Container(name) => name.len() + "@".len(),
        _ => return None,
    };
    let place = word.as_bytes().get(..word.len().checked_sub(begun - "x".len())?)?;
    Some((reference, place))
}

/// Returns the texts that select an image: its names, or its short ID if it has none.
fn selectors(image: &ImageSummary) -> Vec<String> {
    let id = image.id.as_ref().map(|id| id.rsplit(':').next().unwrap_or(id));
    let id = id.and_then(|id| id.get(..SHORT_ID_DIGITS)).map(str::to_owned);
    let names = if image.names.is_empty() { id.into_iter().collect() } else { image.names.clone() };
    match image.kind {
        ImageKind::Container => names.iter().map(|name| format!("@{name}")).collect(),
        _ => names,
    }
}

/// Returns true for text that a shell reads as it is. Other names are not offered: bash puts them into the
/// command line unquoted, and an image can be named `$(reboot)`.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._/:@+-".contains(&byte))
}
