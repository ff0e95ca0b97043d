//! `imgmount ls`: names in an image, as text like `ls` prints it or as JSON lines.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::args::{ImageArgs, LayerArgs, PathArgs, image_value};
use super::commands::{Command, Example};
use super::output::{JsonEntry, device, json_line, long_iso, mode_string, stdout};
use imgmount::error::{Error, PathFault};
use imgmount::glob::{Glob, is_pattern};
use imgmount::load::Tree;
use imgmount::path::escape;
use imgmount::rootfs::{Follow, InodeId};

/// List files of an image
///
/// One name a line, sorted by bytes. Times are in UTC. A path may be a pattern, as in a shell: * and ? and
/// [...] match within a component, ** any number of components, and a leading dot is not special. What
/// matches is listed by its full path; directories are gone into with -R only.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// The image, or a directory, file or pattern in it as IMAGE:/path
    #[arg(value_name = "IMAGE[:/path]", value_parser = image_value())]
    image_path: OsString,
    /// Long format, as `ls -ln --time-style=long-iso` prints it
    #[arg(short)]
    long: bool,
    /// Everything below, with full paths
    #[arg(short = 'R')]
    recursive: bool,
    /// One JSON object a line
    #[arg(long, conflicts_with = "long")]
    json: bool,
    #[command(flatten)]
    path: PathArgs,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    image: ImageArgs,
}

/// One line to come: what is shown of it, where it is, what it is.
struct Line {
    shown: Vec<u8>,
    path: Vec<u8>,
    id: InodeId,
}

impl Command for LsArgs {
    const NAME: &'static str = "ls";
    const EXAMPLES: &'static [Example] = &[
        ("imgmount ls -R image.tar", "List everything:"),
        ("imgmount ls 'image.tar:/etc/*.conf'", "List what matches:"),
        (
            "imgmount ls -R --json image.tar | jq -r 'select(.mode | startswith(\"4\")) | .path'",
            "Find programs that are set-user-id:",
        ),
    ];

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &LsArgs) -> Result<ExitCode> {
    let (image, path) = args.path.split(&args.image_path);
    let path = path.unwrap_or_else(|| b"/".to_vec());
    let tree = args.image.load(&image, args.layers.range())?;
    // As ls: a link that is named itself is followed, except for the long format.
    let follow = if args.long && !path.ends_with(b"/") { Follow::NotLast } else { Follow::Last };
    let mut out = stdout();
    match tree.rootfs().resolve(&path, follow) {
        Ok(id) => list(args, &tree, &path, id, &mut out)?,
        Err(Error::Path { .. }) if is_pattern(&path) => list_matches(args, &tree, &path, &mut out)?,
        Err(error) => return Err(error.into()),
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Lists a file, or what is in a directory.
fn list(args: &LsArgs, tree: &Tree, path: &[u8], id: InodeId, out: &mut impl Write) -> Result<()> {
    if !tree.rootfs().is_directory(id) {
        return print(args, tree, &[Line { shown: path.to_vec(), path: path.to_vec(), id }], out);
    }
    let parent = path_of(path);
    if args.recursive {
        return list_recursively(args, tree, &parent, id, out);
    }
    let children = tree.rootfs().children(id);
    let lines: Vec<Line> =
        children.map(|(name, id)| Line { shown: name.to_vec(), path: join(&parent, name), id }).collect();
    print(args, tree, &lines, out)
}

/// Lists what a pattern matches, and with `-R` what is below.
fn list_matches(args: &LsArgs, tree: &Tree, pattern: &[u8], out: &mut impl Write) -> Result<()> {
    let rootfs = tree.rootfs();
    let mut found = rootfs.glob(&Glob::new(pattern));
    if pattern.ends_with(b"/") {
        let leads_to_directory = |path: &[u8]| rootfs.resolve(&join(path, b""), Follow::Last).is_ok();
        found.retain(|(path, _)| leads_to_directory(path));
    }
    if found.is_empty() {
        return Err(Error::Path { path: escape(pattern), reason: PathFault::NotFound }.into());
    }
    if !args.recursive {
        let line = |(path, id): (Vec<u8>, InodeId)| Line { shown: path.clone(), path, id };
        let lines: Vec<Line> = found.into_iter().map(line).collect();
        return print(args, tree, &lines, out);
    }
    for (path, id) in found {
        print(args, tree, &[Line { shown: path.clone(), path: path.clone(), id }], out)?;
        list_recursively(args, tree, &path_of(&path), id, out)?;
    }
    Ok(())
}

/// The path that the user wrote, in its shortest spelling: links in it stay, as `find` keeps them.
fn path_of(path: &[u8]) -> Vec<u8> {
    let mut clean = Vec::new();
    for component in imgmount::path::clean(path).components {
        clean.push(b'/');
        clean.extend_from_slice(component);
    }
    clean
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = parent.to_vec();
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// Everything below, line by line: nothing is held but the way to where the walk is.
fn list_recursively(
    args: &LsArgs,
    tree: &Tree,
    from: &[u8],
    id: InodeId,
    out: &mut impl Write,
) -> Result<()> {
    for (path, id) in tree.rootfs().walk_by_path(id, from) {
        print(args, tree, &[Line { shown: path.clone(), path, id }], out)?;
    }
    Ok(())
}

fn print(args: &LsArgs, tree: &Tree, lines: &[Line], out: &mut impl Write) -> Result<()> {
    if args.json {
        for line in lines {
            if let Some(entry) = JsonEntry::new(tree, &line.path, line.id) {
                json_line(out, &entry)?;
            }
        }
    } else if args.long {
        print_long(tree, lines, out)?;
    } else {
        for line in lines {
            writeln!(out, "{}", escape(&line.shown))?;
        }
    }
    Ok(())
}

/// Columns are as wide as their widest value among `lines`, as in `ls`.
fn print_long(tree: &Tree, lines: &[Line], out: &mut impl Write) -> io::Result<()> {
    let rows: Vec<[String; 7]> = lines.iter().filter_map(|line| long_row(tree, line)).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let widths: Vec<usize> = (0..7).map(|column| width(column).unwrap_or(0)).collect();
    for [mode, nlink, uid, gid, size, time, name] in &rows {
        let [_, w_nlink, w_uid, w_gid, w_size, ..] = widths.as_slice() else { break };
        writeln!(out, "{mode} {nlink:>w_nlink$} {uid:>w_uid$} {gid:>w_gid$} {size:>w_size$} {time} {name}")?;
    }
    Ok(())
}

fn long_row(tree: &Tree, line: &Line) -> Option<[String; 7]> {
    let rootfs = tree.rootfs();
    let inode = rootfs.inode(line.id)?;
    let size = match device(inode.kind) {
        Some(device) => format!("{}, {}", device.major, device.minor),
        None => rootfs.size(line.id).to_string(),
    };
    let name = match rootfs.target(line.id) {
        Some(target) => format!("{} -> {}", escape(&line.shown), escape(target)),
        None => escape(&line.shown),
    };
    Some([
        mode_string(inode.kind, inode.meta.mode),
        inode.nlink.to_string(),
        inode.meta.uid.to_string(),
        inode.meta.gid.to_string(),
        size,
        long_iso(inode.meta.mtime),
        name,
    ])
}
