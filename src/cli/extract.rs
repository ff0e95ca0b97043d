//! `imgmount extract`: extracts a whole rootfs to a directory.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::args::{ImageArgs, LayerArgs, image_value};
use super::commands::{Command, Example};
use super::interrupt::Interrupt;
use super::progress::Bars;
use imgmount::{Engine, Existing, ExtractOptions, ExtractReport, HostDirectory, NotKept, Progress, ROOT};

/// Size of the span cache, in bytes. Files are read in the order in which they are stored, so no span
/// is needed again later, and a larger cache would not help.
const CACHE_BYTES: u64 = 64 << 20;

/// Unpack an image into a directory
///
/// Keeps modes, times, hard links and holes; as root or with -a, also owners, extended attributes and
/// devices. What could not be kept is reported at the end. Setuid and setgid bits are set only on files that
/// keep their owner.
///
/// If a file cannot be created, an error is printed and the extraction continues with the next file, unless
/// nothing more can be written. The exit code is then 2. Each file appears complete or not at all.
#[derive(Debug, Args)]
pub(crate) struct ExtractArgs {
    /// Image: [TRANSPORT:]PATH[:REF | @INDEX | @CONTAINER], docker://NAME, or - for standard input
    #[arg(value_name = "IMAGE", value_parser = image_value())]
    image_name: OsString,
    /// Destination directory; created if missing, must be empty without --force
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Keep owners, extended attributes and devices; fail if one cannot be kept
    #[arg(short, long)]
    archive: bool,
    /// Extract into a directory that is not empty, and replace existing files
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    image: ImageArgs,
}

impl Command for ExtractArgs {
    const NAME: &'static str = "extract";
    const EXAMPLES: &'static [Example] = &[("imgmount extract image.tar rootfs", "Unpack an image:")];

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &ExtractArgs) -> Result<ExitCode> {
    // An existing directory is held open, so that nobody can redirect its path while the image is read.
    let held = HostDirectory::open(&args.dir).ok();
    let options = ImageArgs { cache_size: args.image.cache_size.min(CACHE_BYTES), ..args.image.clone() };
    let engine = options.engine();
    let image = options.load_with(&engine, &args.image_name, args.layers.range())?;
    let all = args.archive || is_root();
    let dir = held.map_or_else(|| HostDirectory::create(&args.dir), Ok)?;
    let existing = if args.force { Existing::Replace } else { Existing::Refuse };
    extracting(
        &engine,
        ExtractOptions::default().existing(existing).owners(all).xattrs(all).devices(all),
        |options| image.extract_from(ROOT, &dir, options),
        |report| conclude(&report, args.archive),
    )
}

/// Runs an extraction that signals can stop, with a progress bar.
pub(super) fn extracting(
    engine: &Engine,
    options: ExtractOptions<'static>,
    work: impl FnOnce(&ExtractOptions<'_>) -> imgmount::Result<ExtractReport>,
    conclude: impl FnOnce(ExtractReport) -> ExitCode,
) -> Result<ExitCode> {
    let (interrupt, bars) = (Interrupt::watch(engine)?, Bars::default());
    let report = work(&options.stop(interrupt.flag()).progress(&bars as &dyn Progress));
    interrupt.end_if_any();
    Ok(conclude(report?))
}

/// Prints the failures and the attributes that were not kept. With `all_asked`, attributes that were
/// not kept are a failure, too.
pub(super) fn conclude(report: &ExtractReport, all_asked: bool) -> ExitCode {
    for failure in &report.failures {
        super::complain(&failure.to_string());
    }
    let unreported = report.failed - report.failures.len() as u64;
    if unreported > 0 {
        super::complain(&format!("{unreported} more files could not be created"));
    }
    report_not_kept(&report.not_kept);
    let failed = report.failed > 0 || (all_asked && !report.not_kept.is_empty());
    if failed { ExitCode::from(super::FAILURE) } else { ExitCode::SUCCESS }
}

fn report_not_kept(not_kept: &NotKept) {
    if !not_kept.is_empty() {
        log::warn!("not kept: {not_kept}");
    }
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
