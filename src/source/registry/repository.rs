//! One repository: requests to the hosts that serve it, with authentication and redirects.
//!
//! This module owns the order of hosts, the addresses of documents and blobs, and who gets credentials after
//! a redirect: nobody but the host that the request was for. Source: OCI distribution-spec.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::auth::Auth;
use super::backoff::MAX_ATTEMPTS;
use super::challenge::Challenges;
use super::client::Client;
use super::credentials::Login;
use super::exchange::{Fault, Method, Request, Response};
use super::fetch::{Cancel, NetError, Wait};
use super::hosts::{Endpoint, Security, Tls};
use super::name::{ImageName, is_tag};
use super::url::{Url, encode, host_name};
use crate::digest::{Algorithm, Digest};

/// The media types of all documents that can be an image. A registry answers 404 to a request that does not
/// accept the type of the document.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 5;
/// How often a document is requested whose body broke.
const BODY_TRIES: usize = 3;
/// The largest page of tags, in bytes.
const MAX_TAG_PAGE_BYTES: u64 = 4 << 20;
/// The largest number of tags that are listed.
const MAX_TAGS: usize = 10_000;
/// The largest number of pages of tags: registries that choose the length of a page send 50 tags or more.
const MAX_TAG_PAGES: usize = 200;

/// A repository, and the hosts that serve it.
#[derive(Debug)]
pub(super) struct Repository {
    pub(super) name: ImageName,
    pub(super) client: Client,
    pub(super) cancel: Cancel,
    /// The longest time of a request for a document, and of a read.
    pub(super) time: Duration,
    hosts: Vec<Host>,
    /// Position of the host that served the last blob.
    serving: AtomicUsize,
}

/// A host, and what is known of it.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) endpoint: Endpoint,
    auth: Auth,
    /// Whether the host speaks TLS, once that is known.
    is_tls: OnceLock<bool>,
    /// Settings for the hosts to which this one redirects: without our certificate.
    elsewhere: Arc<Tls>,
}

/// A request to a repository.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// The path after the name of the repository: `manifests/1.0`.
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
}

/// The answer to a request, after redirects.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response,
    /// The address that answered.
    pub(super) url: Url,
    /// Whether another host than the asked one answered.
    pub(super) is_elsewhere: bool,
}

/// Which host is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The mirrors, or the host that served the last blob.
    MirrorsFirst,
    /// The registry itself.
    RegistryFirst,
}

/// The document that a tag names.
#[derive(Debug)]
pub(super) struct Tagged {
    pub(super) digest: Digest,
    /// The document, unless only its digest was asked for.
    pub(super) bytes: Option<Vec<u8>>,
}

impl Repository {
    /// Creates the repository of `name` at `hosts`, which are asked in this order.
    pub(super) fn new(
        name: ImageName,
        client: Client,
        hosts: Vec<Endpoint>,
        (login, challenges): (&Login, &Challenges),
        time: Duration,
        cancel: Cancel,
    ) -> Self {
        let host = |endpoint: Endpoint| Host {
            elsewhere: Arc::new(Tls { client: None, ..(*endpoint.tls).clone() }),
            auth: Auth::new(login.clone(), challenges.clone()),
            is_tls: OnceLock::new(),
            endpoint,
        };
        let hosts = hosts.into_iter().map(host).collect();
        Repository { name, client, cancel, time, hosts, serving: AtomicUsize::new(0) }
    }

    /// Returns a wait for one document.
    pub(super) fn wait(&self) -> Wait {
        Wait::new(Some(self.time), &self.cancel)
    }

    /// Calls `ask` with the hosts that pass `serves`, until one answers. If none does, the error of the
    /// last host is returned, which is the registry itself. Each host but the last one asked has half of the
    /// time that is left.
    pub(super) fn try_hosts<T>(
        &self,
        order: Order,
        wait: &Wait,
        serves: impl Fn(&Endpoint) -> bool,
        mut ask: impl FnMut(&Host, &Wait) -> Result<T, NetError>,
    ) -> Result<T, NetError> {
        let reason = "no configured host may serve this request".to_owned();
        let mut failed = NetError::Refused { host: self.name.host.clone(), reason };
        // A mirror that did not have the first blob is not asked for each of the others first.
        let first = match order {
            Order::MirrorsFirst => self.serving.load(Ordering::Relaxed),
            Order::RegistryFirst => self.hosts.len().saturating_sub(1),
        };
        let others = (0..self.hosts.len()).filter(|at| *at != first);
        let asked = std::iter::once(first).chain(others);
        let hosts: Vec<_> = asked.filter_map(|at| Some((at, self.hosts.get(at)?))).collect();
        let able = |(_, host): &&(usize, &Host)| serves(&host.endpoint);
        let last = hosts.iter().rev().find(able).map(|(at, _)| *at);
        let mut has_skipped = false;
        for (at, host) in hosts {
            if !serves(&host.endpoint) {
                has_skipped = true;
                continue;
            }
            let own = if Some(at) == last { wait.clone() } else { wait.half(self.time) };
            match ask(host, &own) {
                Ok(found) => {
                    // A mirror that may not say what a tag means serves what the tag leads to.
                    if !has_skipped {
                        self.serving.store(at, Ordering::Relaxed);
                    }
                    return Ok(found);
                }
                Err(NetError::Cancelled) => return Err(NetError::Cancelled),
                Err(error) => {
                    if self.hosts.len() > 1 {
                        log::info!("{error}");
                    }
                    if at + 1 == self.hosts.len() || matches!(failed, NetError::Refused { .. }) {
                        failed = error;
                    }
                }
            }
        }
        Err(failed)
    }

    /// Returns the document that `tag` names now. With `known`, a document that is stored already, only the
    /// digest is asked for; the document follows if its digest is another.
    ///
    /// # Errors
    /// [`NetError`] when no host says it.
    pub(super) fn tagged(&self, tag: &str, known: Option<Digest>, max: u64) -> Result<Tagged, NetError> {
        self.serving.store(0, Ordering::Relaxed);
        let path = format!("manifests/{tag}");
        self.try_hosts(
            Order::MirrorsFirst,
            &self.wait(),
            |endpoint| endpoint.resolves_tags,
            |host, wait| {
                if let Some(known) = known
                    && let Some(digest) = self.digest_of_tag(host, &path, wait)?
                    && digest == known
                {
                    return Ok(Tagged { digest, bytes: None });
                }
                let bytes = self.read(host, &path, MANIFEST_TYPES, max, wait)?;
                Ok(Tagged { digest: Algorithm::Sha256.digest(&bytes), bytes: Some(bytes) })
            },
        )
    }

    /// Asks which digest a tag has, without the document: registries that count pulls do not count this.
    /// `None` if the host does not say.
    fn digest_of_tag(&self, host: &Host, path: &str, wait: &Wait) -> Result<Option<Digest>, NetError> {
        let ask = Ask {
            method: Method::Head,
            path: path.to_owned(),
            headers: vec![("accept".to_owned(), MANIFEST_TYPES.to_owned())],
        };
        let answer = self.request(host, &ask, wait)?;
        if answer.response.status != 200 {
            return self.refused(&answer, path).map(|()| None);
        }
        Ok(answer.response.header("docker-content-digest").and_then(|digest| digest.trim().parse().ok()))
    }

    /// Returns a manifest or image index by digest, from the first host that sends the right bytes. If no
    /// host does, the wrong ones are returned, for the caller to compare.
    ///
    /// # Errors
    /// [`NetError`] when no host has it.
    pub(super) fn manifest(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, NetError> {
        self.by_digest(&format!("manifests/{digest}"), MANIFEST_TYPES, digest, max)
    }

    /// Returns a small blob, such as a config, as [`Repository::manifest`] does.
    ///
    /// # Errors
    /// [`NetError`] when no host has it.
    pub(super) fn small_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, NetError> {
        self.by_digest(&format!("blobs/{digest}"), "*/*", digest, max)
    }

    fn by_digest(&self, path: &str, accept: &str, digest: &Digest, max: u64) -> Result<Vec<u8>, NetError> {
        let mut wrong = None;
        let found = self.try_hosts(
            Order::MirrorsFirst,
            &self.wait(),
            |endpoint| endpoint.serves_digests,
            |host, wait| {
                let bytes = self.read(host, path, accept, max, wait)?;
                if digest.algorithm().digest(&bytes) == *digest {
                    return Ok(bytes);
                }
                wrong = Some(bytes);
                let reason = format!("sends wrong bytes for {}", path.replacen("s/", " ", 1));
                let refused = NetError::Refused { host: host.endpoint.name.clone(), reason };
                log::warn!("{refused}");
                Err(refused)
            },
        );
        match (found, wrong) {
            (Err(NetError::Refused { .. }), Some(bytes)) => Ok(bytes),
            (found, _) => found,
        }
    }

    /// Returns the tags of the repository, sorted.
    ///
    /// # Errors
    /// [`NetError`] when no host lists them, more than [`MAX_TAGS`] are listed, or on more than
    /// [`MAX_TAG_PAGES`] pages.
    pub(super) fn tags(&self) -> Result<Vec<String>, NetError> {
        // Each page has its own deadline.
        let wait = Wait::new(None, &self.cancel);
        self.try_hosts(
            Order::MirrorsFirst,
            &wait,
            |endpoint| endpoint.resolves_tags,
            |host, _| self.tags_at(host),
        )
    }

    fn tags_at(&self, host: &Host) -> Result<Vec<String>, NetError> {
        let mut tags = Vec::new();
        let mut path = "tags/list?n=1000".to_owned();
        let mut pages = 0;
        loop {
            let ask = Ask { method: Method::Get, path, headers: Vec::new() };
            let wait = self.wait();
            let mut answer = self.request(host, &ask, &wait)?;
            if answer.response.status != 200 {
                self.refused(&answer, "list of tags")?;
            }
            let body = self.client.body(&mut answer.response, MAX_TAG_PAGE_BYTES, &answer.url.host, &wait)?;
            let refused =
                |reason: &str| NetError::Refused { host: answer.url.host.clone(), reason: reason.to_owned() };
            let page: TagPage =
                serde_json::from_slice(&body).map_err(|_| refused("the list of tags is malformed"))?;
            tags.extend(page.tags.unwrap_or_default().into_iter().filter(|tag| is_tag(tag)));
            if tags.len() > MAX_TAGS {
                return Err(refused(&format!("more than {MAX_TAGS} tags (MAX_TAGS)")));
            }
            let next =
                answer.response.header("link").and_then(next_page).and_then(|link| answer.url.join(link));
            let Some(next) = next else { break };
            pages += 1;
            if pages == MAX_TAG_PAGES {
                return Err(refused(&format!("more than {MAX_TAG_PAGES} pages of tags (MAX_TAG_PAGES)")));
            }
            let prefix = format!("{}/{}/", host.endpoint.root, host.endpoint.repository);
            match next.path.strip_prefix(&*prefix) {
                Some(rest) if next.host == answer.url.host && rest != ask.path => path = rest.to_owned(),
                _ => return Err(refused("the list of tags continues outside the repository")),
            }
        }
        tags.sort();
        tags.dedup();
        Ok(tags)
    }

    /// Reads a document, again if the connection breaks. All of it ends by `wait`.
    fn read(
        &self,
        host: &Host,
        path: &str,
        accept: &str,
        max: u64,
        wait: &Wait,
    ) -> Result<Vec<u8>, NetError> {
        let ask = Ask {
            method: Method::Get,
            path: path.to_owned(),
            headers: vec![("accept".to_owned(), accept.to_owned())],
        };
        let wait = wait.whole();
        let mut last = None;
        for _ in 0..BODY_TRIES {
            let mut answer = self.request(host, &ask, &wait)?;
            if answer.response.status != 200 {
                self.refused(&answer, path)?;
            }
            match self.client.body(&mut answer.response, max, &answer.url.host, &wait) {
                Err(error @ (NetError::Unreachable { .. } | NetError::TimedOut { .. })) => last = Some(error),
                done => return done,
            }
        }
        Err(last.unwrap_or(NetError::Cancelled))
    }

    /// Sends a request to a host, with authentication, and follows redirects.
    ///
    /// # Errors
    /// [`NetError`] when there is no answer, and when the host denies access.
    pub(super) fn request(&self, host: &Host, ask: &Ask, wait: &Wait) -> Result<Answer, NetError> {
        let first = self.address(host, &ask.path, wait)?;
        let at = &host.endpoint.reached(first.tls);
        let mut url = first.clone();
        let mut header = host.auth.header(&self.client, at, wait)?;
        let mut refusals = 0;
        let mut redirects = 0;
        loop {
            let is_elsewhere = url.host != first.host || url.tls != first.tls;
            let mut request = Request::new(ask.method, url.clone());
            request.headers.clone_from(&ask.headers);
            if !is_elsewhere {
                request.headers.extend(at.headers.iter().cloned());
                if let Some(header) = &header {
                    request = request.header("authorization", header.0.clone());
                }
            }
            let tls = if is_elsewhere { &host.elsewhere } else { &at.tls };
            let response = self.client.steady(&request, tls, wait)?;
            // A server with TLS answers plain HTTP with 400.
            if !is_elsewhere && !url.tls && response.status != 400 {
                host.is_tls.get_or_init(|| false);
            }
            match response.status {
                403 if !is_elsewhere && refusals == 0 && host.auth.drops_guess(header.as_ref()) => {
                    header = None;
                    url = first.clone();
                }
                401 | 403 if !is_elsewhere => {
                    refusals += 1;
                    let is_first = refusals == 1 && response.status == 401;
                    if !is_first && (refusals > 2 || !host.auth.read_again(at)?) {
                        return Err(NetError::Denied { host: at.name.clone(), user: host.auth.user() });
                    }
                    let mut next = host.auth.answer(&self.client, at, &response, header.as_ref(), wait)?;
                    if header.as_ref() == Some(&next) {
                        // A password that was refused is not sent again.
                        if !host.auth.read_again(at)? {
                            return Err(NetError::Denied { host: at.name.clone(), user: host.auth.user() });
                        }
                        next = host.auth.answer(&self.client, at, &response, header.as_ref(), wait)?;
                    }
                    header = Some(next);
                    response.discard();
                    // Ask again at the address where the host expects its token.
                    url = first.clone();
                }
                301 | 302 | 303 | 307 | 308 => {
                    redirects += 1;
                    url = redirected(&url, &response, redirects)?;
                    response.discard();
                }
                _ => return Ok(Answer { response, url, is_elsewhere }),
            }
        }
    }

    /// Requests an address to which the host has redirected before.
    ///
    /// # Errors
    /// As [`Client::steady`].
    pub(super) fn request_elsewhere(
        &self,
        host: &Host,
        url: &Url,
        headers: &[(String, String)],
        wait: &Wait,
    ) -> Result<Response, NetError> {
        let request = Request { headers: headers.to_vec(), ..Request::new(Method::Get, url.clone()) };
        self.client.steady(&request, &host.elsewhere, wait)
    }

    /// Returns the address of `path` at a host. A host that may speak plain HTTP is tried with TLS first.
    fn address(&self, host: &Host, path: &str, wait: &Wait) -> Result<Url, NetError> {
        let at = &host.endpoint;
        let mut path = format!("{}/{}/{path}", at.root, at.repository);
        if let Some(namespace) = &at.namespace {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(&format!("ns={}", encode(namespace)));
        }
        let is_tls = match (at.security, host.is_tls.get()) {
            (Security::Tls, _) => true,
            (Security::Plain, _) => false,
            (Security::Either, Some(known)) => *known,
            (Security::Either, None) => self.speaks_tls(host, wait)?,
        };
        Ok(Url::new(is_tls, &at.host, &path))
    }

    /// Returns whether a host that may speak plain HTTP is asked with TLS. Only an answer proves which it
    /// speaks: a host that cannot be reached now can speak TLS when it is back.
    fn speaks_tls(&self, host: &Host, wait: &Wait) -> Result<bool, NetError> {
        let at = &host.endpoint;
        let root = Request::new(Method::Get, Url::new(true, &at.host, &format!("{}/", at.root)));
        for tried in 1.. {
            wait.left(&at.host)?;
            match self.client.once(&root, &at.tls, wait) {
                Ok(answer) => {
                    answer.discard();
                    return Ok(*host.is_tls.get_or_init(|| true));
                }
                Err(Fault::Certificate(_)) => return Ok(*host.is_tls.get_or_init(|| true)),
                Err(Fault::TimedOut | Fault::Malformed(_)) => return Ok(true),
                Err(Fault::Cancelled) => return Err(NetError::Cancelled),
                Err(Fault::NotTls | Fault::Broken(_)) => break,
                // Without a port in the name, plain HTTP is at another port.
                Err(Fault::Unreachable(_)) if host_name(&at.host) == at.host => break,
                Err(Fault::Unreachable(reason)) if tried == MAX_ATTEMPTS => {
                    return Err(NetError::Unreachable { host: at.host.clone(), reason });
                }
                Err(Fault::Unreachable(_)) => self.client.pause_after(tried, &at.host, wait)?,
            }
        }
        Ok(false)
    }

    /// Returns the error of an answer with an unexpected status.
    pub(super) fn refused(&self, answer: &Answer, what: &str) -> Result<(), NetError> {
        let host = answer.url.host.clone();
        Err(match answer.response.status {
            404 | 410 => {
                let what = what.replacen("s/", " ", 1);
                NetError::Missing { host, what: format!("{what} of {}", self.name.repository) }
            }
            // Credentials do not go there, so none are missing.
            status @ (401 | 403) if answer.is_elsewhere => {
                let reason =
                    format!("the registry redirects to this host, which answers with status {status}");
                NetError::Refused { host, reason }
            }
            401 | 403 => NetError::Denied { host, user: None },
            status => NetError::Refused { host, reason: format!("answers with status {status}") },
        })
    }
}

#[derive(Debug, serde::Deserialize)]
struct TagPage {
    tags: Option<Vec<String>>,
}

/// Returns the address in a `Link` header whose relation is `next`.
fn next_page(header: &str) -> Option<&str> {
    let (address, relation) = header.trim().strip_prefix('<')?.split_once('>')?;
    let relation = relation.to_ascii_lowercase().replace(['"', ' '], "");
    relation.split(';').any(|part| part == "rel=next").then_some(address)
}

/// Returns the address to which an answer from `url` leads.
fn redirected(url: &Url, answer: &Response, redirects: usize) -> Result<Url, NetError> {
    let refused = |reason: &str| NetError::Refused { host: url.host.clone(), reason: reason.to_owned() };
    if redirects > MAX_REDIRECTS {
        return Err(refused(&format!("more than {MAX_REDIRECTS} redirects")));
    }
    let location = answer.header("location").and_then(|location| url.join(location));
    let next = location.ok_or_else(|| refused("redirects to an address that cannot be requested"))?;
    if url.tls && !next.tls {
        return Err(refused("redirects from https to http"));
    }
    Ok(next)
}
