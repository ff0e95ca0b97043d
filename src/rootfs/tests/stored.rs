//! The tree as bytes and back.

use super::*;
use crate::rootfs::ROOT;
use crate::rootfs::stored::seal;

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

fn stored(tree: &Rootfs, bytes: &[u8]) -> crate::error::Result<Rootfs> {
    Rootfs::from_bytes(bytes, tree.layers().to_vec(), "tree")
}

#[test]
fn a_stored_tree_is_the_tree_that_was_stored() {
    let tree = sample();
    let again = stored(&tree, &tree.to_bytes()).unwrap();
    assert_eq!(listing(&again), listing(&tree));
    assert_eq!(warned(&again), warned(&tree));
    assert_eq!(again.to_bytes(), tree.to_bytes());
    let inodes = (0..=tree.inode_count()).map(InodeId);
    assert!(inodes.into_iter().all(|id| again.inode(id) == tree.inode(id)));
}

#[test]
fn x16_a_tree_that_is_cut_or_flipped_is_refused() {
    let tree = sample();
    let whole = tree.to_bytes();
    for len in 0..whole.len() {
        assert!(stored(&tree, &whole[..len]).is_err(), "cut to {len} bytes");
    }
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x40;
        assert!(stored(&tree, &flipped).is_err(), "flipped at {at}");
    }
}

/// Whoever can write the cache can make the checksum right, too: then the tree may be another one, but
/// looking at it ends.
#[test]
fn x16_a_forged_tree_is_refused_or_can_be_walked() {
    let tree = sample();
    let whole = tree.to_bytes();
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
            let names = tree.walk(ROOT).inspect(|(_, id)| {
                let _ = (tree.size(*id), tree.xattrs(*id).iter().count());
            });
            assert!(names.count() <= 1 + whole.len(), "byte {at} as {value}");
            walked += 1;
        }
    }
    assert!(refused > 100 && walked > 100, "{refused} refused, {walked} walked");
}
