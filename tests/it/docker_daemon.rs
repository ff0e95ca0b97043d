//! Reads images through the sockets of real engines, and through that of a hostile one.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::Value;

use crate::engines::{Docker, succeed};
use crate::fixture::{
    Compression, Image, Item, docker_legacy, file, sample_layers, sample_tree, sha256_hex, tar,
    without_sparse,
};
use crate::mounted::{Imgmount, Need, Run, have, is_root, run, wait, wait_until};
use crate::tree::Snapshot;

/// Runs the program with this socket.
fn with_socket(imgmount: &Imgmount, socket: &Path, args: &[&str]) -> Run {
    run(imgmount.command(args).env("DOCKER_HOST", host(socket)))
}

fn host(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

/// Writes the sample, and another image, as archives that engines load.
fn write_archives(imgmount: &Imgmount) -> Image {
    // Neither docker nor podman can save a sparse file that it loaded.
    let image = Image::named("example.com/sample:1");
    let add = |image: Image, (by, items): (&str, Vec<Item>)| image.layer(by, &without_sparse(items));
    let sample = sample_layers().into_iter().fold(image, add);
    imgmount.write("sample.tar", &tar(&docker_legacy(&[sample])));
    let other = Image::named("example.com/other:1").layer("COPY", &[file("other", b"1")]);
    imgmount.write("other.tar", &tar(&docker_legacy(std::slice::from_ref(&other))));
    other
}

/// Compares every way of naming an image with the image that was loaded. `docker` runs a client.
fn reads_what_was_loaded(imgmount: &Imgmount, socket: &Path, docker: &dyn Fn(&[&str])) {
    let other = write_archives(imgmount);
    for archive in ["sample.tar", "other.tar"] {
        docker(&["load", "-q", "-i", imgmount.dir().join(archive).to_str().unwrap()]);
    }
    docker(&["tag", "example.com/other:1", "example.com/other:latest"]);
    docker(&["tag", "example.com/other:1", "example.com/other:3"]);

    let point = imgmount.mount_point();
    let mut mount = imgmount.command(&["mount", "docker-daemon:example.com/sample:1"]);
    let mounted = run(mount.arg(&point).env("DOCKER_HOST", host(socket)));
    let mounted = crate::mounted::Mounted::at(&point, mounted.expect(0));
    Snapshot::described(&without_sparse(sample_tree()))
        .assert_shown_by(&Snapshot::of(mounted.path()), "docker-daemon");

    let id = sha256_hex(&other.config());
    for name in ["example.com/other:1", "example.com/other", &id, &id[..12], &format!("sha256:{id}")] {
        let shown = with_socket(imgmount, socket, &["ls", &format!("docker-daemon:{name}")]).expect(0);
        assert_eq!(shown.text(), "other\n", "{name}");
        let about = ["inspect", "--json", &format!("docker-daemon:{name}")];
        let about: Value =
            serde_json::from_slice(&with_socket(imgmount, socket, &about).expect(0).stdout).unwrap();
        assert_eq!(about["format"], "docker-daemon");
        assert_eq!(about["config_digest"], format!("sha256:{id}"));
        assert_eq!(about["names"].as_array().unwrap().len(), 3, "{about}");
    }
    with_socket(imgmount, socket, &["verify", "docker-daemon:example.com/sample:1"]).expect(0);
    lists(imgmount, socket, &id);

    let unknown = with_socket(imgmount, socket, &["ls", "docker-daemon:example.com/other:2"]).expect(2);
    unknown.says("holds no image 'example.com/other:2'").says("example.com/other:3");
    let several = with_socket(imgmount, socket, &["ls", "docker-daemon:"]).expect(2);
    several.says("holds several images").says("example.com/sample:1").says(&id[..12]);
    // The path of a request never leaves the images.
    for name in ["../containers/json?", "x\r\nHost: y", "x y"] {
        let odd = with_socket(imgmount, socket, &["ls", &format!("docker-daemon:{name}")]);
        assert_eq!(odd.code, 2, "{name:?}: {}", odd.stderr);
    }
}

/// Checks the list of both images. `other` is the ID of the one with three names.
fn lists(imgmount: &Imgmount, socket: &Path, other: &str) {
    let listed = with_socket(imgmount, socket, &["images", "--json", "docker-daemon:"]).expect(0);
    let lines = listed.lines().into_iter().map(|line| serde_json::from_str(line).unwrap());
    let mut lines: Vec<Value> = lines.collect();
    lines.sort_by_key(|line| line["names"].as_array().unwrap().len());
    let other = format!("sha256:{other}");
    let [sample, other_line] = lines.as_slice() else { panic!("two images: {lines:?}") };
    assert_eq!(sample["source"], "docker-daemon:example.com/sample:1");
    assert_eq!(sample["layers"], sample_layers().len());
    assert_eq!(other_line["id"], other);
    assert_eq!(other_line["created"], "2026-01-02T03:04:05Z");
    for line in &lines {
        assert_eq!(line["platform"], "linux/amd64");
        assert!(line["size"].as_u64().unwrap() > 0, "{line}");
        let source = line["source"].as_str().unwrap();
        with_socket(imgmount, socket, &["ls", source]).expect(0);
    }
    let names = with_socket(imgmount, socket, &["complete", "--", "docker-daemon:example.com/s"]).expect(0);
    assert_eq!(names.text(), "docker-daemon:example.com/sample:1\n");
}

#[test]
fn f42_images_of_a_running_docker_are_read() {
    if !have(&[Need::Fuse, Need::Root, Need::Program("dockerd"), Need::Program("docker")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let docker = Docker::start(&imgmount);
    let client = |args: &[&str]| {
        succeed(&mut docker.command(args));
    };
    reads_what_was_loaded(&imgmount, &docker.dir.join("socket"), &client);
}

/// A podman service with its own store and socket, ended on drop.
struct PodmanService {
    dir: PathBuf,
    service: Option<Child>,
}

impl PodmanService {
    fn start(imgmount: &Imgmount) -> Self {
        let dir = imgmount.dir().join("podman");
        fs::create_dir(&dir).unwrap();
        let mut podman = PodmanService { dir, service: None };
        let address = host(&podman.socket());
        let mut service = podman.command(&["system", "service", "--time=0", &address]);
        let service = service.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        podman.service = Some(service.spawn().unwrap());
        assert!(wait_until(|| podman.socket().exists()), "no podman service");
        podman
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("podman");
        for (option, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(option).arg(self.dir.join(name));
        }
        command.args(["--storage-driver", "vfs"]).args(args);
        command
    }
}

impl Drop for PodmanService {
    fn drop(&mut self) {
        let Some(service) = &mut self.service else { return };
        let pid = rustix::process::Pid::from_child(service);
        let told = rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok();
        if !told || wait(service).is_none() {
            // This may run during a panic, so failures are ignored.
            let _ = service.kill();
        }
    }
}

#[test]
fn f42_images_of_a_podman_service_are_read() {
    if !have(&[Need::Fuse, Need::Root, Need::Program("podman")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let podman = PodmanService::start(&imgmount);
    let client = |args: &[&str]| {
        succeed(&mut podman.command(args));
    };
    reads_what_was_loaded(&imgmount, &podman.socket(), &client);
}

/// Answers each request on `socket` with the next of `answers`, and then with the last one.
fn serve(socket: &Path, answers: Vec<Vec<u8>>) {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        for (at, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            // The requests of this test arrive at once, and the answers do not depend on them.
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answers.get(at).or(answers.last()).unwrap());
        }
    });
}

fn answer(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[test]
fn f43_a_hostile_engine_is_an_error() {
    let id = format!(r#"{{"Id":"sha256:{}"}}"#, "0".repeat(64));
    let whole = answer(&tar(&docker_legacy(&[Image::sample("", Compression::Plain)])));
    let cut_off = whole[..whole.len() / 2].to_vec();
    for (at, (body, why)) in [
        (cut_off, "closed before the end of the answer"),
        (b"garbage\n".repeat(1000), "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nA: ".iter().chain(&[b'a'; 200_000]).copied().collect(), "MAX_HEAD_BYTES"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec(), "status 500: No"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_vec(), "not followed"),
        (answer(b"no image"), "not a container image"),
    ]
    .into_iter()
    .enumerate()
    {
        let imgmount = Imgmount::new();
        let socket = imgmount.dir().join(format!("socket{at}"));
        serve(&socket, vec![answer(id.as_bytes()), body]);
        with_socket(&imgmount, &socket, &["ls", "docker-daemon:x"]).expect(2).says(why);
    }
}

/// An archive that does not fit on the disk for temporary files ends with an error that says so.
#[test]
fn f43_a_full_disk_is_named() {
    if !have(&[Need::Root, Need::Program("unshare")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let id = format!(r#"{{"Id":"sha256:{}"}}"#, "0".repeat(64));
    let socket = imgmount.dir().join("socket");
    serve(&socket, vec![answer(id.as_bytes()), answer(&vec![0; 4 << 20])]);
    fs::create_dir(imgmount.dir().join("small")).unwrap();
    let script =
        "mount -t tmpfs -o size=1m none small && TMPDIR=$PWD/small imgmount ls --no-cache docker-daemon:x";
    let mut command = imgmount.shell_with_program(&format!("unshare -m sh -c '{script}'"));
    let full = run(command.env("DOCKER_HOST", host(&socket))).expect(2);
    full.says("cannot write a temporary file in").says("No space left on device");
}

#[test]
fn f42_a_socket_that_cannot_be_used_is_named() {
    let imgmount = Imgmount::as_ordinary_user();
    let socket = imgmount.dir().join("socket");
    let missing = with_socket(&imgmount, &socket, &["ls", "docker-daemon:x"]).expect(2);
    missing.says(&format!("cannot connect to the engine at '{}': No such file", socket.display()));

    serve(&socket, vec![answer(b"[]")]);
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    with_socket(&imgmount, &socket, &["ls", "docker-daemon:"]).expect(2).says("the list of images is empty");
    if is_root() {
        chown(&socket, Some(0), Some(0)).unwrap();
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o660)).unwrap();
        let denied = with_socket(&imgmount, &socket, &["ls", "docker-daemon:x"]).expect(2);
        denied.says("Permission denied").says("hint: only root and the members of the socket's group");
    }

    let mut other = imgmount.command(&["ls", "docker-daemon:x"]);
    let other = run(other.env("DOCKER_HOST", "ssh://host")).expect(2);
    other.says("DOCKER_HOST is 'ssh://host', but only unix:// addresses can be used");
}
