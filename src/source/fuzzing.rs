//! Fuzz targets for the stores of engines and for what is in them: see `crate::fuzzing`, which makes the parts.

#![allow(clippy::unwrap_used, reason = "a target that finds a fault panics")]

#[cfg(test)]
mod seeds;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, LazyLock};

use tempfile::TempDir;

#[cfg(test)]
pub(crate) use self::seeds::{bolt as bolt_seeds, stores as store_seeds, tar_split as tar_split_seeds};
use super::assembled::AssembledTar;
use super::beneath::Beneath;
use super::bolt::{Bucket, Database, Value};
pub(crate) use super::docker_daemon::fuzzing as daemon;
#[cfg(feature = "registry")]
pub(crate) use super::registry::fuzzing as registry;
use super::{OpenOptions, Reference, containerd, open_with_input, tar_split};
use crate::compress::Compression;
use crate::error::{Result, Subject};
use crate::layer::index::Verify;
use crate::layer::samples::compressed;
use crate::read_at::{ReadAt, read_to_vec};

/// Layers up to this size are read, in bytes.
const MOST_LAYER_BYTES: u64 = 1 << 20;

/// Reads a bbolt database, all of it and as containerd's two databases. The meta pages get right checksums.
pub(crate) fn bolt(data: &[u8]) {
    let mut bytes = data.to_vec();
    for at in [0].into_iter().chain((10..=16).map(|shift| 1_usize << shift)) {
        if let Some(meta) = bytes.get_mut(at + 16..at + 16 + 64) {
            let sum = super::bolt::checksum(&meta[..56]);
            meta[56..].copy_from_slice(&sum.to_le_bytes());
        }
    }
    let what = Subject::Image;
    let Ok(database) = Database::new(what, bytes) else { return };
    let mut left = data.len().saturating_mul(20);
    let _ = visit(&database.root(), 0, &mut left);
    containerd::parse_both(&database);
}

/// Visits everything in a bucket. Pages form a tree, so this ends.
fn visit(bucket: &Bucket<'_>, depth: usize, left: &mut usize) -> Result<()> {
    bucket.for_each(&mut |key, value| {
        *left = left.checked_sub(1).expect("more keys than bytes");
        // A bucket without order is an error of the list or of the search.
        let found = bucket.get(key);
        match value {
            Value::Bytes(bytes) => {
                if let Ok(Some(Value::Bytes(found))) = found {
                    assert!(found.len() == bytes.len(), "a search finds another value");
                }
                Ok(())
            }
            Value::Bucket(inner) if depth < 8 => visit(&inner, depth + 1, left),
            Value::Bucket(_) => Ok(()),
        }
    })
}

/// The files that `tar_split` can refer to.
static FILES: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    for (name, content) in FILE_CONTENTS {
        fs::write(dir.path().join(name), content).unwrap();
    }
    symlink("/etc/passwd", dir.path().join("out")).unwrap();
    dir
});

const FILE_CONTENTS: [(&str, &[u8]); 3] = [("etc/a", b"hello"), ("b", &[7; 700]), ("c", b"")];

/// Puts a tar together from the text of a `tar-split.json.gz`.
pub(crate) fn tar_split(text: &[u8]) {
    let packed = compressed(Compression::Gzip, text);
    let plan = move || {
        let mut file = tempfile::tempfile()?;
        file.write_all(&packed)?;
        file.rewind()?;
        tar_split::plan(file, &Subject::Image)
    };
    let tar = Arc::new(AssembledTar::new(Beneath::open(FILES.path()).unwrap(), plan));
    let len = tar.len();
    if len > MOST_LAYER_BYTES {
        let mut end = [0; 512];
        let _ = tar.read_exact_at(&mut end, len - 512);
        return;
    }
    let Ok(whole) = read_to_vec(&*tar) else { return };
    assert_eq!(whole.len() as u64, len);
    for start in (0..whole.len()).step_by(whole.len() / 7 + 1) {
        let len = (whole.len() - start).min(100);
        let mut part = vec![0; len];
        // A part of a file is not compared with the checksum of the file.
        tar.read_exact_at(&mut part, start as u64).expect("what was read can be read again");
        assert!(part == whole[start..start + len], "{len} bytes at {start}");
    }
}

/// The transports of places that are directories.
const TRANSPORTS: [&str; 8] = [
    "docker-graph:",
    "containers-storage:",
    "containerd:",
    "registry-storage:",
    "oci:",
    "dir:",
    "rootfs:",
    "",
];

/// Opens a directory with these files. The first part selects the transport; then follow names and contents in
/// turn. A name that ends in `@` is a symbolic link.
pub(crate) fn stores(parts: &[&[u8]]) {
    let Some((choices, files)) = parts.split_first() else { return };
    let choice = |at: usize| usize::from(choices.get(at).copied().unwrap_or(0));
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("store");
    fs::create_dir(&root).unwrap();
    for file in files.chunks(2).take(60) {
        let [name, content] = file else { break };
        let _ = write(&root, name, content);
    }
    let mut text = OsString::from(TRANSPORTS[choice(0) % TRANSPORTS.len()]);
    text.push(root.as_os_str());
    let verify = if choice(1) & 1 == 1 { Verify::Off } else { Verify::Full };
    let options = OpenOptions { verify, ..OpenOptions::default() };
    let Ok(reference) = Reference::parse(&text, None) else { return };
    let Ok(source) = open_with_input(&reference, &options, &mut std::io::empty()) else { return };
    let Ok(images) = source.images() else { return };
    for image in images.iter().take(4) {
        let _ = (image.to_string(), source.details(image, None).is_ok());
        let _ = source.survey(&image.selection(), None).is_ok();
        let Ok(opened) = source.image(&image.selection(), None) else { continue };
        assert_eq!(opened.layers.len(), opened.info.layers.len());
        for layer in opened.layers.iter().filter(|layer| layer.bytes.len() <= MOST_LAYER_BYTES) {
            let _ = read_to_vec(&*layer.bytes).is_ok();
        }
    }
}

/// Writes a file at a relative path without `..`.
fn write(root: &Path, name: &[u8], content: &[u8]) -> std::io::Result<()> {
    let is_link = name.ends_with(b"@");
    let name = Path::new(OsStr::from_bytes(name.strip_suffix(b"@").unwrap_or(name)));
    let name: PathBuf = name.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap_or(root))?;
    match is_link {
        // Links lead nowhere outside: the file system of the host is not the same everywhere.
        true => symlink(OsStr::from_bytes(content.strip_prefix(b"/").unwrap_or(content)), path),
        false => File::create(path)?.write_all(content),
    }
}
