//! Answers to challenges of registries: Basic, and tokens of a token server.
//!
//! This module owns which header a request gets, and who gets credentials: the host that asked for them, and
//! the token server that it names. Sources: the token and OAuth2 specifications of CNCF
//! Distribution; RFC 9110, section 11.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_auth::ChallengeRef;
use serde_json::Value;

use super::client::Client;
use super::credentials::{Credentials, Login, Secret, basic};
use super::exchange::{Method, Request, Response};
use super::fetch::{NetError, Wait};
use super::hosts::Endpoint;
use super::url::{Url, encode, is_loopback};
use crate::error::Error;

/// The shortest lifetime of a token, also if the server names none.
const MIN_TOKEN_TIME: Duration = Duration::from_secs(60);
/// How long before its end a token is renewed.
const RENEWED_EARLY: Duration = Duration::from_secs(20);
/// The largest answer of a token server, in bytes.
const MAX_TOKEN_BYTES: u64 = 256 << 10;

/// The authentication of requests for one repository at one host. Several threads share it; one of them
/// requests a token, the others wait for it.
#[derive(Debug)]
pub(super) struct Auth {
    login: Login,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How the host wants to be convinced, once it has said so.
    challenge: Option<Challenge>,
    /// The present value of the header, and when it must be replaced.
    header: Option<(Secret, Option<Instant>)>,
    /// The credentials, once they were looked up.
    credentials: Option<Option<Credentials>>,
}

/// How a host wants to be convinced.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: Url, service: Option<String>, scope: Option<String> },
}

impl Auth {
    pub(super) fn new(login: Login) -> Self {
        Auth { login, state: Mutex::default() }
    }

    /// Returns the header for the next request; `None` while the host has not asked for one. A token that
    /// is about to expire is replaced.
    ///
    /// # Errors
    /// When no new token can be had.
    pub(super) fn header(
        &self,
        client: &Client,
        at: &Endpoint,
        wait: &Wait,
    ) -> Result<Option<Secret>, NetError> {
        let mut state = self.lock();
        match &state.header {
            None => Ok(None),
            Some((value, until)) if until.is_none_or(|until| Instant::now() < until) => {
                Ok(Some(value.clone()))
            }
            Some(_) => self.renew(&mut state, client, at, wait).map(Some),
        }
    }

    /// Returns the header for the repetition of a request that `answer` refused with 401 or 403. `sent` is
    /// the header that the request had.
    ///
    /// # Errors
    /// [`NetError::Denied`] when nothing is left to try; the faults of the token server.
    pub(super) fn answer(
        &self,
        client: &Client,
        at: &Endpoint,
        answer: &Response,
        sent: Option<&Secret>,
        wait: &Wait,
    ) -> Result<Secret, NetError> {
        let mut state = self.lock();
        // Another thread has replaced the header meanwhile.
        if let Some((value, _)) = state.header.as_ref().filter(|(value, _)| Some(value) != sent) {
            return Ok(value.clone());
        }
        if answer.status == 401 {
            state.challenge = challenge(answer, at)?.or(state.challenge.take());
        }
        self.renew(&mut state, client, at, wait)
    }

    /// Reads the credentials again, because those that were used are not accepted. Returns false if they are
    /// the same.
    ///
    /// # Errors
    /// As [`Login::find`].
    pub(super) fn read_again(&self, at: &Endpoint) -> Result<bool, NetError> {
        let found = self.find(at)?;
        let mut state = self.lock();
        let is_new = state.credentials.as_ref() != Some(&found);
        state.credentials = Some(found);
        if is_new {
            state.header = None;
        }
        Ok(is_new)
    }

    /// Returns the user whose credentials are used.
    pub(super) fn user(&self) -> Option<String> {
        self.lock().credentials.as_ref()?.as_ref().map(Credentials::user)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, at: &Endpoint) -> Result<Option<Credentials>, NetError> {
        self.login.find(&at.name, &at.repository).map_err(|error| match error {
            Error::CredentialHelper { .. } => {
                NetError::Credentials { host: at.name.clone(), reason: error.to_string() }
            }
            other => NetError::Credentials { host: at.name.clone(), reason: other.to_string() },
        })
    }

    fn renew(
        &self,
        state: &mut State,
        client: &Client,
        at: &Endpoint,
        wait: &Wait,
    ) -> Result<Secret, NetError> {
        state.header = None;
        if state.credentials.is_none() {
            state.credentials = Some(self.find(at)?);
        }
        let credentials = state.credentials.clone().flatten();
        let denied =
            || NetError::Denied { host: at.name.clone(), user: credentials.as_ref().map(Credentials::user) };
        let (value, until) = match (&state.challenge, &credentials) {
            (_, Some(Credentials::Bearer(token))) => (Secret(format!("Bearer {}", token.0)), None),
            (Some(Challenge::Basic), Some(Credentials::Password { user, password })) => {
                (Secret(basic(user, password)), None)
            }
            (Some(Challenge::Bearer { realm, service, scope }), credentials) => {
                let own_scope = format!("repository:{}:pull", at.repository);
                let scope = scope.as_deref().filter(|scope| !scope.is_empty()).unwrap_or(&own_scope);
                let wanted = Wanted { realm, service: service.as_deref(), scope };
                let (token, time) = wanted.token(client, at, credentials.as_ref(), wait)?;
                let until = Instant::now().checked_add(time.saturating_sub(RENEWED_EARLY));
                (Secret(format!("Bearer {}", token.0)), until)
            }
            _ => return Err(denied()),
        };
        state.header = Some((value.clone(), until));
        Ok(value)
    }
}

/// The token that a challenge asks for.
struct Wanted<'a> {
    realm: &'a Url,
    service: Option<&'a str>,
    scope: &'a str,
}

impl Wanted<'_> {
    /// Requests the token. Returns it with its lifetime.
    fn token(
        &self,
        client: &Client,
        at: &Endpoint,
        credentials: Option<&Credentials>,
        wait: &Wait,
    ) -> Result<(Secret, Duration), NetError> {
        let mut answer = match credentials {
            Some(Credentials::Identity(token)) => {
                let answer = client.steady(&self.by_form(token), &at.tls, wait)?;
                match answer.status {
                    404 | 405 => {
                        let password =
                            Credentials::Password { user: "<token>".to_owned(), password: token.clone() };
                        client.steady(&self.by_query(Some(&password)), &at.tls, wait)?
                    }
                    _ => answer,
                }
            }
            credentials => client.steady(&self.by_query(credentials), &at.tls, wait)?,
        };
        let host = || self.realm.host.clone();
        match answer.status {
            200 => {}
            401 | 403 => {
                return Err(NetError::Denied {
                    host: at.name.clone(),
                    user: credentials.map(Credentials::user),
                });
            }
            status => {
                let reason = format!("the token server answers with status {status}");
                return Err(NetError::Refused { host: host(), reason });
            }
        }
        let bytes = client.body(&mut answer, MAX_TOKEN_BYTES, &host(), wait)?;
        let bad = || NetError::Refused { host: host(), reason: "the token server sends no token".to_owned() };
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        let text = |field: &str| value.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        let token = text("token").or_else(|| text("access_token")).ok_or_else(bad)?;
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad());
        }
        let time =
            value.get("expires_in").and_then(Value::as_u64).map_or(MIN_TOKEN_TIME, Duration::from_secs);
        Ok((Secret(token.to_owned()), time.max(MIN_TOKEN_TIME)))
    }

    fn by_query(&self, credentials: Option<&Credentials>) -> Request {
        let mut path = self.realm.path.clone();
        path.push(if path.contains('?') { '&' } else { '?' });
        if let Some(service) = self.service {
            path.push_str(&format!("service={}&", encode(service)));
        }
        path.push_str(&format!("scope={}", encode(self.scope)));
        let request = Request::new(Method::Get, Url { path, ..self.realm.clone() });
        match credentials {
            Some(Credentials::Password { user, password }) => {
                request.header("authorization", basic(user, password))
            }
            _ => request,
        }
    }

    fn by_form(&self, token: &Secret) -> Request {
        let form = format!(
            "grant_type=refresh_token&service={}&client_id=imgmount&scope={}&refresh_token={}",
            encode(self.service.unwrap_or_default()),
            encode(self.scope),
            encode(&token.0)
        );
        Request { form: Some(form), ..Request::new(Method::Post, self.realm.clone()) }
    }
}

/// Returns the challenge of an answer that can be met: a token rather than a password.
fn challenge(answer: &Response, at: &Endpoint) -> Result<Option<Challenge>, NetError> {
    let mut found = None;
    for header in answer.all("www-authenticate") {
        for challenge in http_auth::parse_challenges(header).unwrap_or_default() {
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                return bearer(&challenge, at).map(Some);
            }
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                found = Some(Challenge::Basic);
            }
        }
    }
    Ok(found)
}

fn bearer(challenge: &ChallengeRef<'_>, at: &Endpoint) -> Result<Challenge, NetError> {
    let refused = |reason: &str| NetError::Refused { host: at.name.clone(), reason: reason.to_owned() };
    let value = |name: &str| {
        let found = challenge.params.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped())
    };
    let realm = value("realm").as_deref().and_then(Url::parse);
    let realm = realm.ok_or_else(|| refused("the challenge names no address of a token server"))?;
    // Credentials that would go to the registry with TLS do not go to the token server without.
    if !realm.tls && !is_loopback(&realm.host) && !at.tls.any_certificate {
        return Err(refused("the challenge names a token server without TLS"));
    }
    Ok(Challenge::Bearer { realm, service: value("service"), scope: value("scope") })
}
