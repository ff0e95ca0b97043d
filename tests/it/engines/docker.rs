//! Starts docker daemons with their own sockets and data.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{succeed, unpack};
use crate::fixture::{Item, tar};
use crate::mounted::{Imgmount, find_program, run, wait, wait_until};
use crate::tree::Snapshot;

/// A docker daemon with its own socket and data, ended on drop.
pub(crate) struct Docker {
    pub(crate) dir: PathBuf,
    daemon: Child,
}

impl Docker {
    /// Starts docker with overlay2, which writes opaque marks; where overlay2 does not work, as on another
    /// overlay, with vfs.
    pub(crate) fn start(imgmount: &Imgmount) -> Self {
        let overlay = Docker::start_with(imgmount, "overlay2");
        overlay.or_else(|_| Docker::start_with(imgmount, "vfs")).expect("a docker daemon")
    }

    /// Starts docker with this storage driver; fails with its log.
    pub(crate) fn start_with(imgmount: &Imgmount, driver: &str) -> Result<Self, String> {
        let dir = imgmount.dir().join(driver);
        fs::create_dir_all(dir.join("context")).unwrap();
        let option = |name: &str, file: &str| format!("--{name}={}", dir.join(file).display());
        let mut command = Command::new(find_program("dockerd").unwrap());
        command.args([option("data-root", "data"), option("exec-root", "exec"), option("pidfile", "pid")]);
        command.arg(format!("--host=unix://{}", dir.join("socket").display()));
        command.args(["--iptables=false", "--bridge=none", &format!("--storage-driver={driver}")]);
        let log = fs::File::create(dir.join("log")).unwrap();
        let daemon = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut docker = Docker { dir, daemon };
        let answers = |docker: &Docker| run(&mut docker.command(&["version"])).code == 0;
        wait_until(|| answers(&docker) || docker.daemon.try_wait().unwrap().is_some());
        if answers(&docker) {
            return Ok(docker);
        }
        Err(fs::read_to_string(docker.dir.join("log")).unwrap())
    }

    /// Returns the data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Runs a command of docker. Panics with its output if it fails.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> String {
        succeed(&mut self.command(args))
    }

    /// Loads the images in the docker-archive with these members.
    #[track_caller]
    pub(crate) fn load(&self, items: &[Item]) {
        fs::write(self.dir.join("load.tar"), tar(items)).unwrap();
        self.run(&["load", "-q", "-i", "load.tar"]);
    }

    /// Ends the daemon and waits for its end. The data stay.
    pub(crate) fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.daemon);
        if rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok() {
            wait(&mut self.daemon).expect("the end of a docker daemon");
        }
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        // Uses the classic builder: the other one is a plug-in that distributions package separately.
        command.env("DOCKER_HOST", format!("unix://{}", self.dir.join("socket").display()));
        command.env("DOCKER_BUILDKIT", "0").env("DOCKER_CONFIG", &self.dir).args(args).current_dir(&self.dir);
        command
    }

    /// Builds the files in `context` by these steps, each of which makes a layer.
    pub(crate) fn build(&self, name: &str, steps: &str) {
        fs::write(self.dir.join("context/Dockerfile"), steps).unwrap();
        succeed(&mut self.command(&["build", "-q", "--network", "none", "-t", name, "context"]));
    }

    pub(crate) fn export(&self, image: &str) -> Snapshot {
        let container = succeed(&mut self.command(&["create", image, "/bin/none"]));
        let archive = format!("{container}.tar");
        succeed(&mut self.command(&["export", "-o", &archive, &container]));
        unpack(&self.dir.join(archive), &self.dir.join(container))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.daemon);
        if self.daemon.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        let told = rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok();
        if !told || wait(&mut self.daemon).is_none() {
            // This may run during a panic, so failures are ignored.
            let _ = self.daemon.kill();
        }
    }
}
