//! `imgmount export`: writes a flattened tar of an image.

use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use clap::Args;

use super::args::{ImageArgs, LayerArgs, image_value};
use super::commands::{Command, Example};
use super::file_output::{FileOutput, cannot_write};
use super::interrupt::Interrupt;
use imgmount::{Engine, Error, ExportOptions, Image, InodeId, ROOT};

/// Write an image's file system as one tar
///
/// The same image always gives the same bytes. The tar can be read with `podman import`, `docker import` and
/// `tar`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Image: [TRANSPORT:]PATH[:REF | @INDEX | @CONTAINER], docker://NAME, or - for standard input
    #[arg(value_name = "IMAGE", value_parser = image_value())]
    image_name: OsString,
    /// Write to FILE, which appears when it is complete; - is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-", allow_hyphen_values = true)]
    output: PathBuf,
    /// Store sparse files without their holes (podman can import such a tar, but cannot save it again)
    #[arg(short = 'S', long)]
    sparse: bool,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    image: ImageArgs,
}

impl Command for ExportArgs {
    const NAME: &'static str = "export";
    const EXAMPLES: &'static [Example] = &[(
        "imgmount export image.tar | podman import -",
        "Import the file system as an image with one layer:",
    )];

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &ExportArgs) -> Result<ExitCode> {
    let to_stdout = args.output == Path::new("-");
    if to_stdout {
        refuse_terminal()?;
    }
    let engine = args.image.engine();
    let image = args.image.load_with(&engine, &args.image_name, args.layers.range())?;
    let options = ExportOptions::default().sparse(args.sparse);
    if to_stdout {
        export_to_stdout(&image, ROOT, &options)?;
    } else {
        export_to_file(&engine, &image, &options, &args.output)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses to write to a terminal, which cannot show a tar and may execute control sequences in it.
pub(super) fn refuse_terminal() -> Result<()> {
    if io::stdout().is_terminal() {
        bail!("cannot write a tar to a terminal; redirect it to a file or a pipe");
    }
    Ok(())
}

pub(super) fn export_to_stdout(image: &Image, inode: InodeId, options: &ExportOptions<'_>) -> Result<()> {
    image.export_from(inode, &mut io::stdout().lock(), options).map_err(|error| match error {
        // The caller looks for this error in order to exit silently.
        Error::Io { cause, .. } if cause.kind() == io::ErrorKind::BrokenPipe => cause.into(),
        error => error.into(),
    })
}

fn export_to_file(engine: &Engine, image: &Image, options: &ExportOptions<'_>, path: &Path) -> Result<()> {
    let output = FileOutput::open(path)?;
    let interrupt = Interrupt::watch(engine)?;
    let mut out = Stoppable { out: BufWriter::new(output.file()), stop: interrupt.flag() };
    let exported = image.export(&mut out, options);
    drop(out);
    if interrupt.flag().load(Ordering::Relaxed) {
        // A process that a signal ends drops nothing, so the temporary file is removed here.
        output.discard();
        interrupt.end_if_any();
        bail!("{}: interrupted", cannot_write(path));
    }
    exported?;
    output.finish()
}

/// A writer that fails after a signal was received.
struct Stoppable<'a, W> {
    out: W,
    stop: &'a AtomicBool,
}

impl<W: Write> Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            // Not the kind `Interrupted`, which asks the caller to retry.
            return Err(io::Error::other("interrupted by a signal"));
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
