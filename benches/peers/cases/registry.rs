//! Measures an image in a registry, over a slow link that this machine emulates.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::random_read::Files;
use super::read::tar;
use super::{Findings, blobs};
use crate::bench::{Bench, Served, get_or_try};
use crate::engines::{Docker, Podman};
use crate::inputs::Real;
use crate::link::Speed;
use crate::made::random::Random;
use crate::measure::{Contender, Quantity, Sample, Spent, WALL, race, run, say};
use crate::registry::{End, Registry, digest, host, unavailable};
use crate::report::unit::{Unit, to_f64};
use crate::report::{Group, Row};
use crate::tools::{self, Need, missing};
use crate::trees::Trees;

/// 100 Mbit/s, and a round trip of 100 ms. The queue is as long as a round trip.
const SPEED: Speed =
    Speed { delay: Duration::from_millis(50), bits_a_second: 100_000_000, queue: Duration::from_millis(100) };

const ALL: &str = "first mount";
const LAZY_TAR: &str = "tar, nothing downloaded";
/// The plain download.
const PLAIN: &str = "curl";
const LOOPBACK: &str = "first mount, without the link";
const REMOUNT: &str = "remount";
const FIRST_FILE: &str = "cat /etc/os-release, nothing downloaded";
const SCATTERED: &str = "200 scattered files, nothing downloaded";

const REQUESTS: Quantity = ("requests", Unit::Number);
const RECEIVED: Quantity = ("received", Unit::Bytes);
/// The number of scattered files.
const FILES: usize = 200;

const NOTES: &[&str] = &[
    "Debian's docker-registry, with plain HTTP and without access control, in a network namespace. The clients are in \
     another one. Packets take 50 ms from one to the other, at 100 Mbit/s, and wait up to 100 ms in a queue.",
    "`curl` downloads the layers one after the other over one connection, and keeps nothing: the time that the bytes \
     alone take. `skopeo` writes an OCI layout, which `imgmount` then mounts; `podman` and `docker` unpack.",
    "`tar`, nothing downloaded: the whole tree of a mount whose indexes are stored, and no layer. The bytes come in \
     the order in which `tar` reads them; files that a higher layer replaces are not needed.",
    "Remount: the indexes are stored. By tag, the registry is asked for the digest, and whether it speaks TLS.",
    "`cat` and the 200 files, which are chosen evenly among all files and read one after the other, by a new process \
     for each run: with the indexes, and no layer and no connection. `requests` and `received` are from the log of \
     the registry.",
    "Without the link: the client in the namespace of the registry; and the same layers in an OCI layout.",
];

pub(crate) fn measure(bench: &Bench, _: &Trees<'_>) -> Result<Findings> {
    if let Some(why) = unavailable() {
        say(&format!("registry: skipped: {why}"));
        let group =
            |title: &str| Group { title: title.to_owned(), rows: vec![Row::skipped("imgmount", &why)] };
        let groups = [ALL, LAZY_TAR, LOOPBACK, REMOUNT, FIRST_FILE, SCATTERED].map(group);
        return Ok(Findings::new(groups.to_vec(), NOTES));
    }
    let image = bench.inputs.real(Real::GzipLayout)?;
    let registry = Registry::start(bench, SPEED, &image)?;
    let place = Place { bench, registry: &registry, image: &image, cache: bench.directory("cache-")? };
    // The indexes, which need no link.
    place.mount(End::Far, place.cache.path(), &registry.by_digest(End::Far))?;
    let runs = place.long_runs();
    let all = vec![
        place.first_mount(),
        place.curl(End::Near, runs),
        place.skopeo(),
        place.podman(),
        place.docker(),
        place.lazy_tar(),
    ];
    let [all, lazy_tar] = split(race(ALL, all));
    let groups = vec![
        all,
        lazy_tar,
        race(LOOPBACK, vec![place.without_link(), place.curl(End::Far, bench.runs), place.layout()]),
        race(
            REMOUNT,
            vec![
                place.remount("imgmount", registry.by_digest(End::Near)),
                place.remount("imgmount, by tag", End::Near.by_tag()),
                place.remount_layout(),
            ],
        ),
        race(FIRST_FILE, vec![place.first_file()]),
        race(SCATTERED, vec![place.scattered()]),
    ];
    Ok(Findings::new(groups, NOTES))
}

/// Moves the tar of a lazy mount, which is the last row, to a group of its own, and compares it with the plain
/// download there. All take turns, so they are measured together.
fn split(mut all: Group) -> [Group; 2] {
    let lazy_tar = all.rows.pop().map(|row| Row { contender: "imgmount".to_owned(), ..row });
    let rows = lazy_tar.into_iter().chain(all.row(PLAIN).cloned()).collect();
    [all, Group { title: LAZY_TAR.to_owned(), rows }]
}

/// What the contenders share.
struct Place<'a> {
    bench: &'a Bench,
    registry: &'a Registry,
    image: &'a Path,
    /// A cache directory with the indexes of the image.
    cache: TempDir,
}

impl Place<'_> {
    /// Returns the number of runs for contenders that download the image.
    fn long_runs(&self) -> usize {
        if self.bench.quick { 1 } else { self.bench.runs.min(3) }
    }

    fn enter(&self, end: End, command: &Command) -> Command {
        match end {
            End::Near => self.registry.near(command),
            End::Far => self.registry.far(command),
        }
    }

    /// Mounts an image of the registry by a process at this end.
    fn mount(&self, end: End, cache: &Path, image: &str) -> Result<(Spent, Served)> {
        let image = format!("docker://{image}");
        let enter = |command| self.enter(end, &command);
        self.bench.mount_in(enter, cache, OsStr::new(&image), &["--insecure"])
    }

    /// Mounts the image by a new process that has its indexes, but no layers and no connection.
    fn lazy_mount(&self) -> Result<Served> {
        let blobs = self.cache.path().join("blobs");
        if blobs.exists() {
            fs::remove_dir_all(&blobs).with_context(|| format!("cannot remove '{}'", blobs.display()))?;
        }
        Ok(self.mount(End::Near, self.cache.path(), &self.registry.by_digest(End::Near))?.1)
    }

    /// Measures `read` on a lazy mount, with what the registry sends for it.
    fn lazily(&self, read: impl FnOnce(&Path) -> Result<Spent>) -> Result<Sample> {
        let served = self.lazy_mount()?;
        let before = self.registry.sent()?;
        let spent = read(served.path())?;
        let sent = self.registry.sent()?.since(before);
        Ok(Sample(vec![
            (WALL, spent.wall),
            (REQUESTS, to_f64(sent.requests)),
            (RECEIVED, to_f64(sent.bytes)),
        ]))
    }

    fn first_mount(&self) -> Contender<'_> {
        Contender::new("imgmount", self.long_runs(), || {
            let cache = self.bench.directory("cache-")?;
            Ok(self.mount(End::Near, cache.path(), &End::Near.by_tag())?.0.with_cpu())
        })
    }

    fn curl(&self, end: End, runs: usize) -> Contender<'_> {
        Contender::new(PLAIN, runs, move || {
            let mut curl = tools::command("curl");
            curl.arg("-sf");
            for blob in blobs(self.image)? {
                curl.args(["-o", "/dev/null"]).arg(self.registry.blob(end, &digest(&blob)?));
            }
            Ok(run(&mut self.enter(end, &curl))?.with_cpu())
        })
    }

    fn lazy_tar(&self) -> Contender<'_> {
        Contender::new("tar of a lazy mount", self.long_runs(), || {
            Ok(tar(self.lazy_mount()?.path())?.wall_only())
        })
    }

    fn skopeo(&self) -> Contender<'_> {
        Contender::new("skopeo copy, then imgmount", self.long_runs(), || {
            let dir = self.bench.directory("skopeo-")?;
            let layout = dir.path().join("image");
            let mut copy = tools::command("skopeo");
            copy.args(["copy", "-q", "--src-tls-verify=false", &format!("docker://{}", End::Near.by_tag())]);
            copy.arg(format!("oci:{}:demo", layout.display()));
            let copied = run(&mut self.registry.near(&copy))?;
            let mounted = self.bench.first_mount(&layout, &[])?.0;
            Ok(Spent { wall: copied.wall + mounted.wall, cpu: copied.cpu + mounted.cpu }.with_cpu())
        })
    }

    fn podman(&self) -> Contender<'_> {
        let pull = || {
            let podman = Podman::new(self.bench)?;
            let pull = podman.command(&["pull", "-q", "--tls-verify=false", &End::Near.by_tag()]);
            Ok(run(&mut self.registry.near(&pull))?.with_cpu())
        };
        Contender::new("podman pull", self.long_runs(), pull).unless(missing(&[Need::Program("podman")]))
    }

    fn docker(&self) -> Contender<'_> {
        let daemon = OnceCell::new();
        let pull = move || {
            let start = || {
                Docker::start_in(self.bench, |mut command| {
                    self.registry.near(command.arg(format!("--insecure-registry={}", host())))
                })
            };
            Ok(get_or_try(&daemon, start)?.pull(&End::Near.by_tag())?.wall_only())
        };
        let needs = [Need::Program("dockerd"), Need::Program("docker")];
        Contender::new("docker pull", self.long_runs(), pull).unless(missing(&needs))
    }

    fn without_link(&self) -> Contender<'_> {
        Contender::new("imgmount", self.bench.runs, || {
            let cache = self.bench.directory("cache-")?;
            Ok(self.mount(End::Far, cache.path(), &End::Far.by_tag())?.0.with_cpu())
        })
    }

    fn layout(&self) -> Contender<'_> {
        Contender::new("imgmount, from the OCI layout", self.bench.runs, || {
            Ok(self.bench.first_mount(self.image, &[])?.0.with_cpu())
        })
    }

    fn remount(&self, name: &str, image: String) -> Contender<'_> {
        Contender::new(name, self.bench.many_runs(), move || {
            Ok(self.mount(End::Near, self.cache.path(), &image)?.0.wall_only())
        })
    }

    fn remount_layout(&self) -> Contender<'_> {
        Contender::new("imgmount, from the OCI layout", self.bench.many_runs(), || {
            Ok(self.bench.mount(self.cache.path(), self.image, &[])?.0.wall_only())
        })
    }

    fn first_file(&self) -> Contender<'_> {
        Contender::new("imgmount", self.bench.many_runs(), || {
            self.lazily(|root| run(Command::new("cat").arg(root.join("etc/os-release"))))
        })
    }

    fn scattered(&self) -> Contender<'_> {
        let files = OnceCell::new();
        let mut number = 0;
        Contender::new("imgmount", self.long_runs(), move || {
            let files = get_or_try(&files, || Files::below(self.lazy_mount()?.path()))?;
            number += 1;
            let chosen = files.choose(FILES, &mut Random::new(number));
            self.lazily(|root| run(Command::new("cat").current_dir(root).args(&chosen)))
        })
    }
}
