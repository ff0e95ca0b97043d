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
use super::diff_text::{self, text_diff};
use super::output::{JsonEntry, json_line, json_name, stdout};
use super::{NEGATIVE, diff_html};
use imgmount::analysis::content::Readable;
use imgmount::analysis::diff::{DiffOptions, Difference, Side, What, diff};
use imgmount::analysis::{Field, Thing};
use imgmount::glob::Glob;
use imgmount::image::ImageInfo;
use imgmount::load::{Engine, LayerRange, Tree};
use imgmount::path::escape;
use imgmount::rootfs::InodeId;
use imgmount::source::OpenedImage;

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

/// One of the two, loaded.
pub(crate) struct Subject {
    /// As the user wrote it.
    pub(crate) text: OsString,
    pub(crate) range: LayerRange,
    pub(crate) format: &'static str,
    pub(crate) info: ImageInfo,
    pub(crate) tree: Tree,
}

impl Subject {
    fn side(&self) -> Side<'_> {
        Side { rootfs: self.tree.rootfs(), files: &self.tree }
    }
}

/// Both images.
pub(crate) struct Pair<'a> {
    pub(crate) a: &'a Subject,
    pub(crate) b: &'a Subject,
}

/// What a difference is about, on the sides that have it.
pub(crate) type Things<'a> = (Option<Thing<'a>>, Option<Thing<'a>>);

impl<'a> Pair<'a> {
    pub(crate) fn things(&self, difference: &Difference) -> Things<'a> {
        let (a, b) = ids(difference);
        let thing = |subject: &'a Subject, id: Option<InodeId>| Thing::of(subject.tree.rootfs(), id?);
        (thing(self.a, a), thing(self.b, b))
    }

    /// Bytes of a regular file on either side; 0 for everything else.
    pub(crate) fn sizes(&self, difference: &Difference) -> (u64, u64) {
        let size =
            |thing: Option<Thing<'_>>| thing.and_then(|thing| thing.file()).map_or(0, |(_, data)| data.size);
        let (a, b) = self.things(difference);
        (size(a), size(b))
    }

    /// Both files, where the bytes of two regular files differ.
    pub(crate) fn changed_files(&self, difference: &Difference) -> Option<(Readable<'a>, Readable<'a>)> {
        let What::Modified { fields, .. } = &difference.what else { return None };
        let (Some(a), Some(b)) = self.things(difference) else { return None };
        let readable = |thing, subject: &'a Subject| Readable { thing, from: &subject.tree };
        fields.contains(&Field::Content).then(|| (readable(a, self.a), readable(b, self.b)))
    }
}

fn ids(difference: &Difference) -> (Option<InodeId>, Option<InodeId>) {
    match difference.what {
        What::Added(b) => (None, Some(b)),
        What::Deleted(a) => (Some(a), None),
        What::Modified { a, b, .. } => (Some(a), Some(b)),
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
    let found_a = args.image.find(&engine, &args.a)?;
    let b_text = args.b.as_ref().unwrap_or(&args.a);
    // What is named twice is opened once: standard input can be read only once.
    let found_b = if *b_text == args.a { found_a.clone() } else { args.image.find(&engine, b_text)? };
    let a = subject(args, &engine, &args.a, found_a, a_range)?;
    let b = subject(args, &engine, b_text, found_b, b_range)?;
    let differences = diff(a.side(), b.side(), &options(args))?;
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

fn subject(
    args: &DiffArgs,
    engine: &Engine,
    text: &OsStr,
    (format, image): (&'static str, OpenedImage),
    range: LayerRange,
) -> Result<Subject> {
    let info = image.info.clone();
    let tree = engine.load(image, &args.image.tree_options(range))?;
    report_warnings(&tree);
    Ok(Subject { text: text.to_owned(), range, format, info, tree })
}

fn options(args: &DiffArgs) -> DiffOptions {
    let asked = |kind| args.only.is_empty() || args.only.contains(&kind);
    DiffOptions {
        mtime: args.mtime,
        ignore: args.ignore.iter().map(|glob| Glob::new(glob.as_bytes())).collect(),
        added: asked(Kind::A),
        deleted: asked(Kind::D),
        modified: asked(Kind::M),
    }
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
    match &difference.what {
        What::Added(_) => format!("A {path}"),
        What::Deleted(_) => format!("D {path}"),
        What::Modified { fields, .. } => format!("M {path}  {}", names(fields).join(",")),
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
        let (change, fields) = match &difference.what {
            What::Added(_) => ("added", Vec::new()),
            What::Deleted(_) => ("deleted", Vec::new()),
            What::Modified { fields, .. } => ("modified", names(fields)),
        };
        let (a, b) = ids(difference);
        let entry =
            |subject: &Subject, id: Option<InodeId>| JsonEntry::new(&subject.tree, &difference.path, id?);
        let (path, path_b64) = json_name(&difference.path);
        JsonDifference { change, path, path_b64, fields, a: entry(pair.a, a), b: entry(pair.b, b) }
    }
}
