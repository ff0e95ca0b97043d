//! For each limit that can be set: an image at the limit is read, and past it the error names the limit.
//!
//! The images are small and the limits are lowered, so that the test is quick. `sweep` tests the defaults.

use imgmount::{Limit, Limits};

use crate::fixture::{
    Compression, Image, Registry, docker_legacy, docker_modern, file, oci_nested, sparse, tar, whiteout,
    write_dir,
};
use crate::mounted::Imgmount;
use crate::registries::imgmount_run;

/// A command on an image, and the smallest value of a limit with which the command succeeds, if the test
/// states it.
struct Case {
    limit: &'static str,
    at: Option<u64>,
    command: Vec<String>,
    /// Serves the image as long as the case lives.
    _registry: Option<Registry>,
}

impl Case {
    fn new(limit: &'static str, at: impl Into<Option<u64>>, command: &[&str]) -> Self {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        Case { limit, at: at.into(), command, _registry: None }
    }

    /// Runs the command with this value of the limit.
    fn run(&self, imgmount: &Imgmount, value: u64) -> crate::mounted::Run {
        let option = format!("--limit={}={value}", self.limit);
        let words: Vec<_> = self.command.iter().map(String::as_str).chain(["--no-cache", &option]).collect();
        imgmount_run(imgmount, &words)
    }

    /// Raises the limit from 0 to each value that an error names, until the command succeeds.
    fn check(&self, imgmount: &Imgmount) {
        let mut value = 0;
        loop {
            let run = self.run(imgmount, value);
            if run.code != 2 {
                break;
            }
            let end = format!(" exceeds the limit {} ({value})", self.limit);
            let found =
                run.stderr.split_once(&end).and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok());
            let found: u64 = found.unwrap_or_else(|| panic!("{:?}: {}", self.command, run.stderr));
            run.says(&format!("hint: if you trust the image, --limit {}=VALUE raises the limit", self.limit));
            assert!(found > value, "{}: {found} is not past {value}", self.limit);
            value = found;
        }
        assert_ne!(value, 0, "{}: {:?} does not count against the limit", self.limit, self.command);
        assert_eq!(self.at.unwrap_or(value), value, "{}", self.limit);
    }
}

fn image(items: &[crate::fixture::Item]) -> Image {
    Image::named("a:1").layer("COPY", items)
}

fn cases(imgmount: &Imgmount) -> Vec<Case> {
    let on = |limit, at, command: &[&str], name: &str, bytes: Vec<u8>| {
        let path = imgmount.write(&format!("{name}.tar"), &bytes);
        Case::new(limit, at, &[command, &[path.to_str().unwrap()]].concat())
    };
    let archive = |items: &[_]| tar(&docker_legacy(&[image(items)]));
    let three = [file("a", b"1"), file("b", b"2"), file("c", b"3")];
    let long = format!("{}file", "d/".repeat(80));
    let parts: Vec<(u64, &[u8])> = vec![(0, b"a"), (1000, b"b"), (2000, b"c")];
    let nested = tar(&oci_nested("a:1", &[image(&three)], 2));
    write_dir(&three, &imgmount.dir().join("root"));
    let root = format!("rootfs:{}", imgmount.dir().join("root").display());
    let registry = |limit, at| {
        let registry = Registry::start();
        registry.push_index("app:1", &[image(&three)]);
        let reference = registry.reference("app:1");
        Case { _registry: Some(registry), ..Case::new(limit, at, &["ls", &reference]) }
    };
    let stored = image(&three).layers.iter().map(|layer| layer.blob.len() as u64).sum::<u64>();
    vec![
        on("entries", Some(3), &["ls"], "entries", archive(&three)),
        // The root is an entry, too.
        Case::new("entries", 4, &["ls", &root]),
        on("metadata-bytes", None, &["ls"], "metadata", archive(&three)),
        on("layer-bytes", None, &["ls"], "layer", archive(&three)),
        // Zeros, because layers may always grow as much as gzip can.
        on("unpacked-bytes", None, &["ls"], "unpacked", {
            let zeros = file("zeros", vec![0; 8 << 20]);
            let image = Image::named("a:1").layer_as("COPY", &[zeros], "", Compression::Bzip2);
            tar(&docker_legacy(&[image]))
        }),
        on("extension-bytes", Some(174), &["ls"], "extension", archive(&[file(&long, b"")])),
        on("sparse-segments", None, &["ls"], "sparse", archive(&[sparse("a", 3000, &parts)])),
        // Four directories and one entry.
        on("implied-directories", Some(3), &["ls"], "implied", archive(&[file("a/b/c/d/file", b"")])),
        on("members", None, &["ls"], "members", tar(&docker_modern(&[image(&three)]))),
        on("member-name-bytes", None, &["ls"], "names", tar(&docker_modern(&[image(&three)]))),
        on("manifests", Some(1), &["ls"], "manifests", nested.clone()),
        on("index-bytes", None, &["ls"], "index", nested.clone()),
        on("document-bytes", None, &["ls"], "documents", nested.clone()),
        on("archive-document-bytes", None, &["ls"], "all-documents", nested),
        Case::new("directory-names", 3, &["ls", &root]),
        // The manifest and the config; the image index has its own limit.
        registry("registry-documents", Some(2)),
        registry("registry-document-bytes", None),
        registry("registry-image-bytes", Some(stored)),
        on("answer-bytes", Some(2), &["deleted"], "answer", {
            let upper = [whiteout("a")];
            tar(&docker_legacy(&[image(&three).layer("RUN", &upper)]))
        }),
    ]
}

#[test]
fn x9_each_limit_holds_exactly() {
    let imgmount = Imgmount::new();
    let cases = cases(&imgmount);
    for limit in Limits::all() {
        assert!(cases.iter().any(|case| case.limit == limit.name), "no image tests the limit {}", limit.name);
    }
    for case in &cases {
        assert!(Limit::named(case.limit).is_some(), "{} is not a limit", case.limit);
        case.check(&imgmount);
    }
}
