use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::reader::CRC64;
use super::*;
use crate::read_at::read_to_vec;

/// A directory with `etc/a` (five bytes) and `big` (300 KiB), and a link `lib` to `usr/lib`, which contains
/// `f`.
fn root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for parent in ["etc", "usr/lib"] {
        fs::create_dir_all(dir.path().join(parent)).unwrap();
    }
    fs::write(dir.path().join("etc/a"), b"hello").unwrap();
    fs::write(dir.path().join("usr/lib/f"), b"linked").unwrap();
    fs::write(dir.path().join("big"), big()).unwrap();
    symlink("/usr/lib", dir.path().join("lib")).unwrap();
    dir
}

fn big() -> Vec<u8> {
    (0..=250).cycle().take(300 << 10).collect()
}

fn part(path: &str, start: u64, len_bytes: u64, expected: FileCheck) -> FilePart {
    FilePart { path: path.into(), start, len_bytes, expected }
}

fn crc(bytes: &[u8]) -> FileCheck {
    FileCheck::Crc64(CRC64.checksum(bytes))
}

/// Returns the tar of `parts`, each after four literal bytes, and `end` after the last.
fn assembled(dir: &Path, parts: Vec<FilePart>) -> Arc<AssembledTar> {
    let make = move || {
        let mut builder = PlanBuilder::new();
        for part in &parts {
            builder.literal(b"head");
            builder.file(part.clone());
        }
        builder.literal(b"end");
        builder.finish()
    };
    Arc::new(AssembledTar::new(Beneath::open(dir).unwrap(), make))
}

fn read_stream(tar: &Arc<AssembledTar>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    tar.clone().stream(0..tar.len()).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[test]
fn literals_and_files_are_one_stream_at_any_offset() {
    let dir = root();
    let parts = vec![
        part("etc/a", 0, 5, crc(b"hello")),
        part("big", 0, 300 << 10, crc(&big())),
        part("lib/f", 0, 6, crc(b"linked")),
        part("big", 1000, 10, FileCheck::Size),
    ];
    let tar = assembled(dir.path(), parts);
    let expected =
        [b"headhello".as_slice(), b"head", &big(), b"headlinkedhead", &big()[1000..1010], b"end"].concat();
    assert_eq!(tar.len(), expected.len() as u64);
    assert!(read_to_vec(&*tar).unwrap() == expected);
    assert!(read_stream(&tar).unwrap() == expected);
    for offset in (0..expected.len()).step_by(997).chain(0..30) {
        for len in [1, 7, 5000] {
            let end = (offset + len).min(expected.len());
            let wanted = &expected[offset..end];
            let mut read = vec![0; wanted.len()];
            tar.read_exact_at(&mut read, offset as u64).unwrap();
            assert!(read == wanted, "{len} bytes at {offset}");
            let mut streamed = Vec::new();
            tar.clone().stream(offset as u64..end as u64).read_to_end(&mut streamed).unwrap();
            assert!(streamed == wanted, "{len} bytes streamed from {offset}");
        }
    }
    let past = tar.read_exact_at(&mut [0; 2], expected.len() as u64 - 1).unwrap_err();
    assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
    assert!(tar.read_exact_at(&mut [0; 2], u64::MAX).is_err());
}

/// Returns the error of reading the tar that contains only this part.
fn fault(dir: &Path, part: FilePart) -> String {
    let tar = assembled(dir, vec![part.clone()]);
    let fault = read_stream(&tar).unwrap_err().to_string();
    let plan = tar.plan().unwrap();
    if !fault.contains("checksum") {
        let misfit = plan.misfit(&Beneath::open(dir).unwrap()).unwrap();
        assert_eq!(misfit.as_ref(), Some(&fault));
    }
    fault.replace(&dir.display().to_string(), "ROOT")
}

#[test]
fn a_file_that_is_not_the_expected_one_is_named() {
    let dir = root();
    let is = |part, expected: &str| assert_eq!(fault(dir.path(), part), expected);
    is(part("etc/gone", 0, 5, crc(b"hello")), "'etc/gone' in 'ROOT' is missing");
    is(part("etc/a/b", 0, 5, crc(b"hello")), "'etc/a/b' in 'ROOT' is missing");
    is(
        part("etc/a", 0, 6, crc(b"hello!")),
        "'etc/a' in 'ROOT' has changed since the image was stored: it has 5 bytes, not 6",
    );
    is(
        part("etc/a", 0, 5, crc(b"olleh")),
        "'etc/a' in 'ROOT' has changed since the image was stored: its checksum does not match",
    );
    is(part("etc/a", 3, 5, FileCheck::Size), "'etc/a' in 'ROOT' has 5 bytes, fewer than 8");
    is(part("etc", 0, 5, FileCheck::Size), "'etc' in 'ROOT' is not a regular file");
    is(part("lib", 0, 5, FileCheck::Size), "'lib' in 'ROOT' is not a regular file");
    let seen = FileStamp::of(&fs::metadata(dir.path().join("etc/a")).unwrap());
    fs::write(dir.path().join("etc/a"), b"HELLO").unwrap();
    let stale = FileStamp { ctime_ns: seen.ctime_ns - 1, ..seen };
    is(
        part("etc/a", 0, 5, FileCheck::Stamp(stale)),
        "'etc/a' in 'ROOT' has changed since the directory was read",
    );
}

#[test]
fn a_named_pipe_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("pipe"), rustix::fs::Mode::RUSR).unwrap();
    let text = fault(dir.path(), part("pipe", 0, 1, FileCheck::Size));
    assert_eq!(text, "'pipe' in 'ROOT' is not a regular file");
}

#[test]
fn nothing_outside_the_directory_is_read() {
    let dir = root();
    let secret = tempfile::tempdir().unwrap();
    fs::write(secret.path().join("f"), b"secret").unwrap();
    symlink(secret.path(), dir.path().join("out")).unwrap();
    let inside = dir.path().join(secret.path().strip_prefix("/").unwrap());
    for path in ["out/f".to_owned(), format!("../..{}/f", secret.path().display())] {
        let text = fault(dir.path(), part(&path, 0, 6, FileCheck::Size));
        assert!(text.ends_with("is missing"), "{text}");
    }
    // The directory is the root for absolute links and for `..`, as in a container.
    fs::create_dir_all(&inside).unwrap();
    fs::write(inside.join("f"), b"inside").unwrap();
    let tar = assembled(dir.path(), vec![part("out/f", 0, 6, FileCheck::Size)]);
    assert_eq!(read_stream(&tar).unwrap(), b"headinsideend");
}

#[test]
fn without_checksums_a_changed_file_is_shown() {
    let dir = root();
    let parts = vec![part("etc/a", 0, 5, crc(b"olleh"))];
    let strict = assembled(dir.path(), parts.clone());
    assert!(strict.read_exact_at(&mut [0; 9], 0).is_err());
    let lax = Arc::into_inner(assembled(dir.path(), parts)).unwrap().without_checksums();
    assert_eq!(read_to_vec(&lax).unwrap(), b"headhelloend");
}

#[test]
fn the_plan_is_made_when_it_is_needed_and_its_fault_is_kept() {
    let dir = root();
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = count.clone();
    let root = Beneath::open(dir.path()).unwrap();
    let tar = Arc::new(AssembledTar::new(root, move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Err(invalid("'tar-split.json.gz' is damaged".to_owned()))
    }));
    assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(read_stream(&tar).unwrap_err().to_string(), "'tar-split.json.gz' is damaged");
    assert_eq!(read_to_vec(&*tar).unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn limits_of_a_plan_are_named() {
    let huge = |len_bytes| part("f", 0, len_bytes, FileCheck::Size);
    let mut builder = PlanBuilder::new();
    builder.file(huge(u64::MAX));
    assert_eq!(builder.check().unwrap_err().to_string(), "the size of 'f' is too large");
    let mut builder = PlanBuilder::new();
    builder.file(huge(i64::MAX.cast_unsigned() - 1));
    builder.file(huge(i64::MAX.cast_unsigned() - 1));
    let sum = builder.finish().unwrap_err().to_string();
    assert_eq!(sum, "the sum of the sizes of the files is too large");
    let mut builder = PlanBuilder::new();
    builder.file(part(&"n".repeat(5000), 0, 1, FileCheck::Size));
    let long = builder.finish().unwrap_err().to_string();
    assert_eq!(long, "5000 exceeds the limit MAX_NAME_BYTES (4096)");
}

#[test]
fn a_plan_of_many_files_takes_little_memory() {
    let mut builder = PlanBuilder::new();
    for number in 0..100_000_u64 {
        let mut header = tar::Header::new_ustar();
        header.set_path(format!("usr/share/doc/package-{}/file-{number}", number / 20)).unwrap();
        header.set_size(number);
        header.set_cksum();
        builder.literal(header.as_bytes());
        let path = format!("usr/share/doc/package-{}/file-{number}", number / 20);
        let crc = FileCheck::Crc64(CRC64.checksum(path.as_bytes()));
        builder.file(part(&path, 0, number + 1, crc));
    }
    let plan = builder.finish().unwrap();
    let table = plan.parts.len() * size_of::<Part>();
    let stored = plan.literals.stored_bytes() + plan.details.stored_bytes();
    assert!(table as u64 + stored < 100_000 * 100, "{table} and {stored} bytes");
}

#[test]
fn only_a_tar_of_files_with_known_properties_checks_each_read() {
    let dir = root();
    let seen = FileCheck::Stamp(FileStamp::of(&fs::metadata(dir.path().join("etc/a")).unwrap()));
    for (expected, checks) in [(seen, true), (FileCheck::Size, false), (crc(b"hello"), false)] {
        let tar = assembled(dir.path(), vec![part("etc/a", 0, 5, seen), part("etc/a", 0, 5, expected)]);
        assert_eq!(read_stream(&tar).unwrap(), b"headhelloheadhelloend");
        assert_eq!(tar.checks_files(), checks, "{expected:?}");
    }
}
