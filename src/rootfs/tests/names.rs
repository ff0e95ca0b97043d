//! Tests rows N1 to N15 of docs/semantics.md.

use super::*;
use WarningKind::*;

fn usrmerge() -> Vec<Item> {
    vec![dir("usr/lib").mode(0o711).owner(3, 4), file("usr/lib/old", 1), symlink("lib", "usr/lib")]
}

#[test]
fn n1_an_implied_directory_replaces_a_lower_symlink() {
    let tree = merged(&[usrmerge(), vec![file("lib/foo", 2)]]);
    let expected = [
        "/lib dir 711 3:4 2",
        "/lib/foo file 644 0:0 1 #2",
        "/usr dir 755 0:0 3",
        "/usr/lib dir 711 3:4 2",
        "/usr/lib/old file 644 0:0 1 #1",
    ];
    assert_tree(&tree, &expected);
    assert_warned(&tree, &[(DirectoryReplacesLink, "lib")]);
}

#[test]
fn n1_follow_dirlinks_goes_where_the_link_leads() {
    let top = vec![file("lib/foo", 2), mark("lib/.wh.old"), hardlink("lib/bar", "lib/foo")];
    let tree = merged_following(&[usrmerge(), top]);
    let expected = [
        "/lib link 777 0:0 1 -> usr/lib",
        "/usr dir 755 0:0 3",
        "/usr/lib dir 711 3:4 2",
        "/usr/lib/bar file 644 0:0 2 #2",
        "/usr/lib/foo file 644 0:0 2 #2",
    ];
    assert_tree(&tree, &expected);
    assert_eq!(warned(&tree), []);
}

#[test]
fn n1_follow_dirlinks_does_not_follow_what_the_layer_deleted_or_replaced() {
    for first in [mark(".wh.lib"), dir("lib")] {
        let tree = merged_following(&[usrmerge(), vec![file("lib/a", 2), first, file("lib/b", 3)]]);
        let expected = [
            "/lib dir 755 0:0 2",
            "/lib/b file 644 0:0 1 #3",
            "/usr dir 755 0:0 3",
            "/usr/lib dir 711 3:4 2",
            "/usr/lib/a file 644 0:0 1 #2",
            "/usr/lib/old file 644 0:0 1 #1",
        ];
        assert_tree(&tree, &expected);
    }
}

#[test]
fn n1_follow_dirlinks_does_not_follow_links_in_a_deleted_directory() {
    let base = vec![dir("t"), symlink("d/l", "/t")];
    let tree = merged_following(&[base, vec![mark(".wh.d"), file("d/l/f", 1)]]);
    let expected = ["/d dir 755 0:0 3", "/d/l dir 755 0:0 2", "/d/l/f file 644 0:0 1 #1", "/t dir 755 0:0 2"];
    assert_tree(&tree, &expected);
}

#[test]
fn n2_a_parent_that_is_a_symlink_of_the_same_layer_is_followed() {
    let tree = merged(&[vec![dir("usr/lib"), symlink("lib", "usr/lib"), file("lib/foo", 1)]]);
    let expected = [
        "/lib link 777 0:0 1 -> usr/lib",
        "/usr dir 755 0:0 3",
        "/usr/lib dir 755 0:0 2",
        "/usr/lib/foo file 644 0:0 1 #1",
    ];
    assert_tree(&tree, &expected);
}

#[test]
fn n2_absolute_and_escaping_targets_stay_inside_the_root() {
    for target in ["/t", "../../t", "../../../x/../t/."] {
        let tree = merged(&[vec![dir("a"), dir("x"), dir("t"), symlink("a/l", target), file("a/l/f", 1)]]);
        assert_eq!(line(&tree, at(&tree, "/t/f")), "file 644 0:0 1 #1");
    }
}

#[test]
fn n2_255_links_are_followed_and_256_are_not() {
    let chain = |links: usize| -> Vec<Item> {
        let mut items = vec![dir("l0")];
        items.extend((1..=links).map(|n| symlink(format!("l{n}"), format!("l{}", n - 1))));
        items.push(file(format!("l{links}/f"), 1));
        items
    };
    assert_eq!(line(&merged(&[chain(255)]), at(&merged(&[chain(255)]), "/l0/f")), "file 644 0:0 1 #1");
    let tree = merged(&[chain(256)]);
    assert_eq!(tree.lookup(at(&tree, "/l0"), b"f"), None);
    assert_warned(&tree, &[(TooManyLinks, "l256/f")]);
}

#[test]
fn n2_a_link_to_itself_leads_nowhere() {
    let tree = merged(&[vec![symlink("l", "l"), file("l/f", 1)]]);
    assert_tree(&tree, &["/l link 777 0:0 1 -> l"]);
    assert_warned(&tree, &[(TooManyLinks, "l/f")]);
}

#[test]
fn n3_what_a_dangling_parent_leads_to_is_made() {
    let tree = merged(&[vec![symlink("l", "a/b"), file("l/f", 1)]]);
    let expected =
        ["/a dir 755 0:0 3", "/a/b dir 755 0:0 2", "/a/b/f file 644 0:0 1 #1", "/l link 777 0:0 1 -> a/b"];
    assert_tree(&tree, &expected);
}

/// containerd joins a link's target to its directory as text. Following the target name by name, `l`
/// made a directory `missing` that no runtime has, and `through` turned the file `g` into a directory.
#[test]
fn n3_what_a_target_goes_back_from_is_not_made() {
    let links = [symlink("l", "missing/.."), symlink("through", "g/../d"), symlink("half", "d/a/b/..")];
    let items = [dir("d"), file("g", 1), file("l/x", 2), file("through/y", 3), file("half/z", 4)];
    let tree = merged(&[links.into_iter().chain(items).collect()]);
    let expected = [
        "/d dir 755 0:0 3",
        "/d/a dir 755 0:0 2",
        "/d/a/z file 644 0:0 1 #4",
        "/d/y file 644 0:0 1 #3",
        "/g file 644 0:0 1 #1",
        "/half link 777 0:0 1 -> d/a/b/..",
        "/l link 777 0:0 1 -> missing/..",
        "/through link 777 0:0 1 -> g/../d",
        "/x file 644 0:0 1 #2",
    ];
    assert_tree(&tree, &expected);
    assert_eq!(warned(&tree), []);
}

/// A link is followed before a later `..` is: only a name without an object is cancelled as text.
#[test]
fn n2_going_back_from_a_link_leads_to_the_parent_of_its_target() {
    let tree = merged(&[vec![dir("a/b"), symlink("s", "a/b"), symlink("l", "s/../c"), file("l/x", 1)]]);
    assert_eq!(line(&tree, at(&tree, "/a/c/x")), "file 644 0:0 1 #1");
}

/// Finding the `..` that cancels a name counts as steps, as following a link does.
#[test]
fn x12_many_missing_names_before_one_way_back_take_no_quadratic_time() {
    let mut items = vec![symlink("l", format!("{}..", "x/".repeat(2000)))];
    items.extend((0..1000).map(|n| file(format!("l/f{n}"), n)));
    let tree = merged(&[items]);
    assert!(warned(&tree).iter().any(|warning| warning.1 == TooManyLinks));
}

#[test]
fn n4_a_directory_over_a_directory_has_its_attributes_and_all_children() {
    let lower = vec![dir("d").owner(1, 1).xattr("user.a", "1"), file("d/a", 1)];
    let tree = merged(&[lower, vec![dir("d").mode(0o700).xattr("user.b", "2"), file("d/b", 2)]]);
    assert_tree(&tree, &["/d dir 700 0:0 2", "/d/a file 644 0:0 1 #1", "/d/b file 644 0:0 1 #2"]);
    assert_eq!(tree.xattrs(at(&tree, "/d")).iter().collect::<Vec<_>>(), [(&b"user.b"[..], &b"2"[..])]);
}

#[test]
fn n5_another_type_replaces_what_is_below() {
    let tree = merged(&[vec![file("d/x", 1), file("f", 1)], vec![file("d", 2), file("f/y", 3)]]);
    assert_tree(&tree, &["/d file 644 0:0 1 #2", "/f dir 755 0:0 2", "/f/y file 644 0:0 1 #3"]);
    let again = merged(&[vec![file("d/x", 1)], vec![file("d", 2)], vec![dir("d")]]);
    assert_tree(&again, &["/d dir 755 0:0 2"]);
}

#[test]
fn n6_within_a_layer_the_later_type_wins() {
    let tree = merged(&[vec![file("d/x", 1), file("d", 2)]]);
    assert_tree(&tree, &["/d file 644 0:0 1 #2"]);
    assert_warned(&tree, &[(TypeChanged, "d")]);
    let back = merged(&[vec![file("d/x", 1), file("d", 2), dir("d"), file("d/y", 3)]]);
    assert_tree(&back, &["/d dir 755 0:0 2", "/d/y file 644 0:0 1 #3"]);
}

#[test]
fn n7_a_file_used_as_a_directory_becomes_one() {
    let tree = merged(&[vec![file("foo", 1), file("foo/baz", 2)]]);
    assert_tree(&tree, &["/foo dir 755 0:0 2", "/foo/baz file 644 0:0 1 #2"]);
    assert_warned(&tree, &[(DirectoryReplacesFile, "foo/baz")]);
}

#[test]
fn n8_the_last_of_two_entries_wins() {
    let tree = merged(&[vec![file("a", 1), dir("d"), file("d/x", 3), dir("d").mode(0o700), file("a", 2)]]);
    assert_tree(&tree, &["/a file 644 0:0 1 #2", "/d dir 700 0:0 2", "/d/x file 644 0:0 1 #3"]);
    assert_eq!(warned(&tree), []);
}

#[test]
fn n9_names_are_cleaned() {
    let items = vec![file("/a", 1), file("./b", 2), file("c//d/", 3), file("x/../e", 4), file("a/../f", 5)];
    let tree = merged(&[items]);
    let expected = [
        "/a file 644 0:0 1 #1",
        "/b file 644 0:0 1 #2",
        "/c dir 755 0:0 2",
        "/c/d file 644 0:0 1 #3",
        "/e file 644 0:0 1 #4",
        "/f file 644 0:0 1 #5",
    ];
    assert_tree(&tree, &expected);
    assert_eq!(warned(&tree), []);
}

#[test]
fn n9_two_spellings_are_one_file() {
    let tree = merged(&[vec![file("d/a", 1), file("./d/b", 2), file("/d//a", 3), file("d/x/../b", 4)]]);
    assert_tree(&tree, &["/d dir 755 0:0 2", "/d/a file 644 0:0 1 #3", "/d/b file 644 0:0 1 #4"]);
}

#[test]
fn n10_a_name_that_leaves_the_root_is_placed_inside_each_time() {
    let tree = merged(&[vec![file("../d/x", 1), file("../d/y", 2)]]);
    assert_tree(&tree, &["/d dir 755 0:0 2", "/d/x file 644 0:0 1 #1", "/d/y file 644 0:0 1 #2"]);
    assert_warned(&tree, &[(EscapingName, "../d/x"), (EscapingName, "../d/y")]);
}

#[test]
fn n11_an_empty_name_is_the_root() {
    for name in ["", ".", "./", "/", "a/.."] {
        assert_tree(&merged(&[vec![file(name, 1), symlink(name, "x"), dir(name)]]), &[]);
    }
}

#[test]
fn n14_names_that_are_no_utf8_are_names() {
    let tree = merged(&[vec![file(b"\xff\xfe".as_slice(), 1)]]);
    assert_eq!(tree.children(ROOT).map(|(name, _)| name.to_vec()).collect::<Vec<_>>(), [b"\xff\xfe"]);
}

#[test]
fn n15_components_over_255_bytes_are_left_out_with_their_parents() {
    let (fits, long) = ("x".repeat(255), "x".repeat(256));
    let items =
        vec![file(format!("p/{long}"), 1), file(format!("q/{long}/f"), 2), file(format!("r/{fits}"), 3)];
    let tree = merged(&[items]);
    let paths: Vec<_> = tree.walk(ROOT).map(|(path, _)| path.len()).collect();
    assert_eq!(paths, [1, 2, 258]);
    assert_eq!(warned(&tree).iter().map(|w| w.1).collect::<Vec<_>>(), [NameTooLong, NameTooLong]);
}

#[test]
fn n15_the_prefix_of_a_whiteout_does_not_count() {
    let name = "x".repeat(255);
    let tree = merged(&[vec![file(name.as_str(), 1)], vec![mark(format!(".wh.{name}"))]]);
    assert_tree(&tree, &[]);
}

#[test]
fn n15_link_targets_over_4095_bytes_are_left_out() {
    let tree = merged(&[vec![symlink("d/a", "x".repeat(4096)), symlink("b", "x".repeat(4095))]]);
    assert_eq!(tree.walk(ROOT).map(|(path, _)| path).collect::<Vec<_>>(), [&b"/"[..], b"/b"]);
    assert_warned(&tree, &[(NameTooLong, "d/a")]);
}

#[test]
fn n15_paths_over_4096_bytes_are_left_out_through_links_too() {
    let deep = "d/".repeat(2000);
    let tree = merged(&[vec![
        file(format!("{deep}f"), 1),
        file(format!("{}f", "d/".repeat(2048)), 2),
        symlink("l", deep.as_str()),
        file(format!("l/{}f", "e/".repeat(60)), 3),
    ]]);
    assert_eq!(warned(&tree).iter().map(|w| w.1).collect::<Vec<_>>(), [PathTooLong, PathTooLong]);
}
