//! Tests of the public API on small archives: the answer of each method, and the numbers of layers.

mod faulty;
#[cfg(feature = "fuse")]
mod panics;
#[cfg(feature = "registry")]
mod registry;
mod remote;
#[cfg(feature = "fuse")]
mod waiting;

use std::ffi::OsStr;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::digest::Algorithm;
use crate::layer::samples::compressed;
use crate::{
    Action, Compression, DeletedOptions, DiffOptions, DifferenceKind, Engine, EngineOptions, Error,
    ExportOptions, Field, FileType, Image, LayerId, LayerRange, LoadOptions, PathFault, Reference, Removal,
    SelectedImage, Verdict, VerifyItem, VerifyOptions, diff,
};

/// A docker-archive in its own temporary directory.
struct Archive {
    home: tempfile::TempDir,
}

impl Archive {
    /// Creates one layer for each list of names and contents. A content that begins with `->` is the target
    /// of a link.
    fn of<C: AsRef<[u8]>>(layers: &[&[(&str, C)]]) -> Self {
        let layers: Vec<Vec<u8>> = layers.iter().map(|files| tar_of(files)).collect();
        Archive::of_tars(&layers, Compression::Plain)
    }

    /// Creates an archive of these layers with this compression.
    fn of_tars(layers: &[Vec<u8>], compression: Compression) -> Self {
        let ids = layers.iter().map(|layer| format!("\"{}\"", Algorithm::Sha256.digest(layer)));
        let ids = ids.collect::<Vec<_>>().join(",");
        let steps = (0..layers.len()).map(|number| format!(r#"{{"created_by":"step {number}"}}"#));
        let steps = steps.collect::<Vec<_>>().join(",");
        let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":[{ids}]}},"history":[{steps}]}}"#);
        let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}.tar")).collect();
        let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": ["a:1"], "Layers": names }])
            .to_string();
        let mut archive = tar::Builder::new(Vec::new());
        let documents = [("config.json", config.as_bytes()), ("manifest.json", manifest.as_bytes())];
        for (name, bytes) in documents {
            append(&mut archive, name, bytes);
        }
        for (name, layer) in names.iter().zip(layers) {
            append(&mut archive, name, &compressed(compression, layer));
        }
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("image.tar"), archive.into_inner().unwrap()).unwrap();
        Archive { home }
    }

    fn path(&self) -> PathBuf {
        self.home.path().join("image.tar")
    }

    fn select(&self, options: EngineOptions) -> SelectedImage {
        let reference = Reference::parse(self.path().as_os_str(), None).unwrap();
        Engine::new(options).select(&reference, None).unwrap()
    }

    fn load(&self, layers: LayerRange) -> Image {
        let selected = self.select(EngineOptions::default());
        selected.load(&LoadOptions::default().layers(layers)).unwrap()
    }
}

fn tar_of<C: AsRef<[u8]>>(files: &[(&str, C)]) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let content = content.as_ref();
        match content.strip_prefix(b"->") {
            Some(target) => {
                let mut header = tar::Header::new_ustar();
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                layer.append_link(&mut header, name, OsStr::from_bytes(target)).unwrap();
            }
            None => append(&mut layer, name, content),
        }
    }
    layer.into_inner().unwrap()
}

fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o640);
    tar.append_data(&mut header, name, bytes).unwrap();
}

/// `b` has two versions; `c` is deleted by the last layer.
fn three_layers() -> Archive {
    Archive::of(&[&[("a", "one")], &[("b", "two"), ("c", "gone")], &[("b", "three"), (".wh.c", "")]])
}

#[test]
fn a_path_is_resolved_with_or_without_its_last_link() {
    let archive = Archive::of(&[&[("file", "hello"), ("link", "->/file")]]);
    let image = Image::open(archive.path()).unwrap();
    let file_type = |id| image.inode(id).unwrap().file_type();
    assert_eq!(file_type(image.resolve("/link").unwrap()), FileType::File);
    assert_eq!(file_type(image.resolve_no_follow("link").unwrap()), FileType::Symlink);
    let error = image.resolve("/none").unwrap_err();
    assert!(matches!(error, Error::Path { reason: PathFault::NotFound, .. }), "{error}");
}

#[test]
fn a_reader_outlives_its_image_and_its_clone_has_a_position_of_its_own() {
    let archive = Archive::of(&[&[("file", "hello")]]);
    let mut reader = Image::open(archive.path()).unwrap().open_file("/file").unwrap();
    let mut other = reader.clone();
    assert_eq!(reader.seek(SeekFrom::End(-2)).unwrap(), 3);
    assert_eq!(std::io::read_to_string(&mut reader).unwrap(), "lo");
    assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(std::io::read_to_string(&mut other).unwrap(), "hello");
    assert_eq!(other.size(), 5);
    assert!(other.seek(SeekFrom::Current(-6)).is_err());
}

#[test]
fn a_directory_does_not_open() {
    let image = Image::open(Archive::of(&[&[("d/file", "")]]).path()).unwrap();
    let error = image.open_file("/d").unwrap_err();
    assert_eq!(error.to_string(), "'/d': is a directory");
}

#[test]
fn layers_are_numbered_by_their_position_in_the_image() {
    let archive = three_layers();
    for (layers, count) in [(LayerRange::All, 3), (LayerRange::Only(2), 1)] {
        let image = archive.load(layers);
        let inode = image.inode(image.resolve("/b").unwrap()).unwrap();
        assert_eq!((inode.layer(), inode.mode(), inode.nlink()), (LayerId(2), 0o640, Some(1)));
        let made_by = image.layer(inode.layer()).unwrap().created_by.as_deref();
        assert_eq!(made_by, Some("step 2"));
        assert_eq!(image.layers().len(), count);
    }
    assert!(archive.load(LayerRange::Only(2)).layer(LayerId(1)).is_none());
}

#[test]
#[cfg(feature = "fuse")]
fn x9_the_states_of_an_image_share_the_facts_about_its_layers() {
    // Each state of `--view all` had a copy of the facts about its layers: 5.6 GB for an image of 3,000 layers.
    let image = three_layers().load(LayerRange::All);
    let options = image.merge;
    for (layers, count) in [(0..=0, 1), (0..=1, 2), (1..=2, 2)] {
        let first = usize::from(*layers.start());
        let part = image.tree.part(layers, &options).unwrap();
        let (whole, tree) = (&image.tree, &part);
        assert_eq!((tree.layers().len(), tree.rootfs().layers().len()), (count, count));
        assert!(std::ptr::eq(&raw const tree.layers()[0], &raw const whole.layers()[first]));
        let indexes = |tree: &'_ crate::load::LoadedTree, at: usize| &raw const tree.rootfs().layers()[at];
        assert!(std::ptr::eq(indexes(tree, 0), indexes(whole, first)));
    }
    assert!(image.tree.part(1..=3, &options).is_err());
}

#[test]
fn a_path_has_a_history() {
    let archive = three_layers();
    let image = archive.load(LayerRange::All);
    let events = |path: &str| -> Vec<(u16, Action)> {
        image.history(path).unwrap().into_iter().map(|event| (event.layer.0, event.action)).collect()
    };
    assert_eq!(events("b"), [(1, Action::Added), (2, Action::Changed(vec![Field::Content]))]);
    assert_eq!(events("/x/../c"), [(1, Action::Added), (2, Action::Deleted((*b"/c").into()))]);
    assert_eq!(events("/none"), []);
    let alone = archive.load(LayerRange::Only(2));
    let event = alone.history("/b").unwrap().remove(0);
    assert_eq!((event.layer, event.after.unwrap().layer()), (LayerId(2), LayerId(2)));
}

#[test]
fn steps_name_the_layers_that_they_made() {
    let image = three_layers().load(LayerRange::All);
    let steps: Vec<_> = image.steps().iter().map(|step| step.layer).collect();
    assert_eq!(steps, [0, 1, 2].map(|number| Some(LayerId(number))));
}

#[test]
fn deleted_files_are_listed_and_overwritten_ones_on_request() {
    let image = three_layers().load(LayerRange::All);
    let listed = |options| -> Vec<(Vec<u8>, u16, u16, Removal)> {
        let files = image.deleted(&options).unwrap();
        files.iter().map(|file| (file.path, file.layer.0, file.removed_by.0, file.removal)).collect()
    };
    let deleted = (b"/c".to_vec(), 1, 2, Removal::Deleted((*b"/c").into()));
    let overwritten = (b"/b".to_vec(), 1, 2, Removal::Overwritten);
    let all = [overwritten, deleted];
    assert_eq!(listed(DeletedOptions::default()), all[1..]);
    assert_eq!(listed(DeletedOptions::default().overwritten(true)), all);
    let file = image.deleted(&DeletedOptions::default()).unwrap().iter().next().unwrap().inode;
    assert_eq!((file.size(), file.nlink()), (4, None));
}

#[test]
fn two_states_of_an_image_differ() {
    let archive = three_layers();
    let (before, after) = (archive.load(LayerRange::Upto(1)), archive.load(LayerRange::All));
    let found = diff(&before, &after, &DiffOptions::default().modified(false)).unwrap();
    let [deleted] = &found[..] else { panic!("{found:?}") };
    assert_eq!(deleted.path, b"/c");
    assert_eq!(deleted.kind, DifferenceKind::Deleted(before.resolve("/c").unwrap()));
    assert_eq!(deleted.kind.inodes(), (before.resolve("/c").ok(), None));
}

#[test]
fn verify_reports_the_layer_that_was_changed() {
    let archive = Archive::of(&[&[("file", "hello")]]);
    let mut bytes = std::fs::read(archive.path()).unwrap();
    let at = bytes.windows(5).position(|window| window == b"hello").unwrap();
    bytes[at] = b'j';
    std::fs::write(archive.path(), bytes).unwrap();
    let reference = Reference::parse(archive.path().as_os_str(), None).unwrap();
    let source = Engine::new(EngineOptions::default()).open(&reference).unwrap();
    let mut faults = Vec::new();
    let is_sound = source.verify(&reference.selection, None, &VerifyOptions::default(), &mut |item| {
        if item.verdict != Verdict::Ok {
            faults.push(VerifyItem::clone(item).subject.to_string());
        }
        Ok::<_, Error>(())
    });
    assert!(!is_sound.unwrap());
    assert_eq!(faults, ["layer 0"]);
    assert!(matches!(Image::open(archive.path()), Err(Error::Mismatch { .. })));
}

#[test]
fn a_source_lists_its_images() {
    let archive = three_layers();
    let reference = Reference::parse(archive.path().as_os_str(), None).unwrap();
    let source = Engine::new(EngineOptions::default()).open(&reference).unwrap();
    let names: Vec<_> = source.images().unwrap().into_iter().map(|image| image.names).collect();
    assert_eq!(names, [["a:1"]]);
    assert_eq!(source.format(), "docker-archive");
}

#[test]
fn a_part_of_the_tree_is_exported_under_its_new_name() {
    let image = Image::open(Archive::of(&[&[("d/file", "hello")]]).path()).unwrap();
    let mut tar = Vec::new();
    let directory = image.resolve("/d").unwrap();
    image.export_from(directory, &mut tar, &ExportOptions::default().name(b"new")).unwrap();
    let mut archive = tar::Archive::new(tar.as_slice());
    let names: Vec<_> =
        archive.entries().unwrap().map(|entry| entry.unwrap().path_bytes().to_vec()).collect();
    assert_eq!(names, [&b"new/"[..], b"new/file"]);
}
