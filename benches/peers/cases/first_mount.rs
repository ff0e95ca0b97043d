//! Measures the first mount: the image is read once, and every digest is verified.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Findings, blobs, first_mount, read_once, scripted};
use crate::bench::{Bench, get_or_try};
use crate::engines::{Docker, Podman};
use crate::inputs::{Real, UNPACKED, tagged};
use crate::measure::{Contender, race, run};
use crate::report::Group;
use crate::tools::{self, Need, missing};
use crate::trees::Trees;

const NOTES: &[&str] = &[
    "The image's files are in memory; the cache directory is empty. What others load goes to the disk.",
    "Layers of an OCI layout are decompressed one after the other by the programs compared with.",
    "CPU time of `podman` and `docker` does not count what their daemons use.",
];

/// Decompresses each layer in turn.
const IGZIP: &str = "for layer; do igzip -dc \"$layer\" >/dev/null; done";
const GZIP: &str = "for layer; do gzip -dc \"$layer\" >/dev/null; done";
const GZIP_TAR: &str = "for layer; do gzip -dc \"$layer\" | tar t >/dev/null; done";
const ZSTD: &str = "for layer; do zstd -dcq \"$layer\" >/dev/null; done";
const OPENSSL: &str = "openssl dgst -sha256 \"$1\" >/dev/null";

pub(crate) fn measure(bench: &Bench, _: &Trees<'_>) -> Result<Findings> {
    let groups = vec![
        gzip_layout(bench)?,
        zstd_layout(bench)?,
        docker_archive(bench)?,
        unverified(bench)?,
        oci_archive(bench)?,
        gzipped_archive(bench)?,
        synthetic(bench, "many small files", &bench.inputs.many_files(bench.inputs.sizes.many_files)?)?,
        synthetic(bench, "many layers", &bench.inputs.layers(bench.inputs.sizes.layers, 1000)?)?,
        synthetic(bench, "one sparse file", &bench.inputs.sparse()?)?,
    ];
    let mut findings = Findings::new(groups, NOTES);
    let sizes = bench.inputs.sizes;
    findings.notes.push(format!(
        "Synthetic: {} files of up to 1500 bytes in one layer; {} layers of 1000 such files; one file of {} MiB \
         that is nearly all holes.",
        sizes.many_files, sizes.layers, sizes.sparse_mib
    ));
    Ok(findings)
}

fn gzip_layout(bench: &Bench) -> Result<Group> {
    let image = bench.inputs.real(Real::GzipLayout)?;
    let layers = blobs(&image)?;
    read_once(&layers)?;
    Ok(race(
        "gzip OCI layout",
        vec![
            first_mount(bench, &image, &[]),
            scripted("igzip -dc", bench.runs, "igzip", IGZIP, &layers),
            scripted("gzip -dc", bench.runs, "gzip", GZIP, &layers),
            scripted("gzip -dc | tar t", bench.runs, "gzip", GZIP_TAR, &layers),
            umoci(bench, &image),
        ],
    ))
}

fn zstd_layout(bench: &Bench) -> Result<Group> {
    let image = bench.inputs.real(Real::ZstdLayout)?;
    let layers = blobs(&image)?;
    read_once(&layers)?;
    let peer = scripted("zstd -dc", bench.runs, "zstd", ZSTD, &layers);
    Ok(race("zstd OCI layout", vec![first_mount(bench, &image, &[]), peer]))
}

fn docker_archive(bench: &Bench) -> Result<Group> {
    let archive = [bench.inputs.real(Real::DockerArchive)?];
    read_once(&archive)?;
    let openssl = scripted("openssl dgst -sha256", bench.runs, "openssl", OPENSSL, &archive);
    let contenders = vec![
        first_mount(bench, &archive[0], &[]),
        openssl,
        podman(bench, &archive[0]),
        docker(bench, &archive[0]),
    ];
    Ok(race("docker-archive", contenders))
}

fn unverified(bench: &Bench) -> Result<Group> {
    let archive = bench.inputs.real(Real::DockerArchive)?;
    Ok(race("docker-archive, --verify off", vec![first_mount(bench, &archive, &["--verify", "off"])]))
}

fn oci_archive(bench: &Bench) -> Result<Group> {
    let archive = bench.inputs.real(Real::OciArchive)?;
    read_once([&archive])?;
    Ok(race("OCI archive", vec![first_mount(bench, &archive, &[]), podman(bench, &archive)]))
}

fn gzipped_archive(bench: &Bench) -> Result<Group> {
    let archive = [bench.inputs.gzipped_archive()?];
    read_once(&archive)?;
    let igzip = scripted("igzip -dc", bench.runs, "igzip", IGZIP, &archive);
    let gzip = scripted("gzip -dc", bench.runs, "gzip", GZIP, &archive);
    Ok(race("docker-archive, gzipped as a whole", vec![first_mount(bench, &archive[0], &[]), igzip, gzip]))
}

fn synthetic(bench: &Bench, title: &str, image: &Path) -> Result<Group> {
    let layers: Vec<PathBuf> = blobs(image)?;
    read_once(&layers)?;
    let igzip = scripted("igzip -dc", bench.runs, "igzip", IGZIP, &layers);
    let tar = scripted("gzip -dc | tar t", bench.few_runs(), "gzip", GZIP_TAR, &layers);
    Ok(race(title, vec![first_mount(bench, image, &[]), igzip, tar]))
}

fn umoci<'a>(bench: &'a Bench, image: &'a Path) -> Contender<'a> {
    let unpack = move || {
        let dir = bench.directory("umoci-")?;
        let mut command = tools::command("umoci");
        command.args(["unpack", "--image"]).arg(tagged(image)).arg(dir.path().join("bundle"));
        Ok(run(&mut command)?.with_cpu())
    };
    Contender::new("umoci unpack", bench.few_runs(), unpack).unless(missing(&UNPACKED))
}

fn podman<'a>(bench: &'a Bench, archive: &'a Path) -> Contender<'a> {
    let load = move || Ok(Podman::new(bench)?.load(archive)?.with_cpu());
    let needs = [Need::Root, Need::Program("podman")];
    Contender::new("podman load", bench.few_runs(), load).unless(missing(&needs))
}

fn docker<'a>(bench: &'a Bench, archive: &'a Path) -> Contender<'a> {
    let daemon = OnceCell::new();
    let load = move || Ok(get_or_try(&daemon, || Docker::start(bench))?.load(archive)?.wall_only());
    let needs = [Need::Root, Need::Program("dockerd"), Need::Program("docker")];
    Contender::new("docker load", bench.few_runs(), load).unless(missing(&needs))
}
