//! Images in registries: `docker://[HOST/]NAME[:TAG][@DIGEST]`.
//!
//! This module owns the source: which image of a repository is opened, which documents come from the cache
//! directory, and how many documents one opening may request. The modules below own hosts and requests.

mod auth;
mod backoff;
mod blob;
mod blob_fetch;
mod challenge;
mod client;
mod containerd_hosts;
mod content_cache;
mod credentials;
mod documents;
mod downloads;
mod exchange;
#[cfg(test)]
pub(crate) mod fake;
mod fetch;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hosts;
mod http;
mod name;
mod plan;
mod registries_conf;
mod repository;
#[cfg(test)]
mod tests;
mod transfer;
mod url;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use self::blob::RemoteBlob;
use self::blob_fetch::BlobFetch;
use self::challenge::Challenges;
use self::client::Client;
use self::content_cache::ContentCache;
use self::credentials::Login;
use self::documents::Documents;
use self::downloads::Downloads;
pub(crate) use self::fetch::{Cancel, NetError};
use self::http::Http;
use self::name::{ImageName, is_tag};
use self::repository::Repository;
use super::blobs::Blobs;
use super::formats::Site;
use super::survey::Survey;
use super::walk::Walk;
use super::{
    DocumentRole, ImageDetails, ImageSource, ImageSummary, LayerBlob, OpenedImage, RegistryOptions, Selection,
};
use crate::digest::Digest;
use crate::error::{Error, Result, Subject};
use crate::image::Platform;
use crate::image::manifest::{Descriptor, MAX_DOCUMENT_BYTES};
use crate::layer::index::Verify;
use crate::limits::Limits;
use crate::read_at::ReadAt;
use crate::workers::cores;

/// How many layers are read at the same time at least: the answers of registries take long to arrive.
const MIN_READS_AT_ONCE: usize = 6;
/// Returns false: a path is never an image in a registry.
pub(super) fn detect(_: &mut Site<'_>) -> Result<bool> {
    Ok(false)
}

/// Returns whether `text` is the name of an image, as it can follow `docker://`.
pub(super) fn is_image_name(text: &str) -> bool {
    ImageName::parse(text).is_ok()
}

/// Opens the repository of the image that the reference names. No request is made.
///
/// # Errors
/// [`Error::Reference`] for a name that is malformed; the errors of [`hosts::endpoints`].
pub(super) fn open(site: Site<'_>) -> Result<Box<dyn ImageSource>> {
    let text = match (site.path(), site.selection()) {
        (None, Selection::Name(name)) => name.clone(),
        // `--image`: the rest of the reference names the repository.
        (Some(path), Selection::Name(image)) => {
            let mark = if image.contains(':') { '@' } else { ':' };
            format!("{}{mark}{image}", path.to_string_lossy())
        }
        (Some(path), _) => path.to_string_lossy().into_owned(),
        (None, _) => String::new(),
    };
    let name = ImageName::parse(&text)?;
    let options = site.options();
    let registry = &options.registry;
    let endpoints = hosts::endpoints(&name, &options.environment, registry.insecure)?;
    let login = Login::new(registry.auth_file.as_deref(), &options.environment);
    let login = login.ending_on(registry.cancel.clone());
    let http = Http::new(options.environment.proxies.clone(), registry.net_timeout, &registry.cancel);
    let cancel = registry.cancel.clone();
    let challenges = Challenges::new(options.cache_dir.clone());
    let repository = Repository::new(
        name.clone(),
        Client::new(http),
        endpoints,
        (&login, &challenges),
        registry.net_timeout,
        cancel,
    );
    Ok(Box::new(Registry {
        name,
        text,
        repository: Arc::new(repository),
        documents: Documents::new(options.cache_dir.clone()),
        has_cache: options.cache_dir.is_some(),
        downloads: Downloads::new(
            ContentCache::new(options.cache_dir.clone(), registry.blob_cache_bytes),
            registry.net_timeout,
            registry.cancel.clone(),
        ),
        options: registry.clone(),
        verify: options.verify,
        limits: options.limits,
    }))
}

/// A repository in a registry.
#[derive(Debug)]
struct Registry {
    name: ImageName,
    /// The name as the reference writes it.
    text: String,
    repository: Arc<Repository>,
    documents: Documents,
    /// Whether there is a cache directory.
    has_cache: bool,
    downloads: Arc<Downloads>,
    options: RegistryOptions,
    verify: Verify,
    limits: Limits,
}

impl ImageSource for Registry {
    fn kind(&self) -> &'static str {
        "docker"
    }

    fn images(&self) -> Result<Vec<ImageSummary>> {
        if !self.lists_names_only() {
            return Ok(vec![ImageSummary { names: vec![self.name.to_string()], ..ImageSummary::default() }]);
        }
        let tags = self.tags()?;
        let summary = |(index, tag)| ImageSummary {
            index,
            names: vec![format!("{}:{tag}", self.name.place())],
            ..ImageSummary::default()
        };
        Ok(tags.into_iter().enumerate().map(summary).collect())
    }

    fn lists_names_only(&self) -> bool {
        self.name.tag.is_none() && self.name.digest.is_none()
    }

    fn image(&self, select: &Selection, platform: Option<&Platform>) -> Result<OpenedImage> {
        let name = self.selected(select)?;
        let top = self.top(&name)?;
        let opening = Opening::of(self);
        let image = Walk::new(&opening, platform, self.verify).open(&[&top], vec![name.to_string()])?;
        let sizes = image.layers.iter().map(LayerBlob::about_bytes);
        self.check_size(sizes.fold(0, u64::saturating_add))?;
        Ok(image)
    }

    fn details(&self, summary: &ImageSummary, platform: Option<&Platform>) -> Result<ImageDetails> {
        let selection = summary.names.first().map_or(Selection::Sole, |name| Selection::Name(name.clone()));
        Ok(ImageDetails::of(summary, &self.image(&selection, platform)?))
    }

    fn survey(&self, select: &Selection, platform: Option<&Platform>) -> Result<Survey> {
        let top = self.top(&self.selected(select)?)?;
        Ok(Walk::new(&Opening::of(self), platform, self.verify).survey(&[&top]))
    }
}

impl Registry {
    /// Returns the image of this repository that `select` names: by the whole name, by a tag or a digest
    /// alone, or by its position in the list of tags.
    fn selected(&self, select: &Selection) -> Result<ImageName> {
        let tagged = |tag: String| ImageName { tag: Some(tag), digest: None, ..self.name.clone() };
        let unknown = || Error::NoSuchImage {
            path: format!("docker://{}", self.name.place()),
            selector: select.to_string(),
            candidates: Vec::new(),
        };
        match select {
            Selection::Sole => Ok(self.name.clone()),
            Selection::Name(text) if *text == self.text || self.text.ends_with(&format!(":{text}")) => {
                Ok(self.name.clone())
            }
            Selection::Name(text) => {
                if let Ok(digest) = text.parse() {
                    return Ok(ImageName { tag: None, digest: Some(digest), ..self.name.clone() });
                }
                let name = ImageName::parse(text).ok().filter(|name| name.place() == self.name.place());
                match name {
                    Some(name) => Ok(name),
                    None if is_tag(text) => Ok(tagged(text.clone())),
                    None => Err(unknown()),
                }
            }
            Selection::Index(index) => self.tags()?.into_iter().nth(*index).map(tagged).ok_or_else(unknown),
            Selection::Container(_) => Err(unknown()),
        }
    }

    /// Returns the tags of the repository, sorted.
    fn tags(&self) -> Result<Vec<String>> {
        self.online("the list of tags")?;
        self.repository.tags().map_err(|error| match error {
            NetError::Missing { host, .. } => {
                let reason = format!("has no repository {}", self.name.repository);
                Error::Registry { host, reason, status: None }
            }
            error => error.into(),
        })
    }

    /// Returns the descriptor of the document that `name` leads to.
    fn top(&self, name: &ImageName) -> Result<Descriptor> {
        let (digest, bytes) = match (name.digest, name.tag_or_latest()) {
            (Some(digest), _) => (digest, None),
            (None, tag) => self.tagged(name, tag.unwrap_or_default())?,
        };
        let bytes = match bytes.or_else(|| self.documents.document(&digest)) {
            Some(bytes) => bytes,
            None => {
                self.online(&format!("manifest {digest}"))?;
                let bytes = self.repository.manifest(&digest, MAX_DOCUMENT_BYTES)?;
                self.keep(&digest, &bytes);
                bytes
            }
        };
        Ok(Descriptor::new(None, digest, bytes.len() as u64))
    }

    /// Returns the digest that a tag names now, and the document if it was fetched. Offline, it is the digest
    /// that the tag named last.
    fn tagged(&self, name: &ImageName, tag: &str) -> Result<(Digest, Option<Vec<u8>>)> {
        let last = self.documents.tag(name);
        if self.options.offline {
            return match last {
                Some(digest) => Ok((digest, None)),
                None => Err(self.not_stored(&format!("the tag '{name}'"))),
            };
        }
        let known = last.filter(|digest| self.documents.document(digest).is_some());
        let found = self.repository.tagged(tag, known, MAX_DOCUMENT_BYTES)?;
        if let Some(bytes) = &found.bytes {
            self.documents.keep_document(&found.digest, bytes);
        }
        if last != Some(found.digest) {
            self.documents.keep_tag(name, &found.digest);
        }
        Ok((found.digest, found.bytes))
    }

    /// Stores a document, if it is what its digest says.
    fn keep(&self, digest: &Digest, bytes: &[u8]) {
        if digest.algorithm().digest(bytes) == *digest {
            self.documents.keep_document(digest, bytes);
        }
    }

    /// Refuses layers whose stated size is absurd, before anything is prepared for them.
    fn check_size(&self, bytes: u64) -> Result<()> {
        let max = self.limits.registry_image_bytes();
        if bytes <= max.max {
            return Ok(());
        }
        let what = Subject::Archive(PathBuf::from(format!("docker://{}", self.name.place())));
        Err(Error::over(what, max, bytes))
    }

    /// Checks that requests may be made.
    ///
    /// # Errors
    /// As [`Registry::not_stored`].
    fn online(&self, what: &str) -> Result<()> {
        if self.options.offline { Err(self.not_stored(what)) } else { Ok(()) }
    }

    /// Returns the error of something that is not in the cache, or is not looked up there.
    fn not_stored(&self, what: &str) -> Error {
        if self.has_cache {
            return Error::Offline { what: what.to_owned() };
        }
        let reason = format!("{what} must be requested, because the cache is not used; --offline forbids it");
        Error::Registry { host: self.name.host.clone(), reason, status: None }
    }
}

/// The documents of one image while it is opened. An image index can list thousands, so they are counted.
#[derive(Debug)]
struct Opening<'a> {
    registry: &'a Registry,
    /// How many documents were requested.
    requested: AtomicU64,
    requested_bytes: AtomicU64,
}

impl<'a> Opening<'a> {
    fn of(registry: &'a Registry) -> Self {
        Opening { registry, requested: AtomicU64::new(0), requested_bytes: AtomicU64::new(0) }
    }

    /// Counts a request for a document.
    ///
    /// # Errors
    /// [`Error::Limit`] when no more may be requested.
    fn count(&self, wanted: &Descriptor, role: DocumentRole) -> Result<()> {
        let what = || Subject::Document { role, digest: wanted.digest };
        let requested = self.requested.fetch_add(1, Ordering::Relaxed) + 1;
        let (documents, document_bytes) =
            (self.registry.limits.registry_documents(), self.registry.limits.registry_document_bytes());
        if requested > documents.max {
            return Err(Error::over(what(), documents, requested));
        }
        let bytes = self.requested_bytes.load(Ordering::Relaxed);
        if bytes > document_bytes.max {
            return Err(Error::over(what(), document_bytes, bytes));
        }
        Ok(())
    }
}

impl Blobs for Opening<'_> {
    fn place(&self) -> String {
        format!("docker://{}", self.registry.name.place())
    }

    fn limits(&self) -> Limits {
        self.registry.limits
    }

    fn blob(&self, wanted: &Descriptor) -> Result<Option<Arc<dyn ReadAt>>> {
        self.registry.check_size(wanted.size)?;
        let Registry { repository, options, downloads, .. } = self.registry;
        let fetch = BlobFetch::new(repository.clone(), wanted.digest, wanted.size, options.offline);
        Ok(Some(Arc::new(RemoteBlob::new(Arc::new(fetch), wanted.digest, downloads))))
    }

    fn document(&self, role: DocumentRole, wanted: &Descriptor) -> Result<Option<Vec<u8>>> {
        let Registry { repository, documents, .. } = self.registry;
        if let Some(bytes) = documents.document(&wanted.digest) {
            return Ok(Some(bytes));
        }
        self.registry.online(&format!("{} {}", role.name(), wanted.digest))?;
        self.count(wanted, role)?;
        let found = match role {
            DocumentRole::Config => repository.small_blob(&wanted.digest, MAX_DOCUMENT_BYTES),
            DocumentRole::ImageIndex | DocumentRole::Manifest => {
                repository.manifest(&wanted.digest, MAX_DOCUMENT_BYTES)
            }
        };
        match found {
            Ok(bytes) => {
                self.requested_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                self.registry.keep(&wanted.digest, &bytes);
                Ok(Some(bytes))
            }
            Err(NetError::Missing { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn has_manifest(&self, _: &Descriptor) -> Result<bool> {
        // Asking for each platform would cost a request each; the chosen one is asked for when it is read.
        Ok(true)
    }

    fn reads_at_once(&self) -> usize {
        cores().max(MIN_READS_AT_ONCE)
    }
}

impl From<NetError> for Error {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Unreachable { host, reason } => Error::Unreachable { host, reason },
            NetError::TimedOut { host } => {
                Error::Unreachable { host, reason: "no answer in time".to_owned() }
            }
            NetError::Denied { host, user } => Error::Denied { host, user },
            NetError::Limited { host, after } => Error::Limited { host, after },
            NetError::Missing { host, what } => {
                Error::Registry { host, reason: format!("has no {what}"), status: Some(404) }
            }
            NetError::Certificate { host, reason } => Error::Certificate { host, reason },
            NetError::Credentials { host, reason } => {
                let reason = format!("cannot read its credentials: {reason}");
                Error::Registry { host, reason, status: None }
            }
            NetError::Refused { host, reason } => Error::Registry { host, reason, status: None },
            NetError::Cancelled => Error::Interrupted,
            NetError::Offline { what } => Error::Offline { what },
        }
    }
}
