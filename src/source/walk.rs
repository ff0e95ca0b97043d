//! The walk from a descriptor to an opened image, in any place that finds blobs by descriptor.
//!
//! This module owns the walk through image indexes to a manifest, its config and its layers. Every document
//! is compared with its descriptor's size and digest before it is parsed. Only a survey accepts documents
//! that do not match, and records the expected values. This module must not know names, or where blobs are
//! stored: [`Blobs`] finds them.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::Arc;

use super::blobs::{BlobIdentity, Blobs, MissingLayer, add_within, read_bounded};
use super::survey::{DocumentLog, DocumentRole, Survey, SurveyedLayer};
use super::{LayerBlob, OpenedImage};
use crate::digest::Digest;
use crate::error::{Error, Result, Subject};
use crate::image::manifest::{self, Descriptor, Document, MAX_DOCUMENT_BYTES, Manifest};
use crate::image::media_type::{DocumentKind, document_kind};
use crate::image::platform::choose;
use crate::image::{
    ImageConfig, ImageInfo, LayerDescriptor, LayerOrigin, Platform, check_layer_count, pair_layers,
};
use crate::layer::index::Verify;
use crate::limits::Limits;
use crate::read_at::ReadAt;

/// Maximum nesting of image indexes (F13). Real ones have two levels. The set of visited digests ends cycles;
/// this limit ends chains.
const MAX_NESTING: usize = 4;

/// Compares the configs of an image's candidates with other statements of the place about them.
pub(super) type Agreement<'a> = &'a dyn Fn(&[Digest]) -> Result<()>;

/// A search for one image.
pub(super) struct Walk<'a> {
    blobs: &'a dyn Blobs,
    /// The requested platform, if any.
    platform: Option<&'a Platform>,
    /// Whether a mismatch is an error or a warning.
    verify: Verify,
    agreement: Option<Agreement<'a>>,
    /// Records documents; if present, documents that do not match are not refused.
    log: Option<&'a DocumentLog>,
    /// The warnings already given. They are kept because documents are read more than once.
    warnings: RefCell<HashSet<String>>,
    limits: Limits,
    /// Total length of the documents that were read, in bytes.
    read_bytes: Cell<u64>,
}

/// A manifest that a walk found.
#[derive(Debug, Clone)]
struct Candidate {
    descriptor: Descriptor,
    /// False when the manifest's blob is missing (F4).
    present: bool,
}

impl<'a> Walk<'a> {
    /// Creates a walk through `blobs` to the image for `platform`, or for this host.
    pub(super) fn new(blobs: &'a dyn Blobs, platform: Option<&'a Platform>, verify: Verify) -> Self {
        Walk {
            blobs,
            platform,
            verify,
            agreement: None,
            log: None,
            warnings: RefCell::default(),
            limits: blobs.limits(),
            read_bytes: Cell::default(),
        }
    }

    /// Makes the walk refuse the image unless `agreement` accepts its configs.
    pub(super) fn agreeing(self, agreement: Option<Agreement<'a>>) -> Self {
        Walk { agreement, ..self }
    }

    /// Opens the image that `tops` lead to. `names` are the names of the image.
    ///
    /// # Errors
    /// [`Error::MissingBlob`] for a missing blob, [`Error::NoPlatform`] when no image has a suitable
    /// platform, and the faults of the image.
    pub(super) fn open(self, tops: &[&Descriptor], names: Vec<String>) -> Result<OpenedImage> {
        let candidates = self.candidates(tops)?;
        self.check_agreement(&candidates)?;
        let chosen = self.choose(candidates)?;
        self.open_candidate(&chosen, names)
    }

    /// Returns the configs of the images that `top` leads to, for all platforms that are stored.
    ///
    /// # Errors
    /// When an image index or a manifest cannot be read.
    pub(super) fn configs(&self, top: &Descriptor) -> Result<Vec<Digest>> {
        self.configs_of(&self.candidates(&[top])?)
    }

    /// Returns the kind of document that `top` leads to if it is not an image, with its article. A document
    /// that cannot be read counts as an image, because opening it reports the error.
    pub(super) fn artifact(&self, top: &Descriptor) -> Option<String> {
        let candidates = self.candidates(&[top]).ok()?;
        match candidates.as_slice() {
            [] => Some("an image index without an image".to_owned()),
            [one] if one.descriptor.digest == top.digest => self.manifest(top).ok()?.0.artifact(),
            _ => None,
        }
    }

    /// Surveys the image that `tops` lead to. Faults of the image are part of the survey.
    pub(super) fn survey(self, tops: &[&Descriptor]) -> Survey {
        let log = DocumentLog::default();
        let walk = Walk { log: Some(&log), ..self };
        let mut survey = Survey::default();
        let mut own = Vec::new();
        let walked = walk.candidates(tops).and_then(|candidates| {
            survey.faults.extend(walk.check_agreement(&candidates).err());
            let chosen = walk.choose(candidates)?;
            own.push(chosen.descriptor.digest);
            own.push(walk.survey_candidate(&chosen, &mut survey)?);
            Ok(())
        });
        if let Err(fault) = walked {
            // The survey also lists top documents that are missing or could not be followed.
            own.extend(tops.iter().map(|top| top.digest));
            survey.faults.push(fault);
        }
        survey.documents = log.of_image(&own);
        survey
    }

    /// Returns the manifests below `tops`, without attestations.
    ///
    /// # Errors
    /// [`Error::MissingBlob`] when one of `tops` is missing; [`Error::Malformed`] past [`MAX_NESTING`];
    /// [`Error::Limit`]; the faults of an image index.
    fn candidates(&self, tops: &[&Descriptor]) -> Result<Vec<Candidate>> {
        let mut seen = Seen::default();
        for top in tops {
            // A selected document must exist and be a manifest or an image index; entries of unknown types
            // inside an image index are skipped.
            let bytes = self
                .document(DocumentRole::Manifest, top)?
                .ok_or_else(|| missing(document(DocumentRole::Manifest, top), top))?;
            match manifest::parse(&document(DocumentRole::Manifest, top), &bytes, top.media_type.as_deref())?
            {
                Document::Manifest(_) => {
                    seen.found.push(Candidate { descriptor: (*top).clone(), present: true })
                }
                Document::Index(index) => {
                    seen.visited.insert(top.digest);
                    self.count_index(&mut seen, &document(DocumentRole::ImageIndex, top), &bytes)?;
                    self.descend(&index.manifests, 1, &mut seen)?;
                }
            }
        }
        Ok(seen.found)
    }

    fn descend(&self, descriptors: &[Descriptor], depth: usize, seen: &mut Seen) -> Result<()> {
        for descriptor in descriptors {
            if descriptor.is_attestation()
                || descriptor.artifact_type.is_some()
                || !seen.visited.insert(descriptor.digest)
            {
                continue;
            }
            let media_type = descriptor.media_type.as_deref().unwrap_or_default();
            match document_kind(media_type) {
                None => {}
                Some(DocumentKind::Manifest) => {
                    let (count, bound) = (seen.found.len() as u64 + 1, self.limits.manifests());
                    if count > bound.max {
                        return Err(Error::over(Subject::Image, bound, count));
                    }
                    seen.found.push(Candidate {
                        descriptor: descriptor.clone(),
                        present: descriptor.data.is_some() || self.blobs.has_manifest(descriptor)?,
                    });
                }
                Some(DocumentKind::Index) => {
                    let Some(bytes) = self.document(DocumentRole::ImageIndex, descriptor)? else {
                        continue;
                    };
                    let what = document(DocumentRole::ImageIndex, descriptor);
                    if depth >= MAX_NESTING {
                        let reason = format!("nested deeper than the limit of {MAX_NESTING} image indexes");
                        return Err(Error::malformed(what, reason));
                    }
                    self.count_index(seen, &what, &bytes)?;
                    if let Document::Index(index) = manifest::parse(&what, &bytes, Some(media_type))? {
                        self.descend(&index.manifests, depth + 1, seen)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn count_index(&self, seen: &mut Seen, what: &Subject, bytes: &[u8]) -> Result<()> {
        let len_bytes = bytes.len() as u64;
        seen.index_bytes = add_within(what, self.limits.index_bytes(), seen.index_bytes, len_bytes)?;
        Ok(())
    }

    /// Returns the candidate for `platform`, or for this host.
    ///
    /// # Errors
    /// [`Error::NoPlatform`] when no candidate is suitable, [`Error::MissingBlob`] when the blob of the
    /// suitable candidate is missing, [`Error::NotAnImage`] when there are no candidates.
    fn choose(&self, candidates: Vec<Candidate>) -> Result<Candidate> {
        let wanted = self.platform.cloned().unwrap_or_else(Platform::host);
        let (mut present, absent): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|one| one.present);
        let platforms = present.iter().map(|one| self.platform(one)).collect::<Result<Vec<_>>>()?;
        let best = choose(&wanted, &platforms);
        let absent_platforms: Vec<_> = absent.iter().map(|one| one.descriptor.platform.clone()).collect();
        let best_absent = choose(&wanted, &absent_platforms).and_then(|at| absent.get(at));
        match (best, best_absent) {
            (Some(at), _) => Ok(present.swap_remove(at)),
            // The platform was requested, so another candidate must not replace it.
            (None, Some(one)) if self.platform.is_some() || present.len() != 1 => {
                let what = Subject::ManifestFor { platform: wanted.to_string() };
                Err(missing(what, &one.descriptor))
            }
            _ if present.len() == 1 => {
                if self.platform.is_some() {
                    log::warn!("the only image is not for platform {wanted}");
                }
                Ok(present.swap_remove(0))
            }
            (None, _) if present.is_empty() && absent.is_empty() => Err(Error::NotAnImage {
                path: self.blobs.place(),
                reason: "the image index lists no image manifest".to_owned(),
                may_be_rootfs: false,
            }),
            (None, _) => {
                let present = platforms.iter().zip(&present).map(|(found, one)| (found, one, ""));
                let absent = absent_platforms.iter().zip(&absent);
                let absent = absent.map(|(found, one)| (found, one, " (not stored here)"));
                let available = present.chain(absent).map(|(found, one, note)| match found {
                    Some(platform) => format!("{platform}{note}"),
                    None => format!("unknown platform, manifest {}{note}", one.descriptor.digest),
                });
                Err(Error::NoPlatform { wanted: wanted.to_string(), available: available.collect() })
            }
        }
    }

    /// Returns the platform of a candidate, from its descriptor or else from its config (F14).
    fn platform(&self, candidate: &Candidate) -> Result<Option<Platform>> {
        if candidate.descriptor.platform.is_some() {
            return Ok(candidate.descriptor.platform.clone());
        }
        let (manifest, _) = self.manifest(&candidate.descriptor)?;
        if manifest.check_image().is_err() {
            return Ok(None);
        }
        let Some(bytes) = self.document(DocumentRole::Config, &manifest.config)? else {
            return Ok(None);
        };
        Ok(ImageConfig::parse(&document(DocumentRole::Config, &manifest.config), &bytes)?.platform)
    }

    /// Passes the configs of the candidates whose manifests are present to the agreement. Missing manifests
    /// are not compared; they are reported later.
    fn check_agreement(&self, candidates: &[Candidate]) -> Result<()> {
        let Some(agreement) = self.agreement else { return Ok(()) };
        let configs = self.configs_of(candidates)?;
        if configs.is_empty() { Ok(()) } else { self.checked(agreement(&configs)) }
    }

    fn configs_of(&self, candidates: &[Candidate]) -> Result<Vec<Digest>> {
        let present = candidates.iter().filter(|one| one.present);
        present.map(|one| Ok(self.manifest(&one.descriptor)?.0.config.digest)).collect()
    }

    /// Reads manifest and config of a candidate and finds its layers.
    ///
    /// # Errors
    /// [`Error::MissingBlob`] for a missing blob, and the faults of the image.
    fn open_candidate(&self, candidate: &Candidate, names: Vec<String>) -> Result<OpenedImage> {
        let descriptor = &candidate.descriptor;
        let (manifest, raw_manifest) = self.manifest(descriptor)?;
        if let (Some(own), Some(said)) = (&manifest.media_type, &descriptor.media_type)
            && own != said
        {
            let what = document(DocumentRole::Manifest, descriptor);
            self.warn(format!("{what}: the media type is '{own}', but the descriptor says '{said}'"));
        }
        manifest.check_image()?;
        let raw_config = self
            .document(DocumentRole::Config, &manifest.config)?
            .ok_or_else(|| missing(document(DocumentRole::Config, &manifest.config), &manifest.config))?;
        let config = ImageConfig::parse(&document(DocumentRole::Config, &manifest.config), &raw_config)?;
        let layers = pair_layers(&document(DocumentRole::Manifest, descriptor), &manifest.layers, &config)?;
        let stored = manifest.layers.iter().zip(&layers).enumerate();
        let blobs: Vec<LayerBlob> = stored
            .map(|(number, (stored, descriptor))| {
                self.layer(stored, MissingLayer { number, diff_ids: &config.diff_ids, descriptor })
            })
            .collect::<Result<_>>()?;
        let layers = blobs.iter().map(|blob| blob.descriptor.clone()).collect();
        Ok(OpenedImage {
            info: ImageInfo {
                names,
                manifest_digest: Some(descriptor.digest),
                config_digest: Some(manifest.config.digest),
                platform: config.platform.clone().or_else(|| descriptor.platform.clone()),
                config,
                layers,
                annotations: manifest.annotations,
                raw_manifest,
                raw_config,
                container: None,
            },
            layers: blobs,
            reads_at_once: self.blobs.reads_at_once(),
            size: None,
        })
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<(Manifest, Vec<u8>)> {
        let bytes = self
            .document(DocumentRole::Manifest, descriptor)?
            .ok_or_else(|| missing(document(DocumentRole::Manifest, descriptor), descriptor))?;
        let what = document(DocumentRole::Manifest, descriptor);
        match manifest::parse(&what, &bytes, descriptor.media_type.as_deref())? {
            Document::Manifest(manifest) => Ok((*manifest, bytes)),
            Document::Index(_) => Err(Error::malformed(what, "expected a manifest, found an image index")),
        }
    }

    /// Returns `result`, but turns a mismatch into a warning if verification is off.
    fn checked(&self, result: Result<()>) -> Result<()> {
        match result {
            Err(mismatch @ Error::Mismatch { .. }) if self.verify == Verify::Off => {
                self.warn(mismatch.to_string());
                Ok(())
            }
            result => result,
        }
    }

    fn warn(&self, warning: String) {
        if self.warnings.borrow_mut().insert(warning.clone()) {
            log::warn!("{warning}");
        }
    }

    /// Returns the layer with the blob `stored`. If the blob is missing, the place may have the layer in
    /// another form.
    fn layer(&self, stored: &Descriptor, layer: MissingLayer<'_>) -> Result<LayerBlob> {
        let MissingLayer { number, descriptor, .. } = layer;
        let what = Subject::Layer { number, diff_id: descriptor.diff_id };
        if let Some(data) = &stored.data {
            self.checked(stored.check(&what, data))?;
        }
        match self.blob(stored)? {
            Some(bytes) => {
                let identity = BlobIdentity::Digest(stored.digest);
                Ok(LayerBlob { descriptor: descriptor.clone(), bytes, identity, size_hint: None })
            }
            None => self.blobs.unpacked(&layer)?.ok_or_else(|| missing(what, stored)),
        }
    }

    /// Returns the bytes of a blob, embedded or stored, not checked yet; `None` when the blob is missing.
    fn blob(&self, descriptor: &Descriptor) -> Result<Option<Arc<dyn ReadAt>>> {
        match &descriptor.data {
            Some(data) => Ok(Some(Arc::new(data.clone()))),
            None => self.blobs.blob(descriptor),
        }
    }

    /// Returns the bytes of a document, compared with its descriptor; `None` when the document is missing.
    fn document(&self, role: DocumentRole, descriptor: &Descriptor) -> Result<Option<Vec<u8>>> {
        let what = document(role, descriptor);
        let bytes = match &descriptor.data {
            Some(data) => Some(read_bounded(&what, data, "MAX_DOCUMENT_BYTES", MAX_DOCUMENT_BYTES)?),
            None => self.blobs.document(role, descriptor)?,
        };
        let len_bytes = bytes.as_ref().map_or(0, Vec::len) as u64;
        let read_bytes = add_within(&what, self.limits.document_bytes(), self.read_bytes.get(), len_bytes)?;
        self.read_bytes.set(read_bytes);
        if let Some(log) = self.log {
            // Manifests and image indexes have the same file names; only the content shows which kind this
            // is.
            let role = bytes.as_deref().map_or(role, |bytes| role_of(role, &what, bytes));
            log.record(role, descriptor, bytes.as_deref());
            return Ok(bytes);
        }
        if let Some(bytes) = &bytes {
            self.checked(descriptor.check(&what, bytes))?;
        }
        Ok(bytes)
    }

    /// Adds the layers and faults of a candidate to `survey`, and returns the digest of its config.
    fn survey_candidate(&self, candidate: &Candidate, survey: &mut Survey) -> Result<Digest> {
        let (manifest, _) = self.manifest(&candidate.descriptor)?;
        manifest.check_image()?;
        let what = document(DocumentRole::Config, &manifest.config);
        let config = self.document(DocumentRole::Config, &manifest.config)?;
        let config = config.map(|bytes| ImageConfig::parse(&what, &bytes)).transpose();
        let listed_in = document(DocumentRole::Manifest, &candidate.descriptor);
        let config = config.and_then(|config| match config {
            Some(config) => {
                check_layer_count(&listed_in, manifest.layers.len(), &config).map(|()| Some(config))
            }
            None => Ok(None),
        });
        let diff_ids = match config {
            Ok(config) => config.map(|config| config.diff_ids).unwrap_or_default(),
            Err(fault) => {
                survey.faults.push(fault);
                Vec::new()
            }
        };
        for (number, stored) in manifest.layers.iter().enumerate() {
            let bytes = self.blob(stored)?;
            let unchecked = match bytes {
                Some(_) => None,
                None => self.survey_unpacked(number, stored, &diff_ids, survey),
            };
            survey.layers.push(SurveyedLayer {
                digest: Some(stored.digest),
                size: Some(stored.size),
                diff_id: diff_ids.get(number).copied(),
                bytes,
                unchecked,
            });
        }
        Ok(manifest.config.digest)
    }

    /// Returns why a layer whose blob is missing cannot be checked, if the place has it in another form.
    fn survey_unpacked(
        &self,
        number: usize,
        stored: &Descriptor,
        diff_ids: &[Digest],
        survey: &mut Survey,
    ) -> Option<String> {
        let descriptor = LayerDescriptor {
            media_type: stored.media_type.clone(),
            digest: Some(stored.digest),
            size: Some(stored.size),
            diff_id: diff_ids.get(number).copied(),
            created_by: None,
            origin: LayerOrigin::Image,
            urls: stored.urls.clone(),
        };
        match self.blobs.unpacked(&MissingLayer { number, diff_ids, descriptor: &descriptor }) {
            Ok(None) => None,
            Ok(Some(_)) => Some("its blob is missing, and its unpacked files have no digest".to_owned()),
            Err(Error::Unverifiable { reason, .. }) => Some(reason),
            Err(fault) => {
                survey.faults.push(fault);
                None
            }
        }
    }
}

/// The progress of a walk through image indexes.
#[derive(Debug, Default)]
struct Seen {
    found: Vec<Candidate>,
    visited: HashSet<Digest>,
    /// Total length of the image indexes, in bytes.
    index_bytes: u64,
}

/// Returns the actual role of a document. A list of images can lead to a manifest or to an image index, so a
/// document that was expected to be a manifest may be an image index.
fn role_of(asked: DocumentRole, what: &Subject, bytes: &[u8]) -> DocumentRole {
    match manifest::parse(what, bytes, None) {
        Ok(Document::Index(_)) if asked == DocumentRole::Manifest => DocumentRole::ImageIndex,
        _ => asked,
    }
}

fn document(role: DocumentRole, descriptor: &Descriptor) -> Subject {
    Subject::Document { role, digest: descriptor.digest }
}

fn missing(what: Subject, descriptor: &Descriptor) -> Error {
    Error::missing_blob(what, descriptor.digest, descriptor.urls.clone())
}
