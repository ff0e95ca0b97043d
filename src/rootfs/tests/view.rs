//! Tests reading the tree (paths, walks, numbers), and merging hostile layers.

use super::super::Follow;
use super::*;
use crate::error::{Error, PathFault};

fn sample() -> Rootfs {
    merged(&[vec![
        dir("a/b"),
        file("a/b/f", 1),
        file("a-b", 2),
        symlink("abs", "/a/b"),
        symlink("a/up", "../../../a-b"),
        symlink("loop", "loop"),
        symlink("slash", "a-b/"),
        symlink("empty", ""),
        symlink("dangling", "nowhere"),
    ]])
}

fn fault(tree: &Rootfs, path: &str, follow: Follow) -> PathFault {
    match tree.resolve(path.as_bytes(), follow) {
        Err(Error::Path { reason, .. }) => reason,
        other => panic!("{path}: {other:?}"),
    }
}

fn resolved(tree: &Rootfs, path: &str, follow: Follow) -> String {
    line(tree, tree.resolve(path.as_bytes(), follow).unwrap())
}

#[test]
fn resolve_follows_links_inside_the_root() {
    let tree = sample();
    for path in ["/a/b/f", "a/b/f", "abs/f", "//abs/./f", "/../a/b/../b/f", "abs/../../abs/f"] {
        assert_eq!(resolved(&tree, path, Follow::Last), "file 644 0:0 1 #1", "{path}");
    }
    assert_eq!(resolved(&tree, "a/up", Follow::Last), "file 644 0:0 1 #2");
    assert_eq!(tree.resolve(b"", Follow::Last).unwrap(), ROOT);
}

#[test]
fn resolve_leaves_the_last_link_if_asked_and_no_slash_follows() {
    let tree = sample();
    assert_eq!(resolved(&tree, "abs", Follow::NotLast), "link 777 0:0 1 -> /a/b");
    assert_eq!(resolved(&tree, "abs/", Follow::NotLast), "dir 755 0:0 2");
    assert_eq!(resolved(&tree, "abs/f", Follow::NotLast), "file 644 0:0 1 #1");
}

#[test]
fn resolve_names_the_fault() {
    let tree = sample();
    for (path, expected) in [
        ("nowhere", PathFault::NotFound),
        ("dangling", PathFault::NotFound),
        ("empty", PathFault::NotFound),
        ("a-b/x", PathFault::NotADirectory),
        ("a-b/", PathFault::NotADirectory),
        ("a-b/..", PathFault::NotADirectory),
        ("slash", PathFault::NotADirectory),
        ("loop", PathFault::SymlinkLoop),
        ("loop/x", PathFault::SymlinkLoop),
    ] {
        assert_eq!(fault(&tree, path, Follow::Last), expected, "{path}");
    }
}

#[test]
fn resolve_follows_40_links_and_not_41() {
    let mut items = vec![file("l0", 1)];
    items.extend((1..=41).map(|n| symlink(format!("l{n}"), format!("l{}", n - 1))));
    let tree = merged(&[items]);
    assert_eq!(resolved(&tree, "l40", Follow::Last), "file 644 0:0 1 #1");
    assert_eq!(fault(&tree, "l41", Follow::Last), PathFault::SymlinkLoop);
}

#[test]
fn resolve_escapes_the_path_in_its_error() {
    let error = merged(&[]).resolve(b"a\x1b", Follow::Last).unwrap_err();
    assert_eq!(error.to_string(), "'a\\x1b': no such file or directory in the image");
}

#[test]
fn walk_goes_parents_first_and_by_bytes() {
    let tree = sample();
    let paths: Vec<_> = tree.walk(ROOT).map(|(path, _)| String::from_utf8(path).unwrap()).collect();
    let expected =
        ["/", "/a", "/a/b", "/a/b/f", "/a/up", "/a-b", "/abs", "/dangling", "/empty", "/loop", "/slash"];
    assert_eq!(paths, expected);
}

#[test]
fn walk_from_a_directory_stays_below_it() {
    let tree = sample();
    let paths = |id| tree.walk(id).map(|(path, _)| String::from_utf8(path).unwrap()).collect::<Vec<_>>();
    assert_eq!(paths(at(&tree, "/a")), ["/a", "/a/b", "/a/b/f", "/a/up"]);
    assert_eq!(paths(at(&tree, "/a/b")), ["/a/b", "/a/b/f"]);
    assert!(paths(at(&tree, "/a-b")).is_empty());
}

#[test]
fn children_can_be_read_from_a_position() {
    let tree = sample();
    let names =
        |position| tree.children_from(ROOT, position).map(|(name, _)| name.to_vec()).collect::<Vec<_>>();
    assert_eq!(tree.children(ROOT).len(), 7);
    assert_eq!(names(5), [&b"loop"[..], b"slash"]);
    assert_eq!(names(usize::MAX), Vec::<Vec<u8>>::new());
    assert_eq!(tree.children(at(&tree, "/a-b")).len(), 0);
}

#[test]
fn every_child_is_found_by_its_name_and_every_directory_by_its_path() {
    let tree = sample();
    for (path, id) in tree.walk(ROOT).skip(1) {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap();
        let parent = tree.resolve(&path[..path.len() - name.len()], Follow::NotLast).unwrap();
        assert_eq!(tree.lookup(parent, name), Some(id));
        if tree.inode(id).unwrap().kind == InodeKind::Directory {
            assert_eq!((tree.path(id), tree.parent(id)), (path, parent));
        }
    }
    assert_eq!(tree.lookup(ROOT, b"ab"), None);
    assert_eq!(tree.path(ROOT), b"/");
}

#[test]
fn numbers_that_were_never_given_lead_nowhere() {
    let tree = sample();
    for id in [InodeId(tree.inode_count()), InodeId(u32::MAX)] {
        assert_eq!((tree.inode(id), tree.lookup(id, b"a"), tree.size(id)), (None, None, 0));
        assert_eq!(tree.children(id).len(), 0);
    }
}

#[test]
fn a_tree_takes_little_more_than_its_names() {
    let items: Vec<_> =
        (0..10_000).map(|n| file(format!("usr/share/dir{}/file-name-{n}", n % 500), n)).collect();
    let tree = merged(&[items]);
    assert!(tree.memory_bytes() < 36 * 10_000, "{} bytes", tree.memory_bytes());
}

#[test]
fn x11_many_whiteouts_opaque_marks_and_a_deep_path_are_no_trouble() {
    let deep = "d/".repeat(2000);
    let base: Vec<_> = (0..20_000).map(|n| file(format!("{deep}f{n}"), n)).collect();
    let mut top: Vec<_> = (0..20_000).map(|n| mark(format!("{deep}.wh.f{n}"))).collect();
    top.extend((0..20_000).map(|_| mark("d/.wh..wh..opq")));
    let tree = merged(&[base, top]);
    assert_eq!(tree.walk(ROOT).count(), 2001);
}

#[test]
fn x9_directories_that_names_imply_are_bounded() {
    let names: Vec<_> = (0..100).map(|n| file(format!("{n}/{}f", "d/".repeat(2000)), n)).collect();
    let error = merge(vec![layer(&names)], &MergeOptions::default()).unwrap_err().to_string();
    assert_eq!(error, "layer 0: 67137 exceeds the limit implied directories (67136)");
}

#[test]
fn x11_long_ways_through_links_are_cut_off_in_the_end() {
    // Each link goes back and forth 800 times before it leads to the next link.
    let wiggle = "a/../".repeat(800);
    let mut items = vec![dir("a"), dir("l0")];
    items.extend((1..=200).map(|n| symlink(format!("l{n}"), format!("{wiggle}l{}", n - 1))));
    items.extend((0..5000).map(|n| file(format!("l200/f{n}/g"), n)));
    let tree = merged(&[items]);
    let left_out = warned(&tree).iter().filter(|w| w.1 == WarningKind::TooManyLinks).count();
    assert!((4900..5000).contains(&left_out), "{left_out}");
}
