//! Tests storing a tree as bytes and reading it back.

use std::mem::discriminant;

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::bytes::checksum;
use crate::rootfs::ROOT;
use crate::store::{Key, Store};

fn sample() -> Rootfs {
    merged(&[
        vec![dir("etc").mode(0o750), file("etc/passwd", 1).xattr("user.a", "1"), symlink("bin", "usr/bin")],
        vec![
            file("etc/shadow", 2),
            hardlink("etc/second", "etc/shadow"),
            mark("usr/.wh..wh..opq"),
            dir("usr"),
        ],
        vec![item("dev/null", ItemKind::Char(1, 3), 0o666), mark(".wh..wh..opq")],
    ])
}

fn written(tree: &Rootfs) -> Vec<u8> {
    let mut bytes = Vec::new();
    tree.write_to(&mut bytes).unwrap();
    bytes
}

/// Corrects the checksum after a change of the bytes.
fn seal(bytes: &mut [u8]) {
    let sum = checksum(&bytes[..64], &bytes[96..]);
    bytes[64..96].copy_from_slice(&sum);
}

fn stored(tree: &Rootfs, bytes: &[u8]) -> crate::error::Result<Rootfs> {
    Rootfs::from_bytes(bytes.to_vec(), tree.layers().to_vec())
}

#[test]
fn a_stored_tree_is_the_tree_that_was_stored() {
    let tree = sample();
    let again = stored(&tree, &written(&tree)).unwrap();
    assert_eq!(listing(&again), listing(&tree));
    assert_eq!(warned(&again), warned(&tree));
    assert_eq!(written(&again), written(&tree));
    let inodes = (0..=tree.inode_count()).map(InodeId);
    assert!(inodes.into_iter().all(|id| again.inode(id) == tree.inode(id)));
}

#[test]
fn x16_a_tree_that_is_cut_or_flipped_is_refused() {
    let tree = sample();
    let whole = written(&tree);
    for len in 0..whole.len() {
        assert!(stored(&tree, &whole[..len]).is_err(), "cut to {len} bytes");
    }
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x40;
        assert!(stored(&tree, &flipped).is_err(), "flipped at {at}");
    }
}

/// A tree of other layers is never found under this name. If it is used all the same, missing entries
/// read as empty.
#[test]
fn x16_a_tree_without_its_layers_can_be_walked() {
    let tree = sample();
    let orphan = Rootfs::from_bytes(written(&tree), Vec::new()).unwrap();
    assert_eq!(orphan.walk(ROOT).count(), tree.walk(ROOT).count());
    for id in (0..orphan.inode_count()).map(InodeId) {
        let found = orphan.inode(id).unwrap();
        assert_eq!(discriminant(&found.kind), discriminant(&tree.inode(id).unwrap().kind));
        assert_eq!((orphan.size(id), orphan.target(id), orphan.xattrs(id).is_empty()), (0, None, true));
    }
}

/// An attacker who can write to the cache can also correct the checksum. The tree may then be another
/// one, but walking it ends.
#[test]
fn x16_a_forged_tree_is_refused_or_can_be_walked() {
    let tree = sample();
    let whole = written(&tree);
    let (mut refused, mut walked) = (0, 0);
    for at in 0..whole.len() {
        for value in [0, 1, 2, 3, 0xff] {
            let mut forged = whole.clone();
            forged[at] = value;
            seal(&mut forged);
            let Ok(tree) = stored(&tree, &forged) else {
                refused += 1;
                continue;
            };
            let names = tree.walk(ROOT).inspect(|(path, id)| {
                let _ = (tree.size(*id), tree.xattrs(*id).iter().count());
                let _ = (tree.lookup(tree.parent(*id), path), tree.target(*id));
            });
            assert!(names.count() <= 1 + whole.len(), "byte {at} as {value}");
            // Includes inodes without a name: the kernel can ask for any number.
            for id in (0..=tree.inode_count()).map(InodeId) {
                assert_eq!(tree.inode(id).is_some(), id.0 < tree.inode_count());
                assert!(tree.path(id).len() <= 1 + whole.len(), "byte {at} as {value}");
                assert!(tree.children(id).count() <= whole.len(), "byte {at} as {value}");
            }
            walked += 1;
        }
    }
    assert!(refused > 100 && walked > 100, "{refused} refused, {walked} walked");
}

/// A name with a slash would be a path for `extract`, which passes names to the system.
#[test]
fn x16_a_forged_tree_with_names_that_are_paths_is_refused() {
    let tree = merged(&[vec![file("abc", 1), file("abd", 2)]]);
    let whole = written(&tree);
    let at = whole.windows(6).position(|names| names == b"abcabd").unwrap();
    for name in [b"a/c", b"a\0c", b"abb"] {
        let mut forged = whole.clone();
        forged[at..at + 3].copy_from_slice(name);
        seal(&mut forged);
        assert_eq!(stored(&tree, &forged).is_ok(), name == b"abb", "{}", name.escape_ascii());
    }
    let tree = merged(&[vec![file("ab", 1), file("b", 2)]]);
    let mut forged = written(&tree);
    let at = forged.windows(3).position(|names| names == b"abb").unwrap();
    forged[at..at + 2].copy_from_slice(b"..");
    seal(&mut forged);
    assert!(stored(&tree, &forged).is_err(), "..");
}

/// Long names make the tree large enough to be mapped.
#[test]
fn x16_a_large_tree_is_mapped_unless_it_is_cut_flipped_or_foreign() {
    let items: Vec<_> = (0..34_000).map(|n| file(format!("d{}/{n:0>250}", n % 100), n)).collect();
    let tree = merged(&[items]);
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(&home.path().join("cache")).unwrap();
    let key = Key::tree("large");
    store.save_tree(&key, |file| tree.write_to(file)).unwrap();
    let load = || Rootfs::from_bytes(store.load_tree(&key).unwrap(), tree.layers().to_vec());
    let loaded = load().unwrap();
    assert!(format!("{loaded:?}").contains("Mapped"));
    assert!(loaded.walk(ROOT).eq(tree.walk(ROOT)));

    let path = std::fs::read_dir(store.directory()).unwrap().next().unwrap().unwrap().path();
    let whole = written(&tree);
    // A stored file is replaced, never changed, so an existing mapping keeps its tree.
    let replace = |bytes: &[u8]| {
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    for len in [0, 95, 96, whole.len() / 2, whole.len() - 1] {
        replace(&whole[..len]);
        assert!(load().is_err(), "cut to {len} bytes");
    }
    for at in [0, 8, 20, 70, 96, 500_000, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x40;
        replace(&flipped);
        assert!(load().is_err(), "flipped at {at}");
    }
    replace(&vec![b'x'; whole.len()]);
    assert!(load().is_err(), "foreign");
    assert!(loaded.walk(ROOT).eq(tree.walk(ROOT)));
}
