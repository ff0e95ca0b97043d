//! The store of podman, buildah and CRI-O (containers-storage), read without an engine.
//!
//! This module owns which images and containers a store lists, and how they are selected (rules F30 to F34
//! in docs/formats.md). A store has one area for each storage driver that was used in it; additional stores,
//! which engines only read, add their images and layers.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::archive::not_an_image;
use super::beneath::Beneath;
use super::formats::Site;
use super::names::{self, Names};
use super::{ImageKind, ImageSource, ImageSummary, OpenedImage, Selection, Survey};
use crate::error::Result;
use crate::image::Platform;
use crate::layer::index::Verify;
use crate::path::escape_path;

mod area;
mod config;
mod container;
mod images;
mod open;

use super::host::{Host, owner};
use area::Area;
pub(super) use config::own_places;
use images::{ContainerRecord, ImageRecord};

/// Returns true for a directory with the lists of a storage driver, also of one that cannot be read.
/// Returns the name of the file of big data `key`.
#[cfg(test)]
pub(super) fn file_of(key: &str) -> String {
    images::big_data_file(key)
}

pub(super) fn detect(place: &mut Site<'_>) -> Result<bool> {
    let Some(store) = place.directory()? else { return Ok(false) };
    let (readable, others) = area::drivers(&store)?;
    Ok(!readable.is_empty() || !others.is_empty())
}

/// Opens a store.
pub(super) fn open(place: Site<'_>) -> Result<Box<dyn ImageSource>> {
    let Some(store) = place.directory()? else {
        let path = place.path().map(ToOwned::to_owned).unwrap_or_default();
        return Err(not_an_image(&path, "not a directory"));
    };
    let (host, additional) = if place.is_own_place() {
        let host = Host::open(&place.environment().root)?;
        let additional = config::stores_of_own_place(&host, &store, place.environment());
        (host, additional)
    } else {
        let host = Host::of_store(store.path())?;
        let additional = config::stores_named_with(&host, &store, owner(&store)?.0);
        (host, additional)
    };
    Ok(Box::new(Store::open(store, additional, host, place.verify())?))
}

/// A store, and the additional stores that belong to it.
#[derive(Debug)]
struct Store {
    path: PathBuf,
    areas: Vec<Area>,
    verify: Verify,
}

/// An entry of the list of a store.
#[derive(Debug, Clone, Copy)]
enum Entry<'a> {
    Image(&'a ImageRecord),
    Container(&'a ContainerRecord),
}

/// An entry, the area that lists it, and how it is selected.
#[derive(Debug)]
struct Listed<'a> {
    area: &'a Area,
    entry: Entry<'a>,
    names: Names,
    summary: ImageSummary,
}

impl Store {
    /// Reads the lists of the store at `store`, which belongs to `host`, and of its additional stores.
    fn open(store: Beneath, additional: Vec<Beneath>, host: Host, verify: Verify) -> Result<Self> {
        let path = store.path().to_owned();
        let (readable, others) = area::drivers(&store)?;
        match (readable.is_empty(), others.first()) {
            (true, Some(other)) => return Err(area::unsupported(&store, other)),
            (true, None) => {
                return Err(not_an_image(&path, "found no list of images, such as 'overlay-images'"));
            }
            (false, _) => {}
        }
        for other in others {
            log::warn!("'{}': the images of the storage driver {other} are not listed", escape_path(&path));
        }
        let host = Arc::new(host);
        let open = |driver| Area::open(store.clone(), Arc::clone(&host), driver);
        let mut areas: Vec<Area> = readable.into_iter().map(open).collect::<Result<_>>()?;
        areas.extend(additional.into_iter().flat_map(|store| additional_areas(store, &host)));
        Ok(Store { path, areas, verify })
    }

    /// Returns all images, and then the containers. An image that several stores hold is listed once.
    fn listed(&self) -> Vec<Listed<'_>> {
        let mut seen = HashSet::new();
        let images = self.areas.iter().flat_map(|area| area.images.iter().map(move |image| (area, image)));
        let images = images
            .filter(|(area, image)| seen.insert((area.driver.name(), &image.id)))
            .map(|(area, image)| (area, Entry::Image(image)));
        let images: Vec<_> = images.collect();
        let containers = self.areas.iter().flat_map(|area| {
            area.containers.iter().map(move |container| (area, Entry::Container(container)))
        });
        let all = images.into_iter().chain(containers).enumerate();
        all.map(|(index, (area, entry))| {
            let (names, summary) = entry.listed(index);
            Listed { area, entry, names, summary }
        })
        .collect()
    }

    fn pick(&self, select: &Selection) -> Result<(&Area, Entry<'_>)> {
        let place = self.path.display().to_string();
        let listed = self.listed();
        let choice: Vec<_> =
            listed.iter().map(|listed| (listed.names.clone(), listed.summary.clone())).collect();
        let found = names::select(&place, select, &choice)?;
        let mut entries = found.iter().filter_map(|at| listed.get(*at));
        match entries.next() {
            // The areas of two drivers may hold the same image.
            Some(first) if entries.all(|other| other.summary.id == first.summary.id) => {
                Ok((first.area, first.entry))
            }
            _ => Err(names::ambiguous(&place, &choice, &found)),
        }
    }

    /// Returns the image with this ID: from `area`, or else from another area of the same driver.
    fn find_image<'a>(&'a self, area: &'a Area, id: &str) -> Option<(&'a Area, &'a ImageRecord)> {
        let others = self.areas.iter().filter(|other| other.driver == area.driver);
        let mut areas = std::iter::once(area).chain(others);
        areas.find_map(|area| Some((area, area.images.iter().find(|image| image.id == id)?)))
    }
}

impl Entry<'_> {
    /// Returns the names that select the entry, and its description in lists.
    fn listed(self, index: usize) -> (Names, ImageSummary) {
        let (id, given, digest, kind) = match self {
            Entry::Image(image) => (&image.id, &image.names, image.digest, ImageKind::Image),
            Entry::Container(container) => (&container.id, &container.names, None, ImageKind::Container),
        };
        let (mut digests, full): (Vec<String>, Vec<String>) =
            given.iter().cloned().partition(|name| name.contains('@'));
        if let Some(digest) = digest {
            digests.extend(full.iter().map(|name| format!("{}@{digest}", without_tag(name))));
        }
        let names = Names { reference: None, full, digests, ids: vec![id.clone()] };
        let summary = ImageSummary {
            index,
            names: names.shown(),
            id: Some(id.clone()),
            kind,
            ..ImageSummary::default()
        };
        (names, summary)
    }
}

impl ImageSource for Store {
    fn kind(&self) -> &'static str {
        "containers-storage"
    }

    fn images(&self) -> Result<Vec<ImageSummary>> {
        Ok(self.listed().into_iter().map(|listed| listed.summary).collect())
    }

    fn image(&self, select: &Selection, platform: Option<&Platform>) -> Result<OpenedImage> {
        let (area, entry) = self.pick(select)?;
        let opened = match entry {
            Entry::Image(image) => self.open_image(area, image)?,
            Entry::Container(container) => self.open_container(area, container)?,
        };
        if let (Some(wanted), Some(found)) = (platform, &opened.info.platform)
            && wanted.rank(found).is_none()
        {
            log::warn!("the image is for platform {found}, not for {wanted}");
        }
        Ok(opened)
    }

    fn survey(&self, select: &Selection, _: Option<&Platform>) -> Result<Survey> {
        Ok(match self.pick(select)? {
            (area, Entry::Image(image)) => self.survey_image(area, image),
            (area, Entry::Container(container)) => self.survey_container(area, container),
        })
    }
}

/// Opens the areas of an additional store, without their containers, which belong to another engine. An area
/// that cannot be read gives a warning.
fn additional_areas(store: Beneath, host: &Arc<Host>) -> Vec<Area> {
    let drivers = match area::drivers(&store) {
        Ok((drivers, _)) => drivers,
        Err(error) => {
            log::warn!("{error}");
            return Vec::new();
        }
    };
    let open = |driver| Area::open(store.clone(), Arc::clone(host), driver);
    let areas =
        drivers.into_iter().map(open).filter_map(|area| area.map_err(|error| log::warn!("{error}")).ok());
    areas.map(Area::without_containers).collect()
}

/// Returns a name without its tag.
fn without_tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((rest, tag)) if !tag.contains('/') => rest,
        _ => name,
    }
}
