//! A loaded image: its documents, its merged tree, the bytes of its files, and views of it (extract, export,
//! mount).
//!
//! This module owns the methods of [`Image`] and the conversion of layer numbers. It does not know how images
//! are opened, merged or read.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use crate::analysis::deleted::{self, DeletedFiles, DeletedOptions};
use crate::analysis::diff::{DiffOptions, Difference, Side};
use crate::analysis::history::{self, Event, Step};
use crate::analysis::{Inode, diff as trees};
use crate::error::{Error, PathFault, Result};
use crate::export::{ExportOptions, export};
use crate::extract::{ExtractOptions, ExtractReport, extract, extract_as};
use crate::glob::Glob;
use crate::host_path::HostDirectory;
use crate::image::ImageInfo;
use crate::layer::LayerId;
use crate::load::{Engine, EngineOptions, FileReader, LayerInfo, LoadOptions, LoadedTree};
use crate::path::{escape, normalize_path};
use crate::rootfs::{Follow, InodeId, MergeOptions, ROOT};
use crate::source::Reference;
use crate::warning::{Warning, WarningKind};

/// A loaded image: its documents, its merged tree and the bytes of its files.
///
/// Objects of the tree are identified by an [`InodeId`]; [`Image::resolve`] and [`Image::walk`] return it.
/// Names and paths are bytes. A clone shares all data with the original and is cheap. All methods can be
/// called from several threads at once.
#[derive(Debug, Clone)]
pub struct Image {
    pub(super) tree: Arc<LoadedTree>,
    pub(super) info: Arc<ImageInfo>,
    pub(super) format: &'static str,
    pub(super) merge: MergeOptions,
}

/// Opening, and the contents of the documents.
impl Image {
    /// Opens and loads the image that `name` refers to, with the syntax of the command line: `image.tar`,
    /// `layout:1.0`, `oci:dir@2`. The engine has its default options, so nothing is stored on disk.
    ///
    /// # Errors
    /// As [`Reference::parse`], [`Engine::select`] and [`SelectedImage::load`](crate::SelectedImage::load).
    pub fn open(name: impl AsRef<OsStr>) -> Result<Self> {
        let reference = Reference::parse(name.as_ref(), None)?;
        let engine = Engine::new(EngineOptions::default());
        engine.select(&reference, None)?.load(&LoadOptions::default())
    }

    /// Returns the contents of the image's documents: names, digests, platform, config.
    #[must_use]
    pub fn info(&self) -> &ImageInfo {
        &self.info
    }

    /// Returns the format of the source, as [`Source::format`](crate::Source::format).
    #[must_use]
    pub fn format(&self) -> &'static str {
        self.format
    }

    /// Returns the loaded layers, lowest first. [`LayerRange`](crate::LayerRange) selects them.
    #[must_use]
    pub fn layers(&self) -> &[LayerInfo] {
        self.tree.layers()
    }

    /// Returns the layer `id`; `None` for a layer that was not loaded.
    #[must_use]
    pub fn layer(&self, id: LayerId) -> Option<&LayerInfo> {
        self.layers().get(usize::from(id.0.checked_sub(self.first())?))
    }

    /// Returns the warnings from reading and merging the layers, each with its layer. Of each kind, the first
    /// 1,000 are listed, or fewer if their paths have more than 256 KiB; [`Image::warning_counts`] has the number
    /// of all.
    #[must_use]
    pub fn warnings(&self) -> &[(LayerId, Warning)] {
        self.tree.warnings().kept()
    }

    /// Returns the number of warnings of each kind that occurs, including those that [`Image::warnings`] leaves
    /// out.
    pub fn warning_counts(&self) -> impl Iterator<Item = (WarningKind, u64)> {
        self.tree.warnings().counts()
    }

    fn side(&self) -> Side<'_> {
        Side { rootfs: self.tree.rootfs(), files: &*self.tree }
    }

    /// Returns the position, in the image, of the lowest loaded layer.
    fn first(&self) -> u16 {
        self.tree.layer_number(LayerId(0))
    }
}

/// The merged tree.
impl Image {
    /// Finds the inode at `path`, as `stat` does. Symbolic links are followed inside the image, including the
    /// last component. The path is resolved from the root of the image, with or without a leading slash.
    ///
    /// # Errors
    /// [`Error::Path`] when the path does not exist, a component before the last is not a directory, or
    /// resolving the path follows more than 40 symbolic links.
    pub fn resolve(&self, path: impl AsRef<[u8]>) -> Result<InodeId> {
        self.tree.rootfs().resolve(path.as_ref(), Follow::Last)
    }

    /// Finds the inode at `path`, as `lstat` does: a symbolic link at the end of the path is not followed,
    /// unless the path ends in a slash.
    ///
    /// # Errors
    /// As [`Image::resolve`].
    pub fn resolve_no_follow(&self, path: impl AsRef<[u8]>) -> Result<InodeId> {
        self.tree.rootfs().resolve(path.as_ref(), Follow::NotLast)
    }

    /// Returns the type and attributes of an object; `None` for a number that the tree does not have.
    #[must_use]
    pub fn inode(&self, id: InodeId) -> Option<Inode<'_>> {
        Inode::of(self.tree.rootfs(), id).map(|inode| inode.above(self.first()))
    }

    /// Returns whether an object is a directory.
    #[must_use]
    pub fn is_directory(&self, id: InodeId) -> bool {
        self.tree.rootfs().is_directory(id)
    }

    /// Returns the child `name` of a directory; `None` if the directory has no such child.
    #[must_use]
    pub fn lookup(&self, directory: InodeId, name: impl AsRef<[u8]>) -> Option<InodeId> {
        self.tree.rootfs().lookup(directory, name.as_ref())
    }

    /// Returns the names in a directory and their inodes, sorted by bytes. Empty for other objects.
    pub fn children(&self, directory: InodeId) -> impl ExactSizeIterator<Item = (&[u8], InodeId)> {
        self.tree.rootfs().children(directory)
    }

    /// Returns the parent directory of a directory; the root is its own parent.
    #[must_use]
    pub fn parent(&self, directory: InodeId) -> InodeId {
        self.tree.rootfs().parent(directory)
    }

    /// Returns the path of a directory, without a trailing slash; `/` for the root and for objects that are
    /// not directories.
    #[must_use]
    pub fn path(&self, directory: InodeId) -> Vec<u8> {
        self.tree.rootfs().path(directory)
    }

    /// Iterates over all paths and their inodes: the root first, parents before their children, siblings
    /// sorted by bytes. The memory needed does not grow with the tree.
    pub fn walk(&self) -> impl Iterator<Item = (Vec<u8>, InodeId)> {
        self.walk_from(ROOT)
    }

    /// Iterates like [`Image::walk`], starting at `directory`. Empty for other objects.
    pub fn walk_from(&self, directory: InodeId) -> impl Iterator<Item = (Vec<u8>, InodeId)> {
        self.tree.rootfs().walk(directory)
    }

    /// Iterates over the paths below a directory, sorted by the bytes of whole paths: `/a.txt` comes before
    /// `/a/b`. The directory itself is not included; in each path, `prefix` replaces its path.
    pub fn walk_sorted(
        &self,
        directory: InodeId,
        prefix: impl AsRef<[u8]>,
    ) -> impl Iterator<Item = (Vec<u8>, InodeId)> {
        self.tree.rootfs().walk_by_path(directory, prefix.as_ref())
    }

    /// Returns the paths that `pattern` matches and their inodes, sorted by bytes. As in a shell, symbolic
    /// links are followed where the pattern names them, except as its last component; `**` follows none.
    #[must_use]
    pub fn glob(&self, pattern: &Glob) -> Vec<(Vec<u8>, InodeId)> {
        self.tree.rootfs().glob(pattern)
    }
}

/// The bytes of files.
impl Image {
    /// Opens the regular file at `path`. Symbolic links are followed as in [`Image::resolve`].
    ///
    /// # Errors
    /// As [`Image::resolve`], and [`Error::Path`] when the object is not a regular file.
    pub fn open_file(&self, path: impl AsRef<[u8]>) -> Result<FileReader> {
        let path = path.as_ref();
        let id = self.resolve(path)?;
        self.open_inode(id).map_err(|_| {
            let reason = if self.is_directory(id) { PathFault::IsADirectory } else { PathFault::NotAFile };
            Error::Path { path: escape(path), reason }
        })
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// [`Error::Path`] when `file` is not a regular file.
    pub fn open_inode(&self, file: InodeId) -> Result<FileReader> {
        LoadedTree::open(&self.tree, file)
    }

    /// Reads from `offset` (bytes) of a regular file into `buf`. Returns the number of bytes read, which is
    /// smaller than `buf` only at the end of the file. Holes read as zeros.
    ///
    /// # Errors
    /// [`Error::Path`] when `file` is not a regular file; [`Error::Changed`] when the image has changed since
    /// it was verified; [`Error::Io`] when the image cannot be read.
    pub fn read_at(&self, file: InodeId, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.tree.read_at(file, buf, offset)
    }
}

/// History of layers and deleted files.
impl Image {
    /// Returns the steps of the image's history with the layers that they made, oldest first. If the history
    /// does not have exactly one step for each layer, all layers come first, without steps, and then all
    /// steps, without layers.
    #[must_use]
    pub fn steps(&self) -> Vec<Step<'_>> {
        history::of_info(&self.info)
    }

    /// Lists what each loaded layer did to `path`, lowest layer first. Symbolic links in the path are not
    /// followed. File contents are read only if the metadata cannot decide whether they changed. Empty if no
    /// layer has the path.
    ///
    /// # Errors
    /// As [`Image::read_at`], and [`Error::Limit`].
    pub fn history(&self, path: impl AsRef<[u8]>) -> Result<Vec<Event<'_>>> {
        let path = normalize_path(path.as_ref());
        let layers = self.tree.rootfs().layers();
        let mut events = history::of_path(layers, &self.merge, &*self.tree, &path)?;
        let first = self.first();
        for event in &mut events {
            event.layer.0 = event.layer.0.saturating_add(first);
            event.after = event.after.map(|inode| inode.above(first));
        }
        Ok(events)
    }

    /// Lists the files of loaded layers that later layers removed, sorted by path. To read such a file, load
    /// the image up to its layer with [`LayerRange::Upto`](crate::LayerRange::Upto).
    ///
    /// # Errors
    /// [`Error::Limit`] for too many paths.
    pub fn deleted(&self, options: &DeletedOptions) -> Result<DeletedFiles<'_>> {
        Ok(deleted::find(self.tree.rootfs().layers(), &self.merge, *options)?.above(self.first()))
    }
}

/// Writing and mounting the tree.
impl Image {
    /// Writes the whole tree into the directory `dir`, which is created if missing.
    ///
    /// # Errors
    /// [`Error::Io`] when `dir` cannot be used, when it is not empty under
    /// [`Existing::Refuse`](crate::Existing::Refuse), when the disk is full, and when the work was stopped.
    /// Objects that cannot be created are listed in the [`ExtractReport`].
    pub fn extract(&self, dir: impl AsRef<Path>, options: &ExtractOptions<'_>) -> Result<ExtractReport> {
        self.extract_from(ROOT, &HostDirectory::create(dir)?, options)
    }

    /// Writes the contents of one directory of the tree into `dir`, as [`Image::extract`].
    ///
    /// # Errors
    /// As [`Image::extract`], and [`Error::Path`] when `directory` is not a directory.
    pub fn extract_from(
        &self,
        directory: InodeId,
        dir: &HostDirectory,
        options: &ExtractOptions<'_>,
    ) -> Result<ExtractReport> {
        extract(&self.tree, directory, dir, options)
    }

    /// Writes one object of the tree, with everything below it, as `name` in the directory `dir`, which need
    /// not be empty.
    ///
    /// # Errors
    /// As [`Image::extract`], and [`Error::Path`] when `name` is not a valid file name.
    pub fn extract_as(
        &self,
        object: InodeId,
        dir: &HostDirectory,
        name: impl AsRef<[u8]>,
        options: &ExtractOptions<'_>,
    ) -> Result<ExtractReport> {
        extract_as(&self.tree, object, dir, name.as_ref(), options)
    }

    /// Writes the whole tree to `out` as a tar. The same image always gives the same bytes.
    ///
    /// # Errors
    /// [`Error::Io`] when writing to `out` fails, otherwise as [`Image::read_at`]. After an error the tar is
    /// incomplete.
    pub fn export(&self, out: &mut dyn Write, options: &ExportOptions<'_>) -> Result<()> {
        self.export_from(ROOT, out, options)
    }

    /// Writes one object of the tree and everything below it, as [`Image::export`].
    ///
    /// # Errors
    /// As [`Image::export`].
    pub fn export_from(
        &self,
        object: InodeId,
        out: &mut dyn Write,
        options: &ExportOptions<'_>,
    ) -> Result<()> {
        export(&self.tree, object, options, out)
    }

    /// Mounts the tree on the directory `point`, read-only. Threads of this process serve the mount until it
    /// is unmounted; dropping the [`Mounted`](crate::Mounted) unmounts it.
    ///
    /// # Errors
    /// [`Error::Mount`] when an image is mounted there already, or when the kernel or `fusermount3` refuses the
    /// mount. Nothing is mounted then.
    #[cfg(feature = "fuse")]
    pub fn mount(
        &self,
        point: crate::fuse::MountPoint,
        options: &crate::fuse::MountOptions,
    ) -> Result<crate::fuse::Mounted> {
        use crate::forest::Forest;
        use crate::fuse::MountView;

        let forest = match options.view {
            MountView::Rootfs => Forest::from(Arc::clone(&self.tree)),
            MountView::All => Forest::of_image(Arc::clone(&self.tree), &self.info, self.merge)?,
        };
        crate::fuse::mount(forest, point, options)
    }
}

/// Compares the trees of two images. The differences are sorted by the bytes of whole paths. File contents
/// are read only if the metadata cannot decide whether they differ. Images of one [`Engine`] share the span
/// cache.
///
/// # Errors
/// As [`Image::read_at`], and [`Error::Limit`] for too many paths.
pub fn diff(a: &Image, b: &Image, options: &DiffOptions) -> Result<Vec<Difference>> {
    trees::diff(a.side(), b.side(), options, a.merge.limits)
}
