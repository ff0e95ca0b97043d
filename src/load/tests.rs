//! Tests of opening layers: how many are read at once.

use std::io;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::*;
use crate::digest::Algorithm;
use crate::image::{ImageConfig, ImageInfo, LayerDescriptor, LayerOrigin};

/// Counts how many layers are being read, and the maximum so far.
#[derive(Debug, Default)]
struct Turnstile {
    inside: Mutex<(usize, usize)>,
    changed: Condvar,
}

impl Turnstile {
    /// Counts a read. The read continues when `expected` reads are running, or after a timeout.
    fn pass(&self, expected: usize) {
        let mut inside = self.inside.lock().unwrap();
        inside.0 += 1;
        inside.1 = inside.1.max(inside.0);
        self.changed.notify_all();
        let wait = Duration::from_secs(20);
        let (mut inside, _) =
            self.changed.wait_timeout_while(inside, wait, |inside| inside.1 < expected).unwrap();
        inside.0 -= 1;
    }
}

/// A layer whose reads are counted.
#[derive(Debug)]
struct Counted {
    tar: Vec<u8>,
    turnstile: Arc<Turnstile>,
    expected: usize,
}

impl ReadAt for Counted {
    fn len(&self) -> u64 {
        self.tar.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.turnstile.pass(self.expected);
        self.tar.read_exact_at(buf, offset)
    }
}

/// Loads an image of six layers, and returns how many were read at the same time.
fn most_at_once(reads_at_once: usize) -> usize {
    let turnstile = Arc::new(Turnstile::default());
    let layers: Vec<LayerBlob> = (1..=6)
        .map(|blocks| {
            let tar = vec![0; 1024 * blocks];
            let digest = Algorithm::Sha256.digest(&tar);
            let descriptor = LayerDescriptor {
                media_type: None,
                digest: Some(digest),
                size: Some(tar.len() as u64),
                diff_id: Some(digest),
                origin: LayerOrigin::Image,
                created_by: None,
                urls: Vec::new(),
            };
            let bytes = Counted { tar, turnstile: turnstile.clone(), expected: reads_at_once };
            let identity = BlobIdentity::Digest(digest);
            LayerBlob { descriptor, bytes: Arc::new(bytes), identity, size_hint: None }
        })
        .collect();
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.descriptor.diff_id.unwrap().to_string()).collect();
    let raw_config = serde_json::json!({"rootfs": {"diff_ids": diff_ids}}).to_string().into_bytes();
    let info = ImageInfo {
        names: Vec::new(),
        manifest_digest: None,
        config_digest: Some(Algorithm::Sha256.digest(&raw_config)),
        platform: None,
        config: ImageConfig::parse(&crate::error::Subject::Image, &raw_config).unwrap(),
        layers: layers.iter().map(|layer| layer.descriptor.clone()).collect(),
        annotations: std::collections::BTreeMap::new(),
        raw_manifest: Vec::new(),
        raw_config,
        container: None,
    };
    let image = OpenedImage { info, layers, reads_at_once, size: None };
    Engine::new(EngineOptions::default()).load(image, &LoadOptions::default()).unwrap();
    turnstile.inside.lock().unwrap().1
}

#[test]
fn as_many_layers_are_read_at_once_as_the_source_says() {
    // At least one of these numbers differs from the number of cores.
    assert_eq!([1, 3, 5].map(most_at_once), [1, 3, 5]);
}
