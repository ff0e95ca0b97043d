//! An image that is not an archive: blobs in memory, as a registry or an engine would serve them.

use std::collections::HashMap;

use super::*;
use crate::image::manifest::Descriptor;
use crate::layer::index::Verify;
use crate::source::DocumentRole;
use crate::source::blobs::Blobs;
use crate::source::walk::Walk;

/// Serves blobs from memory, and keeps documents apart from layers, as registries do.
#[derive(Debug, Default)]
struct Memory {
    documents: HashMap<Digest, Vec<u8>>,
    layers: HashMap<Digest, Vec<u8>>,
}

impl Blobs for Memory {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }

    fn blob(&self, wanted: &Descriptor) -> Result<Option<Arc<dyn ReadAt>>> {
        let found = self.layers.get(&wanted.digest);
        Ok(found.map(|bytes| Arc::new(bytes.clone()) as Arc<dyn ReadAt>))
    }

    fn document(&self, _: DocumentRole, wanted: &Descriptor) -> Result<Option<Vec<u8>>> {
        Ok(self.documents.get(&wanted.digest).cloned())
    }

    fn has_manifest(&self, _: &Descriptor) -> Result<bool> {
        Ok(true)
    }

    fn reads_at_once(&self) -> usize {
        6
    }
}

/// Creates an image index of two platforms, and the descriptor that leads to it.
fn memory() -> (Memory, Descriptor) {
    let mut files = Files::default();
    let platforms = ["linux/s390x", "linux/riscv64"];
    let manifests = platforms.map(|platform| made_for(files.image(platform, &[platform, "top"]), platform));
    let top = nested(&mut files, &manifests);
    let mut memory = Memory::default();
    for (_, body) in files.0 {
        let Body::File(bytes) = body else { panic!("a link") };
        let is_document = bytes.starts_with(b"{");
        let shelf = if is_document { &mut memory.documents } else { &mut memory.layers };
        shelf.insert(sha256(&bytes), bytes);
    }
    let top = Descriptor {
        media_type: Some(OCI_INDEX.to_owned()),
        digest: top["digest"].as_str().unwrap().parse().unwrap(),
        size: top["size"].as_u64().unwrap(),
        urls: Vec::new(),
        annotations: std::collections::BTreeMap::new(),
        data: None,
        platform: None,
        artifact_type: None,
    };
    (memory, top)
}

#[test]
fn an_image_opens_without_any_archive() {
    let (memory, top) = memory();
    let platform = "linux/riscv64".parse().unwrap();
    let image =
        Walk::new(&memory, Some(&platform), Verify::Full).open(&[&top], vec!["a:1".to_owned()]).unwrap();
    assert_eq!(contents(&image), ["linux/riscv64", "top"]);
    assert_eq!(image.info.names, ["a:1"]);
    assert_eq!(image.layers[1].identity, BlobIdentity::Digest(sha256(b"top")));
    assert_eq!(image.reads_at_once, 6);
}

#[test]
fn a_survey_needs_no_archive_either() {
    let (mut memory, top) = memory();
    memory.layers.remove(&sha256(b"top"));
    let platform = "linux/s390x".parse().unwrap();
    let survey = Walk::new(&memory, Some(&platform), Verify::Full).survey(&[&top]);
    let there: Vec<_> = survey.layers.iter().map(|layer| layer.bytes.is_some()).collect();
    assert_eq!((there, survey.documents.len()), (vec![true, false], 3));
    assert!(survey.faults.is_empty(), "{survey:?}");
}

#[test]
fn a_document_that_a_place_returns_is_checked() {
    let (mut memory, top) = memory();
    memory.documents.get_mut(&top.digest).unwrap().push(b' ');
    let error = Walk::new(&memory, None, Verify::Full).open(&[&top], Vec::new()).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    let platform = "linux/s390x".parse().unwrap();
    assert!(Walk::new(&memory, Some(&platform), Verify::Off).open(&[&top], Vec::new()).is_ok());
}

#[test]
fn what_a_place_does_not_have_is_missing() {
    let (mut memory, top) = memory();
    memory.documents.remove(&top.digest);
    let error = Walk::new(&memory, None, Verify::Full).open(&[&top], Vec::new()).unwrap_err();
    assert!(matches!(error, Error::MissingBlob { .. }), "{error}");
}
