//! `imgmount verify`: compares every size and digest that an image declares with its bytes.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::NEGATIVE;
use super::args::{SelectArgs, cache_directory, image_value};
use super::commands::{Command, Example};
use super::output::{json_line, stdout};
use super::progress::Bars;
use imgmount::{Engine, Progress, Store, Verdict, VerifyItem, VerifyMismatch, VerifyOptions, escape};

/// Verify every size, digest and diff_id of an image
///
/// Reads the whole image, whatever is in the cache, and continues after a mismatch. Prints one line for each
/// size, digest and diff_id: `ok`, `mismatch`, `missing` or `unchecked`, the layer or document, the expected
/// value, and on a mismatch the value found. A layer whose tar cannot be read is a mismatch too, even if its
/// digests are right. A layer is `unchecked` if the engine's store does not hold what is needed to compare
/// it, or if it has no digest, such as the writable layer of a container. The exit code is 0 if everything
/// with a digest is ok, 1 if not, and 2 if the image cannot be opened.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Image: [TRANSPORT:]PATH[:REF | @INDEX | @CONTAINER], docker://NAME, or - for standard input
    #[arg(value_name = "IMAGE", value_parser = image_value())]
    image_name: OsString,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    select: SelectArgs,
}

#[derive(Debug, Serialize)]
struct JsonItem<'a> {
    item: &'static str,
    layer: Option<usize>,
    check: &'static str,
    status: &'static str,
    expected: Option<&'a str>,
    found: Option<&'a str>,
    error: Option<&'a str>,
}

impl Command for VerifyArgs {
    const NAME: &'static str = "verify";
    const EXAMPLES: &'static [Example] = &[
        ("imgmount verify image.tar && echo sound", "Verify a download:"),
        (
            "imgmount verify --json image.tar | jq -c 'select(.status != \"ok\")'",
            "List what is missing or does not match:",
        ),
    ];
    const ASKS: bool = true;

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let (reference, platform) = args.select.parse(&args.image_name)?;
    let bars: Arc<dyn Progress> = Arc::new(Bars::default());
    // Without a store, even an archive that is compressed as a whole is read anew.
    let engine = Engine::new(args.select.engine_options().progress(bars.clone()));
    let source = engine.open(&reference)?;
    let mut out = stdout();
    let indexes = indexes();
    let options = VerifyOptions::default().indexes(indexes.as_ref()).progress(&*bars);
    let mut report = |item: &VerifyItem| -> Result<()> {
        if args.json {
            json_line(&mut out, &json_item(item))?;
        } else {
            print(item, &mut out)?;
        }
        // A layer takes a while, so results are shown at once.
        Ok(out.flush()?)
    };
    let sound = source.verify(&reference.selection, platform.as_ref(), &options, &mut report)?;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(NEGATIVE) })
}

/// Opens the store that other commands filled. Nothing is written to it, so a missing cache directory
/// is not created.
fn indexes() -> Option<Store> {
    let directory = cache_directory().ok().filter(|directory| directory.is_dir())?;
    Store::open(&directory).map_err(|error| log::info!("{error}")).ok()
}

fn print(item: &VerifyItem, out: &mut impl Write) -> Result<()> {
    let VerifyItem { subject, check, expected, verdict, .. } = item;
    let (status, check) = (verdict.name(), check.name());
    write!(out, "{status:<8}  {subject:<11}  {check:<9}")?;
    if !expected.is_empty() {
        write!(out, "  {}", escape(expected.as_bytes()))?;
    }
    match verdict {
        Verdict::Mismatch(VerifyMismatch::Other(found)) => {
            write!(out, "  found {}", escape(found.as_bytes()))?
        }
        Verdict::Mismatch(VerifyMismatch::Unreadable(why)) | Verdict::Unchecked(why) => {
            write!(out, "  {}", escape(why.as_bytes()))?
        }
        _ => {}
    }
    Ok(writeln!(out)?)
}

fn json_item(item: &VerifyItem) -> JsonItem<'_> {
    let (found, error) = match &item.verdict {
        Verdict::Ok => (Some(item.expected.as_str()), None),
        Verdict::Mismatch(VerifyMismatch::Other(found)) => (Some(found.as_str()), None),
        Verdict::Mismatch(VerifyMismatch::Unreadable(why)) | Verdict::Unchecked(why) => {
            (None, Some(why.as_str()))
        }
        _ => (None, None),
    };
    JsonItem {
        item: item.subject.name(),
        layer: item.subject.layer(),
        check: item.check.name(),
        status: item.verdict.name(),
        expected: Some(item.expected.as_str()).filter(|expected| !expected.is_empty()),
        found,
        error,
    }
}
