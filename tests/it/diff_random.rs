//! Compares `diff` and `deleted` of the real program with a simple comparison of random trees.
//!
//! Each case makes two random trees. The first image has the first tree as its layer. The second image
//! has the same layer, and another that turns the first tree into the second by whiteouts and entries.
//! The expected differences are computed from the two trees alone, without layers.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;

use crate::fixture::{Image, Item, Kind, char_device, dir, docker_legacy, fifo, file, symlink, tar};
use crate::mounted::{Imgmount, run};
use crate::seed;

/// The number of cases; each runs the program a few times.
const CASES: u32 = 48;

/// A tree by path. Every parent exists and is a directory.
type Tree = BTreeMap<Vec<u8>, Item>;

fn name() -> impl Strategy<Value = &'static [u8]> {
    select(vec![&b"a"[..], b"b", b"c.x", b"\xff"])
}

fn node() -> impl Strategy<Value = Item> {
    let kinds = prop_oneof![
        4 => select(vec![&b""[..], b"1", b"2", b"33"]).prop_map(|content| file("", content)),
        4 => Just(dir("")),
        2 => select(vec!["a", "/b"]).prop_map(|target| symlink("", target)),
        1 => select(vec![1, 2]).prop_map(|minor| char_device("", 1, minor)),
        1 => Just(fifo("")),
    ];
    (kinds, select(vec![0o600, 0o755]), 0..2u64, 1..3u64, any::<bool>()).prop_map(
        |(item, mode, owner, time, tagged)| {
            // The mode of a symbolic link is always the same.
            let item = if matches!(item.kind, Kind::Symlink(_)) { item } else { item.mode(mode) };
            let item = item.owner(owner, 0).mtime(time, 0);
            if tagged { item.xattr("security.tag", b"1") } else { item }
        },
    )
}

fn tree() -> impl Strategy<Value = Tree> {
    let path = prop::collection::vec(name(), 1..4);
    prop::collection::vec((path, node()), 0..10).prop_map(|entries| {
        let mut tree = Tree::new();
        for (parts, mut item) in entries {
            let path = parts.join(&b'/');
            let parents: Vec<Vec<u8>> = (1..parts.len()).map(|len| parts[..len].join(&b'/')).collect();
            let blocked = parents.iter().any(|at| tree.get(at).is_some_and(|item| !is_dir(item)));
            if blocked || tree.contains_key(&path) {
                continue;
            }
            for parent in parents {
                tree.entry(parent.clone()).or_insert_with(|| dir(parent));
            }
            item.name.clone_from(&path);
            tree.insert(path, item);
        }
        tree
    })
}

fn is_dir(item: &Item) -> bool {
    matches!(item.kind, Kind::Dir)
}

/// Returns the layer that turns one tree into the other.
fn delta(a: &Tree, b: &Tree) -> Vec<Item> {
    let gone = a.keys().filter(|path| !b.contains_key(*path));
    // One whiteout at the top of each removed part: below an object that is not a directory, nothing is
    // left to delete.
    let topmost = gone.filter(|path| parent(path).is_none_or(|parent| b.get(parent).is_some_and(is_dir)));
    let marks = topmost.map(|path| {
        let (parent, base) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..=slash], &path[slash + 1..]),
            None => (&b""[..], &path[..]),
        };
        file([parent, b".wh.", base].concat(), b"")
    });
    let entries =
        b.iter().filter(|(path, item)| a.get(*path).is_none_or(|old| !differing(old, item).is_empty()));
    marks.chain(entries.map(|(_, item)| item.clone())).collect()
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|byte| *byte == b'/').map(|slash| &path[..slash])
}

fn differing(a: &Item, b: &Item) -> Vec<&'static str> {
    let same_type = std::mem::discriminant(&a.kind) == std::mem::discriminant(&b.kind);
    let same_kind = match (&a.kind, &b.kind) {
        (Kind::File(a), Kind::File(b)) => a == b,
        (Kind::Symlink(a), Kind::Symlink(b)) => a == b,
        (Kind::Char(_, a), Kind::Char(_, b)) => a == b,
        _ => true,
    };
    let word = match a.kind {
        Kind::File(_) => "content",
        Kind::Char(..) => "rdev",
        _ => "target",
    };
    let of_kind = |name| word == name && same_type && !same_kind;
    let table = [
        ("content", of_kind("content")),
        ("mode", a.mode != b.mode),
        ("owner", (a.uid, a.gid) != (b.uid, b.gid)),
        ("rdev", of_kind("rdev")),
        ("target", of_kind("target")),
        ("type", !same_type),
        ("xattr", a.xattrs != b.xattrs),
        ("mtime", a.mtime != b.mtime),
    ];
    table.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

fn printed(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path).replace('\u{fffd}', "\\xff");
    format!("/{text}")
}

fn expected(a: &Tree, b: &Tree) -> Vec<String> {
    let paths: BTreeSet<&Vec<u8>> = a.keys().chain(b.keys()).collect();
    let line = |path: &Vec<u8>| {
        let name = printed(path);
        match (a.get(path), b.get(path)) {
            (None, _) => Some(format!("A {name}")),
            (_, None) => Some(format!("D {name}")),
            (Some(a), Some(b)) => {
                let fields = differing(a, b);
                (!fields.is_empty()).then(|| format!("M {name}  {}", fields.join(",")))
            }
        }
    };
    paths.into_iter().filter_map(line).collect()
}

#[test]
fn random_images_differ_as_their_trees_do() {
    let mut runner = TestRunner::new(seed::config(CASES));
    let imgmount = Imgmount::new();
    let result = runner.run(&(tree(), tree()), |(a, b)| {
        let base: Vec<Item> = a.values().cloned().collect();
        let first = Image::named("a:1").layer("ADD", &base);
        let second = first.clone().layer("RUN", &delta(&a, &b));
        let flat = Image::named("a:1").layer("ADD", &b.values().cloned().collect::<Vec<_>>());
        let write = |name, image| imgmount.write(name, &tar(&docker_legacy(&[image])));
        let (first, second, flat) = (write("a.tar", first), write("b.tar", second), write("flat.tar", flat));
        let diff = |a, b| run(imgmount.command(&["diff", "--no-cache", "--mtime"]).arg(a).arg(b));
        for second in [&second, &flat] {
            let out = diff(&first, second);
            prop_assert_eq!(out.lines(), expected(&a, &b), "{}", out.stderr);
            prop_assert_eq!(out.code, i32::from(!out.stdout.is_empty()));
        }
        let back = diff(&second, &first);
        prop_assert_eq!(back.lines(), expected(&b, &a));
        let same = diff(&second, &flat).expect(0);
        prop_assert_eq!(same.text(), "");

        let out = run(imgmount.command(&["deleted", "--json", "--no-cache"]).arg(&second)).expect(0);
        let path = |line: &&str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["path"].as_str().unwrap().replace('\u{fffd}', "\\xff")
        };
        let deleted: Vec<String> = out.lines().iter().map(path).collect();
        let gone = a.iter().filter(|(path, item)| !is_dir(item) && !b.contains_key(*path));
        prop_assert_eq!(deleted, gone.map(|(path, _)| printed(path)).collect::<Vec<_>>());
        Ok(())
    });
    result.unwrap();
}
