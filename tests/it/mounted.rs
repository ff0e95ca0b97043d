//! Runs the real program, mounts images, and unmounts them on every outcome.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use tempfile::TempDir;

/// After this time, a command counts as hung.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two checks of an awaited state.
const POLL: Duration = Duration::from_millis(10);
/// User and group `nobody` on every distribution.
pub(crate) const NOBODY: u32 = 65_534;

/// The program with its own cache directory, and a directory for a test's files.
pub(crate) struct Imgmount {
    dir: TempDir,
    as_nobody: bool,
}

/// The output of a command and its exit code.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    /// -1 if a signal ended the command.
    pub(crate) code: i32,
}

/// A mounted image, unmounted on drop.
pub(crate) struct Mounted {
    point: PathBuf,
    /// The server, if it stays in the foreground.
    server: Option<Child>,
    pub(crate) run: Run,
}

impl Imgmount {
    pub(crate) fn new() -> Self {
        Imgmount { dir: tempfile::tempdir().expect("a temporary directory"), as_nobody: false }
    }

    /// As [`Imgmount::new`], run by an ordinary user: `nobody`, if the tests run as root.
    pub(crate) fn as_ordinary_user() -> Self {
        let mut new = Imgmount::new();
        if is_root() {
            chown(new.dir.path(), Some(NOBODY), Some(NOBODY)).expect("giving a directory away");
            // The checkout may be below a private home directory.
            fs::copy(env!("CARGO_BIN_EXE_imgmount"), new.dir.path().join("imgmount"))
                .expect("copying the program");
            new.as_nobody = true;
        }
        new
    }

    /// Returns the directory for a test's own files, which also contains the cache and the mount points.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the cache directory that the program is told to use.
    pub(crate) fn cache(&self) -> PathBuf {
        self.dir().join("cache")
    }

    /// Writes `bytes` as a file that the program can read, and returns its path.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir().join(name);
        fs::write(&path, bytes).expect("writing an image");
        path
    }

    /// Returns the command, ready for more options.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = if self.as_nobody {
            self.user_command(self.dir().join("imgmount"))
        } else {
            Command::new(env!("CARGO_BIN_EXE_imgmount"))
        };
        command.args(args).env("IMGMOUNT_CACHE_DIR", self.cache()).env_remove("IMGMOUNT_LOG");
        command.current_dir(self.dir()).stdin(Stdio::null());
        command
    }

    /// Returns a shell script, run by the user who runs the program.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = if self.as_nobody { self.user_command("sh") } else { Command::new("sh") };
        command.args(["-c", script]);
        command
    }

    fn user_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = as_nobody(program);
        command.current_dir(self.dir());
        command
    }

    /// Returns a script in a shell that finds the program by its name, as a user's shell would.
    pub(crate) fn shell_with_program(&self, script: &str) -> Command {
        let programs = self.dir().join("bin");
        fs::create_dir_all(&programs).expect("a directory for programs");
        let link = programs.join("imgmount");
        if !link.exists() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_imgmount"), link).expect("a link to the program");
        }
        let path = env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(self.dir()).stdin(Stdio::null());
        command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", programs.display()));
        command.env("IMGMOUNT_CACHE_DIR", self.cache()).env_remove("IMGMOUNT_LOG");
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Run {
        run(&mut self.command(args))
    }

    /// Makes a new empty directory to mount on.
    pub(crate) fn mount_point(&self) -> PathBuf {
        let point = tempfile::Builder::new().prefix("mnt").tempdir_in(self.dir()).expect("a mount point");
        self.give_to_user(point.path());
        point.keep()
    }

    /// Changes the owner of a file or directory to the user who runs the program.
    pub(crate) fn give_to_user(&self, path: &Path) {
        if self.as_nobody {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("giving a directory away");
        }
    }

    /// Mounts `image` with `options`. Panics with the program's output on failure.
    #[track_caller]
    pub(crate) fn mount<S: AsRef<OsStr>>(&self, image: S, options: &[&str]) -> Mounted {
        let point = self.mount_point();
        let mut command = self.command(&[OsStr::new("mount"), image.as_ref(), point.as_os_str()]);
        // Constructed before the assertion, so that its drop cleans up after a failure, too.
        let mounted = Mounted { run: run(command.args(options)), point, server: None };
        let Run { code, stderr, .. } = &mounted.run;
        assert_eq!(*code, 0, "mounting {:?} {options:?} failed: {stderr}", image.as_ref());
        assert!(is_mounted(&mounted.point), "{} is not usable yet", mounted.point.display());
        mounted
    }

    /// Mounts `image` with a server that stays in the foreground, so that a test can kill it.
    #[track_caller]
    pub(crate) fn mount_in_foreground<S: AsRef<OsStr>>(&self, image: S, options: &[&str]) -> Mounted {
        let point = self.mount_point();
        let mut command =
            self.command(&[OsStr::new("mount"), OsStr::new("-f"), image.as_ref(), point.as_os_str()]);
        let log = File::create(self.dir().join("server.log")).expect("a log");
        let server = command.args(options).stderr(log).spawn().expect("starting the program");
        let run = Run { stdout: Vec::new(), stderr: String::new(), code: 0 };
        let mut mounted = Mounted { point, server: Some(server), run };
        let ended = |mounted: &mut Mounted| {
            mounted.server.as_mut().is_none_or(|server| server.try_wait().expect("a child").is_some())
        };
        wait_until(|| is_mounted(&mounted.point) || ended(&mut mounted));
        assert!(is_mounted(&mounted.point), "mounting {:?} in the foreground failed", image.as_ref());
        // The server is ready when it answers. A mount of another user denies access, with or without a server.
        let _ = fs::metadata(&mounted.point);
        mounted
    }
}

impl Mounted {
    /// Takes over the mount that `run` made on `point`.
    pub(crate) fn at(point: &Path, run: Run) -> Self {
        Mounted { point: point.to_owned(), server: None, run }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.point
    }

    /// Waits for the server in the foreground to end.
    pub(crate) fn server_ends(&mut self) -> Option<ExitStatus> {
        wait(self.server.as_mut().expect("a server in the foreground"))
    }

    /// Kills the server as a crash would; the mount stays, without a server.
    pub(crate) fn kill_server(&mut self) {
        let server = self.server.as_mut().expect("a server in the foreground");
        server.kill().expect("killing the server");
        server.wait().expect("the server's end");
    }

    /// Sends SIGTERM to the server and waits for its end.
    pub(crate) fn terminate_server(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.server_ends().expect("the server to end on SIGTERM")
    }

    /// Sends a signal to the server.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.server.as_ref().expect("a server in the foreground"));
        rustix::process::kill_process(pid, signal).expect("signalling the server");
    }

    /// Stops the server, and returns when all its threads have stopped. The server continues when the result
    /// is dropped: whoever waits for an answer of a stopped server waits for ever, also at the end of a test.
    pub(crate) fn stop(&self) -> Stopped<'_> {
        self.signal(rustix::process::Signal::STOP);
        let stopped = Stopped(self);
        let is_stopped = |thread: &fs::DirEntry| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        };
        let threads = PathBuf::from(format!("/proc/{}/task", self.server_id()));
        let all = || fs::read_dir(&threads).is_ok_and(|threads| threads.flatten().all(|t| is_stopped(&t)));
        assert!(wait_until(all), "the server does not stop");
        stopped
    }

    /// Returns the process of the server.
    pub(crate) fn server_id(&self) -> u32 {
        self.server.as_ref().expect("a server in the foreground").id()
    }
}

/// A server in the foreground that is stopped.
pub(crate) struct Stopped<'a>(&'a Mounted);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.signal(rustix::process::Signal::CONT);
    }
}

/// Returns the command with the default action of a signal. A process that a shell starts in the background
/// ignores SIGINT, and one that nohup starts SIGHUP, and so do those that they start. The user of the command is
/// not kept.
pub(crate) fn with_default(signal: &str, command: &Command) -> Command {
    let mut env = Command::new("env");
    env.arg(format!("--default-signal={signal}")).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => env.env(name, value),
            None => env.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        env.current_dir(directory);
    }
    env
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let detached_late = !wait_briefly(|| !is_mounted(&self.point) || unmount(&self.point, false));
        if detached_late {
            unmount(&self.point, true);
        }
        if let Some(server) = &mut self.server
            && wait(server).is_none()
        {
            // The server would outlive the test; a failure to kill it is ignored.
            let _ = server.kill();
        }
    }
}

impl Run {
    /// Returns standard output as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("output in UTF-8")
    }

    /// Returns standard output as lines.
    pub(crate) fn lines(&self) -> Vec<&str> {
        self.text().lines().collect()
    }

    /// Panics with the program's output unless it ended with `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stderr: {}", self.stderr);
        self
    }

    /// Panics unless standard error contains `part`.
    #[track_caller]
    pub(crate) fn says(self, part: &str) -> Self {
        assert!(self.stderr.contains(part), "stderr should say {part:?}: {}", self.stderr);
        self
    }
}

/// Returns a command run by an ordinary user other than root.
pub(crate) fn as_nobody(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={NOBODY}")).arg(format!("--regid={NOBODY}")).arg("--clear-groups");
    command.arg(program).stdin(Stdio::null());
    command
}

/// Runs a command to its end. Output goes through files: with pipes, this would wait for a server that
/// wrongly keeps its parent's output open.
pub(crate) fn run(command: &mut Command) -> Run {
    let (stdout, stderr) = (tempfile::NamedTempFile::new(), tempfile::NamedTempFile::new());
    let (stdout, stderr) = (stdout.expect("a file for output"), stderr.expect("a file for output"));
    command.stdout(stdout.reopen().expect("a file for output"));
    command.stderr(stderr.reopen().expect("a file for output"));
    let mut child = command.spawn().unwrap_or_else(|e| panic!("starting {command:?}: {e}"));
    let status = wait(&mut child).unwrap_or_else(|| {
        child.kill().expect("killing what hangs");
        panic!("{command:?} did not end within {PATIENCE:?}: {}", lossy(stderr.path()))
    });
    Run {
        stdout: fs::read(stdout.path()).expect("reading output"),
        stderr: lossy(stderr.path()),
        code: status.code().unwrap_or(-1),
    }
}

fn lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).expect("reading output")).into_owned()
}

/// Returns the exit status, or `None` if the child does not end in time.
pub(crate) fn wait(child: &mut Child) -> Option<ExitStatus> {
    let mut status = None;
    wait_until(|| {
        status = child.try_wait().expect("a child of this process");
        status.is_some()
    });
    status
}

/// Waits until `done` returns true. Returns false on timeout.
pub(crate) fn wait_until(done: impl FnMut() -> bool) -> bool {
    wait_for(PATIENCE, done)
}

/// Waits for a short while, for what is tried again if it does not happen.
pub(crate) fn wait_briefly(done: impl FnMut() -> bool) -> bool {
    wait_for(Duration::from_secs(2), done)
}

fn wait_for(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if done() {
            return true;
        }
        if start.elapsed() > patience {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// Whether a FUSE file system is mounted on `point`, with or without a server.
pub(crate) fn is_mounted(point: &Path) -> bool {
    let point = point.to_str().expect("a mount point in UTF-8");
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    table.lines().any(|line| line.split(' ').nth(4) == Some(point) && line.contains(" - fuse"))
}

/// Unmounts `point`, lazily although it is in use. Returns whether it did.
pub(crate) fn unmount(point: &Path, lazily: bool) -> bool {
    if is_root() {
        use rustix::mount::UnmountFlags;
        let flags = if lazily { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        return rustix::mount::unmount(point, flags).is_ok();
    }
    let option = if lazily { "-uz" } else { "-u" };
    let status = Command::new("fusermount3").arg(option).arg(point).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns `IMAGE:/path`.
pub(crate) fn inside(image: &Path, path: &str) -> OsString {
    let mut reference = image.as_os_str().to_owned();
    reference.push(":");
    reference.push(path);
    reference
}

/// A requirement of a test on the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// `/dev/fuse`, and for users other than root fusermount3.
    Fuse,
    /// `/dev/fuse`, and fusermount3 for users other than root.
    FuseForUsers,
    /// The tests run as root.
    Root,
    /// A program in PATH, or in sbin.
    Program(&'static str),
}

/// Returns true if all `needs` are met. Otherwise prints that the calling test is skipped; if `CI` is
/// set, it panics instead, because nothing may be skipped.
pub(crate) fn have(needs: &[Need]) -> bool {
    let missing: Vec<String> = needs.iter().filter_map(|need| need.missing()).collect();
    if missing.is_empty() {
        return true;
    }
    let thread = thread::current();
    let message = format!("SKIPPED {}: needs {}", thread.name().unwrap_or("?"), missing.join(", "));
    assert!(env::var_os("CI").is_none(), "{message}");
    // Not eprintln!, which the test runner captures.
    writeln!(std::io::stderr(), "{message}").expect("writing to standard error");
    false
}

impl Need {
    fn missing(self) -> Option<String> {
        let fuse_mode = || fs::metadata("/dev/fuse").map_or(0, |meta| meta.permissions().mode());
        let fusermount = || find_program("fusermount3").is_some();
        match self {
            Need::Fuse if is_root() => (fuse_mode() == 0).then(|| "/dev/fuse".to_owned()),
            Need::Fuse | Need::FuseForUsers => (fuse_mode() & 0o006 != 0o006 || !fusermount())
                .then(|| "fusermount3 and a /dev/fuse that all may open (mode 0666)".to_owned()),
            Need::Root => (!is_root()).then(|| "root".to_owned()),
            Need::Program(name) => find_program(name).is_none().then(|| name.to_owned()),
        }
    }
}

/// Returns the path of a program: in PATH, or in the directories for root's programs.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(sbin).map(|dir| dir.join(name)).find(|file| file.is_file())
}
