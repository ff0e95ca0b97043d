//! Tests `rootfs:`: flat tars as tools write them, and directories, against the files they were made of.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::engines::{succeed, unpack};
use crate::fixture::{Image, dir, docker_legacy, file, patterned, sample_tree, tar};
use crate::mounted::{Imgmount, Need, have, inside, run, wait_until};
use crate::tree::{Field, Snapshot};

/// Writes the sample as files, and returns the directory. GNU tar cannot unpack the sparse file of the sample
/// as it is, but can unpack an export.
fn sample_files(imgmount: &Imgmount) -> PathBuf {
    let image = Image::named("a:1").layer("ADD", &sample_tree());
    imgmount.write("image.tar", &tar(&docker_legacy(&[image])));
    let exported = imgmount.run(&["export", "--sparse", "image.tar"]).expect(0).stdout;
    let files = imgmount.dir().join("files");
    unpack(&imgmount.write("exported.tar", &exported), &files);
    files
}

/// Packs a directory with GNU tar.
fn pack(from: &Path, to: &Path, options: &[&str]) {
    let mut command = Command::new("tar");
    command.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "--format=posix"]).args(options);
    succeed(command.arg("-C").arg(from).arg("-cf").arg(to).arg("."));
}

/// The root of an image without other layers has mode 0755 and owner 0:0.
fn comparable(tree: &Path) -> Snapshot {
    Snapshot::of(tree).without(Field::Root)
}

fn rootfs(path: &Path) -> String {
    format!("rootfs:{}", path.display())
}

#[test]
fn f47_a_flat_tar_of_any_compression_is_an_image() {
    let tools = ["tar", "gzip", "xz", "zstd", "bzip2"].map(Need::Program);
    if !have(&[&[Need::Fuse, Need::Root], &tools[..]].concat()) {
        return;
    }
    let imgmount = Imgmount::new();
    let files = sample_files(&imgmount);
    let forms: [(&str, &[&str]); 6] = [
        ("rootfs.tar", &[]),
        ("rootfs.tar.gz", &["--gzip"]),
        ("rootfs.tar.xz", &["--xz"]),
        ("rootfs.tar.zst", &["--zstd"]),
        ("rootfs.tbz", &["--bzip2"]),
        ("sparse", &["--sparse"]),
    ];
    for (name, options) in forms {
        let path = imgmount.dir().join(name);
        pack(&files, &path, options);
        let mounted = imgmount.mount(rootfs(&path), &[]);
        comparable(&files).assert_shown_by(&comparable(mounted.path()), name);
        assert_eq!(mounted.run.stderr, "", "{name}");
    }
}

#[test]
fn f47_a_tar_on_standard_input_is_an_image() {
    let imgmount = Imgmount::new();
    let path = imgmount.write("rootfs.tar", &tar(&[dir("etc"), file("etc/passwd", b"root")]));
    let mut command = imgmount.command(&["cat", "rootfs:-:/etc/passwd"]);
    assert_eq!(run(command.stdin(File::open(path).unwrap())).expect(0).text(), "root");
}

#[test]
fn f47_a_directory_is_an_image() {
    if !have(&[Need::Fuse, Need::Root, Need::Program("tar")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let files = sample_files(&imgmount);
    for turn in ["first", "second"] {
        let mounted = imgmount.mount(rootfs(&files), &[]);
        comparable(&files).assert_shown_by(&comparable(mounted.path()), turn);
    }
    fs::write(files.join("new"), b"new").unwrap();
    fs::set_permissions(files.join("new"), fs::Permissions::from_mode(0o4711)).unwrap();
    let mounted = imgmount.mount(rootfs(&files), &[]);
    comparable(&files).assert_shown_by(&comparable(mounted.path()), "changed");
}

#[test]
fn f47_an_ordinary_user_mounts_a_directory() {
    if !have(&[Need::FuseForUsers]) {
        return;
    }
    let imgmount = Imgmount::as_ordinary_user();
    succeed(&mut imgmount.shell("mkdir -p files/d; echo a >files/d/a; ln files/d/a files/b; mkfifo files/p"));
    let files = imgmount.dir().join("files");
    let run = run(&mut imgmount.command(&["export", &rootfs(&files)])).expect(0);
    let exported = imgmount.write("exported.tar", &run.stdout);
    let listed = succeed(Command::new("tar").arg("-tf").arg(&exported));
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["./", "b", "d/", "d/a", "p"]);

    succeed(&mut imgmount.shell("mkdir -m 0 files/locked"));
    let refused = imgmount.run(&["ls", &rootfs(&files)]).expect(2);
    let expected =
        format!("imgmount: cannot open 'locked' in '{}': Permission denied (os error 13)\n", files.display());
    assert_eq!(refused.stderr, expected);
}

#[test]
fn f47_a_bare_path_is_an_error_that_names_the_transport() {
    let imgmount = Imgmount::new();
    let flat = tar(&[dir("etc"), file("etc/passwd", b"root")]);
    imgmount.write("flat.tar", &flat);
    imgmount.write("text", b"not a tar");
    fs::create_dir_all(imgmount.dir().join("files/etc")).unwrap();
    let refused = |path: &str| imgmount.run(&["ls", path]).expect(2).stderr;
    for path in ["flat.tar", "files"] {
        let expected = format!(
            "imgmount: '{path}': not a container image: found neither 'oci-layout' with 'index.json' nor \
             'manifest.json', and no store of an engine\nhint: if it is a root file system, use rootfs:{path}\n"
        );
        assert_eq!(refused(path), expected);
    }
    assert!(!refused("text").contains("hint"));
    for (path, reason) in [
        (
            "rootfs:text",
            "imgmount: 'text': not a container image: neither a directory nor a tar, plain or compressed\n",
        ),
        (
            "rootfs:/dev/null",
            "imgmount: '/dev/null': not a container image: neither a file nor a directory\n",
        ),
        ("rootfs:none", "imgmount: cannot open 'none': No such file or directory (os error 2)\n"),
    ] {
        assert_eq!(refused(path), reason);
    }
}

#[test]
fn f47_an_image_is_shown_as_files_when_asked_for() {
    let imgmount = Imgmount::new();
    let archive = docker_legacy(&[Image::named("a:1").layer("ADD", &[file("f", b"1")])]);
    imgmount.write("image.tar", &tar(&archive));
    let listed = imgmount.run(&["ls", "rootfs:image.tar"]).expect(0);
    assert!(listed.lines().contains(&"manifest.json"), "{:?}", listed.lines());
}

#[test]
fn f47_a_root_file_system_states_nothing_about_itself() {
    let imgmount = Imgmount::new();
    imgmount.write("flat.tar", &tar(&[file("f", b"1")]));
    let inspected = imgmount.run(&["inspect", "--json", "rootfs:flat.tar"]).expect(0);
    let image: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    let field = |name: &str| image.get(name).unwrap_or(&serde_json::Value::Null).clone();
    assert_eq!(field("format"), "rootfs");
    assert_eq!(field("platform"), serde_json::Value::Null);
    assert_eq!(field("names"), serde_json::json!([]));
    let verified = imgmount.run(&["verify", "rootfs:flat.tar"]).expect(0);
    assert!(verified.text().contains("unchecked  layer 0"), "{}", verified.text());
    let selected = imgmount.run(&["ls", "rootfs:flat.tar:name"]).expect(2);
    assert!(selected.stderr.contains("holds no image 'name'"), "{}", selected.stderr);
    imgmount.run(&["ls", "rootfs:flat.tar@0"]).expect(0);
}

#[test]
fn f47_a_root_file_system_has_no_documents() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    imgmount.write("flat.tar", &tar(&[file("f", b"1")]));
    let mounted = imgmount.mount("rootfs:flat.tar", &["--view", "all"]);
    assert_eq!(fs::read_dir(mounted.path().join("image")).unwrap().count(), 0);
    assert_eq!(fs::read(mounted.path().join("rootfs/f")).unwrap(), b"1");
    assert_eq!(fs::read(mounted.path().join("states/00/f")).unwrap(), b"1");
}

#[test]
fn f44_sockets_and_names_of_marks_are_left_out_with_a_warning() {
    let imgmount = Imgmount::new();
    let files = imgmount.dir().join("files");
    fs::create_dir_all(files.join("run")).unwrap();
    for name in ["a", "b"] {
        drop(UnixListener::bind(files.join("run").join(name)).unwrap());
    }
    fs::write(files.join(".wh.etc"), b"").unwrap();
    fs::create_dir(files.join("etc")).unwrap();
    let listed = imgmount.run(&["ls", "-R", &rootfs(&files)]).expect(0);
    assert_eq!(listed.lines(), ["/etc", "/run"]);
    let warned = format!("'{}': sockets are left out: 2 in total, the first is 'run/a'", files.display());
    assert!(listed.stderr.contains(&warned), "{}", listed.stderr);
    assert!(listed.stderr.contains("1 in total, the first is '.wh.etc'"), "{}", listed.stderr);
}

#[test]
fn f44_x1_no_link_is_followed_and_no_pipe_is_opened() {
    let imgmount = Imgmount::new();
    let files = imgmount.dir().join("files");
    fs::create_dir_all(files.join("d")).unwrap();
    fs::create_dir_all(imgmount.dir().join("outside")).unwrap();
    fs::write(imgmount.dir().join("outside/secret"), b"secret").unwrap();
    symlink("../outside", files.join("up")).unwrap();
    symlink(imgmount.dir().join("outside"), files.join("absolute")).unwrap();
    symlink(imgmount.dir().join("outside/secret"), files.join("d/secret")).unwrap();
    symlink(".", files.join("d/round")).unwrap();
    mknodat(CWD, files.join("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let listed = imgmount.run(&["ls", "-R", &rootfs(&files)]).expect(0);
    assert_eq!(listed.lines(), ["/absolute", "/d", "/d/round", "/d/secret", "/pipe", "/up"]);
    imgmount.run(&["cat", &format!("{}:/up/secret", rootfs(&files))]).expect(2);
}

#[test]
fn f44_long_names_deep_directories_and_many_files() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let files = imgmount.dir().join("files");
    let deep: PathBuf = std::iter::repeat_n("d".repeat(200), 17).collect();
    fs::create_dir_all(files.join(&deep)).unwrap();
    fs::write(files.join(&deep).join("n".repeat(255)), b"deep").unwrap();
    fs::create_dir_all(files.join("levels").join(std::iter::repeat_n("l", 500).collect::<PathBuf>()))
        .unwrap();
    fs::create_dir(files.join("many")).unwrap();
    for number in 0..3000 {
        fs::write(files.join(format!("many/{number}")), number.to_string()).unwrap();
    }
    let mounted = imgmount.mount(rootfs(&files), &[]);
    let tree = |path: &Path| comparable(path).without(Field::DirectoryLinks);
    tree(&files).assert_shown_by(&tree(mounted.path()), "extremes");
}

#[test]
fn f44_a_file_that_changes_while_it_is_mounted_is_eio_and_named() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let files = imgmount.dir().join("files");
    fs::create_dir(&files).unwrap();
    let content = patterned(6 << 20, 1);
    for name in ["appended", "gone", "kept", "replaced"] {
        fs::write(files.join(name), &content).unwrap();
    }
    let mounted = imgmount.mount_in_foreground(rootfs(&files), &["--cache-size", "1M"]);
    File::options().append(true).open(files.join("appended")).unwrap().write_at(b"more", 6 << 20).unwrap();
    fs::remove_file(files.join("gone")).unwrap();
    fs::remove_file(files.join("replaced")).unwrap();
    fs::write(files.join("replaced"), &content).unwrap();

    let read = |name: &str, offset: u64| {
        let mut bytes = vec![0; 4096];
        File::open(mounted.path().join(name)).unwrap().read_exact_at(&mut bytes, offset).map(|()| bytes)
    };
    for name in ["appended", "gone", "replaced"] {
        let error = read(name, 3 << 20).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{name}");
        let says = |log: &str| log.contains(&format!("'{name}' in '{}'", files.display()));
        let log = || fs::read_to_string(imgmount.dir().join("server.log")).unwrap();
        assert!(wait_until(|| says(&log())), "{name}: {}", log());
    }
    assert_eq!(read("kept", 3 << 20).unwrap(), content[3 << 20..][..4096]);
    let mut whole = Vec::new();
    File::open(mounted.path().join("kept")).unwrap().take(5 << 20).read_to_end(&mut whole).unwrap();
    assert!(whole.len() == 5 << 20);
}

/// Once, a container that appended to a log could not be opened at all.
#[test]
fn f44_a_file_that_changes_all_the_time_hides_no_other() {
    let imgmount = Imgmount::new();
    let files = imgmount.dir().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("kept"), patterned(1 << 20, 1)).unwrap();
    fs::write(files.join("log"), b"").unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = File::options().append(true).open(files.join("log")).unwrap();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                std::io::Write::write_all(&mut log, b"line\n").unwrap();
                std::thread::yield_now();
            }
        });
        let kept = imgmount.run(&["cat", &format!("{}:/kept", rootfs(&files))]);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(kept.expect(0).stdout == patterned(1 << 20, 1));
    });
}

#[test]
fn f47_the_paths_inside_are_those_of_the_files() {
    let imgmount = Imgmount::new();
    imgmount.write("flat.tar", &tar(&[dir("etc"), file("etc/passwd", b"root")]));
    let reference = PathBuf::from("rootfs:flat.tar");
    assert_eq!(
        imgmount.run(&[std::ffi::OsStr::new("cat"), &inside(&reference, "/etc/passwd")]).expect(0).text(),
        "root"
    );
}
