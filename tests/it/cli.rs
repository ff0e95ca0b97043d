//! Tests the command line as scripts use it: output formats, exit codes, mount options.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use crate::fixture::{
    Compression, Image, dir, docker_legacy, file, oci, patterned, sample_large, sample_tree, tar, whiteout,
};
use crate::mounted::{Imgmount, Need, have, inside, is_mounted, run, wait, wait_until};
use crate::tree::Snapshot;

fn sample(imgmount: &Imgmount) -> PathBuf {
    imgmount.write("image.tar", &tar(&oci(&[Image::sample("", Compression::Gzip(6))])))
}

/// Parses NDJSON: one object per line.
fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Makes an image of two layers. The first adds `a` and `secret`; the second changes `a` and deletes
/// `secret`.
fn history(imgmount: &Imgmount) -> PathBuf {
    let image = Image::named("a:1")
        .layer("COPY first", &[file("a", b"1"), file("secret", b"hunter2"), dir("d")])
        .layer("RUN second", &[file("a", b"22"), whiteout("secret"), file("d/b", b"3")]);
    imgmount.write("history.tar", &tar(&docker_legacy(&[image])))
}

/// `IMAGE:/C:/x` is split at its last `:/`, so the path `/C:/x` of a Windows image could not be given.
#[test]
fn c15_a_path_with_a_colon_is_given_apart() {
    let imgmount = Imgmount::new();
    let items = [dir("C:"), file("C:/x", b"inside"), file("C:/y", b"other"), file("x", b"outside")];
    let image = imgmount.write("a:b.tar", &tar(&docker_legacy(&[Image::named("a:1").layer("COPY", &items)])));
    let out = |command: &str, path: &str| {
        run(imgmount.command(&[command, "--path", path]).arg(&image)).expect(0).text().to_owned()
    };
    assert_eq!(out("cat", "/C:/x"), "inside");
    assert_eq!(out("cat", "C:/x"), "inside");
    assert_eq!((out("ls", "/C:"), out("ls", "/*/y")), ("x\ny\n".to_owned(), "/C:/y\n".to_owned()));
    assert_eq!(out("history", "/C:/x"), "0  added  COPY\n");
    let copy = imgmount.dir().join("copy");
    run(imgmount.command(&["cp", "--path", "/C:/x"]).args([&image, &copy])).expect(0);
    assert_eq!(fs::read(&copy).unwrap(), b"inside");
    // One path in two images, and an image without a path.
    let both = run(imgmount.command(&["cat", "--path", "/C:/x"]).args([&image, &image])).expect(0);
    assert_eq!(both.text(), "insideinside");
    run(imgmount.command(&["cat"]).arg(&image)).expect(2).says("use IMAGE:/path or --path");
    let mut text = image.clone().into_os_string();
    text.push(":/C:/x");
    run(imgmount.command(&["cat"]).arg(text)).expect(2);
}

#[test]
fn mount_is_the_default_command_and_umount_ends_it() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let point = imgmount.mount_point();
    let said = run(imgmount.command(&[&image]).arg(&point)).expect(0);
    assert!(said.stdout.is_empty());
    assert!(is_mounted(&point));
    Snapshot::described(&sample_tree()).assert_shown_by(&Snapshot::of(&point), "the short form");
    run(imgmount.command(&["umount"]).arg(&point)).expect(0);
    assert!(!is_mounted(&point));
}

#[test]
fn the_server_holds_neither_its_parents_output_nor_its_directory() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let point = imgmount.mount_point();
    let mut command = imgmount.command(&[&image]);
    let mut parent = command.arg(&point).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdout, mut stderr) = (parent.stdout.take().unwrap(), parent.stderr.take().unwrap());
    let reader = std::thread::spawn(move || {
        stdout.read_to_end(&mut Vec::new()).unwrap();
        stderr.read_to_end(&mut Vec::new()).unwrap();
    });
    assert!(wait(&mut parent).unwrap().success());
    let ended = wait_until(|| reader.is_finished());
    run(imgmount.command(&["umount"]).arg(&point)).expect(0);
    assert!(ended, "a pipe that reads the parent's output never ends");
}

#[test]
fn an_ordinary_user_mounts_reads_and_unmounts() {
    if !have(&[Need::FuseForUsers]) {
        return;
    }
    let imgmount = Imgmount::as_ordinary_user();
    let image = imgmount.write("image.tar", &tar(&oci(&[Image::sample("", Compression::Gzip(6))])));
    let point = imgmount.mount_point();
    run(imgmount.command(&[&image]).arg(&point)).expect(0);
    assert!(is_mounted(&point));
    // The mode allows only root to read the file, but the user who mounts may read it, too.
    let mut cat = imgmount.shell(&format!("cat '{}/etc/passwd' && ls -ln '{0}/etc'", point.display()));
    let out = run(&mut cat).expect(0);
    assert!(out.text().starts_with("root:x:0:0\n"), "{}", out.text());
    run(imgmount.command(&["umount"]).arg(&point)).expect(0);
    assert!(!is_mounted(&point));
}

#[test]
fn the_mount_table_names_the_program_and_the_image() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let mounted = imgmount.mount(&image, &[]);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.split(' ').nth(4) == mounted.path().to_str()).unwrap();
    // After the dash: type and source. Source: proc_pid_mountinfo(5).
    let (_, of_the_file_system) = line.split_once(" - ").unwrap();
    let mut fields = of_the_file_system.split(' ');
    assert_eq!(fields.next(), Some("fuse.imgmount"));
    assert!(fields.next().unwrap().contains("image.tar"), "{line}");
}

#[test]
fn a_mount_point_must_be_a_directory() {
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let absent = imgmount.dir().join("absent");
    run(imgmount.command(&["mount"]).arg(&image).arg(&absent)).expect(2).says("absent");
    let plain = imgmount.write("plain", b"");
    run(imgmount.command(&["mount"]).arg(&image).arg(&plain)).expect(2).says("plain");
}

#[test]
fn unmounting_what_is_not_mounted_fails() {
    let imgmount = Imgmount::new();
    let point = imgmount.mount_point();
    run(imgmount.command(&["umount"]).arg(&point)).expect(2).says(point.to_str().unwrap());
}

#[test]
fn provenance_is_readable_and_not_listed() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = history(&imgmount);
    let mounted = imgmount.mount(image, &[]);
    let attribute = |path: &str, name: &str| {
        let mut value = vec![0; 4096];
        let name = format!("user.imgmount.{name}");
        let len = rustix::fs::lgetxattr(mounted.path().join(path), name, &mut value[..]).unwrap();
        value.truncate(len);
        String::from_utf8(value).unwrap()
    };
    assert_eq!(attribute("a", "layer"), "1");
    assert_eq!(attribute("a", "created_by"), "RUN second");
    assert_eq!(attribute("d", "layer"), "0");
    assert_eq!(attribute("d", "created_by"), "COPY first");
    assert!(attribute("a", "diff_id").starts_with("sha256:"));
    let mut names = [0; 4096];
    assert_eq!(rustix::fs::llistxattr(mounted.path().join("a"), &mut names[..]).unwrap(), 0);
}

#[test]
fn ls_sorts_by_bytes_and_goes_into_directories() {
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let out = run(imgmount.command(&["ls"]).arg(&image)).expect(0);
    assert_eq!(out.lines(), ["bin", "dev", "etc", "lib", "opt", "tmp", "usr", "var"]);
    let out = run(imgmount.command(&["ls", "-R"]).arg(inside(&image, "/usr"))).expect(0);
    assert_eq!(out.lines(), ["/usr/lib", "/usr/lib/large", "/usr/lib/small"]);
    run(imgmount.command(&["ls"]).arg(inside(&image, "/nowhere"))).expect(2).says("/nowhere");
}

#[test]
fn ls_long_is_as_ls_itself_prints_it() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let columns = |text: &str| -> Vec<Vec<String>> {
        let rows = text.lines().filter(|line| !line.starts_with("total "));
        rows.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let ours = run(imgmount.command(&["ls", "-l"]).arg(inside(&image, "/etc")).env("TZ", "UTC")).expect(0);
    let mounted = imgmount.mount(&image, &[]);
    let mut ls = std::process::Command::new("ls");
    ls.args(["-ln", "--time-style=long-iso"])
        .arg(mounted.path().join("etc"))
        .env("TZ", "UTC")
        .env("LC_ALL", "C");
    let theirs = run(&mut ls).expect(0);
    assert_eq!(columns(ours.text()), columns(theirs.text()));
}

#[test]
fn ls_json_has_every_field() {
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let out = run(imgmount.command(&["ls", "-R", "--json"]).arg(inside(&image, "/opt"))).expect(0);
    let entries = objects(out.text());
    let entry = |path: &str| entries.iter().find(|entry| entry["path"] == path).unwrap();
    let time = entry("/opt/time");
    assert_eq!(time["type"], "file");
    assert_eq!(time["mode"], "0644");
    assert_eq!(time["size"], 1);
    assert_eq!(time["mtime"], "2009-02-13T23:31:30.123456789Z");
    assert_eq!(time["nlink"], 1);
    assert_eq!(time["target"], Value::Null);
    assert_eq!(time["layer"], 0);
    assert_eq!(entry("/opt/owner")["gid"], 3_000_000_000_u32);
    assert_eq!(entry("/opt/attributes")["xattrs"]["user.binary"], "AAr/");
    assert!(entries.iter().any(|entry| entry["path_b64"] == "L29wdC9jYWbp"), "a name that is not UTF-8");
}

#[test]
fn cat_follows_links_and_gives_exact_bytes() {
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let out = run(imgmount.command(&["cat"]).arg(inside(&image, "/etc/absolute"))).expect(0);
    assert!(out.stdout == sample_large());
    let both =
        run(imgmount.command(&["cat"]).args([inside(&image, "/bin/tool"), inside(&image, "/etc/passwd")]));
    assert_eq!(both.expect(0).text(), "#!/bin/sh\nroot:x:0:0\nuser:x:1000:1000\n");
    run(imgmount.command(&["cat"]).arg(inside(&image, "/etc"))).expect(2).says("/etc");
}

#[test]
fn cat_reads_one_layer_and_earlier_states() {
    let imgmount = Imgmount::new();
    let image = history(&imgmount);
    let secret = inside(&image, "/secret");
    run(imgmount.command(&["cat"]).arg(&secret)).expect(2);
    for option in ["--layer", "--upto"] {
        let out = run(imgmount.command(&["cat", option, "0"]).arg(&secret)).expect(0);
        assert_eq!(out.text(), "hunter2", "{option}");
    }
    run(imgmount.command(&["cat", "--layer", "2"]).arg(&secret)).expect(2);
}

#[test]
fn inspect_names_format_platform_and_layers() {
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let out = run(imgmount.command(&["inspect", "--json"]).arg(&image)).expect(0);
    let [answer] = &objects(out.text())[..] else { panic!("one object: {}", out.text()) };
    let expected = Image::sample("", Compression::Gzip(6));
    let diff_ids: Vec<_> =
        answer["layers"].as_array().unwrap().iter().map(|layer| &layer["diff_id"]).collect();
    assert_eq!(
        diff_ids,
        expected
            .layers
            .iter()
            .map(|layer| Value::from(layer.diff_id()))
            .collect::<Vec<_>>()
            .iter()
            .collect::<Vec<_>>()
    );
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    let imgmount = Imgmount::new();
    imgmount.run::<&str>(&[]).expect(2);
    imgmount.run(&["--no-such-option"]).expect(2);
    imgmount.run(&["--help"]).expect(0);
    imgmount.run(&["--version"]).expect(0);
    assert!(imgmount.run(&["completions", "bash"]).expect(0).text().contains("imgmount"));
}

#[test]
fn a_mistyped_command_is_told_from_an_image() {
    let imgmount = Imgmount::new();
    imgmount.run(&["inspct", "image.tar"]).expect(2).says("'inspect'");
    // If a file of that name exists, the argument is an image. An unknown word is reported as a missing
    // image.
    let path = imgmount.write("inspct", b"no image");
    run(imgmount.command(&["inspct", "/mnt"]).current_dir(path.parent().unwrap())).expect(2).says("neither");
    imgmount.run(&["image.tar", "/mnt"]).expect(2).says("cannot open 'image.tar'");
}

#[test]
fn what_cannot_be_written_is_named() {
    let imgmount = Imgmount::new();
    let out = run(imgmount.command(&["export", "-o", "/nonexistent/x"]).arg(sample(&imgmount))).expect(2);
    assert!(out.stderr.starts_with("imgmount: cannot write '/nonexistent/x'"), "{}", out.stderr);
}

#[test]
fn a_broken_pipe_is_no_failure() {
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let mut child = imgmount
        .command(&["cat"])
        .arg(inside(&image, "/usr/lib/large"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(wait(&mut child).unwrap().code(), Some(0));
}

#[test]
fn x19_names_are_escaped_on_their_way_to_a_terminal() {
    let imgmount = Imgmount::new();
    let image = Image::named("a:1").layer("ADD", &[file("red\x1b[31m\nname", b"")]);
    let image = imgmount.write("image.tar", &tar(&docker_legacy(&[image])));
    let out = run(imgmount.command(&["ls"]).arg(image)).expect(0);
    assert!(!out.text().contains('\x1b'), "{:?}", out.text());
    assert_eq!(out.lines().len(), 1);
}

#[test]
fn quiet_says_nothing_and_errors_begin_with_the_programs_name() {
    let imgmount = Imgmount::new();
    let out = imgmount.run(&["ls", "absent.tar"]).expect(2);
    assert!(out.stderr.starts_with("imgmount: "), "{}", out.stderr);
    assert!(out.stdout.is_empty());
    let image = sample(&imgmount);
    assert_eq!(run(imgmount.command(&["-q", "ls"]).arg(image)).expect(0).stderr, "");
}

#[test]
fn progress_is_shown_on_a_terminal_and_nowhere_else() {
    if !have(&[Need::Program("script")]) {
        return;
    }
    let imgmount = Imgmount::new();
    // Slow decompression takes longer than the half second after which a bar appears.
    let content = patterned(24 << 20, 1);
    let image = Image::named("a:1").layer_as("COPY", &[file("large", content)], "", Compression::Bzip2);
    imgmount.write("image.tar", &tar(&docker_legacy(&[image])));
    let to_a_file = imgmount.run(&["ls", "--no-cache", "image.tar"]).expect(0);
    assert_eq!((to_a_file.text(), to_a_file.stderr.as_str()), ("large\n", ""));
    let on_terminal = |options: &str| {
        let script = format!("script -qec 'imgmount {options} ls --no-cache image.tar' /dev/null");
        run(imgmount.shell_with_program(&script).env("TERM", "xterm").env("COLUMNS", "80")).expect(0)
    };
    assert!(on_terminal("").text().contains("Indexing layers"));
    assert!(!on_terminal("-q").text().contains("Indexing layers"));
}

#[test]
fn verbosity_changes_what_is_said_and_nothing_else() {
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let plain = run(imgmount.command(&["ls"]).arg(&image)).expect(0);
    for options in ["-v", "-vv"] {
        let out = run(imgmount.command(&["ls", options]).arg(&image).env("NO_COLOR", "1")).expect(0);
        assert_eq!(out.text(), plain.text(), "{options}");
        assert!(!out.stderr.contains('\u{1b}'), "{options}: {}", out.stderr);
    }
}

/// A directory of another user can have any name, and a message about it must not control the terminal of root,
/// nor look like two messages.
#[test]
fn x19_messages_escape_paths_of_the_host() {
    let imgmount = Imgmount::new();
    let hostile = imgmount.dir().join("a\x1b]0;title\x07\nimgmount: done");
    fs::create_dir(&hostile).unwrap();
    let image = hostile.join("image.tar");
    fs::write(&image, tar(&docker_legacy(&[Image::named("a:1").layer("ADD", &[file("f", b"1")])]))).unwrap();
    fs::write(hostile.join("junk"), b"junk").unwrap();
    let at = |name: &str| hostile.join(name).into_os_string();
    let with = |path: &PathBuf, end: &str| {
        let mut text = path.clone().into_os_string();
        text.push(end);
        text
    };
    let f = inside(&image, "/f");
    let mut rootfs = OsString::from("rootfs:");
    rootfs.push(at("none"));
    let commands: [(&str, Vec<OsString>); 16] = [
        ("ls", vec![at("none.tar")]),
        ("ls", vec![at("junk")]),
        ("ls", vec![with(&image, ":none")]),
        ("ls", vec![with(&image, "@7")]),
        ("ls", vec![rootfs]),
        ("ls", vec![hostile.clone().into_os_string()]),
        ("cat", vec![image.clone().into_os_string()]),
        ("cp", vec![image.clone().into_os_string(), at("new")]),
        ("cp", vec![f.clone(), at("none/new")]),
        ("cp", vec![f.clone(), at("junk/")]),
        ("extract", vec![image.clone().into_os_string(), hostile.clone().into_os_string()]),
        ("export", vec![image.clone().into_os_string(), "-o".into(), at("none/new")]),
        ("mount", vec![image.clone().into_os_string(), at("none")]),
        ("mount", vec![at("none"), hostile.clone().into_os_string()]),
        ("umount", vec![hostile.clone().into_os_string()]),
        ("images", vec![at("junk")]),
    ];
    for (command, arguments) in commands {
        let out =
            run(imgmount.command(&[command]).args(&arguments).env("IMGMOUNT_CACHE_DIR", at("junk/cache")));
        assert_eq!(out.code, 2, "{command} {arguments:?}: {}", out.stderr);
        let is_safe = |line: &str| {
            let known = ["imgmount: ", "hint: ", "  "].iter().any(|start| line.starts_with(start));
            known && !line.starts_with("imgmount: done") && !line.contains(|c: char| c.is_control())
        };
        let lines: Vec<_> = out.stderr.split_terminator('\n').filter(|line| !is_safe(line)).collect();
        assert!(lines.is_empty(), "{command} {arguments:?}: {lines:?}");
    }
}

/// A terminal executes control sequences in the lines of a file; a pipe gets the bytes as they are, for patch(1).
#[test]
fn x19_diff_escapes_lines_for_a_terminal_only() {
    if !have(&[Need::Program("script")]) {
        return;
    }
    let imgmount = Imgmount::new();
    for (name, content) in [("a.tar", b"one\n"), ("b.tar", b"\x1b[2\n")] {
        let items = [file("f", content)];
        imgmount.write(name, &tar(&docker_legacy(&[Image::named("a:1").layer("ADD", &items)])));
    }
    let mut piped = imgmount.command(&["diff", "-u", "a.tar", "b.tar"]);
    assert!(run(&mut piped).expect(1).text().contains("+\x1b[2\n"));
    let line = "imgmount diff -u a.tar b.tar || true";
    let shown = run(&mut imgmount.shell_with_program(&format!("script -qec '{line}' /dev/null"))).expect(0);
    assert!(shown.text().contains("+\\x1b[2\r\n"), "{:?}", shown.text());
    assert!(!shown.text().contains('\x1b'), "{:?}", shown.text());
}
