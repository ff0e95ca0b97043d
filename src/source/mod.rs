//! Where an image is kept.
//!
//! This module owns where bytes are: the reference grammar, what kind of place a path is, the names
//! of the images there and the place of every blob. What images mean is for [`crate::image`]; no
//! layer is read here. A source that is not served yet is named and refused.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::image::{ImageInfo, LayerDescriptor, Platform};
use crate::read_at::ReadAt;

pub mod archive;
mod dir;
mod docker_archive;
mod names;
mod oci_layout;
pub mod reference;
mod scan;
mod survey;
mod tree;

pub use archive::Archive;
pub use reference::{Location, Reference, Selection, Transport, split_path};
pub use scan::{MAX_MEMBERS, Member, MemberKind, members, scan};
pub use survey::{DocumentRole, Survey, SurveyedDocument, SurveyedLayer};

/// Largest `manifest.json` of a docker-archive, and largest top `index.json`: 20 MiB (X6). One image
/// takes about 100 bytes a layer, so 1 MiB is usual and this is thousands of images. What a hostile
/// one can cost is bounded by [`crate::image::strict_json::MAX_VALUES`].
pub const MAX_ARCHIVE_MANIFEST_BYTES: u64 = 20 * 1024 * 1024;

/// A place that holds images.
pub trait Source: Send + Sync + fmt::Debug {
    /// `docker-archive`, `oci`, `oci-archive` or `dir`.
    fn kind(&self) -> &'static str;

    /// The images there, attestations left out.
    ///
    /// # Errors
    /// When a document that lists them cannot be read.
    fn images(&self) -> Result<Vec<ImageSummary>>;

    /// Finds one image, checks its manifest and config, and finds its layers. Without a `platform`
    /// the host's is preferred; a sole image is taken whatever its platform.
    ///
    /// # Errors
    /// [`Error::Ambiguous`], [`Error::NoSuchImage`] and [`Error::NoPlatform`] when `select` and
    /// `platform` do not name one image; [`Error::MissingBlob`], [`Error::Mismatch`],
    /// [`Error::Malformed`], [`Error::Unsupported`] for what is wrong with it.
    fn image(&self, select: &Selection, platform: Option<&Platform>) -> Result<OpenedImage>;

    /// Finds one image as [`Source::image`] does, and all that it names, whether or not it is as promised.
    ///
    /// # Errors
    /// [`Error::Ambiguous`] and [`Error::NoSuchImage`] when `select` does not name one image. What is wrong
    /// with the image itself is in the survey.
    fn survey(&self, select: &Selection, platform: Option<&Platform>) -> Result<Survey>;
}

/// One line of a list of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// Its position, as `@INDEX` selects it.
    pub index: usize,
    /// Its names; may be none.
    pub names: Vec<String>,
    /// What it is made for, where that is said in the list itself.
    pub platform: Option<Platform>,
}

impl fmt::Display for ImageSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names.iter().map(|name| name.escape_debug().to_string()).collect();
        match (names.is_empty(), &self.platform) {
            (true, None) => write!(f, "(@{})", self.index),
            (true, Some(platform)) => write!(f, "{platform} (@{})", self.index),
            (false, _) => write!(f, "{} (@{})", names.join(", "), self.index),
        }
    }
}

/// An image that was found and checked, with layers that were only found.
#[derive(Debug, Clone)]
pub struct OpenedImage {
    /// What it says of itself.
    pub info: ImageInfo,
    /// Lowest first; as many as `info.layers`.
    pub layers: Vec<LayerBlob>,
}

/// The stored bytes of one layer.
#[derive(Debug, Clone)]
pub struct LayerBlob {
    /// What the image says of it.
    pub descriptor: LayerDescriptor,
    /// The bytes as they are stored, compressed or not; neither read nor checked yet.
    pub bytes: Arc<dyn ReadAt>,
    /// Which bytes these are, where no digest tells.
    pub identity: BlobIdentity,
}

/// Identifies stored bytes whose digest is not known: a file as it was when it was opened, and the
/// part of it. All file facts are 0 for bytes embedded in a manifest, whose digest is always known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BlobIdentity {
    /// The file's device number.
    pub device: u64,
    /// The file's inode number.
    pub inode: u64,
    /// The file's length in bytes.
    pub size: u64,
    /// The file's time of last modification, in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Where the part begins, in bytes: in the file, or in the uncompressed tar when the file is
    /// compressed as a whole.
    pub offset: u64,
    /// Length of the part in bytes.
    pub len_bytes: u64,
}

impl fmt::Display for BlobIdentity {
    /// All of it, as the text that names an index in the store.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BlobIdentity { device, inode, size, mtime_ns, offset, len_bytes } = self;
        write!(f, "device {device} inode {inode} size {size} mtime {mtime_ns} at {offset} length {len_bytes}")
    }
}

/// Makes an archive that is compressed as a whole readable at any offset (F10).
pub trait Unpack: Send + Sync {
    /// The uncompressed bytes of the archive `bytes` at `path`, and its members.
    ///
    /// # Errors
    /// [`Error::Decompress`] and [`Error::Tar`] for damaged archives.
    fn open_compressed(
        &self,
        bytes: Arc<dyn ReadAt>,
        path: &Path,
        identity: BlobIdentity,
    ) -> Result<(Arc<dyn ReadAt>, Vec<Member>)>;
}

/// What opening a source may need.
#[derive(Clone, Default)]
pub struct OpenOptions {
    /// Where standard input is spooled; without it standard input is refused.
    pub spool_dir: Option<PathBuf>,
    /// Who reads compressed archives; without one they are refused.
    pub unpack: Option<Arc<dyn Unpack>>,
}

impl fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenOptions")
            .field("spool_dir", &self.spool_dir)
            .field("unpack", &self.unpack.is_some())
            .finish()
    }
}

/// Opens the place that `reference` names.
///
/// # Errors
/// [`Error::NotAnImage`] when content is not known, [`Error::Unsupported`] for transports that are
/// not served, and what opening an [`Archive`] gives.
pub fn open(reference: &Reference, options: &OpenOptions) -> Result<Box<dyn Source>> {
    open_with_input(reference, options, &mut io::stdin().lock())
}

/// As [`open`], with another standard input.
///
/// # Errors
/// As [`open`].
pub fn open_with_input(
    reference: &Reference,
    options: &OpenOptions,
    input: &mut dyn Read,
) -> Result<Box<dyn Source>> {
    if let Some(transport) = reference.transport {
        check_served(transport)?;
    }
    let archive = match &reference.location {
        Location::Path(path) => Archive::open(path, options)?,
        Location::Stdin => Archive::from_file(Path::new("-"), spool(input, options)?, options)?,
    };
    match reference.transport {
        Some(Transport::DockerArchive) => open_as(Kind::DockerArchive, archive),
        Some(Transport::Oci | Transport::OciArchive) => open_as(Kind::OciLayout, archive),
        Some(Transport::Dir) => open_as(Kind::Dir, archive),
        _ => open_as(recognise(&archive)?, archive),
    }
}

/// What the files of an archive or directory are.
#[derive(Debug, Clone, Copy)]
enum Kind {
    DockerArchive,
    OciLayout,
    Dir,
}

fn open_as(kind: Kind, archive: Archive) -> Result<Box<dyn Source>> {
    Ok(match kind {
        Kind::DockerArchive => Box::new(docker_archive::DockerArchive::open(archive)?),
        Kind::OciLayout => Box::new(oci_layout::OciLayout::open(archive)?),
        Kind::Dir => Box::new(dir::Dir::open(archive)?),
    })
}

/// OCI first: archives of Docker 25 and later are both (F3).
fn recognise(archive: &Archive) -> Result<Kind> {
    if archive.find("oci-layout")?.is_some() && archive.find("index.json")?.is_some() {
        return Ok(Kind::OciLayout);
    }
    if dir::has_version(archive)? {
        return Ok(Kind::Dir);
    }
    if archive.find("manifest.json")?.is_some() || archive.find("repositories")?.is_some() {
        return Ok(Kind::DockerArchive);
    }
    let reason = "it has neither 'oci-layout' with 'index.json' nor 'manifest.json'";
    Err(archive::not_an_image(archive.path(), reason))
}

fn check_served(transport: Transport) -> Result<()> {
    match transport {
        Transport::DockerArchive | Transport::Oci | Transport::OciArchive | Transport::Dir => Ok(()),
        Transport::Registry
        | Transport::DockerGraph
        | Transport::ContainersStorage
        | Transport::Containerd => Err(Error::Unsupported {
            what: format!("transport '{transport}'"),
            reason: "this version reads docker-archive, oci, oci-archive and dir".to_owned(),
        }),
    }
}

/// Copies `input` to a file that has no name and goes away with us.
fn spool(input: &mut dyn Read, options: &OpenOptions) -> Result<File> {
    let Some(dir) = &options.spool_dir else {
        return Err(Error::Unsupported {
            what: "standard input".to_owned(),
            reason: "there is no directory to spool it in".to_owned(),
        });
    };
    let cannot = |cause| Error::io(format!("cannot spool standard input in '{}'", dir.display()), cause);
    let mut file = tempfile::tempfile_in(dir).map_err(cannot)?;
    io::copy(input, &mut file).map_err(cannot)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
