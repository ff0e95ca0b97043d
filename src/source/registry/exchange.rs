//! One HTTP request and its answer, without retries, redirects or authentication.
//!
//! This module owns the interface [`Exchange`], so that everything above it can be tested without a network.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use super::fetch::Wait;
use super::hosts::Tls;
use super::url::Url;

/// The longest body that is read for nothing, in bytes. A new connection costs as much time as this takes on a
/// slow link.
const MAX_DISCARDED_BYTES: u64 = 16 << 10;

/// Sends single requests.
pub(super) trait Exchange: Send + Sync + fmt::Debug {
    /// Sends `request` and returns the answer once its headers have arrived. Redirects are answers. The
    /// connection is made as `tls` says.
    ///
    /// # Errors
    /// [`Fault`] when there is no answer.
    fn send(&self, request: &Request, tls: &Arc<Tls>, wait: &Wait) -> Result<Response, Fault>;
}

/// What is done with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `POST` with a form.
    Post,
}

impl Method {
    pub(super) fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
        }
    }
}

/// A request. Its `Debug` text contains no header values and no form, which can be secret.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(String, String)>,
    /// The body of a `POST`, as `application/x-www-form-urlencoded`.
    pub(super) form: Option<String>,
}

impl Request {
    /// Creates a request without headers of its own.
    pub(super) fn new(method: Method, url: Url) -> Self {
        Request { method, url, headers: Vec::new(), form: None }
    }

    /// Adds a header.
    pub(super) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| &**name).collect();
        write!(f, "{} {} {names:?}", self.method.name(), self.url)
    }
}

/// The answer to a request.
pub(super) struct Response {
    pub(super) status: u16,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Box<dyn Read + Send>,
}

impl Response {
    /// Returns the first value of a header; `name` is in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// Returns all values of a header.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// Returns `Content-Length`, if it is a number.
    pub(super) fn len_bytes(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// Reads the body to its end if it is short, so that its connection can be used again. Errors do not
    /// matter: the next request gets another connection.
    pub(super) fn discard(mut self) {
        if self.len_bytes().is_some_and(|len| len <= MAX_DISCARDED_BYTES) {
            let _ = io::copy(&mut (&mut self.body).take(MAX_DISCARDED_BYTES), &mut io::sink());
        }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// No connection could be made: the text says why.
    Unreachable(String),
    /// A connection broke before the answer was complete. It may have been idle in the pool.
    Broken(String),
    /// Nothing arrived in time.
    TimedOut,
    /// The host does not speak TLS.
    NotTls,
    /// The certificate of the host, or ours, is not accepted: the text says why.
    Certificate(String),
    /// The answer is not HTTP, or exceeds a limit.
    Malformed(String),
    /// The work was cancelled.
    Cancelled,
}
