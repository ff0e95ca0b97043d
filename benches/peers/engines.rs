//! Container engines with their own stores.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::bench::Bench;
use crate::cleanup::{self, Running};
use crate::measure::{Spent, output, run};
use crate::tools;

/// The name of the real image in podman.
const IMAGE: &str = "localhost/demo:latest";
/// Time limit for a daemon to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Podman with images on overlay.
#[derive(Debug)]
pub(crate) struct Podman {
    store: TempDir,
    run: TempDir,
}

impl Podman {
    pub(crate) fn new(bench: &Bench) -> Result<Self> {
        Ok(Podman { store: bench.directory("podman-")?, run: bench.work.short_directory()? })
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tools::command("podman");
        command.arg("--root").arg(self.store.path()).arg("--runroot").arg(self.run.path());
        command.args(["--storage-driver", "overlay"]).args(arguments);
        command
    }

    pub(crate) fn load(&self, archive: &Path) -> Result<Spent> {
        run(self.command(&["load", "-q", "-i"]).arg(archive))
    }

    /// Returns the directories of the real image's layers, in the form of overlay's option `lowerdir`.
    pub(crate) fn lower_dirs(&self) -> Result<String> {
        let point = output(&mut self.command(&["image", "mount", IMAGE]))?;
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        output(&mut self.command(&["image", "unmount", IMAGE]))?;
        let line = table.lines().find(|line| line.split(' ').nth(4) == Some(point.trim()));
        let options = line.and_then(|line| line.rsplit(' ').next()).unwrap_or_default();
        let lower = options.split(',').find_map(|option| option.strip_prefix("lowerdir="));
        Ok(lower.context("podman does not use overlay")?.to_owned())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // podman mounts the store on itself.
        cleanup::unmount_below(self.store.path());
    }
}

/// A docker daemon with its own data.
#[derive(Debug)]
pub(crate) struct Docker {
    dir: TempDir,
    run: TempDir,
    daemon: Child,
    _interruptible: Running,
}

impl Docker {
    pub(crate) fn start(bench: &Bench) -> Result<Self> {
        Docker::start_in(bench, |command| command)
    }

    /// Starts the daemon with the command that `enter` makes of the usual one.
    pub(crate) fn start_in(bench: &Bench, enter: impl FnOnce(Command) -> Command) -> Result<Self> {
        let (dir, run) = (bench.directory("docker-")?, bench.work.short_directory()?);
        let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let mut command = tools::command("dockerd");
        command.arg(option("data-root", dir.path())).arg(option("exec-root", &run.path().join("exec")));
        command.arg(option("pidfile", &run.path().join("pid")));
        command.arg(format!("--host={}", socket(run.path())));
        command.args(["--iptables=false", "--bridge=none", "--storage-driver=overlay2"]);
        let mut command = enter(command);
        let log = File::create(run.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        let daemon = command.spawn().context("cannot start dockerd")?;
        let running = Running::group(daemon.id());
        let mut docker = Docker { dir, run, daemon, _interruptible: running };
        let start = Instant::now();
        while output(&mut docker.command(&["version"])).is_err() {
            if start.elapsed() > PATIENCE || docker.daemon.try_wait()?.is_some() {
                let log = fs::read_to_string(docker.run.path().join("log")).unwrap_or_default();
                bail!("dockerd does not start: {}", log.lines().last().unwrap_or_default());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(docker)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tools::command("docker");
        command.env("DOCKER_HOST", socket(self.run.path()));
        command.env("DOCKER_CONFIG", self.run.path()).args(arguments);
        command
    }

    /// Loads the real image; removing it again is not measured.
    pub(crate) fn load(&self, archive: &Path) -> Result<Spent> {
        let spent = run(self.command(&["load", "-q", "-i"]).arg(archive))?;
        output(&mut self.command(&["rmi", "-f", IMAGE]))?;
        Ok(spent)
    }

    /// Pulls an image; removing it again is not measured.
    pub(crate) fn pull(&self, image: &str) -> Result<Spent> {
        let spent = run(&mut self.command(&["pull", "-q", image]))?;
        output(&mut self.command(&["rmi", "-f", image]))?;
        Ok(spent)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.daemon);
        // When the daemon ends after SIGTERM, it ends its containerd too.
        let told = kill_process(pid, Signal::TERM).is_ok();
        let start = Instant::now();
        while told && start.elapsed() < PATIENCE && matches!(self.daemon.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(50));
        }
        cleanup::kill_group(self.daemon.id());
        let _ = self.daemon.wait();
        cleanup::unmount_below(self.dir.path());
        cleanup::unmount_below(self.run.path());
    }
}

fn socket(dir: &Path) -> String {
    format!("unix://{}", dir.join("socket").display())
}
