//! Limits: names, documents and manifests that a small archive can multiply.

use super::archives::{gzip, layout};
use super::*;

#[test]
fn x11_a_name_longer_than_a_path_is_refused_before_it_is_looked_up() {
    // Each prefix of the name was hashed from its start: 157 s for a name of 1 MiB.
    for files in [Files::as_tar, Files::as_directory] {
        let mut archive = Files::default();
        let item = |config: &str| json!([{"Config": config, "RepoTags": [], "Layers": []}]);
        archive.json("manifest.json", &item(&"a/".repeat(512 << 10)));
        let error = files(&archive).image("").unwrap_err().to_string();
        assert!(error.ends_with(": a file name of 1048576 bytes exceeds the limit of 4096"), "{error}");
        assert!(error.len() < 200, "the error does not repeat the name");
    }
}

#[test]
fn x11_links_and_dots_in_a_deep_name_lead_to_its_file() {
    let mut files = Files::default();
    let deep = "d/".repeat(40);
    let config = config("linux/amd64", &[]);
    files.symlink("d/d/link", "../d/d").json(&format!("{deep}c"), &config).file("d/d/d/c", "other");
    for name in [format!("d/d/link/{}../d/c", "d/".repeat(37)), format!("/d//{}./c", "d/".repeat(39))] {
        let mut archive = files.clone();
        archive.json("manifest.json", &json!([{"Config": name, "RepoTags": [], "Layers": []}]));
        let image = archive.as_tar().image("").unwrap();
        assert_eq!(image.info.raw_config, config.to_string().as_bytes(), "{name}");
    }
}

/// Returns a tar with the members `names`, which are empty, and those of `files`.
fn with_members(files: &Files, names: impl Iterator<Item = String>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for name in names {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        builder.append_data(&mut header, name, &[][..]).unwrap();
    }
    let mut tar = builder.into_inner().unwrap();
    tar.truncate(tar.len() - 1024);
    tar.extend(files.tar());
    tar
}

#[test]
fn x9_names_that_no_document_can_use_are_not_kept_and_their_total_is_limited() {
    // 900 names of 1 MiB took 1.9 GB.
    let name = |at: usize| format!("{at:03}{}", "/a".repeat(500_000));
    let tar = with_members(&layout(), (0..3).map(name));
    assert_eq!(
        scan(&tar, Limits::default()).unwrap().unwrap().len(),
        scan(&layout().tar(), Limits::default()).unwrap().unwrap().len()
    );
    for place in [Site::of_bytes(&tar), Site::of_bytes(&gzip(&tar))] {
        assert_eq!(place.layers("a:1"), ["A"]);
    }
    let tar = with_members(&layout(), (0..70).map(name));
    for place in [Site::of_bytes(&tar), Site::of_bytes(&gzip(&tar))] {
        let error = place.open().unwrap_err().to_string();
        assert!(error.ends_with("exceeds the limit member-name-bytes (67108864)"), "{error}");
    }
}

/// Returns `document` with spaces up to `len` bytes, which do not change its meaning.
fn padded(document: &Value, len: usize) -> Vec<u8> {
    let mut bytes = document.to_string().into_bytes();
    bytes.resize(len, b' ');
    bytes
}

/// Returns the descriptor of a manifest that is not there.
fn absent(at: usize) -> Value {
    json!({"mediaType": OCI_MANIFEST, "digest": format!("sha256:{at:064x}"), "size": 1})
}

#[test]
fn x6_the_number_of_manifests_of_an_image_is_limited() {
    // 1.3 MB of image indexes listed a million manifests, and took 842 MB of memory.
    let opened = |count: usize| {
        let mut files = Files::default();
        let manifest = files.image("linux/amd64", &["A"]);
        let mut halves = Vec::new();
        for half in [0..count / 2, count / 2..count - 1] {
            halves.push(nested(&mut files, &half.map(absent).collect::<Vec<_>>()));
        }
        let index =
            nested(&mut files, &[halves.remove(0), made_for(manifest, "linux/amd64"), halves.remove(0)]);
        files.layout(&[index]);
        files.as_tar().image_for("", Some("linux/amd64"))
    };
    assert_eq!(contents(&opened(10_000).unwrap()), ["A"]);
    let error = opened(10_001).unwrap_err();
    assert!(matches!(error, Error::Limit { limit: "manifests", value: 10_001, .. }), "{error}");
}

#[test]
fn x6_the_total_length_of_image_indexes_is_limited() {
    let opened = |count: usize| {
        let mut files = Files::default();
        let manifest = files.image("linux/amd64", &["A"]);
        let index = |at| json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [absent(at)]});
        let mut all: Vec<_> =
            (0..count).map(|at| files.blob(OCI_INDEX, padded(&index(at), 4_000_000))).collect();
        all.push(made_for(manifest, "linux/amd64"));
        let top = nested(&mut files, &all);
        files.layout(&[top]);
        files.as_tar().image_for("", Some("linux/amd64"))
    };
    assert_eq!(contents(&opened(4).unwrap()), ["A"]);
    let error = opened(5).unwrap_err();
    assert!(matches!(error, Error::Limit { limit: "index-bytes", value: 20_000_000.., .. }), "{error}");
}

#[test]
fn x6_the_documents_that_are_read_for_one_image_are_limited_in_total() {
    // Without a platform in the descriptors, every manifest and its config was read, 48 ms each.
    let opened = |count: usize| {
        let mut files = Files::default();
        let config = files.blob(OCI_CONFIG, padded(&config("linux/amd64", &[]), 4_000_000));
        let all: Vec<_> = (0..count)
            .map(|at| {
                let manifest = json!({"schemaVersion": 2, "config": config, "layers": [], "annotations": {"at": at.to_string()}});
                files.blob(OCI_MANIFEST, manifest.to_string())
            })
            .collect();
        let top = nested(&mut files, &all);
        files.layout(&[top]);
        files.as_tar().image("")
    };
    assert!(opened(30).is_ok());
    let error = opened(40).unwrap_err();
    assert!(matches!(error, Error::Limit { limit: "document-bytes", max: 0x800_0000, .. }), "{error}");
}

#[test]
fn x6_the_documents_that_are_read_for_a_list_of_images_are_limited_in_total() {
    // A list of 20,000 names of one image read its documents 20,000 times.
    let mut files = Files::default();
    files.file("c.json", padded(&config("linux/amd64", &[]), 4_000_000));
    let items: Vec<_> = (0..140)
        .map(|at| json!({"Config": "c.json", "RepoTags": [format!("a:{at}")], "Layers": []}))
        .collect();
    files.json("manifest.json", &json!(items));
    let site = files.as_tar();
    let source = site.open().unwrap();
    let images = source.images().unwrap();
    let opened: Vec<_> = images.iter().map(|image| source.details(image, None)).collect();
    assert_eq!(opened.iter().filter(|details| details.is_ok()).count(), 134);
    let error = opened.into_iter().find_map(Result::err).unwrap();
    assert!(matches!(error, Error::Limit { limit: "archive-document-bytes", .. }), "{error}");
}

#[test]
fn x6_one_manifest_with_many_names_is_read_once_for_a_list() {
    let mut files = Files::default();
    let config = files.blob(OCI_CONFIG, config("linux/amd64", &[]).to_string());
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": []});
    let manifest = files.blob(OCI_MANIFEST, padded(&manifest, 4_000_000));
    // 1,000 times would exceed the limit on documents.
    let names: Vec<_> = (0..1000).map(|at| named(manifest.clone(), &format!("t{at}"))).collect();
    files.layout(&names);
    let site = files.as_tar();
    let source = site.open().unwrap();
    assert_eq!(source.images().unwrap().len(), 1000);
    assert!(source.image(&selection("t999"), None).is_ok());
}
