//! Tests what the target guarantees, against files that already exist in the target directory.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::report::{ExtractReport, NotKept};
use super::target::{Existing, Identity, Target};
use crate::error::Error;
use crate::host_path::HostDirectory;

/// Opens the target twice: with openat2, and step by step as on older kernels.
fn targets(dir: &Path, existing: Existing) -> [Target; 2] {
    let target = || open(dir, existing);
    let stepping = target();
    stepping.has_openat2.store(false, Ordering::Relaxed);
    [target(), stepping]
}

fn open(dir: &Path, existing: Existing) -> Target {
    Target::open(&HostDirectory::open(dir).unwrap(), existing).unwrap()
}

fn identity(path: &Path) -> Identity {
    open(path, Existing::Refuse).identity().unwrap()
}

#[test]
fn x1_no_step_follows_a_link_or_leaves_the_target() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("target/a/b")).unwrap();
    fs::create_dir_all(at("outside/b")).unwrap();
    symlink("../outside", at("target/link")).unwrap();
    symlink("a", at("target/inner")).unwrap();
    symlink(at("outside/b"), at("target/a/last")).unwrap();
    for target in targets(&at("target"), Existing::Replace) {
        target.pass(b"a/b", identity(&at("target/a/b"))).unwrap();
        target.pass(b"", identity(&at("target"))).unwrap();
        for (path, leads_to) in [
            ("link/b", "outside/b"),
            ("inner/b", "target/a/b"),
            ("a/last", "outside/b"),
            ("inner", "target/a"),
        ] {
            let refused = target.pass(path.as_bytes(), identity(&at(leads_to))).unwrap_err();
            assert!(matches!(refused, Errno::LOOP | Errno::NOTDIR), "{path}: {refused}");
        }
    }
}

#[test]
fn x1_a_directory_that_was_exchanged_is_not_entered() {
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("made");
    fs::create_dir(&made).unwrap();
    let known = identity(&made);
    fs::rename(&made, dir.path().join("away")).unwrap();
    fs::create_dir(&made).unwrap();
    for target in targets(dir.path(), Existing::Refuse) {
        assert_eq!(target.pass(b"made", known).unwrap_err(), Errno::XDEV);
        target.pass(b"away", known).unwrap();
    }
}

#[test]
fn what_is_whole_takes_a_name_only_as_it_was_agreed() {
    let table: [(Existing, [Option<Errno>; 3]); 3] = [
        // Nothing exists, a file exists, a directory exists.
        (Existing::Refuse, [None, Some(Errno::EXIST), Some(Errno::EXIST)]),
        (Existing::Replace, [None, None, None]),
        (Existing::Merge, [None, None, Some(Errno::ISDIR)]),
    ];
    for (existing, expected) in table {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"old").unwrap();
        fs::create_dir_all(dir.path().join("dir/with/more")).unwrap();
        let target = open(dir.path(), existing);
        let base = target.folder(b"", target.identity().unwrap()).unwrap();
        for (name, error) in ["free", "file", "dir"].into_iter().zip(expected) {
            let temporary = target.temporary_name();
            fs::write(dir.path().join(&temporary), b"new").unwrap();
            let placed = target.place(&base, &temporary, name.as_bytes());
            assert_eq!(placed.err(), error, "{existing:?} {name}");
            let content = fs::read(dir.path().join(name)).unwrap_or_default();
            assert_eq!(content == b"new", error.is_none(), "{existing:?} {name}");
        }
    }
}

#[test]
fn x1_a_tree_that_is_replaced_is_removed_without_its_links_targets() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("target/old/deep")).unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/victim"), b"").unwrap();
    symlink("../../../outside", dir.path().join("target/old/deep/link")).unwrap();
    let target = open(&dir.path().join("target"), Existing::Replace);
    fs::write(dir.path().join("target/new"), b"").unwrap();
    let base = target.folder(b"", target.identity().unwrap()).unwrap();
    target.place(&base, "new", b"old").unwrap();
    assert!(dir.path().join("outside/victim").exists());
    assert!(dir.path().join("target/old").is_file());
}

#[test]
fn failures_past_what_anybody_reads_are_counted() {
    let mut report = ExtractReport::default();
    for _ in 0..250 {
        report.fail(b"a\x1b".to_vec(), Error::io("cannot write", Errno::ACCESS.into()));
    }
    assert_eq!((report.failures.len(), report.failed), (100, 250));
    assert_eq!(report.failures[0].to_string(), "'a\\x1b': cannot write: Permission denied (os error 13)");
}

#[test]
fn what_is_not_kept_is_told_by_kind_and_number() {
    let mut not_kept = NotKept::default();
    assert!(not_kept.is_empty());
    not_kept.add(&NotKept { owners: 2, devices: 1, ..NotKept::default() });
    not_kept.add(&NotKept { owners: 1, ..NotKept::default() });
    assert_eq!(not_kept.to_string(), "owners (3), devices (1)");
}

#[test]
fn x30_a_further_name_is_given_only_to_the_object_that_was_made() {
    let dir = tempfile::tempdir().unwrap();
    // Other users can write to this directory, and so exchange the first name.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    for (exchanged, error) in [(false, None), (true, Some(Errno::XDEV))] {
        for existing in [Existing::Refuse, Existing::Replace] {
            let target = open(dir.path(), existing);
            let folder = target.folder(b"", target.identity().unwrap()).unwrap();
            let temporary = target.temporary_name();
            let built = openat(folder.build(), &temporary, OFlags::CREATE | OFlags::WRONLY, Mode::RWXU);
            built.unwrap();
            let original = target.original(&folder, &temporary).unwrap();
            target.place(&folder, &temporary, b"first").unwrap();
            if exchanged {
                fs::write(dir.path().join("other"), b"other").unwrap();
                fs::rename(dir.path().join("other"), dir.path().join("first")).unwrap();
            }
            let linked = target.link((folder.as_fd(), b"first"), original, (&folder, b"second"));
            assert_eq!(linked.err(), error, "{existing:?}");
            assert_eq!(dir.path().join("second").exists(), error.is_none(), "{existing:?}");
            drop(folder);
            for name in ["first", "second"] {
                let _ = fs::remove_file(dir.path().join(name));
            }
            assert_eq!(
                fs::read_dir(dir.path()).unwrap().count(),
                0,
                "a workshop or a temporary name is left"
            );
        }
    }
}
