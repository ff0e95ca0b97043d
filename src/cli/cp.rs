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
//! image. On the host, a link that is named as DEST is followed as open(2) follows it, no other link is
//! followed, and an existing directory DEST keeps its own attributes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use super::args::{ImageArgs, LayerArgs, PathArgs, image_value};
use super::commands::{Command, Example};
use super::export::{export_to_stdout, refuse_terminal};
use super::extract::{conclude, extracting, is_root};
use imgmount::{Existing, ExportOptions, ExtractOptions, HostDirectory, HostTarget, Image, InodeId, escape};

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
        let source = escape(args.source.as_bytes());
        bail!("'{source}' has no path inside the image; use IMAGE:/path or --path");
    };
    let to_stdout = args.dest == "-";
    if to_stdout {
        refuse_terminal()?;
    }
    let target = if to_stdout { None } else { Some(find(&args.dest)?) };
    let engine = args.image.engine();
    let image = args.image.load_with(&engine, &name, args.layers.range())?;
    let origin = Origin::find(&image, &path, args.follow_link)?;
    let Some(target) = target else {
        let options = ExportOptions::default().name(&origin.name);
        export_to_stdout(&image, origin.inode, &options)?;
        return Ok(ExitCode::SUCCESS);
    };
    let destination = destination(&origin, &args.dest, target)?;
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

/// The destination of the copy, held open: another user cannot redirect the copy while the image is read.
#[derive(Debug)]
enum Destination {
    /// The contents are copied into this directory.
    Into(HostDirectory),
    /// The copy gets this name in this directory.
    As(HostDirectory, Vec<u8>),
}

/// Finds what `dest` leads to. A link at its end is followed as open(2) follows it, since a user who names a
/// link means its target.
fn find(dest: &OsStr) -> imgmount::Result<HostTarget> {
    // `new/.` names a directory that does not exist yet.
    let path = dest.as_bytes().strip_suffix(b"/.").filter(|path| !path.is_empty());
    HostTarget::find(path.map_or(dest, OsStr::from_bytes))
}

fn destination(origin: &Origin, dest: &OsStr, target: HostTarget) -> Result<Destination> {
    let wants_directory = dest.as_bytes().ends_with(b"/") || dest.as_bytes().ends_with(b"/.");
    let shown = || escape(dest.as_bytes());
    match target {
        HostTarget::Directory(directory) if origin.name.is_empty() => Ok(Destination::Into(directory)),
        HostTarget::Directory(directory) => Ok(Destination::As(directory, origin.name.clone())),
        HostTarget::Object { .. } if origin.is_directory => {
            bail!("'{}': cannot copy a directory to a file", shown())
        }
        // Replacing a device or pipe by a file is unlikely to be intended, least of all by root.
        HostTarget::Object { metadata, has_name, .. } if !metadata.is_file() || !has_name => {
            bail!("'{}': not a regular file or directory", shown())
        }
        HostTarget::Object { parent, name, .. } => Ok(Destination::As(parent, name.into_vec())),
        HostTarget::Missing { behind_link: true, .. } => {
            bail!("'{}': cannot follow the link: its target does not exist", shown())
        }
        HostTarget::Missing { .. } if wants_directory && !origin.is_directory => {
            bail!("'{}': no such directory", shown())
        }
        HostTarget::Missing { parent, name, .. } => Ok(Destination::As(parent, name.into_vec())),
        _ => bail!("'{}': not a regular file or directory", shown()),
    }
}
