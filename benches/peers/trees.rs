//! The same tree, mounted in every way there is.

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

/// A way to have the real image's tree somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Imgmount,
    /// By the kernel, through a loop device.
    Erofs,
    /// By the kernel, through a loop device.
    Squashfs,
    Squashfuse,
    /// The kernel's overlay of what podman made of the layers.
    Overlay,
    /// On the file system that everything else is on, too.
    Unpacked,
}

/// All of them.
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

    /// Why it cannot be had here.
    fn missing(self) -> Option<String> {
        let needs: &[Need] = match self {
            Way::Imgmount => &[],
            Way::Erofs => &[Need::Kernel("erofs"), Need::Program("mkfs.erofs")],
            Way::Squashfs => &[Need::Kernel("squashfs"), Need::Program("mksquashfs")],
            Way::Squashfuse => &[Need::Program("squashfuse_ll"), Need::Program("mksquashfs")],
            Way::Overlay => &[Need::Kernel("overlay"), Need::Program("podman")],
            Way::Unpacked => &[],
        };
        // All but this program need the tree that umoci unpacks, as root, and root for the mount.
        let unpacked: &[Need] = if self == Way::Imgmount { &[] } else { &UNPACKED };
        missing(&[unpacked, needs].concat())
    }
}

/// Mounts the tree, with everything for that prepared once.
#[derive(Debug)]
pub(crate) struct Trees<'a> {
    bench: &'a Bench,
    cache: OnceCell<TempDir>,
    store: OnceCell<(Podman, String)>,
}

/// A tree, for as long as this lives.
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

    /// Mounts it anew; a process that serves it is new as well.
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

    /// Runs `work` on the tree in these ways with nothing of it in memory: mounted a moment ago, and then
    /// everything forgotten that the kernel had of any file. `work` is told the number of the run, from 1.
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

    /// Runs `work` on the tree in these ways, all mounted once, after it has run there once unmeasured, as run 0.
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
