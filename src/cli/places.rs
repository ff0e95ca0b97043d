//! References to the images of a place, as a user would type them.
//!
//! This module owns which of several references to an image is shown: the shortest that other commands
//! understand and that no other image of the place has. It prints nothing.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use imgmount::{ImageKind, ImageSummary, Location, Reference, Selection, Transport};

/// A place that holds images, as a reference names it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    transport: Option<Transport>,
    location: Location,
}

impl Place {
    /// Returns the place of `reference`. `format` is the format of the opened place. A store gets its
    /// transport, because not every selection works without it.
    pub(crate) fn of(reference: &Reference, format: &str) -> Self {
        let store = || Transport::supported().find(|one| one.is_store() && one.name() == format);
        // The name of an image in a registry contains its place.
        let location = match reference.transport {
            Some(transport) if transport.is_remote() => Location::Own,
            _ => reference.location.clone(),
        };
        Place { transport: reference.transport.or_else(store), location }
    }

    /// Returns the text up to the selection, without the colon before a name.
    pub(crate) fn text(&self) -> OsString {
        let mut text = self.transport.map(|one| one.prefix().into_bytes()).unwrap_or_default();
        match &self.location {
            Location::Path(path) => text.extend_from_slice(path.as_os_str().as_bytes()),
            Location::Stdin => text.push(b'-'),
            // The engine's default location has no text, and neither have locations that are not known here.
            _ => {}
        }
        OsString::from_vec(text)
    }

    /// Returns a reference to each of `images`, all images of the place.
    pub(crate) fn references(&self, images: &[ImageSummary]) -> Vec<OsString> {
        let mut count: HashMap<(bool, &str), usize> = HashMap::new();
        for image in images {
            for name in &image.names {
                *count.entry((image.kind == ImageKind::Container, name)).or_default() += 1;
            }
        }
        let unique = |image: &ImageSummary, name: &str| {
            count.get(&(image.kind == ImageKind::Container, name)).is_some_and(|count| *count == 1)
        };
        images.iter().map(|image| self.reference(image, &|name| unique(image, name))).collect()
    }

    /// Returns a reference to an image: by a name for which `unique` holds, else by its ID, else by its
    /// position.
    fn reference(&self, image: &ImageSummary, unique: &dyn Fn(&str) -> bool) -> OsString {
        let names = image.names.iter().filter(|name| unique(name)).cloned();
        let id = image.id.iter().map(|id| id.rsplit(':').next().unwrap_or(id).to_owned());
        let by_text = names.chain(id).map(|text| match image.kind {
            ImageKind::Container => Selection::Container(text),
            _ => Selection::Name(text),
        });
        let all = || by_text.clone().chain([Selection::Index(image.index)]);
        let written = |selection: &Selection| self.with(selection);
        let found = all().find(|selection| self.means(&written(selection), selection));
        written(&found.unwrap_or(Selection::Index(image.index)))
    }

    /// Returns the reference to the image that `selection` selects.
    fn with(&self, selection: &Selection) -> OsString {
        let mut text = self.text();
        let is_name = matches!(selection, Selection::Name(_));
        if is_name && self.location != Location::Own {
            text.push(":");
        }
        text.push(selection.to_string());
        text
    }

    /// Returns whether a command reads `text` as this place and `selection`. Existing files can change the
    /// meaning of a text.
    fn means(&self, text: &OsStr, selection: &Selection) -> bool {
        Reference::parse(text, None).is_ok_and(|read| {
            read.transport == self.transport && read.location == self.location && read.selection == *selection
        })
    }
}
