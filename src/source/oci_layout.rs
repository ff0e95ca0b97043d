//! OCI layouts, as a directory or in a tar.
//!
//! This module owns the names in `index.json` and the agreement with a `manifest.json` beside it
//! (F3). Source: OCI image-spec image-layout.md; names by containerd's and Docker's exporters.

use std::collections::{HashMap, HashSet};

use super::archive::{Archive, not_an_image};
use super::archive_blobs::ArchiveBlobs;
use super::docker_manifest::{DockerManifest, Item};
use super::formats::Place;
use super::names::{self, Names};
use super::walk::{Agreement, Walk};
use super::{ImageSummary, MAX_ARCHIVE_MANIFEST_BYTES, OpenedImage, Selection, Source, Survey};
use crate::digest::Digest;
use crate::error::{Error, Property, Result};
use crate::image::Platform;
use crate::image::manifest::{self, Descriptor, Document, MAX_DOCUMENT_BYTES};
use crate::image::media_type::document_kind;
use crate::image::strict_json::{self, Object};

/// True for `oci-layout` with `index.json`.
pub(super) fn detect(place: &mut Place<'_>) -> Result<bool> {
    let archive = place.archive()?;
    Ok(archive.find("oci-layout")?.is_some() && archive.find("index.json")?.is_some())
}

/// Opens an OCI layout.
pub(super) fn open(place: Place<'_>) -> Result<Box<dyn Source>> {
    Ok(Box::new(OciLayout::open(place.into_archive()?)?))
}

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// An OCI layout.
#[derive(Debug)]
struct OciLayout {
    blobs: ArchiveBlobs,
    /// All of `index.json`; positions are what `@INDEX` counts.
    entries: Vec<Descriptor>,
    /// `manifest.json`, where Docker put one beside.
    docker: DockerManifest,
}

impl OciLayout {
    /// Reads `oci-layout`, `index.json` and, if there, `manifest.json`.
    fn open(archive: Archive) -> Result<Self> {
        check_version(&archive)?;
        let Some(bytes) =
            archive.read("index.json", "MAX_ARCHIVE_MANIFEST_BYTES", MAX_ARCHIVE_MANIFEST_BYTES)?
        else {
            return Err(not_an_image(archive.path(), "it has no 'index.json'"));
        };
        let what = archive.describe("index.json");
        let Document::Index(index) = manifest::parse(&what, &bytes, None)? else {
            return Err(Error::malformed(what, "a manifest where an image index should be"));
        };
        let docker = DockerManifest::read_beside_oci(&archive)?;
        let blobs = ArchiveBlobs { archive, names: blob_names };
        Ok(OciLayout { blobs, entries: index.manifests, docker })
    }

    /// The images of the list: names, summary, and the descriptor at the summary's index.
    fn listed(&self) -> Vec<(Names, ImageSummary)> {
        let images = self.entries.iter().enumerate().filter(|(_, entry)| !entry.is_attestation());
        images
            .map(|(index, entry)| {
                let names = names_of(entry);
                let summary = ImageSummary { index, names: names.shown(), platform: entry.platform.clone() };
                (names, summary)
            })
            .collect()
    }

    fn entry(&self, summary: &ImageSummary) -> Option<&Descriptor> {
        self.entries.get(summary.index)
    }

    /// The selected images: one, or several that are one name for several platforms.
    fn pick(&self, select: &Selection) -> Result<Vec<(Names, &Descriptor)>> {
        let place = self.blobs.archive.path().display().to_string();
        let images = self.listed();
        let mut found = names::select(&place, select, &images)?;
        if *select == Selection::Sole {
            let image = |at: &usize| {
                images.get(*at).and_then(|(_, summary)| self.entry(summary)).is_some_and(may_be_image)
            };
            if found.iter().any(image) {
                found.retain(image);
            }
        }
        let mut picked: Vec<(Names, &Descriptor)> = Vec::new();
        let mut place_of: HashMap<Digest, usize> = HashMap::new();
        for (names, summary) in found.iter().filter_map(|at| images.get(*at)) {
            let Some(entry) = self.entry(summary) else {
                continue;
            };
            // One image may stand there once for each of its names, of which there may be many.
            match place_of.get(&entry.digest).and_then(|at| picked.get_mut(*at)) {
                Some((merged, _)) => {
                    if merged.full.is_empty() {
                        merged.full = merged.shown();
                    }
                    merged.full.extend(names.shown());
                }
                None => {
                    place_of.insert(entry.digest, picked.len());
                    picked.push((names.clone(), entry));
                }
            }
        }
        if picked.len() > 1 && !one_name_for_several_platforms(&picked) {
            return Err(names::ambiguous(&place, &images, &found));
        }
        Ok(picked)
    }

    /// `agreement`, where there is a `manifest.json` to agree with.
    fn agreement<'a>(&self, agreement: Agreement<'a>) -> Option<Agreement<'a>> {
        (!self.docker.items.is_empty()).then_some(agreement)
    }

    /// Checks that `manifest.json` means the same images (F3): an item of the same name, or without
    /// one any item, has one of `configs`.
    fn check_agreement(&self, names: &Names, configs: &[Digest]) -> Result<()> {
        let of_this_name = |item: &&Item| names.share(&item.repo_tags);
        let named: Vec<&Item> = self.docker.items.iter().filter(of_this_name).collect();
        let claimed = |items: &mut dyn Iterator<Item = &Item>| -> Result<Vec<Digest>> {
            items.map(|item| item.config_digest(&self.blobs.archive)).collect()
        };
        let (claimed, agrees) = if named.is_empty() {
            let claimed = claimed(&mut self.docker.items.iter())?;
            let any = claimed.iter().any(|digest| configs.contains(digest));
            (claimed, any)
        } else {
            let claimed = claimed(&mut named.into_iter())?;
            let all = claimed.iter().all(|digest| configs.contains(digest));
            (claimed, all)
        };
        if agrees {
            return Ok(());
        }
        let list = |digests: &[Digest]| digests.iter().map(Digest::to_string).collect::<Vec<_>>().join(", ");
        let what = self.blobs.archive.describe("manifest.json");
        Err(Error::mismatch(what, Property::Config, list(configs), list(&claimed)))
    }
}

impl Source for OciLayout {
    fn kind(&self) -> &'static str {
        if self.blobs.archive.is_directory() { "oci" } else { "oci-archive" }
    }

    fn images(&self) -> Result<Vec<ImageSummary>> {
        Ok(self.listed().into_iter().map(|(_, summary)| summary).collect())
    }

    fn image(&self, select: &Selection, platform: Option<&Platform>) -> Result<OpenedImage> {
        let picked = self.pick(select)?;
        let tops: Vec<_> = picked.iter().map(|(_, descriptor)| *descriptor).collect();
        let names = picked.into_iter().next().map(|(names, _)| names).unwrap_or_default();
        let agreement = |configs: &[Digest]| self.check_agreement(&names, configs);
        let walk = Walk::new(&self.blobs, platform).agreeing(self.agreement(&agreement));
        walk.open(&tops, names.shown())
    }

    fn survey(&self, select: &Selection, platform: Option<&Platform>) -> Result<Survey> {
        let picked = self.pick(select)?;
        let tops: Vec<_> = picked.iter().map(|(_, descriptor)| *descriptor).collect();
        let names = picked.into_iter().next().map(|(names, _)| names).unwrap_or_default();
        let agreement = |configs: &[Digest]| self.check_agreement(&names, configs);
        Ok(Walk::new(&self.blobs, platform).agreeing(self.agreement(&agreement)).survey(&tops))
    }
}

fn check_version(archive: &Archive) -> Result<()> {
    let Some(bytes) = archive.read("oci-layout", "MAX_DOCUMENT_BYTES", MAX_DOCUMENT_BYTES)? else {
        return Err(not_an_image(archive.path(), "it has no 'oci-layout'"));
    };
    let what = archive.describe("oci-layout");
    let value = strict_json::parse(&what, &bytes)?;
    let object = Object::new(&what, &value, &["imageLayoutVersion"])?;
    let version = object.required_string("imageLayoutVersion")?;
    if version.starts_with("1.") {
        return Ok(());
    }
    let reason = format!("OCI layout version '{}'; only 1.x is supported", version.escape_debug());
    Err(Error::unsupported(what, reason))
}

fn names_of(entry: &Descriptor) -> Names {
    Names {
        reference: entry.annotations.get(REF_NAME).cloned(),
        full: entry.annotations.get(CONTAINERD_NAME).cloned().into_iter().collect(),
    }
}

/// False for what the list itself says is no image.
fn may_be_image(entry: &Descriptor) -> bool {
    let known = entry.media_type.as_deref().is_none_or(|media_type| document_kind(media_type).is_some());
    known && entry.artifact_type.is_none()
}

fn one_name_for_several_platforms(picked: &[(Names, &Descriptor)]) -> bool {
    let mut platforms = HashSet::new();
    let Some((first, _)) = picked.first() else {
        return false;
    };
    picked.iter().all(|(names, entry)| {
        let platform = entry.platform.as_ref();
        names == first && platform.is_some_and(|platform| platforms.insert(platform))
    })
}

fn blob_names(digest: &Digest) -> Vec<String> {
    vec![format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())]
}
