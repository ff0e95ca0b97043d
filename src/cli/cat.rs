//! `imgmount cat`: files of an image to standard output.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use super::args::{ImageArgs, LayerArgs, PathArgs, image_value};
use super::commands::{Command, Example};
use super::output::stdout;
use imgmount::error::{Error, PathFault};
use imgmount::load::Tree;
use imgmount::path::escape;
use imgmount::rootfs::{Follow, InodeKind};

/// Read at a time: large enough that a span is copied in few pieces.
const BLOCK_BYTES: usize = 1 << 20;

/// Print files of an image
///
/// Symbolic links are followed inside the image. With --path, each argument is an image, and the file at that path
/// is printed from each.
#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// Files as IMAGE:/path; after the first, /path alone is one of the same image
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
        ("imgmount cat --layer 0 image.tar:/etc/motd", "Print it as the first layer has it:"),
    ];

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &CatArgs) -> Result<ExitCode> {
    let mut current: Option<(OsString, Tree)> = None;
    for text in &args.paths {
        let (image, path) = match (args.path.split(text), &current) {
            ((image, Some(path)), _) => (image, path),
            (_, Some((image, _))) if text.as_bytes().starts_with(b"/") => {
                (image.clone(), text.as_bytes().to_vec())
            }
            _ => {
                bail!("'{}': no path in the image: write IMAGE:/path or give --path", text.to_string_lossy())
            }
        };
        let tree = match current.take().filter(|(open, _)| *open == image) {
            Some((_, tree)) => tree,
            None => args.image.load(&image, args.layers.range())?,
        };
        print_file(&tree, &path)?;
        current = Some((image, tree));
    }
    Ok(ExitCode::SUCCESS)
}

fn print_file(tree: &Tree, path: &[u8]) -> Result<()> {
    let id = tree.rootfs().resolve(path, Follow::Last)?;
    let fault = match tree.rootfs().inode(id).map(|inode| inode.kind) {
        Some(InodeKind::File(_)) => None,
        Some(InodeKind::Directory) => Some(PathFault::IsADirectory),
        _ => Some(PathFault::NotAFile),
    };
    if let Some(reason) = fault {
        return Err(Error::Path { path: escape(path), reason }.into());
    }
    let mut out = stdout();
    let mut block = vec![0; BLOCK_BYTES];
    let mut offset = 0;
    loop {
        let len = tree.read_at(id, &mut block, offset)?;
        if len == 0 {
            break;
        }
        out.write_all(block.get(..len).unwrap_or_default())?;
        offset += len as u64;
    }
    out.flush()?;
    Ok(())
}
