//! `imgmount cp`: copies a file or directory of an image to the host, or as a tar to standard output.
//!
//! The rules are those of `docker cp`:
//!
//! | source | DEST does not exist | DEST is a file | DEST is a directory |
//! |---|---|---|---|
//! | file | becomes DEST; an error if DEST ends in `/` | replaces DEST | is copied into DEST |
//! | directory | becomes DEST | error | is copied into DEST |
//! | directory, as `path/.` | becomes DEST | error | its contents are copied into DEST |
//!
//! Directories are merged; a directory never replaces another type of file, nor the other way round.
//! Symbolic links are copied as links; with -L, a link at the end of the path is followed, inside the
//! image. Unlike docker, `cp` never writes through links on the host, and an existing DEST keeps its
//! own attributes.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::args::{ImageArgs, LayerArgs, PathArgs, image_value};
use super::commands::{Command, Example};
use super::export::{export_to_stdout, refuse_terminal};
use super::extract::{conclude, extracting, is_root};
use imgmount::{Existing, ExportOptions, ExtractOptions, Image, InodeId};

/// Copy a file or directory from an image
///
/// Follows the rules of `docker cp`. If DEST is an existing directory, the copy is placed in it; otherwise
/// the copy is named DEST. IMAGE:/path/. copies the content of a directory. Copies belong to the user who
/// runs the command, unless -a is given.
#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// File or directory to copy
    #[arg(value_name = "IMAGE:/path", value_parser = image_value())]
    source: OsString,
    /// Destination on the host; - writes a tar to standard output
    #[arg(value_name = "DEST|-")]
    dest: OsString,
    /// Keep owners, extended attributes and devices; fail if one cannot be kept
    #[arg(short, long)]
    archive: bool,
    /// Follow a symbolic link at the end of the path, inside the image
    #[arg(short = 'L', long)]
    follow_link: bool,
    #[command(flatten)]
    path: PathArgs,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    image: ImageArgs,
}

impl Command for CpArgs {
    const NAME: &'static str = "cp";
    const EXAMPLES: &'static [Example] = &[
        ("imgmount cp image.tar:/etc/nginx .", "Copy a directory:"),
        ("imgmount cp image.tar:/usr/bin/tool - | tar tv", "Write a tar to standard output:"),
    ];

    fn run(self) -> Result<ExitCode> {
        run(&self)
    }
}

fn run(args: &CpArgs) -> Result<ExitCode> {
    let (name, Some(path)) = args.path.split(&args.source) else {
        bail!("'{}' has no path inside the image; use IMAGE:/path or --path", args.source.to_string_lossy());
    };
    let to_stdout = args.dest == "-";
    if to_stdout {
        refuse_terminal()?;
    }
    let engine = args.image.engine();
    let image = args.image.load_with(&engine, &name, args.layers.range())?;
    let origin = Origin::find(&image, &path, args.follow_link)?;
    if to_stdout {
        let options = ExportOptions::default().name(&origin.name);
        export_to_stdout(&image, origin.inode, &options)?;
        return Ok(ExitCode::SUCCESS);
    }
    let destination = destination(&origin, &args.dest)?;
    let privileged = args.archive || is_root();
    let options = ExtractOptions::default()
        .existing(Existing::Merge)
        .owners(args.archive)
        .xattrs(privileged)
        .devices(privileged);
    extracting(
        &engine,
        options,
        |options| match &destination {
            Destination::Into(dir) => image.extract_from(origin.inode, dir, options),
            Destination::As(dir, name) => image.extract_as(origin.inode, dir, name, options),
        },
        |mut report| {
            // Without -a, copies belong to the user who copies, so a lost owner is not reported.
            if !args.archive {
                report.not_kept.owners = 0;
            }
            conclude(&report, args.archive)
        },
    )
}

/// The object that is copied.
struct Origin {
    inode: InodeId,
    is_directory: bool,
    /// The name of the copy in a directory; empty for the contents of a directory.
    name: Vec<u8>,
}

impl Origin {
    fn find(image: &Image, path: &[u8], follow_link: bool) -> imgmount::Result<Self> {
        let inode = if follow_link { image.resolve(path)? } else { image.resolve_no_follow(path)? };
        let is_directory = image.is_directory(inode);
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
        let path = path.get(..end).unwrap_or_default();
        let name = match path.rsplit(|byte| *byte == b'/').next().unwrap_or_default() {
            b"" | b"." => Vec::new(),
            b".." => last_name(&image.path(inode)),
            name => name.to_vec(),
        };
        Ok(Origin { inode, is_directory, name })
    }
}

fn last_name(path: &[u8]) -> Vec<u8> {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec()
}

/// The destination of the copy.
#[derive(Debug, PartialEq, Eq)]
enum Destination {
    /// The contents are copied into this directory.
    Into(PathBuf),
    /// The copy gets this name in this directory.
    As(PathBuf, Vec<u8>),
}

fn destination(origin: &Origin, dest: &OsStr) -> Result<Destination> {
    let path = &follow(Path::new(dest))?;
    let wants_directory = dest.as_bytes().ends_with(b"/") || dest.as_bytes().ends_with(b"/.");
    match fs::metadata(path) {
        Ok(there) if there.is_dir() && origin.name.is_empty() => Ok(Destination::Into(path.to_owned())),
        Ok(there) if there.is_dir() => Ok(Destination::As(path.to_owned(), origin.name.clone())),
        Ok(_) if origin.is_directory => bail!("'{}': cannot copy a directory to a file", path.display()),
        Ok(_) if wants_directory => bail!("'{}': not a directory", path.display()),
        // Replacing a device or pipe by a file is unlikely to be intended, least of all by root.
        Ok(there) if !there.is_file() => bail!("'{}': not a regular file or directory", path.display()),
        Err(_) if wants_directory && !origin.is_directory => {
            bail!("'{}': no such directory", path.display())
        }
        _ => beside(path),
    }
}

/// Returns the target of a symbolic link at the end of `path`, since a user who names a link means its
/// target.
fn follow(path: &Path) -> Result<PathBuf> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|there| there.is_symlink());
    if !is_link || path.is_dir() {
        return Ok(path.to_owned());
    }
    fs::canonicalize(path).with_context(|| format!("'{}': cannot follow the link", path.display()))
}

/// Returns the directory that contains `path`, and the name in it.
fn beside(path: &Path) -> Result<Destination> {
    let Some(name) = path.file_name() else { bail!("'{}': no such directory", path.display()) };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(Destination::As(parent.to_owned(), name.as_bytes().to_vec()))
}
