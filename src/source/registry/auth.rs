//! Answers to challenges of registries: Basic, and tokens of a token server.
//!
//! This module owns which header a request gets, and who gets credentials: the host that asked for them, and
//! the token server that it names. Sources: the token and OAuth2 specifications of CNCF
//! Distribution; RFC 9110, section 11.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::challenge::{Challenge, Challenges};
use super::client::Client;
use super::credentials::{Credentials, Login, Secret, basic};
use super::exchange::{Method, Request, Response};
use super::fetch::{NetError, Wait};
use super::hosts::Endpoint;
use super::url::{Url, encode};
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
    challenges: Challenges,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How the host authenticates users, once that is known.
    challenge: Option<Challenge>,
    /// Whether a challenge of an earlier run was looked for.
    has_looked: bool,
    /// The header that answers a challenge of an earlier run, until the host makes one itself.
    guessed: Option<Secret>,
    /// The challenge of an earlier run whose token server denied access.
    denied: Option<Challenge>,
    /// The present value of the header, and when it must be replaced.
    header: Option<(Secret, Option<Instant>)>,
    /// The credentials, once they were looked up.
    credentials: Option<Option<Credentials>>,
}

impl Auth {
    pub(super) fn new(login: Login, challenges: Challenges) -> Self {
        Auth { login, challenges, state: Mutex::default() }
    }

    /// Returns the header for the next request; `None` while the host has not asked for one, neither now nor
    /// in an earlier run. A token that is about to expire is replaced.
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
            None if state.has_looked => Ok(None),
            None => self.guess(&mut state, client, at, wait),
            Some((value, until)) if until.is_none_or(|until| Instant::now() < until) => {
                Ok(Some(value.clone()))
            }
            Some(_) => self.renew(&mut state, client, at, wait).map(Some),
        }
    }

    /// Returns the header that answers the challenge of an earlier run; `None` if there is none, or if it
    /// cannot be answered. Then the host is asked.
    fn guess(
        &self,
        state: &mut State,
        client: &Client,
        at: &Endpoint,
        wait: &Wait,
    ) -> Result<Option<Secret>, NetError> {
        state.has_looked = true;
        let Some(challenge) = self.challenges.find(at) else { return Ok(None) };
        state.challenge = Some(challenge.clone());
        match self.renew(state, client, at, wait) {
            Ok(header) => {
                state.guessed = Some(header.clone());
                Ok(Some(header))
            }
            Err(error @ NetError::Cancelled) => Err(error),
            Err(error) => {
                log::info!("{error}");
                state.challenge = None;
                state.denied = Some(challenge).filter(|_| matches!(error, NetError::Denied { .. }));
                Ok(None)
            }
        }
    }

    /// Returns whether a request that was refused with 403 is sent again without its header `sent`, because
    /// only a challenge of an earlier run asked for it.
    pub(super) fn drops_guess(&self, sent: Option<&Secret>) -> bool {
        let mut state = self.lock();
        let is_guess = sent.is_some() && state.guessed.as_ref() == sent;
        if is_guess && state.header.as_ref().map(|(value, _)| value) == sent {
            state.header = None;
            state.challenge = None;
        }
        is_guess
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
        let made = if answer.status == 401 { Challenge::of(answer, at)? } else { None };
        if let Some(made) = made.clone() {
            let is_denied = state.denied.take().is_some_and(|denied| denied == made);
            state.challenge = Some(made);
            state.guessed = None;
            if is_denied {
                let user = state.credentials.as_ref().and_then(|found| found.as_ref().map(Credentials::user));
                return Err(NetError::Denied { host: at.name.clone(), user });
            }
        }
        let header = self.renew(&mut state, client, at, wait)?;
        if let Some(made) = &made {
            self.challenges.keep(at, made);
        }
        Ok(header)
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
            (Some(Challenge::Bearer { realm, service }), credentials) => {
                let scope = own_scope(at);
                let wanted = Wanted { realm, service: service.as_deref(), scope: &scope };
                let (token, time) = wanted.token(client, at, credentials.as_ref(), wait)?;
                let until = Instant::now().checked_add(time);
                (Secret(format!("Bearer {}", token.0)), until)
            }
            _ => return Err(denied()),
        };
        state.header = Some((value.clone(), until));
        Ok(value)
    }
}

/// Returns how long a token is used whose lifetime the token server states in seconds.
fn time_of_use(expires_in: Option<u64>) -> Duration {
    let lifetime = expires_in.map_or(MIN_TOKEN_TIME, Duration::from_secs).max(MIN_TOKEN_TIME);
    lifetime.saturating_sub(RENEWED_EARLY)
}

/// Returns the scope of a token for reading the repository. The scope that a challenge states is not used: a
/// registry could ask for a token that writes to another repository.
fn own_scope(at: &Endpoint) -> String {
    format!("repository:{}:pull", at.repository)
}

/// The token that a challenge asks for.
struct Wanted<'a> {
    realm: &'a Url,
    service: Option<&'a str>,
    scope: &'a str,
}

impl Wanted<'_> {
    /// Requests the token. Returns it with the time for which it is used.
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
        Ok((Secret(token.to_owned()), time_of_use(value.get("expires_in").and_then(Value::as_u64))))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r3_a_token_is_renewed_before_its_end_and_used_for_forty_seconds_at_least() {
        let seconds = |expires_in| time_of_use(expires_in).as_secs();
        assert_eq!([None, Some(0), Some(2), Some(60)].map(seconds), [40; 4]);
        assert_eq!([Some(300), Some(43_200)].map(seconds), [280, 43_180]);
        // The time is too long to add to the clock; such a token is not renewed until it is refused.
        assert!(Instant::now().checked_add(time_of_use(Some(u64::MAX))).is_none());
    }
}
