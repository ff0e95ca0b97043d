//! Tests README.md: its commands are extracted and run, its links and names are looked up.

use std::fs;
use std::os::unix::fs::symlink as link;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::fixture::{Compression, Image, dir, docker_legacy, file, oci, symlink, tar, whiteout};
use crate::mounted::{Imgmount, Mounted, Need, have, is_mounted, run};
use crate::mounts::by_mount_8;

/// Read when the tests run, so that a change of the text needs no compilation.
static README: LazyLock<String> = LazyLock::new(|| {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md")
});

/// Returns the text below a heading, up to the next one.
fn section(heading: &str) -> &'static str {
    let start = README.find(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let section = &README[start + 4..];
    &section[..section.find("\n## ").unwrap_or(section.len())]
}

/// Returns the indented blocks of a section, each as its lines.
fn blocks(heading: &str) -> Vec<Vec<&'static str>> {
    let paragraphs = section(heading).split("\n\n");
    let indented = paragraphs.filter(|paragraph| paragraph.starts_with("    "));
    indented.map(|block| block.lines().map(str::trim).collect()).collect()
}

/// A command of README.md with the output that is printed below it.
struct Example {
    command: &'static str,
    output: Vec<&'static str>,
}

/// Returns the `console` blocks: a line that begins with `$ ` is a command, the lines below it are its
/// output.
fn console_blocks() -> Vec<Vec<Example>> {
    let blocks = README.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks
        .map(|block| {
            let mut examples: Vec<Example> = Vec::new();
            for line in block.lines() {
                match line.strip_prefix("$ ") {
                    Some(command) => examples.push(Example { command, output: Vec::new() }),
                    None => examples.last_mut().expect("a command before its output").output.push(line),
                }
            }
            examples
        })
        .collect()
}

/// Writes the images that the examples read: `app.tar`, and its next version `app-2.tar`.
fn write_images(imgmount: &Imgmount) {
    let base = [
        dir("app"),
        dir("bin"),
        file("bin/sh", b"#!").mode(0o755),
        dir("etc"),
        dir("etc/ssl"),
        file("etc/ssl/openssl.conf", b""),
        file("etc/host.conf", b""),
        file("etc/motd", b"hello\n"),
        file("etc/os-release", b"ID=demo\n"),
        dir("usr"),
        dir("usr/bin"),
        file("usr/bin/passwd", b"").mode(0o4755),
    ];
    let python = [file("usr/bin/python3", b"").mode(0o755), whiteout("etc/motd")];
    let commands = [
        "ADD rootfs.tar /",
        "RUN apt-get install -y python3",
        "COPY . /app",
        "RUN rm /app/.env",
        "COPY VERSION /app",
    ];
    let history = |len: usize| -> Value {
        let steps = commands[..len].iter();
        steps.map(|command| json!({"created": "2026-01-02T03:04:05Z", "created_by": command})).collect()
    };
    let app = |main: &[u8]| {
        let content = [file("app/.env", b"TOKEN=secret\n"), file("app/main.py", main)];
        Image::named("example.com/app:1")
            .for_architecture("arm64", None)
            .layer_as(commands[0], &base, "", Compression::Gzip(6))
            .layer_as(commands[1], &python, "", Compression::Zstd)
            .layer_as(commands[2], &content, "", Compression::Gzip(6))
            .layer_as(commands[3], &[whiteout("app/.env")], "", Compression::Gzip(6))
    };
    imgmount.write("app.tar", &tar(&oci(&[app(b"print(1)\n").with_history(history(4))])));
    let next = app(b"print(2)\n").layer(commands[4], &[file("app/VERSION", b"2\n")]);
    let next = next.with_history(history(5));
    imgmount.write("app-2.tar", &tar(&oci(&[next])));
}

/// Runs the commands of a block in one shell, and returns the output of each.
fn run_block(imgmount: &Imgmount, block: &[Example], point: &str) -> Vec<String> {
    // A line that no command prints marks the start of each command.
    let commands = block.iter().map(|example| format!("printf '\\n\\001'\n{}\n", example.command));
    let script = commands.collect::<String>().replace("/mnt", point);
    // For two images that differ, the exit status is 1.
    let is_diff = block.iter().any(|example| example.command.starts_with("imgmount diff"));
    let script = if is_diff { format!("set +e\n{script}\n[ $? = 1 ]") } else { script };
    let out = run(&mut imgmount.shell_with_program(&script)).expect(0);
    let printed = out.text().split("\n\u{1}").skip(1);
    printed.map(|text| text.trim_end_matches('\n').replace(point, "/mnt")).collect()
}

#[test]
fn every_command_of_the_readme_prints_what_is_printed_below_it() {
    let tools = ["jq", "getfattr"].map(Need::Program);
    if !have(&[&[Need::Fuse], &tools[..]].concat()) {
        return;
    }
    let imgmount = Imgmount::new();
    write_images(&imgmount);
    let point = imgmount.mount_point();
    let point_name = point.to_str().unwrap();
    let blocks = console_blocks();
    assert!(blocks.len() > 10, "{} blocks", blocks.len());
    let mut differences = String::new();
    for block in blocks {
        let uses_mount = block.iter().any(|example| example.command.contains("/mnt"));
        let mounts_itself = block.iter().any(|example| example.command.starts_with("imgmount umount"));
        let mounted = (uses_mount && !mounts_itself).then(|| mount_at(&imgmount, &point));
        let printed = run_block(&imgmount, &block, point_name);
        assert_eq!(printed.len(), block.len(), "$ {}", block[0].command);
        for (example, printed) in block.iter().zip(&printed) {
            if *printed != example.output.join("\n") {
                differences.push_str(&format!("$ {}\n{printed}\n", example.command));
            }
        }
        drop(mounted);
        assert!(!is_mounted(&point), "a mount is left behind by: $ {}", block[0].command);
    }
    assert!(differences.is_empty(), "README.md should print:\n{differences}");
}

#[test]
fn every_figure_of_the_readme_was_measured() {
    let measured = include_str!("../../docs/performance.md");
    let start = README.split("\n## ").next().unwrap();
    let words: Vec<&str> = start.split([' ', '|', ';', '\n']).filter(|word| !word.is_empty()).collect();
    let times: Vec<String> = words
        .windows(2)
        .filter(|pair| matches!(pair[1], "s" | "ms"))
        .map(|pair| format!("{} {}", pair[0], pair[1]))
        .collect();
    assert_eq!(times.len(), 6, "{times:?}");
    for time in times {
        assert!(measured.contains(&format!("| {time} |")), "{time} is not in docs/performance.md");
    }
}

fn mount_at(imgmount: &Imgmount, point: &Path) -> Mounted {
    Mounted::at(point, run(imgmount.command(&["mount", "app.tar"]).arg(point)).expect(0))
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
    // Options of getfattr, umoci, podman, docker and cargo.
    let of_others = [
        "--only-values",
        "--rootless",
        "--format",
        "--device",
        "--cap-add",
        "--security-opt",
        "--open",
        "--path",
    ];
    let options: Vec<&str> = words
        .filter(|word| word.starts_with("--") && !word.starts_with("---") && !of_others.contains(word))
        .collect();
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
    write_images(&imgmount);
    let indexes = |dir: &str| fs::read_dir(imgmount.dir().join(dir)).map_or(0, Iterator::count);
    let mut command = imgmount.command(&["ls", "app.tar"]);
    command.env_remove("IMGMOUNT_CACHE_DIR").env_remove("XDG_CACHE_HOME").env("HOME", imgmount.dir());
    run(&mut command).expect(0);
    assert_eq!(indexes(".cache/imgmount"), 4);
    run(imgmount
        .command(&["ls", "app.tar"])
        .env("XDG_CACHE_HOME", imgmount.dir().join("xdg"))
        .env_remove("IMGMOUNT_CACHE_DIR"))
    .expect(0);
    assert_eq!(indexes("xdg/imgmount"), 4);
    run(imgmount.command(&["ls", "app.tar"]).env("IMGMOUNT_CACHE_DIR", imgmount.dir().join("moved")))
        .expect(0);
    assert_eq!(indexes("moved"), 4);
}

#[test]
fn odd_layers_are_accepted_with_a_warning_that_v_and_inspect_list_and_strict_refuses() {
    let imgmount = Imgmount::new();
    let odd = Image::named("a:1").layer("RUN", &[file("foo", b"1"), file("foo/baz", b"2")]);
    imgmount.write("image.tar", &tar(&docker_legacy(&[odd])));
    let sentence = "a directory replaces a file of the same layer";
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
    // A path through another symbolic link gives the same mount.
    link(mounted.path(), imgmount.dir().join("shortcut")).unwrap();
    assert_eq!(fs::read(imgmount.dir().join("shortcut/x")).unwrap(), b"the host's");
}

#[test]
fn the_recording_is_what_a_terminal_shows() {
    if !have(&[Need::Fuse, Need::Program("python3")]) {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // `cargo test` builds the example; a run of a single test may not.
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "--offline", "--example", "sample_image"]);
    run(build.current_dir(root)).expect(0);
    let built = Path::new(env!("CARGO_BIN_EXE_imgmount")).parent().unwrap();
    let recorded = run(Command::new(root.join("scripts/record.py")).arg(built)).expect(0);
    let kept = fs::read_to_string(root.join("docs/recording.svg")).unwrap();
    assert!(recorded.text() == kept, "docs/recording.svg is out of date: run `make recording`");
}
