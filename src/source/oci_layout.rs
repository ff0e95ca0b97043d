//! OCI layouts, in a directory or in a tar.
//!
//! This module owns the names in `index.json` and their agreement with a `manifest.json` beside it (F3).
//! Sources: OCI image-spec image-layout.md; for names, the exporters of containerd and Docker.

use std::cell::LazyCell;
use std::collections::{BTreeSet, HashMap, HashSet};

use super::archive::{Archive, not_an_image};
use super::archive_blobs::ArchiveBlobs;
use super::artifact;
use super::blobs::Blobs as _;
use super::docker_manifest::{DockerManifest, Item};
use super::formats::Site;
use super::names::{self, Names};
use super::walk::{Agreement, Walk};
use super::{ImageSource, ImageSummary, MAX_ARCHIVE_MANIFEST_BYTES, OpenedImage, Selection, Survey};
use crate::digest::Digest;
use crate::error::{DocumentRole, Error, Property, Result, Subject};
use crate::image::Platform;
use crate::image::manifest::{self, Descriptor, MAX_DOCUMENT_BYTES};
use crate::image::media_type::document_kind;
use crate::image::strict_json::{self, Object};
use crate::layer::index::Verify;

/// Returns true for a place with `oci-layout` and `index.json`.
pub(super) fn detect(place: &mut Site<'_>) -> Result<bool> {
    let archive = place.archive()?;
    Ok(archive.find("oci-layout")?.is_some() && archive.find("index.json")?.is_some())
}

/// Opens an OCI layout.
pub(super) fn open(place: Site<'_>) -> Result<Box<dyn ImageSource>> {
    Ok(Box::new(OciLayout::open(place.verify(), place.into_archive()?)?))
}

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// An OCI layout.
#[derive(Debug)]
struct OciLayout {
    blobs: ArchiveBlobs,
    /// The entries of `index.json`; `@INDEX` counts their positions.
    entries: Vec<Descriptor>,
    /// The `manifest.json` that Docker writes beside `index.json`; empty if missing.
    docker: DockerManifest,
    /// Positions in `docker` of the images with a name, which is normalised.
    docker_names: HashMap<String, Vec<usize>>,
    /// Positions in `docker` of images that `index.json` does not name (F3). `@INDEX` counts them after the
    /// entries.
    unlisted: Vec<usize>,
    verify: Verify,
}

/// The result of a selection.
enum Picked<'a> {
    /// Entries of `index.json`: a single one, or several with one name for several platforms.
    Entries(Vec<(Names, &'a Descriptor)>),
    /// An image that only `manifest.json` lists.
    Item(&'a Item),
}

impl OciLayout {
    /// Opens the layout by reading `oci-layout`, `index.json` and, if present, `manifest.json`.
    fn open(verify: Verify, archive: Archive) -> Result<Self> {
        check_version(&archive)?;
        let Some(bytes) =
            archive.read("index.json", "MAX_ARCHIVE_MANIFEST_BYTES", MAX_ARCHIVE_MANIFEST_BYTES)?
        else {
            return Err(not_an_image(archive.path(), "'index.json' is missing"));
        };
        let index = manifest::parse_layout_index(&archive.describe("index.json"), &bytes)?;
        let docker = DockerManifest::read_beside_oci(&archive)?;
        let blobs = ArchiveBlobs { archive, names: blob_names };
        let unlisted = unlisted(&blobs, &index.manifests, &docker);
        let mut docker_names: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, item) in docker.items.iter().enumerate() {
            item.names().normal().for_each(|name| docker_names.entry(name).or_default().push(at));
        }
        Ok(OciLayout { blobs, entries: index.manifests, docker, docker_names, unlisted, verify })
    }

    /// Returns the images of both lists. The index of an image is the position of its entry; unlisted items
    /// follow after all entries.
    fn listed(&self) -> Vec<(Names, ImageSummary)> {
        let entries = self.entries.iter().enumerate().filter(|(_, entry)| !entry.is_attestation());
        let entries = entries.map(|(index, entry)| (index, names_of(entry), entry.platform.clone()));
        let items = self.unlisted.iter().filter_map(|at| self.docker.items.get(*at)).enumerate();
        let items = items.map(|(at, item)| (self.entries.len() + at, item.names(), None));
        let summarised = entries.chain(items).map(|(index, names, platform)| {
            let summary = ImageSummary { index, names: names.shown(), platform, ..ImageSummary::default() };
            (names, summary)
        });
        summarised.collect()
    }

    /// Returns the images of both lists, without signatures and other artifacts (F17).
    fn listed_images(&self) -> Vec<(Names, ImageSummary)> {
        let mut images = self.listed();
        // A list can name one manifest many times.
        let mut known = HashMap::new();
        images.retain(|(names, summary)| {
            let Some(entry) = self.entry(summary) else { return true };
            if artifact::of_cosign(entry, names).is_some() {
                return false;
            }
            let key = (entry.digest, entry.media_type.as_deref(), entry.artifact_type.as_deref());
            *known.entry(key).or_insert_with(|| self.artifact(entry, names).is_none())
        });
        images
    }

    /// Returns the kind of an entry that is not an image, with its article; `None` for an image.
    fn artifact(&self, entry: &Descriptor, names: &Names) -> Option<String> {
        let media_type = entry.media_type.as_deref();
        if let Some(what) = artifact::of_cosign(entry, names) {
            return Some(what.to_owned());
        }
        let is_known = media_type.is_none_or(|media_type| document_kind(media_type).is_some());
        match (&entry.artifact_type, media_type) {
            (Some(kind), _) => Some(format!("an artifact of type '{}'", kind.escape_debug())),
            (None, Some(kind)) if !is_known => Some(format!("a document of type '{}'", kind.escape_debug())),
            _ => self.blobs.walk(None, Verify::Full).artifact(entry),
        }
    }

    /// Returns the images that `select` chooses from. Artifacts are included if `select` gives a name or a
    /// position, or if the list has a single entry.
    fn choice(&self, select: &Selection) -> Result<Vec<(Names, ImageSummary)>> {
        let listed = self.listed();
        if *select != Selection::Sole || listed.len() <= 1 {
            return Ok(listed);
        }
        let images = self.listed_images();
        if !images.is_empty() {
            return Ok(images);
        }
        let what = |(names, summary): &(Names, ImageSummary)| {
            let what = self.entry(summary).and_then(|entry| self.artifact(entry, names));
            format!("{} (@{})", what.unwrap_or_default(), summary.index)
        };
        let all: Vec<String> = listed.iter().map(what).collect();
        let reason = format!("no image found, only {}", all.join(", "));
        Err(not_an_image(self.blobs.archive.path(), &reason))
    }

    fn entry(&self, summary: &ImageSummary) -> Option<&Descriptor> {
        self.entries.get(summary.index)
    }

    fn item(&self, summary: &ImageSummary) -> Option<&Item> {
        let at = summary.index.checked_sub(self.entries.len())?;
        self.docker.items.get(*self.unlisted.get(at)?)
    }

    fn pick(&self, select: &Selection) -> Result<Picked<'_>> {
        if let Selection::Index(index) = select
            && let Some(picked) = self.pick_at(*index)
        {
            return picked;
        }
        let place = self.blobs.place();
        let images = self.choice(select)?;
        // The list of available images in the error must not contain artifacts.
        let found = names::select(&place, select, &images)
            .map_err(|error| names::select(&place, select, &self.listed_images()).err().unwrap_or(error))?;
        let chosen: Vec<&(Names, ImageSummary)> = found.iter().filter_map(|at| images.get(*at)).collect();
        let entries: Vec<_> =
            chosen.iter().filter_map(|(names, summary)| Some((names, self.entry(summary)?))).collect();
        let items: Vec<&Item> = chosen.iter().filter_map(|(_, summary)| self.item(summary)).collect();
        let ambiguous = || names::ambiguous(&place, &images, &found);
        match items.split_first() {
            Some((first, rest))
                if entries.is_empty() && rest.iter().all(|item| item.is_same_image(first)) =>
            {
                Ok(Picked::Item(first))
            }
            Some(_) => Err(ambiguous()),
            None => {
                let merged = merge_names(&entries);
                if let [(names, entry)] = merged.as_slice() {
                    check_no_signature(entry, names)?;
                }
                let one_image = merged.len() <= 1 || one_name_for_several_platforms(&merged);
                if one_image { Ok(Picked::Entries(merged)) } else { Err(ambiguous()) }
            }
        }
    }

    /// Returns the image at a position of the list, without reading the rest of the list; `None` if there is
    /// none.
    fn pick_at(&self, index: usize) -> Option<Result<Picked<'_>>> {
        let summary = ImageSummary { index, ..ImageSummary::default() };
        match self.entry(&summary) {
            Some(entry) if entry.is_attestation() => None,
            Some(entry) => {
                let names = names_of(entry);
                let checked = check_no_signature(entry, &names);
                Some(checked.map(|()| Picked::Entries(vec![(names, entry)])))
            }
            None => self.item(&summary).map(|item| Ok(Picked::Item(item))),
        }
    }

    /// Walks to the image of `entries`. If `manifest.json` has an image of the same name, both must have the
    /// same config (F3).
    fn walk<T>(
        &self,
        entries: Vec<(Names, &Descriptor)>,
        platform: Option<&Platform>,
        go: impl FnOnce(Walk<'_>, &[&Descriptor], Names) -> T,
    ) -> T {
        let tops: Vec<_> = entries.iter().map(|(_, descriptor)| *descriptor).collect();
        let names = entries.into_iter().next().map(|(names, _)| names).unwrap_or_default();
        let same_name = names.normal().filter_map(|name| self.docker_names.get(&name)).flatten();
        let same_name: BTreeSet<usize> = same_name.copied().collect();
        let items: Vec<&Item> = same_name.iter().filter_map(|at| self.docker.items.get(*at)).collect();
        let agreement = |configs: &[Digest]| self.check_agreement(&items, configs);
        let agreement = (!items.is_empty()).then_some(&agreement as Agreement<'_>);
        go(self.blobs.walk(platform, self.verify).agreeing(agreement), &tops, names)
    }

    /// Checks that the config of each of `items` is one of `configs`.
    fn check_agreement(&self, items: &[&Item], configs: &[Digest]) -> Result<()> {
        let archive = &self.blobs.archive;
        let claimed: Vec<Digest> =
            items.iter().map(|item| item.config_digest(archive)).collect::<Result<_>>()?;
        if claimed.iter().all(|digest| configs.contains(digest)) {
            return Ok(());
        }
        let list = |digests: &[Digest]| digests.iter().map(Digest::to_string).collect::<Vec<_>>().join(", ");
        let what = archive.describe("manifest.json");
        Err(Error::mismatch(what, Property::Config, list(configs), list(&claimed)))
    }
}

impl ImageSource for OciLayout {
    fn kind(&self) -> &'static str {
        if self.blobs.archive.is_directory() { "oci" } else { "oci-archive" }
    }

    fn images(&self) -> Result<Vec<ImageSummary>> {
        Ok(self.listed_images().into_iter().map(|(_, summary)| summary).collect())
    }

    fn image(&self, select: &Selection, platform: Option<&Platform>) -> Result<OpenedImage> {
        match self.pick(select)? {
            Picked::Item(item) => self.docker.open(&self.blobs.archive, item, platform),
            Picked::Entries(entries) => {
                self.walk(entries, platform, |walk, tops, names| walk.open(tops, names.shown()))
            }
        }
    }

    fn survey(&self, select: &Selection, platform: Option<&Platform>) -> Result<Survey> {
        Ok(match self.pick(select)? {
            Picked::Item(item) => item.survey(&self.blobs.archive),
            Picked::Entries(entries) => self.walk(entries, platform, |walk, tops, _| walk.survey(tops)),
        })
    }
}

/// Returns the positions in `docker` of the images that `entries` do not name: no entry has one of their
/// names or leads to their config. An image that cannot be compared counts as unlisted; opening it reports
/// the error.
fn unlisted(blobs: &ArchiveBlobs, entries: &[Descriptor], docker: &DockerManifest) -> Vec<usize> {
    let images = || entries.iter().filter(|entry| !entry.is_attestation());
    let named: HashSet<String> =
        images().flat_map(|entry| names_of(entry).normal().collect::<Vec<_>>()).collect();
    let has_name = |item: &Item| item.names().normal().any(|name| named.contains(&name));
    // Manifests are read only if an image has no matching name, and each manifest is read once.
    let configs = LazyCell::new(|| {
        let mut seen = HashSet::new();
        let distinct = images().filter(|entry| seen.insert(entry.digest)).collect::<Vec<_>>();
        let walk = blobs.walk(None, Verify::Full);
        distinct.into_iter().flat_map(|entry| walk.configs(entry).unwrap_or_default()).collect::<HashSet<_>>()
    });
    let has_config =
        |item: &Item| item.config_digest(&blobs.archive).is_ok_and(|digest| configs.contains(&digest));
    let items = docker.items.iter().enumerate();
    items.filter(|(_, item)| !has_name(item) && !has_config(item)).map(|(at, _)| at).collect()
}

/// Refuses the signatures and attestations of cosign, which have the media types of images.
fn check_no_signature(entry: &Descriptor, names: &Names) -> Result<()> {
    let Some(what) = artifact::of_cosign(entry, names) else { return Ok(()) };
    let subject = Subject::Document { role: DocumentRole::Manifest, digest: entry.digest };
    Err(Error::unsupported(subject, format!("{what}, not a container image")))
}

/// Merges entries with equal digests, because a list may have one entry for each of an image's names.
fn merge_names<'a>(entries: &[(&Names, &'a Descriptor)]) -> Vec<(Names, &'a Descriptor)> {
    let mut merged: Vec<(Names, &Descriptor)> = Vec::new();
    let mut place_of: HashMap<Digest, usize> = HashMap::new();
    for (names, entry) in entries {
        match place_of.get(&entry.digest).and_then(|at| merged.get_mut(*at)) {
            Some((earlier, _)) => {
                if earlier.full.is_empty() {
                    earlier.full = earlier.shown();
                }
                earlier.full.extend(names.shown());
            }
            None => {
                place_of.insert(entry.digest, merged.len());
                merged.push(((*names).clone(), entry));
            }
        }
    }
    merged
}

fn check_version(archive: &Archive) -> Result<()> {
    let Some(bytes) = archive.read("oci-layout", "MAX_DOCUMENT_BYTES", MAX_DOCUMENT_BYTES)? else {
        return Err(not_an_image(archive.path(), "'oci-layout' is missing"));
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
        ..Names::default()
    }
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
