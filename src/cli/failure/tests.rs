//! Every error, and what the user sees of it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use imgmount::error::StreamFault;
use imgmount::{Algorithm, Digest, DocumentRole, EntryName, MountFault, PathFault, Property};

use super::*;

const IN_LAYER: Option<&str> =
    Some("the image is damaged or was changed; --verify off recovers what it can from the layer");
const IN_IMAGE: Option<&str> = Some("the image is incomplete or damaged, or was changed after it was made");

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

/// Each row: the error, its text and its hint.
fn table() -> Vec<(Error, String, Option<&'static str>)> {
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
        (Error::io("cannot link", refused()), "cannot link: refused", None),
        (Error::io_on("cannot open", archive(), refused()), "cannot open 'a.tar': refused", None),
        (
            StreamFault::io_at("cannot read", 7, refused()).of(&layer()),
            "cannot read LAYER at offset 7: refused",
            None,
        ),
        (Error::Reference { text: "a:b".into(), reason: "why".into() }, "'a:b': why", None),
        (
            Error::NotAnImage { path: "a".into(), reason: "why".into() },
            "'a': not a container image: why",
            None,
        ),
        (
            Error::Ambiguous { path: "a".into(), candidates: one() },
            "'a' holds several images; available:\n  b:1",
            Some("select one with PATH:NAME, PATH@INDEX or --image"),
        ),
        (
            Error::NoSuchImage { path: "a".into(), selector: "c".into(), candidates: one() },
            "'a' holds no image 'c'; available:\n  b:1",
            Some("use a full name, @INDEX, or a tag that only one image has"),
        ),
        (
            Error::NoPlatform { wanted: "linux/arm64".into(), available: Vec::new() },
            "no image for platform linux/arm64",
            Some("select one with --platform"),
        ),
        (
            Error::unsupported(Subject::Transport("docker".into()), "why"),
            "transport 'docker': not supported: why",
            None,
        ),
        (Error::malformed(member, "not an object"), "'x.json' in 'a.tar': not an object", None),
        (
            Error::mismatch(layer(), Property::DiffId, 1, 2),
            "LAYER: diff_id does not match: expected 1, found 2",
            IN_LAYER,
        ),
        (
            Error::mismatch(document(), Property::Size, 1, 2),
            "manifest sha256:HEX: size does not match: expected 1, found 2",
            IN_IMAGE,
        ),
        (
            Error::missing_blob(layer(), digest(), vec!["https://x".into()]),
            "LAYER: blob sha256:HEX is missing (a foreign layer, available at https://x)",
            Some("the image was saved without this blob, or for another platform"),
        ),
        (
            Error::missing_blob(document(), digest(), Vec::new()),
            "manifest sha256:HEX is missing",
            Some("the image was saved without this blob, or for another platform"),
        ),
        (
            Error::missing_blob(file, digest(), Vec::new()),
            "layer 3 ('x/layer.tar' in 'a.tar') is missing",
            Some("the image was saved without this blob, or for another platform"),
        ),
        (tar(Some("etc/x".into())).of(&layer()), "LAYER: entry 'etc/x' at offset 512: bad", IN_LAYER),
        (tar(None).of(&archive()), "'a.tar': entry at offset 512: bad", IN_IMAGE),
        (damaged.of(&layer()), "LAYER: damaged gzip data at compressed offset 9: bad block", IN_LAYER),
        (limit(None).of(&layer()), "LAYER: 2 exceeds the limit max_entries (1)", None),
        (
            limit(Some(entry())).of(&archive()),
            "'a.tar': entry 'etc/x' at offset 512: 2 exceeds the limit max_entries (1)",
            None,
        ),
        (Error::changed(layer(), 512), "LAYER: bytes at offset 512 changed since they were verified", None),
        (
            Error::Path { path: "/x".into(), reason: PathFault::NotFound },
            "'/x': no such file or directory in the image",
            None,
        ),
        (
            Error::Strict { count: 2, first: "w".into() },
            "merging the layers gives 2 warning(s), first: w",
            Some("`imgmount inspect` lists all warnings; without --strict they are accepted"),
        ),
        (
            Error::not_empty("/into"),
            "cannot extract into '/into': not empty",
            Some("use --force to extract anyway and replace existing files"),
        ),
        (
            Error::incomplete("d/large".into(), Error::io("cannot write", refused())),
            "extraction stopped at 'd/large' and is incomplete: cannot write: refused",
            None,
        ),
        (Error::Interrupted, "interrupted", None),
        (
            Error::Mount { dir: "/mnt".into(), reason: MountFault::NoDevice },
            "'/mnt': /dev/fuse is missing: FUSE is not available on this system or in this container",
            Some("ls, cat, cp, extract and export work without FUSE"),
        ),
        (
            Error::Mount { dir: "/mnt".into(), reason: MountFault::Os { call: "mount", cause: refused() } },
            "'/mnt': mount: refused",
            None,
        ),
    ];
    rows.into_iter().map(|(error, shown, hint)| (error, text(shown), hint)).collect()
}

#[test]
fn every_error_has_its_message_hint_and_exit_code() {
    for (error, text, hinted) in table() {
        let error = anyhow::Error::from(error);
        let seen = (message(&error), hint(&error), exit_code(&error));
        assert_eq!(seen, (text, hinted.map(str::to_owned), FAILURE));
    }
}

/// The table above cannot match on a `#[non_exhaustive]` enum of another crate, so the enum's text is asked for
/// its variants.
#[test]
fn no_variant_is_left_out_of_the_table() {
    let (_, rest) = include_str!("../../error.rs").split_once("pub enum Error {\n").unwrap();
    let (body, _) = rest.split_once("\n}\n").unwrap();
    let word = |line: &str| line.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned();
    let declared: BTreeSet<String> = body
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(char::is_uppercase))
        .map(word)
        .collect();
    let tested: BTreeSet<String> = table().iter().map(|(error, ..)| word(&format!("{error:?}"))).collect();
    assert_eq!(tested, declared);
}

#[test]
fn a_closed_pipe_is_a_success() {
    let closed = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
    assert_eq!(exit_code(&closed), 0);
}

#[test]
fn a_failed_write_to_standard_output_says_so() {
    let error = anyhow::Error::from(refused());
    assert_eq!((message(&error), hint(&error)), ("cannot write the output: refused".to_owned(), None));
}

#[test]
fn a_context_comes_before_its_cause() {
    let error = anyhow::Error::from(refused()).context("cannot write 'x'");
    assert_eq!(message(&error), "cannot write 'x': refused");
}
