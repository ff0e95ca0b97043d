//! The data directory of a Docker engine whose images are in its containerd, the default since Docker 29.
//!
//! The images and the trees of containers are those of containerd's namespace `moby`. Only Docker knows its
//! containers when they do not run, so they come from `containers/`, as with a storage driver. Source: moby,
//! daemon/containerd/image_snapshot.go: the snapshot of a container has the container's ID, and the files of
//! the engine are in the snapshot below it, `ID-init`.

use super::{CONTAINERD, container};
use crate::error::Result;
use crate::image::Platform;
use crate::layer::index::Verify;
use crate::source::archive::not_an_image;
use crate::source::beneath::Beneath;
use crate::source::containerd::Containerd;
use crate::source::{ImageDetails, ImageSource, ImageSummary, OpenedImage, Selection, Survey};

/// The namespace of Docker.
const NAMESPACE: &str = "moby";

/// The images and containers of a Docker engine in its containerd.
#[derive(Debug)]
pub(super) struct DockerContainerd(Containerd);

impl DockerContainerd {
    /// Opens the data directory `dir` of a Docker engine.
    pub(super) fn open(dir: &Beneath, verify: Verify) -> Result<Self> {
        let missing = || not_an_image(dir.path(), &format!("'{CONTAINERD}' is missing"));
        let root = dir.dir(CONTAINERD)?.ok_or_else(missing)?;
        let containers = container::list(dir)?.into_iter().map(container::ContainerEntry::in_containerd);
        let store = Containerd::open(root, Some(NAMESPACE), verify)?;
        Ok(DockerContainerd(store.with_containers(NAMESPACE, containers.collect())))
    }
}

impl ImageSource for DockerContainerd {
    fn kind(&self) -> &'static str {
        "docker-graph"
    }

    fn images(&self) -> Result<Vec<ImageSummary>> {
        self.0.images()
    }

    fn image(&self, select: &Selection, platform: Option<&Platform>) -> Result<OpenedImage> {
        self.0.image(select, platform)
    }

    fn details(&self, summary: &ImageSummary, platform: Option<&Platform>) -> Result<ImageDetails> {
        self.0.details(summary, platform)
    }

    fn survey(&self, select: &Selection, platform: Option<&Platform>) -> Result<Survey> {
        self.0.survey(select, platform)
    }
}
