//! Tests of the protocol over a double of [`Exchange`]: which requests are sent, and what is made of the
//! answers.

mod access;
mod faults;
mod ranges;

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::challenge::Challenges;
use super::client::Client;
use super::credentials::Login;
use super::exchange::{Exchange, Fault, Request, Response};
use super::fetch::{Cancel, NetError, Wait};
use super::hosts::{Endpoint, Tls};
use super::name::ImageName;
use super::repository::Repository;
use crate::digest::{Algorithm, Digest};
use crate::source::Environment;

type Answer = dyn Fn(&Request, usize) -> Result<Response, Fault> + Send + Sync;

/// Answers requests as a test says, and keeps a list of them.
struct Double {
    answer: Box<Answer>,
    requests: Mutex<Vec<String>>,
    /// The time for each answer to begin and to end, in seconds.
    times: Mutex<Vec<(f64, f64)>>,
}

impl std::fmt::Debug for Double {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Double")
    }
}

impl Exchange for Double {
    fn send(&self, request: &Request, _: &Arc<Tls>, wait: &Wait) -> Result<Response, Fault> {
        let seconds = |wait: &Wait| wait.left("").map_or(0., |left| left.unwrap_or_default().as_secs_f64());
        self.times.lock().unwrap().push((seconds(wait), seconds(&wait.body())));
        let mut text = format!("{} {}", request.method.name(), request.url.text());
        for (name, value) in &request.headers {
            if name != "accept" {
                text.push_str(&format!(" {name}={value}"));
            }
        }
        if let Some(form) = &request.form {
            text.push_str(&format!(" {form}"));
        }
        let number = {
            let mut requests = self.requests.lock().unwrap();
            requests.push(text);
            requests.len() - 1
        };
        (self.answer)(request, number)
    }
}

/// A repository whose host is a double.
struct Setup {
    double: Arc<Double>,
    repository: Arc<Repository>,
    /// The pauses that were made, instead of waiting.
    pauses: Arc<Mutex<Vec<Duration>>>,
}

impl Setup {
    fn new(answer: impl Fn(&Request, usize) -> Result<Response, Fault> + Send + Sync + 'static) -> Self {
        Setup::at(vec![Endpoint::new("reg.test", "app")], None, answer)
    }

    fn at(
        hosts: Vec<Endpoint>,
        auth_file: Option<&Path>,
        answer: impl Fn(&Request, usize) -> Result<Response, Fault> + Send + Sync + 'static,
    ) -> Self {
        Setup::keeping(hosts, auth_file, None, answer)
    }

    /// Creates a repository that keeps challenges in the cache directory `cache`.
    fn keeping(
        hosts: Vec<Endpoint>,
        auth_file: Option<&Path>,
        cache: Option<PathBuf>,
        answer: impl Fn(&Request, usize) -> Result<Response, Fault> + Send + Sync + 'static,
    ) -> Self {
        let answer = Box::new(answer);
        let double = Arc::new(Double { answer, requests: Mutex::default(), times: Mutex::default() });
        let pauses: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let noted = pauses.clone();
        let sleep = Box::new(move |wait: &Wait, time: Duration, host: &str| {
            noted.lock().unwrap().push(time);
            match wait.left(host)? {
                Some(left) if left < time => Err(NetError::TimedOut { host: host.to_owned() }),
                _ => Ok(()),
            }
        });
        let client = Client::sleeping(double.clone(), sleep);
        let login = Login::new(auth_file, &Environment::default());
        let name = ImageName::parse("reg.test/app:1").unwrap();
        let time = Duration::from_secs(60);
        let repository =
            Repository::new(name, client, hosts, (&login, &Challenges::new(cache)), time, Cancel::default());
        Setup { double, repository: Arc::new(repository), pauses }
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.double.requests.lock().unwrap())
    }

    fn times(&self) -> Vec<(f64, f64)> {
        std::mem::take(&mut *self.double.times.lock().unwrap())
    }

    fn pauses(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.pauses.lock().unwrap())
    }

    fn manifest(&self) -> Result<Vec<u8>, NetError> {
        self.repository.manifest(&digest(), 1000)
    }
}

fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Result<Response, Fault> {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Ok(Response { status, headers: headers.collect(), body: Box::new(Cursor::new(body.to_vec())) })
}

/// The digest of the manifest of the tests.
fn digest() -> Digest {
    Algorithm::Sha256.digest(b"{}")
}

/// The request for the manifest of the tests at a host.
fn get_manifest(host: &str) -> String {
    format!("GET https://{host}/v2/app/manifests/{}", digest())
}

fn header<'a>(request: &'a Request, wanted: &str) -> Option<&'a str> {
    request.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| &**value)
}
