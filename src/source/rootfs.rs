//! `rootfs:PATH`: a root file system without the documents of an image, as an image of one layer (F47).
//!
//! The root file system is a directory, or a flat tar: `docker export`, debootstrap, debuerreotype, LXC and
//! WSL write such tars, plain or compressed. This module owns what such an image states about itself, which
//! is nothing: no name, no platform, no history and no digest. The digest of the tar is computed when the
//! layer is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::archive::{Opened, not_an_image};
use super::assembled::AssembledTar;
use super::blobs::BlobIdentity;
use super::directory::{self, DirectoryForm, IdMap};
use super::formats::Site;
use super::names::{self, Names};
use super::survey::SurveyedLayer;
use super::{ImageSource, ImageSummary, LayerBlob, OpenedImage, Selection, Survey};
use crate::compress::{Compression, Decoder};
use crate::error::{Error, Result, StreamFault, StreamResult, Subject};
use crate::image::{ImageConfig, ImageInfo, LayerDescriptor, LayerOrigin, Platform};
use crate::layer::entry::Entry;
use crate::layer::tar::{Sink, TarParser};
use crate::limits::Limits;
use crate::read_at::{FileBytes, ReadAt};
use crate::warning::WarningKind;
use crate::workers::cores;

/// Length of the header that each member of a tar begins with.
const HEADER_BYTES: usize = 512;

/// Returns false: a root file system has no mark of its own. Without the transport, it is an error whose hint
/// names the transport.
pub(super) fn detect(_: &mut Site<'_>) -> Result<bool> {
    Ok(false)
}

/// Opens a root file system. A directory is walked.
pub(super) fn open(mut place: Site<'_>) -> Result<Box<dyn ImageSource>> {
    let (path, opened) = place.opened()?;
    let (bytes, identity): (Arc<dyn ReadAt>, _) = match opened {
        Opened::Directory(root) => {
            let (plan, seen) = directory::plan(&root, DirectoryForm::Plain, &IdMap::identity())?;
            (Arc::new(AssembledTar::planned(root, plan)), BlobIdentity::Walk(seen))
        }
        Opened::File { file, identity } => {
            let cannot = |cause| Error::io_on("cannot read", Subject::Archive(path.clone()), cause);
            let bytes: Arc<dyn ReadAt> = Arc::new(FileBytes::new(file).map_err(cannot)?);
            check_is_tar(&path, &bytes)?;
            (bytes, identity)
        }
    };
    Ok(Box::new(RootfsPlace { path, bytes, identity }))
}

/// A root file system.
#[derive(Debug)]
struct RootfsPlace {
    path: PathBuf,
    bytes: Arc<dyn ReadAt>,
    identity: BlobIdentity,
}

impl RootfsPlace {
    fn check(&self, select: &Selection) -> Result<()> {
        let images = [(Names::default(), ImageSummary::default())];
        names::select(&self.path.display().to_string(), select, &images).map(drop)
    }

    fn layer(&self) -> LayerDescriptor {
        LayerDescriptor {
            media_type: None,
            digest: None,
            size: None,
            diff_id: None,
            created_by: None,
            origin: LayerOrigin::Image,
            urls: Vec::new(),
        }
    }
}

impl ImageSource for RootfsPlace {
    fn kind(&self) -> &'static str {
        "rootfs"
    }

    fn images(&self) -> Result<Vec<ImageSummary>> {
        Ok(vec![ImageSummary::default()])
    }

    fn image(&self, select: &Selection, _: Option<&Platform>) -> Result<OpenedImage> {
        self.check(select)?;
        let layer = self.layer();
        let blob = LayerBlob {
            descriptor: layer.clone(),
            bytes: Arc::clone(&self.bytes),
            identity: self.identity,
            size_hint: None,
        };
        Ok(OpenedImage {
            info: ImageInfo {
                names: Vec::new(),
                manifest_digest: None,
                config_digest: None,
                platform: None,
                config: ImageConfig {
                    created: None,
                    author: None,
                    platform: None,
                    diff_ids: Vec::new(),
                    history: Vec::new(),
                    runtime: Value::Null,
                },
                layers: vec![layer],
                annotations: BTreeMap::new(),
                raw_manifest: Vec::new(),
                raw_config: Vec::new(),
                container: None,
            },
            layers: vec![blob],
            reads_at_once: cores(),
            size: None,
        })
    }

    fn survey(&self, select: &Selection, _: Option<&Platform>) -> Result<Survey> {
        self.check(select)?;
        let layer = SurveyedLayer {
            digest: None,
            size: None,
            diff_id: None,
            bytes: None,
            unchecked: Some("a root file system has no digests to compare with".to_owned()),
        };
        Ok(Survey { layers: vec![layer], ..Survey::default() })
    }
}

/// Checks that a file begins as a tar does, after it is decompressed. So another file is not shown as an empty
/// or damaged tree.
fn check_is_tar(path: &Path, bytes: &Arc<dyn ReadAt>) -> Result<()> {
    let what = Subject::Archive(path.to_owned());
    let begins_as_tar = || -> StreamResult<bool> {
        let compression =
            Compression::detect(&**bytes).map_err(|cause| StreamFault::io("cannot read", cause))?;
        let stream = Arc::clone(bytes).stream(0..bytes.len());
        let mut head = Vec::new();
        Decoder::new(compression, Box::new(stream))?.decode(&mut head, HEADER_BYTES, HEADER_BYTES)?;
        // An empty tar is nothing but zeros.
        let is_header = TarParser::new(Limits::default()).feed(&head, &mut Nothing).is_ok();
        Ok(head.len() == HEADER_BYTES && is_header)
    };
    if begins_as_tar().map_err(|fault| fault.of(&what))? {
        return Ok(());
    }
    Err(not_an_image(path, "neither a directory nor a tar, plain or compressed"))
}

/// Ignores entries and warnings.
struct Nothing;

impl Sink for Nothing {
    fn entry(&mut self, _: Entry<'_>) -> StreamResult<()> {
        Ok(())
    }

    fn warning(&mut self, _: WarningKind, _: &[u8]) {}
}
