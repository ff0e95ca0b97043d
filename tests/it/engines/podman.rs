//! Runs podman with its own store, as root or as an ordinary user.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{succeed, unpack};
use crate::mounted::{Imgmount, find_program, run, wait_until};
use crate::tree::Snapshot;

/// The user and group who owns the store of [`Podman::rootless`], and the first of its further IDs.
pub(crate) const USER: u32 = 1000;
pub(crate) const FURTHER_IDS: u32 = 100_000;

/// The limits that containers get. The defaults need a capability that root may lack in a container.
const LIMITS: [&str; 4] = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];

/// Podman with a store in directories of the test.
pub(crate) struct Podman {
    pub(crate) dir: PathBuf,
    pub(crate) store: PathBuf,
    options: Vec<String>,
    namespace: Option<UserNamespace>,
}

impl Podman {
    /// Creates a store with the storage driver `driver`, in a directory of that name.
    pub(crate) fn new(imgmount: &Imgmount, driver: &str) -> Self {
        let dir = imgmount.dir().join(format!("podman-{driver}"));
        Podman::in_store(&dir, dir.join("root"), &["--storage-driver", driver])
    }

    /// Creates a store at `store` with further options of podman. Everything else is in `dir`.
    pub(crate) fn in_store(dir: &Path, store: PathBuf, options: &[&str]) -> Self {
        fs::create_dir_all(dir).unwrap();
        fs::create_dir_all(&store).unwrap();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Podman { dir: dir.to_owned(), store, options, namespace: None }
    }

    /// Creates a store that belongs to [`USER`], as podman does when that user runs it: in a user namespace
    /// in which the user is root.
    pub(crate) fn rootless(dir: &Path, store: PathBuf, options: &[&str]) -> Self {
        let mut podman = Podman::in_store(dir, store, options);
        for owned in [&podman.dir, &podman.store] {
            std::os::unix::fs::chown(owned, Some(USER), Some(USER)).unwrap();
        }
        podman.namespace = Some(UserNamespace::new());
        podman
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.in_namespace("podman");
        command.env("HOME", &self.dir).env("XDG_RUNTIME_DIR", &self.dir);
        for (option, path) in [
            ("--root", &self.store),
            ("--runroot", &self.dir.join("run")),
            ("--tmpdir", &self.dir.join("tmp")),
        ] {
            command.arg(option).arg(path);
        }
        command.args(["--cgroup-manager", "cgroupfs"]).args(&self.options).args(args).current_dir(&self.dir);
        command
    }

    /// Returns a command that runs where podman runs: in the user's namespace, unless podman runs as root.
    pub(crate) fn in_namespace(&self, program: &str) -> Command {
        match &self.namespace {
            Some(namespace) => namespace.command(program),
            None => Command::new(program),
        }
    }

    /// Loads the images of an archive.
    pub(crate) fn load(&self, archive: &Path) {
        succeed(self.command(&["load", "-q", "-i"]).arg(archive));
    }

    /// Exports the tree of a container that is made of `image` and never started.
    pub(crate) fn export(&self, image: &str) -> Snapshot {
        succeed(&mut self.command(&["create", "--name", "exported", image, "/bin/none"]));
        self.export_container("exported")
    }

    /// Exports the tree of a container.
    pub(crate) fn export_container(&self, container: &str) -> Snapshot {
        let archive = self.dir.join(format!("{container}.tar"));
        succeed(self.command(&["export", "-o"]).arg(&archive).arg(container));
        unpack(&archive, &self.dir.join(container))
    }

    /// Returns the tree of a container, as podman mounts it.
    pub(crate) fn mounted(&self, container: &str) -> Snapshot {
        let tree = Snapshot::of(Path::new(&succeed(&mut self.command(&["mount", container]))));
        succeed(&mut self.command(&["umount", container]));
        tree
    }

    /// Creates a container of `image`, which has `/bin/busybox`, and runs a shell script in it. Where
    /// containers cannot be started, the script runs in the tree that podman mounts.
    pub(crate) fn run(&self, container: &str, image: &str, options: &[&str], script: &str) {
        let shell = ["/bin/busybox", "sh", "-euc", script];
        let runtime = if find_program("runc").is_some() { "runc" } else { "crun" };
        let mut start =
            self.command(&["--runtime", runtime, "run", "--name", container, "--network", "none"]);
        let ran = run(start.args(LIMITS).args(options).arg(image).args(shell));
        if ran.code == 0 {
            return;
        }
        // The script itself must not fail: it would leave a changed container.
        assert!(self.namespace.is_none(), "{}", ran.stderr);
        run(&mut self.command(&["rm", "-f", container]));
        succeed(self.command(&["create", "--name", container]).args(options).args([image, "/bin/none"]));
        let point = succeed(&mut self.command(&["mount", container]));
        succeed(Command::new("chroot").arg(point).args(shell));
        succeed(&mut self.command(&["umount", container]));
    }

    /// Returns the ID of the layer of a container, or of the topmost layer of an image.
    pub(crate) fn layer(&self, list: &str, name: &str) -> String {
        let text = fs::read(self.store.join(list)).unwrap();
        let records: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
        let has_name = |record: &&serde_json::Value| {
            record["names"].as_array().is_some_and(|names| names.iter().any(|other| other == name))
        };
        records.iter().find(has_name).unwrap()["layer"].as_str().unwrap().to_owned()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // A test that failed may leave a tree mounted. Failures are ignored, as this may run in a panic.
        let mut umount = self.command(&["umount", "--all"]);
        let _ = umount.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// A user namespace in which [`USER`] is root, with 65,536 further IDs, and a mount namespace. A process that
/// sleeps keeps both.
pub(super) struct UserNamespace {
    keeper: Child,
}

impl UserNamespace {
    pub(super) fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--user", "--mount", "--propagation", "private", "sleep", "1000"]);
        let keeper = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let proc = PathBuf::from(format!("/proc/{}", keeper.id()));
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        assert!(wait_until(|| fs::read_link(proc.join("ns/user")).is_ok_and(|namespace| namespace != own)));
        for map in ["uid_map", "gid_map"] {
            fs::write(proc.join(map), format!("0 {USER} 1\n1 {FURTHER_IDS} 65536\n")).unwrap();
        }
        UserNamespace { keeper }
    }

    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--user", "--mount", "--target", &self.keeper.id().to_string()]);
        command.args(["--setuid", "0", "--setgid", "0", "--wd=/"]).arg(program);
        // Podman looks for these, and then does not create a user namespace.
        command.env("_CONTAINERS_USERNS_CONFIGURED", "done");
        command.env("_CONTAINERS_ROOTLESS_UID", USER.to_string());
        command.env("_CONTAINERS_ROOTLESS_GID", USER.to_string());
        command
    }
}

impl Drop for UserNamespace {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
