//! Archives that are compressed as a whole: indexed once, like a layer, and read through the span cache.
//!
//! This module owns the order of these steps. It does not know formats of archives or what the members are.

use std::path::Path;
use std::sync::Arc;

use super::index::{Blob, Keys};
use super::{Engine, reported};
use crate::compress::Compression;
use crate::content::TarBytes;
use crate::error::{Error, Result, Subject};
use crate::layer::growth::Growth;
use crate::layer::index::{Expected, TarObserver};
use crate::limits::Limits;
use crate::read_at::ReadAt;
use crate::source::{self, BlobIdentity, ImageSource, Member, OpenOptions, Reference, Unpack};

impl Engine {
    /// Opens the source that `reference` names. An archive that is compressed as a whole is decompressed
    /// once, unless its index is in the store.
    ///
    /// # Errors
    /// As [`source::open`].
    pub(crate) fn open_source(&self, reference: &Reference) -> Result<Box<dyn ImageSource>> {
        let engine = &self.inner.options;
        let store_dir = engine.store.as_ref().map(|store| store.directory().to_owned());
        let cache_dir = store_dir.clone();
        let spool_dirs = store_dir.into_iter().chain(engine.spool_dir.clone()).collect();
        let unpack = Some(Arc::new(self.clone()) as Arc<dyn Unpack>);
        let options = OpenOptions {
            spool_dirs,
            unpack,
            verify: engine.verify,
            environment: engine.environment.clone(),
            namespace: engine.namespace.clone(),
            registry: engine.registry.clone(),
            cache_dir,
            limits: engine.limits,
        };
        source::open(reference, &options)
    }
}

impl Unpack for Engine {
    fn open_compressed(
        &self,
        bytes: Arc<dyn ReadAt>,
        compression: Compression,
        path: &Path,
        identity: BlobIdentity,
    ) -> Result<(Arc<dyn ReadAt>, Vec<Member>)> {
        let what = Subject::Archive(path.to_owned());
        let keys = Keys::of_archive(identity);
        let progress = self.inner.options.progress.as_deref();
        let index = reported(progress, "Reading the archive", bytes.len(), || {
            let observer =
                self.members(&what, bytes.len()).map(|members| Box::new(members) as Box<dyn TarObserver>);
            let limits = self.inner.options.limits.of_archive();
            let expected = Expected::default();
            let growth = &Growth::new(bytes.len(), limits);
            let (compression, decoders) = (Some(compression), &self.inner.archive_decoders);
            let blob = Blob { what: &what, bytes: &bytes, compression, expected, limits, growth, decoders };
            self.index(blob, &keys, observer)
        })
        .map_err(|error| match error {
            Error::Limit { subject, limit, value, max } => {
                Error::Limit { subject, limit: Limits::name_of_archive(limit), value, max }
            }
            error => error,
        })?;
        let tar = self.layer_bytes(&what, index, bytes, &self.inner.archive_decoders);
        let members = source::members(tar.reader().index(), self.inner.options.limits)
            .map_err(|fault| fault.of(&what))?;
        Ok((Arc::new(TarBytes(tar)), members))
    }
}
