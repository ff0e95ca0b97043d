//! The default locations of podman, additional stores, and stores below the root directory of another host.

use std::fs;
use std::path::{Path, PathBuf};

use super::{BASE, NEEDS, dense_sample, image, load, reference, shows};
use crate::engines::Podman;
use crate::mounted::{Imgmount, Run, have, run};

/// Runs the program with `CONTAINERS_STORAGE_CONF`, the configuration that podman uses, too.
fn configured(imgmount: &Imgmount, conf: &Path, args: &[&str]) -> Run {
    run(imgmount.command(args).env("CONTAINERS_STORAGE_CONF", conf))
}

#[test]
fn f34_without_a_path_the_store_of_storage_conf_is_opened() {
    if !have(&NEEDS) {
        return;
    }
    let imgmount = Imgmount::new();
    let podman = super::store(&imgmount);
    podman.run("c1", BASE, &[], "echo 1 > /etc/new");
    let conf = imgmount.dir().join("storage.conf");
    fs::write(
        &conf,
        format!("[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\n", podman.store.display()),
    )
    .unwrap();
    for name in [format!("containers-storage:{BASE}"), "containers-storage:@c1".to_owned()] {
        let listed = configured(&imgmount, &conf, &["ls", "-R", &name]).expect(0);
        assert!(listed.lines().contains(&"/etc/kept"), "{}", listed.text());
    }
    fs::write(&conf, "[storage]\ndriver = \"overlay\"\ngraphroot = \"/nothing/here\"\n").unwrap();
    let missing = configured(&imgmount, &conf, &["ls", &format!("containers-storage:{BASE}")]).expect(2);
    assert!(missing.stderr.contains("'/nothing/here'"), "{}", missing.stderr);
}

/// Creates the root directory of a host with two stores: root's own, and an additional one that root's podman
/// only reads. The image is in the latter, a container in the former.
fn host(imgmount: &Imgmount) -> (PathBuf, Podman) {
    let root = imgmount.dir().join("evidence");
    let (own, shared) = (root.join("var/lib/containers/storage"), root.join("srv/shared"));
    let writer =
        Podman::in_store(&imgmount.dir().join("writer"), shared.clone(), &["--storage-driver", "overlay"]);
    load(imgmount, &writer, image());
    let option = format!("overlay.imagestore={}", shared.display());
    let reader = Podman::in_store(
        &imgmount.dir().join("reader"),
        own,
        &["--storage-driver", "overlay", "--storage-opt", &option],
    );
    reader.run("c1", BASE, &[], "echo 1 > /etc/new");
    fs::create_dir_all(root.join("etc/containers")).unwrap();
    let conf =
        "[storage]\ndriver = \"overlay\"\n[storage.options]\nadditionalimagestores = [\"/srv/shared\"]\n";
    fs::write(root.join("etc/containers/storage.conf"), conf).unwrap();
    (root, reader)
}

#[test]
fn f34_additional_stores_are_those_of_the_host_that_the_store_belongs_to() {
    if !have(&NEEDS) {
        return;
    }
    let imgmount = Imgmount::new();
    let (root, podman) = host(&imgmount);
    let expected = podman.mounted("c1");
    shows(&imgmount, &reference(&podman.store, "@c1"), &[], &expected, &[]);
    // The image is listed although only the additional store holds it.
    let listed = imgmount.run(&["ls", "-R", &reference(&podman.store, &format!(":{BASE}"))]).expect(0);
    assert!(listed.lines().contains(&"/etc/kept"), "{}", listed.text());

    // A link of that host leads nowhere on this host.
    let conf = root.join("etc/containers/storage.conf");
    let shared = format!("additionalimagestores = [\"{}\"]", root.join("srv/shared").display());
    fs::write(&conf, format!("[storage.options]\n{shared}\n")).unwrap();
    let failed = imgmount.run(&["ls", &reference(&podman.store, "@c1")]).expect(2);
    assert!(
        failed.stderr.contains("the layer '") && failed.stderr.contains("' is missing"),
        "{}",
        failed.stderr
    );
    fs::remove_file(&conf).unwrap();
    std::os::unix::fs::symlink("/srv/shared.conf", &conf).unwrap();
    fs::write(root.join("srv/shared.conf"), "[storage.options]\nadditionalimagestores = [\"/srv/link\"]\n")
        .unwrap();
    std::os::unix::fs::symlink("/srv/shared", root.join("srv/link")).unwrap();
    imgmount.run(&["ls", &reference(&podman.store, "@c1")]).expect(0);
}

#[test]
fn f34_an_additional_store_that_cannot_be_read_is_a_warning() {
    if !have(&NEEDS) {
        return;
    }
    let imgmount = Imgmount::new();
    let (root, podman) = host(&imgmount);
    load(&imgmount, &podman, dense_sample());
    let own = reference(&podman.store, ":example.com/dense:1");
    let (list, conf) = ("srv/shared/overlay-images/images.json", "etc/containers/storage.conf");
    for (file, warning) in [(list, "'overlay-images/images.json' in "), (conf, "storage.conf': bad TOML: ")] {
        fs::write(root.join(file), "garbage").unwrap();
        imgmount.run(&["ls", &own]).expect(0).says(warning);
        imgmount.run(&["ls", &reference(&podman.store, &format!(":{BASE}"))]).expect(2);
    }
}
