//! Fuzz target for the answers of a registry: nothing panics, requests end, and a password goes to no host
//! without TLS.

#![allow(clippy::unwrap_used, reason = "a target that finds a fault panics")]

use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::challenge::Challenges;
use super::client::Client;
use super::credentials::Login;
use super::exchange::{Exchange, Fault, Request, Response};
use super::fetch::{Cancel, Wait};
use super::hosts::{Endpoint, Tls};
use super::name::ImageName;
use super::repository::Repository;
use super::url::is_loopback;
use crate::digest::Algorithm;
use crate::source::Environment;

const STATUS: [u16; 16] = [200, 401, 200, 404, 307, 429, 301, 500, 403, 206, 200, 408, 302, 308, 204, 503];
/// Most requests that one question may take: pages of tags are the longest list.
const MOST_REQUESTS: usize = 2000;

/// Gives the parts as answers, in turn, from the first again when all were given.
#[derive(Debug)]
struct Double {
    answers: Vec<Vec<u8>>,
    given: Mutex<usize>,
}

impl Exchange for Double {
    fn send(&self, request: &Request, _: &Arc<Tls>, _: &Wait) -> Result<Response, Fault> {
        let secret =
            request.headers.iter().any(|(name, value)| name == "authorization" && value.starts_with("Basic"));
        let form = request.form.as_deref().unwrap_or_default();
        if secret || form.contains("password") {
            assert!(request.url.tls || is_loopback(&request.url.host), "a password without TLS: {request:?}");
        }
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = &self.answers[*given % self.answers.len()];
        *given += 1;
        assert!(*given < MOST_REQUESTS, "requests without end");
        Ok(response(answer))
    }
}

/// Reads an answer: a byte for the status, headers as in HTTP, an empty line, the body.
fn response(text: &[u8]) -> Response {
    let (status, text) = text.split_first().map_or((0, text), |(status, text)| (usize::from(*status), text));
    let end = text.windows(2).position(|pair| pair == b"\n\n").unwrap_or(0);
    let (head, body) = text.split_at(end);
    let body = body.strip_prefix(b"\n\n").unwrap_or(body).to_vec();
    let head = String::from_utf8_lossy(head);
    let headers = head.lines().filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Response { status: STATUS[status % STATUS.len()], headers, body: Box::new(Cursor::new(body)) }
}

/// The first part selects the question; the others are answers.
pub(crate) fn run(parts: &[&[u8]]) {
    let Some((choices, answers)) = parts.split_first().filter(|(_, answers)| !answers.is_empty()) else {
        return;
    };
    let answers = answers.iter().map(|answer| answer.to_vec()).collect();
    let double = Arc::new(Double { answers, given: Mutex::default() });
    let client = Client::sleeping(double, Box::new(|_, _, _| Ok(())));
    let choice = choices.first().copied().unwrap_or(0);
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("auth.json");
    std::fs::write(&file, r#"{"auths":{"reg.test":{"auth":"dXNlcjpwYXNzd29yZA=="}}}"#).unwrap();
    let login = Login::new((choice & 8 != 0).then_some(&*file), &Environment::default());
    let name = ImageName::parse("reg.test/app:1").unwrap();
    let mut hosts = vec![Endpoint::new("reg.test", "app")];
    if choice & 16 != 0 {
        hosts.insert(0, Endpoint::new("mirror.test:5000", "app"));
        hosts[0].insecure();
    }
    let time = Duration::from_secs(60);
    let repository =
        Repository::new(name, client, hosts, (&login, &Challenges::new(None)), time, Cancel::default());
    let digest = Algorithm::Sha256.digest(b"{}");
    match choice % 5 {
        0 => {
            if let Ok(tagged) = repository.tagged("1", None, 1000) {
                let bytes = tagged.bytes.expect("a document was asked for");
                assert!(bytes.len() <= 1000 && Algorithm::Sha256.digest(&bytes) == tagged.digest);
            }
        }
        1 => {
            if let Ok(tagged) = repository.tagged("1", Some(digest), 1000) {
                assert!(tagged.bytes.is_some() || tagged.digest == digest);
            }
        }
        2 => {
            let tags = repository.tags().unwrap_or_default();
            assert!(tags.windows(2).all(|pair| pair[0] < pair[1]), "{tags:?}");
        }
        3 => assert!(repository.manifest(&digest, 1000).map_or(0, |bytes| bytes.len()) <= 1000),
        _ => assert!(repository.small_blob(&digest, 1000).map_or(0, |bytes| bytes.len()) <= 1000),
    }
}

/// Returns seeds as parts.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<Vec<Vec<u8>>> {
    let answers = [
        &b"\0docker-content-digest: sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\n\n{}"[..],
        b"\x01www-authenticate: Bearer realm=\"https://auth.test/token\",service=\"reg\",scope=\"repository:app:pull\"\n\n",
        b"\0content-type: application/json\n\n{\"token\":\"abc\",\"expires_in\":300}",
        b"\x01www-authenticate: Basic realm=\"x\"\n\n{\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"no\"}]}",
        b"\x04location: https://cdn.test/blob?sig=1\n\n",
        b"\0link: </v2/app/tags/list?last=b&n=2>; rel=\"next\"\n\n{\"name\":\"app\",\"tags\":[\"a\",\"b\"]}",
        b"\0\n\n{\"tags\":[\"c\"]}",
        b"\x05retry-after: 2\n\n",
        b"\x03\n\n{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\"}]}",
    ];
    (0..20_u8)
        .map(|choice| {
            let from = usize::from(choice) % answers.len();
            let turned = answers.iter().cycle().skip(from).take(4).map(|answer| answer.to_vec());
            [vec![choice]].into_iter().chain(turned).collect()
        })
        .collect()
}
