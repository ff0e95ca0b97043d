//! The table of formats: each transport, what detects its images, and what opens them.
//!
//! The grammar of references, detection by content, opening and the help texts all read this
//! table, so a new source is one module and one row. The order of the rows is the order of
//! detection.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::archive::{Archive, not_an_image};
use super::blobs::BlobIdentity;
use super::{ImageSource, Location, OpenOptions, dir, docker_archive, oci_layout};
use crate::error::{Error, Result, Subject};
use crate::layer::index::Verify;

/// OCI layouts come first: archives of Docker 25 and later are a docker-archive too (F3).
static FORMATS: &[Format] = &[
    Format {
        transport: "oci",
        needs_slashes: false,
        about: "an OCI layout in a directory",
        reader: Some(FormatReader { detect: oci_layout::detect, open: oci_layout::open }),
    },
    Format {
        transport: "oci-archive",
        needs_slashes: false,
        about: "an OCI layout in a tar archive",
        reader: Some(FormatReader { detect: oci_layout::detect, open: oci_layout::open }),
    },
    Format {
        transport: "dir",
        needs_slashes: false,
        about: "a directory written by skopeo",
        reader: Some(FormatReader { detect: dir::detect, open: dir::open }),
    },
    Format {
        transport: "docker-archive",
        needs_slashes: false,
        about: "a tar archive written by docker save or podman save",
        reader: Some(FormatReader { detect: docker_archive::detect, open: docker_archive::open }),
    },
    Format::unsupported("registry-storage", "the storage directory of a registry"),
    Format::unsupported("docker-graph", "the data directory of a Docker engine"),
    Format::unsupported("containers-storage", "the storage of podman, buildah or CRI-O"),
    Format::unsupported("containerd", "the data directory of containerd"),
    Format::unsupported("docker-daemon", "an image of a running Docker engine"),
    Format { needs_slashes: true, ..Format::unsupported("docker", "an image in a registry") },
    Format { needs_slashes: true, ..Format::unsupported("https", "an image on a web server") },
];

/// One row.
struct Format {
    /// What a reference begins with, before the colon.
    transport: &'static str,
    /// True when `//` must follow the colon: with the colon alone, the word is a file name.
    needs_slashes: bool,
    /// What the transport leads to, with its article.
    about: &'static str,
    /// `None` for transports that are known by name only.
    reader: Option<FormatReader>,
}

/// What reads a format.
struct FormatReader {
    /// Returns whether a place that was named without a transport has this format.
    detect: fn(&mut Site<'_>) -> Result<bool>,
    /// Opens a place as this format.
    open: fn(Site<'_>) -> Result<Box<dyn ImageSource>>,
}

impl Format {
    const fn unsupported(transport: &'static str, about: &'static str) -> Self {
        Format { transport, needs_slashes: false, about, reader: None }
    }
}

/// A kind of place that images are kept in, as the word before the colon names it.
#[derive(Clone, Copy)]
pub struct Transport(&'static Format);

impl Transport {
    /// Returns all transports, those that cannot be opened included.
    pub fn all() -> impl Iterator<Item = Transport> {
        FORMATS.iter().map(Transport)
    }

    /// Returns the transports that can be opened.
    pub fn supported() -> impl Iterator<Item = Transport> {
        Transport::all().filter(|transport| transport.0.reader.is_some())
    }

    /// Returns the word before the colon.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.transport
    }

    /// Returns what the transport leads to, with its article: `an OCI layout in a directory`.
    #[must_use]
    pub fn about(self) -> &'static str {
        self.0.about
    }

    /// Returns the transport that `text` begins with; the colon follows its name.
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
    /// [`Error::Unsupported`] naming the transport and those that can be used.
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

/// Opens `place` through `transport`, or as the format that its content shows.
///
/// # Errors
/// [`Error::NotAnImage`] when no format is detected, [`Error::Unsupported`] for transports that
/// cannot be opened, and what opening gives.
pub(super) fn open(transport: Option<Transport>, mut place: Site<'_>) -> Result<Box<dyn ImageSource>> {
    if let Some(transport) = transport {
        return (transport.reader()?.open)(place);
    }
    for reader in FORMATS.iter().filter_map(|format| format.reader.as_ref()) {
        if (reader.detect)(&mut place)? {
            return (reader.open)(place);
        }
    }
    let reason = "found neither 'oci-layout' with 'index.json' nor 'manifest.json'";
    Err(not_an_image(place.archive()?.path(), reason))
}

/// Where a reference leads. Nothing is opened before a format asks for it.
pub(super) struct Site<'a> {
    location: &'a Location,
    options: &'a OpenOptions,
    input: &'a mut dyn Read,
    archive: Option<Archive>,
}

impl<'a> Site<'a> {
    /// The place at `location`; `input` is standard input.
    pub(super) fn new(location: &'a Location, options: &'a OpenOptions, input: &'a mut dyn Read) -> Self {
        Site { location, options, input, archive: None }
    }

    /// Returns whether what documents promise is to be checked.
    pub(super) fn verify(&self) -> Verify {
        self.options.verify
    }

    /// Returns the place as a folder of named files: a directory or an archive.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub(super) fn archive(&mut self) -> Result<&Archive> {
        let archive = match self.archive.take() {
            Some(archive) => archive,
            None => self.open_archive()?,
        };
        Ok(self.archive.insert(archive))
    }

    /// As [`Site::archive`], to keep.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub(super) fn into_archive(mut self) -> Result<Archive> {
        match self.archive.take() {
            Some(archive) => Ok(archive),
            None => self.open_archive(),
        }
    }

    fn open_archive(&mut self) -> Result<Archive> {
        match self.location {
            Location::Path(path) => Archive::open(path, self.options),
            Location::Stdin => {
                let file = spool(self.input, self.options)?;
                Archive::from_file(Path::new("-"), file, BlobIdentity::Unknown, self.options)
            }
        }
    }
}

/// Copies `input` to a file that has no name and goes away with us.
fn spool(input: &mut dyn Read, options: &OpenOptions) -> Result<File> {
    let Some(dir) = &options.spool_dir else {
        return Err(Error::unsupported(Subject::StandardInput, "no directory for temporary files is set"));
    };
    let cannot = |cause| Error::io_on("cannot spool standard input in", Subject::File(dir.clone()), cause);
    let mut file = tempfile::tempfile_in(dir).map_err(cannot)?;
    io::copy(input, &mut file).map_err(cannot)?;
    Ok(file)
}
