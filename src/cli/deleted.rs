//! `imgmount deleted`: lists files that later layers removed, and that the image still contains.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::args::{ImageArgs, image_value};
use super::commands::{Command, Example};
use super::output::{JsonEntry, JsonLayer, json_line, json_name_of, stdout};
use imgmount::{DeletedFile, DeletedFiles, DeletedOptions, Image, LayerId, LayerRange, Removal, escape};

/// List deleted files that are still in the image
///
/// Prints the size of each file, the layer that removed it and the layer that has it. To read a file, use
/// `imgmount cat --layer N IMAGE:/path`, where N is the layer that has it; if that layer only has a hard link
/// to a file of a lower layer, use `--upto N`. For a deleted directory, the files in it are listed.
#[derive(Debug, Args)]
pub(crate) struct DeletedArgs {
    /// Image: [TRANSPORT:]PATH[:REF | @INDEX | @CONTAINER], docker://NAME, or - for standard input
    #[arg(value_name = "IMAGE", value_parser = image_value())]
    image_name: OsString,
    /// Also list earlier versions of files that later layers replaced
    #[arg(long)]
    overwritten: bool,
    /// Print one JSON object per line, sorted by path
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    image: ImageArgs,
}

#[derive(Debug, Serialize)]
struct JsonFile<'a> {
    #[serde(flatten)]
    entry: JsonEntry,
    how: &'static str,
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by_b64: Option<String>,
    had_by: JsonLayer<'a>,
    removed_by: JsonLayer<'a>,
}

impl Command for DeletedArgs {
    const NAME: &'static str = "deleted";
    const EXAMPLES: &'static [Example] = &[("imgmount deleted image.tar", "List deleted files:")];

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &DeletedArgs) -> Result<ExitCode> {
    let image = args.image.load(&args.image_name, LayerRange::All)?;
    let files = image.deleted(&DeletedOptions::default().overwritten(args.overwritten))?;
    let mut out = stdout();
    if args.json {
        for file in files.iter() {
            json_line(&mut out, &json(&image, &file))?;
        }
    } else {
        print(&image, files, &mut out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn json<'a>(image: &'a Image, file: &DeletedFile<'_>) -> JsonFile<'a> {
    let (by, by_b64) = json_name_of(file.removal.by());
    JsonFile {
        entry: JsonEntry::of_inode(image, &file.path, &file.inode),
        how: file.removal.name(),
        by,
        by_b64,
        had_by: JsonLayer::new(image, file.layer),
        removed_by: JsonLayer::new(image, file.removed_by),
    }
}

/// Prints a paragraph for each pair of removing and containing layer: commands of layers are long, and
/// the same for many files.
fn print(image: &Image, files: DeletedFiles<'_>, out: &mut impl Write) -> io::Result<()> {
    let files = files.by_layer();
    let width = files.iter().map(|file| file.inode.size().to_string().len()).max().unwrap_or(0);
    let mut paragraph = None;
    for file in files.iter() {
        let layers = (file.removed_by, file.layer);
        if paragraph != Some(layers) {
            if paragraph.replace(layers).is_some() {
                writeln!(out)?;
            }
            writeln!(out, "removed by layer {}", named(image, file.removed_by))?;
            writeln!(out, "     from layer {}", named(image, file.layer))?;
        }
        let remark = if file.removal == Removal::Overwritten { "  (overwritten)" } else { "" };
        writeln!(out, "  {:>width$}  {}{remark}", file.inode.size(), escape(&file.path))?;
    }
    Ok(())
}

fn named(image: &Image, id: LayerId) -> String {
    let command = image.layer(id).and_then(|layer| layer.created_by.as_deref()).unwrap_or("unknown");
    format!("{}: {}", id.0, escape(command.as_bytes()))
}
