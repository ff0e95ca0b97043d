//! Tests what root does in directories of other users: extracting, copying, mounting, and the cache directory.
//! Another user must not get files of root, nor lead root to other places.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink as link_on_disk};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::inotify;
use rustix::process::{Pid, Signal, kill_process};

use crate::fixture::{
    Image, Item, char_device, dir, docker_legacy, fifo, file, hardlink, patterned, symlink, tar,
};
use crate::mounted::{
    Imgmount, NOBODY, Need, as_nobody, have, inside, is_mounted, run, wait, wait_until, with_default,
};
use crate::tree::{Field, Snapshot};

/// The value of `security.capability` that lets a program change its user: capabilities(7), version 2.
const CAP_SETUID: [u8; 20] = [1, 0, 0, 2, 128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// The content of the files that the other user wants to give to root.
const EVIL: &str = "evil";

/// Returns a directory whose files other users can reach.
fn place() -> Imgmount {
    let imgmount = Imgmount::new();
    fs::set_permissions(imgmount.dir(), Permissions::from_mode(0o755)).unwrap();
    imgmount
}

fn directory_of_nobody(imgmount: &Imgmount, name: &str) -> PathBuf {
    let path = imgmount.dir().join(name);
    fs::create_dir(&path).unwrap();
    chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    path
}

fn archive_of(items: &[Item]) -> Vec<u8> {
    tar(&docker_legacy(&[Image::named("a:1").layer("ADD", items)]))
}

/// Every type of file, with attributes that must never reach a file of another user.
fn every_type() -> Vec<Item> {
    vec![
        file("program", b"program").mode(0o4755).xattr("user.x", b"y"),
        hardlink("again", "program").mode(0o4755),
        symlink("link", "program"),
        fifo("pipe").mode(0o4755),
        char_device("null", 1, 3).mode(0o666),
        dir("bin").mode(0o2755),
        file("bin/inner", b"inner").mode(0o6755).owner(1, 2),
        hardlink("bin/again", "bin/inner").mode(0o6755).owner(1, 2),
        dir("bin/deep"),
        fifo("bin/deep/pipe").mode(0o4711),
    ]
}

/// The names that were created in a directory, by type, and whether anything was created in it or moved to it.
fn created(watch: &impl std::os::fd::AsFd) -> (Vec<String>, Vec<String>, usize) {
    let (mut files, mut directories, mut moved) = (Vec::new(), Vec::new(), 0);
    let mut space = [MaybeUninit::uninit(); 1 << 16];
    let mut events = inotify::Reader::new(watch, &mut space);
    while let Ok(event) = events.next() {
        let name = event.file_name().unwrap().to_str().unwrap().to_owned();
        match event.events() {
            flags if flags.contains(inotify::ReadFlags::MOVED_TO) => moved += 1,
            flags if flags.contains(inotify::ReadFlags::ISDIR) => directories.push(name),
            _ => files.push(name),
        }
    }
    (files, directories, moved)
}

#[test]
fn x30_root_builds_no_file_where_another_user_can_exchange_it() {
    if !have(&[Need::Root]) {
        return;
    }
    let imgmount = place();
    let image = imgmount.write("image.tar", &archive_of(&every_type()));
    let into = directory_of_nobody(&imgmount, "into");
    fs::create_dir(into.join("bin")).unwrap();
    for dir in [&into, &into.join("bin")] {
        chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let watched = |path: &Path| {
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
        let events = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&watch, path, events).unwrap();
        watch
    };
    let watches = [watched(&into), watched(&into.join("bin"))];

    run(imgmount.command(&["extract", "--force"]).args([&image, &into])).expect(0);

    // Everything gets its name by one rename, from a directory that only root can enter.
    for (watch, expected) in watches.iter().zip([5, 3]) {
        let (files, directories, moved) = created(watch);
        assert_eq!(files, [""; 0]);
        assert!(directories.iter().all(|name| name.starts_with(".imgmount-")), "{directories:?}");
        assert_eq!(moved, expected);
    }
    let fields = [Field::DirectoryLinks, Field::Root];
    let comparable = |tree: Snapshot| fields.iter().fold(tree, |tree, field| tree.without(*field));
    comparable(Snapshot::described(&every_type()))
        .assert_shown_by(&comparable(Snapshot::of(&into)), "the extracted tree");
}

#[test]
fn x30_directories_that_only_their_owner_can_change_need_no_second_directory() {
    if !have(&[Need::Root]) {
        return;
    }
    let imgmount = place();
    let image = imgmount.write("image.tar", &archive_of(&every_type()));
    for (mode, guarded) in [(0o755, true), (0o1777, true), (0o777, false), (0o775, false)] {
        let into = imgmount.dir().join(format!("{mode:o}"));
        fs::create_dir(&into).unwrap();
        fs::set_permissions(&into, Permissions::from_mode(mode)).unwrap();
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, &into, inotify::WatchFlags::CREATE).unwrap();
        run(imgmount.command(&["cp"]).args([&inside(&image, "/."), into.as_os_str()])).expect(0);
        let (files, ..) = created(&watch);
        assert_eq!(!files.is_empty(), guarded, "{mode:o}: {files:?}");
    }
}

/// Moves away everything that root creates in the current directory, and puts a file of its own, a directory
/// or a link in its place, until the file `stop` appears. Prints the number of exchanges.
const EXCHANGE: &str = r#"
    my ($spare, $victim, $stop) = @ARGV;
    my $n = 0;
    until (-e $stop) {
        opendir(my $here, ".") or next;
        for my $name (grep { !/^\.\.?$/ } readdir $here) {
            my @stat = lstat $name or next;
            next if $stat[4] == $>;
            $n++;
            if (-d _) {
                next if $name !~ /^\.imgmount-/ && rand() < 0.9;
                rename($name, "taken$n") or next;
                rand() < 0.5 ? mkdir($name, 0777) : symlink($victim, $name);
            } else {
                next if $name !~ /^\.imgmount-/ && rand() < 0.9;
                rename($name, "$spare/taken$n") or next;
                open(my $file, ">", "$spare/own$n") or next;
                print $file "evil";
                close $file;
                chmod 0755, "$spare/own$n";
                rename("$spare/own$n", $name);
            }
        }
    }
    print $n;
"#;

/// 31 to 350 of 20,000 files that another user put in the place of devices and pipes became set-user-ID files
/// of root, and 271 got the capability to change the user.
#[test]
fn x30_a_user_who_exchanges_names_gets_no_file_of_root() {
    if !have(&[Need::Root, Need::Program("perl")]) {
        return;
    }
    let imgmount = place();
    let pipes = (0..1500).map(|at| fifo(format!("pipe{at:04}")).mode(0o4755));
    let capable =
        (0..1500).map(|at| fifo(format!("cap{at:04}")).mode(0o755).xattr("security.capability", CAP_SETUID));
    let links = (0..500).flat_map(|at| {
        let name = format!("file{at:03}");
        [file(&name, b"good").mode(0o755), hardlink(format!("usr/{name}"), &name)]
    });
    let directories = (0..20).flat_map(|at| {
        let inner = file(format!("dir{at:02}/inner"), b"good").mode(0o4755);
        [dir(format!("dir{at:02}")), inner]
    });
    let items: Vec<Item> =
        [dir("usr")].into_iter().chain(pipes).chain(capable).chain(links).chain(directories).collect();
    let image = imgmount.write("image.tar", &archive_of(&items));
    let into = directory_of_nobody(&imgmount, "into");
    let (spare, victim) = (directory_of_nobody(&imgmount, "spare"), imgmount.dir().join("victim"));
    fs::create_dir(&victim).unwrap();
    fs::set_permissions(&victim, Permissions::from_mode(0o700)).unwrap();
    let stop = imgmount.dir().join("stop");
    let mut other = as_nobody("perl");
    other.args(["-e", EXCHANGE]).args([&spare, &victim, &stop]).current_dir(&into);
    let other = other.stdout(Stdio::piped()).spawn().unwrap();

    // Names are lost, so this fails for some of them.
    let out = run(imgmount.command(&["extract"]).args([&image, &into]));
    fs::write(&stop, b"").unwrap();
    let exchanged = other.wait_with_output().unwrap();

    assert!(out.code == 0 || out.code == 2, "{}", out.stderr);
    let exchanged: u64 = String::from_utf8(exchanged.stdout).unwrap().parse().unwrap();
    assert!(exchanged > 0, "the other user did nothing");
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "root wrote through a link");
    let mut given = Vec::new();
    visit(imgmount.dir(), &mut |path, metadata| {
        if metadata.is_file() && fs::read(path).unwrap() == EVIL.as_bytes() {
            let mut value = [0; 64];
            let capable = rustix::fs::lgetxattr(path, "security.capability", &mut value[..]).is_ok();
            let is_inside = path.components().any(|part| part.as_os_str() == "usr");
            if metadata.uid() == 0 || capable || is_inside {
                given.push((path.to_owned(), metadata.uid(), metadata.mode()));
            }
        }
    });
    assert!(given.is_empty(), "files of the other user that root took over: {given:?}");
}

/// Calls `see` with everything below `dir`.
fn visit(dir: &Path, see: &mut dyn FnMut(&Path, &fs::Metadata)) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let metadata = fs::symlink_metadata(entry.path()).unwrap();
        see(&entry.path(), &metadata);
        if metadata.is_dir() {
            visit(&entry.path(), see);
        }
    }
}

#[test]
fn x31_a_link_of_another_user_in_a_sticky_directory_is_not_followed() {
    if !have(&[Need::Root]) {
        return;
    }
    let imgmount = place();
    let image = imgmount.write("image.tar", &archive_of(&[file("f", b"new")]));
    let at = |name: &str| imgmount.dir().join(name);
    fs::create_dir(at("sticky")).unwrap();
    fs::set_permissions(at("sticky"), Permissions::from_mode(0o1777)).unwrap();
    fs::create_dir(at("home")).unwrap();
    let victim = at("home/victim");
    for (name, target) in [
        ("to-file", "../home/victim"),
        ("to-nothing", "../home/new"),
        ("to-dir", "../home"),
        ("two", "to-file"),
    ] {
        link_on_disk(target, at("sticky").join(name)).unwrap();
        lchown(at("sticky").join(name), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    link_on_disk("to-file", at("sticky/own")).unwrap();
    let f = inside(&image, "/f");
    for name in ["to-file", "to-nothing", "to-dir", "two", "own"] {
        fs::write(&victim, b"old").unwrap();
        let dest = at("sticky").join(name);
        run(imgmount.command(&["cp"]).args([&f, dest.as_os_str()])).expect(2).says("Permission denied");
        run(imgmount.command(&["export"]).arg(&image).arg("-o").arg(&dest))
            .expect(2)
            .says("Permission denied");
        run(imgmount.command(&["extract", "--force"]).args([&image, &dest])).expect(2);
        assert_eq!(fs::read(&victim).unwrap(), b"old", "{name}");
        assert_eq!(fs::read_dir(at("home")).unwrap().count(), 1, "{name}");
    }
    // A link of the user who copies is followed, and so is one in a directory that is not sticky.
    fs::remove_file(at("sticky/own")).unwrap();
    link_on_disk("../home/victim", at("sticky/own")).unwrap();
    run(imgmount.command(&["cp"]).args([&f, at("sticky/own").as_os_str()])).expect(0);
    assert_eq!(fs::read(&victim).unwrap(), b"new");
    fs::write(&victim, b"old").unwrap();
    fs::set_permissions(at("sticky"), Permissions::from_mode(0o777)).unwrap();
    run(imgmount.command(&["cp"]).args([&f, at("sticky/to-file").as_os_str()])).expect(0);
    assert_eq!(fs::read(&victim).unwrap(), b"new");
}

/// Starts a command that reads its image from standard input, and waits until it reads: by then, it has opened
/// the directory `dir`. Returns the rest of the image.
fn reading(imgmount: &Imgmount, options: &[&str], dir: &Path) -> (Child, Vec<u8>) {
    reading_by(imgmount.command(options).arg(dir))
}

fn reading_by(command: &mut Command) -> (Child, Vec<u8>) {
    // More than a pipe holds.
    let content = patterned(1 << 20, 5);
    let image = archive_of(&[file("large", &content)]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let (first, rest) = image.split_at(512 << 10);
    child.stdin.as_mut().unwrap().write_all(first).unwrap();
    (child, rest.to_vec())
}

#[test]
fn x32_an_image_is_mounted_on_the_directory_that_was_named_wherever_it_is_moved() {
    if !have(&[Need::Root, Need::Fuse, Need::FuseForUsers]) {
        return;
    }
    for imgmount in [place(), Imgmount::as_ordinary_user()] {
        let at = |name: &str| imgmount.dir().join(name);
        for name in ["a", "a/point", "victim"] {
            fs::create_dir(at(name)).unwrap();
            chown(at(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let (mut child, rest) = reading(&imgmount, &["mount", "-"], &at("a/point"));
        fs::rename(at("a/point"), at("a/moved")).unwrap();
        link_on_disk(at("victim"), at("a/point")).unwrap();
        child.stdin.take().unwrap().write_all(&rest).unwrap();
        let ended = wait(&mut child).unwrap();
        let mounted = [at("victim"), at("a/moved")].map(|path| is_mounted(&path));
        for path in [at("victim"), at("a/moved")].iter().filter(|path| is_mounted(path)) {
            run(imgmount.command(&["umount"]).arg(path)).expect(0);
        }
        assert_eq!((ended.code(), mounted), (Some(0), [false, true]));
    }
}

#[test]
fn x32_a_mount_whose_path_has_changed_is_unmounted() {
    if !have(&[Need::Root, Need::Fuse]) {
        return;
    }
    let imgmount = place();
    let at = |name: &str| imgmount.dir().join(name);
    let image = imgmount.write("image.tar", &archive_of(&[file("f", b"1")]));
    for name in ["a", "a/point", "b", "b/point"] {
        fs::create_dir(at(name)).unwrap();
    }
    let mut command = imgmount.command(&["mount", "-f"]);
    let mut server = command.arg(&image).arg(at("a/point")).spawn().unwrap();
    assert!(wait_until(|| is_mounted(&at("a/point"))));
    let other = imgmount.mount(&image, &[]);
    fs::rename(at("a"), at("moved")).unwrap();
    // The old path leads to another mount, which must stay.
    link_on_disk(other.path().parent().unwrap(), at("a")).unwrap();
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert!(wait(&mut server).unwrap().success());
    assert!(!is_mounted(&at("moved/point")), "a mount without a server is left");
    assert!(is_mounted(other.path()));
}

#[test]
fn x32_files_are_written_to_the_directory_that_was_named_wherever_it_is_moved() {
    let content = patterned(1 << 20, 5);
    for (command, source) in [("extract", "-"), ("cp", "-:/large")] {
        let imgmount = Imgmount::new();
        let at = |name: &str| imgmount.dir().join(name);
        for name in ["into", "victim"] {
            fs::create_dir(at(name)).unwrap();
        }
        let (mut child, rest) = reading(&imgmount, &[command, source], &at("into"));
        fs::rename(at("into"), at("moved")).unwrap();
        link_on_disk(at("victim"), at("into")).unwrap();
        child.stdin.take().unwrap().write_all(&rest).unwrap();
        assert!(wait(&mut child).unwrap().success(), "{command}");
        assert_eq!(fs::read_dir(at("victim")).unwrap().count(), 0, "{command}");
        assert!(fs::read(at("moved/large")).unwrap() == content, "{command}");
    }
}

#[test]
fn x33_root_makes_no_cache_in_the_home_of_another_user() {
    if !have(&[Need::Root]) {
        return;
    }
    let imgmount = place();
    let image = imgmount.write("image.tar", &archive_of(&[file("f", b"1")]));
    let home = directory_of_nobody(&imgmount, "home");
    for (name, value) in [("HOME", home.clone()), ("XDG_CACHE_HOME", home.join("new/cache"))] {
        let mut command = imgmount.command(&["ls"]);
        command.arg(&image).env_remove("IMGMOUNT_CACHE_DIR").env_remove("XDG_CACHE_HOME").env(name, value);
        let out = run(&mut command).expect(0);
        assert_eq!(out.text(), "f\n");
        out.says("belongs to another user").says("IMGMOUNT_CACHE_DIR");
        assert_eq!(fs::read_dir(&home).unwrap().count(), 0, "{name}");
    }
    // A user's own home, and a new directory in it, are used.
    chown(&home, Some(0), Some(0)).unwrap();
    let mut command = imgmount.command(&["ls"]);
    command.arg(&image).env_remove("IMGMOUNT_CACHE_DIR").env_remove("XDG_CACHE_HOME").env("HOME", &home);
    assert_eq!(run(&mut command).expect(0).stderr, "");
    assert!(home.join(".cache/imgmount").is_dir());
}

/// The parent of a first mount waits until the image is indexed. A supervisor that ended it left the child,
/// which went on indexing and then mounted.
#[test]
fn a_parent_that_is_killed_takes_the_process_that_opens_the_image_with_it() {
    if !have(&[Need::Fuse]) {
        return;
    }
    for signal in [Signal::TERM, Signal::HUP, Signal::KILL] {
        let imgmount = Imgmount::new();
        let point = imgmount.mount_point();
        let mut mount = with_default("HUP", imgmount.command(&["mount", "-"]).arg(&point));
        let (mut parent, rest) = reading_by(&mut mount);
        let child = fs::read_to_string(format!("/proc/{0}/task/{0}/children", parent.id())).unwrap();
        assert_eq!(child.split_whitespace().count(), 1, "the process in the background");
        kill_process(Pid::from_child(&parent), signal).unwrap();
        wait(&mut parent).unwrap();
        // A process without a zombie's state is gone, or waits to be.
        let state = || fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        let ended = wait_until(|| state().split(") ").nth(1).is_none_or(|rest| rest.starts_with('Z')));
        // The pipe has no reader any more; if it has, the image is complete now.
        let written = parent.stdin.take().unwrap().write_all(&rest);
        let mounted = is_mounted(&point);
        if mounted {
            run(imgmount.command(&["umount"]).arg(&point));
        }
        assert!(ended && written.is_err() && !mounted, "{signal:?}");
    }
}
