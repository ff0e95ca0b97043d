//! Tests how failures are shown to the user. The texts of the library's errors are tested with the
//! library.

use std::path::Path;

use imgmount::{
    Digest, Engine, EngineOptions, ExtractOptions, Image, LoadOptions, MountFault, PathFault, Reference,
};

use super::*;

/// Rows of an error that a test can construct, and its hint.
fn table() -> Vec<(Error, Option<&'static str>)> {
    let one = || vec!["b:1".to_owned()];
    vec![
        (Error::Reference { text: "a:b".into(), reason: "why".into() }, None),
        (Error::NotAnImage { path: "a".into(), reason: "why".into(), may_be_rootfs: false }, None),
        (
            Error::NotAnImage { path: "a.tar".into(), reason: "why".into(), may_be_rootfs: true },
            Some("if it is a root file system, use rootfs:a.tar"),
        ),
        (
            Error::Ambiguous { path: "a".into(), candidates: one() },
            Some("select one with PATH:NAME, PATH:ID, PATH@INDEX, PATH@CONTAINER or --image"),
        ),
        (
            Error::NoSuchImage { path: "a".into(), selector: "c".into(), candidates: one() },
            Some(
                "use a full name, an ID, @INDEX, or a tag that only one image has; for a container, use @NAME",
            ),
        ),
        (
            Error::NoPlatform { wanted: "linux/arm64".into(), available: Vec::new() },
            Some("select one with --platform"),
        ),
        (Error::Path { path: "/x".into(), reason: PathFault::NotFound }, None),
        (
            Error::Strict { count: 2, first: "w".into() },
            Some("`imgmount inspect` lists all warnings; without --strict they are accepted"),
        ),
        (
            Error::Denied { host: "reg.test".into(), user: None },
            Some("log in with `podman login reg.test` or `docker login reg.test`, or use --authfile"),
        ),
        (
            Error::Denied { host: "reg.test".into(), user: Some("eve".into()) },
            Some("ask for access to the image, or log in as another user with `podman login reg.test`"),
        ),
        (
            Error::Limited { host: "reg.test".into(), after: None },
            Some("wait, or log in: most registries allow more requests after a login"),
        ),
        (
            Error::Unreachable { host: "reg.test".into(), reason: "why".into() },
            Some("--offline uses what is in the cache"),
        ),
        (Error::Offline { what: "manifest".into() }, Some("omit --offline to download it")),
        (
            Error::Certificate { host: "reg.test".into(), reason: "why".into() },
            Some(
                "put the certificate of a private CA into ~/.config/containers/certs.d/HOST/ca.crt; --insecure accepts any certificate",
            ),
        ),
        (
            Error::Registry { host: "reg.test".into(), reason: "has no image".into(), status: Some(404) },
            Some("`imgmount images docker://HOST/NAME` lists the tags"),
        ),
        (Error::Registry { host: "reg.test".into(), reason: "why".into(), status: None }, None),
        (Error::CredentialHelper { helper: "x".into(), reason: "why".into() }, None),
        (Error::Interrupted, None),
        (
            Error::Mount { dir: "/mnt".into(), reason: MountFault::NoDevice },
            Some("ls, cat, cp, extract and export work without FUSE"),
        ),
        (
            Error::Mount { dir: "/mnt".into(), reason: MountFault::Os { call: "mount", cause: refused() } },
            None,
        ),
    ]
}

fn refused() -> io::Error {
    io::Error::other("refused")
}

/// Writes a docker-archive of one layer whose config names `diff_id`. Without `layer`, the layer's file
/// is missing.
fn write_archive(path: &Path, diff_id: &Digest, layer: Option<&[u8]>) {
    let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#);
    let manifest = br#"[{"Config":"config.json","RepoTags":null,"Layers":["layer.tar"]}]"#;
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    let files = [("config.json", Some(config.as_bytes())), ("manifest.json", Some(&manifest[..]))];
    for (name, bytes) in files.into_iter().chain([("layer.tar", layer)]) {
        let Some(bytes) = bytes else { continue };
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).unwrap();
    }
    archive.into_inner().unwrap();
}

fn load(path: &Path) -> imgmount::Result<Image> {
    let reference = Reference::parse(path.as_os_str(), None)?;
    Engine::new(EngineOptions::default()).select(&reference, None)?.load(&LoadOptions::default())
}

fn hint_of(error: Error) -> Option<String> {
    hint(&anyhow::Error::from(error))
}

/// An empty layer: a tar that consists only of its end.
const LAYER: [u8; 1024] = [0; 1024];

#[test]
fn errors_have_their_hint_and_exit_code() {
    for (error, hinted) in table() {
        let text = error.to_string();
        let error = anyhow::Error::from(error);
        let seen = (message(&error), hint(&error), exit_code(&error));
        assert_eq!(seen, (text, hinted.map(str::to_owned), FAILURE));
    }
}

#[test]
fn a_layer_that_is_not_what_the_image_promised_can_be_recovered() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("image.tar");
    write_archive(&path, &imgmount::Algorithm::Sha256.digest(b"another"), Some(&LAYER));
    let hinted = "the image is damaged or was changed; --verify off recovers what it can from the layer";
    assert_eq!(hint_of(load(&path).unwrap_err()).as_deref(), Some(hinted));
}

#[test]
fn a_layer_that_is_missing_was_not_saved() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("image.tar");
    write_archive(&path, &imgmount::Algorithm::Sha256.digest(&LAYER), None);
    let hinted = "the image was saved without this blob, or for another platform";
    assert_eq!(hint_of(load(&path).unwrap_err()).as_deref(), Some(hinted));
}

#[test]
fn a_directory_that_is_not_empty_needs_force() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("image.tar");
    write_archive(&path, &imgmount::Algorithm::Sha256.digest(&LAYER), Some(&LAYER));
    let refused = load(&path).unwrap().extract(home.path(), &ExtractOptions::default());
    let hinted = "use --force to extract anyway and replace existing files";
    assert_eq!(hint_of(refused.unwrap_err()).as_deref(), Some(hinted));
}

#[test]
#[cfg(feature = "registry")]
fn a_name_without_a_file_may_be_that_of_an_image_in_a_registry() {
    let hinted = "if it is an image in a registry, use docker://no-such-file/app:3.20";
    assert_eq!(hint_of(load(Path::new("no-such-file/app:3.20")).unwrap_err()).as_deref(), Some(hinted));
    for other in ["./no-such-file:3.20", "no-such-file.tar:3.20", "No-such-file", "oci:no-such-file"] {
        assert_eq!(hint_of(load(Path::new(other)).unwrap_err()), None, "{other}");
    }
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
