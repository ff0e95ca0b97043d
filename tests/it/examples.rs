//! Builds and runs the library's examples, as their first lines say.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fixture::{Compression, Image, oci, sample_large, tar};
use crate::mounted::{Imgmount, Need, Run, have, is_mounted, run};

/// Runs an example with these arguments. `cargo test` builds the examples; a run of a single test may
/// not.
fn example(imgmount: &Imgmount, name: &str, arguments: &[&str]) -> Run {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["run", "--quiet", "--locked", "--offline", "--example", name, "--manifest-path"])
        .arg(manifest);
    command.arg("--").args(arguments).current_dir(imgmount.dir()).env("TMPDIR", imgmount.dir());
    run(&mut command)
}

fn sample(imgmount: &Imgmount) {
    imgmount.write("image.tar", &tar(&oci(&[Image::sample("", Compression::Gzip(6))])));
}

#[test]
fn list_image_lists_every_path_with_type_mode_and_target() {
    let imgmount = Imgmount::new();
    sample(&imgmount);
    let out = example(&imgmount, "list_image", &["image.tar"]).expect(0);
    for line in [
        "d0755          0 /",
        "c0666          0 /dev/null",
        "-4755         10 /bin/tool",
        "l0777         14 /etc/absolute -> /usr/lib/large",
        "-0644          5 /opt/caf\\xe9",
    ] {
        assert!(out.lines().contains(&line), "{line:?} is not in:\n{}", out.text());
    }
    let all = run(imgmount.command(&["ls", "-R", "image.tar"]).current_dir(imgmount.dir())).expect(0);
    assert_eq!(out.lines().len(), all.lines().len() + 1, "as many as ls has, and the root");
    example(&imgmount, "list_image", &["absent.tar"]).expect(1).says("absent.tar");
}

#[test]
fn copy_file_copies_through_links_inside_the_image() {
    let imgmount = Imgmount::new();
    sample(&imgmount);
    example(&imgmount, "copy_file", &["image.tar", "/etc/absolute", "copied"]).expect(0);
    assert!(fs::read(imgmount.dir().join("copied")).unwrap() == sample_large());
    example(&imgmount, "copy_file", &["image.tar", "/etc", "nothing"]).expect(1);
    assert!(!imgmount.dir().join("nothing").exists());
}

#[test]
fn mount_image_mounts_looks_and_unmounts() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    sample(&imgmount);
    let point = imgmount.mount_point();
    for _ in ["indexed", "from the store"] {
        let out = example(&imgmount, "mount_image", &["image.tar", point.to_str().unwrap()]).expect(0);
        assert_eq!(out.lines(), ["bin", "dev", "etc", "lib", "opt", "tmp", "usr", "var"]);
        assert!(!is_mounted(&point));
    }
}
