//! Tests rows M1 to M5 and M19 of docs/semantics.md.

use super::*;
use crate::layer::LayerId;

#[test]
fn m1_an_implied_parent_keeps_the_lower_attributes() {
    let tmp = dir("tmp").mode(0o1777).owner(5, 6).mtime(7).xattr("user.a", "1");
    let tree = merged(&[vec![tmp], vec![file("tmp/f", 1)]]);
    assert_tree(&tree, &["/tmp dir 1777 5:6 2", "/tmp/f file 644 0:0 1 #1"]);
    let inode = tree.inode(at(&tree, "/tmp")).unwrap();
    assert_eq!((inode.meta.mtime.seconds, inode.layer), (7, LayerId(0)));
    assert_eq!(tree.xattrs(at(&tree, "/tmp")).get(b"user.a"), Some(&b"1"[..]));
}

#[test]
fn m1_an_implied_parent_below_an_opaque_one_keeps_the_lower_attributes() {
    let lower = vec![dir("a/b").mode(0o1777), file("a/b/old", 1)];
    let tree = merged(&[lower, vec![mark("a/.wh..wh..opq"), file("a/b/new", 2)]]);
    assert_tree(&tree, &["/a dir 755 0:0 3", "/a/b dir 1777 0:0 2", "/a/b/new file 644 0:0 1 #2"]);
}

#[test]
fn m2_a_replaced_link_gives_the_attributes_of_what_it_led_to_in_its_layer() {
    let base = vec![dir("usr/lib").mode(0o711), dir("usr/lib/sub").mode(0o700), symlink("lib", "usr/lib")];
    let middle = vec![dir("usr/lib").mode(0o500), dir("usr/lib/sub").mode(0o500)];
    let tree = merged(&[base, middle, vec![file("lib/sub/f", 1)]]);
    let expected = [
        "/lib dir 711 0:0 3",
        "/lib/sub dir 700 0:0 2",
        "/lib/sub/f file 644 0:0 1 #1",
        "/usr dir 755 0:0 3",
        "/usr/lib dir 500 0:0 3",
        "/usr/lib/sub dir 500 0:0 2",
    ];
    assert_tree(&tree, &expected);
}

#[test]
fn m2_a_target_of_another_layer_gives_nothing() {
    let tree = merged(&[vec![dir("t").mode(0o700)], vec![symlink("l", "t")], vec![file("l/f", 1)]]);
    assert_tree(&tree, &["/l dir 755 0:0 2", "/l/f file 644 0:0 1 #1", "/t dir 700 0:0 2"]);
}

#[test]
fn m2_a_way_through_links_of_two_layers_gives_nothing() {
    let base = vec![dir("t"), symlink("l", "t")];
    let middle = vec![dir("u").mode(0o700), symlink("t/m", "/u")];
    let tree = merged(&[base, middle, vec![file("l/m/f", 1)]]);
    assert_eq!(line(&tree, at(&tree, "/l/m")), "dir 755 0:0 2");
}

#[test]
fn m2_what_the_same_layer_does_to_the_target_does_not_count() {
    let lower = vec![dir("t").mode(0o711), symlink("l", "t")];
    let tree = merged(&[lower, vec![dir("t").mode(0o500), file("l/f", 1)]]);
    assert_tree(&tree, &["/l dir 711 0:0 2", "/l/f file 644 0:0 1 #1", "/t dir 500 0:0 2"]);
}

#[test]
fn m3_an_entry_after_its_children_describes_the_directory() {
    let tree = merged(&[vec![dir("d").mode(0o777)], vec![file("d/f", 1), dir("d").mode(0o700).owner(1, 1)]]);
    assert_tree(&tree, &["/d dir 700 1:1 2", "/d/f file 644 0:0 1 #1"]);
}

#[test]
fn m4_an_implied_parent_of_nothing_is_plain() {
    let tree = merged(&[vec![], vec![file("d/f", 1).owner(1, 1).mtime(9)]]);
    assert_tree(&tree, &["/d dir 755 0:0 2", "/d/f file 644 1:1 1 #1"]);
    let inode = tree.inode(at(&tree, "/d")).unwrap();
    assert_eq!((inode.meta.mtime, inode.layer), (Timestamp::default(), LayerId(1)));
}

#[test]
fn m5_only_the_time_of_the_topmost_root_entry_counts() {
    let odd = |seconds| dir("./").mode(0o500).owner(1, 1).mtime(seconds).xattr("user.a", "1");
    let tree = merged(&[
        vec![odd(1), odd(2)],
        vec![odd(3)],
        vec![file(".", 0).mtime(4), symlink("./", "x").mtime(5)],
    ]);
    assert_eq!(line(&tree, ROOT), "dir 755 0:0 2");
    let root = tree.inode(ROOT).unwrap();
    assert_eq!((root.meta.mtime.seconds, root.layer), (3, LayerId(1)));
    assert!(tree.xattrs(ROOT).is_empty());
}

#[test]
fn m5_a_root_that_no_layer_tells_of_is_plain() {
    for layers in [vec![], vec![vec![]], vec![vec![file("a", 1).mtime(3)]]] {
        let tree = merged(&layers);
        assert_eq!(line(&tree, ROOT), "dir 755 0:0 2");
        assert_eq!(tree.inode(ROOT).unwrap().meta.mtime, Timestamp::default());
    }
}

#[test]
fn m6_a_hard_link_header_does_not_change_the_mode_of_a_symlink() {
    let tree = merged(&[vec![symlink("a", "x"), hardlink("b", "a").mode(0o600).owner(1, 1)]]);
    assert_tree(&tree, &["/a link 777 1:1 2 -> x", "/b link 777 1:1 2 -> x"]);
}

#[test]
fn m16_devices_and_pipes_have_their_numbers() {
    let block = item("b", ItemKind::Block(8, 1), 0o660);
    let tree =
        merged(&[vec![block, item("c", ItemKind::Char(0, 1), 0o600), item("p", ItemKind::Fifo, 0o600)]]);
    assert_tree(&tree, &["/b block 660 0:0 1 8:1", "/c char 600 0:0 1 0:1", "/p fifo 600 0:0 1"]);
}

#[test]
fn m19_directories_count_themselves_and_their_subdirectories() {
    let tree =
        merged(&[vec![dir("a/b"), dir("a/c"), file("a/f", 1), dir("a/gone")], vec![mark("a/.wh.gone")]]);
    assert_eq!(line(&tree, ROOT), "dir 755 0:0 3");
    assert_eq!(line(&tree, at(&tree, "/a")), "dir 755 0:0 4");
}

#[test]
fn m19_only_names_that_show_are_counted() {
    let base = vec![file("a", 1), hardlink("b", "a"), hardlink("c", "a"), hardlink("d", "a")];
    let tree = merged(&[base, vec![mark(".wh.c"), file("d", 2)]]);
    assert_tree(&tree, &["/a file 644 0:0 2 #1", "/b file 644 0:0 2 #1", "/d file 644 0:0 1 #2"]);
}

#[test]
fn m14_sparse_files_have_a_size_and_fewer_stored_bytes() {
    use crate::layer::entry::Segment;
    let segment =
        |file_offset, offset, len_bytes| Segment { file_offset, extent: Extent { offset, len_bytes } };
    let stored = Stored::Sparse(vec![segment(0, 512, 512), segment(1 << 30, 1024, 1)].into());
    let kind = EntryKind::File(FileData { size: 1 << 31, stored });
    let mut builder = IndexBuilder::default();
    let meta = Meta::default();
    builder
        .push_entry(&Entry { header_offset: 0, name: b"s", kind, meta, xattrs: Xattrs::default() })
        .unwrap();
    let tree = merge(vec![Arc::new(builder.finish(facts()))], &MergeOptions::default()).unwrap();
    let id = at(&tree, "/s");
    let stored = tree.file(id).map(|(_, data)| data.stored_bytes());
    assert_eq!((tree.size(id), stored), (1 << 31, Some(513)));
}
