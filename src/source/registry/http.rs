//! HTTP over TCP and TLS, through ureq. No other module uses ureq.
//!
//! This module owns connections: their pools, timeouts, certificates and proxies. It sends single requests
//! and follows no redirects.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use ureq::config::AutoHeaderValue;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Proxy, Timeout, http};

use super::exchange::{Exchange, Fault, Method, Request, Response};
use super::fetch::{Cancel, NetError, Wait};
use super::hosts::Tls;
use super::url::{Url, is_loopback};
use crate::path::escape_path;
use crate::source::environment::Proxies;

/// The longest time to look up a host, and to connect.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// The longest time without a byte, also before the first one of an answer.
const SILENCE: Duration = Duration::from_secs(10);
/// How long an unused connection is kept.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// How webpki names the error of a server whose certificate may sign others. Most servers with a certificate
/// that signs itself have such a one, because `openssl req -x509` makes it by default.
const AUTHORITY_AS_SERVER: &str = "CaUsedAsEndEntity";
/// The largest headers of an answer, in bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// Sends requests over the network.
#[derive(Debug)]
pub(super) struct Http {
    proxies: Proxies,
    silence: Duration,
    /// The longest time until the headers of an answer are complete.
    answer_time: Duration,
    provider: Arc<rustls::crypto::CryptoProvider>,
    roots: OnceLock<Vec<Certificate<'static>>>,
    /// The pools of connections; those with TLS have certificates.
    agents: Mutex<HashMap<(Arc<Tls>, bool), Agent>>,
}

impl Http {
    /// Creates a client without connections. `time` is the longest time of any wait; `cancel` ends them all.
    pub(super) fn new(proxies: Proxies, time: Duration, cancel: &Cancel) -> Arc<Self> {
        let http = Arc::new(Http {
            proxies,
            silence: SILENCE.min(time),
            answer_time: time,
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            roots: OnceLock::new(),
            agents: Mutex::default(),
        });
        let weak: Weak<Http> = Arc::downgrade(&http);
        cancel.on_cancel(move || {
            let agents = weak.upgrade().map(|http| http.agents().values().cloned().collect::<Vec<_>>());
            agents.unwrap_or_default().into_iter().for_each(Agent::shutdown);
        });
        http
    }

    fn agents(&self) -> std::sync::MutexGuard<'_, HashMap<(Arc<Tls>, bool), Agent>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the pool for connections with these settings.
    fn agent(&self, tls: &Arc<Tls>, is_tls: bool) -> Result<Agent, Fault> {
        if let Some(known) = self.agents().get(&(tls.clone(), is_tls)) {
            return Ok(known.clone());
        }
        let config = if is_tls { self.tls(tls)? } else { TlsConfig::builder().build() };
        let connect = tls.connect_timeout.unwrap_or(CONNECT_TIME).min(self.silence);
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .tls_config(config)
            .accept_encoding(AutoHeaderValue::None)
            .user_agent(concat!("imgmount/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT_TIME.min(self.silence)))
            .timeout_connect(Some(connect))
            .timeout_recv_response(Some(self.answer_time))
            .timeout_per_read(Some(self.silence))
            .timeout_per_write(Some(self.silence))
            .max_response_header_size(MAX_HEADER_BYTES)
            .max_idle_age(IDLE_TIME)
            .max_idle_connections(32)
            .max_idle_connections_per_host(16)
            .build()
            .new_agent();
        Ok(self.agents().entry((tls.clone(), is_tls)).or_insert(agent).clone())
    }

    fn tls(&self, tls: &Tls) -> Result<TlsConfig, Fault> {
        let mut roots = self.roots.get_or_init(native_roots).clone();
        for path in &tls.roots {
            for item in pem(path)? {
                if let PemItem::Certificate(certificate) = item {
                    roots.push(certificate);
                }
            }
        }
        let client = tls.client.as_ref().map(|(certificate, key)| client(certificate, key)).transpose()?;
        let config = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(self.provider.clone())
            .root_certs(RootCerts::new_with_certs(&roots))
            .client_cert(client)
            .disable_verification(tls.any_certificate)
            .build();
        Ok(config)
    }
}

impl Exchange for Http {
    fn send(&self, request: &Request, tls: &Arc<Tls>, wait: &Wait) -> Result<Response, Fault> {
        let left = |wait: &Wait| {
            wait.left(&request.url.host).map_err(|error| match error {
                NetError::Cancelled => Fault::Cancelled,
                _ => Fault::TimedOut,
            })
        };
        let (start, end) = (left(wait)?, left(&wait.body())?);
        let agent = self.agent(tls, request.url.tls)?;
        let method = match request.method {
            Method::Get => http::Method::GET,
            Method::Head => http::Method::HEAD,
            Method::Post => http::Method::POST,
        };
        let mut builder = http::Request::builder().method(method).uri(request.url.text());
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let proxy = proxy(&self.proxies, &request.url)?;
        let answer = match &request.form {
            Some(form) => {
                let builder = builder.header("content-type", "application/x-www-form-urlencoded");
                let request = builder.body(form.clone()).map_err(|_| malformed())?;
                let request = agent.configure_request(request).proxy(proxy).timeout_global(end);
                agent.run(request.timeout_recv_response(start).build())
            }
            None => {
                let request = builder.body(()).map_err(|_| malformed())?;
                let request = agent.configure_request(request).proxy(proxy).timeout_global(end);
                agent.run(request.timeout_recv_response(start).build())
            }
        };
        let (parts, body) = answer.map_err(|error| fault(error, wait))?.into_parts();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value)));
        Ok(Response {
            status: parts.status.as_u16(),
            headers: headers.collect(),
            body: Box::new(Body {
                left: body.content_length(),
                inner: body.into_reader(),
                host: request.url.host.clone(),
                wait: wait.body(),
            }),
        })
    }
}

/// A body whose errors have the kinds that [`super::fetch::Fetched`] promises.
struct Body<R> {
    inner: R,
    /// The bytes that are left, if the headers state a length.
    left: Option<u64>,
    host: String,
    wait: Wait,
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf).map_err(|error| {
            if self.wait.cancel.is_cancelled() {
                return NetError::Cancelled.into();
            }
            let ureq = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
            match ureq {
                Some(ureq::Error::Timeout(_)) => NetError::TimedOut { host: self.host.clone() }.into(),
                _ if error.kind() == io::ErrorKind::TimedOut => {
                    NetError::TimedOut { host: self.host.clone() }.into()
                }
                _ => io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("'{}': the connection broke", self.host),
                ),
            }
        })?;
        self.left = self.left.map(|left| left.saturating_sub(read as u64));
        if self.left == Some(0) {
            // Only a reader that sees the end gives the connection back. Nothing is waited for here, and all
            // bytes have arrived, so an error means no more than a connection that is not used again.
            let _ = self.inner.read(&mut [0]);
        }
        Ok(read)
    }
}

fn malformed() -> Fault {
    Fault::Malformed("the request cannot be written as HTTP".to_owned())
}

/// Returns the proxy for `url`; none for this machine.
fn proxy(proxies: &Proxies, url: &Url) -> Result<Option<Proxy>, Fault> {
    let found = if url.tls { &proxies.https } else { &proxies.http };
    match found {
        Some(address) if !is_loopback(&url.host) && !proxies.spares(url.host_name()) => {
            let bad = |_| Fault::Unreachable("the address of the proxy is malformed".to_owned());
            Proxy::new(address.text()).map(Some).map_err(bad)
        }
        _ => Ok(None),
    }
}

/// Returns the root certificates of the system.
fn native_roots() -> Vec<Certificate<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        log::info!("root certificates: {error}");
    }
    found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
}

fn pem(path: &Path) -> Result<Vec<PemItem<'static>>, Fault> {
    let bad = |reason: String| Fault::Certificate(format!("'{}': {reason}", escape_path(path)));
    let bytes = fs::read(path).map_err(|error| bad(error.to_string()))?;
    let items: Vec<_> = parse_pem(&bytes).collect::<Result<_, _>>().map_err(|_| bad("not PEM".to_owned()))?;
    if items.is_empty() { Err(bad("no certificate in PEM".to_owned())) } else { Ok(items) }
}

fn client(certificate: &Path, key: &Path) -> Result<ClientCert, Fault> {
    let chain: Vec<_> = pem(certificate)?
        .into_iter()
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    let bad = |_| Fault::Certificate(format!("'{}': cannot be read as a key", escape_path(key)));
    let bytes = fs::read(key).map_err(bad)?;
    let key = PrivateKey::from_pem(&bytes)
        .map_err(|_| Fault::Certificate(format!("'{}': no key in PEM", escape_path(key))))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

fn fault(error: ureq::Error, wait: &Wait) -> Fault {
    if wait.cancel.is_cancelled() {
        return Fault::Cancelled;
    }
    match error {
        ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
            Fault::Unreachable("no connection in time".to_owned())
        }
        ureq::Error::Timeout(_) => Fault::TimedOut,
        ureq::Error::HostNotFound => Fault::Unreachable("no such host".to_owned()),
        ureq::Error::ConnectionFailed => Fault::Unreachable("no connection".to_owned()),
        ureq::Error::ConnectProxyFailed(_) => {
            Fault::Unreachable("the proxy cannot connect to the host".to_owned())
        }
        ureq::Error::InvalidProxyUrl => {
            Fault::Unreachable("the address of the proxy is malformed".to_owned())
        }
        ureq::Error::Rustls(error) => tls_fault(&error),
        ureq::Error::Io(error) => io_fault(&error),
        ureq::Error::LargeResponseHeader(..) => Fault::Malformed(format!(
            "the headers of the answer exceed MAX_HEADER_BYTES ({MAX_HEADER_BYTES})"
        )),
        ureq::Error::Protocol(_) | ureq::Error::Http(_) => {
            Fault::Malformed("the answer is not HTTP".to_owned())
        }
        _ => Fault::Malformed("no answer that can be read".to_owned()),
    }
}

fn io_fault(error: &io::Error) -> Fault {
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return tls_fault(tls);
    }
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Fault::TimedOut,
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => Fault::Broken("the connection broke".to_owned()),
        _ => Fault::Unreachable(error.to_string()),
    }
}

fn tls_fault(error: &rustls::Error) -> Fault {
    match error {
        rustls::Error::InvalidMessage(_) => Fault::NotTls,
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))
            if other.0.to_string().contains(AUTHORITY_AS_SERVER) =>
        {
            Fault::Certificate(
                "its certificate is a CA certificate (CA:TRUE), which servers may not use; make a server certificate \
                 with 'openssl req -x509 -addext basicConstraints=critical,CA:FALSE', or sign one with a CA"
                    .to_owned(),
            )
        }
        rustls::Error::InvalidCertificate(reason) => {
            Fault::Certificate(format!("the certificate is not valid: {reason}"))
        }
        rustls::Error::AlertReceived(alert) => {
            Fault::Certificate(format!("ends the TLS handshake: {alert:?}"))
        }
        error => Fault::Certificate(format!("the TLS handshake failed: {error}")),
    }
}
