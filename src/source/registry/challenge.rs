//! Challenges: how a host authenticates users, and what the cache directory keeps of them.
//!
//! A run that knows the challenge asks the token server at once, instead of being refused first. This module
//! owns which challenges are accepted and kept. Nothing secret is kept: no credentials, no token, and no
//! address with a query. Source: RFC 9110, section 11; the token specification of CNCF Distribution.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use http_auth::ChallengeRef;
use serde::{Deserialize, Serialize};

use super::exchange::Response;
use super::fetch::NetError;
use super::hosts::{Endpoint, Security};
use super::url::{Url, is_loopback};
use crate::digest::Algorithm;
use crate::store::notes::Folder;

/// How long a challenge is used after the host made it. Then the host is asked again, because a token server
/// that it no longer names should not get credentials for ever.
const MAX_AGE: Duration = Duration::from_secs(7 * 86_400);
/// The largest file about a challenge, in bytes.
const MAX_FILE_BYTES: u64 = 16 << 10;

/// How a host authenticates users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// With user name and password in each request.
    Basic,
    /// With a token of the token server at `realm`.
    Bearer {
        /// The address of the token server.
        realm: Url,
        /// The name of the registry for its token server.
        service: Option<String>,
    },
}

impl Challenge {
    /// Returns the challenge of an answer that can be met: a token rather than a password. `at` is the host as
    /// it was reached.
    ///
    /// # Errors
    /// [`NetError::Refused`] for a token server that must not get credentials.
    pub(super) fn of(answer: &Response, at: &Endpoint) -> Result<Option<Self>, NetError> {
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
}

fn bearer(challenge: &ChallengeRef<'_>, at: &Endpoint) -> Result<Challenge, NetError> {
    let refused = |reason: &str| NetError::Refused { host: at.name.clone(), reason: reason.to_owned() };
    let value = |name: &str| {
        let found = challenge.params.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped())
    };
    let realm = value("realm").as_deref().and_then(Url::parse);
    let realm = realm.ok_or_else(|| refused("the challenge names no address of a token server"))?;
    if !may_have_credentials(&realm, at) {
        return Err(refused("the challenge names a token server without TLS"));
    }
    Ok(Challenge::Bearer { realm, service: value("service") })
}

/// Returns whether a token server may have the credentials for a host: those that go to the registry with TLS
/// do not go to the token server without, not even on this machine, where another user can listen.
fn may_have_credentials(realm: &Url, at: &Endpoint) -> bool {
    let is_plain_here = at.security == Security::Plain && is_loopback(&realm.host);
    realm.tls || is_plain_here || at.tls.any_certificate
}

/// The challenges that are kept in the cache directory.
#[derive(Debug, Clone)]
pub(super) struct Challenges {
    /// The cache directory; nothing is kept without one.
    directory: Option<PathBuf>,
}

/// A challenge, as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    host: String,
    /// When the host made the challenge, in seconds since the epoch.
    made: u64,
    /// The address of the token server; none for a password.
    realm: Option<String>,
    service: Option<String>,
}

impl Challenges {
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        Challenges { directory }
    }

    /// Returns the challenge of a host as it was reached; `None` if none is kept that may be used.
    pub(super) fn find(&self, at: &Endpoint) -> Option<Challenge> {
        let directory = self.directory.as_ref().filter(|_| is_proved(at))?;
        let bytes = Folder::Hosts.read(directory, &file_of(at), MAX_FILE_BYTES)?;
        let kept: Kept = serde_json::from_slice(&bytes).ok()?;
        let age = seconds_now().checked_sub(kept.made)?;
        if kept.host != place(at) || age > MAX_AGE.as_secs() {
            return None;
        }
        let Some(realm) = kept.realm else { return Some(Challenge::Basic) };
        let realm = Url::parse(&realm).filter(|realm| may_have_credentials(realm, at))?;
        Some(Challenge::Bearer { realm, service: kept.service })
    }

    /// Keeps the challenge that a host has made. A failure costs only time, and is logged.
    pub(super) fn keep(&self, at: &Endpoint, challenge: &Challenge) {
        let Some(directory) = self.directory.as_ref().filter(|_| is_proved(at)) else { return };
        let (realm, service) = match challenge {
            Challenge::Basic => (None, None),
            // A query can be a signature.
            Challenge::Bearer { realm, .. } if realm.path.contains('?') => return,
            Challenge::Bearer { realm, service, .. } => (Some(realm.text()), service.clone()),
        };
        let kept = Kept { host: place(at), made: seconds_now(), realm, service };
        let Ok(bytes) = serde_json::to_vec(&kept) else { return };
        Folder::Hosts.write(directory, &file_of(at), &bytes).unwrap_or_else(|error| log::info!("{error}"));
    }
}

/// Returns whether it is certain which host answers. Somebody else on the way could name a token server that
/// then gets the credentials of later runs.
fn is_proved(at: &Endpoint) -> bool {
    !at.tls.any_certificate && (at.security == Security::Tls || is_loopback(&at.host))
}

/// Returns the host and the path that the challenge is valid for.
fn place(at: &Endpoint) -> String {
    format!("{}{}", at.host, at.root)
}

fn file_of(at: &Endpoint) -> String {
    format!("sha256-{}", Algorithm::Sha256.digest(place(at).as_bytes()).hex())
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token_server(realm: &str) -> Challenge {
        let realm = Url::parse(realm).unwrap();
        Challenge::Bearer { realm, service: Some("reg".to_owned()) }
    }

    #[test]
    fn r3_a_challenge_is_kept_for_a_week_for_its_host_alone() {
        let home = tempfile::tempdir().unwrap();
        let challenges = Challenges::new(Some(home.path().join("cache")));
        let at = Endpoint::new("reg.test", "app");
        assert_eq!(challenges.find(&at), None);
        challenges.keep(&at, &token_server("https://auth.test/token"));
        let found = challenges.find(&Endpoint::new("reg.test", "other"));
        assert_eq!(found, Some(token_server("https://auth.test/token")));
        assert_eq!(challenges.find(&Endpoint::new("reg.test:5000", "app")), None);
        let other_root = Endpoint { root: "/mirror/v2".to_owned(), ..at.clone() };
        assert_eq!(challenges.find(&other_root), None);
        challenges.keep(&other_root, &Challenge::Basic);
        assert_eq!(challenges.find(&other_root), Some(Challenge::Basic));

        let file = home.path().join("cache/hosts").join(file_of(&at));
        let mut kept: Kept = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        for (made, is_used) in [
            (seconds_now() - MAX_AGE.as_secs() + 60, true),
            (seconds_now() - MAX_AGE.as_secs() - 60, false),
            (seconds_now() + 60, false),
        ] {
            kept.made = made;
            std::fs::write(&file, serde_json::to_vec(&kept).unwrap()).unwrap();
            assert_eq!(challenges.find(&at).is_some(), is_used, "{made}");
        }
        std::fs::write(&file, "{").unwrap();
        assert_eq!(challenges.find(&at), None);
    }

    #[test]
    fn r4_a_challenge_is_kept_only_from_a_host_that_is_proved_and_without_a_query() {
        let home = tempfile::tempdir().unwrap();
        let challenges = Challenges::new(Some(home.path().join("cache")));
        let at = Endpoint::new("reg.test", "app");
        let mut insecure = at.clone();
        insecure.insecure();
        let plain = Endpoint { security: Security::Plain, ..at.clone() };
        for unproved in [&insecure, &plain] {
            challenges.keep(unproved, &token_server("https://evil.test/token"));
            assert_eq!(challenges.find(&at), None);
        }
        challenges.keep(&at, &token_server("https://auth.test/token?signature=1"));
        assert_eq!(challenges.find(&at), None);
        challenges.keep(&at, &token_server("https://auth.test/token"));
        assert!(challenges.find(&at).is_some());
        for unproved in [&insecure, &plain] {
            assert_eq!(challenges.find(unproved), None);
        }
        // Written by hand: a token server without TLS.
        challenges.keep(&at, &token_server("http://auth.test/token"));
        assert_eq!(challenges.find(&at), None);
        // The registry of this machine speaks TLS by now.
        let (here, plain) =
            (Endpoint::new("localhost:5000", "app"), token_server("http://localhost:5001/token"));
        challenges.keep(&here.reached(false), &plain);
        assert_eq!(challenges.find(&here.reached(false)), Some(plain));
        assert_eq!(challenges.find(&here.reached(true)), None);
    }
}
