//! `imgmount deleted`: what later layers took out of sight, and is still in the image.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::args::{ImageArgs, Opened, image_value, report_warnings};
use super::commands::{Command, Example};
use super::output::{JsonEntry, JsonLayer, json_line, json_name_of, stdout};
use imgmount::analysis::Thing;
use imgmount::analysis::deleted::{Extent, How, Lost, find};
use imgmount::layer::LayerId;
use imgmount::load::{LayerRange, Tree};
use imgmount::path::escape;

/// List files that later layers deleted: they are still in the image
///
/// Each with its size, the layer that had it and the layer that removed it. `imgmount cat --layer N
/// IMAGE:/path`, with the layer that had it, reads one; where a layer only linked to a file of a lower
/// layer, `--upto N` does. Directories are not listed, their files are.
#[derive(Debug, Args)]
pub(crate) struct DeletedArgs {
    /// The image
    #[arg(value_name = "IMAGE", value_parser = image_value())]
    image_name: OsString,
    /// Also list earlier versions of what later layers replaced
    #[arg(long)]
    overwritten: bool,
    /// One JSON object a line, sorted by path
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    image: ImageArgs,
}

#[derive(Debug, Serialize)]
struct JsonLost<'a> {
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
    const EXAMPLES: &'static [Example] = &[("imgmount deleted image.tar", "List what later layers deleted:")];

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &DeletedArgs) -> Result<ExitCode> {
    let Opened { engine, image, .. } = args.image.open(&args.image_name)?;
    let options = args.image.tree_options(LayerRange::All);
    let tree = engine.load(image, &options)?;
    report_warnings(&tree);
    let extent = if args.overwritten { Extent::Overwritten } else { Extent::Deleted };
    let lost = find(tree.rootfs().layers(), &options.merge, extent)?;
    let mut out = stdout();
    if args.json {
        for one in &lost {
            json_line(&mut out, &json(&tree, one))?;
        }
    } else {
        print(&tree, lost, &mut out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn json<'a>(tree: &'a Tree, lost: &Lost) -> JsonLost<'a> {
    let (how, by) = match &lost.how {
        How::Deleted(of) => ("deleted", Some(&**of)),
        How::HiddenByOpaque(directory) => ("hidden-opaque", Some(&**directory)),
        How::HiddenByReplaced(directory) => ("hidden-replaced", Some(&**directory)),
        How::Overwritten => ("overwritten", None),
    };
    let (by, by_b64) = json_name_of(by);
    let thing = Thing::new(lost.inode, tree.rootfs().layers());
    JsonLost {
        entry: JsonEntry::of_state(tree, &lost.path, &thing),
        how,
        by,
        by_b64,
        had_by: JsonLayer::new(tree, lost.layer),
        removed_by: JsonLayer::new(tree, lost.by),
    }
}

/// A paragraph for each layer that removed something from another: their commands are long, and the same
/// for many files.
fn print(tree: &Tree, mut lost: Vec<Lost>, out: &mut impl Write) -> io::Result<()> {
    // Stable: within a paragraph paths stay sorted.
    lost.sort_by_key(|lost| (lost.by, lost.layer));
    let size = |lost: &Lost| Thing::new(lost.inode, tree.rootfs().layers()).size();
    let width = lost.iter().map(|lost| size(lost).to_string().len()).max().unwrap_or(0);
    for (number, paragraph) in lost.chunk_by(|a, b| (a.by, a.layer) == (b.by, b.layer)).enumerate() {
        let Some(first) = paragraph.first() else { continue };
        if number > 0 {
            writeln!(out)?;
        }
        writeln!(out, "removed by layer {}", named(tree, first.by))?;
        writeln!(out, "     from layer {}", named(tree, first.layer))?;
        for lost in paragraph {
            let note = match &lost.how {
                How::Overwritten => "  (overwritten)",
                _ => "",
            };
            writeln!(out, "  {:>width$}  {}{note}", size(lost), escape(&lost.path))?;
        }
    }
    Ok(())
}

fn named(tree: &Tree, id: LayerId) -> String {
    let command = tree.layer(id).and_then(|layer| layer.created_by.as_deref()).unwrap_or("unknown");
    format!("{}: {}", tree.layer_number(id), escape(command.as_bytes()))
}
