//! The places that images are mounted from: a registry, and files that are damaged, replaced and restored.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use std::{slice, thread};

use super::Soak;
use super::images::{self, Files};
use crate::fixture::{
    Compression, Image, Item, Kind, Registry, docker_legacy, docker_modern, file, oci, podman, skopeo_dir,
    tar,
};
use crate::numbers::Random;

/// An image in one place.
pub(super) struct Source {
    pub(super) name: &'static str,
    reference: String,
    by_digest: Option<String>,
    /// The files of the image. Files on disk are at times replaced by a second image, with files of the same
    /// names and sizes. All bytes of one mount are of one image.
    pub(super) variants: Vec<Files>,
    local: Option<Local>,
    /// Always true.
    free: RwLock<bool>,
}

/// A source that consists of files on disk.
struct Local {
    /// The files that make up each variant.
    files: Vec<Vec<(PathBuf, Vec<u8>)>>,
    /// A name next to the source, for files that replace others.
    draft: PathBuf,
    /// Whether the image has digests. Without them, bytes that are damaged before they are read first are
    /// right.
    has_digests: bool,
    /// Raised after every change, so that a mount of earlier bytes is found.
    changes: AtomicU64,
    /// Whether the files are those of the first variant.
    is_whole: RwLock<bool>,
}

/// How files are written.
#[derive(Clone, Copy)]
enum Way {
    InPlace,
    ByRename,
}

const WAYS: [Way; 2] = [Way::InPlace, Way::ByRename];

pub(super) fn all(registry: &Registry, directory: &Path) -> Vec<Source> {
    let mut sources: Vec<Source> = images::of_registry()
        .into_iter()
        .zip(["a:1", "b:1"])
        .map(|((image, files), name)| {
            let digest = registry.push(name, &image);
            let by_digest = format!("{}@{digest}", name.trim_end_matches(":1"));
            Source {
                name,
                reference: registry.reference(name),
                by_digest: Some(registry.reference(&by_digest)),
                variants: vec![files],
                local: None,
                free: RwLock::new(true),
            }
        })
        .collect();
    sources.extend(local(directory));
    sources
}

fn local(directory: &Path) -> Vec<Source> {
    use Compression::{Gzip, GzipMembers, Plain, Zstd, ZstdFrames};
    type Pack = fn(&Image, &Files) -> Vec<Item>;
    let forms: [(&str, [Compression; 3], Pack); 7] = [
        ("archive.tar", [Gzip(6), Plain, Zstd], |image, _| {
            packed(&docker_modern(slice::from_ref(image)), Plain)
        }),
        ("whole.tar.gz", [Plain; 3], |image, _| packed(&docker_legacy(slice::from_ref(image)), Gzip(6))),
        ("whole.tar.zst", [Plain, Gzip(6), Plain], |image, _| packed(&podman(slice::from_ref(image)), Zstd)),
        ("layout", [ZstdFrames, GzipMembers(6), Gzip(0)], |image, _| oci(slice::from_ref(image))),
        ("skopeo", [Zstd, Gzip(6), Zstd], |image, _| skopeo_dir(image)),
        ("rootfs.tar.gz", [Plain; 3], |_, files| packed(&flat(files), Gzip(6))),
        ("rootfs", [Plain; 3], |_, files| flat(files)),
    ];
    let made = forms.into_iter().map(|(name, compressions, pack)| {
        let path = directory.join(name);
        let is_rootfs = name.starts_with("rootfs");
        let made = [0, 1].map(|variant| images::local(variant, compressions));
        let local = Local {
            files: made.iter().map(|(image, files)| on_disk(&path, pack(image, files))).collect(),
            draft: directory.join(format!("{name}.draft")),
            has_digests: !is_rootfs,
            changes: AtomicU64::new(0),
            is_whole: RwLock::new(true),
        };
        local.write_all(0, Way::InPlace);
        Source {
            name,
            reference: format!("{}{}", if is_rootfs { "rootfs:" } else { "" }, path.display()),
            by_digest: None,
            // Files without digests are not replaced by those of another image.
            variants: made.map(|(_, files)| files).into_iter().take(if is_rootfs { 1 } else { 2 }).collect(),
            local: Some(local),
            free: RwLock::new(true),
        }
    });
    made.collect()
}

fn packed(items: &[Item], compression: Compression) -> Vec<Item> {
    vec![file("", compression.compress(&tar(items)))]
}

fn flat(files: &Files) -> Vec<Item> {
    files.iter().map(|(name, content)| file(name, content)).collect()
}

/// Returns the paths and contents of the files among `items`. A file without a name is the source itself.
fn on_disk(path: &Path, items: Vec<Item>) -> Vec<(PathBuf, Vec<u8>)> {
    let files = items.into_iter().filter_map(|item| match item.kind {
        Kind::File(content) if item.name.is_empty() => Some((path.to_owned(), content)),
        Kind::File(content) => Some((path.join(OsStr::from_bytes(&item.name)), content)),
        _ => None,
    });
    files.collect()
}

impl Source {
    /// Returns a reference to the image, by its name or by its digest.
    pub(super) fn reference(&self, random: &mut Random) -> &str {
        self.by_digest.as_deref().filter(|_| random.once_in(2)).unwrap_or(&self.reference)
    }

    pub(super) fn is_remote(&self) -> bool {
        self.local.is_none()
    }

    /// Returns a number that is higher after every change of the source.
    pub(super) fn changes(&self) -> u64 {
        self.local.as_ref().map_or(0, |local| local.changes.load(Ordering::SeqCst))
    }

    /// Returns whether an image that is opened now is the first variant; for a registry, which can fail, false.
    pub(super) fn is_whole(&self) -> bool {
        self.local
            .as_ref()
            .is_some_and(|local| *local.is_whole.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps a source without digests as it is while it is opened. Returns `None` if it is damaged.
    pub(super) fn open(&self) -> Option<RwLockReadGuard<'_, bool>> {
        let lock = match &self.local {
            Some(local) if !local.has_digests => &local.is_whole,
            _ => &self.free,
        };
        let whole = lock.read().unwrap_or_else(PoisonError::into_inner);
        whole.then_some(whole)
    }

    /// Writes the files of the first variant, if they are not there.
    pub(super) fn restore(&self) {
        if let Some(local) = &self.local {
            local.restore(Way::InPlace);
        }
    }

    /// Returns the contents that a file can have.
    pub(super) fn contents(&self, file: usize) -> Vec<&Arc<[u8]>> {
        self.variants.iter().map(|files| &files[file].1).collect()
    }
}

/// Damages, replaces or restores a source.
pub(super) fn change(soak: &Soak, random: &mut Random) {
    thread::sleep(Duration::from_millis(random.next() % 1000));
    let source = random.pick(&soak.sources);
    let Some(local) = &source.local else { return };
    let what = match random.below(10) {
        0..4 => {
            local.restore(*random.pick(&WAYS));
            "sources restored"
        }
        4 if local.has_digests => {
            let _changed = local.change();
            local.write_all(1, *random.pick(&WAYS));
            "sources replaced by another image"
        }
        _ => {
            let _changed = local.change();
            local.damage(random);
            "sources damaged"
        }
    };
    soak.count(what);
}

/// A change that is under way. Its end is counted.
struct Change<'a>(&'a Local, RwLockWriteGuard<'a, bool>);

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.changes.fetch_add(1, Ordering::SeqCst);
    }
}

impl Local {
    fn change(&self) -> Change<'_> {
        let mut whole = self.is_whole.write().unwrap_or_else(PoisonError::into_inner);
        *whole = false;
        self.changes.fetch_add(1, Ordering::SeqCst);
        Change(self, whole)
    }

    fn restore(&self, way: Way) {
        let mut change = self.change();
        self.write_all(0, way);
        *change.1 = true;
    }

    fn write_all(&self, variant: usize, way: Way) {
        for (path, content) in &self.files[variant] {
            self.write(path, content, way).expect("writing a source");
        }
    }

    fn write(&self, path: &Path, content: &[u8], way: Way) -> io::Result<()> {
        fs::create_dir_all(path.parent().expect("a directory"))?;
        match way {
            Way::InPlace => {
                let file = File::options().write(true).create(true).truncate(false).open(path)?;
                file.write_all_at(content, 0)?;
                file.set_len(content.len() as u64)
            }
            Way::ByRename => {
                fs::write(&self.draft, content)?;
                fs::rename(&self.draft, path)
            }
        }
    }

    /// Truncates, overwrites, replaces or removes one file.
    fn damage(&self, random: &mut Random) {
        let (path, content) = random.pick(&self.files[0]);
        let cut = random.below(content.len().max(1));
        let result = match random.below(6) {
            0 => File::options().write(true).open(path).and_then(|file| file.set_len(cut as u64)),
            1 => fs::remove_file(path),
            2 => self.write(path, &content[..cut], Way::ByRename),
            3 => self.write(path, &vec![0; content.len()], Way::ByRename),
            _ => File::options()
                .write(true)
                .open(path)
                .and_then(|file| overwrite(&file, content.len(), random)),
        };
        // The file can be gone already.
        if let Err(error) = result {
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{}", path.display());
        }
    }
}

/// Overwrites some sectors.
fn overwrite(file: &File, size: usize, random: &mut Random) -> io::Result<()> {
    (0..=random.below(4)).try_for_each(|_| {
        let at = random.below(size.max(1)) / 512 * 512;
        let sector = [*random.pick(&[0, 0xAA, 0xFF]); 512];
        file.write_all_at(&sector[..512.min(size.saturating_sub(at))], at as u64)
    })
}
