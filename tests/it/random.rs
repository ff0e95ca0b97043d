//! Compares random layers, written as real images and read through the library, with a simple second
//! merge; and random reads with the whole content.
//!
//! The merge has such a test of its own, on layers that never were a tar. This test covers everything
//! between: names as tools write them, compressions, archives, indexes. The layers contain only what
//! engines write; `semantics` tests layers that engines refuse.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use imgmount::{
    Engine, EngineOptions, FileType, Image as Loaded, LoadOptions, Reference, Store, WarningKind,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::fixture::{
    Compression, Image, Item, Kind, dir, docker_legacy, docker_modern, file, hardlink, oci, opaque,
    patterned, podman, sample_tree, sha256_hex, symlink, tar, whiteout, write_dir,
};
use crate::seed;

/// The names in each directory, and the depth of directories.
const NAMES: [&str; 3] = ["a", "b", "c"];
const DEPTH: usize = 3;
const COMPRESSIONS: [Compression; 7] = [
    Compression::Plain,
    Compression::Gzip(0),
    Compression::Gzip(6),
    Compression::GzipMembers(6),
    Compression::Zstd,
    Compression::ZstdFrames,
    Compression::Gzip(9),
];

/// Choices that were drawn in advance; 0, the simplest, when none are left.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn pick(&mut self, count: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % count
    }
}

/// A layer in which each name has one meaning.
#[derive(Default)]
struct Layer {
    items: Vec<Item>,
    /// A file that hard links can have as target.
    last_file: Option<Item>,
}

impl Layer {
    fn fill(&mut self, choices: &mut Choices<'_>, parent: &str, depth: usize, is_explicit: bool) {
        for name in NAMES {
            let path = format!("{parent}{name}");
            let mode = [0o644, 0o600, 0o4755, 0o1777][choices.pick(4)];
            let time = 1_000_000_000 + choices.pick(100) as u64;
            match choices.pick(8) {
                2 => {
                    let content = patterned(choices.pick(40) * 97, time);
                    let new = file(&path, content).mode(mode).mtime(time, 7);
                    self.last_file = Some(new.clone());
                    self.items.push(new);
                }
                3 if depth < DEPTH => {
                    self.items.push(dir(&path).mode(mode).mtime(time, 0));
                    if choices.pick(4) == 1 {
                        self.items.push(opaque(&path));
                    }
                    self.fill(choices, &format!("{path}/"), depth + 1, true);
                }
                4 if depth < DEPTH => {
                    let before = self.items.len();
                    self.fill(choices, &format!("{path}/"), depth + 1, false);
                    if self.items.len() == before {
                        self.items.push(file(format!("{path}/implies"), b"").mode(mode));
                    }
                }
                5 => self.items.push(symlink(&path, "no/where").mtime(time, 0)),
                6 if is_explicit => self.items.push(whiteout(&path)),
                7 => {
                    if let Some(target) = &self.last_file {
                        let link = hardlink(&path, &target.name).mode(target.mode);
                        self.items.push(link.mtime(target.mtime.0, target.mtime.1));
                    }
                }
                _ => {}
            }
        }
    }
}

/// The state of a path in the second merge.
#[derive(Clone)]
struct Node {
    kind: NodeKind,
    mode: u32,
    mtime: (u64, u32),
    layer: usize,
}

#[derive(Clone)]
enum NodeKind {
    /// A file; names with the same number are one file.
    File(usize, Vec<u8>),
    Dir,
    Symlink(Vec<u8>),
}

type Paths = BTreeMap<String, Node>;

/// Applies a layer by the rules in their simplest form: deletions first, then the layer's entries.
fn apply(paths: &mut Paths, layer: usize, items: &[Item]) {
    let name_of = |item: &Item| String::from_utf8(item.name.clone()).unwrap();
    let (marks, mut rest): (Vec<_>, Vec<_>) =
        items.iter().partition(|item| name_of(item).rsplit('/').next().unwrap().starts_with(".wh."));
    let below = paths.clone();
    for mark in marks {
        let name = name_of(mark);
        match name.strip_suffix("/.wh..wh..opq") {
            Some(directory) => remove_below(paths, directory),
            None => remove(paths, &name.replace(".wh.", "")),
        }
    }
    // Parents come before children, and links after all their possible targets.
    rest.sort_by_key(|item| (matches!(item.kind, Kind::Hardlink(_)), item.name.clone()));
    for (number, item) in rest.into_iter().enumerate() {
        let name = name_of(item);
        for (at, _) in name.match_indices('/') {
            imply(paths, &below, layer, &name[..at]);
        }
        let kind = match &item.kind {
            Kind::File(content) => NodeKind::File(layer * 1000 + number, content.clone()),
            Kind::Dir => NodeKind::Dir,
            Kind::Symlink(target) => NodeKind::Symlink(target.clone()),
            Kind::Hardlink(target) => paths[std::str::from_utf8(target).unwrap()].kind.clone(),
            other => unreachable!("no layer here has {other:?}"),
        };
        let both_dirs = matches!(kind, NodeKind::Dir) && paths.get(&name).is_some_and(is_dir);
        if !both_dirs {
            remove(paths, &name);
        }
        paths.insert(name, Node { kind, mode: item.mode, mtime: item.mtime, layer });
    }
}

/// Adds a directory that only its children's names imply. It gets the attributes of the directory
/// `below`, even if a mark hides that directory (docs/semantics.md M1).
fn imply(paths: &mut Paths, below: &Paths, layer: usize, name: &str) {
    if !paths.get(name).is_some_and(is_dir) {
        remove(paths, name);
        let hidden = below.get(name).filter(|node| is_dir(node)).cloned();
        let plain = Node { kind: NodeKind::Dir, mode: 0o755, mtime: (0, 0), layer };
        paths.insert(name.to_owned(), hidden.unwrap_or(plain));
    }
}

fn is_dir(node: &Node) -> bool {
    matches!(node.kind, NodeKind::Dir)
}

fn remove(paths: &mut Paths, name: &str) {
    paths.remove(name);
    remove_below(paths, name);
}

fn remove_below(paths: &mut Paths, name: &str) {
    let below = format!("{name}/");
    paths.retain(|path, _| !path.starts_with(&below));
}

/// Returns one line per path with everything known about it.
fn describe(paths: &Paths) -> Vec<String> {
    let names_of = |wanted: usize| {
        paths.values().filter(|node| matches!(&node.kind, NodeKind::File(file, _) if *file == wanted)).count()
    };
    let subdirs = |name: &str| {
        let below = format!("{name}/");
        let child = |path: &str| path.strip_prefix(&below).is_some_and(|rest| !rest.contains('/'));
        paths.iter().filter(|(path, node)| is_dir(node) && child(path)).count()
    };
    let line = |(path, node): (&String, &Node)| {
        let (nlink, what) = match &node.kind {
            NodeKind::File(number, content) => {
                (names_of(*number), format!("file of {} {}", content.len(), sha256_hex(content)))
            }
            NodeKind::Dir => (2 + subdirs(path), "directory".to_owned()),
            NodeKind::Symlink(target) => (1, format!("link to {}", target.escape_ascii())),
        };
        let Node { mode, mtime, layer, .. } = node;
        format!("/{path}: {mode:04o} {mtime:?} nlink {nlink} layer {layer} {what}")
    };
    let mut lines: Vec<String> = paths.iter().map(line).collect();
    lines.sort();
    lines
}

/// As [`describe`], for a loaded image. The root is left out.
fn describe_loaded(image: &Loaded) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, id) in image.walk().skip(1) {
        let inode = image.inode(id).unwrap();
        let what = match inode.file_type() {
            FileType::File => {
                let mut content = vec![0; usize::try_from(inode.size()).unwrap()];
                assert_eq!(image.read_at(id, &mut content, 0).unwrap(), content.len());
                format!("file of {} {}", content.len(), sha256_hex(&content))
            }
            FileType::Directory => "directory".to_owned(),
            FileType::Symlink => format!("link to {}", inode.target().unwrap().escape_ascii()),
            other => panic!("{}: {other:?}", path.escape_ascii()),
        };
        let time = (inode.mtime().seconds, inode.mtime().nanos);
        let path = String::from_utf8(path).unwrap();
        let (mode, nlink, layer) = (inode.mode(), inode.nlink().unwrap(), inode.layer().0);
        lines.push(format!("{path}: {mode:04o} {time:?} nlink {nlink} layer {layer} {what}"));
    }
    lines.sort();
    lines
}

/// Writes `image` in one of the forms that tools write. Returns its path.
fn write_image(image: Image, form: usize, into: &Path) -> std::path::PathBuf {
    let path = into.join("image");
    let images = [image];
    let archive = match form {
        0 => tar(&docker_legacy(&images)),
        1 => tar(&docker_modern(&images)),
        2 => tar(&podman(&images)),
        3 => tar(&oci(&images)),
        4 => Compression::Gzip(6).compress(&tar(&oci(&images))),
        _ => {
            write_dir(&oci(&images), &path);
            return path;
        }
    };
    std::fs::write(&path, archive).unwrap();
    path
}

fn load(engine: &Engine, path: &Path) -> Loaded {
    let reference = Reference::parse(path.as_os_str(), None).unwrap();
    engine.select(&reference, None).unwrap().load(&LoadOptions::default()).unwrap()
}

fn load_without_surprise(engine: &Engine, path: &Path) -> Loaded {
    let image = load(engine, path);
    let usual = |kind| kind == WarningKind::DirectoryReplacesLink;
    assert!(image.warnings().iter().all(|(_, warning)| usual(warning.kind)), "{:?}", image.warnings());
    image
}

#[test]
fn layers_at_random_merge_as_a_plain_second_merge_has_it() {
    static PATHS: AtomicUsize = AtomicUsize::new(0);
    let layers = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..6);
    // For each layer: its compression, and the prefix of its names.
    let ways = prop::collection::vec((0..COMPRESSIONS.len(), 0..3_usize), 6);
    let outcome = TestRunner::new(seed::config(200)).run(
        &(layers, ways, 0..6_usize, any::<u64>()),
        |(layers, ways, form, seed)| {
            let mut image = Image::named("random:1");
            let mut expected = Paths::new();
            for (number, (choices, (compression, prefix))) in layers.iter().zip(ways).enumerate() {
                let mut layer = Layer::default();
                layer.fill(&mut Choices(choices.iter()), "", 0, true);
                apply(&mut expected, number, &layer.items);
                turn(&mut layer.items, seed);
                let prefix = ["", "./", "/"][prefix];
                image = image.layer_as("RUN", &layer.items, prefix, COMPRESSIONS[compression]);
            }
            let home = tempfile::tempdir().unwrap();
            let path = write_image(image, form, home.path());
            let store = Store::open(&home.path().join("cache")).unwrap();
            let engine = Engine::new(EngineOptions::default().store(store));
            let expected = describe(&expected);
            PATHS.fetch_add(expected.len(), Ordering::Relaxed);
            // First during the first pass, then from the index that it stored.
            prop_assert_eq!(&describe_loaded(&load_without_surprise(&engine, &path)), &expected);
            prop_assert_eq!(&describe_loaded(&load_without_surprise(&engine, &path)), &expected);
            Ok(())
        },
    );
    outcome.unwrap();
    assert!(PATHS.load(Ordering::Relaxed) > 500, "hardly anything was compared");
}

/// Reorders the entries: none of the rules above depends on their order, except that links must follow
/// their targets.
fn turn(items: &mut [Item], seed: u64) {
    if !items.is_empty() {
        let by = usize::try_from(seed % items.len() as u64).unwrap();
        items.rotate_left(by);
        items.sort_by_key(|item| matches!(item.kind, Kind::Hardlink(_)));
    }
}

#[test]
fn any_run_of_bytes_of_any_file_is_that_run_of_its_content() {
    let files: Vec<Item> = sample_tree()
        .into_iter()
        .filter(|item| matches!(item.kind, Kind::File(_) | Kind::Sparse(..)))
        .collect();
    let contents: Vec<Vec<u8>> = files.iter().map(content).collect();
    for compression in COMPRESSIONS.into_iter().chain([Compression::Xz, Compression::Bzip2]) {
        let home = tempfile::tempdir().unwrap();
        let path = write_image(Image::sample("./", compression), 0, home.path());
        // The cache is smaller than the largest file, so spans are evicted.
        let engine = Engine::new(EngineOptions::default().cache_bytes(1 << 20));
        let image = load(&engine, &path);
        let cases = (0..files.len(), 0.0..1.1_f64, 0..400_000_usize);
        let outcome = TestRunner::new(seed::config(150)).run(&cases, |(which, place, len)| {
            let id = image.resolve_no_follow(&files[which].name).unwrap();
            let content = &contents[which];
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "any offset will do"
            )]
            let offset = (content.len() as f64 * place) as usize;
            let mut read = vec![0xEE; len];
            let filled = image.read_at(id, &mut read, offset as u64).unwrap();
            let run = &content[offset.min(content.len())..(offset + len).min(content.len())];
            prop_assert!(read[..filled] == *run, "{compression:?}: {len} bytes at {offset} of {which}");
            Ok(())
        });
        outcome.unwrap();
    }
}

fn content(item: &Item) -> Vec<u8> {
    match &item.kind {
        Kind::File(content) => content.clone(),
        Kind::Sparse(size, parts) => {
            let mut content = vec![0; usize::try_from(*size).unwrap()];
            for (offset, bytes) in parts {
                let start = usize::try_from(*offset).unwrap();
                content[start..start + bytes.len()].copy_from_slice(bytes);
            }
            content
        }
        other => unreachable!("{other:?} has no content"),
    }
}
