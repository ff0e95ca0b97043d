//! The documents of images: no parser panics, and each accepts only what every reader of JSON reads alike.

use serde_json::Value;

use crate::error::Subject;
use crate::image::config::ImageConfig;
use crate::image::manifest::{self, Document};
use crate::image::{check_layer_count, pair_layers, strict_json};

pub(super) fn run(data: &[u8]) {
    let what = Subject::Image;
    let strict = strict_json::parse(&what, data);
    if let Ok(value) = &strict {
        // All keys are different, so a reader that takes the last of two reads the same.
        assert_eq!(serde_json::from_slice::<Value>(data).ok().as_ref(), Some(value));
    }
    let config = ImageConfig::parse(&what, data);
    for expected in [None, Some("application/vnd.oci.image.manifest.v1+json"), Some("application/x-other")] {
        let Ok(document) = manifest::parse(&what, data, expected) else { continue };
        assert!(strict.is_ok(), "only the document parses");
        let Document::Manifest(manifest) = document else { continue };
        let _ = (manifest.artifact(), manifest.check_image().is_ok());
        for descriptor in &manifest.layers {
            let _ = (descriptor.is_attestation(), descriptor.check(&what, data).is_ok());
        }
        if let Ok(config) = &config {
            let layers = pair_layers(&what, &manifest.layers, config);
            let fits = check_layer_count(&what, manifest.layers.len(), config);
            assert!(layers.is_err() || fits.is_ok());
        }
    }
    if let Ok(index) = manifest::parse_layout_index(&what, data) {
        assert!(
            index.manifests.iter().all(|descriptor| descriptor.check_size(&what, descriptor.size).is_ok())
        );
    }
    if let Ok(config) = config {
        assert!(strict.is_ok(), "only the config parses");
        assert_eq!(config.layer_commands().len(), config.diff_ids.len());
    }
}
