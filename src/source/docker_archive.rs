//! Docker-archives, as `docker save`, podman, skopeo, kaniko, bazel and nix write them.
//!
//! This module owns the choice among the images that `manifest.json` lists.

use super::archive::{Archive, not_an_image};
use super::docker_manifest::{DockerManifest, Item};
use super::formats::Site;
use super::names::{self, Names};
use super::{ImageSource, ImageSummary, OpenedImage, Selection, Survey};
use crate::error::{Error, Result, Subject};
use crate::image::Platform;

/// Returns true for a place with `manifest.json`, or with the files that Docker before 1.10 wrote instead.
pub(super) fn detect(place: &mut Site<'_>) -> Result<bool> {
    let archive = place.archive()?;
    Ok(archive.find("manifest.json")?.is_some() || archive.find("repositories")?.is_some())
}

/// Opens a docker-archive.
pub(super) fn open(place: Site<'_>) -> Result<Box<dyn ImageSource>> {
    Ok(Box::new(DockerArchive::open(place.into_archive()?)?))
}

/// A docker-archive.
#[derive(Debug)]
struct DockerArchive {
    archive: Archive,
    manifest: DockerManifest,
}

impl DockerArchive {
    /// Opens the archive by reading `manifest.json`.
    fn open(archive: Archive) -> Result<Self> {
        let Some(manifest) = DockerManifest::read(&archive)? else {
            return Err(without_manifest(&archive)?);
        };
        if manifest.items.is_empty() {
            return Err(not_an_image(archive.path(), "'manifest.json' lists no image"));
        }
        Ok(DockerArchive { archive, manifest })
    }

    fn listed(&self) -> Vec<(Names, ImageSummary)> {
        let items = self.manifest.items.iter().enumerate();
        items
            .map(|(index, item)| {
                let names = item.names();
                let summary = ImageSummary { index, names: names.shown(), ..ImageSummary::default() };
                (names, summary)
            })
            .collect()
    }

    fn pick(&self, select: &Selection) -> Result<&Item> {
        if let Selection::Index(index) = select
            && let Some(item) = self.manifest.items.get(*index)
        {
            return Ok(item);
        }
        let place = self.archive.path().display().to_string();
        let images = self.listed();
        let found = names::select(&place, select, &images)?;
        let mut items = found.iter().filter_map(|at| self.manifest.items.get(*at));
        match items.next() {
            Some(first) if items.all(|item| item.is_same_image(first)) => Ok(first),
            _ => Err(names::ambiguous(&place, &images, &found)),
        }
    }
}

impl ImageSource for DockerArchive {
    fn kind(&self) -> &'static str {
        "docker-archive"
    }

    fn images(&self) -> Result<Vec<ImageSummary>> {
        Ok(self.listed().into_iter().map(|(_, summary)| summary).collect())
    }

    fn image(&self, select: &Selection, platform: Option<&Platform>) -> Result<OpenedImage> {
        self.manifest.open(&self.archive, self.pick(select)?, platform)
    }

    fn survey(&self, select: &Selection, _: Option<&Platform>) -> Result<Survey> {
        Ok(self.pick(select)?.survey(&self.archive))
    }
}

/// Returns the error for an archive without `manifest.json` (F2).
fn without_manifest(archive: &Archive) -> Result<Error> {
    if archive.find("repositories")?.is_none() {
        return Ok(not_an_image(archive.path(), "'manifest.json' is missing"));
    }
    Ok(Error::unsupported(
        Subject::Archive(archive.path().to_owned()),
        "an archive from Docker before 1.10, which has no digests of layers; \
         load and save it again with a current engine",
    ))
}
