//! OCI layouts.

use super::*;

/// Creates an image of one layer for each of `platforms`; the layer contains the platform's name.
fn images(files: &mut Files, platforms: &[&str]) -> Vec<Value> {
    let image = |platform: &&str| made_for(files.image(platform, &[platform]), platform);
    platforms.iter().map(image).collect()
}

/// Creates an archive as Docker 25 and later write it: an OCI layout with a `manifest.json` beside
/// `index.json`.
fn docker_25() -> (Files, Value) {
    let mut files = Files::default();
    let manifest = files.image("linux/amd64", &["A"]);
    let annotations = json!({
        "io.containerd.image.name": "docker.io/library/alpine:3.19",
        "org.opencontainers.image.ref.name": "3.19",
    });
    files.layout(&[with(manifest, "annotations", annotations)]);
    let config = descriptor(OCI_CONFIG, config("linux/amd64", &["A"]).to_string().as_bytes());
    let layer = blob_name(&descriptor(LAYER, b"A"));
    let item = json!({"Config": blob_name(&config), "RepoTags": ["alpine:3.19"], "Layers": [layer]});
    (files, item)
}

#[test]
fn f3_an_archive_that_is_both_is_read_as_oci() {
    let (mut files, item) = docker_25();
    files.json("manifest.json", &json!([item]));
    let place = files.as_tar();
    assert_eq!(place.open().unwrap().kind(), "oci-archive");
    let image = place.image("alpine:3.19").unwrap();
    assert_eq!(image.info.names, ["docker.io/library/alpine:3.19"]);
    assert_eq!(image.layers[0].descriptor.digest, Some(sha256(b"A")));
    let docker = place.open_as("docker-archive:").unwrap();
    assert_eq!(contents(&docker.image(&Selection::Sole, None).unwrap()), ["A"]);
}

#[test]
fn f3_two_manifests_that_mean_different_images_are_refused() {
    let (mut files, item) = docker_25();
    let other = files.blob(OCI_CONFIG, config("linux/amd64", &["B"]).to_string());
    files.json("manifest.json", &json!([with(item, "Config", json!(blob_name(&other)))]));
    assert!(matches!(files.as_tar().refusal(""), Error::Mismatch { .. }));
}

/// Returns an item of `manifest.json` for an image of one layer, and adds its blobs to the archive.
fn put_item(files: &mut Files, tags: Value, layer: &str) -> Value {
    let config = blob_name(&files.blob(OCI_CONFIG, config("linux/amd64", &[layer]).to_string()));
    let layer = blob_name(&files.blob(LAYER, layer));
    json!({"Config": config, "RepoTags": tags, "Layers": [layer]})
}

/// `docker save` of an image ID, by Docker 25 and later, writes `"manifests": null`: only names put
/// images into `index.json`. `docker load` reads `manifest.json`, which is complete.
#[test]
fn f3_an_untagged_image_is_read_from_manifest_json() {
    for manifests in [json!(null), json!([])] {
        let mut files = Files::default();
        let item = put_item(&mut files, json!(null), "A");
        files.json("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}));
        files.json("index.json", &json!({"schemaVersion": 2, "manifests": manifests}));
        files.json("manifest.json", &json!([item]));
        let place = files.as_tar();
        assert_eq!(list(&*place.open().unwrap()), ["(@0)"]);
        assert_eq!(place.layers(""), ["A"]);
        assert_eq!(place.layers("@0"), ["A"]);
        let survey = place.open().unwrap().survey(&Selection::Sole, None).unwrap();
        assert_eq!((survey.layers.len(), survey.faults.len()), (1, 0));
    }
}

/// The same for `docker save NAME ID`: imgmount once showed the named image as the only one.
#[test]
fn f3_images_that_only_one_list_names_are_all_listed_once() {
    let (mut files, tagged) = docker_25();
    let untagged = put_item(&mut files, json!(null), "B");
    let other = put_item(&mut files, json!(["other:1"]), "C");
    files.json("manifest.json", &json!([untagged, tagged, other]));
    let place = files.as_tar();
    let listed = ["docker.io/library/alpine:3.19 (@0)", "(@1)", "other:1 (@2)"];
    assert_eq!(list(&*place.open().unwrap()), listed);
    assert!(matches!(place.refusal(""), Error::Ambiguous { .. }));
    for (select, layer) in [("alpine:3.19", "A"), ("@1", "B"), ("other:1", "C")] {
        assert_eq!(place.layers(select), [layer]);
    }
}

/// An entry without a name and an item without a name are one image if their configs are the same.
#[test]
fn f3_an_untagged_image_of_both_lists_is_one_image() {
    let mut files = Files::default();
    let manifest = files.image("linux/amd64", &["A"]);
    let item = put_item(&mut files, json!(null), "A");
    files.layout(&[manifest]);
    files.json("manifest.json", &json!([item]));
    let place = files.as_tar();
    assert_eq!(list(&*place.open().unwrap()), ["(@0)"]);
    assert!(place.image("").unwrap().info.manifest_digest.is_some());
}

#[test]
fn f3_one_image_of_two_names_is_one_image() {
    let mut files = Files::default();
    let manifest = files.image("linux/amd64", &["A"]);
    files.layout(&[named(manifest.clone(), "a:1"), named(manifest, "a:2")]);
    let image = files.as_tar().image("").unwrap();
    assert_eq!(image.info.names, ["a:1", "a:2"]);
}

#[test]
fn f4_absent_platforms_are_ignored_unless_selected() {
    let mut files = Files::default();
    let manifests = images(&mut files, &["linux/amd64", "linux/arm64", "linux/s390x"]);
    let index = nested(&mut files, &manifests);
    files.layout(&[index]);
    for absent in [0, 1] {
        files.remove(&blob_name(&manifests[absent]));
    }
    let place = files.as_tar();
    assert_eq!(place.layers(""), ["linux/s390x"]);
    let error = place.image_for("", Some("linux/arm64")).unwrap_err();
    assert!(matches!(error, Error::MissingBlob { .. }), "{error}");
}

#[test]
fn f9_layers_and_diff_ids_must_be_as_many() {
    let mut files = Files::default();
    let config = files.blob(OCI_CONFIG, config("linux/amd64", &["A", "B"]).to_string());
    let layer = files.blob(LAYER, "A");
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let manifest = files.blob(OCI_MANIFEST, manifest.to_string());
    files.layout(&[manifest]);
    let error = files.as_directory().refusal("").to_string();
    assert!(error.starts_with("manifest sha256:"), "{error}");
    assert!(error.ends_with(": 1 layer(s), but 2 diff_id(s) in the config"), "{error}");
}

#[test]
fn f11_unknown_files_types_and_links_inside_a_layout_do_no_harm() {
    let mut files = Files::default();
    let manifest = files.image("linux/amd64", &["A"]);
    let layer = blob_name(&descriptor(LAYER, b"A"));
    files.remove(&layer);
    files.file("elsewhere/blob", "A").symlink(&layer, "../../elsewhere/blob");
    files.json("manifest.json", &json!({"of": "someone else"}));
    let unknown = files.blob("application/vnd.example.thing+json", "{}");
    files.layout(&[manifest, unknown]);
    assert_eq!(files.as_directory().layers(""), ["A"]);
    assert_eq!(files.as_tar().layers(""), ["A"]);
}

#[test]
fn f11_a_link_out_of_the_layout_is_refused() {
    for target in ["/etc/hostname", "../../../outside"] {
        let mut files = Files::default();
        let manifest = files.image("linux/amd64", &["A"]);
        let layer = blob_name(&descriptor(LAYER, b"A"));
        files.remove(&layer);
        files.symlink(&layer, target).layout(&[manifest]);
        let place = files.as_directory();
        fs::write(place.temporary.path().join("outside"), "A").unwrap();
        let error = place.refusal("").to_string();
        assert!(error.ends_with("the path leads out of the directory"), "{error}");
    }
}

#[test]
fn f11_another_layout_version_is_named() {
    let mut files = Files::default();
    files.json("oci-layout", &json!({"imageLayoutVersion": "2.0.0"})).json("index.json", &json!({}));
    let error = files.as_directory().open().unwrap_err().to_string();
    assert!(error.ends_with("not supported: OCI layout version '2.0.0'; only 1.x is supported"), "{error}");
}

#[test]
fn f12_images_are_selected_by_name_tag_or_position() {
    let mut files = Files::default();
    let manifests = ["A", "B"].map(|layer| files.image("linux/amd64", &[layer]));
    let [a, b] = manifests;
    files.layout(&[named(a, "docker.io/library/alpine:3"), named(b, "odd name")]);
    let place = files.as_directory();
    assert_eq!(place.layers("alpine:3"), ["A"]);
    assert_eq!(place.layers("3"), ["A"]);
    assert_eq!(place.layers("odd name"), ["B"]);
    assert_eq!(place.layers("@1"), ["B"]);
    let error = place.refusal("").to_string();
    assert!(error.ends_with("available:\n  docker.io/library/alpine:3 (@0)\n  odd name (@1)"), "{error}");
}

#[test]
fn f13_image_indexes_nest_four_deep_and_no_deeper() {
    let nest = |levels: usize| {
        let mut files = Files::default();
        let mut top = files.image("linux/amd64", &["A"]);
        for _ in 0..levels {
            top = nested(&mut files, &[top]);
        }
        files.layout(&[top]);
        files.as_tar()
    };
    assert_eq!(nest(4).layers(""), ["A"]);
    let error = nest(5).refusal("").to_string();
    assert!(error.ends_with("nested deeper than the limit of 4 image indexes"), "{error}");
}

#[test]
fn f13_what_was_visited_is_not_visited_again() {
    let mut files = Files::default();
    let manifests = images(&mut files, &["linux/s390x"]);
    let inner = nested(&mut files, &manifests);
    let outer = nested(&mut files, &[inner.clone(), inner, manifests[0].clone()]);
    files.layout(&[outer]);
    // The image is the only one; otherwise its platform would not match.
    let image = files.as_tar().image_for("", Some("linux/riscv64")).unwrap();
    assert_eq!(contents(&image), ["linux/s390x"]);
}

#[test]
fn f14_the_platform_decides_among_several() {
    let mut files = Files::default();
    let manifests = images(&mut files, &["linux/arm64", "linux/386", "linux/s390x"]);
    let index = nested(&mut files, &manifests);
    files.layout(&[index]);
    let place = files.as_tar();
    for (platform, layer) in [("linux/aarch64", "linux/arm64"), ("linux/amd64", "linux/386")] {
        let image = place.image_for("", Some(platform)).unwrap();
        assert_eq!(contents(&image), [layer]);
    }
    let error = place.image_for("", Some("linux/riscv64")).unwrap_err().to_string();
    let there = "no image for platform linux/riscv64; available:\n  linux/arm64\n  linux/386\n  linux/s390x";
    assert_eq!(error, there);
}

/// `docker save` of a containerd store keeps the whole image index and the blobs of some platforms. The list
/// of available platforms was once empty then, as for manifests without a platform.
#[test]
fn f14_without_a_fitting_platform_all_that_the_index_names_is_listed() {
    let mut files = Files::default();
    let unknown = |files: &mut Files, layer: &str| {
        let config = files.blob(OCI_CONFIG, json!({"rootfs": {"diff_ids": []}, "author": layer}).to_string());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": []});
        files.blob(OCI_MANIFEST, manifest.to_string())
    };
    let manifests = [unknown(&mut files, "A"), unknown(&mut files, "B")];
    let absent = images(&mut files, &["linux/s390x"]).remove(0);
    let index = nested(&mut files, &[manifests[0].clone(), manifests[1].clone(), absent.clone()]);
    files.layout(&[index]);
    files.remove(&blob_name(&absent));
    let error = files.as_tar().image_for("", Some("linux/riscv64")).unwrap_err().to_string();
    let [a, b] = manifests.map(|manifest| manifest["digest"].as_str().unwrap().to_owned());
    let there = format!(
        "no image for platform linux/riscv64; available:\n  unknown platform, manifest {a}\n  \
         unknown platform, manifest {b}\n  linux/s390x (not stored here)"
    );
    assert_eq!(error, there);
}

#[test]
fn f14_a_sole_image_wins_whatever_its_platform() {
    let mut files = Files::default();
    let manifests = images(&mut files, &["linux/s390x"]);
    files.layout(&manifests);
    let image = files.as_tar().image_for("", Some("linux/amd64")).unwrap();
    assert_eq!(image.info.platform.unwrap().to_string(), "linux/s390x");
}

#[test]
fn f14_a_missing_platform_is_read_from_the_config() {
    let mut files = Files::default();
    let manifests = ["linux/s390x", "linux/riscv64"].map(|platform| files.image(platform, &[platform]));
    let index = nested(&mut files, &manifests);
    files.layout(&[index]);
    let image = files.as_tar().image_for("", Some("linux/riscv64")).unwrap();
    assert_eq!(contents(&image), ["linux/riscv64"]);
}

#[test]
fn f14_a_layout_may_list_the_platforms_of_one_name_itself() {
    let mut files = Files::default();
    let manifests = images(&mut files, &["linux/s390x", "linux/riscv64"]);
    files.layout(&manifests);
    let image = files.as_tar().image_for("", Some("linux/riscv64")).unwrap();
    assert_eq!(contents(&image), ["linux/riscv64"]);
}

#[test]
fn f14_platforms_of_several_names_are_several_images() {
    let mut files = Files::default();
    let manifests = images(&mut files, &["linux/s390x", "linux/riscv64"]);
    let [a, b] = [named(manifests[0].clone(), "a:1"), named(manifests[1].clone(), "b:1")];
    files.layout(&[a, b]);
    assert!(matches!(files.as_tar().refusal(""), Error::Ambiguous { .. }));
}

#[test]
fn f15_attestations_are_passed_by() {
    let mut files = Files::default();
    let image = files.image("linux/s390x", &["A"]);
    let mark = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let attestation = with(files.image("unknown/unknown", &["in-toto"]), "annotations", mark);
    let index = nested(&mut files, &[attestation.clone(), image]);
    files.layout(&[attestation, index]);
    let place = files.as_tar();
    assert_eq!(list(&*place.open().unwrap()), ["(@1)"]);
    assert_eq!(place.layers(""), ["A"]);
}

#[test]
fn f15_a_layout_of_nothing_but_attestations_holds_no_image() {
    let mut files = Files::default();
    let attestation = made_for(files.image("unknown/unknown", &["in-toto"]), "unknown/unknown");
    let index = nested(&mut files, std::slice::from_ref(&attestation));
    let (mut outer, mut inner) = (files.clone(), files);
    outer.layout(&[attestation]);
    inner.layout(&[index]);
    for (files, reason) in
        [(outer, "the list of images is empty"), (inner, "the image index lists no image manifest")]
    {
        let error = files.as_tar().refusal("").to_string();
        assert!(error.ends_with(reason), "{error}");
    }
}

#[test]
fn f16_f17_a_cache_or_an_artifact_is_refused_by_name() {
    for (media_type, word) in [
        ("application/vnd.buildkit.cacheconfig.v0", "a BuildKit cache"),
        ("application/vnd.cncf.helm.config.v1+json", "an artifact"),
    ] {
        let mut files = Files::default();
        let config = files.blob(media_type, "{}");
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": []});
        let manifest = files.blob(OCI_MANIFEST, manifest.to_string());
        files.layout(&[manifest]);
        let error = files.as_tar().refusal("").to_string();
        assert!(error.starts_with(&format!("'{media_type}': not supported: {word}")), "{error}");
    }
}

#[test]
fn f17_an_artifact_beside_an_image_is_passed_by() {
    let mut files = Files::default();
    let image = files.image("linux/s390x", &["A"]);
    let artifact = with(files.image("linux/amd64", &["B"]), "artifactType", json!("application/spdx+json"));
    let index = nested(&mut files, &[artifact.clone(), image]);
    files.layout(&[artifact, index]);
    assert_eq!(files.as_tar().layers(""), ["A"]);
}

/// A signature as cosign stores it: its config is an image config, its layer is not an image layer.
fn signature(files: &mut Files) -> Value {
    let config = files.blob(OCI_CONFIG, config("linux/amd64", &["{}"]).to_string());
    let layer = files.blob("application/vnd.dev.cosign.simplesigning.v1+json", "{}");
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    files.blob(OCI_MANIFEST, manifest.to_string())
}

/// A registry's repository that was copied into a layout with all of its tags, or the output of `cosign
/// save`: one image and its signature. imgmount once reported "several images".
#[test]
fn f17_a_signature_beside_an_image_is_no_image() {
    let tag = format!("sha256-{}.sig", "0".repeat(64));
    let kind = json!({"kind": "dev.cosignproject.cosign/sigs"});
    let marks: [&dyn Fn(Value) -> Value; 3] =
        [&|entry| named(entry, &tag), &|entry| with(entry, "annotations", kind.clone()), &|entry| entry];
    for mark in marks {
        let mut files = Files::default();
        let image = named(files.image("linux/amd64", &["A"]), "a:1");
        let entry = mark(signature(&mut files));
        files.layout(&[entry, image]);
        let place = files.as_tar();
        assert_eq!(list(&*place.open().unwrap()), ["a:1 (@1)"]);
        assert_eq!(place.layers(""), ["A"]);
        let error = place.refusal("@0").to_string();
        assert!(error.ends_with("not supported: a cosign signature, not a container image"), "{error}");
        let error = place.refusal("b:1").to_string();
        assert!(error.ends_with("holds no image 'b:1'; available:\n  a:1 (@1)"), "{error}");
    }
}

/// An entry need not have an `artifactType`. Then only its manifest shows that it is an artifact.
#[test]
fn f17_artifacts_are_no_images_and_say_what_they_are() {
    let mut files = Files::default();
    let config = files.blob("application/vnd.cncf.helm.config.v1+json", "{}");
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": []});
    let chart = named(files.blob(OCI_MANIFEST, manifest.to_string()), "chart:1");
    let list_of_nothing = named(nested(&mut files, &[]), "empty:1");
    let sig = signature(&mut files);
    files.layout(&[chart.clone(), list_of_nothing, sig]);
    let error = files.as_tar().refusal("").to_string();
    let all = "no image found, only an artifact of type 'application/vnd.cncf.helm.config.v1+json' (@0), \
               an image index without an image (@1), a cosign signature (@2)";
    assert!(error.ends_with(all), "{error}");
    assert_eq!(list(&*files.as_tar().open().unwrap()), [""; 0]);
    let error = files.as_tar().refusal("chart:1").to_string();
    assert!(error.contains("an artifact, not a container image"), "{error}");
    files.remove("index.json");
    files.remove("oci-layout");
    let image = files.image("linux/amd64", &["A"]);
    files.layout(&[chart, image]);
    assert_eq!(files.as_tar().layers(""), ["A"]);
}

/// Creates a layout of one image whose only layer has this descriptor.
fn with_layer(files: &mut Files, layer: Value) {
    let config = files.blob(OCI_CONFIG, config("linux/amd64", &["A"]).to_string());
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let manifest = files.blob(OCI_MANIFEST, manifest.to_string());
    files.layout(&[manifest]);
}

#[test]
fn f18_a_foreign_layer_is_used_when_there_and_named_when_not() {
    let media_type = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    let mut files = Files::default();
    let layer = with(files.blob(media_type, "A"), "urls", json!(["https://example.com/l", "\u{1b}[31m"]));
    with_layer(&mut files, layer.clone());
    assert_eq!(files.as_tar().layers(""), ["A"]);
    files.remove(&blob_name(&layer));
    let error = files.as_tar().refusal("").to_string();
    assert!(error.ends_with(r"available at https://example.com/l, \x1b[31m)"), "{error}");
}

#[test]
fn f19_embedded_data_is_used_after_its_check() {
    for (data, good) in [("QQ==", true), ("Qg==", false)] {
        let mut files = Files::default();
        with_layer(&mut files, with(descriptor(LAYER, b"A"), "data", json!(data)));
        match files.as_tar().image("") {
            Ok(image) => assert_eq!((contents(&image), good), (vec!["A".to_owned()], true)),
            Err(error) => assert!(matches!(error, Error::Mismatch { .. }) && !good, "{error}"),
        }
    }
}

#[test]
fn f20_every_algorithm_finds_its_blob() {
    for algorithm in [Algorithm::Sha512, Algorithm::Blake3] {
        let mut files = Files::default();
        let layer = json!({"mediaType": LAYER, "digest": algorithm.digest(b"A").to_string(), "size": 1});
        files.file(&blob_name(&layer), "A");
        with_layer(&mut files, layer);
        assert_eq!(files.as_directory().layers(""), ["A"]);
    }
}

#[test]
fn f21_to_f24_layer_types() {
    for (media_type, served) in [
        ("application/vnd.oci.image.layer.v1.tar+zstd", true),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", true),
        ("application/vnd.oci.image.layer.v1.tar+encrypted", false),
        ("application/vnd.erofs.layer.v1", false),
    ] {
        let mut files = Files::default();
        let layer = files.blob(media_type, "A");
        with_layer(&mut files, layer);
        let image = files.as_tar().image("");
        assert_eq!(image.is_ok(), served, "{media_type}");
    }
}

#[test]
fn f23_schema_1_is_named() {
    let mut files = Files::default();
    let media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let manifest = files.blob(media_type, r#"{"schemaVersion":1,"fsLayers":[]}"#);
    files.layout(&[manifest]);
    let error = files.as_tar().refusal("").to_string();
    assert!(error.contains("a Docker schema 1 manifest"), "{error}");
}

#[test]
fn every_document_is_checked_against_its_descriptor() {
    let mut files = Files::default();
    let manifest = files.image("linux/amd64", &["A"]);
    let index = nested(&mut files, std::slice::from_ref(&manifest));
    let config = descriptor(OCI_CONFIG, config("linux/amd64", &["A"]).to_string().as_bytes());
    files.layout(std::slice::from_ref(&index));
    for blob in [&index, &manifest, &config] {
        let mut changed = files.clone();
        let (_, body) = changed.0.iter_mut().find(|(name, _)| *name == blob_name(blob)).unwrap();
        let Body::File(bytes) = body else {
            panic!("a link");
        };
        bytes.push(b' ');
        assert!(matches!(changed.as_tar().refusal(""), Error::Mismatch { .. }), "longer");
        bytes_of(&mut changed, blob).pop();
        bytes_of(&mut changed, blob)[0] = b' ';
        assert!(matches!(changed.as_tar().refusal(""), Error::Mismatch { .. }), "other");
    }
}

fn bytes_of<'a>(files: &'a mut Files, blob: &Value) -> &'a mut Vec<u8> {
    let (_, body) = files.0.iter_mut().find(|(name, _)| *name == blob_name(blob)).unwrap();
    match body {
        Body::File(bytes) => bytes,
        _ => panic!("a link"),
    }
}

#[test]
fn x2_a_digest_is_never_a_path() {
    let mut files = Files::default();
    let manifest = with(files.image("linux/amd64", &["A"]), "digest", json!("sha256:../../index.json"));
    files.layout(&[manifest]);
    let error = files.as_directory().open().unwrap_err().to_string();
    assert!(error.starts_with("digest 'sha256:../../index.json'"), "{error}");
}

#[test]
fn x3_a_manifest_of_another_type_than_its_descriptor_says_is_refused() {
    let mut files = Files::default();
    let manifest = files.image("linux/amd64", &["A"]);
    files.layout(&[with(manifest, "mediaType", json!(OCI_INDEX))]);
    let error = files.as_tar().refusal("").to_string();
    assert!(error.contains("the descriptor says"), "{error}");
}

/// Layouts with such manifests exist. containerd uses the descriptor, skopeo the fields; neither compares the
/// two names.
#[test]
fn x3_a_docker_manifest_below_an_oci_descriptor_is_read() {
    let mut files = Files::default();
    let config = files.blob(DOCKER_CONFIG, config("linux/amd64", &["A"]).to_string());
    let layer = files.blob("application/vnd.docker.image.rootfs.diff.tar", "A");
    let manifest =
        json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": [layer]});
    let manifest = files.blob(OCI_MANIFEST, manifest.to_string());
    files.layout(&[manifest]);
    assert_eq!(files.as_tar().layers(""), ["A"]);
}

#[test]
fn x6_a_document_past_its_limit_is_refused() {
    let mut files = Files::default();
    let size = usize::try_from(crate::image::manifest::MAX_DOCUMENT_BYTES).unwrap() + 1;
    let manifest = files.blob(OCI_MANIFEST, " ".repeat(size));
    files.layout(&[manifest]);
    let error = files.as_tar().refusal("");
    assert!(matches!(error, Error::Limit { limit: "MAX_DOCUMENT_BYTES", .. }), "{error}");
}
