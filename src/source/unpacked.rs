//! Layers that an engine keeps unpacked, as directories.
//!
//! This module owns what a layer's directory is read as: the exact tar that the image names, put together
//! from tar-split and the files, or a tar that is laid out from a walk through the directory. A layer whose
//! digest the image states and whose exact tar cannot be put together cannot be verified: that is an error
//! unless verification is off. This module must not know where engines keep their layers.

use std::io;
use std::sync::Arc;

use super::assembled::{AssembledTar, TarPlan};
use super::beneath::Beneath;
use super::blobs::BlobIdentity;
use super::directory::{self, DirectoryForm, IdMap};
use super::{LayerBlob, SurveyedLayer, tar_split};
use crate::digest::Digest;
use crate::error::{Error, Result, Subject};
use crate::image::LayerDescriptor;
use crate::layer::index::Verify;
use crate::path::escape_path;

/// A layer that is kept as a directory.
#[derive(Debug, Clone)]
pub(super) struct UnpackedLayer {
    /// The directory with the layer's files.
    pub(super) directory: Beneath,
    /// The layout of the layer's tar, if the engine keeps it.
    pub(super) tar_split: Option<TarSplit>,
    /// How the directory marks deleted files; otherwise why the directory does not show what the layer
    /// changed.
    pub(super) form: Result<DirectoryForm, String>,
    /// The owners of the files.
    pub(super) ids: IdMap,
    /// The approximate length of the layer's tar in bytes.
    pub(super) size_hint: Option<u64>,
}

/// A file `tar-split.json.gz`. It is opened when the layer is read.
#[derive(Debug, Clone)]
pub(super) struct TarSplit {
    dir: Beneath,
    name: String,
}

impl TarSplit {
    /// Returns the file `name` in `dir`; `None` if it does not exist.
    ///
    /// # Errors
    /// As [`Beneath::file`].
    pub(super) fn find(dir: &Beneath, name: &str) -> Result<Option<Self>> {
        let found = dir.file(name)?;
        Ok(found.map(|_| TarSplit { dir: dir.clone(), name: name.to_owned() }))
    }

    fn plan(&self) -> io::Result<TarPlan> {
        tar_split::plan(self.file()?, &self.dir.describe(&self.name))
    }

    fn fitting_plan(&self, root: &Beneath) -> io::Result<TarPlan> {
        tar_split::fitting_plan(self.file()?, &self.dir.describe(&self.name), root)
    }

    fn file(&self) -> io::Result<std::fs::File> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("{} is missing", self.what()));
        self.dir.file(&self.name).map_err(of_error)?.ok_or_else(missing)
    }

    fn what(&self) -> Subject {
        self.dir.describe(&self.name)
    }
}

impl UnpackedLayer {
    /// Returns the layer's tar. `number` is the position of the layer in the image.
    ///
    /// With [`Verify::Off`], a layer whose exact tar cannot be put together is shown as the directory is now,
    /// with a warning.
    ///
    /// # Errors
    /// [`Error::Unverifiable`] when the image states the layer's digest and the engine did not keep the
    /// layout of the tar; the errors of a walk.
    pub(super) fn blob(
        self,
        number: usize,
        descriptor: LayerDescriptor,
        verify: Verify,
    ) -> Result<LayerBlob> {
        let what = Subject::Layer { number, diff_id: descriptor.diff_id };
        let size_hint = self.size_hint;
        let (bytes, identity) = match (descriptor.diff_id, verify) {
            (None, _) => self.walked(&what)?,
            (Some(_), Verify::Full) => match self.tar() {
                Ok(tar) => (tar, BlobIdentity::Tar),
                Err(reason) => return Err(Error::unverifiable(what, reason)),
            },
            // Nothing is stored without verification, so the bytes need no identity.
            (Some(_), Verify::Off) => (self.tar_or_directory(what), BlobIdentity::Unknown),
        };
        Ok(LayerBlob { descriptor, bytes: Arc::new(bytes), identity, size_hint })
    }

    /// Returns the layer as a survey lists it.
    pub(super) fn surveyed(self, diff_id: Option<Digest>) -> SurveyedLayer {
        let (bytes, unchecked) = match diff_id {
            None => (None, Some("nothing states the digest of this layer".to_owned())),
            Some(_) => match self.tar() {
                Ok(tar) => (Some(Arc::new(tar) as _), None),
                Err(reason) => (None, Some(reason)),
            },
        };
        SurveyedLayer { digest: None, size: None, diff_id, bytes, unchecked }
    }

    /// Returns the exact tar of the layer, or why there is none.
    fn tar(&self) -> Result<AssembledTar, String> {
        let Some(split) = self.tar_split.clone() else {
            return Err(format!(
                "the engine did not keep the layout of its tar, only the files in '{}'",
                escape_path(self.directory.path())
            ));
        };
        Ok(AssembledTar::new(self.directory.clone(), move || split.plan()))
    }

    /// Returns the tar of a walk through the directory as it is now.
    fn walked(&self, what: &Subject) -> Result<(AssembledTar, BlobIdentity)> {
        let form = self.form.clone().map_err(|reason| Error::unsupported(what.clone(), reason))?;
        let (plan, seen) = directory::plan(&self.directory, form, &self.ids)?;
        Ok((AssembledTar::planned(self.directory.clone(), plan), BlobIdentity::Walk(seen)))
    }

    /// Returns the exact tar if the files still fit, else the tar of a walk, with a warning.
    fn tar_or_directory(self, what: Subject) -> AssembledTar {
        let root = self.directory.clone();
        let make = move || {
            let reason = match &self.tar_split {
                None => "the engine did not keep the layout of its tar".to_owned(),
                Some(split) => match split.fitting_plan(&self.directory) {
                    Err(doubt)
                        if matches!(doubt.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound) =>
                    {
                        doubt.to_string()
                    }
                    plan => return plan,
                },
            };
            let form = self
                .form
                .clone()
                .map_err(|why| io::Error::new(io::ErrorKind::InvalidData, format!("{reason}; {why}")))?;
            log::warn!(
                "{what}: {reason}; showing the files in '{}' as they are now",
                escape_path(self.directory.path())
            );
            directory::plan(&self.directory, form, &self.ids).map(|(plan, _)| plan).map_err(of_error)
        };
        AssembledTar::new(root, make).without_checksums()
    }
}

/// Converts an error for a reader of bytes. The text keeps the subject of the error.
fn of_error(error: Error) -> io::Error {
    let kind = match &error {
        Error::Io { cause, .. } => cause.kind(),
        Error::Malformed { .. } => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error.to_string())
}
