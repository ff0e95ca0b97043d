//! Tests `extract` and `cp` to a directory: what they create, what they never touch, and what an
//! interruption leaves.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink as link_on_disk};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::fixture::{
    Compression, Image, Item, char_device, dir, docker_legacy, fifo, file, hardlink, oci, patterned,
    sample_tree, sparse, symlink, tar, whiteout,
};
use crate::mounted::{Imgmount, Need, Run, have, inside, is_root, run, wait, wait_until};
use crate::tree::{Field, Snapshot};

/// Prefix of the names of unfinished files.
const TEMPORARY: &str = ".imgmount-";

fn sample(imgmount: &Imgmount) -> PathBuf {
    imgmount.write("image.tar", &tar(&oci(&[Image::sample("", Compression::Gzip(6))])))
}

fn image_of(imgmount: &Imgmount, items: &[Item]) -> PathBuf {
    imgmount.write("image.tar", &tar(&docker_legacy(&[Image::named("a:1").layer("ADD", items)])))
}

fn extract(imgmount: &Imgmount, options: &[&str], image: &Path, into: &Path) -> Run {
    run(imgmount.command(&["extract"]).args(options).arg(image).arg(into))
}

fn cp(imgmount: &Imgmount, options: &[&str], source: OsString, dest: &str) -> Run {
    run(imgmount.command(&["cp"]).args(options).arg(source).arg(dest))
}

/// Returns every path below `dir`, sorted; directories end with a slash.
fn paths(dir: &Path) -> Vec<String> {
    fn add(dir: &Path, prefix: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                add(&entry.path(), &format!("{name}/"), found);
                found.push(format!("{name}/"));
            } else {
                found.push(name);
            }
        }
    }
    let mut found = Vec::new();
    add(dir, "", &mut found);
    found.sort();
    found
}

#[test]
fn root_extracts_the_tree_that_a_container_sees() {
    if !have(&[Need::Root]) {
        return;
    }
    let imgmount = Imgmount::new();
    let into = imgmount.dir().join("a/new/directory");
    assert_eq!(extract(&imgmount, &[], &sample(&imgmount), &into).expect(0).stderr, "");
    let links = Field::DirectoryLinks;
    Snapshot::described(&sample_tree())
        .without(links)
        .assert_shown_by(&Snapshot::of(&into).without(links), "the extracted tree");
}

#[test]
fn an_extracted_tree_equals_the_mounted_one() {
    if !have(&[Need::Root, Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let (image, into) = (sample(&imgmount), imgmount.dir().join("extracted"));
    extract(&imgmount, &["-a"], &image, &into).expect(0);
    let mounted = imgmount.mount(image, &[]);
    let links = Field::DirectoryLinks;
    Snapshot::of(mounted.path())
        .without(links)
        .assert_shown_by(&Snapshot::of(&into).without(links), "the extracted tree");
}

#[test]
fn an_ordinary_user_gets_the_tree_without_what_only_root_can_keep_and_is_told_once() {
    if !have(&[Need::Root]) {
        return;
    }
    let imgmount = Imgmount::as_ordinary_user();
    let (image, into) = (sample(&imgmount), imgmount.dir().join("extracted"));
    let said = extract(&imgmount, &[], &image, &into).expect(0).stderr;
    let owner = fs::metadata(&into).unwrap().uid();
    let mut kept = sample_tree();
    kept.retain(|item| !item.name.starts_with(b"dev/") || item.name == b"dev/pipe");
    for item in &mut kept {
        (item.uid, item.gid) = (owner.into(), owner.into());
        item.mode &= 0o1777;
        item.xattrs.clear();
    }
    // All objects of the sample except its two devices belong to other users.
    assert_eq!(
        said,
        format!(
            "imgmount: warn: not kept: owners ({}), setuid or setgid bits (1), extended attributes (1), devices (2)\n",
            kept.len()
        )
    );
    // The items do not describe the root.
    let fields = [Field::DirectoryLinks, Field::Root];
    let comparable = |tree: Snapshot| fields.iter().fold(tree, |tree, field| tree.without(*field));
    comparable(Snapshot::described(&kept)).assert_shown_by(&comparable(Snapshot::of(&into)), "as a user");
}

#[test]
fn what_an_ordinary_user_asks_for_with_a_and_cannot_have_is_a_failure() {
    if !have(&[Need::Root]) {
        return;
    }
    let imgmount = Imgmount::as_ordinary_user();
    let image = image_of(&imgmount, &[file("f", b"1").xattr("user.kept", b"yes")]);
    let into = imgmount.dir().join("extracted");
    extract(&imgmount, &["-a"], &image, &into).expect(2).says("not kept: owners (2)\n");
    let mut value = [0; 8];
    let len = rustix::fs::getxattr(into.join("f"), "user.kept", &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"yes");
}

#[test]
fn an_ordinary_user_fills_directories_that_end_up_closed() {
    if !have(&[Need::Root]) {
        return;
    }
    let imgmount = Imgmount::as_ordinary_user();
    let items = [
        dir("d").mode(0o500),
        dir("d/e").mode(0),
        file("d/e/f", b"deep").mode(0),
        file("d/g", b"").mode(0o400),
    ];
    let image = image_of(&imgmount, &items);
    let into = imgmount.dir().join("extracted");
    for options in [&[][..], &["--force"]] {
        extract(&imgmount, options, &image, &into).expect(0);
        assert_eq!(paths(&into), ["d/", "d/e/", "d/e/f", "d/g"], "{options:?}");
        assert_eq!(fs::metadata(into.join("d/e")).unwrap().mode() & 0o7777, 0);
        assert_eq!(fs::read(into.join("d/e/f")).unwrap(), b"deep");
    }
}

#[test]
fn names_of_one_file_share_its_inode_and_holes_stay_holes() {
    let imgmount = Imgmount::new();
    let len: u64 = 64 << 20;
    let items = [
        file("z", b"shared"),
        hardlink("a", "z"),
        dir("d"),
        hardlink("d/z", "z"),
        sparse("sparse", len, &[(32 << 20, b"middle")]),
        sparse("hole", len, &[]),
    ];
    let image = image_of(&imgmount, &items);
    let into = imgmount.dir().join("extracted");
    extract(&imgmount, &[], &image, &into).expect(0);
    let meta = |name: &str| fs::metadata(into.join(name)).unwrap();
    assert_eq!([meta("a").ino(), meta("d/z").ino()], [meta("z").ino(); 2]);
    assert_eq!(meta("z").nlink(), 3);
    assert_eq!([meta("sparse").len(), meta("hole").len()], [len; 2]);
    assert_eq!(meta("hole").blocks(), 0);
    // 6 bytes take one block of the file system, and blocks are not larger than 64 KiB.
    assert!(meta("sparse").blocks() <= 128, "{} blocks", meta("sparse").blocks());
    assert_eq!(fs::read(into.join("sparse")).unwrap()[32 << 20..][..7], *b"middle\0");
}

#[test]
fn only_the_final_tree_is_written_or_the_layers_that_were_asked_for() {
    let imgmount = Imgmount::new();
    let image = Image::named("a:1")
        .layer("ADD", &[file("gone", b"1"), file("kept", b"1")])
        .layer("RUN", &[whiteout("gone"), file("new", b"2")]);
    let image = imgmount.write("image.tar", &tar(&docker_legacy(&[image])));
    for (options, expected) in [
        (&[][..], ["kept", "new"]),
        (&["--upto", "0"], ["gone", "kept"]),
        (&["--layer", "0"], ["gone", "kept"]),
    ] {
        let into = imgmount.mount_point();
        extract(&imgmount, options, &image, &into).expect(0);
        assert_eq!(paths(&into), expected, "{options:?}");
    }
    let into = imgmount.mount_point();
    extract(&imgmount, &["--layer", "1"], &image, &into).expect(0);
    assert_eq!(paths(&into), ["new"]);
}

#[test]
fn a_target_that_is_not_empty_is_refused_and_stays_as_it_is() {
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let into = imgmount.mount_point();
    fs::write(into.join("mine"), b"mine").unwrap();
    let said = extract(&imgmount, &[], &image, &into).expect(2).stderr;
    assert_eq!(
        said,
        format!(
            "imgmount: cannot extract into '{}': not empty\n\
            hint: use --force to extract anyway and replace existing files\n",
            into.display()
        )
    );
    assert_eq!(paths(&into), ["mine"]);
    extract(&imgmount, &[], &image, &into.join("mine")).expect(2).says("mine");
}

#[test]
fn x1_force_replaces_what_is_in_the_way_and_follows_no_link() {
    let imgmount = Imgmount::new();
    let items = [
        dir("d"),
        file("d/f", b"image"),
        file("file", b"image"),
        hardlink("second", "file"),
        dir("merged"),
        file("merged/new", b"image"),
        symlink("link", "d"),
        file("was-dir", b"image"),
        fifo("pipe"),
    ];
    let image = image_of(&imgmount, &items);
    let (into, outside) = (imgmount.mount_point(), imgmount.mount_point());
    fs::write(outside.join("victim"), b"victim").unwrap();
    fs::create_dir(outside.join("merged")).unwrap();
    // The target contains traps: links to a directory, to a file and to nothing, and a hard link.
    link_on_disk(&outside, into.join("d")).unwrap();
    link_on_disk(outside.join("victim"), into.join("file")).unwrap();
    link_on_disk(outside.join("made"), into.join("second")).unwrap();
    link_on_disk(outside.join("merged"), into.join("link")).unwrap();
    fs::hard_link(outside.join("victim"), into.join("pipe")).unwrap();
    fs::create_dir_all(into.join("was-dir/deep")).unwrap();
    link_on_disk(&outside, into.join("was-dir/deep/out")).unwrap();
    fs::create_dir(into.join("merged")).unwrap();
    fs::write(into.join("merged/mine"), b"mine").unwrap();

    extract(&imgmount, &["--force"], &image, &into).expect(0);

    assert_eq!(paths(&outside), ["merged/", "victim"]);
    assert_eq!(fs::read(outside.join("victim")).unwrap(), b"victim");
    let made =
        ["d/", "d/f", "file", "link", "merged/", "merged/mine", "merged/new", "pipe", "second", "was-dir"];
    assert_eq!(paths(&into), made);
    assert!(fs::symlink_metadata(into.join("d")).unwrap().is_dir());
    assert!(fs::symlink_metadata(into.join("file")).unwrap().is_file());
    assert_eq!(fs::read_link(into.join("link")).unwrap(), Path::new("d"));
}

#[test]
fn x1_hostile_names_and_links_of_an_image_stay_in_the_target() {
    let imgmount = Imgmount::new();
    let outside = imgmount.mount_point();
    let out = outside.to_str().unwrap();
    let image = Image::named("a:1")
        .layer("ADD", &[symlink("up", "../.."), symlink("abs", out), file("../../climbed", b"1")])
        .layer(
            "ADD",
            &[file("abs/through", b"2"), hardlink("hard", "../../../etc/passwd"), file("up/up", b"3")],
        );
    let image = imgmount.write("image.tar", &tar(&docker_legacy(&[image])));
    let into = imgmount.dir().join("deep/target");
    extract(&imgmount, &[], &image, &into).expect(0);
    assert_eq!(paths(&into), ["abs/", "abs/through", "climbed", "up/", "up/up"]);
    assert_eq!(paths(&outside), [""; 0]);
    assert_eq!(paths(&imgmount.dir().join("deep")).len(), 6);
}

#[test]
fn what_cannot_be_made_is_told_and_the_rest_is_made() {
    let imgmount = Imgmount::new();
    let image = image_of(&imgmount, &[file("a", b"1"), dir("d"), file("d/in\x1b", b"2"), file("z", b"3")]);
    let into = imgmount.mount_point();
    fs::write(into.join("d"), b"in the way of a directory").unwrap();
    // cp merges directories, and a directory never replaces a file.
    let said = cp(&imgmount, &[], inside(&image, "/."), into.to_str().unwrap()).expect(2).stderr;
    assert_eq!(said, "imgmount: 'd': cannot create the directory: Not a directory (os error 20)\n");
    assert_eq!(paths(&into), ["a", "d", "z"]);
}

#[test]
fn a_changed_image_fails_by_file_and_leaves_no_half_of_one() {
    let imgmount = Imgmount::new();
    let large = patterned(3 << 20, 1);
    let image = image_of(&imgmount, &[file("a", b"1"), file("large", &large)]);
    imgmount.run(&["ls", "image.tar"]).expect(0);
    let mut bytes = fs::read(&image).unwrap();
    let at = bytes.windows(64).position(|window| window == &large[2 << 20..][..64]).unwrap();
    bytes[at] ^= 1;
    fs::write(&image, bytes).unwrap();
    let into = imgmount.dir().join("extracted");
    let said = extract(&imgmount, &[], &image, &into).expect(2).stderr;
    assert!(said.starts_with("imgmount: 'large': ") && said.lines().count() == 1, "{said}");
    assert_eq!(paths(&into), ["a"]);
}

/// Starts an extraction that takes a while. Returns when it is in the middle of its work.
fn in_the_middle(imgmount: &Imgmount) -> (PathBuf, std::process::Child, Vec<u8>) {
    let content = patterned(400 << 10, 7);
    let items: Vec<_> = (0..600).map(|at| file(format!("f{at:03}"), &content)).collect();
    let image = image_of(imgmount, &items);
    imgmount.run(&["ls", "image.tar"]).expect(0);
    let into = imgmount.mount_point();
    let mut command = imgmount.command(&["extract"]);
    let child = command.arg(&image).arg(&into).stderr(Stdio::null()).spawn().unwrap();
    let begun =
        || fs::read_dir(&into).unwrap().flatten().any(|e| e.file_name().as_encoded_bytes()[0] == b'f');
    assert!(wait_until(begun));
    (into, child, content)
}

/// Asserts that every file with its final name is complete. Returns the number of temporary names.
fn assert_whole(into: &Path, content: &[u8]) -> usize {
    let found = paths(into);
    let (temporary, whole): (Vec<_>, Vec<_>) = found.iter().partition(|name| name.starts_with(TEMPORARY));
    for name in &whole {
        assert!(fs::read(into.join(name)).unwrap() == content, "{name} is not whole");
        assert_eq!(fs::metadata(into.join(name)).unwrap().mtime(), 1_700_000_000, "{name}");
    }
    assert!(!whole.is_empty() && whole.len() < 600, "{} files: not in the middle", whole.len());
    temporary.len()
}

#[test]
fn killed_in_the_middle_it_leaves_nothing_half_written_under_a_final_name() {
    let imgmount = Imgmount::new();
    let (into, mut child, content) = in_the_middle(&imgmount);
    child.kill().unwrap();
    wait(&mut child).unwrap();
    let temporary = assert_whole(&into, &content);
    assert!(temporary <= 8, "{temporary} temporary names");
}

#[test]
fn interrupted_it_cleans_up_and_ends_by_the_signal() {
    use std::os::unix::process::ExitStatusExt as _;
    let imgmount = Imgmount::new();
    let (into, mut child, content) = in_the_middle(&imgmount);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(wait(&mut child).unwrap().signal(), Some(Signal::INT.as_raw()));
    assert_eq!(assert_whole(&into, &content), 0, "temporary names");
}

#[test]
fn set_id_bits_are_set_only_for_the_owner_they_are_meant_for() {
    if !have(&[Need::Root]) {
        return;
    }
    let imgmount = Imgmount::new();
    let items = [
        file("roots", b"").mode(0o4755),
        file("others", b"").mode(0o4755).owner(1234, 0),
        dir("bin").mode(0o2755),
    ];
    let image = image_of(&imgmount, &items);
    let modes = |into: &Path| {
        ["roots", "others", "bin"].map(|name| fs::metadata(into.join(name)).unwrap().mode() & 0o7777)
    };
    let into = imgmount.mount_point();
    cp(&imgmount, &[], inside(&image, "/."), into.to_str().unwrap())
        .expect(0)
        .says("not kept: setuid or setgid bits (1)");
    assert_eq!(modes(&into), [0o4755, 0o755, 0o2755]);
    let into = imgmount.mount_point();
    cp(&imgmount, &["-a"], inside(&image, "/."), into.to_str().unwrap()).expect(0);
    assert_eq!(modes(&into), [0o4755, 0o4755, 0o2755]);
    assert_eq!(fs::metadata(into.join("others")).unwrap().uid(), 1234);
}

/// Source, options, DEST, and the new paths below the working directory afterwards; `None` if cp fails.
type CpRow = (&'static str, &'static [&'static str], &'static str, Option<&'static [&'static str]>);

/// The rules of <https://docs.docker.com/reference/cli/docker/container/cp/>, one row each.
#[test]
fn cp_follows_the_rules_of_docker_cp() {
    let items = [
        dir("src"),
        file("src/f", b"image"),
        dir("src/sub"),
        file("src/sub/g", b"image"),
        symlink("to-src", "src"),
        symlink("to-f", "src/f"),
    ];
    let there = ["dir/", "dir/mine", "file"];
    let rows: [CpRow; 17] = [
        ("/src/f", &[], "new", Some(&["new"])),
        ("/src/f", &[], "new/", None),
        ("/src/f", &[], "file", Some(&[])),
        ("/src/f", &[], "file/", None),
        ("/src/f", &[], "dir", Some(&["dir/f"])),
        ("/src/f", &[], "dir/new", Some(&["dir/new"])),
        ("/src/f", &[], "absent/new", None),
        ("/src", &[], "new", Some(&["new/", "new/f", "new/sub/", "new/sub/g"])),
        ("/src", &[], "file", None),
        ("/src", &[], "dir", Some(&["dir/src/", "dir/src/f", "dir/src/sub/", "dir/src/sub/g"])),
        ("/src/.", &[], "new", Some(&["new/", "new/f", "new/sub/", "new/sub/g"])),
        ("/src/.", &[], "dir", Some(&["dir/f", "dir/sub/", "dir/sub/g"])),
        ("/src/sub/..", &[], "dir", Some(&["dir/src/", "dir/src/f", "dir/src/sub/", "dir/src/sub/g"])),
        ("/to-src", &[], "dir", Some(&["dir/to-src"])),
        (
            "/to-src",
            &["-L"],
            "dir/",
            Some(&["dir/to-src/", "dir/to-src/f", "dir/to-src/sub/", "dir/to-src/sub/g"]),
        ),
        ("/to-f", &["-L"], "new", Some(&["new"])),
        ("/absent", &[], "new", None),
    ];
    for (source, options, dest, expected) in rows {
        let imgmount = Imgmount::new();
        let image = image_of(&imgmount, &items);
        let work = imgmount.mount_point();
        fs::create_dir(work.join("dir")).unwrap();
        fs::write(work.join("dir/mine"), b"mine").unwrap();
        fs::write(work.join("file"), b"mine").unwrap();
        let mut command = imgmount.command(&["cp"]);
        command.args(options).arg(inside(&image, source)).arg(dest).current_dir(&work);
        let code = if expected.is_some() { 0 } else { 2 };
        let said = run(&mut command);
        assert_eq!(said.code, code, "{source} {options:?} {dest}: {}", said.stderr);
        let mut all: Vec<_> = there.iter().chain(expected.unwrap_or_default()).copied().collect();
        all.sort_unstable();
        assert_eq!(paths(&work), all, "{source} {options:?} {dest}");
        let replaced = dest == "file" && expected.is_some();
        assert_eq!(
            fs::read(work.join("file")).unwrap(),
            if replaced { b"image".as_slice() } else { b"mine" }
        );
    }
}

#[test]
fn cp_follows_a_link_that_is_named_and_replaces_nothing_but_files() {
    let imgmount = Imgmount::new();
    let image = image_of(&imgmount, &[file("f", b"new")]);
    let at = |name: &str| imgmount.dir().join(name);
    fs::write(at("target"), b"old").unwrap();
    std::os::unix::fs::symlink("target", at("link")).unwrap();
    cp(&imgmount, &[], inside(&image, "/f"), "link").expect(0);
    assert_eq!(fs::read(at("target")).unwrap(), b"new");
    assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());

    rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RWXU).unwrap();
    std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
    std::os::unix::fs::symlink("pipe", at("to-pipe")).unwrap();
    for (dest, why) in [
        ("pipe", "not a regular file or directory"),
        ("to-pipe", "not a regular file or directory"),
        ("dangling", "cannot follow the link"),
    ] {
        cp(&imgmount, &[], inside(&image, "/f"), dest).expect(2).says(why);
    }
    let kind = fs::symlink_metadata(at("pipe")).unwrap().file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&kind), "{kind:?}");
}

#[test]
fn cp_merges_directories_and_never_mixes_types() {
    let imgmount = Imgmount::new();
    let image = image_of(&imgmount, &[dir("a"), file("a/f", b"image"), dir("b"), file("c", b"image")]);
    let into = imgmount.mount_point();
    fs::create_dir_all(into.join("a")).unwrap();
    fs::write(into.join("a/mine"), b"mine").unwrap();
    fs::create_dir_all(into.join("c/deep")).unwrap();
    fs::set_permissions(&into, fs::Permissions::from_mode(0o701)).unwrap();
    let said = cp(&imgmount, &[], inside(&image, "/."), into.to_str().unwrap()).expect(2).stderr;
    assert_eq!(said, "imgmount: 'c': cannot replace the existing file: Is a directory (os error 21)\n");
    assert_eq!(paths(&into), ["a/", "a/f", "a/mine", "b/", "c/", "c/deep/"]);
    assert_eq!(fs::metadata(&into).unwrap().mode() & 0o7777, 0o701, "the user's own directory");
}

#[test]
fn cp_copies_for_who_copies_and_with_a_for_the_owner() {
    if !have(&[Need::Root]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = image_of(&imgmount, &[file("f", b"1").owner(12, 34).mtime(5, 6).mode(0o604)]);
    let copied = |options: &[&str], name: &str| {
        assert_eq!(cp(&imgmount, options, inside(&image, "/f"), name).expect(0).stderr, "");
        let meta = fs::metadata(imgmount.dir().join(name)).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec())
    };
    assert_eq!(copied(&[], "plain"), (0, 0, 0o604, 5, 6));
    assert_eq!(copied(&["-a"], "archived"), (12, 34, 0o604, 5, 6));
}

#[test]
fn devices_are_left_out_for_ordinary_users_and_with_all_their_names() {
    let imgmount = if is_root() { Imgmount::as_ordinary_user() } else { Imgmount::new() };
    let image = image_of(&imgmount, &[char_device("null", 1, 3), hardlink("other", "null"), file("f", b"")]);
    for (options, code) in [(&[][..], 0), (&["-a"], 2)] {
        let into = imgmount.mount_point();
        extract(&imgmount, options, &image, &into).expect(code).says("devices (1)");
        assert_eq!(paths(&into), ["f"], "{options:?}");
    }
}

#[test]
fn a_file_that_cannot_be_made_gets_none_of_its_names() {
    let imgmount = Imgmount::new();
    let content = patterned(4096, 3);
    let image = image_of(&imgmount, &[file("first", &content), hardlink("second", "first")]);
    imgmount.run(&["ls", "image.tar"]).expect(0);
    let mut bytes = fs::read(&image).unwrap();
    let at = bytes.windows(64).position(|window| window == &content[..64]).unwrap();
    bytes[at] ^= 1;
    fs::write(&image, bytes).unwrap();
    let into = imgmount.mount_point();
    fs::write(into.join("first"), b"mine").unwrap();
    extract(&imgmount, &["--force"], &image, &into).expect(2).says("'second': cannot link");
    assert_eq!(paths(&into), ["first"]);
    assert_eq!(fs::read(into.join("first")).unwrap(), b"mine");
}

#[test]
fn a_full_disk_is_told_with_the_file_that_did_not_fit() {
    if !have(&[Need::Root]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = image_of(&imgmount, &[dir("d/"), file("d/large", patterned(4 << 20, 1))]);
    let full = imgmount.dir().join("full");
    fs::create_dir(&full).unwrap();
    let nothing = rustix::mount::MountFlags::empty();
    rustix::mount::mount("full", &full, "tmpfs", nothing, Some(c"size=1M")).unwrap();
    let out = extract(&imgmount, &[], &image, &full.join("target"));
    let left = paths(&full);
    rustix::mount::unmount(&full, rustix::mount::UnmountFlags::DETACH).unwrap();
    out.expect(2).says("'d/large'").says("is incomplete").says("No space left");
    assert_eq!(left, ["target/", "target/d/"]);
}
