//! The text of every error.

use std::collections::BTreeSet;

use super::*;
use crate::digest::Algorithm;

fn digest() -> Digest {
    Algorithm::Sha256.digest(b"abc")
}

fn layer() -> Subject {
    Subject::Layer { number: 3, diff_id: Some(digest()) }
}

fn archive() -> Subject {
    Subject::Archive(PathBuf::from("a.tar"))
}

fn refused() -> io::Error {
    io::Error::other("refused")
}

/// Each row: the error and its text.
fn table() -> Vec<(Error, String)> {
    let hex = digest().hex();
    let short = &hex[..12];
    let text = |text: &str| text.replace("LAYER", &format!("layer 3 (sha256:{short})")).replace("HEX", &hex);
    let entry = || EntryName { name: Some("etc/x".into()), offset: 512 };
    let member = Subject::Member { archive: "a.tar".into(), name: "x.json".into() };
    let file = Subject::LayerFile { number: 3, archive: "a.tar".into(), name: "x/layer.tar".into() };
    let document = || Subject::Document { role: DocumentRole::Manifest, digest: digest() };
    let damaged = StreamFault::Decompress { format: "gzip", offset: 9, reason: "bad block".into() };
    let tar = |name| StreamFault::Tar { entry: EntryName { name, offset: 512 }, reason: "bad".into() };
    let limit = |entry| StreamFault::Limit { entry, limit: "max_entries", value: 2, max: 1 };
    let one = || vec!["b:1".to_owned()];
    let rows = [
        (Error::io("cannot link", refused()), "cannot link: refused"),
        (Error::io_on("cannot open", archive(), refused()), "cannot open 'a.tar': refused"),
        (
            StreamFault::io_at("cannot read", 7, refused()).of(&layer()),
            "cannot read LAYER at offset 7: refused",
        ),
        (Error::Reference { text: "a:b".into(), reason: "why".into() }, "'a:b': why"),
        (
            Error::NotAnImage { path: "a".into(), reason: "why".into(), may_be_rootfs: false },
            "'a': not a container image: why",
        ),
        (
            Error::Ambiguous { path: "a".into(), candidates: one() },
            "'a' holds several images; available:\n  b:1",
        ),
        (
            Error::NoSuchImage { path: "a".into(), selector: "c".into(), candidates: one() },
            "'a' holds no image 'c'; available:\n  b:1",
        ),
        (
            Error::NoPlatform { wanted: "linux/arm64".into(), available: Vec::new() },
            "no image for platform linux/arm64",
        ),
        (
            Error::unsupported(Subject::Transport("docker".into()), "why"),
            "transport 'docker': not supported: why",
        ),
        (Error::malformed(member, "not an object"), "'x.json' in 'a.tar': not an object"),
        (
            Error::mismatch(layer(), Property::DiffId, 1, 2),
            "LAYER: diff_id does not match: expected 1, found 2",
        ),
        (
            Error::mismatch(document(), Property::Size, 1, 2),
            "manifest sha256:HEX: size does not match: expected 1, found 2",
        ),
        (
            Error::missing_blob(layer(), digest(), vec!["https://x".into()]),
            "LAYER: blob sha256:HEX is missing (a foreign layer, available at https://x)",
        ),
        (Error::unverifiable(layer(), "'x' is missing"), "LAYER: cannot be verified: 'x' is missing"),
        (Error::missing_blob(document(), digest(), Vec::new()), "manifest sha256:HEX is missing"),
        (Error::missing_blob(file, digest(), Vec::new()), "layer 3 ('x/layer.tar' in 'a.tar') is missing"),
        (tar(Some("etc/x".into())).of(&layer()), "LAYER: entry 'etc/x' at offset 512: bad"),
        (tar(None).of(&archive()), "'a.tar': entry at offset 512: bad"),
        (damaged.of(&layer()), "LAYER: damaged gzip data at compressed offset 9: bad block"),
        (limit(None).of(&layer()), "LAYER: 2 exceeds the limit max_entries (1)"),
        (
            limit(Some(entry())).of(&archive()),
            "'a.tar': entry 'etc/x' at offset 512: 2 exceeds the limit max_entries (1)",
        ),
        (Error::changed(layer(), 512), "LAYER: bytes at offset 512 changed since they were verified"),
        (
            Error::Path { path: "/x".into(), reason: PathFault::NotFound },
            "'/x': no such file or directory in the image",
        ),
        (Error::Strict { count: 2, first: "w".into() }, "merging the layers gives 2 warning(s), first: w"),
        (Error::not_empty("/into"), "cannot extract into '/into': not empty"),
        (
            Error::incomplete("d/large".into(), Error::io("cannot write", refused())),
            "extraction stopped at 'd/large' and is incomplete: cannot write: refused",
        ),
        (
            Error::Unreachable { host: "reg.test".into(), reason: "no answer in time".into() },
            "cannot reach 'reg.test': no answer in time",
        ),
        (
            Error::Denied { host: "reg.test".into(), user: Some("eve".into()) },
            "'reg.test' denies access to user 'eve'",
        ),
        (
            Error::Limited { host: "reg.test".into(), after: Some(Duration::from_secs(90)) },
            "'reg.test' allows no more requests for 90 s",
        ),
        (
            Error::Certificate { host: "reg.test".into(), reason: "its certificate has expired".into() },
            "'reg.test': its certificate has expired",
        ),
        (
            Error::Registry {
                host: "reg.test".into(),
                reason: "has no image 'app:1'".into(),
                status: Some(404),
            },
            "'reg.test': has no image 'app:1'",
        ),
        (
            Error::CredentialHelper { helper: "pass".into(), reason: "no answer in 10 s".into() },
            "credential helper 'pass': no answer in 10 s",
        ),
        (
            Error::Offline { what: "the manifest of 'app:1'".into() },
            "the manifest of 'app:1' is not in the cache, and --offline allows no request",
        ),
        (Error::Interrupted, "interrupted"),
        (
            Error::Mount { dir: "/mnt".into(), reason: MountFault::NoDevice },
            "'/mnt': /dev/fuse is missing: FUSE is not available on this system or in this container",
        ),
        (
            Error::Mount { dir: "/mnt".into(), reason: MountFault::Os { call: "mount", cause: refused() } },
            "'/mnt': mount: refused",
        ),
    ];
    rows.into_iter().map(|(error, shown)| (error, text(shown))).collect()
}

#[test]
fn every_error_has_its_text() {
    for (error, text) in table() {
        assert_eq!(error.to_string(), text);
    }
}

/// Every variant must have a row; the variants are read from the source text of the enum.
#[test]
fn no_variant_is_left_out_of_the_table() {
    let (_, rest) = include_str!("../error.rs").split_once("pub enum Error {\n").unwrap();
    let (body, _) = rest.split_once("\n}\n").unwrap();
    let word = |line: &str| line.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned();
    let declared: BTreeSet<String> = body
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(char::is_uppercase))
        .map(word)
        .collect();
    let tested: BTreeSet<String> = table().iter().map(|(error, _)| word(&format!("{error:?}"))).collect();
    assert_eq!(tested, declared);
}
