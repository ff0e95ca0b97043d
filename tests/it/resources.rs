//! Tests what happens when the system gives the program little: few descriptors, small files, little memory.

use std::fs::{self, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::fixture::{Compression, Image, docker_legacy, file, oci, patterned, tar, write_dir};
use crate::mounted::{Imgmount, Need, Run, have, inside, run, unmount, wait_until};

/// Runs a command of the program in a shell, after `limit` was set.
fn limited(imgmount: &Imgmount, limit: &str, args: &str) -> Run {
    run(&mut imgmount.shell_with_program(&format!("{limit}; exec imgmount {args}")))
}

/// Writes an OCI layout of an image with `count` layers, each with one file, and returns its path.
fn many_layers(imgmount: &Imgmount, count: usize) -> PathBuf {
    let add = |image: Image, at: usize| {
        let content = format!("layer {at}");
        let item = file(format!("f{at}"), content.as_bytes());
        image.layer_as("COPY", &[item], "", Compression::Gzip(1))
    };
    let image = (0..count).fold(Image::named("a:1"), add);
    let path = imgmount.dir().join("layout");
    write_dir(&oci(&[image]), &path);
    path
}

#[test]
fn more_layers_than_descriptors_are_indexed_listed_and_read() {
    // Each layer took a descriptor for its blob and one for its index: 4,096 layers failed at 1,024 descriptors.
    let imgmount = Imgmount::new();
    many_layers(&imgmount, 200);
    for options in ["--no-cache", "", ""] {
        let listed = limited(&imgmount, "ulimit -n 128", &format!("ls {options} layout")).expect(0);
        assert_eq!(listed.lines().len(), 200, "{options:?}");
        assert_eq!(listed.stderr, "", "{options:?}");
        let exported = limited(&imgmount, "ulimit -n 128", &format!("export {options} layout -o out.tar"));
        assert_eq!(exported.expect(0).stderr, "", "{options:?}");
        let out = fs::read(imgmount.dir().join("out.tar")).unwrap();
        let has = |text: &[u8]| out.windows(text.len()).any(|window| window == text);
        assert!((0..200).all(|at| has(format!("layer {at}\0").as_bytes())), "{options:?}");
    }
}

#[test]
fn the_limit_on_descriptors_is_raised_as_far_as_the_system_allows() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    many_layers(&imgmount, 3);
    let point = imgmount.mount_point();
    let mount = format!("mount layout {} --foreground & echo $!; wait", point.display());
    let script = format!("ulimit -Sn 200; ulimit -Hn 500; imgmount {mount}");
    let mut server = imgmount.shell_with_program(&script).spawn().unwrap();
    assert!(wait_until(|| point.join("f1").exists()));
    let mounts = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let is_server = |path: &PathBuf| {
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&line).replace('\0', " ");
        text.starts_with("imgmount mount") && text.contains(point.to_str().unwrap())
    };
    let server_dir = mounts.into_iter().find(is_server).expect("the server");
    let limits = fs::read_to_string(server_dir.join("limits")).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["500", "500"]);
    assert!(unmount(&point, false));
    server.wait().unwrap();
}

/// Writes an image of one zstd layer, which needs a seekable copy of about 12 MB.
fn with_copy(imgmount: &Imgmount) -> PathBuf {
    let layer = [file("large", patterned(24 << 20, 5)), file("small", b"the end")];
    let image = Image::named("a:1").layer_as("COPY", &layer, "", Compression::Zstd);
    imgmount.write("image.tar", &tar(&docker_legacy(&[image])))
}

fn stored(imgmount: &Imgmount, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(imgmount.cache()).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|found| found == ending))
        .collect()
}

#[test]
fn an_index_whose_copy_could_not_be_written_is_not_stored_and_both_are_written_later() {
    // The index was stored without its copy, which was then never made: every read was slow for ever.
    let imgmount = Imgmount::new();
    let image = with_copy(&imgmount);
    // The limit stands for a full disk: the index fits, the copy does not.
    let first = limited(&imgmount, "ulimit -f 4000", "cat image.tar:/small").expect(0);
    assert_eq!(first.text(), "the end");
    let first = first
        .says("no seekable copy, reads will be slower: cannot write the seekable copy")
        .says("File too large");
    assert!(!first.stderr.contains("damaged"), "{}", first.stderr);
    assert_eq!((stored(&imgmount, "idx").len(), stored(&imgmount, "copy").len()), (0, 0));
    let later = imgmount.run(&["cat".as_ref(), inside(&image, "/small").as_os_str()]).expect(0);
    assert_eq!((later.text(), later.stderr.as_str()), ("the end", ""));
    assert_eq!((stored(&imgmount, "idx").len(), stored(&imgmount, "copy").len()), (1, 1));
}

#[test]
fn a_file_that_may_not_grow_is_an_error_and_no_signal() {
    // SIGXFSZ ended the program, with a core file.
    let imgmount = Imgmount::new();
    with_copy(&imgmount);
    for args in ["export image.tar -o out.tar --no-cache", "extract image.tar out --no-cache"] {
        limited(&imgmount, "ulimit -f 4000", args).expect(2).says("File too large");
    }
    assert!(!imgmount.dir().join("out.tar").exists());
}

#[test]
fn too_little_memory_is_an_error_and_no_signal() {
    // A failed allocation ended the program by SIGABRT.
    let imgmount = Imgmount::new();
    with_copy(&imgmount);
    let layer = [file("large", patterned(24 << 20, 9))];
    let image = Image::named("a:1").layer_as("COPY", &layer, "", Compression::Gzip(1));
    imgmount.write("gzip.tar", &tar(&docker_legacy(&[image])));
    let mut refused = 0;
    for kib in [40_000, 60_000, 80_000, 100_000, 120_000, 160_000, 240_000, 400_000] {
        for args in [
            "ls --no-cache image.tar",
            "export --no-cache gzip.tar -o /dev/null",
            "export image.tar -o /dev/null",
        ] {
            let ended = limited(&imgmount, &format!("ulimit -v {kib}"), args);
            let about = format!("{kib} KiB, {args}: {}", ended.stderr);
            if ended.code == 0 {
                continue;
            }
            assert_eq!(ended.code, 2, "{about}");
            let causes = ["not enough memory", "out of memory", "annot allocate memory", "start a thread"];
            assert!(causes.iter().any(|cause| ended.stderr.contains(cause)), "{about}");
            assert!(!ended.stderr.contains("damaged"), "{about}");
            refused += 1;
        }
    }
    assert_ne!(refused, 0, "the limits are too high to test anything");
    limited(&imgmount, "ulimit -v 2000000", "export image.tar -o /dev/null").expect(0);
}

/// Replaces the contents of a file of the same length, and sets its time of modification back.
fn rewrite(path: &Path, content: &[u8]) {
    let before = fs::metadata(path).unwrap();
    assert_eq!(before.len(), content.len() as u64);
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(content).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
}

#[test]
fn a_compressed_archive_that_is_rewritten_with_its_size_and_time_is_read_anew() {
    // Its index was found by these properties, did not match, and kept the archive unreadable.
    let imgmount = Imgmount::new();
    let archive = |content: &[u8]| {
        let image = Image::named("a:1").layer_as("COPY", &[file("f", content)], "", Compression::Gzip(1));
        Compression::Gzip(0).compress(&tar(&docker_legacy(&[image])))
    };
    let (old, new) = (archive(b"old content"), archive(b"new content"));
    let path = imgmount.write("image.tar.gz", &old);
    let shows = |content: &str| {
        let read = imgmount.run(&["cat".as_ref(), inside(&path, "/f").as_os_str()]).expect(0);
        assert_eq!((read.text(), read.stderr.as_str()), (content, ""));
    };
    shows("old content");
    rewrite(&path, &new);
    shows("new content");
}
