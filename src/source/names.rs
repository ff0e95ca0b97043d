//! Selectors: which images of a place a selector names (F12).
//!
//! This module does no I/O. It owns the order in which kinds of name are compared: the first kind that
//! matches any image decides. The caller decides whether several matches are an error.

use super::{ImageKind, ImageSummary, Selection};
use crate::error::{Error, Result};

/// The names of one image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// The annotation `org.opencontainers.image.ref.name`: a tag, a full name or any other text.
    pub(super) reference: Option<String>,
    /// Full names, from `io.containerd.image.name` or `RepoTags`.
    pub(super) full: Vec<String>,
    /// Names with a digest, such as `alpine@sha256:...`. They select an image, but are not shown.
    pub(super) digests: Vec<String>,
    /// IDs that select the image or container, also by their first digits: hexadecimal, without the name of
    /// the algorithm.
    pub(super) ids: Vec<String>,
}

impl Names {
    /// Returns all names, without a tag that a full name already contains.
    pub(super) fn shown(&self) -> Vec<String> {
        let mut shown = self.full.clone();
        if let Some(reference) = &self.reference {
            let said = |name: &String| name == reference || has_tag(name, reference);
            if !self.full.iter().any(said) {
                shown.push(reference.clone());
            }
        }
        shown
    }

    /// Returns the full names as engines complete them, so that equal names have equal texts.
    pub(super) fn normal(&self) -> impl Iterator<Item = String> {
        self.all().map(|name| normalise(name))
    }

    /// Returns true if one of the IDs begins with `selector`, which may also state the algorithm.
    fn has_id(&self, selector: &str) -> bool {
        let digits = selector.strip_prefix("sha256:").unwrap_or(selector);
        !digits.is_empty() && self.ids.iter().any(|id| id.starts_with(digits))
    }

    /// Returns the full names, and the reference if it can be a full name.
    fn all(&self) -> impl Iterator<Item = &String> {
        let reference = self.reference.iter().filter(|name| name.contains([':', '/']));
        self.full.iter().chain(reference)
    }
}

/// Returns the positions in `images` of those that `selection` names; at least one.
///
/// # Errors
/// [`Error::NoSuchImage`] with a list of the images, [`Error::NotAnImage`] when there are none.
pub(super) fn select(
    place: &str,
    selection: &Selection,
    images: &[(Names, ImageSummary)],
) -> Result<Vec<usize>> {
    let found: Vec<usize> = match selection {
        Selection::Sole => sole(images),
        Selection::Index(index) => {
            images.iter().position(|(_, summary)| summary.index == *index).into_iter().collect()
        }
        Selection::Name(name) => by_name(name, images),
        Selection::Container(name) => by_container(name, images),
    };
    if !found.is_empty() {
        return Ok(found);
    }
    if images.is_empty() {
        return Err(Error::NotAnImage {
            path: place.to_owned(),
            reason: "the list of images is empty".to_owned(),
            may_be_rootfs: false,
        });
    }
    Err(Error::NoSuchImage {
        path: place.to_owned(),
        selector: selection.to_string(),
        candidates: images.iter().map(|(_, summary)| summary.to_string()).collect(),
    })
}

/// Creates [`Error::Ambiguous`] with a list of the images at `found`.
pub(super) fn ambiguous(place: &str, images: &[(Names, ImageSummary)], found: &[usize]) -> Error {
    Error::Ambiguous {
        path: place.to_owned(),
        candidates: found
            .iter()
            .filter_map(|at| images.get(*at))
            .map(|(_, summary)| summary.to_string())
            .collect(),
    }
}

/// Returns the positions of all images; of all containers if there is no image.
fn sole(images: &[(Names, ImageSummary)]) -> Vec<usize> {
    let of = |kind| {
        let found = images.iter().enumerate().filter(move |(_, (_, summary))| summary.kind == kind);
        found.map(|(at, _)| at).collect::<Vec<usize>>()
    };
    Some(of(ImageKind::Image)).filter(|found| !found.is_empty()).unwrap_or_else(|| of(ImageKind::Container))
}

fn by_name(selector: &str, images: &[(Names, ImageSummary)]) -> Vec<usize> {
    let normal = normalise(selector);
    let by_path = format!("/{}", with_tag(selector));
    first_kind(
        ImageKind::Image,
        images,
        &[
            &|names| names.reference.as_deref() == Some(selector),
            &|names| names.full.iter().any(|name| name == selector),
            &|names| names.digests.iter().any(|name| name == selector),
            &|names| names.all().chain(&names.digests).any(|name| normalise(name) == normal),
            &|names| names.all().any(|name| has_tag(name, selector) || with_tag(name).ends_with(&by_path)),
            &|names| names.has_id(selector),
        ],
    )
}

/// Returns the positions of the containers with this name, or with an ID that begins with it.
fn by_container(selector: &str, images: &[(Names, ImageSummary)]) -> Vec<usize> {
    first_kind(
        ImageKind::Container,
        images,
        &[&|names| names.full.iter().any(|name| name == selector), &|names| names.has_id(selector)],
    )
}

/// Returns the positions that the first kind of name matches; a kind without a match is skipped.
fn first_kind(
    wanted: ImageKind,
    images: &[(Names, ImageSummary)],
    kinds: &[&dyn Fn(&Names) -> bool],
) -> Vec<usize> {
    let fits = |kind: &dyn Fn(&Names) -> bool| -> Vec<usize> {
        let of_kind = images.iter().enumerate().filter(|(_, (_, summary))| summary.kind == wanted);
        of_kind.filter(|(_, (names, _))| kind(names)).map(|(at, _)| at).collect()
    };
    kinds.iter().map(|kind| fits(kind)).find(|found| !found.is_empty()).unwrap_or_default()
}

/// Returns true if `name` is any text followed by `:` and `tag`.
fn has_tag(name: &str, tag: &str) -> bool {
    name.strip_suffix(tag).is_some_and(|rest| rest.ends_with(':'))
}

/// Completes a name as engines do: `alpine` becomes `docker.io/library/alpine:latest`. Source:
/// distribution/reference, normalize.go.
fn normalise(name: &str) -> String {
    let is_domain =
        |part: &str| part.contains(['.', ':']) || part == "localhost" || part.chars().any(char::is_uppercase);
    let (domain, path) = match name.split_once('/') {
        Some((domain, path)) if is_domain(domain) => (domain, path),
        _ => ("docker.io", name),
    };
    let domain = if domain == "index.docker.io" { "docker.io" } else { domain };
    let library = if domain == "docker.io" && !path.contains('/') { "library/" } else { "" };
    with_tag(&format!("{domain}/{library}{path}"))
}

/// Appends `:latest` to a name with neither tag nor digest.
fn with_tag(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains([':', '@']) {
        return name.to_owned();
    }
    format!("{name}:latest")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(index: usize, reference: &str, full: &str) -> (Names, ImageSummary) {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let full = some(full).into_iter().collect();
        let names = Names { reference: some(reference), full, ..Names::default() };
        let summary = ImageSummary { index, names: names.shown(), ..ImageSummary::default() };
        (names, summary)
    }

    #[test]
    fn f12_the_first_kind_of_name_that_fits_decides() {
        let images = [
            image(0, "3.19", "docker.io/library/alpine:3.19"),
            image(1, "latest", "docker.io/library/alpine:latest"),
            image(2, "", "localhost/demo:v1"),
            image(3, "quay.io/o/app:v1", ""),
            image(4, "odd name", ""),
        ];
        for (selector, found) in [
            ("3.19", vec![0]),
            ("alpine:3.19", vec![0]),
            ("alpine", vec![1]),
            ("library/alpine", vec![1]),
            ("docker.io/alpine:latest", vec![1]),
            ("index.docker.io/library/alpine", vec![1]),
            ("latest", vec![1]),
            ("demo:v1", vec![2]),
            ("o/app:v1", vec![3]),
            ("v1", vec![2, 3]),
            ("odd name", vec![4]),
            ("9", vec![]),
            ("pine:latest", vec![]),
            ("demo", vec![]),
        ] {
            assert_eq!(by_name(selector, &images), found, "{selector}");
        }
    }

    #[test]
    fn f48_containers_and_ids_are_selected_apart_from_names() {
        let entry = |index, kind, name: &str, id: &str| {
            let names = Names {
                full: vec![name.to_owned()],
                digests: vec![format!("x@sha256:{id}")],
                ids: vec![id.to_owned()],
                ..Names::default()
            };
            (names, ImageSummary { index, kind, ..ImageSummary::default() })
        };
        let images = [
            entry(0, ImageKind::Image, "docker.io/library/cafe:latest", "beef01"),
            entry(1, ImageKind::Image, "docker.io/library/web:latest", "cafe02"),
            entry(2, ImageKind::Container, "web", "cafe03"),
            entry(3, ImageKind::Container, "beef", "0304"),
        ];
        let found = |selection| select("place", &selection, &images).unwrap_or_default();
        let name = |name: &str| found(Selection::Name(name.to_owned()));
        let container = |name: &str| found(Selection::Container(name.to_owned()));
        assert_eq!(found(Selection::Sole), [0, 1]);
        assert_eq!(found(Selection::Index(3)), [3]);
        assert_eq!([name("cafe"), name("cafe0"), name("sha256:beef")], [[0], [1], [0]]);
        assert_eq!([name("x@sha256:cafe02"), name("web")], [[1], [1]]);
        assert_eq!(
            [container("web"), container("beef"), container("cafe"), container("03")],
            [[2], [3], [2], [3]]
        );
        assert_eq!([name("03"), container("beef01")], [[0; 0], []]);
    }

    #[test]
    fn f12_what_is_not_there_is_answered_with_what_is() {
        let images = [image(0, "3.19", "docker.io/library/alpine:3.19"), image(1, "", "")];
        let error = select("a.tar", &Selection::Index(7), &images).unwrap_err();
        assert_eq!(
            error.to_string(),
            "'a.tar' holds no image '@7'; available:\n  docker.io/library/alpine:3.19 (@0)\n  (@1)"
        );
    }
}
