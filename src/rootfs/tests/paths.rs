//! Tests paths in byte order, and paths that a pattern matches.

use super::*;
use crate::glob::Glob;

fn sample() -> Rootfs {
    merged(&[vec![
        file("a/x", 1),
        file("a/b/f.conf", 2),
        file("a-b", 3),
        file("a.conf", 4),
        file("a-/z", 5),
        file("aa", 6),
        symlink("l", "a/b"),
        file("l2/.hidden.conf", 7),
    ]])
}

fn text(paths: impl Iterator<Item = (Vec<u8>, InodeId)>) -> Vec<String> {
    paths.map(|(path, _)| String::from_utf8(path).unwrap()).collect()
}

#[test]
fn a_walk_by_path_is_sorted_by_bytes() {
    let found = text(sample().walk_by_path(ROOT, b""));
    let expected =
        ["/a", "/a-", "/a-/z", "/a-b", "/a.conf", "/a/b", "/a/b/f.conf", "/a/x", "/aa", "/l", "/l2"];
    assert_eq!(found[..11], expected);
    assert!(found.is_sorted());
}

#[test]
fn a_walk_by_path_finds_what_any_walk_finds() {
    let names = ["a", "a-", "a--", "a!", "a0", "ab", "b"];
    let mut items = Vec::new();
    for top in names {
        for below in names {
            items.push(file(format!("{top}/{below}/{top}{below}"), 1));
        }
    }
    let tree = merged(&[items]);
    let mut plain = text(tree.walk(ROOT).skip(1));
    plain.sort();
    assert_eq!(text(tree.walk_by_path(ROOT, b"")), plain);
}

#[test]
fn a_walk_by_path_begins_with_the_prefix() {
    let tree = sample();
    let directory = tree.resolve(b"/a", Follow::Last).unwrap();
    assert_eq!(text(tree.walk_by_path(directory, b"/z")), ["/z/b", "/z/b/f.conf", "/z/x"]);
    assert!(text(tree.walk_by_path(tree.resolve(b"/aa", Follow::Last).unwrap(), b"")).is_empty());
}

fn matches(pattern: &str) -> Vec<String> {
    text(sample().glob(&Glob::new(pattern.as_bytes())).into_iter())
}

#[test]
fn a_pattern_finds_paths_through_links_as_a_shell_does() {
    assert_eq!(matches("/l/*"), ["/l/f.conf"]);
    assert_eq!(matches("/?/b"), ["/a/b"]);
    assert_eq!(matches("/l*"), ["/l", "/l2"]);
    assert_eq!(matches("/l/**"), ["/l", "/l/f.conf"]);
    assert_eq!(matches("/l/nothing*"), [""; 0]);
}

#[test]
fn two_stars_find_each_path_once_and_follow_no_link() {
    assert_eq!(matches("/**/*.conf"), ["/a.conf", "/a/b/f.conf", "/l2/.hidden.conf"]);
    assert_eq!(matches("/**/b/**/f.conf"), ["/a/b/f.conf"]);
    assert_eq!(matches("/a/**"), ["/a", "/a/b", "/a/b/f.conf", "/a/x"]);
    assert_eq!(matches("/**/").len(), text(sample().walk(ROOT)).len());
}

#[test]
fn a_pattern_without_special_characters_is_a_path() {
    assert_eq!(matches("/a/b"), ["/a/b"]);
    assert_eq!(matches("/"), ["/"]);
}
