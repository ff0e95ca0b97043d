//! Tests rows H1 to H11 of docs/semantics.md.

use super::*;
use WarningKind::*;

#[test]
fn h1_the_last_header_describes_the_shared_inode() {
    let first = file("a", 1).mode(0o644).mtime(1).xattr("user.a", "1");
    let last = hardlink("b", "a").mode(0o600).owner(1, 2).mtime(2).xattr("user.b", "2");
    let tree = merged(&[vec![first, last]]);
    assert_tree(&tree, &["/a file 600 1:2 2 #1", "/b file 600 1:2 2 #1"]);
    assert_eq!(at(&tree, "/a"), at(&tree, "/b"));
    assert_eq!(tree.inode(at(&tree, "/a")).unwrap().meta.mtime.seconds, 2);
    assert_eq!(tree.xattrs(at(&tree, "/a")).iter().collect::<Vec<_>>(), [(&b"user.b"[..], &b"2"[..])]);
    assert_eq!(warned(&tree), []);
}

#[test]
fn h1_a_link_header_without_attributes_leaves_those_there_are() {
    let tree = merged(&[vec![file("a", 1).xattr("user.a", "1"), hardlink("b", "a")]]);
    assert_eq!(tree.xattrs(at(&tree, "/b")).get(b"user.a"), Some(&b"1"[..]));
}

#[test]
fn h2_a_link_to_a_lower_file_shares_its_inode() {
    let tree = merged(&[vec![file("d/a", 1).owner(1, 1)], vec![hardlink("b", "d/a").mode(0o600)]]);
    let expected = ["/b file 644 1:1 2 #1", "/d dir 755 0:0 2", "/d/a file 644 1:1 2 #1"];
    assert_tree(&tree, &expected);
    assert_eq!(at(&tree, "/b"), at(&tree, "/d/a"));
    assert_warned(&tree, &[(LinkToLower, "b")]);
}

#[test]
fn h2_parents_of_a_lower_target_may_be_links() {
    let tree = merged(&[vec![file("d/a", 1), symlink("l", "/d")], vec![hardlink("b", "l/a")]]);
    assert_eq!(line(&tree, at(&tree, "/b")), "file 644 0:0 2 #1");
}

#[test]
fn h3_a_link_to_a_later_entry_is_bound_in_the_end() {
    let tree = merged(&[vec![hardlink("c", "b"), hardlink("b", "a"), file("a", 1).mode(0o600)]]);
    let expected = ["/a file 600 0:0 3 #1", "/b file 600 0:0 3 #1", "/c file 600 0:0 3 #1"];
    assert_tree(&tree, &expected);
    assert_warned(&tree, &[(LinkToLater, "b"), (LinkToLater, "c")]);
}

#[test]
fn h3_cycles_and_what_leads_into_them_are_left_out() {
    let links = [("x", "a"), ("a", "b"), ("b", "c"), ("c", "a"), ("s", "s")];
    let tree = merged(&[links.map(|(name, target)| hardlink(name, target)).to_vec()]);
    assert_tree(&tree, &[]);
    let expected =
        [(LinkCycle, "s"), (LinkCycle, "a"), (LinkCycle, "b"), (LinkCycle, "c"), (LinkToNothing, "x")];
    assert_warned(&tree, &expected);
}

#[test]
fn h3_a_link_left_out_leaves_what_was_there() {
    let base = vec![file("a", 1), file("d", 1), file("s", 1)];
    let top = vec![
        file("a", 2),
        hardlink("a", "nowhere"),
        file("d/x", 3),
        hardlink("d", "nowhere"),
        hardlink("s", "s"),
    ];
    let tree = merged(&[base, top]);
    let expected =
        ["/a file 644 0:0 1 #2", "/d dir 755 0:0 2", "/d/x file 644 0:0 1 #3", "/s file 644 0:0 1 #1"];
    assert_tree(&tree, &expected);
}

#[test]
fn h3_a_later_entry_takes_the_place_of_a_waiting_link() {
    let tree = merged(&[vec![hardlink("b", "a"), file("b", 2), file("a", 1)]]);
    assert_tree(&tree, &["/a file 644 0:0 1 #1", "/b file 644 0:0 1 #2"]);
    assert_eq!(warned(&tree), []);
}

#[test]
fn h4_a_link_to_a_symlink_is_the_symlink() {
    let tree = merged(&[vec![file("f", 1), symlink("a", "f"), hardlink("b", "a")]]);
    let expected = ["/a link 777 0:0 2 -> f", "/b link 777 0:0 2 -> f", "/f file 644 0:0 1 #1"];
    assert_tree(&tree, &expected);
}

/// Only the merge knows the type of the object that a hard link's header describes. Without this rule,
/// `user.b` was listed for a symbolic link, and reading it failed.
#[test]
fn h4_m9_a_link_to_a_symlink_gives_it_no_attribute_of_a_file() {
    let link = symlink("a", "f").xattr("security.a", "1");
    let tree = merged(&[vec![link, hardlink("b", "a").xattr("user.b", "2"), hardlink("c", "a")]]);
    assert_eq!(tree.xattrs(at(&tree, "/b")).iter().collect::<Vec<_>>(), [(&b"security.a"[..], &b"1"[..])]);
    assert_warned(&tree, &[(XattrLeftOut, "b")]);
    let held = merged(&[vec![symlink("a", "f"), hardlink("b", "a").xattr("security.b", "2")]]);
    assert_eq!(held.xattrs(at(&held, "/a")).get(b"security.b"), Some(&b"2"[..]));
    assert_eq!(warned(&held), []);
}

#[test]
fn h5_a_link_to_what_its_layer_deletes_keeps_the_inode() {
    for deletion in [".wh.d", "d/.wh.a", "d/.wh..wh..opq"] {
        for top in [[mark(deletion), hardlink("b", "d/a")], [hardlink("b", "d/a"), mark(deletion)]] {
            let tree = merged(&[vec![file("d/a", 1)], top.to_vec()]);
            assert_eq!(line(&tree, at(&tree, "/b")), "file 644 0:0 1 #1");
            assert!(tree.resolve(b"/d/a", super::super::Follow::Last).is_err());
            assert_warned(&tree, &[(LinkToWhitedOut, "b")]);
        }
    }
}

#[test]
fn h5_this_layer_comes_before_the_lower_ones() {
    let tree = merged(&[vec![file("a", 1)], vec![mark(".wh.a"), hardlink("b", "a"), file("a", 2)]]);
    assert_tree(&tree, &["/a file 644 0:0 2 #2", "/b file 644 0:0 2 #2"]);
    assert_warned(&tree, &[(LinkToLater, "b")]);
}

#[test]
fn h6_a_link_is_bound_when_it_is_met() {
    let tree = merged(&[vec![file("a", 1), hardlink("b", "a"), file("a", 2)]]);
    assert_tree(&tree, &["/a file 644 0:0 1 #2", "/b file 644 0:0 1 #1"]);
}

#[test]
fn h7_an_absolute_target_starts_at_the_root() {
    let tree = merged(&[vec![file("d/a", 1), hardlink("d/b", "/d/a")]]);
    assert_eq!(at(&tree, "/d/b"), at(&tree, "/d/a"));
    assert_eq!(warned(&tree), []);
}

#[test]
fn h8_a_target_that_leaves_the_root_is_placed_inside() {
    let tree = merged(&[vec![file("etc/passwd", 1), hardlink("b", "../../etc/passwd")]]);
    assert_eq!(at(&tree, "/b"), at(&tree, "/etc/passwd"));
    assert_warned(&tree, &[(EscapingTarget, "b")]);
}

/// containerd cleans a hard link's target, and the targets of the symbolic links on its way, as texts:
/// `missing/..` and `file/..` vanish. Following them name by name dropped `b`.
#[test]
fn h8_a_target_goes_back_through_names_that_are_no_directories() {
    let links = [symlink("l", "missing/.."), symlink("through", "g/.."), symlink("deep", "/m/n/../../l")];
    let files: Vec<_> = [file("f", 1), file("g", 2)].into_iter().chain(links).collect();
    for target in ["missing/../f", "g/../f", "missing/sub/../../f", "l/f", "through/f", "deep/f"] {
        let link = hardlink("b", target);
        for stack in
            [vec![[&files[..], std::slice::from_ref(&link)].concat()], vec![files.clone(), vec![link]]]
        {
            let tree = merged(&stack);
            let names: Vec<_> = tree.children(ROOT).map(|(name, _)| crate::path::escape(name)).collect();
            assert_eq!(names, ["b", "deep", "f", "g", "l", "through"], "{target}");
            assert_eq!(line(&tree, at(&tree, "/b")), "file 644 0:0 2 #1", "{target}");
            assert_eq!(line(&tree, at(&tree, "/g")), "file 644 0:0 1 #2", "{target}");
        }
    }
}

#[test]
fn h9_a_link_to_a_directory_is_left_out() {
    for target in ["d", "/", "lower"] {
        let tree = merged(&[vec![dir("lower")], vec![dir("d"), hardlink("b", target)]]);
        assert_tree(&tree, &["/d dir 755 0:0 2", "/lower dir 755 0:0 2"]);
        assert_warned(&tree, &[(LinkToDirectory, "b")]);
    }
}

#[test]
fn h10_parents_of_a_link_are_made() {
    let tree = merged(&[vec![file("a", 1), hardlink("x/y/b", "a")]]);
    let expected =
        ["/a file 644 0:0 2 #1", "/x dir 755 0:0 3", "/x/y dir 755 0:0 2", "/x/y/b file 644 0:0 2 #1"];
    assert_tree(&tree, &expected);
}

#[test]
fn h11_replacing_one_name_leaves_the_other() {
    let tree = merged(&[vec![file("a", 1), hardlink("b", "a")], vec![file("a", 2)]]);
    assert_tree(&tree, &["/a file 644 0:0 1 #2", "/b file 644 0:0 1 #1"]);
}

#[test]
fn x12_a_long_chain_and_a_wide_fan_are_bound() {
    let last = 20_000;
    let mut items: Vec<_> = (0..last).map(|n| hardlink(format!("c{n}"), format!("c{}", n + 1))).collect();
    items.push(file(format!("c{last}"), 1));
    items.extend((0..last).map(|n| hardlink(format!("f{n}"), "c0")));
    let tree = merged(&[items]);
    assert_eq!(line(&tree, at(&tree, "/c0")), format!("file 644 0:0 {} #1", 2 * last + 1));
}
