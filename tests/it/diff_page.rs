//! Tests the page that `diff --html` writes: complete, harmless, and readable in a real browser.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::{Image, dir, docker_legacy, file, oci, patterned, symlink, tar, whiteout};
use crate::mounted::{Imgmount, Need, find_program, have, run};

/// Text that a page would execute, or that would end its element, if it were not escaped.
const HOSTILE: &str = "<img src=x onerror=\"document.title='owned'\">&amp;'";

fn images(imgmount: &Imgmount) -> (PathBuf, PathBuf) {
    let base = [
        dir("etc"),
        file("etc/passwd", b"root:x:0:0\nuser:x:1:1\n"),
        file("etc/gone", b"1"),
        file("tool", patterned(3000, 1)),
        symlink("link", HOSTILE),
    ];
    let second = [
        file("etc/passwd", format!("root:x:0:0\nuser:x:1000:1000\n\t\x1b[31m{HOSTILE}\u{202e}\n"))
            .mode(0o600),
        whiteout("etc/gone"),
        file(format!("etc/{HOSTILE}"), b"1").mode(0o600),
        file("tool", patterned(3000, 2)),
        symlink("link", "</span></li></ul>"),
    ];
    let first = Image::named("demo:1").layer("ADD base", &base);
    let write = |name, image| imgmount.write(name, &tar(&docker_legacy(&[image])));
    let later = first.clone().layer(&format!("RUN {HOSTILE}"), &second);
    (write("a.tar", first), write("b.tar", later))
}

fn page(imgmount: &Imgmount) -> PathBuf {
    let (a, b) = images(imgmount);
    let page = imgmount.dir().join("page.html");
    let out = run(imgmount.command(&["diff", "--html"]).arg(&page).arg(a).arg(b)).expect(1);
    assert_eq!(out.text(), "");
    page
}

#[test]
fn the_page_fetches_nothing_and_shows_hostile_text_as_text() {
    let imgmount = Imgmount::new();
    let text = fs::read_to_string(page(&imgmount)).unwrap();
    assert!(text.starts_with("<!DOCTYPE html>\n") && text.ends_with("</html>\n"));
    assert!(text.contains("default-src 'none'; style-src 'unsafe-inline'"));
    for absent in
        ["<script", "<img", "src=", "href=", "url(", "@import", "http:", "https:", "\x1b", "\u{202e}"]
    {
        let count = text.matches(absent).count();
        let escaped = text.matches(&format!("&lt;img {absent}")).count();
        assert_eq!(count, escaped, "{absent}");
    }
    assert!(text.contains("+\t\\x1b[31m&lt;img src=x onerror=&quot;document.title=&#39;owned&#39;&quot;&gt;&amp;amp;&#39;\\xe2\\x80\\xae</span>"));
}

#[test]
fn the_page_says_what_differs_and_between_which_images() {
    let imgmount = Imgmount::new();
    let text = fs::read_to_string(page(&imgmount)).unwrap();
    for part in [
        "5 paths differ: 1 added, 1 deleted, 3 modified.",
        "<td>demo:1</td><td>demo:1</td>",
        "<summary>2 layers, 1 in both</summary>",
        "mode 0644 → 0600",
        "Binary content differs.",
        "<span class=\"del\">-user:x:1:1</span><span class=\"add\">+user:x:1000:1000</span>",
        "ADD base",
    ] {
        assert!(text.contains(part), "{part}");
    }
}

#[test]
fn the_page_goes_to_standard_output_where_that_is_asked_for() {
    let imgmount = Imgmount::new();
    let page = page(&imgmount);
    let images = images(&imgmount);
    let out = run(imgmount.command(&["diff", "--html", "-"]).arg(images.0).arg(images.1)).expect(1);
    assert!(out.stdout == fs::read(page).unwrap());
}

#[test]
fn images_that_are_the_same_have_a_page_that_says_so() {
    let imgmount = Imgmount::new();
    let (a, _) = images(&imgmount);
    let out = run(imgmount.command(&["diff", "--html", "-"]).arg(&a).arg(&a)).expect(0);
    assert!(out.text().contains("No differences.") && !out.text().contains("<h2>Changes</h2>"));
}

#[test]
fn a_page_that_cannot_be_written_leaves_nothing_behind() {
    let imgmount = Imgmount::new();
    let (a, b) = images(&imgmount);
    let into = imgmount.dir().join("no/page.html");
    run(imgmount.command(&["diff", "--html"]).arg(&into).arg(a).arg(b)).expect(2).says("page.html");
    assert!(!into.exists());
}

#[test]
fn a_path_as_deep_as_can_be_has_its_place() {
    let imgmount = Imgmount::new();
    let deep = "d/".repeat(2000);
    // A file beside every fourth directory keeps the directories from being shown on one line.
    let items: Vec<_> =
        (1..=2000).step_by(4).map(|depth| file(format!("{}f", &deep[..2 * depth]), b"1")).collect();
    let write = |name, image| imgmount.write(name, &tar(&docker_legacy(&[image])));
    let a = write("a.tar", Image::named("a:1").layer("ADD", &[]));
    let b = write("b.tar", Image::named("a:1").layer("ADD", &items));
    let out = run(imgmount.command(&["diff", "--html", "-"]).arg(a).arg(b)).expect(1);
    assert!(out.text().contains("2\u{202f}497 paths differ"));
}

fn headless(browser: &Path, profile: &Path, page: &Path, options: &[&str]) -> Vec<u8> {
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.arg(format!("--user-data-dir={}", profile.display())).args(options);
    run(command.arg(format!("file://{}", page.display()))).expect(0).stdout
}

#[test]
fn a_browser_shows_the_page_and_runs_nothing_of_it() {
    if !have(&[Need::Program("chromium")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let (browser, page) = (find_program("chromium").unwrap(), page(&imgmount));
    let profile = imgmount.dir().join("profile");
    let dom = String::from_utf8(headless(&browser, &profile, &page, &["--dump-dom"])).unwrap();
    // The browser's DOM has the right title, no element made from a name, and the complete tree.
    assert!(dom.contains("<title>") && !dom.contains("<title>owned</title>"));
    assert!(!dom.contains("<img"));
    assert_eq!(dom.matches("<details").count(), dom.matches("</details>").count());
    assert_eq!(dom.matches("class=\"is-").count(), 5);
    for (scheme, name) in [("", "light.png"), ("--force-dark-mode", "dark.png")] {
        let picture = imgmount.dir().join(name);
        let screenshot = format!("--screenshot={}", picture.display());
        let options: Vec<&str> = [screenshot.as_str(), "--window-size=1000,1600", scheme]
            .into_iter()
            .filter(|option| !option.is_empty())
            .collect();
        headless(&browser, &profile, &page, &options);
        let bytes = fs::read(&picture).unwrap();
        assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 20_000, "{name}: {} bytes", bytes.len());
    }
    let [light, dark] = ["light.png", "dark.png"].map(|name| fs::read(imgmount.dir().join(name)).unwrap());
    assert!(light != dark, "light and dark look the same");
}

/// Once, `--html /dev/null` as root replaced the device by a file.
#[test]
fn a_page_is_written_into_a_pipe_and_through_a_link_and_replaces_only_files() {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};
    let imgmount = Imgmount::new();
    let image = |name: &str, content: &[u8]| {
        imgmount.write(name, &tar(&oci(&[Image::named("a:1").layer("COPY", &[file("f", content)])])))
    };
    let (a, b) = (image("a.tar", b"1"), image("b.tar", b"2"));
    let write = |to: &std::path::Path| {
        run(imgmount.command(&["diff", "--html"]).arg(to).arg(&a).arg(&b)).expect(1);
    };
    let at = |name: &str| imgmount.dir().join(name);

    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let reader = std::thread::spawn({
        let pipe = at("pipe");
        move || std::fs::read(pipe).unwrap()
    });
    write(&at("pipe"));
    assert!(reader.join().unwrap().starts_with(b"<!DOCTYPE html>"));
    assert!(at("pipe").symlink_metadata().unwrap().file_type().is_fifo());

    std::fs::write(at("target"), b"old").unwrap();
    std::fs::set_permissions(at("target"), std::fs::Permissions::from_mode(0o600)).unwrap();
    for (link, target) in [("link", "target"), ("dangling", "new")] {
        symlink(target, at(link)).unwrap();
        write(&at(link));
        assert!(at(link).is_symlink());
        assert!(std::fs::read(at(target)).unwrap().starts_with(b"<!DOCTYPE html>"));
    }
    assert_eq!(at("target").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    run(imgmount.command(&["diff", "--html"]).arg(imgmount.dir()).arg(&a).arg(&b)).expect(2);
}
