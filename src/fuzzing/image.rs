//! A whole image: bytes are opened, merged, walked, read and exported, and the export is the same tree.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;

use serde_json::json;

use super::input::{Choices, split};
use super::mutate::{self, Mutation, Plain, Random};
use crate::api::{Image, diff};
use crate::compress::Compression;
use crate::digest::Algorithm;
use crate::error::Result;
use crate::layer::index::Verify;
use crate::layer::samples::compressed;
use crate::rootfs::{InodeId, Semantics};
use crate::{
    DeletedOptions, DiffOptions, Engine, EngineOptions, ExportOptions, FileType, LoadOptions, Reference,
};

/// Files up to this size are read whole, in bytes.
const MOST_READ_BYTES: u64 = 1 << 20;
/// Most bytes of an export: sparse files can be of any size.
const MOST_EXPORT_BYTES: usize = 8 << 20;

pub(super) fn mutation(data: &mut Vec<u8>, random: &mut Random, plain: &mut Plain<'_>) {
    mutate::parts(data, random, plain, |at| if at == 0 { mutate::bytes as Mutation } else { mutate::tar });
}

/// Parts: choices, then layers. Either each layer is a tar, and the documents are made for them, or the parts
/// together are the archive.
pub(super) fn run(data: &[u8]) {
    let parts = split(data);
    let Some((first, layers)) = parts.split_first() else { return };
    let mut choices = Choices::new(first);
    let is_raw = choices.below(4) == 3;
    let options = LoadOptions::default()
        .semantics(if choices.flag() { Semantics::Oci } else { Semantics::Runtime })
        .follow_dirlinks(choices.flag());
    let verify = if is_raw || choices.flag() { Verify::Off } else { Verify::Full };
    let archive = if is_raw { layers.concat() } else { archive(layers, &mut choices) };
    let Ok(image) = open(&archive, "", verify, &options) else { return };
    use_all(&image);
    if let Some(tar) = exported(&image) {
        round_trip(&image, &tar);
    }
}

/// Makes a docker-archive of layers.
fn archive(layers: &[&[u8]], choices: &mut Choices<'_>) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = ::tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    let mut names = Vec::new();
    let mut diff_ids = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let compression = *choices.pick(Compression::ALL);
        names.push(format!("{number}.tar"));
        diff_ids.push(Algorithm::Sha256.digest(layer).to_string());
        add(&names[number], &compressed(compression, layer));
    }
    let config = json!({"rootfs": {"type": "layers", "diff_ids": diff_ids}});
    add("config.json", config.to_string().as_bytes());
    let manifest = json!([{"Config": "config.json", "RepoTags": ["a:1"], "Layers": names}]);
    add("manifest.json", manifest.to_string().as_bytes());
    let archive = builder.into_inner().unwrap();
    match choices.below(4) {
        1 => compressed(Compression::Gzip, &archive),
        2 => compressed(Compression::Zstd, &archive),
        _ => archive,
    }
}

fn open(archive: &[u8], transport: &str, verify: Verify, options: &LoadOptions) -> Result<Image> {
    let file = rustix::fs::memfd_create("archive", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(file);
    file.write_all(archive).unwrap();
    let path = OsString::from(format!("{transport}/proc/self/fd/{}", file.as_raw_fd()));
    let engine = Engine::new(EngineOptions::default().verify(verify).cache_bytes(1 << 20));
    engine.select(&Reference::parse(&path, None)?, None)?.load(options)
}

/// Calls everything that an image offers.
fn use_all(image: &Image) {
    let paths: Vec<_> = image.walk().collect();
    for (path, id) in &paths {
        let inode = image.inode(*id).expect("a name leads to an inode");
        assert_eq!(image.resolve_no_follow(path).ok(), Some(*id), "{}", path.escape_ascii());
        if inode.file_type() == FileType::File {
            read(image, *id, inode.size());
        }
    }
    // A root that no layer mentions has no history.
    for (path, _) in paths.iter().skip(1).take(20) {
        assert!(!image.history(path).unwrap().is_empty(), "{} has no history", path.escape_ascii());
    }
    for deleted in image.deleted(&DeletedOptions::default()).unwrap().iter() {
        assert!(deleted.path.starts_with(b"/"), "{deleted:?}");
    }
    assert!(diff(image, image, &DiffOptions::default()).is_ok_and(|differences| differences.is_empty()));
}

fn read(image: &Image, id: InodeId, size: u64) {
    if size > MOST_READ_BYTES {
        let mut block = vec![0; 64 << 10];
        for offset in [0, size / 2, size - 1, size] {
            let _ = image.read_at(id, &mut block, offset);
        }
        return;
    }
    let size = usize::try_from(size).unwrap();
    let mut whole = vec![0xaa; size + 1];
    let Ok(len) = image.read_at(id, &mut whole, 0) else { return };
    assert_eq!(len, size, "a read ends before the file does");
    let mut part = vec![0xbb; size / 3 + 1];
    let offset = size / 2;
    let len = image.read_at(id, &mut part, offset as u64).expect("what was read can be read again");
    assert!(part[..len] == whole[offset..offset + len] && len == part.len().min(size - offset));
}

/// A writer that ends after [`MOST_EXPORT_BYTES`].
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_EXPORT_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn exported(image: &Image) -> Option<Vec<u8>> {
    let mut out = Bounded(Vec::new());
    image.export(&mut out, &ExportOptions::default().sparse(true)).ok()?;
    Some(out.0)
}

/// An export, opened as an image, is the tree that was exported.
fn round_trip(image: &Image, tar: &[u8]) {
    let before = describe(image);
    // Such names mean something else in a layer.
    if before.iter().any(|line| line.contains(".wh.")) {
        return;
    }
    let again = open(tar, "rootfs:", Verify::Full, &LoadOptions::default());
    let again = again.expect("an export can be opened");
    assert_eq!(describe(&again), before, "the export is another tree");
}

fn describe(image: &Image) -> Vec<String> {
    let line = |(path, id): (Vec<u8>, InodeId)| {
        let inode = image.inode(id).unwrap();
        let (mode, owner) = (inode.mode(), (inode.uid(), inode.gid()));
        // The root of a layer has no mode of its own (M5).
        let (mode, owner) = if path == b"/" { (0, (0, 0)) } else { (mode, owner) };
        let xattrs = inode.xattrs();
        let target = inode.target().map(<[u8]>::escape_ascii).map(|text| text.to_string());
        format!(
            "{} {:?} {mode:o} {owner:?} {:?} {} {target:?} {:?} {:?}",
            path.escape_ascii(),
            inode.file_type(),
            inode.mtime(),
            inode.size(),
            inode.nlink(),
            if path == b"/" { Vec::new() } else { xattrs.iter().collect() },
        )
    };
    image.walk().map(line).collect()
}
