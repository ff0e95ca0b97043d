//! Reads the storage directory of a registry: as the real registry fills it, running and stopped, and with
//! faults in every place.

use std::fs;
use std::os::unix::fs::symlink as link;
use std::path::PathBuf;

use serde_json::Value;

use crate::engines::Registry;
use crate::fixture::{Compression, Image, docker_legacy, file, oci, sample_tree, sha256_hex, tar, write_dir};
use crate::mounted::{Imgmount, Need, Run, have};
use crate::tree::Snapshot;

/// The tree of files below the root directory of a registry.
const TREE: &str = "docker/registry/v2";

/// Makes an image with one file, `name`.
fn small(reference: &str, name: &str) -> Image {
    Image::named(reference).layer("COPY", &[file(name, name.as_bytes())])
}

/// Returns the images that an error lists, without their short IDs.
fn listed(run: &Run) -> Vec<&str> {
    let lines = run.stderr.lines().filter_map(|line| line.strip_prefix("  "));
    lines.map(|line| line.split(" (").next().unwrap()).collect()
}

#[track_caller]
fn shows_sample(imgmount: &Imgmount, reference: &str) {
    let mounted = imgmount.mount(reference, &[]);
    Snapshot::described(&sample_tree()).assert_shown_by(&Snapshot::of(mounted.path()), reference);
}

/// Pushes the sample in the forms that registries store, and reads each from the running registry's
/// storage, and again when the registry has stopped.
#[test]
fn f40_an_image_that_was_pushed_is_read_from_the_storage() {
    if !have(&[Need::Fuse, Need::Program("docker-registry"), Need::Program("skopeo")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let mut registry = Registry::start(&imgmount);
    imgmount.write("sample.tar", &tar(&docker_legacy(&[Image::sample("./", Compression::Plain)])));
    write_dir(&oci(&[Image::sample("./", Compression::Zstd)]), &imgmount.dir().join("zstd"));
    let forms: [(&str, &str, &[&str]); 4] = [
        ("oci:zstd:1", "zstd:latest", &[]),
        ("docker-archive:sample.tar", "team/app/docker:1", &["--format", "v2s2"]),
        ("docker-archive:sample.tar", "team/app/oci:1", &["--format", "oci"]),
        ("docker-archive:sample.tar", "team/app/oci:again", &["--format", "oci"]),
    ];
    for (source, name, options) in forms {
        registry.push(&imgmount, source, name, options);
        shows_sample(&imgmount, &registry.reference(name));
    }
    registry.stop();
    for (_, name, _) in forms {
        shows_sample(&imgmount, &registry.reference(name));
    }
    // A name without a tag means `latest`; the tree itself is a path, too, and recognised without a transport.
    shows_sample(&imgmount, &registry.reference("zstd"));
    shows_sample(&imgmount, &format!("{}:team/app/oci:1", registry.dir.join(TREE).display()));
    let inspected = imgmount.run(&["inspect", "--json", &registry.reference("zstd")]).expect(0);
    assert!(inspected.text().contains(r#""compression":"zstd""#), "{}", inspected.text());
    let verified = imgmount.run(&["verify", &registry.reference("zstd")]).expect(0);
    assert!(verified.lines().len() > 4, "{verified:?}");
}

#[test]
fn f40_a_platform_of_a_pushed_image_index_is_chosen() {
    if !have(&[Need::Program("docker-registry"), Need::Program("skopeo")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let registry = Registry::start(&imgmount);
    let images = ["amd64", "riscv64"].map(|one| small("a:1", one).for_architecture(one, None));
    write_dir(&index_of(&images), &imgmount.dir().join("layout"));
    let digest = registry.push(&imgmount, "oci:layout:1", "multi:1", &["--all"]);
    for (name, platform, shown) in [
        ("multi:1", "linux/riscv64", "riscv64\n"),
        ("multi:1", "linux/amd64", "amd64\n"),
        (&format!("multi@{digest}"), "linux/riscv64", "riscv64\n"),
    ] {
        let run = imgmount.run(&["ls", "--platform", platform, &registry.reference(name)]).expect(0);
        assert_eq!(run.text(), shown, "{name} {platform}");
    }
    // The manifests of the platforms are parts of the tagged image, not further images.
    let sole = format!("registry-storage:{}", registry.dir.display());
    imgmount.run(&["ls", &sole]).expect(0);
    let index =
        fs::read(registry.dir.join(TREE).join(data(digest.strip_prefix("sha256:").unwrap()))).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let own = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["platform"]["architecture"] == "riscv64");
    let own = format!("multi@{}", own.unwrap()["digest"].as_str().unwrap());
    assert_eq!(imgmount.run(&["ls", &registry.reference(&own)]).expect(0).text(), "riscv64\n");
}

/// Returns an OCI layout whose only entry is an image index of `images`.
fn index_of(images: &[Image]) -> Vec<crate::fixture::Item> {
    crate::fixture::oci_nested("a:1", images, 1)
}

/// A tag moves to another image; its old manifest stays until garbage is collected.
#[test]
fn f40_a_manifest_without_a_tag_is_listed_until_it_is_collected() {
    if !have(&[Need::Program("docker-registry"), Need::Program("skopeo")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let mut registry = Registry::start(&imgmount);
    write_dir(&oci(&[small("old", "old"), small("new", "new")]), &imgmount.dir().join("layout"));
    let old = registry.push(&imgmount, "oci:layout:old", "a/b:1", &[]);
    registry.push(&imgmount, "oci:layout:new", "a/b:1", &[]);
    registry.push(&imgmount, "oci:layout:new", "a/b:2", &[]);
    registry.push(&imgmount, "oci:layout:old", "c:1", &[]);
    let untagged = format!("a/b@{old}");

    let place = format!("registry-storage:{}", registry.dir.display());
    let ls = |reference: &str| imgmount.run(&["ls", reference]);
    assert_eq!(listed(&ls(&place).expect(2)), ["a/b:1", "a/b:2", &untagged, "c:1"]);
    assert_eq!(ls(&registry.reference(&untagged)).expect(0).text(), "old\n");
    assert_eq!(ls(&registry.reference("a/b:1")).expect(0).text(), "new\n");

    registry.stop();
    registry.collect_garbage();
    assert_eq!(listed(&ls(&place).expect(2)), ["a/b:1", "a/b:2", "c:1"]);
    ls(&registry.reference(&untagged)).expect(2).says("holds no image");
    assert_eq!(ls(&registry.reference("a/b:2")).expect(0).text(), "new\n");
    assert_eq!(ls(&registry.reference("c:1")).expect(0).text(), "old\n");
}

/// The tree of files as a registry would write it, made by this test.
struct Made {
    imgmount: Imgmount,
}

impl Made {
    fn new(images: &[(&str, &str, &Image)]) -> Self {
        let made = Made { imgmount: Imgmount::new() };
        for (repository, tag, image) in images {
            made.add(repository, tag, image);
        }
        made
    }

    /// Returns a path below the tree.
    fn path(&self, name: &str) -> PathBuf {
        self.imgmount.dir().join("root").join(TREE).join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn add(&self, repository: &str, tag: &str, image: &Image) {
        let layers = image.layers.iter().map(|layer| layer.blob.clone());
        for blob in layers.chain([image.config(), image.manifest()]) {
            self.write(&data(&sha256_hex(&blob)), blob);
        }
        let hex = sha256_hex(&image.manifest());
        let manifests = format!("repositories/{repository}/_manifests");
        self.write(&format!("{manifests}/revisions/sha256/{hex}/link"), format!("sha256:{hex}"));
        self.write(&format!("{manifests}/tags/{tag}/current/link"), format!("sha256:{hex}"));
        self.write(&format!("{manifests}/tags/{tag}/index/sha256/{hex}/link"), format!("sha256:{hex}"));
    }

    /// Runs `ls` on the image `name`; on the whole storage for an empty name.
    fn ls(&self, name: &str) -> Run {
        let separator = if name.is_empty() { "" } else { ":" };
        self.imgmount.run(&["ls", &format!("registry-storage:root{separator}{name}")])
    }
}

/// Returns the file of a blob.
fn data(hex: &str) -> String {
    format!("blobs/sha256/{}/{hex}/data", &hex[..2])
}

const TAG: &str = "repositories/team/app/_manifests/tags/1/current/link";

#[test]
fn f41_a_link_that_is_no_digest_is_refused_and_hides_no_other_image() {
    let app = small("", "app");
    let made = Made::new(&[("team/app", "1", &app), ("other", "1", &small("", "other"))]);
    let long = "sha256:".to_owned() + &"0".repeat(2000);
    for garbage in ["", "garbage", "sha256:../../../../etc/passwd", "sha512:00", "\u{0}", "md5:0", &long] {
        made.write(TAG, garbage);
        made.ls("team/app:1").expect(2).says(TAG);
        let all = made.ls("").expect(2);
        let untagged = format!("team/app@sha256:{}", sha256_hex(&app.manifest()));
        assert_eq!(listed(&all), ["other:1", "team/app:1", &untagged], "{garbage:?}");
        assert_eq!(made.ls("other:1").expect(0).text(), "other\n");
    }
}

#[test]
fn f41_the_link_of_a_manifest_must_name_that_manifest() {
    let (one, two) = (small("", "one"), small("", "two"));
    let made = Made::new(&[("app", "1", &one), ("app", "2", &two)]);
    let [one, two] = [one, two].map(|image| sha256_hex(&image.manifest()));
    made.write(&format!("repositories/app/_manifests/revisions/sha256/{one}/link"), format!("sha256:{two}"));
    made.ls(&format!("app@sha256:{one}")).expect(2).says("the link names another manifest");
    assert_eq!(made.ls("app:1").expect(0).text(), "one\n");
}

#[test]
fn f41_a_missing_or_changed_blob_is_named() {
    let image = small("", "app");
    let blobs = [image.manifest(), image.config(), image.layers[0].blob.clone()];
    for blob in blobs {
        let hex = sha256_hex(&blob);
        let made = Made::new(&[("app", "1", &image)]);
        fs::remove_file(made.path(&data(&hex))).unwrap();
        let missing = made.ls("app:1").expect(2).says("is missing");
        assert!(missing.stderr.contains(&hex), "{}", missing.stderr);

        let mut changed = blob.clone();
        changed[10] ^= 1;
        made.write(&data(&hex), changed);
        made.ls("app:1").expect(2).says("does not match");
        let verified = made.imgmount.run(&["verify", "registry-storage:root:app:1"]).expect(1);
        assert!(verified.text().contains("mismatch"), "{verified:?}");
    }
}

/// A hostile storage replaces a directory or file by a link to a copy outside: the answer would be right, but
/// came from another place of the host.
#[test]
fn f41_a_planted_link_that_leads_out_is_refused_in_every_place() {
    let image = small("", "app");
    let hex = sha256_hex(&image.layers[0].blob);
    let mut places = vec!["docker".to_owned()];
    for path in [format!("{TREE}/{TAG}"), format!("{TREE}/{}", data(&hex))] {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        places.extend(ends.map(|end| path[..end].to_owned()));
    }
    places.sort();
    places.dedup();
    assert_eq!(places.len(), 16, "{places:?}");
    for place in places {
        let made = Made::new(&[("team/app", "1", &image)]);
        let root = made.imgmount.dir().join("root");
        let outside = made.imgmount.dir().join("outside");
        fs::rename(root.join(&place), &outside).unwrap();
        link(&outside, root.join(&place)).unwrap();
        let refused = made.ls("team/app:1").expect(2);
        assert!(refused.stderr.contains("leads out of the directory"), "{place}: {}", refused.stderr);
    }
}

/// Links inside the storage are followed, and a circle of links ends.
#[test]
fn f41_links_in_circles_are_no_repositories_without_end() {
    let made = Made::new(&[("team/app", "1", &small("", "app"))]);
    for name in ["one", "two", "team/three"] {
        let up = if name.contains('/') { "../../repositories" } else { "../repositories" };
        link(up, made.path(&format!("repositories/{name}"))).unwrap();
    }
    link("round", made.path("repositories/round")).unwrap();
    fs::write(made.path("repositories/file"), b"").unwrap();
    // A single image is found, so no circle added names.
    made.ls("").expect(0).says("too many levels of symbolic links");
    let refused = made.ls("none").expect(2);
    assert_eq!(listed(&refused).len(), 1, "{}", refused.stderr);
}

#[test]
fn f41_a_directory_without_repositories_is_no_storage() {
    let made = Made::new(&[]);
    fs::create_dir_all(made.path("blobs")).unwrap();
    made.ls("").expect(2).says("docker/registry/v2/repositories");
    made.ls("app:1").expect(2).says("docker/registry/v2/repositories");
    fs::create_dir(made.path("repositories")).unwrap();
    made.ls("app:1").expect(2).says("the list of images is empty");
}
