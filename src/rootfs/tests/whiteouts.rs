//! Tests rows W1 to W18 of docs/semantics.md.

use super::*;
use WarningKind::*;

fn d_with_old() -> Vec<Item> {
    vec![dir("d").mode(0o700), file("d/old", 1)]
}

#[test]
fn w1_a_whiteout_hides_itself_and_its_target() {
    let tree = merged(&[vec![file("x", 1), file("y", 2)], vec![mark(".wh.x")]]);
    assert_tree(&tree, &["/y file 644 0:0 1 #2"]);
    assert_eq!(warned(&tree), []);
}

#[test]
fn w1_a_whiteout_of_a_directory_hides_all_below_it() {
    let tree = merged(&[d_with_old(), vec![mark(".wh.d")]]);
    assert_tree(&tree, &[]);
}

#[test]
fn w1_a_later_layer_can_bring_the_name_back() {
    let tree = merged(&[d_with_old(), vec![mark(".wh.d")], vec![file("d/new", 2)]]);
    assert_tree(&tree, &["/d dir 755 0:0 2", "/d/new file 644 0:0 1 #2"]);
}

#[test]
fn w2_a_whiteout_of_nothing_does_nothing() {
    let tree = merged(&[d_with_old(), vec![mark(".wh.x"), mark("d/.wh.y")]]);
    assert_tree(&tree, &["/d dir 700 0:0 2", "/d/old file 644 0:0 1 #1"]);
    assert_eq!(warned(&tree), []);
}

#[test]
fn w2_the_directory_of_a_whiteout_is_made_as_any_other_parent() {
    assert_tree(&merged(&[vec![], vec![mark("n/.wh.x")]]), &["/n dir 755 0:0 2"]);
}

fn w3() -> Vec<Vec<Item>> {
    vec![d_with_old(), vec![mark(".wh.d"), dir("d").mode(0o711), file("d/new", 2)]]
}

#[test]
fn w3_runtime_a_directory_made_anew_shows_the_lower_children() {
    let tree = merged(&w3());
    let expected = ["/d dir 711 0:0 2", "/d/new file 644 0:0 1 #2", "/d/old file 644 0:0 1 #1"];
    assert_tree(&tree, &expected);
    assert_warned(&tree, &[(DirectoryRemade, ".wh.d")]);
}

#[test]
fn w3_oci_a_directory_made_anew_hides_the_lower_children() {
    let tree = merged_oci(&w3());
    assert_tree(&tree, &["/d dir 711 0:0 2", "/d/new file 644 0:0 1 #2"]);
    assert_eq!(warned(&tree), []);
}

#[test]
fn w3_a_directory_only_implied_after_its_whiteout_hides_the_lower_children() {
    let layers = [d_with_old(), vec![mark(".wh.d"), file("d/new", 2)]];
    for tree in [merged(&layers), merged_oci(&layers)] {
        assert_tree(&tree, &["/d dir 755 0:0 2", "/d/new file 644 0:0 1 #2"]);
        assert_warned(&tree, &[(ImpliedAfterWhiteout, ".wh.d")]);
    }
}

#[test]
fn w4_a_file_after_its_whiteout_is_the_new_file() {
    let tree = merged(&[vec![file("f", 1)], vec![mark(".wh.f"), file("f", 2)]]);
    assert_tree(&tree, &["/f file 644 0:0 1 #2"]);
    assert_eq!(warned(&tree), []);
}

#[test]
fn w5_a_whiteout_after_a_file_keeps_the_file() {
    let tree = merged(&[vec![file("f", 1)], vec![file("f", 2), mark(".wh.f")]]);
    assert_tree(&tree, &["/f file 644 0:0 1 #2"]);
    assert_warned(&tree, &[(LateWhiteout, ".wh.f")]);
}

#[test]
fn w5_a_whiteout_after_a_directory_keeps_it_and_hides_lower() {
    for first in [dir("d").mode(0o755), file("d/new", 2)] {
        let layers = [d_with_old(), vec![first, file("d/new", 2), mark(".wh.d")]];
        for tree in [merged(&layers), merged_oci(&layers)] {
            assert_tree(&tree, &["/d dir 755 0:0 2", "/d/new file 644 0:0 1 #2"]);
            assert_warned(&tree, &[(LateWhiteout, ".wh.d")]);
        }
    }
}

#[test]
fn w5_a_whiteout_after_a_directory_made_anew_counts() {
    let tree = merged(&[d_with_old(), vec![mark(".wh.d"), dir("d"), mark(".wh.d")]]);
    assert_tree(&tree, &["/d dir 755 0:0 2"]);
    assert_warned(&tree, &[(RepeatedWhiteout, ".wh.d"), (LateWhiteout, ".wh.d")]);
}

#[test]
fn w5_making_a_directory_anew_does_not_undo_a_late_whiteout() {
    let tree = merged(&[d_with_old(), vec![file("d", 2), mark(".wh.d"), dir("d")]]);
    assert_tree(&tree, &["/d dir 755 0:0 2"]);
    assert_warned(&tree, &[(TypeChanged, "d"), (LateWhiteout, ".wh.d")]);
}

#[test]
fn w6_a_repeated_whiteout_is_one_whiteout() {
    let tree = merged(&[vec![file("x", 1)], vec![mark(".wh.x"), mark(".wh.x")]]);
    assert_tree(&tree, &[]);
    assert_warned(&tree, &[(RepeatedWhiteout, ".wh.x")]);
}

#[test]
fn w7_a_whiteout_below_a_whiteout_does_nothing_in_either_order() {
    let below = file("foo/bar", 1);
    for marks in [["foo/.wh.bar", ".wh.foo"], [".wh.foo", "foo/.wh.bar"], [".wh.foo", "foo/.wh..wh..opq"]] {
        let tree = merged(&[vec![below.clone()], marks.map(mark).to_vec()]);
        assert_tree(&tree, &[]);
        assert_warned(&tree, &[(WhiteoutBelowWhiteout, ".wh.foo")]);
    }
}

#[test]
fn w8_an_opaque_mark_hides_lower_children_wherever_it_stands() {
    let new = [dir("d").mode(0o711), file("d/e/new", 2), file("d/f", 3)];
    for place in 0..=new.len() {
        let mut top = new.to_vec();
        top.insert(place, mark("d/.wh..wh..opq"));
        let tree = merged(&[vec![file("d/old", 1), file("d/e/old", 1)], top]);
        let expected = [
            "/d dir 711 0:0 3",
            "/d/e dir 755 0:0 2",
            "/d/e/new file 644 0:0 1 #2",
            "/d/f file 644 0:0 1 #3",
        ];
        assert_tree(&tree, &expected);
        assert_eq!(warned(&tree), []);
    }
}

#[test]
fn w9_an_opaque_mark_alone_keeps_the_lower_attributes() {
    let tree =
        merged(&[vec![dir("d").mode(0o1777).owner(1, 2), file("d/x", 1)], vec![mark("d/.wh..wh..opq")]]);
    assert_tree(&tree, &["/d dir 1777 1:2 2"]);
}

#[test]
fn w9_an_opaque_mark_with_nothing_below_makes_a_directory() {
    assert_tree(&merged(&[vec![mark("d/.wh..wh..opq")]]), &["/d dir 755 0:0 2"]);
}

#[test]
fn w10_marks_are_never_listed() {
    let tree = merged(&[d_with_old(), vec![mark("d/.wh..wh..opq"), mark("d/.wh.old"), file("d/new", 2)]]);
    assert_tree(&tree, &["/d dir 700 0:0 2", "/d/new file 644 0:0 1 #2"]);
}

fn w11() -> Vec<Vec<Item>> {
    vec![d_with_old(), vec![file("d/new", 2), mark(".wh..wh..opq")]]
}

#[test]
fn w11_runtime_an_opaque_root_has_no_effect() {
    let tree = merged(&w11());
    let expected = ["/d dir 700 0:0 2", "/d/new file 644 0:0 1 #2", "/d/old file 644 0:0 1 #1"];
    assert_tree(&tree, &expected);
    assert_warned(&tree, &[(OpaqueRoot, ".wh..wh..opq")]);
}

#[test]
fn w11_oci_an_opaque_root_hides_everything_lower() {
    let tree = merged_oci(&w11());
    assert_tree(&tree, &["/d dir 700 0:0 2", "/d/new file 644 0:0 1 #2"]);
    assert_eq!(warned(&tree), []);
}

#[test]
fn w12_whiteouts_of_nothing_and_of_dots_are_skipped() {
    for name in ["d/.wh.", "d/.wh..", "d/.wh..."] {
        let tree = merged(&[d_with_old(), vec![mark(name)]]);
        assert_tree(&tree, &["/d dir 700 0:0 2", "/d/old file 644 0:0 1 #1"]);
        assert_warned(&tree, &[(BadWhiteoutName, name)]);
    }
}

#[test]
fn w13_a_whiteout_goes_by_its_name_whatever_it_is() {
    let long = "x".repeat(5000);
    for whiteout in [dir(".wh.x"), file(".wh.x", 9), symlink(".wh.x", long), hardlink(".wh.x", "y")] {
        let tree = merged(&[vec![file("x", 1)], vec![whiteout]]);
        assert_tree(&tree, &[]);
    }
}

#[test]
fn w14_the_prefix_on_a_middle_component_means_nothing() {
    let tree = merged(&[vec![file("etc/f", 1)], vec![file(".wh.etc/f", 2)]]);
    let expected = [
        "/.wh.etc dir 755 0:0 2",
        "/.wh.etc/f file 644 0:0 1 #2",
        "/etc dir 755 0:0 2",
        "/etc/f file 644 0:0 1 #1",
    ];
    assert_tree(&tree, &expected);
}

#[test]
fn w15_aufs_files_are_hidden_and_can_be_linked_to() {
    let tree = merged(&[vec![
        mark(".wh..wh.aufs"),
        dir(".wh..wh.orph"),
        dir(".wh..wh.plnk"),
        file(".wh..wh.plnk/1.2", 7),
        hardlink("a", ".wh..wh.plnk/1.2"),
        hardlink("b", ".wh..wh.plnk/1.2"),
    ]]);
    assert_tree(&tree, &["/a file 644 0:0 2 #7", "/b file 644 0:0 2 #7"]);
    assert_eq!(warned(&tree), []);
}

#[test]
fn w15_aufs_names_deeper_down_are_hidden_too() {
    assert_tree(&merged(&[vec![dir("d"), mark("d/.wh..wh.aufs")]]), &["/d dir 755 0:0 2"]);
}

#[test]
fn w16_a_whiteout_below_a_lower_symlink_replaces_the_link() {
    let tree = merged(&[vec![file("etc/x", 1), symlink("l", "etc")], vec![mark("l/.wh.x")]]);
    let expected = ["/etc dir 755 0:0 2", "/etc/x file 644 0:0 1 #1", "/l dir 755 0:0 2"];
    assert_tree(&tree, &expected);
    assert_warned(&tree, &[(DirectoryReplacesLink, "l")]);
}

#[test]
fn w17_a_character_device_0_0_is_a_whiteout() {
    let device = |name: &str| item(name, ItemKind::Char(0, 0), 0o600);
    let lower = vec![file("a", 1), file("d/x", 1), item("null", ItemKind::Char(1, 3), 0o666)];
    let tree = merged(&[lower, vec![file("a", 2), device("a"), device("d/x"), device("n")]]);
    assert_tree(&tree, &["/d dir 755 0:0 2", "/null char 666 0:0 1 1:3"]);
}

#[test]
fn w18_the_overlay_opaque_attribute_hides_nothing() {
    let tree = merged(&[d_with_old(), vec![dir("d").xattr("trusted.overlay.opaque", "y")]]);
    assert_tree(&tree, &["/d dir 755 0:0 2", "/d/old file 644 0:0 1 #1"]);
}
