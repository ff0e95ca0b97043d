//! `imgmount ls`: names in an image, as text like `ls` prints it or as JSON lines.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::args::{ImageArgs, LayerArgs, image_value};
use super::cat::image_and_path;
use super::output::{JsonEntry, device, json_line, long_iso, mode_string, stdout};
use imgmount::load::Tree;
use imgmount::path::escape;
use imgmount::rootfs::{Follow, InodeId, InodeKind};

/// List files of an image
///
/// One name a line, sorted by bytes. Times are in UTC.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// The image, or a directory or file in it as IMAGE:/path
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

pub(crate) fn run(args: &LsArgs) -> Result<ExitCode> {
    let (image, path) = image_and_path(&args.image_path);
    let tree = args.image.load(&image, args.layers.range())?;
    let rootfs = tree.rootfs();
    // As ls: a link that is named itself is followed, except for the long format.
    let follow = if args.long && !path.ends_with(b"/") { Follow::NotLast } else { Follow::Last };
    let id = rootfs.resolve(&path, follow)?;
    let mut out = stdout();
    if !is_directory(&tree, id) {
        let line = Line { shown: path.clone(), path, id };
        print(args, &tree, &[line], &mut out)?;
    } else if args.recursive {
        let path = path_of(&path);
        list_recursively(args, &tree, path, id, &mut out)?;
    } else {
        let parent = path_of(&path);
        let lines: Vec<Line> = rootfs
            .children(id)
            .map(|(name, id)| Line { shown: name.to_vec(), path: join(&parent, name), id })
            .collect();
        print(args, &tree, &lines, &mut out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
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

fn is_directory(tree: &Tree, id: InodeId) -> bool {
    tree.rootfs().inode(id).is_some_and(|inode| inode.kind == InodeKind::Directory)
}

/// What is still to be printed of a directory: an entry itself, or what is below it.
enum Step {
    Entry(Vec<u8>, InodeId),
    Below(Vec<u8>, InodeId),
}

/// Paths in byte order, in memory that grows with depth only: within a directory, the contents of `a` sort
/// as `a/`, which may come after `a.txt`.
fn list_recursively(
    args: &LsArgs,
    tree: &Tree,
    from: Vec<u8>,
    id: InodeId,
    out: &mut impl Write,
) -> Result<()> {
    let mut stack = vec![Step::Below(from, id)];
    while let Some(step) = stack.pop() {
        match step {
            Step::Entry(path, id) => {
                print(args, tree, &[Line { shown: path.clone(), path, id }], out)?;
            }
            Step::Below(path, directory) => {
                let mut steps: Vec<(Vec<u8>, Step)> = Vec::new();
                for (name, id) in tree.rootfs().children(directory) {
                    let child = join(&path, name);
                    if is_directory(tree, id) {
                        steps.push(([name, b"/"].concat(), Step::Below(child.clone(), id)));
                    }
                    steps.push((name.to_vec(), Step::Entry(child, id)));
                }
                steps.sort_by(|(a, _), (b, _)| b.cmp(a));
                stack.extend(steps.into_iter().map(|(_, step)| step));
            }
        }
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
