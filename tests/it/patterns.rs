//! Tests paths with patterns, and lists in the order of bytes.

use std::path::PathBuf;

use crate::fixture::{Image, dir, docker_legacy, file, symlink, tar};
use crate::mounted::{Imgmount, Run, run};

fn image(imgmount: &Imgmount) -> PathBuf {
    let image = Image::named("a:1").layer(
        "ADD",
        &[
            dir("etc"),
            file("etc/a.conf", b"1"),
            file("etc/b.conf", b"22"),
            file("etc/[x].conf", b"333"),
            dir("etc/d.conf"),
            file("etc/d.conf/inner.conf", b""),
            file("etc/other", b""),
            symlink("conf", "etc"),
        ],
    );
    imgmount.write("image.tar", &tar(&docker_legacy(&[image])))
}

fn ls(options: &[&str], path: &str) -> Run {
    let imgmount = Imgmount::new();
    let mut image = image(&imgmount).into_os_string();
    image.push(":");
    image.push(path);
    run(imgmount.command(&["ls"]).args(options).arg(image))
}

#[test]
fn a_pattern_lists_full_paths_and_goes_into_no_directory() {
    let out = ls(&[], "/etc/*.conf").expect(0);
    assert_eq!(out.text(), "/etc/[x].conf\n/etc/a.conf\n/etc/b.conf\n/etc/d.conf\n");
    let out = ls(&["-R"], "/etc/?.conf").expect(0);
    assert_eq!(out.text(), "/etc/a.conf\n/etc/b.conf\n/etc/d.conf\n/etc/d.conf/inner.conf\n");
}

#[test]
fn a_pattern_follows_links_on_the_way_and_asks_for_directories_with_a_slash() {
    assert_eq!(ls(&[], "/conf/[ab].*").expect(0).text(), "/conf/a.conf\n/conf/b.conf\n");
    assert_eq!(ls(&[], "/*/*.conf/").expect(0).text(), "/conf/d.conf\n/etc/d.conf\n");
}

#[test]
fn two_stars_reach_any_depth() {
    let out = ls(&[], "/**/*.conf").expect(0);
    let expected = "/etc/[x].conf\n/etc/a.conf\n/etc/b.conf\n/etc/d.conf\n/etc/d.conf/inner.conf\n";
    assert_eq!(out.text(), expected);
}

#[test]
fn a_path_that_is_there_is_no_pattern() {
    assert_eq!(ls(&[], "/etc/[x].conf").expect(0).text(), "/etc/[x].conf\n");
    assert_eq!(ls(&[], r"/etc/\[x\].conf").expect(0).text(), "/etc/[x].conf\n");
}

#[test]
fn a_pattern_that_matches_nothing_is_a_failure() {
    let out = ls(&[], "/etc/*.none").expect(2).says("/etc/*.none");
    assert_eq!(out.text(), "");
}

#[test]
fn matches_have_long_lines_and_objects_too() {
    let out = ls(&["-l"], "/etc/[ab].conf").expect(0);
    let expected =
        "-rw-r--r-- 1 0 0 1 2023-11-14 22:13 /etc/a.conf\n-rw-r--r-- 1 0 0 2 2023-11-14 22:13 /etc/b.conf\n";
    assert_eq!(out.text(), expected);
    let out = ls(&["--json"], "/etc/b*").expect(0);
    assert!(
        out.text().starts_with(r#"{"path":"/etc/b.conf","type":"file","mode":"0644","#),
        "{}",
        out.text()
    );
    assert_eq!(out.lines().len(), 1);
}
