//! The storage directory of a registry: the file tree that distribution (`registry:2`, `docker-registry`)
//! writes, read without the registry.
//!
//! ```text
//! docker/registry/v2/repositories/NAME/_manifests/tags/TAG/current/link           digest of a manifest
//!                                                /revisions/ALGORITHM/HEX/link    the same digest
//! docker/registry/v2/blobs/ALGORITHM/HH/HEX/data                                  manifests, configs, layers
//! ```
//!
//! This module owns that layout: which directories are repositories, which texts are tags, and where a blob
//! is. It must not know what manifests mean, except that an image index names others. Source: distribution,
//! registry/storage/paths.go, and distribution/reference, regexp.go.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::archive::not_an_image;
use super::artifact;
use super::beneath::Beneath;
use super::blobs::{Blobs, read_bounded};
use super::environment::Environment;
use super::formats::Site;
use super::names::{self, Names};
use super::walk::Walk;
use super::{ImageSource, ImageSummary, OpenedImage, Selection, Survey};
use crate::digest::{Algorithm, Digest};
use crate::error::{DocumentRole, Error, Result, Subject};
use crate::image::Platform;
use crate::image::manifest::{self, Descriptor, Document, MAX_DOCUMENT_BYTES};
use crate::layer::index::Verify;
use crate::limits::Limits;
use crate::read_at::ReadAt;

/// The root directory in the image `registry:2` and in most packages, and that of Debian's package.
const OWN_PLACES: [&str; 2] = ["/var/lib/registry", "/var/lib/docker-registry"];
/// The directory of the tree, below the root directory that the registry's configuration names.
const TREE: &str = "docker/registry/v2";
/// The directory of all repositories, in the tree.
const REPOSITORIES: &str = "repositories";
/// The directory that makes its parent a repository.
const MANIFESTS: &str = "_manifests";

/// Maximum length of a repository's name in bytes, as in the registry. It also ends cycles of links.
const MAX_REPOSITORY_NAME_BYTES: usize = 255;
/// Maximum number of directories that are searched for repositories. The largest known registries have a few
/// hundred thousand repositories; a directory takes up to 300 bytes of memory.
const MAX_REPOSITORY_DIRECTORIES: u64 = 1 << 20;
/// Maximum number of tags and manifests of all repositories together. Each takes up to 500 bytes of memory.
const MAX_REPOSITORY_IMAGES: u64 = 1 << 20;
/// Maximum length of a tag in bytes. Source: distribution/reference, regexp.go.
const MAX_TAG_BYTES: usize = 128;
/// Maximum length of a `link` file. The longest digest has 135 bytes.
const MAX_LINK_BYTES: u64 = 1024;

/// Returns true for a directory with the tree of a registry, and for the tree itself.
pub(super) fn detect(place: &mut Site<'_>) -> Result<bool> {
    let Some(directory) = place.directory()? else { return Ok(false) };
    match find_tree(&directory) {
        // A docker-archive in a directory has a file `repositories`.
        Err(Error::Malformed { .. }) => Ok(false),
        found => Ok(found?.is_some()),
    }
}

/// Returns the root directories that packages of the registry configure.
pub(super) fn own_places(environment: &Environment) -> Vec<PathBuf> {
    OWN_PLACES.iter().map(|path| environment.place(path)).collect()
}

/// Opens the storage directory of a registry.
pub(super) fn open(place: Site<'_>) -> Result<Box<dyn ImageSource>> {
    let Some(directory) = place.directory()? else {
        return Err(not_an_image(place.path().unwrap_or(Path::new("-")), "not a directory"));
    };
    RegistryStorage::open(place.verify(), &directory).map(|source| Box::new(source) as Box<dyn ImageSource>)
}

/// Returns the tree of a registry in `directory`, which may be the tree itself.
fn find_tree(directory: &Beneath) -> Result<Option<Beneath>> {
    if let Some(tree) = directory.dir(TREE)?
        && tree.dir(REPOSITORIES)?.is_some()
    {
        return Ok(Some(tree));
    }
    let is_tree = directory.dir(REPOSITORIES)?.is_some() && directory.dir("blobs")?.is_some();
    Ok(is_tree.then(|| directory.clone()))
}

/// The storage directory of a registry.
#[derive(Debug)]
struct RegistryStorage {
    tree: Tree,
    verify: Verify,
    listed: OnceLock<Vec<Listed>>,
}

/// What leads to an image: a tag of a repository, or a manifest without a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    repository: String,
    target: Target,
}

/// The second part of an [`Entry`].
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Tag(String),
    Manifest(Digest),
}

/// An entry in the list of images.
#[derive(Debug)]
struct Listed {
    entry: Entry,
    /// The digest that the entry leads to; `None` for a link that cannot be read.
    digest: Option<Digest>,
}

impl Listed {
    fn names(&self) -> Names {
        let ids = self.digest.iter().map(Digest::hex).collect();
        Names { full: vec![self.entry.name()], ids, ..Names::default() }
    }
}

impl Entry {
    fn name(&self) -> String {
        match &self.target {
            Target::Tag(tag) => format!("{}:{tag}", self.repository),
            Target::Manifest(digest) => format!("{}@{digest}", self.repository),
        }
    }

    /// Returns the file that holds the digest of the entry.
    fn link(&self) -> String {
        let manifests = format!("{REPOSITORIES}/{}/{MANIFESTS}", self.repository);
        match &self.target {
            Target::Tag(tag) => format!("{manifests}/tags/{tag}/current/link"),
            Target::Manifest(digest) => {
                format!("{manifests}/revisions/{}/{}/link", digest.algorithm().name(), digest.hex())
            }
        }
    }

    /// Parses `NAME`, `NAME:TAG` or `NAME@DIGEST`; `None` for text that cannot name an image of a registry.
    /// Without a tag, the tag is `latest`.
    fn named(text: &str) -> Option<Self> {
        let (repository, target) = match (text.split_once('@'), text.rsplit_once(':')) {
            (Some((repository, digest)), _) => (repository, Target::Manifest(digest.parse().ok()?)),
            (None, Some((repository, tag))) => (repository, Target::Tag(tag.to_owned())),
            (None, None) => (text, Target::Tag("latest".to_owned())),
        };
        let is_tag = |target: &Target| !matches!(target, Target::Tag(tag) if !is_tag(tag));
        let fits = is_repository(repository) && is_tag(&target);
        fits.then(|| Entry { repository: repository.to_owned(), target })
    }
}

impl RegistryStorage {
    fn open(verify: Verify, directory: &Beneath) -> Result<Self> {
        let Some(root) = find_tree(directory)? else {
            let reason = "found no directory 'docker/registry/v2/repositories'";
            return Err(not_an_image(directory.path(), reason));
        };
        Ok(RegistryStorage { tree: Tree { root }, verify, listed: OnceLock::new() })
    }

    /// Returns the images of all repositories, sorted by repository. Signatures and other artifacts are left
    /// out (F17). A tag that cannot be read is listed; opening it reports the error. The repositories are
    /// searched once.
    fn listed(&self) -> Result<&[Listed]> {
        if let Some(listed) = self.listed.get() {
            return Ok(listed);
        }
        let listed = self.list()?;
        Ok(self.listed.get_or_init(|| listed))
    }

    fn list(&self) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for repository in self.tree.repositories()? {
            listed.extend(self.images_of(&repository));
            let count = listed.len() as u64;
            if count > MAX_REPOSITORY_IMAGES {
                let what = self.tree.root.describe(REPOSITORIES);
                return Err(Error::limit(what, "MAX_REPOSITORY_IMAGES", count, MAX_REPOSITORY_IMAGES));
            }
        }
        Ok(listed)
    }

    /// Returns the images of a repository: its tags, and then the manifests that neither a tag nor an image
    /// index of the repository leads to.
    fn images_of(&self, repository: &str) -> Vec<Listed> {
        let entry = |target| Entry { repository: repository.to_owned(), target };
        let tags = self.tree.tags(repository).into_iter().map(|tag| {
            let entry = entry(Target::Tag(tag));
            let digest = or_warn(self.tree.digest_of(&entry)).flatten();
            Listed { entry, digest }
        });
        let mut listed: Vec<Listed> = tags.collect();
        let tagged: HashSet<Digest> = listed.iter().filter_map(|tag| tag.digest).collect();
        for digest in self.untagged(repository, &tagged) {
            listed.push(Listed { entry: entry(Target::Manifest(digest)), digest: Some(digest) });
        }
        listed.retain(|listed| self.is_image(listed));
        listed
    }

    /// Returns the manifests of a repository that are not in `tagged`, and that no image index of the
    /// repository names.
    fn untagged(&self, repository: &str, tagged: &HashSet<Digest>) -> BTreeSet<Digest> {
        let mut found: BTreeSet<Digest> = self.tree.revisions(repository).into_iter().collect();
        if found.is_subset(&tagged.iter().copied().collect()) {
            return BTreeSet::new();
        }
        let all: Vec<Digest> = found.iter().chain(tagged).copied().collect();
        for child in all.iter().flat_map(|digest| self.children(digest)) {
            found.remove(&child);
        }
        found.retain(|digest| !tagged.contains(digest));
        found
    }

    /// Returns the manifests that an image index names; empty for other documents, and for those that cannot
    /// be read.
    fn children(&self, digest: &Digest) -> Vec<Digest> {
        let what = Subject::Document { role: DocumentRole::Manifest, digest: *digest };
        let read = || {
            let bytes = self.tree.blob_of(digest)?;
            let bytes =
                bytes.map(|bytes| read_bounded(&what, &*bytes, "MAX_DOCUMENT_BYTES", MAX_DOCUMENT_BYTES));
            bytes.transpose()?.map(|bytes| manifest::parse(&what, &bytes, None)).transpose()
        };
        match read() {
            Ok(Some(Document::Index(index))) => index.manifests.iter().map(|child| child.digest).collect(),
            _ => Vec::new(),
        }
    }

    /// Returns whether an entry is an image. An entry that cannot be read counts as one, because opening it
    /// reports the error.
    fn is_image(&self, listed: &Listed) -> bool {
        let Some(digest) = listed.digest else { return true };
        let Ok(top) = self.tree.descriptor(digest) else { return true };
        artifact::of_cosign(&top, &listed.names()).is_none()
            && Walk::new(&self.tree, None, Verify::Full).artifact(&top).is_none()
    }

    /// Returns the entry that `selection` names, and its names.
    fn pick(&self, selection: &Selection) -> Result<(Entry, Vec<String>)> {
        // A name that is complete needs no search through all repositories.
        if let Selection::Name(name) = selection
            && let Some(entry) = Entry::named(name)
            && self.tree.exists(&entry)?
        {
            let names = vec![entry.name()];
            return Ok((entry, names));
        }
        let place = self.tree.place();
        let listed = self.listed()?;
        if let Selection::Index(index) = selection
            && let Some(one) = listed.get(*index)
        {
            return Ok((one.entry.clone(), vec![one.entry.name()]));
        }
        let images = summaries(listed);
        let found = names::select(&place, selection, &images)?;
        let chosen: Vec<&Listed> = found.iter().filter_map(|at| listed.get(*at)).collect();
        match chosen.split_first() {
            // Tags of one manifest are names of one image.
            Some((first, others))
                if others.is_empty()
                    || first.digest.is_some() && others.iter().all(|one| one.digest == first.digest) =>
            {
                let names = chosen.iter().map(|one| one.entry.name());
                Ok((first.entry.clone(), names.collect()))
            }
            _ => Err(names::ambiguous(&place, &images, &found)),
        }
    }

    /// Returns the descriptor of an entry's manifest or image index.
    fn top(&self, entry: &Entry) -> Result<Descriptor> {
        let found = self.tree.digest_of(entry)?;
        let digest = found.ok_or_else(|| {
            // The registry removed the link after it was listed.
            Error::malformed(self.tree.root.describe(&entry.link()), "the link was removed")
        })?;
        self.tree.descriptor(digest)
    }
}

impl ImageSource for RegistryStorage {
    fn kind(&self) -> &'static str {
        "registry-storage"
    }

    fn images(&self) -> Result<Vec<ImageSummary>> {
        Ok(summaries(self.listed()?).into_iter().map(|(_, summary)| summary).collect())
    }

    fn image(&self, select: &Selection, platform: Option<&Platform>) -> Result<OpenedImage> {
        let (entry, names) = self.pick(select)?;
        Walk::new(&self.tree, platform, self.verify).open(&[&self.top(&entry)?], names)
    }

    fn survey(&self, select: &Selection, platform: Option<&Platform>) -> Result<Survey> {
        let (entry, _) = self.pick(select)?;
        let top = self.top(&entry)?;
        let mut survey = Walk::new(&self.tree, platform, self.verify).survey(&[&top]);
        // A link states no size; that of the descriptor was taken from the file.
        for document in survey.documents.iter_mut().filter(|document| document.digest == top.digest) {
            document.size = None;
        }
        Ok(survey)
    }
}

fn summaries(listed: &[Listed]) -> Vec<(Names, ImageSummary)> {
    let summary = |(index, listed): (usize, &Listed)| {
        let names = listed.names();
        let id = listed.digest.map(|digest| digest.to_string());
        let summary = ImageSummary { index, names: names.shown(), id, ..ImageSummary::default() };
        (names, summary)
    };
    listed.iter().enumerate().map(summary).collect()
}

/// The tree of files.
#[derive(Debug)]
struct Tree {
    root: Beneath,
}

impl Tree {
    /// Returns the names of all repositories, sorted by bytes. A directory that cannot be listed is left out,
    /// with a warning; a directory that a link leads to again is listed once.
    fn repositories(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut todo = vec![String::new()];
        let mut seen = HashSet::new();
        let mut directories = 1;
        while let Some(parent) = todo.pop() {
            let path = format!("{REPOSITORIES}/{parent}");
            let names = or_warn(self.names_once(path.trim_end_matches('/'), &mut seen)).flatten();
            for name in names.unwrap_or_default() {
                if name == MANIFESTS && !parent.is_empty() {
                    found.push(parent.clone());
                }
                let child = if parent.is_empty() { name } else { format!("{parent}/{name}") };
                if !is_repository(&child) {
                    continue;
                }
                directories += 1;
                if directories > MAX_REPOSITORY_DIRECTORIES {
                    let (limit, what) = ("MAX_REPOSITORY_DIRECTORIES", self.root.describe(REPOSITORIES));
                    return Err(Error::limit(what, limit, directories, MAX_REPOSITORY_DIRECTORIES));
                }
                todo.push(child);
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Returns the names in a directory that are UTF-8, and adds the directory to `seen`; `None` if it does
    /// not exist or was seen before.
    fn names_once(&self, path: &str, seen: &mut HashSet<(u64, u64)>) -> Result<Option<Vec<String>>> {
        let Some(directory) = self.root.dir(path)? else { return Ok(None) };
        let stat = rustix::fs::fstat(directory.fd());
        let stat = stat.map_err(|e| Error::io_on("cannot read", self.root.describe(path), e.into()))?;
        if !seen.insert((stat.st_dev, stat.st_ino)) {
            return Ok(None);
        }
        directory.names("").map(|names| Some(utf8(names)))
    }

    /// Returns the texts in a repository that can be tags, sorted by bytes. A tag that was removed can be
    /// among them.
    fn tags(&self, repository: &str) -> Vec<String> {
        let path = format!("{REPOSITORIES}/{repository}/{MANIFESTS}/tags");
        let names = or_warn(self.root.names(&path)).unwrap_or_default();
        let mut tags = Vec::new();
        for tag in utf8(names).into_iter().filter(|name| is_tag(name)) {
            let entry = Entry { repository: repository.to_owned(), target: Target::Tag(tag.clone()) };
            if self.exists(&entry).unwrap_or(true) {
                tags.push(tag);
            }
        }
        tags
    }

    /// Returns the digests of a repository's manifests, in no order. Those that were removed are left out.
    fn revisions(&self, repository: &str) -> Vec<Digest> {
        let mut found = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512, Algorithm::Blake3] {
            let name = algorithm.name();
            let path = format!("{REPOSITORIES}/{repository}/{MANIFESTS}/revisions/{name}");
            for hex in utf8(or_warn(self.root.names(&path)).unwrap_or_default()) {
                let Ok(digest) = format!("{name}:{hex}").parse::<Digest>() else { continue };
                let target = Target::Manifest(digest);
                if self.exists(&Entry { repository: repository.to_owned(), target }).unwrap_or(true) {
                    found.push(digest);
                }
            }
        }
        found
    }

    /// Returns whether the link of an entry exists, whatever it contains.
    fn exists(&self, entry: &Entry) -> Result<bool> {
        Ok(self.root.file(&entry.link())?.is_some())
    }

    /// Returns the digest in the link of an entry; `None` if the link does not exist.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a link that is not a digest, and for the link of a manifest that names another
    /// manifest.
    fn digest_of(&self, entry: &Entry) -> Result<Option<Digest>> {
        let link = entry.link();
        let Some(bytes) = self.root.read(&link, "MAX_LINK_BYTES", MAX_LINK_BYTES)? else { return Ok(None) };
        let what = self.root.describe(&link);
        let text = std::str::from_utf8(&bytes).unwrap_or_default().trim_end();
        let digest: Digest =
            text.parse().map_err(|_| Error::malformed(what.clone(), "the link does not contain a digest"))?;
        match entry.target {
            Target::Manifest(own) if own != digest => {
                Err(Error::malformed(what, format!("the link names another manifest, {digest}")))
            }
            _ => Ok(Some(digest)),
        }
    }

    /// Returns the stored bytes of a blob; `None` when it is missing, as after a garbage collection.
    fn blob_of(&self, digest: &Digest) -> Result<Option<Arc<dyn ReadAt>>> {
        let (algorithm, hex) = (digest.algorithm().name(), digest.hex());
        let name = format!("blobs/{algorithm}/{hex:.2}/{hex}/data");
        let Some(file) = self.root.file(&name)? else { return Ok(None) };
        Ok(Some(Arc::new(self.root.bytes(&name, file)?)))
    }

    /// Returns a descriptor of the manifest with this digest. Only the digest is known; the size is that of
    /// the file.
    fn descriptor(&self, digest: Digest) -> Result<Descriptor> {
        let size = self.blob_of(&digest)?.map_or(0, |bytes| bytes.len());
        Ok(Descriptor::new(None, digest, size))
    }
}

impl Blobs for Tree {
    fn place(&self) -> String {
        self.root.path().display().to_string()
    }

    fn limits(&self) -> Limits {
        self.root.limits()
    }

    fn blob(&self, wanted: &Descriptor) -> Result<Option<Arc<dyn ReadAt>>> {
        self.blob_of(&wanted.digest)
    }
}

/// Returns the names that are UTF-8, as all names of a registry are.
fn utf8(names: Vec<OsString>) -> Vec<String> {
    names.into_iter().filter_map(|name| name.into_string().ok()).collect()
}

/// Returns the result, or logs a warning: a part of the tree that cannot be read must not hide the others.
fn or_warn<T>(result: Result<T>) -> Option<T> {
    result.map_err(|error| log::warn!("{error}")).ok()
}

/// Returns true for the name of a repository: components of lower-case letters and digits, with `.`, `_` and
/// `-` between them, joined by slashes. So no directory of the registry itself, such as `_layers`, and no path
/// with `..` is a name.
fn is_repository(name: &str) -> bool {
    let is_letter = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_component = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().copied().is_some_and(is_letter)
            && bytes.last().copied().is_some_and(is_letter)
            && bytes.iter().all(|c| is_letter(*c) || matches!(c, b'.' | b'_' | b'-'))
    };
    name.len() <= MAX_REPOSITORY_NAME_BYTES && name.split('/').all(is_component)
}

/// Returns true for a tag: a letter, digit or `_`, and then also `.` and `-`.
fn is_tag(text: &str) -> bool {
    let is_word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let bytes = text.as_bytes();
    text.len() <= MAX_TAG_BYTES
        && bytes.first().copied().is_some_and(is_word)
        && bytes.iter().all(|c| is_word(*c) || matches!(c, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f40_names_follow_the_grammar_of_registries() {
        for (text, found) in [
            ("app", Some("app:latest")),
            ("a/b-c__d.e:1.0_x", Some("a/b-c__d.e:1.0_x")),
            ("a/../b:1", None),
            ("a//b:1", None),
            ("/a:1", None),
            ("a/_layers:1", None),
            ("App:1", None),
            ("a:-1", None),
            ("a:../../c", None),
            ("a@sha256:1", None),
            ("", None),
        ] {
            let entry = Entry::named(text).map(|entry| entry.name());
            assert_eq!(entry.as_deref(), found, "{text}");
        }
        let digest = Algorithm::Sha512.digest(b"x");
        assert_eq!(Entry::named(&format!("a/b@{digest}")).unwrap().target, Target::Manifest(digest));
        assert!(!is_repository(&"a".repeat(MAX_REPOSITORY_NAME_BYTES + 1)));
        assert!(!is_tag(&"a".repeat(MAX_TAG_BYTES + 1)));
    }
}
