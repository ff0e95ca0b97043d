//! What is measured: a real image that scripts/bench-images.sh makes, and what is derived from it; and images
//! made up by `made`.
//!
//! Each input is made when it is first asked for, under another name, and kept: what has its name is whole.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::made::layout::{self, Layer};
use crate::made::{dense_file, layered_files, many_files, sparse_file};
use crate::measure::{output, run, say, shell};
use crate::tools::{self, Need};

/// A layer below this can be read as a whole by a peer that begins anew for every file.
const SMALL_LAYER: u64 = 1 << 20;

/// A real image in its forms: what scripts/bench-images.sh calls them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Real {
    GzipLayout,
    ZstdLayout,
    OciArchive,
    DockerArchive,
    /// The next version of the image, with the same lower layers.
    NextLayout,
    /// What umoci unpacks.
    Rootfs,
}

/// Where inputs are kept, and how large the synthetic ones are.
#[derive(Debug)]
pub(crate) struct Inputs {
    dir: PathBuf,
    real: Option<PathBuf>,
    pub(crate) sizes: Sizes,
}

/// How large the synthetic inputs are.
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
    /// Inputs in `dir`; the real image in `real`, or made below `dir`.
    pub(crate) fn new(dir: &Path, real: Option<&Path>, sizes: Sizes) -> Result<Self> {
        let cannot = |path: &Path| format!("cannot use '{}'", path.display());
        fs::create_dir_all(dir).with_context(|| cannot(dir))?;
        let real = real.map(|real| real.canonicalize().with_context(|| cannot(real))).transpose()?;
        Ok(Inputs { dir: dir.canonicalize()?, real, sizes })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// One form of the real image.
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

    /// The docker-archive, gzipped as a whole.
    pub(crate) fn gzipped_archive(&self) -> Result<PathBuf> {
        let archive = self.real(Real::DockerArchive)?;
        self.ensure("demo-docker.tar.gz", |part| {
            run(&mut shell("gzip -6 -c \"$1\" > \"$2\"", &[archive.as_path(), part])).map(drop)
        })
    }

    /// The real image's tree as an erofs, compressed as well as lz4 can.
    pub(crate) fn erofs(&self) -> Result<PathBuf> {
        let rootfs = self.real(Real::Rootfs)?;
        self.ensure("demo.erofs", |part| {
            run(tools::command("mkfs.erofs").args(["--quiet", "-zlz4hc"]).arg(part).arg(rootfs)).map(drop)
        })
    }

    /// The real image's tree as a squashfs with gzip.
    pub(crate) fn squashfs(&self) -> Result<PathBuf> {
        let rootfs = self.real(Real::Rootfs)?;
        self.ensure("demo.squashfs", |part| {
            let options = ["-quiet", "-no-progress", "-comp", "gzip"];
            run(tools::command("mksquashfs").arg(rootfs).arg(part).args(options)).map(drop)
        })
    }

    /// The real image's tree as one tar.
    pub(crate) fn flat_tar(&self) -> Result<PathBuf> {
        let rootfs = self.real(Real::Rootfs)?;
        self.ensure("demo-flat.tar", |part| {
            let options = ["--numeric-owner", "--xattrs", "-cf"];
            run(Command::new("tar").args(options).arg(part).arg("-C").arg(rootfs).arg(".")).map(drop)
        })
    }

    /// The next version's tree, unpacked by umoci.
    pub(crate) fn next_rootfs(&self) -> Result<PathBuf> {
        let image = self.real(Real::NextLayout)?;
        let bundle = self.ensure("demo2-bundle", |part| {
            run(tools::command("umoci").args(["unpack", "--image"]).arg(tagged(&image)).arg(part)).map(drop)
        })?;
        Ok(bundle.join("rootfs"))
    }

    /// The largest layer of the real image, as an image of its own.
    pub(crate) fn largest_layer(&self) -> Result<PathBuf> {
        self.one_layer("demo-largest-layer", |layers| layers.iter().map(|layer| layer.len).max())
    }

    /// The largest of the small layers of the real image, as an image of its own.
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

    /// One layer of so many small files.
    pub(crate) fn many_files(&self, count: usize) -> Result<PathBuf> {
        self.ensure(&format!("files-{count}"), |part| many_files(part, count))
    }

    /// So many layers of so many small files each.
    pub(crate) fn layers(&self, layers: usize, each: usize) -> Result<PathBuf> {
        self.ensure(&format!("layers-{layers}x{each}"), |part| layered_files(part, layers, each))
    }

    /// The lowest layers of an image with `of` layers.
    pub(crate) fn lowest_layers(&self, layers: usize, of: usize, each: usize) -> Result<PathBuf> {
        let all = self.layers(of, each)?;
        self.ensure(&format!("layers-{layers}-of-{of}x{each}"), |part| layout::select(&all, 0..layers, part))
    }

    /// One large file without holes.
    pub(crate) fn dense(&self) -> Result<PathBuf> {
        let size = self.sizes.dense_mib;
        self.ensure(&format!("dense-{size}"), |part| dense_file(part, size))
    }

    /// One large file that is nearly all holes.
    pub(crate) fn sparse(&self) -> Result<PathBuf> {
        let size = self.sizes.sparse_mib;
        self.ensure(&format!("sparse-{size}"), |part| sparse_file(part, size))
    }

    /// The input called `name`, which `make` makes at the path that it is given.
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
        // Its writing shall not go on while something is measured.
        rustix::fs::sync();
        Ok(path)
    }
}

/// What is missing for the inputs that others unpack.
pub(crate) const UNPACKED: [Need; 2] = [Need::Root, Need::Program("umoci")];

/// An OCI layout as umoci names its only image.
pub(crate) fn tagged(layout: &Path) -> std::ffi::OsString {
    let mut name = layout.as_os_str().to_owned();
    name.push(OsStr::new(":latest"));
    name
}
