//! Images of a running Docker or Podman engine, through its socket.
//!
//! This module owns which socket is used, how an image is named in a request, and what the engine's answers
//! mean. An image is fetched as the archive that `docker save` writes, to a temporary file that is removed
//! when it is closed; from there on it is read as such an archive. So this source serves users who may use an
//! engine but not read its directory. Source: Docker Engine API 1.24 to 1.51, and Podman's compatible API.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::archive::Archive;
use super::blobs::BlobIdentity;
use super::environment::Environment;
use super::formats::{Site, open_archive, spool};
use super::names::{self, Names};
use super::{ImageDetails, ImageSource, ImageSummary, OpenOptions, OpenedImage, Selection, Survey};
use crate::digest::Digest;
use crate::error::{Error, Result, Subject};
use crate::image::Platform;
use crate::image::strict_json::{self, Object};
use crate::path::escape_path;

mod http;

use self::http::{Answer, Body, Server, Timeouts};

/// The place of Docker's socket, which engines that imitate Docker link to their own.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// The place of Podman's socket for root.
const PODMAN_SOCKET: &str = "/run/podman/podman.sock";
/// The place of Podman's socket for other users, below `XDG_RUNTIME_DIR`.
const PODMAN_USER_SOCKET: &str = "podman/podman.sock";

const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(10), silence: Duration::from_secs(300) };
/// How long an engine may take to answer a question. Listing a thousand images takes it a few seconds.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
/// How long an engine may take until it sends the first bytes of an image. Docker first writes all layers to
/// a temporary directory: 10 GB on a slow disk take about five minutes.
const EXPORT_PATIENCE: Duration = Duration::from_secs(1800);
/// The largest list of images: 20 MiB. An image takes about 500 bytes.
const MAX_ENGINE_ANSWER_BYTES: u64 = 20 * 1024 * 1024;
/// Maximum length of an error message that is shown, in bytes.
const MAX_MESSAGE_BYTES: u64 = 4096;

const IMAGE_FIELDS: [&str; 3] = ["Id", "RepoTags", "RepoDigests"];
const DETAIL_FIELDS: [&str; 6] = ["Architecture", "Os", "Variant", "Created", "Size", "RootFS"];
const MESSAGE_FIELDS: [&str; 1] = ["message"];

/// Returns false: no path leads to a running engine.
pub(super) fn detect(_: &mut Site<'_>) -> Result<bool> {
    Ok(false)
}

/// Opens the engine whose socket the environment leads to. Nothing is sent yet.
pub(super) fn open(place: Site<'_>) -> Result<Box<dyn ImageSource>> {
    let server = Server { socket: socket(place.environment())?, timeouts: TIMEOUTS };
    Ok(Box::new(DockerDaemon::new(server, place.options())))
}

/// Returns the socket of the engine: that of `DOCKER_HOST`, or else the first of the usual ones that exists.
///
/// # Errors
/// [`Error::Unsupported`] when `DOCKER_HOST` is not a unix socket, and [`Error::Io`] when there is no socket.
fn socket(environment: &Environment) -> Result<PathBuf> {
    let refuse = |reason| Err(Error::unsupported(Subject::Transport("docker-daemon".to_owned()), reason));
    if let Some(host) = environment.docker_host.as_deref().filter(|host| !host.is_empty()) {
        return match host.strip_prefix("unix://") {
            Some("") => Ok(environment.place(DOCKER_SOCKET)),
            Some(path) => Ok(PathBuf::from(path)),
            None => refuse(format!(
                "DOCKER_HOST is '{}', but only unix:// addresses can be used",
                host.escape_debug()
            )),
        };
    }
    let places = sockets(environment);
    let is_socket = |path: &&PathBuf| path.metadata().is_ok_and(|found| found.file_type().is_socket());
    if let Some(found) = places.iter().find(is_socket) {
        return Ok(found.clone());
    }
    let others: Vec<_> =
        places.iter().skip(1).map(|path| format!(", nor at '{}'", escape_path(path))).collect();
    let cause = std::io::Error::new(ErrorKind::NotFound, format!("no socket there{}", others.concat()));
    let first = places.into_iter().next().unwrap_or_default();
    Err(Error::io_on("cannot connect to", Subject::Socket(first), cause))
}

/// Returns the usual places of sockets, the preferred one first.
fn sockets(environment: &Environment) -> Vec<PathBuf> {
    let user = environment.runtime_dir.as_ref().filter(|path| path.is_absolute());
    let user = user.map(|path| path.join(PODMAN_USER_SOCKET));
    let system = [DOCKER_SOCKET, PODMAN_SOCKET].map(|path| environment.place(path));
    let [docker, podman] = system;
    [Some(docker), user, Some(podman)].into_iter().flatten().collect()
}

/// A running engine.
#[derive(Debug)]
struct DockerDaemon {
    server: Server,
    options: OpenOptions,
    /// The image that was fetched last: its ID and the archive. Commands open an image more than once.
    fetched: Mutex<Option<(Digest, Arc<dyn ImageSource>)>>,
}

/// An image in the answer of an engine.
#[derive(Debug, Clone)]
struct Known {
    id: Digest,
    names: Names,
}

impl DockerDaemon {
    fn new(server: Server, options: &OpenOptions) -> Self {
        DockerDaemon { server, options: options.clone(), fetched: Mutex::default() }
    }

    /// Returns all images of the engine, in its order.
    fn listed(&self) -> Result<Vec<Known>> {
        let value =
            self.json("/images/json")?.map_err(|message| self.refused("/images/json", 404, &message))?;
        let what = self.server.subject();
        let images =
            value.as_array().ok_or_else(|| Error::malformed(what, "the list of images is not an array"))?;
        images.iter().map(|image| self.known(image)).collect()
    }

    /// Returns the image that `selection` names.
    fn find(&self, selection: &Selection) -> Result<Known> {
        if let Selection::Name(name) = selection {
            return self.find_named(name);
        }
        let known = self.listed()?;
        let images = summaries(&known);
        let found = names::select(&self.place(), selection, &images)?;
        match (found.as_slice(), found.first().and_then(|at| known.get(*at))) {
            ([_], Some(one)) => Ok(one.clone()),
            _ => Err(names::ambiguous(&self.place(), &images, &found)),
        }
    }

    /// Asks the engine for the image with this name or ID: it completes both by its own rules.
    fn find_named(&self, name: &str) -> Result<Known> {
        check_name(name)?;
        let target = format!("/images/{}/json", encode(name));
        match self.json(&target)? {
            Ok(image) => self.known(&image),
            Err(message) => {
                log::info!("{}: {message}", self.server.subject());
                Err(Error::NoSuchImage {
                    path: self.place(),
                    selector: name.to_owned(),
                    candidates: self.names_of_all(),
                })
            }
        }
    }

    /// Returns the names of all images, for an error; empty if they cannot be listed.
    fn names_of_all(&self) -> Vec<String> {
        let known = self.listed().unwrap_or_default();
        known.iter().flat_map(|image| image.names.full.clone()).collect()
    }

    /// Reads one image of an answer.
    fn known(&self, image: &Value) -> Result<Known> {
        let what = self.server.subject();
        let object = Object::new(&what, image, &IMAGE_FIELDS)?;
        let id = object.required_string("Id")?;
        // Podman's own API leaves out the algorithm.
        let id = if id.contains(':') { id.to_owned() } else { format!("sha256:{id}") };
        let mut full = object.strings("RepoTags")?;
        if full.is_empty() {
            full = object.strings("RepoDigests")?;
        }
        full.retain(|name| !name.contains("<none>"));
        let id: Digest = id.parse()?;
        Ok(Known { id, names: Names { full, ids: vec![id.hex()], ..Names::default() } })
    }

    /// Returns the archive of an image, fetched or kept from the last call.
    fn fetch(&self, id: Digest) -> Result<Arc<dyn ImageSource>> {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, archive)) = &*fetched
            && *known == id
        {
            return Ok(Arc::clone(archive));
        }
        // By its ID, because a name without a tag fetches all tags of a repository.
        let target = format!("/images/{}/get", encode(&id.to_string()));
        let answer = self.server.get(&target, EXPORT_PATIENCE)?;
        if answer.status != 200 {
            let status = answer.status;
            return Err(self.refused(&target, status, &self.message(answer)));
        }
        let archive = self.spool(id, answer.body)?;
        let archive: Arc<dyn ImageSource> = Arc::from(open_archive(archive, &self.options)?);
        *fetched = Some((id, Arc::clone(&archive)));
        Ok(archive)
    }

    /// Writes the body to a temporary file, and opens it as an archive.
    fn spool(&self, id: Digest, mut body: Body) -> Result<Archive> {
        let file = spool(&mut body, &self.server.subject(), &self.options)?;
        let cannot = |cause| Error::io_on("cannot read", self.server.subject(), cause);
        if let Some(message) = message_at_end(&file).map_err(cannot)? {
            let cause = std::io::Error::other(message);
            return Err(Error::io_on("the image was not sent completely by", self.server.subject(), cause));
        }
        let name = PathBuf::from(format!("docker-daemon:{id}"));
        Archive::from_file(&name, file, BlobIdentity::Unknown, &self.options)
    }

    /// Returns the JSON document at `target`; the inner error is the engine's message for an object that does
    /// not exist.
    fn json(&self, target: &str) -> Result<std::result::Result<Value, String>> {
        let answer = self.server.get(target, ANSWER_PATIENCE)?;
        match answer.status {
            200 => {
                let bytes = self.read(answer.body)?;
                strict_json::parse(&self.server.subject(), &bytes).map(Ok)
            }
            404 => Ok(Err(self.message(answer))),
            status => Err(self.refused(target, status, &self.message(answer))),
        }
    }

    fn read(&self, body: Body) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let max = MAX_ENGINE_ANSWER_BYTES;
        let read = body.take(max + 1).read_to_end(&mut bytes);
        read.map_err(|cause| Error::io_on("cannot read the answer of", self.server.subject(), cause))?;
        let found = bytes.len() as u64;
        if found > max {
            return Err(Error::limit(self.server.subject(), "MAX_ENGINE_ANSWER_BYTES", found, max));
        }
        Ok(bytes)
    }

    /// Returns the message of an answer that reports an error, escaped.
    fn message(&self, answer: Answer) -> String {
        let mut bytes = Vec::new();
        // A message that is cut off is better than none.
        let _ = answer.body.take(MAX_MESSAGE_BYTES).read_to_end(&mut bytes);
        let what = self.server.subject();
        let value = strict_json::parse(&what, &bytes).ok();
        let object = value.as_ref().and_then(|value| Object::new(&what, value, &MESSAGE_FIELDS).ok());
        let message = object.as_ref().and_then(|object| object.string("message").ok().flatten());
        match message {
            Some(message) => crate::path::escape(message.as_bytes()),
            None if bytes.trim_ascii().is_empty() => answer.reason,
            None => crate::path::escape(bytes.trim_ascii()),
        }
    }

    /// Creates the error for an answer with another status than 200.
    fn refused(&self, target: &str, status: u16, message: &str) -> Error {
        let note = if matches!(status, 300..=399) { "; redirects are not followed" } else { "" };
        let cause = std::io::Error::other(format!("GET {target}: status {status}: {message}{note}"));
        Error::io_on("request refused by", self.server.subject(), cause)
    }

    fn place(&self) -> String {
        self.server.socket.display().to_string()
    }
}

impl ImageSource for DockerDaemon {
    fn kind(&self) -> &'static str {
        "docker-daemon"
    }

    fn images(&self) -> Result<Vec<ImageSummary>> {
        Ok(summaries(&self.listed()?).into_iter().map(|(_, summary)| summary).collect())
    }

    /// Asks the engine for the properties, because an image that is only listed must not be fetched.
    fn details(&self, summary: &ImageSummary, _: Option<&Platform>) -> Result<ImageDetails> {
        let id = summary.id.clone().unwrap_or_default();
        let target = format!("/images/{}/json", encode(&id));
        let value = self.json(&target)?.map_err(|message| self.refused(&target, 404, &message))?;
        let what = self.server.subject();
        let image = Object::new(&what, &value, &DETAIL_FIELDS)?;
        let layers = match image.get("RootFS") {
            Some(rootfs) => Object::new(&what, rootfs, &["Layers"])?.array("Layers")?.len(),
            None => 0,
        };
        let text = |name| image.string(name).map(Option::unwrap_or_default);
        let (os, architecture) = (text("Os")?, text("Architecture")?);
        let platform = Platform::new(os, architecture, text("Variant")?);
        // Go writes the year 1 for a time that is not set.
        let created = Some(text("Created")?).filter(|time| !time.is_empty() && !time.starts_with("0001-"));
        Ok(ImageDetails {
            id: summary.id.clone(),
            platform: (!os.is_empty() && !architecture.is_empty()).then_some(platform),
            created: created.map(str::to_owned),
            layers,
            size: image.u64("Size")?.unwrap_or_default(),
        })
    }

    fn image(&self, select: &Selection, platform: Option<&Platform>) -> Result<OpenedImage> {
        let known = self.find(select)?;
        let mut opened = self.fetch(known.id)?.image(&Selection::Sole, platform)?;
        // An archive that is asked for by ID has no names.
        opened.info.names = known.names.full;
        Ok(opened)
    }

    fn survey(&self, select: &Selection, platform: Option<&Platform>) -> Result<Survey> {
        let known = self.find(select)?;
        self.fetch(known.id)?.survey(&Selection::Sole, platform)
    }
}

fn summaries(known: &[Known]) -> Vec<(Names, ImageSummary)> {
    let summary = |(index, image): (usize, &Known)| {
        let names = image.names.clone();
        let summary = ImageSummary {
            index,
            names: names.shown(),
            id: Some(image.id.to_string()),
            ..ImageSummary::default()
        };
        (names, summary)
    };
    known.iter().enumerate().map(summary).collect()
}

/// Refuses a name that an engine would not look up as an image: servers resolve `..` in paths.
fn check_name(name: &str) -> Result<()> {
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        let reason = "not the name or ID of an image".to_owned();
        return Err(Error::Reference { text: name.to_owned(), reason });
    }
    Ok(())
}

/// Encodes a name for the path of a request: everything except letters, digits and `-._~/:@` as `%XX`.
fn encode(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Returns the message that Docker appends to an archive when it fails after it has sent a part of it.
fn message_at_end(file: &std::fs::File) -> std::io::Result<Option<String>> {
    const MARK: &[u8] = b"{\"errorDetail\":";
    let len = file.metadata()?.len();
    let tail_len = usize::try_from(len.min(MAX_MESSAGE_BYTES)).unwrap_or_default();
    let mut tail = vec![0; tail_len];
    file.read_exact_at(&mut tail, len.saturating_sub(tail_len as u64))?;
    let Some(at) = tail.windows(MARK.len()).rposition(|found| found == MARK) else { return Ok(None) };
    let message = serde_json::from_slice::<Value>(tail.get(at..).unwrap_or_default()).ok();
    let message = message.as_ref().and_then(|value| value.get("error")).and_then(Value::as_str);
    Ok(message.map(|message| crate::path::escape(message.as_bytes())))
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
