//! The data directory of a Docker engine, `/var/lib/docker`, read without the engine.
//!
//! This module owns the choice among the images and containers of such a directory, and which storage drivers
//! can be read. `graph` finds the images and layers of one driver, `container` the containers, and
//! `containerd` both where Docker's containerd has the images. All files of the store are opened below the
//! directory. Source: moby, layer/filestore.go, image/fs.go, reference/store.go and container/container.go.

use std::path::{Path, PathBuf};

use self::container::ContainerEntry;
use self::containerd::DockerContainerd;
use self::graph::{Driver, Graph, ImageEntry, Owners};
use super::archive::not_an_image;
use super::beneath::Beneath;
use super::directory::{IdMap, IdRange};
use super::environment::Environment;
use super::formats::Site;
use super::host::{self, Host};
use super::names::{self, Names};
use super::{ImageDetails, ImageKind, ImageSource, ImageSummary, OpenedImage, Selection, Survey};
use crate::error::{Error, Result, Subject};
use crate::image::Platform;
use crate::image::strict_json::{self, Object};
use crate::layer::index::Verify;

mod container;
mod containerd;
mod graph;
#[cfg(test)]
pub(super) mod tests;

/// Storage drivers of Docker that are not supported. Those for Windows are not among them, because their
/// layers hold no Linux files.
const UNSUPPORTED_DRIVERS: [&str; 6] = ["aufs", "btrfs", "devicemapper", "fuse-overlayfs", "overlay", "zfs"];

/// The directory of Docker's containerd, which has the images since Docker 29, below the data directory.
const CONTAINERD: &str = "containerd/daemon";

/// Why a directory has no images. Packages of Docker 29 use the containerd of the host.
const NO_DRIVER: &str = "no images of a storage driver in 'image'; \
    if the engine uses the containerd of the host, open containerd:/var/lib/containerd";

/// Number of IDs that an engine maps into containers with `--userns-remap`: what `useradd` writes to
/// `/etc/subuid`.
const REMAPPED_IDS: u32 = 65_536;

/// The lowest ID of a user, and so of a range that an engine maps.
const MIN_REMAPPED_ID: u32 = 1000;

/// Maximum length of the engine's configuration file, in bytes.
const MAX_DAEMON_CONFIG_BYTES: u64 = 1 << 20;

/// Returns the places where a Docker engine keeps its images: the directory that `daemon.json` names, and the
/// defaults of root and of rootless users (rule F29).
pub(super) fn own_places(environment: &Environment) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if environment.uid != 0 {
        let config = environment.user_config().map(|config| config.join("docker/daemon.json"));
        places.extend(config.and_then(|config| configured_place(&config, Path::new("/"))));
        places.extend(environment.user_data().map(|data| data.join("docker")));
    }
    places.extend(configured_place(&environment.place("/etc/docker/daemon.json"), &environment.root));
    places.push(environment.place("/var/lib/docker"));
    places.push(environment.place("/var/snap/docker/common/var-lib-docker"));
    places
}

/// Returns the data directory that the configuration file of an engine names, below `root`.
fn configured_place(file: &Path, root: &Path) -> Option<PathBuf> {
    let config = Beneath::open(file.parent()?).ok()?;
    let name = file.file_name()?.to_str()?;
    let bytes = config.read(name, "MAX_DAEMON_CONFIG_BYTES", MAX_DAEMON_CONFIG_BYTES).ok()??;
    let what = config.describe(name);
    let value = strict_json::parse(&what, &bytes).ok()?;
    let object = Object::new(&what, &value, &["data-root", "graph"]).ok()?;
    let place = object.string("data-root").ok()?.or(object.string("graph").ok()?)?;
    Some(root.join(Path::new(place).strip_prefix("/").ok()?))
}

/// Returns true for a directory with the images of a storage driver, or of Docker's containerd.
pub(super) fn detect(site: &mut Site<'_>) -> Result<bool> {
    let Some(dir) = site.directory()? else { return Ok(false) };
    Ok(!drivers(&dir)?.is_empty() || has_containerd(&dir)?)
}

/// Opens the data directory of a Docker engine.
pub(super) fn open(site: Site<'_>) -> Result<Box<dyn ImageSource>> {
    let dir = match (site.directory()?, site.path()) {
        (Some(dir), _) => dir,
        (None, Some(path)) => return Err(not_an_image(path, "not a directory")),
        (None, None) => {
            return Err(Error::unsupported(Subject::StandardInput, "docker-graph needs a directory"));
        }
    };
    if drivers(&dir)?.is_empty() && has_containerd(&dir)? {
        return Ok(Box::new(DockerContainerd::open(&dir, site.verify())?));
    }
    let host = if site.is_own_place() { Some(site.environment().root.as_path()) } else { None };
    let owners = owners(&dir, host)?;
    Ok(Box::new(DockerGraph::open(dir, &owners, site.verify())?))
}

/// Returns the names of the storage drivers that have images in the data directory `dir`.
fn drivers(dir: &Beneath) -> Result<Vec<String>> {
    let mut drivers = Vec::new();
    for name in dir.names("image")? {
        let Some(name) = name.to_str() else { continue };
        if graph::is_safe_name(name) && dir.dir(&format!("image/{name}/imagedb"))?.is_some() {
            drivers.push(name.to_owned());
        }
    }
    Ok(drivers)
}

/// Returns the owners of files in the data directory `dir`. `root` is the root directory of the host that the
/// engine ran on, if it is known.
fn owners(dir: &Beneath, root: Option<&Path>) -> Result<Owners> {
    if let Some(ids) = remapped_owners(dir.path()) {
        return Ok(Owners::Remapped(ids));
    }
    match host::owner(dir)? {
        (0, _) => Ok(Owners::Root),
        (uid, gid) => {
            let host = root.map_or_else(|| Host::of_store(dir.path()), Host::open)?;
            Ok(Owners::Rootless(IdMap::new(host.sub_users(uid), host.sub_groups(uid, gid))))
        }
    }
}

/// Returns the owners of files in a data directory of an engine with `--userns-remap`: its last name is
/// `UID.GID`, the IDs of root in containers. Lower IDs than those of users are something else, such as a
/// version.
fn remapped_owners(dir: &Path) -> Option<IdMap> {
    let (uid, gid) = dir.file_name()?.to_str()?.split_once('.')?;
    let range = |host: &str| {
        let host = host.parse().ok().filter(|host| *host >= MIN_REMAPPED_ID)?;
        Some(vec![IdRange { container: 0, host, len: REMAPPED_IDS }])
    };
    Some(IdMap::new(range(uid)?, range(gid)?))
}

fn has_containerd(dir: &Beneath) -> Result<bool> {
    Ok(dir.dir(&format!("{CONTAINERD}/io.containerd.metadata.v1.bolt"))?.is_some())
}

/// The data directory of a Docker engine.
#[derive(Debug)]
struct DockerGraph {
    dir: Beneath,
    graphs: Vec<Graph>,
    verify: Verify,
}

/// An image or container in the list of the directory.
#[derive(Debug)]
enum Listed {
    Image(ImageEntry),
    Container(ContainerEntry),
}

impl DockerGraph {
    fn open(dir: Beneath, owners: &Owners, verify: Verify) -> Result<Self> {
        let mut graphs = Vec::new();
        let mut unsupported = None;
        for name in drivers(&dir)? {
            match Driver::named(&name) {
                Some(driver) => graphs.extend(Graph::open(&dir, driver, owners.clone(), verify)?),
                None => unsupported = Some(name),
            }
        }
        match unsupported {
            Some(name) if graphs.is_empty() => Err(unsupported_driver(&dir, &name)),
            Some(name) => {
                log::warn!("{}", unsupported_driver(&dir, &name));
                Ok(DockerGraph { dir, graphs, verify })
            }
            None if graphs.is_empty() => Err(not_an_image(dir.path(), NO_DRIVER)),
            None => Ok(DockerGraph { dir, graphs, verify }),
        }
    }

    /// Returns the images, then the containers, each sorted by name and ID.
    fn listed(&self) -> Result<Vec<(Names, ImageSummary, Listed)>> {
        let mut images = Vec::new();
        for graph in &self.graphs {
            images.extend(graph.images()?);
        }
        images.sort_by_key(|image| (image.names.is_empty(), image.names.clone(), image.id.hex()));
        let images = images.into_iter().map(Listed::Image);
        let containers = container::list(&self.dir)?.into_iter().map(Listed::Container);
        Ok(images.chain(containers).enumerate().map(|(index, listed)| listed.described(index)).collect())
    }

    fn pick(&self, select: &Selection) -> Result<Listed> {
        let place = self.dir.path().display().to_string();
        let (listed, mut entries): (Vec<_>, Vec<_>) =
            self.listed()?.into_iter().map(|(names, summary, entry)| ((names, summary), entry)).unzip();
        match names::select(&place, select, &listed)?.as_slice() {
            [one] => Ok(entries.swap_remove(*one)),
            found => Err(names::ambiguous(&place, &listed, found)),
        }
    }

    /// Returns the graph of a storage driver.
    fn graph(&self, driver: &str) -> Result<&Graph> {
        let found = self.graphs.iter().find(|graph| graph.driver().name() == driver);
        found.ok_or_else(|| unsupported_driver(&self.dir, driver))
    }
}

impl Listed {
    fn described(self, index: usize) -> (Names, ImageSummary, Listed) {
        let (names, id, kind) = match &self {
            Listed::Image(image) => {
                let (full, digests) = (image.names.clone(), image.digests.clone());
                let names = Names { full, digests, ids: vec![image.id.hex()], ..Names::default() };
                (names, image.id.to_string(), ImageKind::Image)
            }
            Listed::Container(container) => {
                let (full, ids) = (container.name.iter().cloned().collect(), vec![container.id.clone()]);
                (Names { full, ids, ..Names::default() }, container.id.clone(), ImageKind::Container)
            }
        };
        let summary = ImageSummary { index, names: names.shown(), platform: None, id: Some(id), kind };
        (names, summary, self)
    }
}

impl ImageSource for DockerGraph {
    fn kind(&self) -> &'static str {
        "docker-graph"
    }

    fn images(&self) -> Result<Vec<ImageSummary>> {
        Ok(self.listed()?.into_iter().map(|(_, summary, _)| summary).collect())
    }

    fn image(&self, select: &Selection, platform: Option<&Platform>) -> Result<OpenedImage> {
        let opened = match self.pick(select)? {
            Listed::Image(image) => self.graph(image.driver)?.open_image(&image)?,
            Listed::Container(entry) => {
                let graph = self.graph(entry.driver.as_deref().unwrap_or(self.sole_driver()))?;
                container::open(graph, &self.dir, &entry, self.verify)?
            }
        };
        if let (Some(wanted), Some(found)) = (platform, &opened.info.platform)
            && wanted.rank(found).is_none()
        {
            log::warn!("the image is for platform {found}, not for {wanted}");
        }
        Ok(opened)
    }

    /// Returns the properties without a walk through the writable layers of containers. The size of a
    /// container is that of its image.
    fn details(&self, summary: &ImageSummary, _: Option<&Platform>) -> Result<ImageDetails> {
        let select = match &summary.id {
            Some(id) if summary.kind == ImageKind::Image => Selection::Name(id.clone()),
            _ => summary.selection(),
        };
        match self.pick(&select)? {
            Listed::Image(image) => self.graph(image.driver)?.details(&image),
            Listed::Container(entry) => {
                container::details(self.graph(entry.driver.as_deref().unwrap_or(self.sole_driver()))?, &entry)
            }
        }
    }

    fn survey(&self, select: &Selection, _: Option<&Platform>) -> Result<Survey> {
        match self.pick(select)? {
            Listed::Image(image) => Ok(self.graph(image.driver)?.survey_image(&image)),
            Listed::Container(entry) => {
                let graph = self.graph(entry.driver.as_deref().unwrap_or(self.sole_driver()))?;
                container::survey(graph, &self.dir, &entry)
            }
        }
    }
}

impl DockerGraph {
    /// Returns the driver of containers that do not name theirs, as those of old engines.
    fn sole_driver(&self) -> &str {
        self.graphs.first().map_or("", |graph| graph.driver().name())
    }
}

fn unsupported_driver(dir: &Beneath, name: &str) -> Error {
    let known = UNSUPPORTED_DRIVERS.contains(&name);
    let unknown = if known { "" } else { "unknown " };
    let reason = format!(
        "images of the {unknown}storage driver '{}'; only overlay2 and vfs are supported",
        name.escape_debug()
    );
    Error::unsupported(Subject::Archive(dir.path().to_owned()), reason)
}
