//! Image references: `[TRANSPORT:]PATH[:REF | @INDEX | @CONTAINER]`, and a path inside the image.
//!
//! This module owns that grammar. File names may contain colons, so if a text can be read in two ways, the
//! existing files decide, and `--image` resolves what remains ambiguous. This module opens no file.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::Transport;
use crate::error::{Error, Result};
use crate::path::escape_path;

/// The place that holds the images.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Location {
    /// Standard input.
    Stdin,
    /// A file or directory.
    Path(PathBuf),
    /// The default location of the transport: the directory or socket that its engine uses on this host.
    Own,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Stdin => f.write_str("standard input"),
            Location::Path(path) => f.write_str(&escape_path(path)),
            Location::Own => f.write_str("the default location"),
        }
    }
}

/// The choice of an image within a place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selection {
    /// The only image.
    Sole,
    /// The image with this name.
    Name(String),
    /// The image at this position, from 0.
    Index(usize),
    /// The container with this name, or with an ID that begins with this text.
    Container(String),
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selection::Sole => Ok(()),
            Selection::Name(name) => f.write_str(name),
            Selection::Index(index) => write!(f, "@{index}"),
            Selection::Container(name) => write!(f, "@{name}"),
        }
    }
}

/// A user's reference to an image.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reference {
    /// The transport, if one was given; otherwise the format is detected from the content.
    pub transport: Option<Transport>,
    /// The place that holds the image.
    pub location: Location,
    /// The choice of an image within the place.
    pub selection: Selection,
}

impl Reference {
    /// Parses `text`. If `image`, the value of `--image`, is given, all of `text` is transport and path.
    ///
    /// # Errors
    /// [`Error::Reference`] for text that cannot be parsed, [`Error::Unsupported`] for a transport that is
    /// not supported.
    pub fn parse(text: &OsStr, image: Option<&str>) -> Result<Self> {
        Reference::parse_where(text, image, &|path| path.symlink_metadata().is_ok())
    }

    /// Parses `text` as [`Reference::parse`] does; `exists` returns whether a path exists.
    ///
    /// # Errors
    /// As [`Reference::parse`].
    pub(crate) fn parse_where(
        text: &OsStr,
        image: Option<&str>,
        exists: &dyn Fn(&Path) -> bool,
    ) -> Result<Self> {
        let bad = |reason: &str| Error::Reference {
            text: text.to_string_lossy().into_owned(),
            reason: reason.to_owned(),
        };
        let (transport, rest) =
            if exists(Path::new(text)) { (None, text.as_bytes()) } else { split_transport(text.as_bytes()) };
        transport.map_or(Ok(()), Transport::check_supported)?;
        let has_own_place = transport.is_some_and(Transport::has_own_place);
        let (location, selector) = match image {
            Some(image) => (rest, Some(image.as_bytes())),
            None if transport.is_some_and(Transport::takes_names_only) => (&b""[..], not_empty(rest)),
            None if has_own_place => split_store(rest, exists),
            None => split_selector(rest, exists),
        };
        let location = match location {
            b"" if has_own_place => Location::Own,
            b"" => return Err(bad("the path is missing")),
            b"-" if !has_own_place => Location::Stdin,
            path => Location::Path(PathBuf::from(OsStr::from_bytes(path))),
        };
        let selection = match selector.map(std::str::from_utf8) {
            None => Selection::Sole,
            Some(Ok("" | "@")) => return Err(bad("the image name is empty")),
            // The ID of a container can consist of digits only.
            Some(Ok(name)) if has_own_place && name.starts_with('@') => {
                Selection::Container(name.trim_start_matches('@').to_owned())
            }
            Some(Ok(name)) => read_selector(name).ok_or_else(|| bad("the index is too large"))?,
            Some(Err(_)) => return Err(bad("the image name is not UTF-8")),
        };
        Ok(Reference { transport, location, selection })
    }
}

/// Splits `IMAGE:/path` at the last `:/` into the image and the path, which keeps its slash.
///
/// The colon of a leading transport does not separate a path: `oci:/srv/layout` has no path inside the image.
#[must_use]
pub fn split_path(text: &OsStr) -> (OsString, Option<Vec<u8>>) {
    let bytes = text.as_bytes();
    let transport_colon = Transport::of(bytes).map(|transport| transport.name().len());
    let colon = (0..bytes.len())
        .rev()
        .find(|at| bytes.get(*at..).is_some_and(|rest| rest.starts_with(b":/")))
        .filter(|at| *at > 0 && Some(*at) != transport_colon && !is_url(bytes, *at));
    match colon.map(|at| bytes.split_at(at)) {
        None => (text.to_owned(), None),
        Some((image, path)) => {
            let path = path.strip_prefix(b":").unwrap_or(path);
            (OsString::from_vec(image.to_vec()), Some(path.to_vec()))
        }
    }
}

/// Returns whether the colon at `at` is that of a URL after a transport: `docker://https://HOST/NAME`. Opening
/// it is an error; without the rest, it would be the image `https` of Docker Hub.
fn is_url(text: &[u8], at: usize) -> bool {
    let (before, after) = split_at_byte(text, at);
    matches!(split_transport(before), (Some(_), b"http" | b"https")) && after.starts_with(b"//")
}

fn split_transport(text: &[u8]) -> (Option<Transport>, &[u8]) {
    let Some(transport) = Transport::of(text) else { return (None, text) };
    let (_, rest) = split_at_byte(text, transport.name().len());
    (Some(transport), rest.strip_prefix(b"//").unwrap_or(rest))
}

/// Splits the text after the transport of a store into its path, which may be empty, and its selector: `:REF`
/// or `@CONTAINER`. The longest prefix that exists is the path. A text that does not begin with an existing
/// path is a selector, unless its beginning shows that a path is meant.
fn split_store<'a>(text: &'a [u8], exists: &dyn Fn(&Path) -> bool) -> (&'a [u8], Option<&'a [u8]>) {
    let marks = || (0..text.len()).filter(|at| matches!(text.get(*at), Some(b':' | b'@')));
    let split = |at: usize| match text.split_at_checked(at) {
        Some((path, [b':', selector @ ..])) => (path, Some(selector)),
        Some((path, selector)) => (path, Some(selector)),
        None => (text, None),
    };
    let there = |path: &[u8]| !path.is_empty() && exists(Path::new(OsStr::from_bytes(path)));
    if there(text) {
        return (text, None);
    }
    if let Some(found) = marks().rev().map(split).find(|(path, _)| there(path)) {
        return found;
    }
    match text {
        [b'/', ..] | [b'.', b'/', ..] | [b'.', b'.', b'/', ..] => {
            marks().map(split).next().unwrap_or((text, None))
        }
        _ => (b"", not_empty(text)),
    }
}

fn not_empty(text: &[u8]) -> Option<&[u8]> {
    Some(text).filter(|text| !text.is_empty())
}

/// Splits off `:REF` or `@INDEX` after the longest prefix that exists as a path. If no prefix exists, the
/// text is split at the last `:` or `@`, so that the error names the path that the user meant.
fn split_selector<'a>(text: &'a [u8], exists: &dyn Fn(&Path) -> bool) -> (&'a [u8], Option<&'a [u8]>) {
    let there = |path: &[u8]| path == b"-" || exists(Path::new(OsStr::from_bytes(path)));
    if there(text) {
        return (text, None);
    }
    let splits = || {
        (0..text.len())
            .rev()
            .filter_map(|at| match split_at_byte(text, at) {
                (path, selector) if text.get(at) == Some(&b':') => Some((path, Some(selector))),
                (path, digits) if text.get(at) == Some(&b'@') && (is_number(digits) || there(path)) => {
                    Some((path, text.get(path.len()..)))
                }
                _ => None,
            })
            .filter(|(path, _)| !path.is_empty())
    };
    let chosen = splits().find(|(path, _)| there(path)).or_else(|| splits().next());
    chosen.unwrap_or((text, None))
}

/// Parses a selector: `@N` is a position, `@` and other text a container, and any other text a name; `None`
/// if the position is too large.
fn read_selector(text: &str) -> Option<Selection> {
    match text.strip_prefix('@') {
        Some(digits) if is_number(digits.as_bytes()) => Some(Selection::Index(digits.parse().ok()?)),
        Some(container) => Some(Selection::Container(container.to_owned())),
        None => Some(Selection::Name(text.to_owned())),
    }
}

fn is_number(digits: &[u8]) -> bool {
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

/// Returns the bytes before and after the byte at `at`.
fn split_at_byte(text: &[u8], at: usize) -> (&[u8], &[u8]) {
    let before = text.get(..at).unwrap_or(text);
    let after = text.get(at.saturating_add(1)..).unwrap_or_default();
    (before, after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, there: &[&str]) -> Result<Reference> {
        let exists = |path: &Path| there.iter().any(|name| Path::new(name) == path);
        Reference::parse_where(OsStr::new(text), None, &exists)
    }

    fn shown(reference: &Reference) -> String {
        let transport = reference.transport.map_or("-", Transport::name);
        format!("{transport} | {} | {}", reference.location, reference.selection)
    }

    #[test]
    fn the_grammar_of_references() {
        let there = ["a.tar", "/srv/l:x", "od:d", "od"];
        for (text, read) in [
            ("a.tar", "- | a.tar | "),
            ("a.tar:latest", "- | a.tar | latest"),
            ("a.tar:docker.io/library/alpine:3", "- | a.tar | docker.io/library/alpine:3"),
            ("a.tar@2", "- | a.tar | @2"),
            ("a.tar:@2", "- | a.tar | @2"),
            ("a.tar:b@sha256", "- | a.tar | b@sha256"),
            ("/srv/l:x", "- | /srv/l:x | "),
            ("/srv/l:x:tag", "- | /srv/l:x | tag"),
            ("od:d", "- | od:d | "),
            ("od:e", "- | od | e"),
            ("gone.tar", "- | gone.tar | "),
            ("gone:1:2", "- | gone:1 | 2"),
            ("gone@1", "- | gone | @1"),
            ("me@home", "- | me@home | "),
            ("od@home", "- | od | @home"),
            ("oci:dir", "oci | dir | "),
            ("oci:/abs/dir:v1", "oci | /abs/dir | v1"),
            ("oci://rel:v1", "oci | rel | v1"),
            ("docker-archive:///abs.tar", "docker-archive | /abs.tar | "),
            ("docker-archive://a.tar:x:1", "docker-archive | a.tar | x:1"),
            ("oci-archive:a.tar@0", "oci-archive | a.tar | @0"),
            ("dir:d", "dir | d | "),
            ("https", "- | https | "),
            ("docker:v1", "- | docker | v1"),
            ("-", "- | standard input | "),
            ("-@1", "- | standard input | @1"),
            ("-:tag", "- | standard input | tag"),
            ("docker-archive:-", "docker-archive | standard input | "),
            ("./-", "- | ./- | "),
        ] {
            assert_eq!(shown(&parse(text, &there).unwrap()), read, "{text}");
        }
    }

    #[test]
    fn f48_a_store_is_a_path_only_if_it_exists_or_looks_like_one() {
        let exists =
            |path: &Path| ["/var/lib/docker", "data", "/od:d"].iter().any(|name| Path::new(name) == path);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for (reference, path, selector) in [
            ("", "", None),
            ("nginx:1.27", "", Some("nginx:1.27")),
            ("docker.io/library/nginx", "", Some("docker.io/library/nginx")),
            ("@web", "", Some("@web")),
            ("/var/lib/docker", "/var/lib/docker", None),
            ("/var/lib/docker:nginx:1.27", "/var/lib/docker", Some("nginx:1.27")),
            ("/var/lib/docker:nginx@sha256:ab", "/var/lib/docker", Some("nginx@sha256:ab")),
            ("/var/lib/docker@web", "/var/lib/docker", Some("@web")),
            ("/var/lib/docker@42", "/var/lib/docker", Some("@42")),
            ("data:nginx", "data", Some("nginx")),
            ("data/nginx:1", "", Some("data/nginx:1")),
            ("/od:d", "/od:d", None),
            ("/od:d:x", "/od:d", Some("x")),
            ("/gone:nginx:1", "/gone", Some("nginx:1")),
            ("../gone", "../gone", None),
            ("./gone@web", "./gone", Some("@web")),
        ] {
            let (found, selected) = split_store(reference.as_bytes(), &exists);
            assert_eq!(
                (text(found), selected.map(text)),
                (path.to_owned(), selector.map(str::to_owned)),
                "{reference}"
            );
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in ["", "oci:", "oci://", "a.tar:", "a.tar@99999999999999999999"] {
            let error = parse(text, &["a.tar"]);
            assert!(matches!(error, Err(Error::Reference { .. })), "{text}: {error:?}");
        }
    }

    #[test]
    fn a_transport_that_cannot_be_opened_is_named_with_those_that_can() {
        let error = parse("https://example.com/a.tar", &[]).unwrap_err().to_string();
        let about = "transport 'https': not supported: an image on a web server";
        assert!(error.starts_with(about), "{error}");
        let names: Vec<_> = Transport::supported().map(Transport::name).collect();
        assert!(error.ends_with(&format!("use one of {}", names.join(", "))), "{error}");
    }

    #[test]
    #[cfg(feature = "registry")]
    fn r1_all_after_docker_is_the_name_of_an_image() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for name in ["alpine", "localhost:5000/a/b:1", &format!("reg.test/app@{digest}"), "a.tar"] {
            let read = parse(&format!("docker://{name}"), &["a.tar", "docker"]).unwrap();
            assert_eq!(shown(&read), format!("docker | the default location | {name}"));
        }
        assert!(parse("docker://", &[]).unwrap().selection == Selection::Sole);
        let with_image =
            Reference::parse_where(OsStr::new("docker://reg.test/app"), Some("1"), &|_| false).unwrap();
        assert_eq!(shown(&with_image), "docker | reg.test/app | 1");
        let (image, path) = split_path(OsStr::new("docker://localhost:5000/app:1:/etc/os-release"));
        assert_eq!(
            (image.to_str(), path.as_deref()),
            (Some("docker://localhost:5000/app:1"), Some(&b"/etc/os-release"[..]))
        );
    }

    #[test]
    fn with_an_image_option_all_of_the_text_is_a_path() {
        let parse =
            |text: &str, image| Reference::parse_where(OsStr::new(text), Some(image), &|_| false).unwrap();
        assert_eq!(shown(&parse("oci:/a:b", "x/y:1")), "oci | /a:b | x/y:1");
        assert_eq!(shown(&parse("a:b@1", "@3")), "- | a:b@1 | @3");
    }

    #[test]
    fn a_path_that_is_not_utf8_is_kept() {
        let text = OsStr::from_bytes(b"\xff.tar:v1");
        let reference = Reference::parse_where(text, None, &|_| false).unwrap();
        let path = PathBuf::from(OsStr::from_bytes(b"\xff.tar"));
        assert_eq!(reference.location, Location::Path(path));
    }

    #[test]
    fn a_path_inside_the_image_is_split_at_the_last_colon_slash() {
        for (text, image, path) in [
            ("a.tar:/etc/passwd", "a.tar", Some("/etc/passwd")),
            ("a.tar", "a.tar", None),
            ("a.tar:tag:/etc", "a.tar:tag", Some("/etc")),
            ("a.tar:/", "a.tar", Some("/")),
            ("a:/b:/c", "a:/b", Some("/c")),
            ("oci:/abs/path", "oci:/abs/path", None),
            ("oci:///abs/path", "oci:///abs/path", None),
            ("oci:/abs:/etc/passwd", "oci:/abs", Some("/etc/passwd")),
            ("docker-archive://a.tar", "docker-archive://a.tar", None),
            ("docker-archive:///a.tar:t:/x", "docker-archive:///a.tar:t", Some("/x")),
            ("-:/etc", "-", Some("/etc")),
            ("/abs/oci:/x", "/abs/oci", Some("/x")),
            (":/x", ":/x", None),
            ("docker://alpine", "docker://alpine", None),
        ] {
            let (found_image, found_path) = split_path(OsStr::new(text));
            assert_eq!(found_image, image, "{text}");
            assert_eq!(found_path.as_deref(), path.map(str::as_bytes), "{text}");
        }
    }
}
