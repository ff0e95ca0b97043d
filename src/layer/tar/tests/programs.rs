//! Archives written by the system's `tar`: parsing must return what was packed.

use super::*;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

/// Packs `dir` with GNU tar. The archive's names start with `./`.
fn pack(dir: &Path, options: &[&str]) -> Vec<u8> {
    let run =
        Command::new("tar").args(options).args(["--sort=name", "-cf", "-", "-C"]).arg(dir).arg(".").output();
    let run = run.expect("this test needs GNU tar");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    run.stdout
}

/// Creates a tree with every file type that needs no privilege. With `long`, it has names that only PAX and
/// GNU headers can store.
fn tree(long: bool) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("dir/file"), b"hello\n".repeat(1000)).unwrap();
    fs::write(at("empty"), b"").unwrap();
    fs::set_permissions(at("empty"), fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("dir/../dir/file", at("link")).unwrap();
    fs::hard_link(at("dir/file"), at("zhard")).unwrap();
    if long {
        let name = "ü".repeat(120);
        fs::create_dir_all(at(&name).join(&name)).unwrap();
        fs::write(at(&name).join(&name).join("f"), b"deep").unwrap();
        symlink("t/".repeat(150), at("long-link")).unwrap();
    }
    dir
}

/// Compares every entry with the file that it was packed from.
fn compare(dir: &Path, archive: &[u8], nanos: bool) {
    let found = parse_with(archive, Limits::default(), [4096, 511, 7]).unwrap();
    assert!(found.at_end);
    assert_eq!(found.warnings, []);
    for entry in &found.entries {
        let name = std::str::from_utf8(&entry.name).unwrap();
        let path = dir.join(name);
        let meta = fs::symlink_metadata(&path).unwrap();
        match &entry.kind {
            Kind::File(_) => assert_eq!(entry.bytes(archive), fs::read(&path).unwrap(), "{name}"),
            Kind::Symlink(target) => {
                assert_eq!(fs::read_link(&path).unwrap().as_os_str().as_encoded_bytes(), target);
            }
            Kind::Hardlink(target) => {
                let target = dir.join(std::str::from_utf8(target).unwrap());
                assert_eq!(fs::metadata(target).unwrap().ino(), meta.ino());
            }
            Kind::Other(kind) => assert!(meta.is_dir() && *kind == EntryKind::Directory, "{name}"),
        }
        assert_eq!(u32::from(entry.meta.mode), meta.mode() & 0o7777, "{name}");
        assert_eq!((entry.meta.uid, entry.meta.gid), (meta.uid(), meta.gid()), "{name}");
        assert_eq!(entry.meta.mtime.seconds.cast_signed(), meta.mtime(), "{name}");
        assert_eq!(i64::from(entry.meta.mtime.nanos), if nanos { meta.mtime_nsec() } else { 0 }, "{name}");
    }
    let listed = Command::new("find").arg(dir).args(["-printf", "."]).output().unwrap().stdout;
    assert_eq!(found.entries.len(), listed.len());
}

#[test]
fn what_tar_packs_in_each_format_comes_out() {
    for (format, long) in [("v7", false), ("oldgnu", true), ("gnu", true), ("ustar", false), ("pax", true)] {
        let dir = tree(long);
        let archive = pack(dir.path(), &[&format!("--format={format}")]);
        compare(dir.path(), &archive, format == "pax");
    }
}

/// Creates a file of a megabyte with three runs of data, and a file that is only a hole.
fn sparse_tree(runs: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let file = fs::File::create(dir.path().join("sparse")).unwrap();
    for run in 0..runs {
        file.write_all_at(format!("run {run}").as_bytes(), run * 65536 + 4096).unwrap();
    }
    file.set_len(runs * 65536 + 12345).unwrap();
    fs::File::create(dir.path().join("hole")).unwrap().set_len(1 << 20).unwrap();
    fs::write(dir.path().join("tail"), b"plain").unwrap();
    dir
}

#[test]
fn m14_what_tar_packs_as_sparse_comes_out() {
    for runs in [1, 3, 4, 5, 25, 26, 100] {
        let dir = sparse_tree(runs);
        for options in [
            &["--sparse", "--format=gnu"][..],
            &["--sparse", "--format=oldgnu"],
            &["--sparse", "--format=pax", "--sparse-version=0.0"],
            &["--sparse", "--format=pax", "--sparse-version=0.1"],
            &["--sparse", "--format=pax", "--sparse-version=1.0"],
        ] {
            let archive = pack(dir.path(), options);
            compare(dir.path(), &archive, options[1] == "--format=pax");
            let found = parse_with(&archive, Limits::default(), [archive.len()]).unwrap();
            let sparse = found.entries.iter().find(|entry| entry.name == b"./sparse").unwrap();
            assert!(matches!(sparse.data().stored, Stored::Sparse(_)), "{options:?}");
            assert!(sparse.data().stored_bytes() < sparse.data().size / 2, "{options:?}");
        }
    }
}

#[test]
fn owners_and_sizes_that_tar_writes_in_base_256_come_out() {
    let dir = tree(false);
    let archive = pack(dir.path(), &["--format=gnu", "--owner=:4000000000", "--mtime=@-5"]);
    let found = parse_with(&archive, Limits::default(), [archive.len()]).unwrap();
    assert_eq!(found.warnings, []);
    assert!(found.entries.iter().all(|entry| entry.meta.uid == 4_000_000_000));
    assert!(found.entries.iter().all(|entry| entry.meta.mtime.seconds == 0));
}

#[test]
fn m11_a_volume_label_and_global_records_of_tar_change_nothing() {
    let dir = tree(false);
    let archive = pack(dir.path(), &["--format=gnu", "--label=volume"]);
    let found = parse_with(&archive, Limits::default(), [archive.len()]).unwrap();
    assert_eq!(found.warnings, [(WarningKind::UnknownType, "volume".to_owned())]);
    let plain = pack(dir.path(), &["--format=pax"]);
    let global = pack(dir.path(), &["--format=pax", "--pax-option=globexthdr.name=g,comment=none"]);
    let names = |archive: &[u8]| parse_with(archive, Limits::default(), [512]).unwrap().names();
    assert_eq!(names(&global), names(&plain));
}
