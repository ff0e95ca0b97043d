//! Registries and mirrors that answer so that much is requested, or that nothing is ever read.

use super::*;
use crate::fixture::sha256_hex;

/// Returns an image index that lists other image indexes, none of which the registry has.
fn index_of_missing(entries: usize) -> Vec<u8> {
    let media_type = "application/vnd.oci.image.index.v1+json";
    let digest = |number: usize| format!("sha256:{}", sha256_hex(number.to_string().as_bytes()));
    let entry = |number| serde_json::json!({"mediaType": media_type, "digest": digest(number), "size": 100});
    let manifests: Vec<_> = (0..entries).map(entry).collect();
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
    index.to_string().into_bytes()
}

#[test]
fn r5_an_opening_requests_a_limited_number_of_documents() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push_with_manifest("app:many", &sample(), index_of_missing(5000));
    let listed = imgmount_run(&imgmount, &["ls", &registry.reference("app:many")]);
    listed.expect(2).says("registry-documents");
    // One more is the index itself, requested by its tag.
    assert_eq!(count(&registry.requests(), "manifests/"), 101);
}

#[test]
fn r2_a_mirror_that_hangs_or_lies_does_not_hide_the_registry() {
    let (imgmount, registry, mirror) = (Imgmount::new(), Registry::start(), Registry::start());
    for place in [&registry, &mirror] {
        place.push("app:1", &sample());
    }
    let text = format!(
        "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
        registry.host(),
        mirror.host()
    );
    imgmount.write("registries.conf", text.as_bytes());
    let list = || {
        let _ = fs::remove_dir_all(imgmount.cache());
        let reference = registry.reference("app:1");
        let mut list = command(&imgmount, &["ls", "-R", "--net-timeout", "6s", &reference]);
        list.env("CONTAINERS_REGISTRIES_CONF", imgmount.dir().join("registries.conf"));
        let ran = run(&mut list).expect(0);
        let asked = count(&registry.requests(), "blobs/");
        (ran.text().to_owned(), ran, asked)
    };
    let (expected, _, asked) = list();
    assert_eq!(asked, 0, "the mirror serves all");
    mirror.fail(|seen| seen.is_blob().then_some(Fault::Delay(Duration::from_secs(60))));
    let (listed, _, asked) = list();
    assert_eq!((listed, asked > 0), (expected.clone(), true));
    // The config: the only blob that is requested as a document.
    mirror.fail(|seen| seen.is_blob().then_some(Fault::Flip(0)));
    let (listed, ran, _) = list();
    assert_eq!(listed, expected);
    ran.says(&format!("'{}': sends wrong bytes for blob sha256:", mirror.host()));
}

#[test]
fn r7_what_does_not_use_the_cache_cannot_be_offline() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &sample());
    let reference = registry.reference("app:1");
    imgmount_run(&imgmount, &["ls", &reference]).expect(0);
    imgmount_run(&imgmount, &["ls", "--offline", &reference]).expect(0);
    for args in [&["verify"][..], &["ls", "--no-cache"]] {
        imgmount_run(&imgmount, &[args, &["--offline", &reference]].concat())
            .expect(2)
            .says("must be requested, because the cache is not used; --offline forbids it");
    }
}

#[test]
fn r1_an_address_of_the_web_is_refused_with_the_right_form() {
    let imgmount = Imgmount::new();
    for (args, right) in [
        (["ls", "docker://https://reg.invalid/app:1"], "'docker://reg.invalid/app:1'"),
        (["ls", "docker://http://reg.invalid:5000/app"], "'docker://reg.invalid:5000/app'"),
        (["cat", "docker://https://reg.invalid/app:1:/etc/os-release"], "'docker://reg.invalid/app:1'"),
        (["inspect", "docker://https://reg.invalid/app:1"], "'docker://reg.invalid/app:1'"),
    ] {
        imgmount_run(&imgmount, &args).expect(2).says("write it without 'http").says(right);
    }
}
