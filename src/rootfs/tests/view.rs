//! Tests reading the tree (paths, walks, numbers), and merging hostile layers.

use std::collections::BTreeSet;

use super::super::{Follow, replay};
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
fn x9_directories_that_names_imply_are_bounded_over_all_layers() {
    // Each layer had its own limit of 65,536 directories: 128 layers of 210 KB in all took 1.1 GB.
    let deep = |at: u64| file(format!("{at}/{}f", "d/".repeat(99)), at);
    let layers =
        |count: u64| (0..count).map(|at| layer(&[deep(2 * at), deep(2 * at + 1)])).collect::<Vec<_>>();
    let mut options = MergeOptions::default();
    // 200 directories a layer; each of its two entries may imply one.
    assert!(options.limits.set("implied-directories", 990));
    assert_eq!(merge(layers(5), &options).map(|tree| tree.walk(ROOT).count()).ok(), Some(1 + 5 * 202));
    let error = merge(layers(6), &options).unwrap_err().to_string();
    assert_eq!(error, "layer 5: 991 exceeds the limit implied-directories (990)");
    // Directories with entries count only as entries.
    let own: Vec<_> = (0..5000).map(|at| dir(format!("d{at}"))).collect();
    assert!(merge(vec![layer(&own)], &options).is_ok());
}

#[test]
fn x9_warnings_are_counted_and_few_are_stored() {
    // Each of these short names gives a warning with a path of 4 KB: two layers of 200,000 entries (2.2 MB) took
    // 3.2 GB, and the stored tree had 813 MB.
    let deep = vec!["d".repeat(200); 20].join("/");
    let own = |name: &str| vec![dir(deep.clone()), symlink("l", format!("/{deep}")), dir(name)];
    let mut lower = own("lower");
    let mut upper = own("upper");
    lower.extend((0..3000).map(|at| symlink(format!("l/{at}"), "x")));
    upper.extend((0..3000).map(|at| file(format!("l/{at}/f"), at)));
    let tree = merged(&[lower, upper]);
    let replaced = WarningKind::DirectoryReplacesLink;
    assert_eq!(tree.warnings().counts().collect::<Vec<_>>(), [(replaced, 3000)]);
    let kept = tree.warnings().kept();
    let (layer, first) = &kept[0];
    assert_eq!((layer.0, first.kind, first.path.len()), (1, replaced, deep.len() + 2));
    let kept_bytes: usize = kept.iter().map(|(_, warning)| warning.path.len()).sum();
    assert!((200 << 10..=256 << 10).contains(&kept_bytes), "{kept_bytes}");
    let mut stored = Vec::new();
    tree.write_to(&mut stored).unwrap();
    assert!(stored.len() < 1 << 20, "{}", stored.len());
    let again = Rootfs::from_bytes(stored, tree.layers().clone()).unwrap();
    assert_eq!(again.warnings().kept(), kept);
    assert_eq!(again.warnings().counts().collect::<Vec<_>>(), [(replaced, 3000)]);
}

#[test]
fn x9_changes_below_a_directory_are_reported_with_one_path() {
    // All names below a deleted directory used to wait in a list, each with its whole path.
    let deep = "d/".repeat(2000);
    let base: Vec<_> = (0..3000).map(|at| file(format!("{deep}{at}"), at)).collect();
    let layers = [layer(&base), layer(&[mark(".wh.d")])];
    let (mut reported, mut buffers) = (0, BTreeSet::new());
    replay(&layers, &MergeOptions::default(), &mut |change| {
        if change.layer.0 == 1 {
            reported += 1;
            buffers.insert(change.path.as_ptr());
        }
        Ok(())
    })
    .unwrap();
    // The buffer grows a few times while the directories are entered.
    assert_eq!(reported, 2000 + 3000);
    assert!(buffers.len() < 20, "{}", buffers.len());
}

#[test]
fn x11_long_ways_through_links_are_cut_off_in_the_end() {
    // Each link goes back and forth 800 times before it leads to the next link.
    let wiggle = "a/../".repeat(800);
    let mut items = vec![dir("a"), dir("l0")];
    items.extend((1..=200).map(|n| symlink(format!("l{n}"), format!("{wiggle}l{}", n - 1))));
    items.extend((0..5000).map(|n| file(format!("l200/f{n}/g"), n)));
    let tree = merged(&[items]);
    let counts: Vec<_> = tree.warnings().counts().collect();
    let [(WarningKind::TooManyLinks, left_out)] = counts[..] else { panic!("{counts:?}") };
    assert!((4900..5000).contains(&left_out), "{left_out}");
}
