//! Mounts the same tree in every supported way.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tempfile::TempDir;

use crate::bench::{Bench, Served, get_or_try};
use crate::engines::Podman;
use crate::inputs::{Real, UNPACKED};
use crate::measure::{Contender, Sample, race};
use crate::mounts::{Point, drop_caches};
use crate::report::Group;
use crate::tools::{self, Need, missing};

/// A way to provide the real image's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Imgmount,
    /// Mounted by the kernel, through a loop device.
    Erofs,
    /// Mounted by the kernel, through a loop device.
    Squashfs,
    Squashfuse,
    /// The kernel's overlay of the layers that podman has unpacked.
    Overlay,
    /// Unpacked, on the file system of all other inputs.
    Unpacked,
}

/// All ways.
pub(crate) const WAYS: [Way; 6] =
    [Way::Imgmount, Way::Erofs, Way::Squashfs, Way::Squashfuse, Way::Overlay, Way::Unpacked];

impl Way {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Way::Imgmount => "imgmount",
            Way::Erofs => "erofs",
            Way::Squashfs => "squashfs",
            Way::Squashfuse => "squashfuse",
            Way::Overlay => "overlay",
            Way::Unpacked => "unpacked tree",
        }
    }

    /// Returns the reason why this way is not available here.
    fn missing(self) -> Option<String> {
        let needs: &[Need] = match self {
            Way::Imgmount => &[],
            Way::Erofs => &[Need::Kernel("erofs"), Need::Program("mkfs.erofs")],
            Way::Squashfs => &[Need::Kernel("squashfs"), Need::Program("mksquashfs")],
            Way::Squashfuse => &[Need::Program("squashfuse_ll"), Need::Program("mksquashfs")],
            Way::Overlay => &[Need::Kernel("overlay"), Need::Program("podman")],
            Way::Unpacked => &[],
        };
        // All ways except imgmount need the tree that umoci unpacks, as root, and root for the mount.
        let unpacked: &[Need] = if self == Way::Imgmount { &[] } else { &UNPACKED };
        missing(&[unpacked, needs].concat())
    }
}

/// Mounts the tree; the preparation for each way is done once.
#[derive(Debug)]
pub(crate) struct Trees<'a> {
    bench: &'a Bench,
    cache: OnceCell<TempDir>,
    store: OnceCell<(Podman, String)>,
}

/// A tree, available for the lifetime of this value.
#[derive(Debug)]
pub(crate) enum Tree {
    Served(Served),
    Mounted(Point),
    Directory(PathBuf),
}

impl Tree {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Tree::Served(served) => served.path(),
            Tree::Mounted(point) => point.path(),
            Tree::Directory(path) => path,
        }
    }
}

impl<'a> Trees<'a> {
    pub(crate) fn new(bench: &'a Bench) -> Self {
        Trees { bench, cache: OnceCell::new(), store: OnceCell::new() }
    }

    /// Mounts the tree anew, with a new process to serve it.
    pub(crate) fn mount(&self, way: Way) -> Result<Tree> {
        let inputs = &self.bench.inputs;
        let point = || Point::below(self.bench.work.path());
        let image = |kind: &str, image: PathBuf| {
            let options = ["-t", kind, "-o", "loop,ro"].map(std::ffi::OsStr::new);
            point()?.mount(&[&options[..], &[image.as_os_str()]].concat())
        };
        Ok(match way {
            Way::Imgmount => {
                let layout = inputs.real(Real::GzipLayout)?;
                let cache = get_or_try(&self.cache, || self.bench.index(&layout))?;
                Tree::Served(self.bench.mount(cache.path(), &layout, &[])?.1)
            }
            Way::Erofs => Tree::Mounted(image("erofs", inputs.erofs()?)?),
            Way::Squashfs => Tree::Mounted(image("squashfs", inputs.squashfs()?)?),
            Way::Squashfuse => {
                let mut point = point()?;
                let mut command = tools::command("squashfuse_ll");
                crate::measure::run(command.arg(inputs.squashfs()?).arg(point.path()))?;
                point.wait_until_mounted()?;
                point.find_server()?;
                Tree::Mounted(point)
            }
            Way::Overlay => {
                let (_, lower) = get_or_try(&self.store, || self.load())?;
                let options = format!("ro,lowerdir={lower}");
                Tree::Mounted(point()?.mount(&["-t", "overlay", "overlay", "-o", &options])?)
            }
            Way::Unpacked => Tree::Directory(inputs.real(Real::Rootfs)?),
        })
    }

    fn load(&self) -> Result<(Podman, String)> {
        let podman = Podman::new(self.bench)?;
        podman.load(&self.bench.inputs.real(Real::DockerArchive)?)?;
        let lower = podman.lower_dirs()?;
        rustix::fs::sync();
        Ok((podman, lower))
    }

    /// Runs `work` on the tree in these ways with empty caches: the tree is newly mounted, and the kernel's
    /// caches are dropped. `work` receives the number of the run, from 1.
    pub(crate) fn cold(
        &self,
        title: &str,
        ways: &[Way],
        work: &dyn Fn(&Path, usize) -> Result<Sample>,
    ) -> Group {
        let contenders = ways.iter().map(|way| {
            let mut run = 0;
            let measured = move || {
                let tree = self.mount(*way)?;
                drop_caches()?;
                run += 1;
                work(tree.path(), run)
            };
            Contender::new(way.name(), self.bench.runs, measured).unless(way.missing().or_else(root))
        });
        race(title, contenders.collect())
    }

    /// Runs `work` on the tree in these ways, all mounted once, after one unmeasured run there, which has
    /// the number 0.
    pub(crate) fn warm(
        &self,
        title: &str,
        ways: &[Way],
        runs: usize,
        work: &dyn Fn(&Path, usize) -> Result<Sample>,
    ) -> Group {
        let contenders = ways.iter().map(|way| {
            let mounted = OnceCell::new();
            let mut run = 0;
            let measured = move || {
                let tree = get_or_try(&mounted, || {
                    let tree = self.mount(*way)?;
                    work(tree.path(), run)?;
                    Ok(tree)
                })?;
                run += 1;
                work(tree.path(), run)
            };
            Contender::new(way.name(), runs, measured).unless(way.missing())
        });
        race(title, contenders.collect())
    }
}

fn root() -> Option<String> {
    missing(&[Need::Root])
}
