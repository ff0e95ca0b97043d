//! Starts containerd on its own directories, and makes images and containers with `ctr`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::mount::{UnmountFlags, unmount};

use super::podman::{USER, UserNamespace};
use super::succeed;
use crate::fixture::{
    Compression, Image, dir, file, hardlink, oci, opaque, sha256_hex, sparse, symlink, tar, whiteout,
};
use crate::mounted::{Imgmount, Need, find_program, have, run, wait, wait_until};
use crate::tree::{Field, Snapshot};

/// `cap_net_raw+ep` as the kernel stores it: struct vfs_cap_data, revision 2.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Name of the image with programs, in every test.
pub(crate) const DEMO: &str = "docker.io/library/demo:1";

/// Returns true if containerd can be started, and images be mounted.
pub(crate) fn have_containerd() -> bool {
    let tools = ["containerd", "ctr", "runc", "busybox", "tar"].map(Need::Program);
    have(&[&[Need::Fuse, Need::Root], &tools[..]].concat())
}

/// containerd with directories of the test, ended on drop.
pub(crate) struct Containerd {
    dir: PathBuf,
    root: PathBuf,
    /// The namespace in which a rootless containerd runs.
    namespace: Option<UserNamespace>,
    daemon: Option<Child>,
    /// IDs of containers that run until they are killed.
    running: Vec<String>,
    /// Directories on which snapshots are mounted.
    mounted: Vec<PathBuf>,
    archives: u32,
}

impl Containerd {
    /// Starts containerd.
    pub(crate) fn start(imgmount: &Imgmount) -> Self {
        let dir = imgmount.dir().join("containerd");
        let root = dir.join("root");
        Containerd::start_in(dir, root, None)
    }

    /// Starts containerd with the data directory `root`, as a rootless one of [`USER`].
    pub(crate) fn start_rootless(imgmount: &Imgmount, root: PathBuf) -> Self {
        let dir = imgmount.dir().join("containerd");
        for path in [&dir, &root] {
            fs::create_dir_all(path).unwrap();
            chown(path, Some(USER), Some(USER)).unwrap();
        }
        // The user must be able to enter the test's directory.
        succeed(Command::new("chmod").arg("a+x").arg(imgmount.dir()));
        Containerd::start_in(dir, root, Some(UserNamespace::new()))
    }

    fn start_in(dir: PathBuf, root: PathBuf, namespace: Option<UserNamespace>) -> Self {
        fs::create_dir_all(&dir).unwrap();
        let text = |path: &Path| format!("{:?}", path.to_str().unwrap());
        let config = format!(
            "version = 2\nroot = {}\nstate = {}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {}\n[ttrpc]\naddress = {}\n",
            text(&root),
            text(&dir.join("state")),
            text(&dir.join("socket")),
            text(&dir.join("ttrpc"))
        );
        fs::write(dir.join("config.toml"), config).unwrap();
        let mut engine = Containerd {
            dir,
            root,
            namespace,
            daemon: None,
            running: Vec::new(),
            mounted: Vec::new(),
            archives: 0,
        };
        engine.start_again();
        engine
    }

    /// Starts containerd on the directories that it had before.
    pub(crate) fn start_again(&mut self) {
        let answers = self.try_start();
        assert!(answers, "containerd: {}", fs::read_to_string(self.dir.join("log")).unwrap());
    }

    fn try_start(&mut self) -> bool {
        let log = fs::File::create(self.dir.join("log")).unwrap();
        let mut command = self.in_namespace(find_program("containerd").unwrap());
        command.arg("-c").arg(self.dir.join("config.toml"));
        let mut daemon = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let answers = || run(&mut self.ctr(&["version"])).code == 0;
        wait_until(|| answers() || daemon.try_wait().unwrap().is_some());
        let answers = answers();
        self.daemon = Some(daemon);
        answers
    }

    /// Ends containerd, but not its containers.
    pub(crate) fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let pid = rustix::process::Pid::from_child(&daemon);
            let told = rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok();
            if !told || wait(&mut daemon).is_none() {
                let _ = daemon.kill();
                let _ = daemon.wait();
            }
        }
    }

    /// Returns the data directory.
    pub(crate) fn root(&self) -> PathBuf {
        self.root.clone()
    }

    /// Returns a file of the data directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Returns the reference of an image or container: `:NAME` or `@CONTAINER`.
    pub(crate) fn reference(&self, selector: &str) -> String {
        format!("containerd:{}{selector}", self.root().display())
    }

    /// Returns a command that runs where containerd runs.
    pub(crate) fn in_namespace(&self, program: impl AsRef<OsStr>) -> Command {
        match &self.namespace {
            Some(namespace) => namespace.command(program),
            None => Command::new(program),
        }
    }

    pub(crate) fn ctr(&self, args: &[&str]) -> Command {
        let mut command = self.in_namespace("ctr");
        command.arg("-a").arg(self.dir.join("socket")).args(args).current_dir(&self.dir);
        command.stdin(Stdio::null());
        command
    }

    /// Loads images, with `options` of `ctr images import`, into a namespace.
    pub(crate) fn import(&mut self, namespace: &str, images: &[Image], options: &[&str]) {
        let archive = self.dir.join(format!("images{}.tar", self.archives));
        self.archives += 1;
        fs::write(&archive, tar(&oci(images))).unwrap();
        let command = ["-n", namespace, "images", "import"];
        succeed(&mut self.ctr(&[&command[..], options, &[archive.to_str().unwrap()]].concat()));
    }

    /// Returns the tree of an image as containerd mounts it.
    pub(crate) fn image_tree(&self, image: &str) -> Snapshot {
        let point = self.dir.join("view");
        fs::create_dir_all(&point).unwrap();
        let path = point.to_str().unwrap();
        succeed(&mut self.ctr(&["images", "mount", image, path]));
        let tree = comparable(Snapshot::of(&point));
        succeed(&mut self.ctr(&["images", "unmount", "--rm", path]));
        tree
    }

    /// Runs `script` in a new container of the image [`DEMO`], and returns its output. The container stays
    /// when it has ended.
    pub(crate) fn run(&mut self, id: &str, options: &[&str], script: &str) -> String {
        if options.contains(&"-d") {
            self.running.push(id.to_owned());
        }
        let runc = self.dir.join("runc");
        let run = ["run", "--runc-root", runc.to_str().unwrap()];
        let container = [DEMO, id, "/bin/busybox", "sh", "-ec", script];
        succeed(&mut self.ctr(&[&run[..], options, &container].concat()))
    }

    /// Returns the root file system of a running container, as its runtime mounted it.
    pub(crate) fn rootfs(&self, id: &str) -> PathBuf {
        self.dir.join("state/io.containerd.runtime.v2.task/default").join(id).join("rootfs")
    }

    /// Mounts the snapshot of a container as containerd does, and returns the mount point.
    pub(crate) fn mount_snapshot(&mut self, key: &str) -> PathBuf {
        let point = self.dir.join(format!("mounted-{key}"));
        fs::create_dir_all(&point).unwrap();
        let command = succeed(&mut self.ctr(&["snapshots", "mounts", point.to_str().unwrap(), key]));
        succeed(Command::new("sh").args(["-c", &command]));
        self.mounted.push(point.clone());
        point
    }

    /// Runs `script` in the tree of a container that was created and not started. Returns its output.
    pub(crate) fn run_in_snapshot(&self, key: &str, script: &str) -> String {
        let point = self.dir.join(format!("entered-{key}"));
        succeed(self.in_namespace("mkdir").arg("-p").arg(&point));
        let mount = succeed(&mut self.ctr(&["snapshots", "mounts", point.to_str().unwrap(), key]));
        let enter = format!("{mount} && exec chroot \"$0\" /bin/busybox sh -ec \"$1\"");
        let output = succeed(self.in_namespace("sh").args(["-c", &enter]).arg(&point).arg(script));
        succeed(self.in_namespace("umount").arg(&point));
        output
    }

    /// Removes the layer blobs of an image, as `discard_unpacked_layers` of the Kubernetes plugin does: the
    /// manifest and the config stay.
    pub(crate) fn discard_layers(&self, image: &Image) {
        let digests: Vec<String> = image.layers.iter().map(|layer| sha256_hex(&layer.blob)).collect();
        for digest in &digests {
            succeed(&mut self.ctr(&["content", "rm", &format!("sha256:{digest}")]));
        }
        let is_gone = |digest: &String| !self.blob(digest).exists();
        assert!(wait_until(|| digests.iter().all(is_gone)), "containerd keeps the blobs");
    }

    /// Returns the file of a blob.
    pub(crate) fn blob(&self, hex: &str) -> PathBuf {
        self.file(&format!("io.containerd.content.v1.content/blobs/sha256/{hex}"))
    }

    /// Returns the directories of all snapshots, the oldest first.
    pub(crate) fn snapshots(&self) -> Vec<PathBuf> {
        let all = self.file("io.containerd.snapshotter.v1.overlayfs/snapshots");
        let mut all: Vec<_> = fs::read_dir(all).unwrap().map(|entry| entry.unwrap().path()).collect();
        let number = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap();
        all.sort_by_key(number);
        all
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for point in &self.mounted {
            let _ = unmount(point, UnmountFlags::DETACH);
        }
        // Failures are ignored, because this may run during a panic.
        if !self.running.is_empty() && (self.daemon.is_some() || self.try_start()) {
            for id in &self.running {
                let _ = run(&mut self.ctr(&["tasks", "rm", "-f", id]));
            }
        }
        self.stop();
    }
}

/// Leaves out what overlays do not keep.
pub(crate) fn comparable(tree: Snapshot) -> Snapshot {
    tree.without(Field::Root).without(Field::DirectoryLinks)
}

/// Returns an ID that no other container of this machine has.
pub(crate) fn unique(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// An image with busybox, whose layers have every kind of file and mark.
pub(crate) fn demo(compression: Compression) -> Image {
    let busybox = fs::read(find_program("busybox").unwrap()).unwrap();
    let base = [
        dir("bin"),
        file("bin/busybox", busybox).mode(0o755),
        file("bin/ping", b"#!/bin/sh\n").mode(0o4755).xattr("security.capability", CAPABILITY),
        hardlink("bin/ping6", "bin/ping").mode(0o4755).xattr("security.capability", CAPABILITY),
        dir("etc"),
        file("etc/changed", b"1"),
        file("etc/deleted", b"2"),
        file("etc/mode", b"3").mode(0o644),
        file("etc/owner", b"4").owner(1000, 1000),
        file("etc/renamed", b"5").xattr("user.note", b"kept"),
        file("etc/type", b"6"),
        symlink("etc/link", "changed"),
        dir("srv"),
        dir("srv/replaced").mode(0o700),
        file("srv/replaced/old", b"7"),
        dir("srv/moved"),
        file(b"srv/moved/caf\xe9", b"8").mtime(1_600_000_000, 123_456_789),
        dir("srv/opaque"),
        file("srv/opaque/hidden", b"9"),
        file("srv/whited-out", b"10"),
        sparse("srv/sparse", 1 << 20, &[(4096, b"data"), ((1 << 20) - 4, b"tail")]),
        dir("tmp").mode(0o1777),
    ];
    let second = [
        whiteout("srv/whited-out"),
        dir("srv"),
        dir("srv/opaque"),
        opaque("srv/opaque"),
        file("srv/opaque/shown", b"11"),
    ];
    Image::named(DEMO).layer_as("ADD base", &base, "", compression).layer_as(
        "RUN rm",
        &second,
        "",
        compression,
    )
}

/// What a container does to the tree of [`demo`].
pub(crate) const CHANGES: &str = "B=/bin/busybox; \
    $B rm /etc/deleted; echo more >> /etc/changed; echo new > /etc/new; $B chmod 0600 /etc/mode; \
    $B chown 5:6 /etc/owner; $B mv /etc/renamed /etc/other-name; $B rm /etc/type; $B mkdir /etc/type; \
    $B rm -r /srv/replaced; $B mkdir /srv/replaced; echo 12 > /srv/replaced/new; \
    $B mv /srv/moved /srv/moved-away; $B ln /etc/new /etc/new-link; $B ln -s new /etc/new-symlink; \
    $B mkfifo /srv/pipe; $B mknod /srv/null c 1 3; $B chmod 4711 /etc/new; \
    $B dd if=/dev/zero of=/srv/holes bs=1 count=1 seek=100000 2>/dev/null";
