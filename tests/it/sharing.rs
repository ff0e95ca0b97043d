//! Tests of many mounts with one cache directory, of servers that are stopped or dead, and of servers without
//! file descriptors. Rules X38, X40 and X41 of docs/security.md.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{panic, thread};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::fixture::{Compression, Image, Item, Registry, file, oci, patterned, sample_tree, tar, write_dir};
use crate::mounted::{Imgmount, Mounted, Need, have, is_mounted, run, wait};
use crate::tree::Snapshot;

const MOUNTS: usize = 100;
/// Threads that mount and read.
const THREADS: usize = 10;

/// Contents of the sample and of a layer with a seekable copy.
fn image(compression: Compression) -> (Image, Vec<Item>) {
    let large = file("large", patterned(6 << 20, 1));
    let image = Image::sample("", Compression::Gzip(6)).layer_as(
        "COPY",
        std::slice::from_ref(&large),
        "",
        compression,
    );
    (image, [sample_tree(), vec![large]].concat())
}

#[test]
fn x40_a_hundred_mounts_share_a_cache_directory_while_it_is_pruned() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let (image, items) = image(Compression::Zstd);
    let tree = Snapshot::described(&items);
    let layout = imgmount.dir().join("layout");
    write_dir(&oci(std::slice::from_ref(&image)), &layout);
    let archive = imgmount.write("image.tar", &tar(&oci(&[image])));
    let prunes = while_pruned(&imgmount, || {
        let mounts = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for source in [&archive, &layout].into_iter().cycle().take(THREADS) {
                let (imgmount, mounts) = (&imgmount, &mounts);
                scope.spawn(move || {
                    (0..MOUNTS / THREADS).for_each(|_| {
                        let mounted = imgmount.mount(source, &["--cache-size", "1M"]);
                        mounts.lock().unwrap().push(mounted);
                    })
                });
            }
        });
        let mounts = mounts.into_inner().unwrap();
        assert_eq!(mounts.len(), MOUNTS);
        thread::scope(|scope| {
            for mounts in mounts.chunks(MOUNTS / THREADS) {
                let tree = &tree;
                scope.spawn(move || {
                    for mounted in mounts {
                        tree.assert_shown_by(&Snapshot::of(mounted.path()), "one of a hundred mounts");
                    }
                });
            }
        });
    });
    assert!(prunes > 1, "{prunes}");
}

/// Does `work` while the cache directory is pruned and cleared. Returns how often it was.
fn while_pruned(imgmount: &Imgmount, work: impl FnOnce()) -> u64 {
    let (is_over, mut prunes) = (AtomicBool::new(false), 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                imgmount.run(&["cache", "prune", "--max-size", "100K"]).expect(0);
                imgmount.run(&["cache", "clear"]).expect(0);
                prunes += 1;
            }
        });
        let worked = panic::catch_unwind(panic::AssertUnwindSafe(work));
        is_over.store(true, Ordering::SeqCst);
        worked.unwrap_or_else(|panic| panic::resume_unwind(panic));
    });
    prunes
}

/// Returns whether a file is served right. The kernel must forget it first.
fn is_right(mounted: &Mounted, content: &[u8]) -> std::io::Result<bool> {
    let file = File::open(mounted.path().join("large"))?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let mut bytes = vec![0; content.len()];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes == content)
}

#[test]
fn x40_a_server_that_is_stopped_holds_up_its_readers_and_nothing_else() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    let (image, _) = image(Compression::Gzip(6));
    registry.push("app:1", &image);
    let archive = imgmount.write("image.tar", &tar(&oci(&[image])));
    let content = patterned(6 << 20, 1);
    for reference in [archive.display().to_string(), registry.reference("app:1")] {
        let mut stopped = imgmount.mount_in_foreground(&reference, &["--cache-size", "1M"]);
        assert!(is_right(&stopped, &content).unwrap());
        thread::scope(|scope| {
            let stop = stopped.stop();
            let reader = scope.spawn(|| is_right(&stopped, &content));
            // A reader whose request has not been accepted can be killed.
            let mut killed = Command::new("cat");
            killed.arg(stopped.path().join("usr/lib/large")).stdout(Stdio::null()).stderr(Stdio::null());
            let mut killed = killed.spawn().unwrap();
            killed.kill().unwrap();
            assert!(wait(&mut killed).is_some(), "{reference}: a killed reader stays");

            // Other processes use the same image and the same cache directory.
            let other = imgmount.mount(&reference, &["--cache-size", "1M"]);
            assert!(is_right(&other, &content).unwrap());
            imgmount.run(&["cat", &format!("{reference}:/etc/passwd")]).expect(0);
            imgmount.run(&["verify", &reference]).expect(0);
            imgmount.run(&["cache", "prune", "--max-size", "1"]).expect(0);
            imgmount.run(&["cache", "clear"]).expect(0);
            let after = imgmount.mount(&reference, &["--cache-size", "1M"]);
            assert!(is_right(&after, &content).unwrap());

            assert!(!reader.is_finished(), "{reference}: a stopped server answers nothing");
            drop(stop);
            assert!(reader.join().unwrap().unwrap(), "{reference}");
        });
        assert!(stopped.terminate_server().success());
    }
}

#[test]
fn x41_a_dead_server_is_reported_and_its_mount_point_is_used_again() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let (image, items) = image(Compression::Zstd);
    let archive = imgmount.write("image.tar", &tar(&oci(&[image])));
    let mut dead = imgmount.mount_in_foreground(&archive, &[]);
    let (open, point) = (File::open(dead.path().join("large")).unwrap(), dead.path().to_owned());
    dead.kill_server();
    let error = open.read_at(&mut [0; 1], 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN), "{error}");
    drop(open);
    for command in [vec!["ls"], vec!["mount"]] {
        let mut command = imgmount.command(&command);
        let refused = match command.get_args().any(|arg| arg == "ls") {
            true => run(command.arg(&point)),
            false => run(command.arg(&archive).arg(&point)),
        };
        refused.expect(2).says(point.to_str().unwrap());
    }
    run(imgmount.command(&["umount"]).arg(&point)).expect(0);
    assert!(!is_mounted(&point));
    let again = Mounted::at(&point, run(imgmount.command(&["mount"]).arg(&archive).arg(&point)).expect(0));
    Snapshot::described(&items).assert_shown_by(&Snapshot::of(again.path()), "after the dead mount");
}

#[test]
fn x38_a_server_without_descriptors_gives_eio_and_recovers() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let items: Vec<Item> = (0..40).map(|n| file(format!("f{n}"), patterned(100_000, n))).collect();
    let rootfs = imgmount.dir().join("rootfs");
    write_dir(&items, &rootfs);
    let mounted =
        imgmount.mount_in_foreground(format!("rootfs:{}", rootfs.display()), &["--cache-size", "1M"]);
    let open = fs::read_dir(format!("/proc/{}/fd", mounted.server_id())).unwrap().count() as u64;
    let limit = |current| {
        let pid = Pid::from_raw(i32::try_from(mounted.server_id()).unwrap());
        prlimit(pid, Resource::Nofile, Rlimit { current: Some(current), maximum: Some(1024) }).unwrap();
    };
    let read = |number: u64| {
        let file = File::open(mounted.path().join(format!("f{number}"))).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let mut bytes = vec![0; 100_000];
        file.read_exact_at(&mut bytes, 0).map(|()| bytes)
    };
    limit(open.min(3));
    let mut failed = 0;
    for number in 0..40 {
        match read(number) {
            Ok(bytes) => assert!(bytes == patterned(100_000, number)),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO));
                failed += 1;
            }
        }
    }
    assert!(failed > 0, "no descriptor was needed");
    limit(1024);
    assert!((0..40).all(|number| read(number).unwrap() == patterned(100_000, number)));
}

#[test]
fn x38_a_command_with_few_descriptors_succeeds_or_says_why() {
    if !have(&[Need::Program("prlimit")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let layers = (0..20).map(|number| file(format!("f{number}"), patterned(5000, number)));
    let image = layers
        .fold(Image::named("a:1"), |image, item| image.layer_as("ADD", &[item], "", Compression::Gzip(6)));
    let archive = imgmount.write("image.tar", &tar(&oci(&[image])));
    let whole = run(imgmount.command(&["ls", "--no-cache"]).arg(&archive)).expect(0);
    let mut succeeded = 0;
    for limit in [3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64, 128] {
        let cache = imgmount.cache();
        let _ = fs::remove_dir_all(&cache);
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={limit}")).arg(env!("CARGO_BIN_EXE_imgmount")).arg("ls").arg(&archive);
        let done = run(command.env("IMGMOUNT_CACHE_DIR", &cache).stdin(Stdio::null()));
        match done.code {
            0 => {
                assert_eq!(done.stdout, whole.stdout, "{limit} descriptors");
                succeeded += 1;
            }
            // The loader of the program itself needs descriptors.
            127 => assert!(limit < 5, "{limit}: {}", done.stderr),
            code => {
                assert_eq!(code, 2, "{limit}: {}", done.stderr);
                assert!(done.stderr.contains("Too many open files"), "{limit}: {}", done.stderr);
            }
        }
        // What was stored is right.
        assert_eq!(run(imgmount.command(&["ls"]).arg(&archive)).expect(0).stdout, whole.stdout);
    }
    assert!(succeeded > 1);
}
