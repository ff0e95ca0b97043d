//! A registry at the far end of a slow link, with the real image in it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::bench::Bench;
use crate::cleanup::{self, Running};
use crate::link::{FAR, Link, Speed};
use crate::measure::output;
use crate::tools::{self, Need, missing};

const PORT: u16 = 5000;
/// Repository and tag of the image.
const NAME: &str = "demo";
const TAG: &str = "1";
const CONFIG: &str = "config.yml";
const LOG: &str = "log";
/// Time limit for the registry to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// CNCF Distribution, in the namespace at the far end.
#[derive(Debug)]
pub(crate) struct Registry {
    link: Link,
    dir: TempDir,
    server: Child,
    _interruptible: Running,
    digest: String,
}

/// What the registry has sent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sent {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
}

/// Returns the reason why a registry with a link cannot be had here.
pub(crate) fn unavailable() -> Option<String> {
    missing(&["docker-registry", "skopeo", "curl"].map(Need::Program)).or_else(crate::link::missing)
}

impl Registry {
    /// Starts a registry behind a link and pushes the OCI layout `image` to it, not over the link.
    pub(crate) fn start(bench: &Bench, speed: Speed, image: &Path) -> Result<Self> {
        let link = Link::new(speed)?;
        let dir = bench.directory("registry-")?;
        let config = dir.path().join(CONFIG);
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\n\
                 storage: {{filesystem: {{rootdirectory: \"{}\"}}}}\nhttp: {{addr: \"0.0.0.0:{PORT}\"}}\n",
                dir.path().join("blobs").display()
            ),
        )?;
        let mut command = link.far(tools::command("docker-registry").arg("serve").arg(&config));
        // The log of requests goes to the standard output.
        let log = File::create(dir.path().join(LOG))?;
        command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).process_group(0);
        let server = command.spawn().context("cannot start docker-registry")?;
        let running = Running::group(server.id());
        let mut registry = Registry { link, dir, server, _interruptible: running, digest: String::new() };
        registry.wait_until_ready()?;
        registry.digest = registry.push(image)?;
        Ok(registry)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        let url = format!("http://127.0.0.1:{PORT}/v2/");
        while output(&mut self.far(tools::command("curl").args(["-sf", &url]))).is_err() {
            ensure!(start.elapsed() < PATIENCE, "docker-registry does not answer");
            ensure!(self.server.try_wait()?.is_none(), "docker-registry has ended");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Pushes the image, and returns the digest of its manifest.
    fn push(&self, image: &Path) -> Result<String> {
        let digest = self.dir.path().join("digest");
        let mut copy = tools::command("skopeo");
        copy.args(["copy", "-q", "--dest-tls-verify=false", "--digestfile"]).arg(&digest);
        copy.arg(format!("oci:{}:latest", image.display())).arg(format!("docker://{}", tagged("127.0.0.1")));
        output(&mut self.far(&copy)).context("cannot push the image")?;
        Ok(fs::read_to_string(digest)?.trim().to_owned())
    }

    /// Returns `command` as a command at the near end.
    pub(crate) fn near(&self, command: &Command) -> Command {
        self.link.near(command)
    }

    /// Returns `command` as a command at the far end, where the registry is.
    pub(crate) fn far(&self, command: &Command) -> Command {
        self.link.far(command)
    }

    /// Returns the image by its digest, at the far end of the link or, for commands there, without the link.
    pub(crate) fn by_digest(&self, at: End) -> String {
        format!("{}@{}", repository(at.address()), self.digest)
    }

    /// Returns the address of a blob.
    pub(crate) fn blob(&self, at: End, digest: &str) -> String {
        format!("http://{}:{PORT}/v2/{NAME}/blobs/{digest}", at.address())
    }

    /// Returns the answers of the registry so far, except those with an error.
    pub(crate) fn sent(&self) -> Result<Sent> {
        let log = fs::read_to_string(self.dir.path().join(LOG)).context("the registry has no log")?;
        let mut sent = Sent::default();
        for line in log.lines() {
            // `... "GET /v2/demo/blobs/sha256:... HTTP/1.1" 206 346112 "" "imgmount/1.0"`
            let Some((_, answer)) = line.split_once("\" ") else { continue };
            let mut numbers = answer.split(' ').map_while(|word| word.parse::<u64>().ok());
            if let (Some(200 | 206), Some(bytes)) = (numbers.next(), numbers.next()) {
                sent.requests += 1;
                sent.bytes += bytes;
            }
        }
        Ok(sent)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        cleanup::kill_group(self.server.id());
        let _ = self.server.wait();
    }
}

/// From where the registry is addressed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// From the near end of the link.
    Near,
    /// From the namespace of the registry itself.
    Far,
}

impl End {
    fn address(self) -> &'static str {
        match self {
            End::Near => FAR,
            End::Far => "127.0.0.1",
        }
    }

    /// Returns the image by its tag.
    pub(crate) fn by_tag(self) -> String {
        tagged(self.address())
    }
}

fn repository(address: &str) -> String {
    format!("{address}:{PORT}/{NAME}")
}

fn tagged(address: &str) -> String {
    format!("{}:{TAG}", repository(address))
}

/// The registry's host and port, as seen from the near end.
pub(crate) fn host() -> String {
    format!("{FAR}:{PORT}")
}

impl Sent {
    /// Returns what was sent since `before`.
    pub(crate) fn since(self, before: Sent) -> Sent {
        Sent { requests: self.requests - before.requests, bytes: self.bytes - before.bytes }
    }
}

/// Returns the name of a blob in an OCI layout as a digest.
pub(crate) fn digest(blob: &Path) -> Result<String> {
    let hex = blob.file_name().with_context(|| format!("'{}' is no blob", blob.display()))?;
    Ok(format!("sha256:{}", hex.to_string_lossy()))
}
