//! The inputs: a real image that scripts/bench-images.sh makes, files that are derived from it, and
//! synthetic images that `made` makes.
//!
//! Each input is made under another name when it is first requested, and kept: an input under its own
//! name is complete.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::made::layout::{self, Layer};
use crate::made::{dense_file, layered_files, many_files, sparse_file};
use crate::measure::{output, run, say, shell};
use crate::tools::{self, Need};

/// Size limit of a layer that a peer can read as a whole even if it starts anew for every file, in
/// bytes.
const SMALL_LAYER: u64 = 1 << 20;

/// A form of the real image, as scripts/bench-images.sh names it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Real {
    GzipLayout,
    ZstdLayout,
    OciArchive,
    DockerArchive,
    /// The next version of the image, with the same lower layers.
    NextLayout,
    /// The tree as umoci unpacks it.
    Rootfs,
}

/// The directory of the inputs, and the sizes of the synthetic ones.
#[derive(Debug)]
pub(crate) struct Inputs {
    dir: PathBuf,
    real: Option<PathBuf>,
    pub(crate) sizes: Sizes,
}

/// The sizes of the synthetic inputs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) many_files: usize,
    pub(crate) dense_mib: u64,
    pub(crate) sparse_mib: u64,
    pub(crate) layers: usize,
}

impl Sizes {
    pub(crate) const FULL: Sizes =
        Sizes { many_files: 1_000_000, dense_mib: 4096, sparse_mib: 8192, layers: 200 };
    pub(crate) const QUICK: Sizes =
        Sizes { many_files: 10_000, dense_mib: 128, sparse_mib: 1024, layers: 20 };
}

impl Inputs {
    /// Uses inputs in `dir`. The real image is in `real`, or is made below `dir`.
    pub(crate) fn new(dir: &Path, real: Option<&Path>, sizes: Sizes) -> Result<Self> {
        let cannot = |path: &Path| format!("cannot use '{}'", path.display());
        fs::create_dir_all(dir).with_context(|| cannot(dir))?;
        let real = real.map(|real| real.canonicalize().with_context(|| cannot(real))).transpose()?;
        Ok(Inputs { dir: dir.canonicalize()?, real, sizes })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns one form of the real image.
    pub(crate) fn real(&self, form: Real) -> Result<PathBuf> {
        let name = match form {
            Real::GzipLayout => "demo-oci",
            Real::ZstdLayout => "demo-zstd",
            Real::OciArchive => "demo-oci.tar",
            Real::DockerArchive => "demo-docker.tar",
            Real::NextLayout => "demo2-oci",
            Real::Rootfs => "demo-rootfs",
        };
        let dir = match &self.real {
            Some(dir) => dir.clone(),
            None => self.ensure("real", |part| {
                let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/bench-images.sh");
                run(Command::new(script).arg(part)).map(drop)
            })?,
        };
        Ok(dir.join(name))
    }

    /// Returns the docker-archive, gzipped as a whole.
    pub(crate) fn gzipped_archive(&self) -> Result<PathBuf> {
        let archive = self.real(Real::DockerArchive)?;
        self.ensure("demo-docker.tar.gz", |part| {
            run(&mut shell("gzip -6 -c \"$1\" > \"$2\"", &[archive.as_path(), part])).map(drop)
        })
    }

    /// Returns the real image's tree as an erofs, compressed with lz4hc.
    pub(crate) fn erofs(&self) -> Result<PathBuf> {
        let rootfs = self.real(Real::Rootfs)?;
        self.ensure("demo.erofs", |part| {
            run(tools::command("mkfs.erofs").args(["--quiet", "-zlz4hc"]).arg(part).arg(rootfs)).map(drop)
        })
    }

    /// Returns the real image's tree as a squashfs with gzip.
    pub(crate) fn squashfs(&self) -> Result<PathBuf> {
        let rootfs = self.real(Real::Rootfs)?;
        self.ensure("demo.squashfs", |part| {
            let options = ["-quiet", "-no-progress", "-comp", "gzip"];
            run(tools::command("mksquashfs").arg(rootfs).arg(part).args(options)).map(drop)
        })
    }

    /// Returns the real image's tree as one tar.
    pub(crate) fn flat_tar(&self) -> Result<PathBuf> {
        let rootfs = self.real(Real::Rootfs)?;
        self.ensure("demo-flat.tar", |part| {
            let options = ["--numeric-owner", "--xattrs", "-cf"];
            run(Command::new("tar").args(options).arg(part).arg("-C").arg(rootfs).arg(".")).map(drop)
        })
    }

    /// Returns the next version's tree, unpacked by umoci.
    pub(crate) fn next_rootfs(&self) -> Result<PathBuf> {
        let image = self.real(Real::NextLayout)?;
        let bundle = self.ensure("demo2-bundle", |part| {
            run(tools::command("umoci").args(["unpack", "--image"]).arg(tagged(&image)).arg(part)).map(drop)
        })?;
        Ok(bundle.join("rootfs"))
    }

    /// Returns the largest layer of the real image, as an image.
    pub(crate) fn largest_layer(&self) -> Result<PathBuf> {
        self.one_layer("demo-largest-layer", |layers| layers.iter().map(|layer| layer.len).max())
    }

    /// Returns the largest of the small layers of the real image, as an image.
    pub(crate) fn small_layer(&self) -> Result<PathBuf> {
        self.one_layer("demo-small-layer", |layers| {
            layers.iter().map(|layer| layer.len).filter(|len| *len < SMALL_LAYER).max()
        })
    }

    fn one_layer(&self, name: &str, len: impl Fn(&[Layer]) -> Option<u64>) -> Result<PathBuf> {
        let image = self.real(Real::GzipLayout)?;
        self.ensure(name, |part| {
            let layers = layout::layers(&image)?;
            let len = len(&layers).context("no layer of that size")?;
            let number = layers.iter().position(|layer| layer.len == len).unwrap_or(0);
            layout::select(&image, number..number + 1, part)
        })
    }

    /// Returns an image of one layer with `count` small files.
    pub(crate) fn many_files(&self, count: usize) -> Result<PathBuf> {
        self.ensure(&format!("files-{count}"), |part| many_files(part, count))
    }

    /// Returns an image of `layers` layers with `each` small files in each.
    pub(crate) fn layers(&self, layers: usize, each: usize) -> Result<PathBuf> {
        self.ensure(&format!("layers-{layers}x{each}"), |part| layered_files(part, layers, each))
    }

    /// Returns an image with the lowest layers of an image with `of` layers.
    pub(crate) fn lowest_layers(&self, layers: usize, of: usize, each: usize) -> Result<PathBuf> {
        let all = self.layers(of, each)?;
        self.ensure(&format!("layers-{layers}-of-{of}x{each}"), |part| layout::select(&all, 0..layers, part))
    }

    /// Returns an image of one large file without holes.
    pub(crate) fn dense(&self) -> Result<PathBuf> {
        let size = self.sizes.dense_mib;
        self.ensure(&format!("dense-{size}"), |part| dense_file(part, size))
    }

    /// Returns an image of one large file that is nearly all holes.
    pub(crate) fn sparse(&self) -> Result<PathBuf> {
        let size = self.sizes.sparse_mib;
        self.ensure(&format!("sparse-{size}"), |part| sparse_file(part, size))
    }

    /// Returns the input called `name`; `make` makes it at the path that it receives.
    fn ensure(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.dir.join(name);
        if path.exists() {
            return Ok(path);
        }
        say(&format!("making {}", path.display()));
        let part = self.dir.join(format!("{name}.part"));
        output(Command::new("rm").arg("-rf").arg(&part))?;
        make(&part).with_context(|| format!("cannot make '{}'", path.display()))?;
        fs::rename(&part, &path)?;
        // Pending writes would disturb the next measurement.
        rustix::fs::sync();
        Ok(path)
    }
}

/// Requirements of inputs that other programs unpack.
pub(crate) const UNPACKED: [Need; 2] = [Need::Root, Need::Program("umoci")];

/// Returns an OCI layout with the tag by which umoci names its only image.
pub(crate) fn tagged(layout: &Path) -> std::ffi::OsString {
    let mut name = layout.as_os_str().to_owned();
    name.push(OsStr::new(":latest"));
    name
}
