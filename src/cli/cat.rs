//! `imgmount cat`: prints files of an image to standard output.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use super::args::{ImageArgs, LayerArgs, PathArgs, image_value};
use super::commands::{Command, Example};
use super::output::stdout;
use imgmount::{Image, escape_path};

/// Bytes that are read at a time: enough that a span is copied in few pieces.
const BLOCK_BYTES: usize = 1 << 20;

/// Print files from an image
///
/// Symbolic links are followed inside the image. With --path, every argument names an image, and the file at
/// that path is printed from each of them.
#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// Files to print; after the first, /path alone names a file of the same image
    #[arg(required = true, value_name = "IMAGE:/path", value_parser = image_value())]
    paths: Vec<OsString>,
    #[command(flatten)]
    path: PathArgs,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    image: ImageArgs,
}

impl Command for CatArgs {
    const NAME: &'static str = "cat";
    const EXAMPLES: &'static [Example] = &[
        ("imgmount cat image.tar:/etc/os-release", "Print a file:"),
        ("imgmount cat --layer 0 image.tar:/etc/motd", "Print the first layer's version of a file:"),
    ];

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &CatArgs) -> Result<ExitCode> {
    let mut current: Option<(OsString, Image)> = None;
    for text in &args.paths {
        let (name, path) = match (args.path.split(text), &current) {
            ((name, Some(path)), _) => (name, path),
            (_, Some((name, _))) if text.as_bytes().starts_with(b"/") => {
                (name.clone(), text.as_bytes().to_vec())
            }
            _ => {
                bail!("'{}' has no path inside the image; use IMAGE:/path or --path", escape_path(text))
            }
        };
        let image = match current.take().filter(|(open, _)| *open == name) {
            Some((_, image)) => image,
            None => args.image.load(&name, args.layers.range())?,
        };
        print_file(&image, &path)?;
        current = Some((name, image));
    }
    Ok(ExitCode::SUCCESS)
}

fn print_file(image: &Image, path: &[u8]) -> Result<()> {
    let file = image.open_file(path)?;
    let mut out = stdout();
    let mut block = vec![0; BLOCK_BYTES];
    let mut offset = 0;
    loop {
        let len = file.read_at(&mut block, offset)?;
        if len == 0 {
            break;
        }
        out.write_all(block.get(..len).unwrap_or_default())?;
        offset += len as u64;
    }
    out.flush()?;
    Ok(())
}
