//! Tests behaviour under faults: damage, crashes, full caches and caches of other users.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::fixture::{
    Compression, Image, Kind, docker_legacy, file, oci, patterned, sample_tree, sha256_hex, tar, write_dir,
};
use crate::mounted::{Imgmount, Mounted, Need, have, inside, is_mounted, is_root, run, wait};
use crate::tree::Snapshot;

/// More bytes than a test's cache and read-ahead hold.
const LARGE: usize = 24 << 20;
/// Bytes that are read at a time.
const STEP: usize = 64 << 10;

fn sample_archive() -> Vec<u8> {
    tar(&oci(&[Image::sample("", Compression::Gzip(6))]))
}

#[track_caller]
fn shows_sample(imgmount: &Imgmount, image: &Path, about: &str) -> String {
    let mounted = imgmount.mount(image, &[]);
    Snapshot::described(&sample_tree()).assert_shown_by(&Snapshot::of(mounted.path()), about);
    mounted.run.stderr.clone()
}

/// Returns every file in the cache directory.
fn cache_files(imgmount: &Imgmount) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![imgmount.cache()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

/// Returns the stored layer indexes: the files that remain after a mount of a gzip image has ended.
fn index_files(imgmount: &Imgmount, image: &Path) -> Vec<PathBuf> {
    drop(imgmount.mount(image, &[]));
    let files = cache_files(imgmount);
    assert!(!files.is_empty(), "no index was stored");
    files
}

/// Reads the whole served file in small steps. Each step must give the right bytes or `EIO`. Returns
/// the offsets of the steps that gave `EIO`.
#[track_caller]
fn offsets_lost(mounted: &Mounted, content: &[u8], about: &str) -> Vec<usize> {
    let served = File::open(mounted.path().join("large")).unwrap();
    let mut lost = Vec::new();
    for offset in (0..content.len()).step_by(STEP) {
        let mut buffer = vec![0; STEP];
        match served.read_exact_at(&mut buffer, offset as u64) {
            Ok(()) => {
                assert!(buffer == content[offset..offset + STEP], "{about}: other bytes at {offset}");
            }
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(libc::EIO), "{about}: at {offset}");
                lost.push(offset);
            }
        }
    }
    lost
}

/// Makes an archive with `content` in one layer of this compression.
fn archive_of(content: &[u8], compression: Compression) -> Vec<u8> {
    tar(&oci(&[Image::named("a:1").layer_as("COPY", &[file("large", content)], "", compression)]))
}

fn cut(path: &Path, len: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[test]
fn x17_a_source_that_is_cut_while_mounted_gives_eio_and_never_other_bytes() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let content = patterned(LARGE, 3);
    for compression in [Compression::Plain, Compression::Gzip(6), Compression::ZstdFrames] {
        let imgmount = Imgmount::new();
        let path = imgmount.write("image.tar", &archive_of(&content, compression));
        let mounted = imgmount.mount(&path, &["--cache-size", "1M"]);
        cut(&path, fs::metadata(&path).unwrap().len() / 2);
        let about = format!("{compression:?}");
        let lost = offsets_lost(&mounted, &content, &about);
        assert!(lost.iter().all(|&offset| offset > LARGE / 3), "{about}: the beginning is still there");
        assert!(lost.len() > LARGE / STEP / 3, "{about}: the end cannot be there any more");
    }
}

#[test]
fn x17_what_lies_in_the_cache_outlives_its_source_and_is_the_same() {
    if !have(&[Need::Fuse]) {
        return;
    }
    // The layer is one frame: data far from its start is copied to the cache at the first reading.
    let content = patterned(LARGE, 6);
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &archive_of(&content, Compression::Zstd));
    let mounted = imgmount.mount(&path, &["--cache-size", "1M"]);
    cut(&path, 0);
    let lost = offsets_lost(&mounted, &content, "one frame");
    assert!(lost.first().is_some_and(|&offset| offset < 4 << 20), "the beginning is gone");
    assert!(lost.iter().all(|&offset| offset < 6 << 20), "the copy serves the rest: {lost:?}");
}

#[test]
fn x17_a_source_that_is_overwritten_while_mounted_gives_eio_and_never_other_bytes() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let content = patterned(LARGE, 4);
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &archive_of(&content, Compression::Plain));
    let mounted = imgmount.mount(&path, &["--cache-size", "1M"]);
    let written = OpenOptions::new().write(true).open(&path).unwrap();
    written.write_all_at(&[0xAA; 4096], fs::metadata(&path).unwrap().len() / 2).unwrap();
    let lost = offsets_lost(&mounted, &content, "overwritten");
    assert!(!lost.is_empty(), "the overwritten span was served");
    assert!(lost.len() <= (2 << 20) / STEP, "one bad span costs no other: {lost:?}");
}

/// Writes a layout in which one byte of the second layer's blob is flipped. Returns the blob's actual
/// digest, too.
fn flipped(imgmount: &Imgmount) -> (PathBuf, String) {
    let image = Image::sample("", Compression::Plain);
    let hex = sha256_hex(&image.layers[1].blob);
    let mut items = oci(std::slice::from_ref(&image));
    let blob = items.iter_mut().find(|item| item.name.ends_with(hex.as_bytes())).unwrap();
    let Kind::File(bytes) = &mut blob.kind else { panic!("a blob is a file") };
    // The content of etc/passwd, after the whiteout's header and its own header.
    bytes[1024] ^= 1;
    let layout = imgmount.dir().join("flipped");
    write_dir(&items, &layout);
    (layout, hex)
}

#[test]
fn a_flipped_byte_is_refused_naming_layer_expected_and_found() {
    let imgmount = Imgmount::new();
    let (layout, expected) = flipped(&imgmount);
    let found = sha256_hex(&fs::read(layout.join("blobs/sha256").join(&expected)).unwrap());
    let point = imgmount.mount_point();
    let refused = run(imgmount.command(&["mount"]).arg(&layout).arg(&point)).expect(2);
    // The layer is not compressed, so its diff_id is the digest of its blob.
    let (short, expected, found) = (&expected[..12], format!("sha256:{expected}"), format!("sha256:{found}"));
    assert_eq!(
        refused.stderr,
        format!(
            "imgmount: layer 1 (sha256:{short}): diff_id does not match: expected {expected}, found {found}\n\
            hint: the image is damaged or was changed; --verify off recovers what it can from the layer\n"
        )
    );
    assert!(!is_mounted(&point));
    // A refused layer must not be cached as verified.
    run(imgmount.command(&["ls"]).arg(&layout)).expect(2);
}

#[test]
fn a_flipped_byte_mounts_with_verify_off_and_a_warning() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let (layout, _) = flipped(&imgmount);
    let mounted = imgmount.mount(&layout, &["--verify", "off"]);
    let passwd = fs::read(mounted.path().join("etc/passwd")).unwrap();
    assert_eq!(passwd, b"soot:x:0:0\nuser:x:1000:1000\n", "the byte as it is in the blob: 'r' ^ 1");
    assert!(mounted.run.stderr.contains("verif"), "{}", mounted.run.stderr);
}

#[test]
fn a_damaged_gzip_stream_is_refused() {
    let imgmount = Imgmount::new();
    let mut archive = sample_archive();
    let whole = Compression::Gzip(6).compress(&archive);
    let path = imgmount.write("cut.tar.gz", &whole[..whole.len() / 2]);
    let refused = run(imgmount.command(&["ls"]).arg(path)).expect(2);
    let hint = "hint: the image is incomplete or damaged, or was changed after it was made\n";
    refused.says("cut.tar.gz': damaged gzip data at compressed offset").says(hint);
    archive.truncate(archive.len() / 2);
    let path = imgmount.write("cut.tar", &archive);
    run(imgmount.command(&["ls"]).arg(path)).expect(2).says("cut.tar");
}

#[test]
fn x16_indexes_that_are_damaged_cut_or_foreign_are_rebuilt() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = imgmount.write("image.tar", &sample_archive());
    type Damage = fn(&[u8]) -> Vec<u8>;
    let damages: [(&str, Damage); 6] = [
        ("a byte flipped at the front", |bytes| flip(bytes, 9)),
        ("a byte flipped in the middle", |bytes| flip(bytes, bytes.len() / 2)),
        ("a byte flipped at the end", |bytes| flip(bytes, bytes.len() - 1)),
        ("cut in half", |bytes| bytes[..bytes.len() / 2].to_vec()),
        ("empty", |_| Vec::new()),
        ("foreign", |_| b"not an index at all".to_vec()),
    ];
    for (name, damage) in damages {
        for path in index_files(&imgmount, &image) {
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, damage(&bytes)).unwrap();
        }
        shows_sample(&imgmount, &image, name);
    }
}

fn flip(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 0xFF;
    }
    bytes
}

#[test]
fn x16_the_index_of_another_layer_under_this_ones_name_is_not_believed() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = imgmount.write("image.tar", &sample_archive());
    let files = index_files(&imgmount, &image);
    let contents: Vec<_> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    for (number, path) in files.iter().enumerate() {
        fs::write(path, &contents[(number + 1) % contents.len()]).unwrap();
    }
    shows_sample(&imgmount, &image, "indexes that changed places");
}

#[test]
fn x16_the_cache_is_for_its_owner_alone() {
    let imgmount = Imgmount::new();
    let image = imgmount.write("image.tar", &sample_archive());
    run(imgmount.command(&["ls"]).arg(image)).expect(0);
    let mode = fs::metadata(imgmount.cache()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn no_cache_leaves_nothing_on_disk() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = imgmount.write("image.tar", &sample_archive());
    let mounted = imgmount.mount(image, &["--no-cache"]);
    Snapshot::described(&sample_tree()).assert_shown_by(&Snapshot::of(mounted.path()), "without a cache");
    assert_eq!(cache_files(&imgmount), Vec::<PathBuf>::new());
}

#[test]
fn a_cache_that_is_full_costs_a_warning_and_no_more() {
    if !have(&[Need::Fuse, Need::Root]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = imgmount.write("image.tar", &sample_archive());
    fs::create_dir(imgmount.cache()).unwrap();
    let tiny = TinyTmpfs::on(imgmount.cache());
    let said = shows_sample(&imgmount, &image, "with a full cache");
    assert!(said.contains("cache"), "{said}");
    drop(tiny);
}

/// A file system of one page, without room for the content of any file.
struct TinyTmpfs(PathBuf);

impl TinyTmpfs {
    fn on(dir: PathBuf) -> Self {
        use rustix::mount::{MountFlags, mount};
        mount("tmpfs", &dir, "tmpfs", MountFlags::empty(), Some(c"size=4096,mode=0700")).unwrap();
        File::create(dir.join("filler")).unwrap().write_all(&[0; 4096]).unwrap();
        TinyTmpfs(dir)
    }
}

impl Drop for TinyTmpfs {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_cache_that_cannot_be_written_costs_a_warning_and_no_more() {
    if !have(&[Need::FuseForUsers]) {
        return;
    }
    // For root, a mode makes nothing read-only.
    let imgmount = Imgmount::as_ordinary_user();
    let image = imgmount.write("image.tar", &sample_archive());
    fs::create_dir(imgmount.cache()).unwrap();
    fs::set_permissions(imgmount.cache(), fs::Permissions::from_mode(0o500)).unwrap();
    imgmount.give_to_user(&imgmount.cache());
    let mounted = imgmount.mount(image, &[]);
    assert!(mounted.run.stderr.contains("cache"), "{}", mounted.run.stderr);
    // No other user can enter, not even root.
    let passwd =
        run(&mut imgmount.shell(&format!("cat '{}/etc/passwd'", mounted.path().display()))).expect(0);
    assert_eq!(passwd.text(), "root:x:0:0\nuser:x:1000:1000\n");
    assert_eq!(cache_files(&imgmount), Vec::<PathBuf>::new());
}

#[test]
fn a_file_in_the_caches_place_costs_a_warning_and_no_more() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = imgmount.write("image.tar", &sample_archive());
    imgmount.write("cache", b"in the way");
    let said = shows_sample(&imgmount, &image, "with a file in the cache's place");
    assert!(said.contains("cache"), "{said}");
}

#[test]
fn a_kill_while_indexing_leaves_no_index_that_is_believed() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let content = patterned(LARGE, 5);
    let image = Image::named("a:1").layer_as("COPY", &[file("large", &content)], "", Compression::Gzip(6));
    let path = imgmount.write("image.tar", &tar(&oci(&[image])));
    for millis in [5, 20, 60, 120, 250] {
        let mut child =
            imgmount.command(&["ls"]).arg(&path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap();
        let mounted = imgmount.mount(&path, &[]);
        let served = fs::read(mounted.path().join("large")).unwrap();
        assert!(served == content, "other bytes after a kill at {millis} ms");
        drop(mounted);
        fs::remove_dir_all(imgmount.cache()).unwrap();
    }
}

#[test]
fn processes_that_index_one_layer_at_once_do_not_disturb_each_other() {
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &sample_archive());
    let mut children: Vec<_> = (0..4)
        .map(|_| {
            imgmount
                .command(&["cat"])
                .arg(inside(&path, "/etc/passwd"))
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in &mut children {
        assert!(wait(child).expect("an end").success());
        let mut out = String::new();
        io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut out).unwrap();
        assert_eq!(out, "root:x:0:0\nuser:x:1000:1000\n");
    }
    let leftovers = cache_files(&imgmount);
    assert!(leftovers.iter().all(|path| path.extension().is_some_and(|end| end == "idx")), "{leftovers:?}");
}

#[test]
fn a_dead_mount_is_named_and_can_be_unmounted() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &tar(&docker_legacy(&[Image::sample("", Compression::Plain)])));
    let mut mounted = imgmount.mount_in_foreground(&path, &[]);
    mounted.kill_server();
    let dead = fs::read_dir(mounted.path()).unwrap_err();
    assert_eq!(dead.raw_os_error(), Some(libc::ENOTCONN));
    let again = run(imgmount.command(&["mount"]).arg(&path).arg(mounted.path())).expect(2);
    again.says(mounted.path().to_str().unwrap()).says("imgmount umount");
    run(imgmount.command(&["umount"]).arg(mounted.path())).expect(0);
    assert!(!is_mounted(mounted.path()));
}

#[test]
fn a_dead_mount_of_an_ordinary_user_can_be_unmounted_by_that_user() {
    if !have(&[Need::FuseForUsers]) {
        return;
    }
    let imgmount = Imgmount::as_ordinary_user();
    let path = imgmount.write("image.tar", &sample_archive());
    let mut mounted = imgmount.mount_in_foreground(&path, &[]);
    mounted.kill_server();
    run(imgmount.command(&["umount"]).arg(mounted.path())).expect(0);
    assert!(!is_mounted(mounted.path()));
}

#[test]
fn sigterm_unmounts() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &sample_archive());
    let mut mounted = imgmount.mount_in_foreground(&path, &[]);
    let status = mounted.terminate_server();
    assert!(status.success(), "{status}");
    assert!(!is_mounted(mounted.path()));
}

#[test]
fn sigterm_unmounts_even_what_is_in_use() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &sample_archive());
    let mut mounted = imgmount.mount_in_foreground(&path, &[]);
    let in_use = File::open(mounted.path().join("etc")).unwrap();
    mounted.terminate_server();
    assert!(!is_mounted(mounted.path()));
    drop(in_use);
}

#[test]
fn writing_is_refused_as_on_any_read_only_file_system() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &sample_archive());
    let mounted = imgmount.mount(path, &[]);
    let at = |name: &str| mounted.path().join(name);
    let refused = [
        fs::write(at("new"), b"1").unwrap_err(),
        OpenOptions::new().write(true).open(at("etc/passwd")).unwrap_err(),
        fs::create_dir(at("dir")).unwrap_err(),
        fs::remove_file(at("etc/passwd")).unwrap_err(),
        fs::rename(at("etc/passwd"), at("moved")).unwrap_err(),
        fs::set_permissions(at("etc/passwd"), fs::Permissions::from_mode(0o600)).unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{error}");
    }
}

#[test]
fn x13_mounts_are_read_only_without_setuid_and_devices() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &sample_archive());
    let mounted = imgmount.mount(&path, &["-o", "rw,exec,_netdev,x-systemd.automount,noauto,user"]);
    let options = mount_options(mounted.path());
    for option in ["ro", "nosuid", "nodev"] {
        assert!(options.split(',').any(|found| found == option), "{option}: {options}");
    }
    drop(mounted);
    if is_root() {
        let mounted = imgmount.mount(&path, &["-o", "suid,dev"]);
        let options = mount_options(mounted.path());
        assert!(!options.contains("nosuid") && !options.contains("nodev"), "{options}");
    }
}

/// Returns the options of one mount, as the kernel shows them.
fn mount_options(point: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.split(' ').nth(4) == point.to_str()).unwrap();
    line.split(' ').nth(5).unwrap().to_owned()
}
