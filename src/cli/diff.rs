//! `imgmount diff`: compares two images, or two states of one image.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::args::{ImageArgs, LayerArgs, image_value, report_warnings};
use super::commands::{Command, Example};
use super::diff_stat::{Stat, table};
use super::diff_text::{self, SearchTime, TextFile, text_diff};
use super::output::{JsonEntry, json_line, json_name, stdout};
use super::{NEGATIVE, diff_html};
use imgmount::{
    DiffOptions, Difference, DifferenceKind, Field, FileType, Glob, Image, Inode, InodeId, LayerDescriptor,
    LayerOrigin, LayerRange, SelectedImage, diff, escape,
};

/// Compare two images, or two states of one image
///
/// Prints one line per path, sorted by bytes: `A /path` is only in B, `D /path` is only in A, and `M /path
/// FIELDS` is in both and differs. FIELDS are content, links (the names that share its inode), mode, owner,
/// rdev, target, type, xattr, and with --mtime also mtime. A directory that is added or deleted is listed
/// with everything in it. The exit code is 0 if nothing differs, 1 if something differs, and 2 on failure.
///
/// Without B, compares two states of A, as in `imgmount diff --a-upto 1 --b-upto 2 IMAGE`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// First image
    #[arg(value_name = "A", value_parser = image_value())]
    a: OsString,
    /// Second image; the default is A
    #[arg(value_name = "B", value_parser = image_value())]
    b: Option<OsString>,
    /// Print only the number of paths and bytes, by kind of change and by directory
    #[arg(long, conflicts_with = "unified")]
    stat: bool,
    /// Also show changes in text files, as `diff -u` does
    #[arg(short = 'u', long, conflicts_with = "json")]
    unified: bool,
    /// Ignore paths that match GLOB, and everything below them; repeatable
    ///
    /// Patterns are matched from the root, as in a shell; `**` matches any number of directories, and a
    /// pattern without a slash matches at every depth.
    #[arg(long, value_name = "GLOB")]
    ignore: Vec<OsString>,
    /// List only these kinds of change, as in `--only a,d`
    #[arg(long, value_name = "KINDS", value_delimiter = ',', ignore_case = true)]
    only: Vec<Kind>,
    /// Also compare modification times
    #[arg(long)]
    mtime: bool,
    /// Print one JSON object per line; with --stat, a single object
    #[arg(long)]
    json: bool,
    /// Write an HTML page to FILE instead; - is standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "stat", "unified"])]
    html: Option<PathBuf>,
    /// Of both images
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    sides: SideArgs,
    #[command(flatten)]
    image: ImageArgs,
}

/// Layers of one side only; they come before --layer and --upto.
#[derive(Debug, Clone, Copy, Args)]
struct SideArgs {
    /// For A, use only layer N
    #[arg(long, value_name = "N", conflicts_with = "a_upto")]
    a_layer: Option<u16>,
    /// For A, use only layers 0 to N
    #[arg(long, value_name = "N")]
    a_upto: Option<u16>,
    /// For B, use only layer N
    #[arg(long, value_name = "N", conflicts_with = "b_upto")]
    b_layer: Option<u16>,
    /// For B, use only layers 0 to N
    #[arg(long, value_name = "N")]
    b_upto: Option<u16>,
}

impl DiffArgs {
    /// Returns the ranges of layers of both sides.
    fn ranges(&self) -> (LayerRange, LayerRange) {
        let SideArgs { a_layer, a_upto, b_layer, b_upto } = self.sides;
        let range = |layer, upto| match (layer, upto) {
            (None, None) => self.layers.range(),
            (layer, upto) => LayerArgs { layer, upto }.range(),
        };
        (range(a_layer, a_upto), range(b_layer, b_upto))
    }
}

/// A kind of change, by its letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Added
    A,
    /// Deleted
    D,
    /// Modified
    M,
}

/// One of the two images, loaded.
pub(crate) struct Side {
    /// The image as the user wrote it.
    pub(crate) text: OsString,
    pub(crate) range: LayerRange,
    pub(crate) image: Image,
}

/// Both images.
pub(crate) struct Pair<'a> {
    pub(crate) a: &'a Side,
    pub(crate) b: &'a Side,
}

/// The inodes at a path, on the sides that have it.
pub(crate) type Inodes<'a> = (Option<Inode<'a>>, Option<Inode<'a>>);

impl<'a> Pair<'a> {
    pub(crate) fn inodes(&self, difference: &Difference) -> Inodes<'a> {
        let (a, b) = difference.kind.inodes();
        let inode = |side: &'a Side, id: Option<InodeId>| side.image.inode(id?);
        (inode(self.a, a), inode(self.b, b))
    }

    /// Returns the size of the regular file on each side, in bytes; 0 for all other inodes.
    pub(crate) fn sizes(&self, difference: &Difference) -> (u64, u64) {
        let size = |inode: Option<Inode<'_>>| {
            inode.filter(|inode| inode.file_type() == FileType::File).map_or(0, |inode| inode.size())
        };
        let (a, b) = self.inodes(difference);
        (size(a), size(b))
    }

    /// Returns both files if they are regular files with different bytes.
    pub(crate) fn changed_files(&self, difference: &Difference) -> Option<(TextFile<'a>, TextFile<'a>)> {
        let DifferenceKind::Modified { a, b, fields } = &difference.kind else { return None };
        fields.contains(&Field::Content).then_some(((&self.a.image, *a), (&self.b.image, *b)))
    }
}

impl Command for DiffArgs {
    const NAME: &'static str = "diff";
    const EXAMPLES: &'static [Example] = &[
        ("imgmount diff old.tar new.tar", "List changes:"),
        ("imgmount diff --ignore '*.pyc' -u old.tar new.tar", "Print unified diffs, ignoring some files:"),
    ];
    const ASKS: bool = true;

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &DiffArgs) -> Result<ExitCode> {
    let (a_range, b_range) = args.ranges();
    if args.b.is_none() && a_range == b_range {
        bail!("no second image: add one, or compare two states with --a-upto and --b-upto");
    }
    let engine = args.image.engine();
    let selected_a = args.image.select_with(&engine, &args.a)?;
    let b_text = args.b.as_ref().unwrap_or(&args.a);
    // An image that is named twice is opened once: standard input can be read only once.
    let selected_b =
        if *b_text == args.a { selected_a.clone() } else { args.image.select_with(&engine, b_text)? };
    // A layer option chooses exactly what is compared.
    let (a_range, b_range) = match (a_range, b_range) {
        (LayerRange::All, LayerRange::All) => {
            match (with_engine_files(&selected_a, &selected_b), with_engine_files(&selected_b, &selected_a)) {
                // A container is compared with its image as the engine prepared it.
                (Some(base), _) => return compare(args, (&selected_b, base), (&selected_b, b_range), b_text),
                (_, Some(base)) => return compare(args, (&selected_a, a_range), (&selected_a, base), b_text),
                (None, None) => (a_range, b_range),
            }
        }
        ranges => ranges,
    };
    compare(args, (&selected_a, a_range), (&selected_b, b_range), b_text)
}

/// Returns the layers of `container` below its writable layer, if `image` is the image of the container. The
/// engine's own files are among these layers, so they do not count as changes that the container made
/// (C40 in docs/cli.md).
fn with_engine_files(image: &SelectedImage, container: &SelectedImage) -> Option<LayerRange> {
    let (image, container) = (image.info(), container.info());
    if image.container.is_some() || container.container.is_none() {
        return None;
    }
    let of_image = |layer: &&LayerDescriptor| layer.origin == LayerOrigin::Image;
    let own = image.layers.iter().map(|layer| layer.diff_id);
    let below = container.layers.iter().filter(of_image).map(|layer| layer.diff_id);
    let writable = container.layers.iter().position(|layer| layer.origin == LayerOrigin::Container)?;
    let last = u16::try_from(writable.checked_sub(1)?).ok()?;
    own.eq(below).then_some(LayerRange::Upto(last))
}

/// Compares two images, or two states of them, and prints the result.
fn compare(
    args: &DiffArgs,
    (selected_a, a_range): (&SelectedImage, LayerRange),
    (selected_b, b_range): (&SelectedImage, LayerRange),
    b_text: &OsStr,
) -> Result<ExitCode> {
    let a = side(args, &args.a, selected_a, a_range)?;
    let b = side(args, b_text, selected_b, b_range)?;
    let differences = diff(&a.image, &b.image, &options(args))?;
    let pair = Pair { a: &a, b: &b };
    match &args.html {
        Some(file) => diff_html::write(file, &pair, &differences)?,
        None => {
            let mut out = stdout();
            print(args, &pair, &differences, &mut out)?;
            out.flush()?;
        }
    }
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(NEGATIVE) })
}

fn side(args: &DiffArgs, text: &OsStr, selected: &SelectedImage, range: LayerRange) -> Result<Side> {
    let image = selected.load(&args.image.load_options(range))?;
    report_warnings(&image);
    Ok(Side { text: text.to_owned(), range, image })
}

fn options(args: &DiffArgs) -> DiffOptions {
    let asked = |kind| args.only.is_empty() || args.only.contains(&kind);
    let options = DiffOptions::default()
        .mtime(args.mtime)
        .added(asked(Kind::A))
        .deleted(asked(Kind::D))
        .modified(asked(Kind::M));
    args.ignore.iter().fold(options, |options, glob| options.ignore(Glob::new(glob.as_bytes())))
}

fn print(args: &DiffArgs, pair: &Pair<'_>, differences: &[Difference], out: &mut impl Write) -> Result<()> {
    if args.stat {
        let stat = Stat::of(pair, differences);
        if args.json {
            json_line(out, &stat)?;
        } else if !differences.is_empty() {
            table(&stat).iter().try_for_each(|line| writeln!(out, "{line}"))?;
        }
        return Ok(());
    }
    let to_terminal = io::stdout().is_terminal();
    let mut time = SearchTime::default();
    for difference in differences {
        if args.json {
            json_line(out, &JsonDifference::new(pair, difference))?;
            continue;
        }
        writeln!(out, "{}", line(difference))?;
        if args.unified
            && let Some((a, b)) = pair.changed_files(difference)
        {
            diff_text::print(&difference.path, &text_diff(a, b, &mut time)?, to_terminal, out)?;
        }
    }
    Ok(())
}

fn line(difference: &Difference) -> String {
    let path = escape(&difference.path);
    match &difference.kind {
        DifferenceKind::Added(_) => format!("A {path}"),
        DifferenceKind::Deleted(_) => format!("D {path}"),
        DifferenceKind::Modified { fields, .. } => format!("M {path}  {}", names(fields).join(",")),
    }
}

pub(crate) fn names(fields: &[Field]) -> Vec<&'static str> {
    fields.iter().map(|field| field.name()).collect()
}

#[derive(Debug, Serialize)]
struct JsonDifference {
    change: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    fields: Vec<&'static str>,
    a: Option<JsonEntry>,
    b: Option<JsonEntry>,
}

impl JsonDifference {
    fn new(pair: &Pair<'_>, difference: &Difference) -> Self {
        let (change, fields) = match &difference.kind {
            DifferenceKind::Added(_) => ("added", Vec::new()),
            DifferenceKind::Deleted(_) => ("deleted", Vec::new()),
            DifferenceKind::Modified { fields, .. } => ("modified", names(fields)),
        };
        let (a, b) = difference.kind.inodes();
        let entry = |side: &Side, id: Option<InodeId>| JsonEntry::new(&side.image, &difference.path, id?);
        let (path, path_b64) = json_name(&difference.path);
        JsonDifference { change, path, path_b64, fields, a: entry(pair.a, a), b: entry(pair.b, b) }
    }
}
