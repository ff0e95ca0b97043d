//! Docker-archives and skopeo directories.

use super::*;

/// Adds a config of these layers to the archive as `<hex>.json`.
fn put_config(files: &mut Files, layers: &[&str]) -> String {
    let config = config("linux/amd64", layers).to_string();
    let name = format!("{}.json", sha256(config.as_bytes()).hex());
    files.file(&name, config);
    name
}

fn item(config: &str, tags: Value, layers: &[&str]) -> Value {
    json!({"Config": config, "RepoTags": tags, "Layers": layers})
}

/// Creates an archive of two images, `a:1` and `b:1`, as skopeo writes multi-image archives.
fn two_images() -> Files {
    let mut files = Files::default();
    let a = put_config(&mut files, &["A"]);
    let b = put_config(&mut files, &["B"]);
    files.file("a.tar", "A").file("b.tar", "B");
    let items = json!([
        item(&a, json!(["docker.io/library/a:1"]), &["a.tar"]),
        item(&b, json!(["docker.io/library/b:1", "b:2"]), &["b.tar"]),
    ]);
    files.json("manifest.json", &items);
    files
}

#[test]
fn f1_repeated_layers_are_links_inside_the_archive() {
    let mut files = Files::default();
    let config = put_config(&mut files, &["A", "B", "A", "B"]);
    files.file("11/layer.tar", "A").file("22/layer.tar", "B");
    files.symlink("33/layer.tar", "../11/layer.tar").hardlink("44/layer.tar", "22/layer.tar");
    let layers = ["11/layer.tar", "22/layer.tar", "33/layer.tar", "44/layer.tar"];
    files.json("manifest.json", &json!([item(&config, json!(["a:1"]), &layers)]));
    let place = files.as_tar();
    assert_eq!(place.layers(""), ["A", "B", "A", "B"]);
    let image = place.image("a:1").unwrap();
    assert_eq!(image.layers[0].identity, image.layers[2].identity);
    assert_ne!(image.layers[0].identity, image.layers[1].identity);
}

#[test]
fn f1_links_that_run_in_circles_are_refused() {
    let mut files = Files::default();
    let config = put_config(&mut files, &["A"]);
    files.symlink("1.tar", "2.tar").hardlink("2.tar", "1.tar");
    files.json("manifest.json", &json!([item(&config, json!(null), &["1.tar"])]));
    assert!(files.as_tar().refusal("").to_string().ends_with("too many levels of symbolic links"));
}

#[test]
fn f1_links_that_leave_the_archive_lead_nowhere() {
    let mut files = Files::default();
    let config = put_config(&mut files, &["A"]);
    files.symlink("1.tar", "../../etc/passwd");
    files.json("manifest.json", &json!([item(&config, json!(null), &["1.tar"])]));
    assert!(matches!(files.as_tar().refusal(""), Error::MissingBlob { .. }));
}

#[test]
fn f2_an_archive_of_docker_before_1_10_is_named() {
    let mut files = Files::default();
    files.json("repositories", &json!({"a": {"latest": "11"}})).file("11/layer.tar", "A");
    let error = files.as_tar().open().unwrap_err().to_string();
    assert!(error.contains("an archive from Docker before 1.10"), "{error}");
}

#[test]
fn f5_several_images_are_listed_unless_one_is_selected() {
    let place = two_images().as_tar();
    let error = place.refusal("").to_string();
    let listed =
        "holds several images; available:\n  docker.io/library/a:1 (@0)\n  docker.io/library/b:1, b:2 (@1)";
    assert!(error.ends_with(listed), "{error}");
    assert_eq!(place.layers("a:1"), ["A"]);
    assert_eq!(place.layers("b:2"), ["B"]);
    assert_eq!(place.layers("@1"), ["B"]);
    assert!(matches!(place.refusal("@2"), Error::NoSuchImage { .. }));
    assert_eq!(place.image("2").unwrap().info.names, ["docker.io/library/b:1", "b:2"]);
    assert!(matches!(place.refusal("1"), Error::Ambiguous { .. }));
}

#[test]
fn f5_one_image_listed_once_for_each_name_is_one_image() {
    let mut files = Files::default();
    let config = put_config(&mut files, &["A"]);
    files.file("a.tar", "A");
    let items = ["a:1", "a:2"].map(|tag| item(&config, json!([tag]), &["a.tar"]));
    files.json("manifest.json", &json!(items));
    assert_eq!(files.as_tar().layers(""), ["A"]);
}

#[test]
fn f1_f6_a_config_is_read_whatever_its_name() {
    let good = config("linux/amd64", &["A"]).to_string();
    let hex = sha256(good.as_bytes()).hex();
    let sha512 = Algorithm::Sha512.digest(good.as_bytes()).hex();
    for name in [
        format!("{hex}.json"),
        format!("sha256:{hex}"),
        format!("blobs/sha512/{sha512}"),
        format!("blobs/sha256/{hex}"),
        "config.json".to_owned(),
    ] {
        let mut files = Files::default();
        files.file("a.tar.gz", "A").file(&name, good.clone());
        files.json("manifest.json", &json!([item(&name, json!(null), &["a.tar.gz"])]));
        let image = files.as_directory().image("").unwrap();
        let digest = image.info.config_digest.unwrap();
        assert_eq!(digest, digest.algorithm().digest(good.as_bytes()));
        assert_eq!(image.layers[0].descriptor.diff_id, Some(sha256(b"A")));
    }
}

/// docker, podman, skopeo and ctr load such an archive, because each computes the digest from the bytes.
/// imgmount once refused it. `verify` still reports the name.
#[test]
fn f1_a_config_that_is_not_named_by_its_digest_is_accepted() {
    let bytes = config("linux/amd64", &["A"]).to_string();
    for name in [format!("{}.json", sha256(b"other").hex()), format!("blobs/sha512/{}", "0".repeat(128))] {
        let mut files = Files::default();
        files.file("a.tar", "A").file(&name, bytes.clone());
        files.json("manifest.json", &json!([item(&name, json!(null), &["a.tar"])]));
        let place = files.as_directory();
        let image = place.image("").unwrap();
        assert_eq!(image.info.config_digest, Some(sha256(bytes.as_bytes())));
        let survey = place.open().unwrap().survey(&Selection::Sole, None).unwrap();
        let found = survey.documents[0].found.unwrap().1;
        assert_ne!(found, survey.documents[0].digest);
    }
}

#[test]
fn f7_names_may_be_absolute_and_the_manifest_last() {
    let mut files = Files::default();
    let config = put_config(&mut files, &["A"]);
    let bytes = files.0.remove(0).1;
    files.file("/nix/layer.tar", "A");
    files.0.push((format!("./{config}"), bytes));
    files.json("/manifest.json", &json!([item(&config, json!(null), &["/nix/layer.tar"])]));
    assert_eq!(files.as_tar().layers(""), ["A"]);
}

#[test]
fn f8_a_needed_name_that_stands_twice_is_refused() {
    for name in ["manifest.json", "./manifest.json", "x/../manifest.json", "a.tar"] {
        let mut files = two_images();
        files.file(name, "A");
        let error = files.as_tar().image("a:1").unwrap_err().to_string();
        assert!(error.contains("more than once"), "{name}: {error}");
    }
    let mut files = two_images();
    files.file("b.tar", "other");
    assert_eq!(files.as_tar().layers("a:1"), ["A"]);
}

#[test]
fn f9_layers_and_diff_ids_must_be_as_many() {
    let mut files = Files::default();
    let config = put_config(&mut files, &["A", "B"]);
    files.file("a.tar", "A");
    files.json("manifest.json", &json!([item(&config, json!(null), &["a.tar"])]));
    let place = files.as_tar();
    let error = place.refusal("").to_string();
    assert_eq!(
        error,
        format!("'manifest.json' in '{}': 1 layer(s), but 2 diff_id(s) in the config", place.path.display())
    );
}

#[test]
fn a_missing_layer_is_named() {
    let mut files = two_images();
    files.remove("a.tar");
    let error = files.as_tar().refusal("a:1").to_string();
    assert!(error.starts_with("layer 0 ('a.tar' in "), "{error}");
    assert!(error.ends_with("') is missing"), "{error}");
}

#[test]
fn an_unpacked_docker_archive_is_one_too() {
    let place = two_images().as_directory();
    assert_eq!(place.open().unwrap().kind(), "docker-archive");
    assert_eq!(place.layers("b:2"), ["B"]);
}

/// containerify 4.1 and jib of 2019 write lower-case keys, and Docker loads their archives: Go's
/// `encoding/json` matches keys in any case.
#[test]
fn x5_a_manifest_and_a_config_with_lower_case_keys_are_read() {
    let mut files = Files::default();
    let digest = sha256(b"A").to_string();
    let config = json!({"OS": "linux", "architecture": "amd64", "rootfS": {"diff_ids": [digest]}});
    files.json("config.json", &config).file("layer.tar", "A");
    let item = json!({"config": "config.json", "repoTags": ["a:1"], "layers": ["layer.tar"]});
    files.json("manifest.json", &json!([item]));
    let image = files.as_tar().image("a:1").unwrap();
    assert_eq!(contents(&image), ["A"]);
    assert_eq!(image.info.platform.unwrap().to_string(), "linux/amd64");
}

/// Engines take the last of two such keys, and scanners may take the first: they see different layers.
#[test]
fn x5_a_manifest_with_a_key_in_two_cases_is_refused() {
    let mut files = Files::default();
    let config = put_config(&mut files, &["A"]);
    files.file("a.tar", "A");
    let sly = with(item(&config, json!(null), &["a.tar"]), "layers", json!(["b.tar"]));
    files.json("manifest.json", &json!([sly]));
    let error = files.as_tar().refusal("").to_string();
    assert!(error.ends_with("more than one key is 'Layers', in upper or lower case"), "{error}");
}

#[test]
fn x6_a_manifest_or_config_past_its_limit_is_refused() {
    let padded = |bytes: u64| " ".repeat(usize::try_from(bytes).unwrap());
    let mut files = Files::default();
    files.file("manifest.json", padded(super::super::MAX_ARCHIVE_MANIFEST_BYTES + 1));
    let error = files.as_tar().open().unwrap_err();
    assert!(matches!(error, Error::Limit { limit: "MAX_ARCHIVE_MANIFEST_BYTES", .. }), "{error}");

    let mut files = Files::default();
    files.file("config.json", padded(crate::image::manifest::MAX_DOCUMENT_BYTES + 1));
    files.json("manifest.json", &json!([item("config.json", json!(null), &[])]));
    let error = files.as_tar().refusal("");
    assert!(matches!(error, Error::Limit { limit: "MAX_DOCUMENT_BYTES", .. }), "{error}");
}

/// Creates a directory as skopeo writes it for `dir:`.
fn skopeo_directory(manifest: &Value, blobs: &[&[u8]]) -> Files {
    let mut files = Files::default();
    files.file("version", "Directory Transport Version: 1.1\n").json("manifest.json", manifest);
    for blob in blobs {
        files.file(&sha256(blob).hex(), *blob);
    }
    files
}

#[test]
fn a_skopeo_directory_has_its_blobs_beside_the_manifest() {
    let config = config("linux/amd64", &["A"]).to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "config": descriptor(OCI_CONFIG, config.as_bytes()),
        "layers": [descriptor(LAYER, b"A")],
    });
    let place = skopeo_directory(&manifest, &[config.as_bytes(), b"A"]).as_directory();
    assert_eq!(place.open().unwrap().kind(), "dir");
    let image = place.image("").unwrap();
    assert_eq!(contents(&image), ["A"]);
    assert_eq!(image.info.manifest_digest, Some(sha256(manifest.to_string().as_bytes())));
    assert!(matches!(place.refusal("a:1"), Error::NoSuchImage { .. }));
}

#[test]
fn a_skopeo_directory_may_hold_a_list() {
    let config = config("linux/s390x", &["A"]).to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "config": descriptor(OCI_CONFIG, config.as_bytes()),
        "layers": [descriptor(LAYER, b"A")],
    })
    .to_string();
    let list = json!({"schemaVersion": 2, "manifests": [descriptor(OCI_MANIFEST, manifest.as_bytes())]});
    let mut files = skopeo_directory(&list, &[config.as_bytes(), b"A"]);
    files.file(&format!("{}.manifest.json", sha256(manifest.as_bytes()).hex()), manifest);
    assert_eq!(files.as_directory().layers(""), ["A"]);
}
