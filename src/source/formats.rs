//! The table of formats: for each transport, how its images are detected and opened.
//!
//! This module owns the table. The grammar of references, detection by content, opening and the help texts
//! all read it, so a new source is one module and one row. Formats are detected in the order of the rows.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use super::archive::{Archive, Opened, open_path};
use super::beneath::Beneath;
use super::blobs::BlobIdentity;
use super::environment::Environment;
use super::{
    ImageSource, Location, OpenOptions, Reference, Selection, containerd, containers_storage, dir,
    docker_archive, docker_daemon, docker_graph, oci_layout, registry_storage, rootfs,
};
use crate::error::{Error, Result, Subject};
use crate::layer::index::Verify;
use crate::path::escape_path;

/// Bytes that are copied at once to a temporary file.
const SPOOL_BUFFER_BYTES: usize = 256 * 1024;

/// The table. OCI layouts come first, because archives of Docker 25 and later are docker-archives too (F3).
/// A registry and an old docker-archive both have a name `repositories`: a directory and a file.
static FORMATS: &[Format] = &[
    Format {
        transport: "oci",
        needs_slashes: false,
        path: PathRule::Required,
        about: "an OCI layout in a directory",
        reader: Some(FormatReader { detect: oci_layout::detect, open: oci_layout::open }),
    },
    Format {
        transport: "oci-archive",
        needs_slashes: false,
        path: PathRule::Required,
        about: "an OCI layout in a tar archive",
        reader: Some(FormatReader { detect: oci_layout::detect, open: oci_layout::open }),
    },
    Format {
        transport: "dir",
        needs_slashes: false,
        path: PathRule::Required,
        about: "a directory written by skopeo",
        reader: Some(FormatReader { detect: dir::detect, open: dir::open }),
    },
    Format {
        transport: "registry-storage",
        needs_slashes: false,
        path: PathRule::Own(registry_storage::own_places),
        about: "the storage directory of a registry",
        reader: Some(FormatReader { detect: registry_storage::detect, open: registry_storage::open }),
    },
    Format {
        transport: "docker-archive",
        needs_slashes: false,
        path: PathRule::Required,
        about: "a tar archive written by docker save or podman save",
        reader: Some(FormatReader { detect: docker_archive::detect, open: docker_archive::open }),
    },
    Format {
        transport: "docker-graph",
        needs_slashes: false,
        path: PathRule::Own(docker_graph::own_places),
        about: "the data directory of a Docker engine",
        reader: Some(FormatReader { detect: docker_graph::detect, open: docker_graph::open }),
    },
    Format {
        transport: "containers-storage",
        needs_slashes: false,
        path: PathRule::Own(containers_storage::own_places),
        about: "the storage of podman, buildah or CRI-O",
        reader: Some(FormatReader { detect: containers_storage::detect, open: containers_storage::open }),
    },
    Format {
        transport: "docker-daemon",
        needs_slashes: false,
        path: PathRule::NameOnly,
        about: "an image of a running Docker or Podman engine",
        reader: Some(FormatReader { detect: docker_daemon::detect, open: docker_daemon::open }),
    },
    Format {
        transport: "rootfs",
        needs_slashes: false,
        path: PathRule::Required,
        about: "a root file system: a directory or a flat tar",
        reader: Some(FormatReader { detect: rootfs::detect, open: rootfs::open }),
    },
    Format {
        transport: "containerd",
        needs_slashes: false,
        path: PathRule::Own(containerd::own_places),
        about: "the data directory of containerd",
        reader: Some(FormatReader { detect: containerd::detect, open: containerd::open }),
    },
    REGISTRY,
    Format { needs_slashes: true, ..Format::unsupported("https", "an image on a web server") },
];

#[cfg(feature = "registry")]
const REGISTRY: Format = Format {
    transport: "docker",
    needs_slashes: true,
    path: PathRule::Remote,
    about: "an image in a registry",
    reader: Some(FormatReader { detect: super::registry::detect, open: super::registry::open }),
};
#[cfg(not(feature = "registry"))]
const REGISTRY: Format =
    Format { needs_slashes: true, ..Format::unsupported("docker", "an image in a registry") };

/// One row of the table.
struct Format {
    /// Name of the transport: the prefix of a reference, before the colon.
    transport: &'static str,
    /// True if `//` must follow the colon; a name with the colon alone counts as a file name.
    needs_slashes: bool,
    /// Whether a path follows the colon.
    path: PathRule,
    /// The kind of place that the transport leads to, with its article.
    about: &'static str,
    /// Functions that read the format; `None` for transports that are known but not supported.
    reader: Option<FormatReader>,
}

/// Whether a path follows the colon of a transport.
#[derive(Clone, Copy)]
enum PathRule {
    /// A path must follow.
    Required,
    /// A path is optional: the default is the first of these locations that exists.
    Own(fn(&Environment) -> Vec<PathBuf>),
    /// Only the name of an image follows.
    NameOnly,
    /// Only the name of an image follows, which also says where the image is.
    #[cfg_attr(not(feature = "registry"), allow(dead_code, reason = "registries are left out"))]
    Remote,
}

/// The functions that detect and open a format.
struct FormatReader {
    /// Returns whether a place given without a transport has this format.
    detect: fn(&mut Site<'_>) -> Result<bool>,
    /// Opens a place as this format.
    open: fn(Site<'_>) -> Result<Box<dyn ImageSource>>,
}

impl Format {
    const fn unsupported(transport: &'static str, about: &'static str) -> Self {
        Format { transport, needs_slashes: false, path: PathRule::Required, about, reader: None }
    }
}

/// A kind of place that holds images, as a reference names it before the colon.
#[derive(Clone, Copy)]
pub struct Transport(&'static Format);

impl Transport {
    /// Returns all transports, including those that are not supported.
    pub fn all() -> impl Iterator<Item = Transport> {
        FORMATS.iter().map(Transport)
    }

    /// Returns the supported transports.
    pub fn supported() -> impl Iterator<Item = Transport> {
        Transport::all().filter(|transport| transport.0.reader.is_some())
    }

    /// Returns the name of the transport, which a reference writes before the colon.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.transport
    }

    /// Returns the text before the rest of a reference: the name and a colon, and `//` if it must follow.
    #[must_use]
    pub fn prefix(self) -> String {
        format!("{}:{}", self.name(), if self.0.needs_slashes { "//" } else { "" })
    }

    /// Returns what the transport leads to, with its article: `an OCI layout in a directory`.
    #[must_use]
    pub fn about(self) -> &'static str {
        self.0.about
    }

    /// Returns the places where the engine of this transport keeps its images, the preferred one first,
    /// whether or not they exist. Empty for transports that always need a path.
    #[must_use]
    pub fn own_places(self, environment: &Environment) -> Vec<PathBuf> {
        match self.0.path {
            PathRule::Own(places) => places(environment),
            PathRule::Required | PathRule::NameOnly | PathRule::Remote => Vec::new(),
        }
    }

    /// Returns whether this is the transport of a store, whose path can be left out.
    #[must_use]
    pub fn is_store(self) -> bool {
        matches!(self.0.path, PathRule::Own(_))
    }

    /// Returns whether a reference can leave out the path.
    pub(super) fn has_own_place(self) -> bool {
        !matches!(self.0.path, PathRule::Required)
    }

    /// Returns whether only the name of an image follows the colon.
    pub(super) fn takes_names_only(self) -> bool {
        matches!(self.0.path, PathRule::NameOnly | PathRule::Remote)
    }

    /// Returns whether images are requested over a network.
    #[must_use]
    pub fn is_remote(self) -> bool {
        matches!(self.0.path, PathRule::Remote)
    }

    /// Returns the first of the default locations that exists.
    fn own_place(self, environment: &Environment) -> Result<PathBuf> {
        let places = self.own_places(environment);
        if let Some(found) = places.iter().find(|path| path.exists()) {
            return Ok(found.clone());
        }
        let looked: Vec<_> = places.iter().map(|path| format!("'{}'", escape_path(path))).collect();
        let reason = format!("{} was not found; looked in {}", self.about(), looked.join(", "));
        let cause = io::Error::new(io::ErrorKind::NotFound, reason);
        Err(Error::io_on("cannot open", Subject::Transport(self.to_string()), cause))
    }

    /// Returns the transport that `text` begins with; a colon must follow the name.
    pub(super) fn of(text: &[u8]) -> Option<Transport> {
        Transport::all().find(|transport| {
            let rest = text.strip_prefix(transport.name().as_bytes());
            let mark: &[u8] = if transport.0.needs_slashes { b"://" } else { b":" };
            rest.is_some_and(|rest| rest.starts_with(mark))
        })
    }

    /// Checks that images can be opened through this transport.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the transport and the supported ones.
    pub(super) fn check_supported(self) -> Result<()> {
        self.reader().map(drop)
    }

    fn reader(self) -> Result<&'static FormatReader> {
        self.0.reader.as_ref().ok_or_else(|| {
            let names: Vec<_> = Transport::supported().map(Transport::name).collect();
            let reason = format!("{} cannot be read; use one of {}", self.about(), names.join(", "));
            Error::unsupported(Subject::Transport(self.to_string()), reason)
        })
    }
}

impl PartialEq for Transport {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Transport {}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Opens `place` through `transport`, or as the format that is detected from its content.
///
/// # Errors
/// [`Error::NotAnImage`] when no format is detected, [`Error::Unsupported`] for transports that are not
/// supported, and the errors of opening the format.
pub(super) fn open(transport: Option<Transport>, mut place: Site<'_>) -> Result<Box<dyn ImageSource>> {
    if let Some(transport) = transport {
        let reader = transport.reader()?;
        if place.location == Location::Own && !transport.takes_names_only() {
            place.location = Location::Path(transport.own_place(place.environment())?);
            place.own = true;
        }
        return (reader.open)(place);
    }
    let (location, selection) = (place.location.clone(), place.selection);
    open_detected(place).map_err(|error| match (error, location) {
        (Error::Io { action, subject: Some(subject), cause, .. }, Location::Path(path))
            if cause.kind() == io::ErrorKind::NotFound && *subject == Subject::Archive(path.clone()) =>
        {
            let image_name = image_name(&path, selection);
            Error::io_on(action, Subject::Nowhere { path, image_name }, cause)
        }
        (error, _) => error,
    })
}

/// Returns the reference of a path and a selection, if it can be the name of an image in a registry.
#[cfg(feature = "registry")]
fn image_name(path: &Path, selection: &Selection) -> Option<String> {
    let path = path.to_str()?;
    let name = match selection {
        Selection::Sole => path.to_owned(),
        Selection::Name(name) => format!("{path}:{name}"),
        Selection::Index(_) | Selection::Container(_) => return None,
    };
    super::registry::is_image_name(&name).then_some(name)
}

#[cfg(not(feature = "registry"))]
fn image_name(_: &Path, _: &Selection) -> Option<String> {
    None
}

/// Opens the place as the format that is detected from its content.
fn open_detected(mut place: Site<'_>) -> Result<Box<dyn ImageSource>> {
    for reader in FORMATS.iter().filter_map(|format| format.reader.as_ref()) {
        if (reader.detect)(&mut place)? {
            return (reader.open)(place);
        }
    }
    // It is a directory or a tar, because the formats have looked for names in it.
    Err(Error::NotAnImage {
        path: place.archive()?.path().display().to_string(),
        reason: "found neither 'oci-layout' with 'index.json' nor 'manifest.json', and no store of an engine"
            .to_owned(),
        may_be_rootfs: true,
    })
}

/// The place that a reference leads to. It is opened only when a format needs it.
pub(super) struct Site<'a> {
    location: Location,
    #[cfg_attr(not(feature = "registry"), allow(dead_code, reason = "registries are left out"))]
    selection: &'a Selection,
    options: &'a OpenOptions,
    input: &'a mut dyn Read,
    archive: Option<Archive>,
    own: bool,
}

impl<'a> Site<'a> {
    /// Creates the place of `reference`. `input` is read for standard input.
    pub(super) fn new(reference: &'a Reference, options: &'a OpenOptions, input: &'a mut dyn Read) -> Self {
        let Reference { location, selection, .. } = reference;
        Site { location: location.clone(), selection, options, input, archive: None, own: false }
    }

    /// Returns the image that the reference selects, for a source whose place is part of that name.
    #[cfg(feature = "registry")]
    pub(super) fn selection(&self) -> &Selection {
        self.selection
    }

    /// Returns the options that the source is opened with.
    pub(super) fn options(&self) -> &OpenOptions {
        self.options
    }

    /// Returns the environment of the user.
    pub(super) fn environment(&self) -> &'a Environment {
        &self.options.environment
    }

    /// Returns whether the user left out the path, so that this is the engine's default location on this host.
    pub(super) fn is_own_place(&self) -> bool {
        self.own
    }

    /// Returns the path that the user gave; `None` for standard input and sources without a path.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.location {
            Location::Path(path) => Some(path),
            Location::Stdin | Location::Own => None,
        }
    }

    /// Returns the place as a directory; `None` if it is something else or does not exist.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be opened.
    pub(super) fn directory(&self) -> Result<Option<Beneath>> {
        match self.path() {
            Some(path) if path.is_dir() => Ok(Some(Beneath::open(path)?.within(self.options.limits))),
            _ => Ok(None),
        }
    }

    /// Returns whether digests and sizes in documents are checked.
    pub(super) fn verify(&self) -> Verify {
        self.options.verify
    }

    /// Returns the place as a set of named files: a directory or an archive.
    ///
    /// # Errors
    /// As [`Site::opened`] and [`Archive::from_opened`].
    pub(super) fn archive(&mut self) -> Result<&Archive> {
        let archive = match self.archive.take() {
            Some(archive) => archive,
            None => self.open_archive()?,
        };
        Ok(self.archive.insert(archive))
    }

    /// Converts the place into the archive that [`Site::archive`] returns.
    ///
    /// # Errors
    /// As [`Site::opened`] and [`Archive::from_opened`].
    pub(super) fn into_archive(mut self) -> Result<Archive> {
        match self.archive.take() {
            Some(archive) => Ok(archive),
            None => self.open_archive(),
        }
    }

    /// Opens the place as it is, and returns its path, which is `-` for standard input. Standard input is
    /// spooled.
    ///
    /// # Errors
    /// As [`open_path`]; [`Error::Io`] when standard input cannot be spooled.
    pub(super) fn opened(&mut self) -> Result<(PathBuf, Opened)> {
        match &self.location {
            Location::Path(path) => Ok((path.clone(), open_path(path, self.options.limits)?)),
            Location::Own => Err(Error::unsupported(Subject::Image, "no path was given")),
            Location::Stdin => {
                let file = spool(self.input, &Subject::StandardInput, self.options)?;
                Ok((PathBuf::from("-"), Opened::File { file, identity: BlobIdentity::Unknown }))
            }
        }
    }

    fn open_archive(&mut self) -> Result<Archive> {
        let (path, opened) = self.opened()?;
        Archive::from_opened(&path, opened, self.options)
    }
}

/// Opens `archive` as the format that is detected from its content.
///
/// # Errors
/// As [`open`].
pub(super) fn open_archive(archive: Archive, options: &OpenOptions) -> Result<Box<dyn ImageSource>> {
    let place = Site {
        location: Location::Path(archive.path().to_owned()),
        selection: &Selection::Sole,
        options,
        input: &mut io::empty(),
        archive: Some(archive),
        own: false,
    };
    open(None, place)
}

fn cannot_write_in(dir: &Path, cause: io::Error) -> Error {
    Error::io_on("cannot write a temporary file in", Subject::File(dir.to_owned()), cause)
}

/// Copies `input` to an unnamed temporary file, which is removed when it is closed. `what` names the input in
/// errors.
///
/// # Errors
/// [`Error::Io`] for an input that cannot be read to its end, and for a disk that is full.
pub(super) fn spool(input: &mut dyn Read, what: &Subject, options: &OpenOptions) -> Result<File> {
    let mut refused = Error::unsupported(what.clone(), "no directory for temporary files is set");
    let mut created = None;
    for dir in &options.spool_dirs {
        match tempfile::tempfile_in(dir) {
            Ok(file) => {
                created = Some((file, dir));
                break;
            }
            Err(cause) => refused = cannot_write_in(dir, cause),
        }
    }
    let Some((mut file, dir)) = created else { return Err(refused) };
    let cannot_write = |cause| cannot_write_in(dir, cause);
    let mut buffer = vec![0; SPOOL_BUFFER_BYTES];
    loop {
        let count = match input.read(&mut buffer) {
            Ok(0) => return Ok(file),
            Ok(count) => count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(Error::io_on("cannot read", what.clone(), cause)),
        };
        file.write_all(buffer.get(..count).unwrap_or_default()).map_err(cannot_write)?;
    }
}
