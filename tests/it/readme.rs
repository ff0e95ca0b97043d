//! What README.md promises: its commands are taken from it and run, its links and names looked up.

use std::fs;
use std::os::unix::fs::symlink as link;
use std::path::Path;
use std::process::Command;

use crate::fixture::{Compression, Image, dir, docker_legacy, file, oci, symlink, tar, whiteout};
use crate::mounted::{Imgmount, Mounted, Need, have, is_mounted, run};
use crate::mounts::by_mount_8;

const README: &str = include_str!("../../README.md");

/// The text below a heading, to the next one.
fn section(heading: &str) -> &'static str {
    let start = README.find(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let section = &README[start + 4..];
    &section[..section.find("\n## ").unwrap_or(section.len())]
}

/// The indented blocks of a section, each as its lines.
fn blocks(heading: &str) -> Vec<Vec<&'static str>> {
    let paragraphs = section(heading).split("\n\n");
    let indented = paragraphs.filter(|paragraph| paragraph.starts_with("    "));
    indented.map(|block| block.lines().map(str::trim).collect()).collect()
}

/// The image that the examples speak of, as `image.tar`.
fn write_image(imgmount: &Imgmount) {
    let base = [
        dir("etc"),
        file("etc/os-release", b"ID=demo\n"),
        file("etc/motd", b"hello\n"),
        dir("usr"),
        dir("usr/bin"),
        file("usr/bin/sudo", b"").mode(0o4755),
        file("usr/bin/passwd", b"").mode(0o755),
        dir("etc/demo"),
        file("etc/demo/demo.conf", b""),
    ];
    let python = [file("usr/bin/python3", b"").mode(0o755), whiteout("etc/motd")];
    let image = Image::named("demo:1")
        .for_architecture("arm64", None)
        .layer_as("ADD base", &base, "", Compression::Gzip(6))
        .layer_as("RUN apt-get install python3", &python, "", Compression::Zstd);
    imgmount.write("image.tar", &tar(&oci(&[image])));
    for (name, items) in [("old.tar", &base[..2]), ("new.tar", &base[..3])] {
        let image = Image::named("demo:1").for_architecture("arm64", None).layer("ADD", items);
        imgmount.write(name, &tar(&docker_legacy(&[image])));
    }
}

#[test]
fn every_command_under_everyday_uses_works_as_printed() {
    let tools = ["jq", "getfattr"].map(Need::Program);
    if !have(&[&[Need::Fuse], &tools[..]].concat()) {
        return;
    }
    let imgmount = Imgmount::new();
    write_image(&imgmount);
    let point = imgmount.mount_point();
    let mut ran = 0;
    for block in blocks("Everyday uses") {
        let script = block.join("\n").replace("/mnt", point.to_str().unwrap());
        let mounts_itself = block.iter().any(|line| line.contains("imgmount umount"));
        let needs_mount = script.contains(point.to_str().unwrap()) && !mounts_itself;
        let mounted = needs_mount.then(|| mount_at(&imgmount, &point));
        // Two images that differ are a negative answer.
        let code = i32::from(block.iter().any(|line| line.starts_with("imgmount diff")));
        let out = run(&mut imgmount.shell_with_program(&script)).expect(code);
        assert!(!out.stdout.is_empty(), "{block:?} prints nothing");
        match block[0] {
            "imgmount cat image.tar:/etc/os-release" => assert_eq!(out.text(), "ID=demo\n"),
            line if line.contains("| jq") => assert_eq!(out.text(), "/usr/bin/sudo\n"),
            line if line.contains("created_by") => {
                assert!(out.text().contains("user.imgmount.created_by=\"RUN apt-get install python3\""));
            }
            line if line.starts_with("imgmount history") => {
                let history = "0  added    ADD base\n1  deleted  RUN apt-get install python3\n";
                assert!(
                    out.text().starts_with(history) && out.text().ends_with("\nhello\n"),
                    "{}",
                    out.text()
                );
            }
            line if line.starts_with("imgmount cp") => {
                assert_eq!(fs::read(imgmount.dir().join("os-release")).unwrap(), b"ID=demo\n");
                assert!(imgmount.dir().join("rootfs/usr/bin/python3").is_file());
                assert!(out.lines().contains(&"etc/demo/demo.conf"), "{}", out.text());
            }
            line if line.starts_with("imgmount ls '") => assert_eq!(out.text(), "/etc/demo/demo.conf\n"),
            line if line.contains("--view all") => {
                assert!(out.text().ends_with("/states/01/etc:\ndemo\nos-release\n"), "{}", out.text());
            }
            line if line.starts_with("imgmount diff") => assert_eq!(out.text(), "A /etc/motd\n"),
            _ => {}
        }
        drop(mounted);
        assert!(!is_mounted(&point), "{block:?} leaves a mount behind");
        ran += 1;
    }
    assert!(ran >= 5, "{ran} everyday uses");
}

fn mount_at(imgmount: &Imgmount, point: &Path) -> Mounted {
    Mounted::at(point, run(imgmount.command(&["mount", "image.tar"]).arg(point)).expect(0))
}

#[test]
fn mount_8_and_fstab_take_the_lines_that_are_printed() {
    if !have(&[Need::Fuse, Need::Root, Need::Program("mount.fuse3"), Need::Program("unshare")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let passwd = [dir("etc"), file("etc/passwd", b"served\n")];
    let image = Image::named("a:1").for_architecture("arm64", None).layer("ADD", &passwd);
    imgmount.write("image.tar", &tar(&docker_legacy(&[image])));
    let block =
        blocks("Mounting").into_iter().find(|block| block.iter().any(|line| line.starts_with("mount ")));
    let [mount, fstab] = block.expect("a block for mount(8)")[..] else { panic!("two lines") };
    let ours = |line: &str| line.replace("/srv/image.tar", "\"$PWD/image.tar\"").replace("/mnt", "\"$M\"");
    for command in [ours(mount), format!("echo {} > fstab\nmount --fstab fstab \"$M\"", ours(fstab))] {
        let told = by_mount_8(&imgmount, &command);
        assert!(told.ends_with("\nserved\n"), "{command}: {told}");
    }
}

#[test]
fn every_option_that_is_named_exists() {
    let imgmount = Imgmount::new();
    let mut help = String::new();
    for command in "mount ls cat cp extract export inspect history deleted diff verify".split(' ') {
        help.push_str(imgmount.run(&[command, "--help"]).expect(0).text());
    }
    help.push_str(imgmount.run(&["cache", "prune", "--help"]).expect(0).text());
    let words = README.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    let options: Vec<&str> =
        words.filter(|word| word.starts_with("--") && !word.starts_with("---")).collect();
    assert!(options.len() > 10, "{options:?}");
    let unknown: Vec<_> = options.iter().filter(|option| !help.contains(*option)).collect();
    assert!(unknown.is_empty(), "{unknown:?} in no help");
}

#[test]
fn every_file_that_is_named_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let links = README.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    let files = ["examples/list_image.rs", "examples/copy_file.rs", "examples/mount_image.rs"];
    for name in links.chain(files).filter(|name| !name.contains("://")) {
        assert!(root.join(name).is_file(), "{name}");
    }
    let makefile = fs::read_to_string(root.join("Makefile")).unwrap();
    for target in ["demo", "test", "bench", "build", "install"] {
        assert!(
            README.contains(&format!("make {target}")) && makefile.contains(&format!("\n{target}:")),
            "{target}"
        );
    }
}

#[test]
fn make_install_puts_program_and_completions_below_destdir_and_takes_them_away() {
    if !have(&[Need::Program("make")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let stage = imgmount.dir().join("stage");
    let make = |target: &str| {
        let mut command = Command::new("make");
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["-s", target, "PREFIX=/usr"]);
        command.arg(format!("DESTDIR={}", stage.display()));
        command.arg(format!("program={}", env!("CARGO_BIN_EXE_imgmount")));
        run(&mut command).expect(0);
    };
    make("install");
    let version = run(Command::new(stage.join("usr/bin/imgmount")).arg("--version")).expect(0);
    assert_eq!(version.text(), concat!("imgmount ", env!("CARGO_PKG_VERSION"), "\n"));
    let completions = [
        "usr/share/bash-completion/completions/imgmount",
        "usr/share/zsh/site-functions/_imgmount",
        "usr/share/fish/vendor_completions.d/imgmount.fish",
    ];
    for name in completions {
        assert!(fs::read_to_string(stage.join(name)).unwrap().contains("idle-timeout"), "{name}");
    }
    make("uninstall");
    assert!(!stage.join("usr/bin/imgmount").exists());
    assert!(completions.iter().all(|name| !stage.join(name).exists()));
}

#[test]
fn indexes_live_in_the_users_cache_directory_unless_told_otherwise() {
    let imgmount = Imgmount::new();
    write_image(&imgmount);
    let indexes = |dir: &str| fs::read_dir(imgmount.dir().join(dir)).map_or(0, Iterator::count);
    let mut command = imgmount.command(&["ls", "image.tar"]);
    command.env_remove("IMGMOUNT_CACHE_DIR").env_remove("XDG_CACHE_HOME").env("HOME", imgmount.dir());
    run(&mut command).expect(0);
    assert_eq!(indexes(".cache/imgmount"), 2);
    run(imgmount
        .command(&["ls", "image.tar"])
        .env("XDG_CACHE_HOME", imgmount.dir().join("xdg"))
        .env_remove("IMGMOUNT_CACHE_DIR"))
    .expect(0);
    assert_eq!(indexes("xdg/imgmount"), 2);
    run(imgmount.command(&["ls", "image.tar"]).env("IMGMOUNT_CACHE_DIR", imgmount.dir().join("moved")))
        .expect(0);
    assert_eq!(indexes("moved"), 2);
}

#[test]
fn odd_layers_are_accepted_with_a_warning_that_v_and_inspect_list_and_strict_refuses() {
    let imgmount = Imgmount::new();
    let odd = Image::named("a:1").layer("RUN", &[file("foo", b"1"), file("foo/baz", b"2")]);
    imgmount.write("image.tar", &tar(&docker_legacy(&[odd])));
    let sentence = "a directory replaces the file of the same layer";
    assert_eq!(imgmount.run(&["ls", "image.tar"]).expect(0).stderr, "");
    imgmount.run(&["-v", "ls", "image.tar"]).expect(0).says("layer 0: foo").says(sentence);
    assert!(imgmount.run(&["inspect", "image.tar"]).expect(0).text().contains(sentence));
    imgmount
        .run(&["ls", "--strict", "image.tar"])
        .expect(2)
        .says("hint: `imgmount inspect` lists all warnings");
}

#[test]
fn an_absolute_link_leads_out_of_a_mount_and_stays_inside_for_cat() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let outside = imgmount.write("outside", b"the host's");
    let inside = outside.to_str().unwrap().trim_start_matches('/').to_owned();
    let items = [file(&inside, b"the image's"), symlink("x", outside.as_os_str().as_encoded_bytes())];
    let image = Image::named("a:1").layer("ADD", &items);
    let path = imgmount.write("image.tar", &tar(&docker_legacy(&[image])));
    let mounted = imgmount.mount(path, &[]);
    assert_eq!(fs::read(mounted.path().join("x")).unwrap(), b"the host's");
    assert_eq!(imgmount.run(&["cat", "image.tar:/x"]).expect(0).text(), "the image's");
    // Through another link to the mount it is the same.
    link(mounted.path(), imgmount.dir().join("shortcut")).unwrap();
    assert_eq!(fs::read(imgmount.dir().join("shortcut/x")).unwrap(), b"the host's");
}

#[test]
fn the_recording_is_what_a_terminal_shows() {
    if !have(&[Need::Fuse, Need::Program("python3")]) {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // `cargo test` has built the example; a run of one test may not have.
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "--offline", "--example", "sample_image"]);
    run(build.current_dir(root)).expect(0);
    let built = Path::new(env!("CARGO_BIN_EXE_imgmount")).parent().unwrap();
    let recorded = run(Command::new(root.join("scripts/record.py")).arg(built)).expect(0);
    let kept = fs::read_to_string(root.join("docs/recording.svg")).unwrap();
    assert!(recorded.text() == kept, "docs/recording.svg is out of date: run `make recording`");
}
