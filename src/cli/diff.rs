//! `imgmount diff`: how two images, or two states of one, differ.

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
use super::diff_text::{self, TextFile, text_diff};
use super::output::{JsonEntry, json_line, json_name, stdout};
use super::{NEGATIVE, diff_html};
use imgmount::{
    DiffOptions, Difference, DifferenceKind, Field, FileType, Glob, Image, Inode, InodeId, LayerRange,
    SelectedImage, diff, escape,
};

/// Compare two images, or two states of one
///
/// One line a path, sorted by bytes: `A /path` only B has it, `D /path` only A has it, `M /path  FIELDS` both
/// have it and it differs in: content, links (which names share its inode), mode, owner, rdev, target, type,
/// xattr, and with --mtime mtime. A directory that is added or deleted is listed with all that is in it. Exit
/// code 0: the same, 1: different, 2: failure.
///
/// Without B, A is compared with itself: `diff --a-upto 1 --b-upto 2 IMAGE`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The first image
    #[arg(value_name = "A", value_parser = image_value())]
    a: OsString,
    /// The second image
    #[arg(value_name = "B", value_parser = image_value())]
    b: Option<OsString>,
    /// Count paths and bytes instead: by kind of change and by directory
    #[arg(long, conflicts_with = "unified")]
    stat: bool,
    /// Also show how text files changed, as `diff -u` does
    #[arg(short = 'u', long, conflicts_with = "json")]
    unified: bool,
    /// Leave out what matches, and all below it; repeatable
    ///
    /// As a shell matches paths, from the root; `**` is any number of directories, and a pattern without a
    /// slash matches at every depth.
    #[arg(long, value_name = "GLOB")]
    ignore: Vec<OsString>,
    /// Only these kinds of change, as in `--only a,d`
    #[arg(long, value_name = "KINDS", value_delimiter = ',', ignore_case = true)]
    only: Vec<Kind>,
    /// Times count, too
    #[arg(long)]
    mtime: bool,
    /// One JSON object a line; with --stat, one object
    #[arg(long)]
    json: bool,
    /// Write a page to read in a browser instead; `-` is standard output
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
    /// Of A that layer alone
    #[arg(long, value_name = "N", conflicts_with = "a_upto")]
    a_layer: Option<u16>,
    /// Of A the state after layer N
    #[arg(long, value_name = "N")]
    a_upto: Option<u16>,
    /// Of B that layer alone
    #[arg(long, value_name = "N", conflicts_with = "b_upto")]
    b_layer: Option<u16>,
    /// Of B the state after layer N
    #[arg(long, value_name = "N")]
    b_upto: Option<u16>,
}

impl DiffArgs {
    /// The layers of either side.
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
    /// As the user wrote it.
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

    /// Bytes of a regular file on either side; 0 for everything else.
    pub(crate) fn sizes(&self, difference: &Difference) -> (u64, u64) {
        let size = |inode: Option<Inode<'_>>| {
            inode.filter(|inode| inode.file_type() == FileType::File).map_or(0, |inode| inode.size())
        };
        let (a, b) = self.inodes(difference);
        (size(a), size(b))
    }

    /// Both files, where the bytes of two regular files differ.
    pub(crate) fn changed_files(&self, difference: &Difference) -> Option<(TextFile<'a>, TextFile<'a>)> {
        let DifferenceKind::Modified { a, b, fields } = &difference.kind else { return None };
        fields.contains(&Field::Content).then_some(((&self.a.image, *a), (&self.b.image, *b)))
    }
}

impl Command for DiffArgs {
    const NAME: &'static str = "diff";
    const EXAMPLES: &'static [Example] = &[
        ("imgmount diff old.tar new.tar", "List what changed:"),
        ("imgmount diff --ignore '*.pyc' -u old.tar new.tar", "As unified diffs, without noise:"),
    ];
    const ASKS: bool = true;

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &DiffArgs) -> Result<ExitCode> {
    let (a_range, b_range) = args.ranges();
    if args.b.is_none() && a_range == b_range {
        bail!("nothing to compare with: name a second image, or two states with --a-upto and --b-upto");
    }
    let engine = args.image.engine();
    let selected_a = args.image.select_with(&engine, &args.a)?;
    let b_text = args.b.as_ref().unwrap_or(&args.a);
    // What is named twice is opened once: standard input can be read only once.
    let selected_b =
        if *b_text == args.a { selected_a.clone() } else { args.image.select_with(&engine, b_text)? };
    let a = side(args, &args.a, &selected_a, a_range)?;
    let b = side(args, b_text, &selected_b, b_range)?;
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
    for difference in differences {
        if args.json {
            json_line(out, &JsonDifference::new(pair, difference))?;
            continue;
        }
        writeln!(out, "{}", line(difference))?;
        if args.unified
            && let Some((a, b)) = pair.changed_files(difference)
        {
            diff_text::print(&difference.path, &text_diff(a, b)?, to_terminal, out)?;
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
