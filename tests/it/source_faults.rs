//! Tests of mounts whose source changes below them: files that are truncated, overwritten, removed or replaced,
//! file systems that are unmounted, and disks that fail. Rule X35 of docs/security.md; `faults` has more.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::Advice;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::fixture::{
    Compression, Image, Item, docker_legacy, docker_modern, file, oci, patterned, skopeo_dir, tar, write_dir,
};
use crate::mounted::{Imgmount, Mounted, Need, have, run};

/// More bytes than the cache of a mount and the read-ahead of the kernel hold.
const LARGE: usize = 12 << 20;
/// Bytes that are read at a time.
const STEP: usize = 64 << 10;
/// Small enough that most reads come from the source.
const SMALL_CACHE: [&str; 2] = ["--cache-size", "1M"];

/// An image of two layers, whose contents depend on `seed`.
fn image(seed: u64, compression: Compression) -> Image {
    let small = file("small", format!("image {seed}"));
    let image = Image::named("a:1").layer_as("COPY", &[small], "", compression);
    image.layer_as("COPY", &[file("large", patterned(LARGE, seed))], "", compression)
}

/// Reads all files of a mount of `image(seed, _)`. Each step must give the right bytes or `EIO`. Returns how many
/// steps failed.
#[track_caller]
fn failed_reads(mounted: &Mounted, seed: u64, about: &str) -> usize {
    let mut failed = 0;
    for (name, content) in
        [("small", format!("image {seed}").into_bytes()), ("large", patterned(LARGE, seed))]
    {
        let served = File::open(mounted.path().join(name)).unwrap();
        // The kernel forgets what it has read before.
        rustix::fs::fadvise(&served, 0, None, Advice::DontNeed).unwrap();
        for (number, part) in content.chunks(STEP).enumerate() {
            let mut bytes = vec![0; part.len()];
            match served.read_exact_at(&mut bytes, (number * STEP) as u64) {
                Ok(()) => assert!(bytes == part, "{about}: other bytes in {name}"),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{about}: {name}");
                    failed += 1;
                }
            }
        }
    }
    failed
}

/// A form of an image on disk.
type Form = (&'static str, fn(&Image) -> Vec<Item>);

const DIRECTORIES: [Form; 2] = [("layout", |image| oci(std::slice::from_ref(image))), ("skopeo", skopeo_dir)];

fn archive(image: &Image) -> Vec<u8> {
    tar(&docker_modern(std::slice::from_ref(image)))
}

/// Replaces a file by another one of the same name.
fn replace(path: &Path, bytes: &[u8]) {
    let draft = path.with_extension("draft");
    fs::write(&draft, bytes).unwrap();
    fs::rename(draft, path).unwrap();
}

#[test]
fn x35_a_source_that_is_replaced_is_served_as_it_was_and_the_next_mount_shows_the_new_one() {
    if !have(&[Need::Fuse]) {
        return;
    }
    for compression in [Compression::Plain, Compression::Gzip(6), Compression::Zstd] {
        let imgmount = Imgmount::new();
        let about = format!("{compression:?}");
        let path = imgmount.write("image.tar", &archive(&image(1, compression)));
        let old = imgmount.mount(&path, &SMALL_CACHE);
        replace(&path, &archive(&image(2, compression)));
        let new = imgmount.mount(&path, &SMALL_CACHE);
        assert_eq!(failed_reads(&old, 1, &about), 0, "{about}: the old file is still open");
        assert_eq!(failed_reads(&new, 2, &about), 0, "{about}");
    }
}

/// The new bytes are an image, too, but not the one that is mounted.
#[test]
fn x35_a_source_that_becomes_another_image_in_place_gives_eio_and_no_byte_of_it() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let legacy = |image: &Image| docker_legacy(std::slice::from_ref(image));
    for (inner, outer) in [
        (Compression::Plain, Compression::Plain),
        (Compression::Gzip(6), Compression::Plain),
        (Compression::Plain, Compression::Gzip(6)),
        (Compression::Plain, Compression::Zstd),
    ] {
        let imgmount = Imgmount::new();
        let about = format!("{inner:?} in {outer:?}");
        let [first, second] = [1, 2].map(|seed| outer.compress(&tar(&legacy(&image(seed, inner)))));
        let path = imgmount.write("image.tar", &first);
        let old = imgmount.mount(&path, &SMALL_CACHE);
        fs::write(&path, second).unwrap();
        let failed = failed_reads(&old, 1, &about);
        // What a seekable copy holds outlives its source.
        let copied = if matches!(outer, Compression::Zstd) { (LARGE - (5 << 20)) / STEP } else { 0 };
        assert!(failed + copied > LARGE / STEP / 2, "{about}: {failed} reads failed");
        let new = imgmount.mount(&path, &SMALL_CACHE);
        assert_eq!(failed_reads(&new, 2, &about), 0, "{about}");
    }
}

#[test]
fn x35_each_file_of_a_directory_that_is_damaged_or_removed_gives_right_bytes_or_eio() {
    if !have(&[Need::Fuse]) {
        return;
    }
    for (form, items) in DIRECTORIES {
        let imgmount = Imgmount::new();
        let image = image(1, Compression::Gzip(6));
        let path = imgmount.dir().join(form);
        let mut mounts = Vec::new();
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 4] = [
            ("removed", |path| fs::remove_file(path).unwrap()),
            ("truncated", |path| fs::write(path, b"").unwrap()),
            ("replaced", |path| replace(path, &[0; 4096])),
            ("a link", |path| {
                fs::remove_file(path).unwrap();
                symlink("/dev/zero", path).unwrap();
            }),
        ];
        for (how, damage) in damages {
            write_dir(&items(&image), &path);
            let mounted = imgmount.mount(&path, &SMALL_CACHE);
            files(&path).iter().for_each(|path| damage(path));
            let about = format!("{form} {how}");
            let failed = failed_reads(&mounted, 1, &about);
            assert!(
                failed == 0 || how == "truncated",
                "{about}: {failed} reads failed, but the files are open"
            );
            run(imgmount.command(&["ls", "--no-cache"]).arg(&path)).expect(2);
            fs::remove_dir_all(&path).unwrap();
            mounts.push((mounted, how));
        }
        // The files of later mounts have the same names, but are others.
        for (mounted, how) in &mounts {
            failed_reads(mounted, 1, &format!("{form} {how}, and then removed"));
        }
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files
}

/// Writes the files of the image, without layers.
fn write_rootfs(path: &Path) {
    write_dir(&[file("small", "image 1"), file("large", patterned(LARGE, 1))], path);
}

#[test]
fn x35_a_file_system_that_is_unmounted_below_a_mount_is_used_until_the_mount_ends() {
    if !have(&[Need::Fuse, Need::Root]) {
        return;
    }
    let imgmount = Imgmount::new();
    let disk = imgmount.dir().join("disk");
    fs::create_dir(&disk).unwrap();
    rustix::mount::mount("tmpfs", &disk, "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>).unwrap();
    fs::write(disk.join("image.tar"), archive(&image(1, Compression::Gzip(6)))).unwrap();
    write_dir(&oci(&[image(1, Compression::Zstd)]), &disk.join("layout"));
    write_rootfs(&disk.join("rootfs"));
    let references = ["", "", "rootfs:"].into_iter().zip(["image.tar", "layout", "rootfs"]);
    let references: Vec<String> =
        references.map(|(transport, name)| format!("{transport}{}/{name}", disk.display())).collect();
    let mounts: Vec<Mounted> = references.iter().map(|from| imgmount.mount(from, &SMALL_CACHE)).collect();
    let busy = rustix::mount::unmount(&disk, UnmountFlags::empty());
    assert_eq!(busy, Err(rustix::io::Errno::BUSY), "it is in use");
    rustix::mount::unmount(&disk, UnmountFlags::DETACH).unwrap();
    for (mounted, reference) in mounts.iter().zip(&references) {
        assert_eq!(failed_reads(mounted, 1, reference), 0, "{reference}");
        imgmount.run(&["ls", reference]).expect(2).says("No such file or directory");
    }
}

/// A loop device reads zeros or an error beyond the end of a file that became shorter; the file system on it
/// reports these errors.
#[test]
fn x35_a_disk_that_fails_gives_right_bytes_or_eio() {
    let tools = ["mkfs.ext4", "mount", "umount"].map(Need::Program);
    if !have(&[&[Need::Fuse, Need::Root], &tools[..]].concat()) || !Path::new("/dev/loop-control").exists() {
        return;
    }
    let imgmount = Imgmount::new();
    let (disk, file) = (imgmount.dir().join("disk"), imgmount.write("disk.img", b""));
    fs::create_dir(&disk).unwrap();
    File::options().write(true).open(&file).unwrap().set_len(64 << 20).unwrap();
    run(Command::new("mkfs.ext4").arg("-q").arg(&file)).expect(0);
    run(Command::new("mount").args(["-o", "loop,noatime"]).arg(&file).arg(&disk)).expect(0);
    let disk = LoopMount(disk);
    fs::write(disk.0.join("image.tar"), archive(&image(1, Compression::Plain))).unwrap();
    write_rootfs(&disk.0.join("rootfs"));
    rustix::fs::syncfs(File::open(&disk.0).unwrap()).unwrap();
    let references =
        [disk.0.join("image.tar").display().to_string(), format!("rootfs:{}/rootfs", disk.0.display())];
    let mounts: Vec<Mounted> = references.iter().map(|from| imgmount.mount(from, &SMALL_CACHE)).collect();
    for path in files(&disk.0.join("rootfs")).iter().chain([&disk.0.join("image.tar")]) {
        rustix::fs::fadvise(File::open(path).unwrap(), 0, None, Advice::DontNeed).unwrap();
    }
    File::options().write(true).open(&file).unwrap().set_len(4 << 20).unwrap();
    let failed: usize = mounts.iter().map(|mounted| failed_reads(mounted, 1, "a disk that fails")).sum();
    assert!(failed > LARGE / STEP / 2, "{failed} reads failed");
    drop(mounts);
}

/// A file system on a loop device.
struct LoopMount(PathBuf);

impl Drop for LoopMount {
    fn drop(&mut self) {
        // The device ends with its file system.
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}
