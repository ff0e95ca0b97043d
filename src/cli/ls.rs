//! `imgmount ls`: lists names in an image, as text in the format of `ls` or as JSON lines.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::args::{ImageArgs, LayerArgs, PathArgs, image_value};
use super::commands::{Command, Example};
use super::output::{JsonEntry, json_line, long_iso, mode_string, stdout};
use imgmount::{Error, Glob, Image, InodeId, PathFault, escape, is_pattern, normalize_path};

/// List files in an image
///
/// Prints one name per line, sorted by bytes; times are in UTC. The path can be a pattern: *, ? and [...]
/// match within a component, ** matches any number of components, and a leading dot is matched like any other
/// character. Matches are printed with their full paths; the content of a matching directory is listed only
/// with -R.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Image, or a directory, file or pattern inside it
    #[arg(value_name = "IMAGE[:/path]", value_parser = image_value())]
    image_path: OsString,
    /// Print details, as `ls -ln --time-style=long-iso` does
    #[arg(short)]
    long: bool,
    /// List subdirectories recursively, with full paths
    #[arg(short = 'R')]
    recursive: bool,
    /// Print one JSON object per line
    #[arg(long, conflicts_with = "long")]
    json: bool,
    #[command(flatten)]
    path: PathArgs,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    image: ImageArgs,
}

/// A line to print: the shown name, the path and the inode.
struct Line {
    shown: Vec<u8>,
    path: Vec<u8>,
    id: InodeId,
}

impl Command for LsArgs {
    const NAME: &'static str = "ls";
    const EXAMPLES: &'static [Example] = &[
        ("imgmount ls -R image.tar", "List all files:"),
        ("imgmount ls 'image.tar:/etc/*.conf'", "List files that match a pattern:"),
        (
            "imgmount ls -R --json image.tar | jq -r 'select(.mode | startswith(\"4\")) | .path'",
            "Find setuid files:",
        ),
    ];

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &LsArgs) -> Result<ExitCode> {
    let (name, path) = args.path.split(&args.image_path);
    let path = path.unwrap_or_else(|| b"/".to_vec());
    let image = args.image.load(&name, args.layers.range())?;
    // As in ls: a link given as argument is followed, except in the long format.
    let found = if args.long { image.resolve_no_follow(&path) } else { image.resolve(&path) };
    let mut out = stdout();
    match found {
        Ok(id) => list(args, &image, &path, id, &mut out)?,
        Err(Error::Path { .. }) if is_pattern(&path) => list_matches(args, &image, &path, &mut out)?,
        Err(error) => return Err(error.into()),
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Lists a file, or the contents of a directory.
fn list(args: &LsArgs, image: &Image, path: &[u8], id: InodeId, out: &mut impl Write) -> Result<()> {
    if !image.is_directory(id) {
        return print(args, image, &[Line { shown: path.to_vec(), path: path.to_vec(), id }], out);
    }
    let parent = path_of(path);
    if args.recursive {
        return list_recursively(args, image, &parent, id, out);
    }
    let children = image.children(id);
    let lines: Vec<Line> =
        children.map(|(name, id)| Line { shown: name.to_vec(), path: join(&parent, name), id }).collect();
    print(args, image, &lines, out)
}

/// Lists the paths that a pattern matches, and with `-R` everything below them.
fn list_matches(args: &LsArgs, image: &Image, pattern: &[u8], out: &mut impl Write) -> Result<()> {
    let mut found = image.glob(&Glob::new(pattern));
    if pattern.ends_with(b"/") {
        let leads_to_directory = |path: &[u8]| image.resolve(join(path, b"")).is_ok();
        found.retain(|(path, _)| leads_to_directory(path));
    }
    if found.is_empty() {
        return Err(Error::Path { path: escape(pattern), reason: PathFault::NotFound }.into());
    }
    if !args.recursive {
        let line = |(path, id): (Vec<u8>, InodeId)| Line { shown: path.clone(), path, id };
        let lines: Vec<Line> = found.into_iter().map(line).collect();
        return print(args, image, &lines, out);
    }
    for (path, id) in found {
        print(args, image, &[Line { shown: path.clone(), path: path.clone(), id }], out)?;
        list_recursively(args, image, &path_of(&path), id, out)?;
    }
    Ok(())
}

/// Returns the path that the user wrote, in its shortest spelling. Links in it are not resolved, as in
/// `find`. Empty for the root.
fn path_of(path: &[u8]) -> Vec<u8> {
    let path = normalize_path(path);
    if path == b"/" { Vec::new() } else { path }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = parent.to_vec();
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// Lists everything below a directory, line by line, in memory that grows only with the depth.
fn list_recursively(
    args: &LsArgs,
    image: &Image,
    from: &[u8],
    id: InodeId,
    out: &mut impl Write,
) -> Result<()> {
    for (path, id) in image.walk_sorted(id, from) {
        print(args, image, &[Line { shown: path.clone(), path, id }], out)?;
    }
    Ok(())
}

fn print(args: &LsArgs, image: &Image, lines: &[Line], out: &mut impl Write) -> Result<()> {
    if args.json {
        for line in lines {
            if let Some(entry) = JsonEntry::new(image, &line.path, line.id) {
                json_line(out, &entry)?;
            }
        }
    } else if args.long {
        print_long(image, lines, out)?;
    } else {
        for line in lines {
            writeln!(out, "{}", escape(&line.shown))?;
        }
    }
    Ok(())
}

/// Prints lines in the long format. Columns are as wide as their widest value among `lines`, as in
/// `ls`.
fn print_long(image: &Image, lines: &[Line], out: &mut impl Write) -> io::Result<()> {
    let rows: Vec<[String; 7]> = lines.iter().filter_map(|line| long_row(image, line)).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let widths: Vec<usize> = (0..7).map(|column| width(column).unwrap_or(0)).collect();
    for [mode, nlink, uid, gid, size, time, name] in &rows {
        let [_, w_nlink, w_uid, w_gid, w_size, ..] = widths.as_slice() else { break };
        writeln!(out, "{mode} {nlink:>w_nlink$} {uid:>w_uid$} {gid:>w_gid$} {size:>w_size$} {time} {name}")?;
    }
    Ok(())
}

fn long_row(image: &Image, line: &Line) -> Option<[String; 7]> {
    let inode = image.inode(line.id)?;
    let size = match inode.device() {
        Some(device) => format!("{}, {}", device.major, device.minor),
        None => inode.size().to_string(),
    };
    let name = match inode.target() {
        Some(target) => format!("{} -> {}", escape(&line.shown), escape(target)),
        None => escape(&line.shown),
    };
    Some([
        mode_string(inode.file_type(), inode.mode()),
        inode.nlink()?.to_string(),
        inode.uid().to_string(),
        inode.gid().to_string(),
        size,
        long_iso(inode.mtime()),
        name,
    ])
}
