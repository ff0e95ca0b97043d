//! Credentials of registries, from the files and helpers of Docker and podman.
//!
//! This module owns where credentials are looked up, and that they appear in no text: [`Secret`] shows
//! nothing. It makes no request. Sources: containers-auth.json(5); docker-credential-helpers.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use rustix::process::{Pid, Signal};
use serde_json::Value;

use super::fetch::Cancel;
use super::hosts::read_file;
use super::name::DOCKER_HUB;
use crate::error::{Error, Result, Subject};
use crate::path::escape_path;
use crate::source::Environment;

/// The longest time that a credential helper may take.
const HELPER_TIME: Duration = Duration::from_secs(10);
/// How long after a cancellation a helper is ended at most.
const CANCEL_CHECK: Duration = Duration::from_millis(50);
/// The longest answer of a credential helper, in bytes.
const MAX_HELPER_BYTES: u64 = 64 << 10;
/// The name under which Docker stores the credentials of Docker Hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// The user name with which helpers mark an identity token.
const TOKEN_USER: &str = "<token>";

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What proves who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// A user name and a password.
    Password { user: String, password: Secret },
    /// A token that the token server exchanges for short ones.
    Identity(Secret),
    /// A token that the registry itself accepts.
    Bearer(Secret),
}

impl Credentials {
    /// Returns the name of the user, for messages.
    pub(super) fn user(&self) -> String {
        match self {
            Credentials::Password { user, .. } => user.clone(),
            Credentials::Identity(_) | Credentials::Bearer(_) => TOKEN_USER.to_owned(),
        }
    }
}

/// Where credentials are looked up.
#[derive(Debug, Clone)]
pub(super) struct Login {
    /// The files, the preferred one first.
    files: Vec<PathBuf>,
    /// True if the user named the only file, so that it must exist.
    is_required: bool,
    helper_time: Duration,
    /// Ends helpers early.
    cancel: Cancel,
}

impl Login {
    /// Returns the places of `environment`; `file`, the value of `--authfile`, replaces them all.
    pub(super) fn new(file: Option<&Path>, environment: &Environment) -> Self {
        let cancel = Cancel::default();
        let login = |files, is_required| Login { files, is_required, helper_time: HELPER_TIME, cancel };
        if let Some(file) = file.or(environment.auth_file.as_deref()) {
            return login(vec![file.to_owned()], true);
        }
        if let Some(directory) = &environment.docker_config {
            return login(vec![directory.join("config.json")], false);
        }
        let at = |directory: Option<PathBuf>, path: &str| directory.map(|directory| directory.join(path));
        let files = [
            at(environment.runtime_dir.clone(), "containers/auth.json"),
            at(environment.user_config(), "containers/auth.json"),
            at(environment.home.clone(), ".docker/config.json"),
            at(environment.home.clone(), ".dockercfg"),
        ];
        login(files.into_iter().flatten().collect(), false)
    }

    /// Makes `cancel` end helpers early.
    pub(super) fn ending_on(self, cancel: Cancel) -> Self {
        Login { cancel, ..self }
    }

    /// Returns the credentials for a repository; `None` if there are none. Files and helpers are read each
    /// time, because credentials expire and are replaced.
    ///
    /// # Errors
    /// For a file that cannot be read or parsed, and a helper that fails or takes too long.
    pub(super) fn find(&self, host: &str, repository: &str) -> Result<Option<Credentials>> {
        for path in &self.files {
            let Some(bytes) = read_file(path)? else {
                if self.is_required {
                    let missing = rustix::io::Errno::NOENT.into();
                    return Err(Error::io_on("cannot read", Subject::File(path.clone()), missing));
                }
                continue;
            };
            if let Some(found) = self.find_in(path, &bytes, host, repository)? {
                log::debug!("credentials for '{host}' from '{}'", escape_path(path));
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn find_in(
        &self,
        path: &Path,
        bytes: &[u8],
        host: &str,
        repository: &str,
    ) -> Result<Option<Credentials>> {
        let what = || Subject::File(path.to_owned());
        if bytes.trim_ascii().is_empty() {
            return Ok(None);
        }
        // The text of serde's error can quote a secret.
        let file: Value = serde_json::from_slice(bytes)
            .map_err(|error| Error::malformed(what(), format!("line {}: not JSON", error.line())))?;
        let helper_keys = if host == DOCKER_HUB { vec![HUB_KEY, host] } else { vec![host] };
        let helper = helper_keys.iter().find_map(|key| file.get("credHelpers")?.get(key)?.as_str());
        if let Some(helper) = helper.filter(|helper| !helper.is_empty()) {
            return self.ask(helper, &helper_keys);
        }
        let is_flat = path.file_name().is_some_and(|name| name == ".dockercfg");
        let entries = if is_flat { Some(&file) } else { file.get("auths") };
        let entry = entries.and_then(Value::as_object).and_then(|entries| {
            let place = format!("{host}/{repository}");
            let narrowing = std::iter::successors(Some(&*place), |place| Some(place.rsplit_once('/')?.0));
            narrowing.map(|key| entries.get(key)).find(Option::is_some).flatten().or_else(|| {
                entries
                    .iter()
                    .find(|(key, _)| host_of_key(key).as_deref() == Some(host))
                    .map(|(_, entry)| entry)
            })
        });
        let found = entry.map(read_entry).transpose().map_err(|reason| Error::malformed(what(), reason))?;
        if let Some(credentials) = found.flatten() {
            return Ok(Some(credentials));
        }
        match file.get("credsStore").and_then(Value::as_str) {
            Some(helper) if !helper.is_empty() => self.ask(helper, &helper_keys),
            _ => Ok(None),
        }
    }

    /// Asks a helper for each of `keys` until it has credentials.
    fn ask(&self, helper: &str, keys: &[&str]) -> Result<Option<Credentials>> {
        for key in keys {
            let found = ask_helper(helper, key, self.helper_time, &self.cancel)
                .map_err(|reason| Error::CredentialHelper { helper: helper.to_owned(), reason })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// Returns the host of a key as Docker writes it: `https://index.docker.io/v1/`; `None` for a key in the
/// present form.
fn host_of_key(key: &str) -> Option<String> {
    let (_, rest) = key.split_once("://").unwrap_or(("", key));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !key.contains("://") && !matches!(path, "v1/" | "v2/" | "v1" | "v2") {
        return (host == "index.docker.io").then(|| DOCKER_HUB.to_owned());
    }
    let is_hub = matches!(host, "index.docker.io" | "registry-1.docker.io");
    Some(if is_hub { DOCKER_HUB.to_owned() } else { host.to_ascii_lowercase() })
}

/// Reads an entry of `auths`; `None` if it is empty, as Docker writes it beside a store of credentials.
fn read_entry(entry: &Value) -> Result<Option<Credentials>, &'static str> {
    let text = |field: &str| entry.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Credentials::Identity(Secret(token.to_owned()))));
    }
    if let Some(token) = text("registrytoken") {
        return Ok(Some(Credentials::Bearer(Secret(token.to_owned()))));
    }
    if let Some(encoded) = text("auth") {
        let bad = "'auth' is not a user and a password in base64";
        let bytes = STANDARD_NO_PAD.decode(encoded.trim_end_matches('=')).map_err(|_| bad)?;
        let pair = String::from_utf8(bytes).map_err(|_| bad)?;
        let (user, password) = pair.split_once(':').ok_or(bad)?;
        let password = password.trim_end_matches('\0');
        return Ok(Some(Credentials::Password {
            user: user.to_owned(),
            password: Secret(password.to_owned()),
        }));
    }
    match (text("username"), text("password")) {
        (Some(user), Some(password)) => {
            Ok(Some(Credentials::Password { user: user.to_owned(), password: Secret(password.to_owned()) }))
        }
        _ => Ok(None),
    }
}

/// Returns the value of an `Authorization` header for a user and a password.
pub(super) fn basic(user: &str, password: &Secret) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.0)))
}

/// Runs `docker-credential-HELPER get` and returns what it knows of `key`.
fn ask_helper(
    helper: &str,
    key: &str,
    time: Duration,
    cancel: &Cancel,
) -> Result<Option<Credentials>, String> {
    let is_name =
        helper.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if !is_name {
        return Err("not the name of a program".to_owned());
    }
    ask_program(Path::new(&format!("docker-credential-{helper}")), key, time, cancel)
}

/// Runs `program get` and returns what it knows of `key`.
fn ask_program(
    program: &Path,
    key: &str,
    time: Duration,
    cancel: &Cancel,
) -> Result<Option<Credentials>, String> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // A group of its own, so that what the helper starts ends with it.
        .process_group(0)
        .spawn()
        .map_err(|error| format!("cannot start: {error}"))?;
    let answer = talk(&mut child, key, time, cancel);
    // A helper that has answered is gone; one that has not is not waited for.
    if answer.is_err() {
        let _ = rustix::process::kill_process_group(Pid::from_child(&child), Signal::KILL);
    }
    let _ = child.kill();
    let status = child.wait().map_err(|error| format!("cannot wait: {error}"))?;
    let answer = answer?;
    let text = String::from_utf8_lossy(&answer);
    if !status.success() && !answer.trim_ascii().starts_with(b"{") {
        // Helpers write this one message, and exit with 1, for a key that they do not know.
        return match text.contains("credentials not found") {
            true => Ok(None),
            false => Err(format!("failed ({status})")),
        };
    }
    let value: Value = serde_json::from_slice(&answer).map_err(|_| "the answer is not JSON".to_owned())?;
    let field = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (user, secret) = (field("Username"), field("Secret"));
    Ok(match (&*user, &*secret) {
        (_, "") => None,
        (TOKEN_USER, _) => Some(Credentials::Identity(Secret(secret))),
        _ => Some(Credentials::Password { user, password: Secret(secret) }),
    })
}

/// Writes the key to a helper, and returns all that it writes until it closes its output.
fn talk(child: &mut Child, key: &str, time: Duration, cancel: &Cancel) -> Result<Vec<u8>, String> {
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read its input can still answer.
        let _ = input.write_all(key.as_bytes());
    }
    let Some(output) = child.stdout.take() else { return Ok(Vec::new()) };
    let (sender, answer) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = output.take(MAX_HELPER_BYTES).read_to_end(&mut bytes);
        let _ = sender.send(read.map(|_| bytes));
    });
    let started = Instant::now();
    loop {
        let left = time.saturating_sub(started.elapsed());
        match answer.recv_timeout(left.min(CANCEL_CHECK)) {
            Ok(Ok(bytes)) => return Ok(bytes),
            Ok(Err(error)) => return Err(format!("cannot read its answer: {error}")),
            Err(_) if cancel.is_cancelled() => return Err("cancelled".to_owned()),
            Err(_) if left.is_zero() => return Err(format!("no answer within {} s", time.as_secs())),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { user: user.to_owned(), password: Secret(password.to_owned()) })
    }

    fn login(file: &Path) -> Login {
        Login { helper_time: Duration::from_millis(300), ..Login::new(Some(file), &Environment::default()) }
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("auth.json");
        fs::write(&path, text).unwrap();
        (home, path)
    }

    #[test]
    fn r3_the_most_specific_entry_is_used() {
        let (_home, path) = file(
            r#"{"auths": {
                "reg.test": {"auth": "aG9zdDpwMQ=="},
                "reg.test/team": {"auth": "dGVhbTpwMjp4"},
                "reg.test/team/app": {"username": "app", "password": "p3"},
                "https://index.docker.io/v1/": {"auth": "aHViOnA0"},
                "https://old.test/v2/": {"auth": "b2xkOnA1"},
                "idp.test": {"auth": "PHRva2VuPjo=", "identitytoken": "it"},
                "raw.test": {"registrytoken": "rt"},
                "empty.test": {}
            }}"#,
        );
        for (host, repository, expected) in [
            ("reg.test", "other", password("host", "p1")),
            ("reg.test", "team/x", password("team", "p2:x")),
            ("reg.test", "team/app", password("app", "p3")),
            ("reg.test", "team/app/deep", password("app", "p3")),
            ("reg.test", "teams", password("host", "p1")),
            ("docker.io", "library/nginx", password("hub", "p4")),
            ("old.test", "x", password("old", "p5")),
            ("idp.test", "x", Some(Credentials::Identity(Secret("it".into())))),
            ("raw.test", "x", Some(Credentials::Bearer(Secret("rt".into())))),
            ("empty.test", "x", None),
            ("reg.test.evil.test", "x", None),
        ] {
            assert_eq!(login(&path).find(host, repository).unwrap(), expected, "{host}/{repository}");
        }
    }

    #[test]
    fn r3_files_are_read_in_the_order_of_podman_and_docker() {
        let home = tempfile::tempdir().unwrap();
        let at = |path: &str| home.path().join(path);
        let mut environment =
            Environment { home: Some(at("home")), runtime_dir: Some(at("run")), ..Environment::default() };
        let user = |environment: &Environment| {
            let found = Login::new(None, environment).find("reg.test", "app").unwrap();
            found.map(|credentials| credentials.user()).unwrap_or_default()
        };
        assert_eq!(user(&environment), "");
        for (path, name) in [
            ("home/.dockercfg", "four"),
            ("home/.docker/config.json", "three"),
            ("home/.config/containers/auth.json", "two"),
            ("run/containers/auth.json", "one"),
            ("docker/config.json", "docker"),
            ("named.json", "named"),
        ] {
            let entry = format!(r#"{{"reg.test": {{"username": "{name}", "password": "p"}}}}"#);
            let text = if path.ends_with("cfg") { entry } else { format!(r#"{{"auths": {entry}}}"#) };
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), text).unwrap();
            match name {
                "docker" => environment.docker_config = Some(at("docker")),
                "named" => environment.auth_file = Some(at(path)),
                _ => {}
            }
            assert_eq!(user(&environment), name);
        }
        environment.auth_file = Some(at("gone.json"));
        let error = Login::new(None, &environment).find("reg.test", "app").unwrap_err().to_string();
        assert!(error.contains("gone.json"), "{error}");
    }

    #[test]
    fn r3_a_damaged_file_is_an_error_that_quotes_nothing() {
        for text in [
            "{\"auths\": {\"reg.test\": {\"auth\": \"aHVudGVyMg==\"",
            r#"{"auths": {"reg.test": {"auth": "aHVudGVyMg=="}}}"#,
        ] {
            let (_home, path) = file(text);
            let error = login(&path).find("reg.test", "x").unwrap_err().to_string();
            assert!(error.contains("auth.json") && !error.contains("unter"), "{error}");
            assert!(!error.contains("aHVu"), "{error}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!("{:?}", password("eve", "hunter2"));
        assert!(shown.contains("eve") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn r3_a_helper_is_asked_each_time_and_has_ten_seconds() {
        assert_eq!(Login::new(None, &Environment::default()).helper_time, Duration::from_secs(10));
        let bin = tempfile::tempdir().unwrap();
        let ask = |script: &str| {
            let path = bin.path().join("docker-credential-test");
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            ask_program(&path, "reg.test", Duration::from_millis(500), &Cancel::default())
        };
        let identity = Some(Credentials::Identity(Secret("t".into())));
        for (script, expected) in [
            (
                r#"read -r key; echo "{\"Username\":\"$key\",\"Secret\":\"$1\"}""#,
                Ok(password("reg.test", "get")),
            ),
            (r#"echo '{"Username":"<token>","Secret":"t"}'"#, Ok(identity)),
            ("echo 'credentials not found in native keychain'; exit 1", Ok(None)),
            ("echo 'vault is locked hunter2'; exit 1", Err("failed (exit status: 1)".to_owned())),
            ("echo 'hunter2'", Err("the answer is not JSON".to_owned())),
            ("exec sleep 60", Err("no answer within 0 s".to_owned())),
        ] {
            assert_eq!(ask(script), expected, "{script}");
        }
        let no_name = ask_helper("../x", "reg.test", HELPER_TIME, &Cancel::default());
        assert_eq!(no_name, Err("not the name of a program".to_owned()));
    }

    #[test]
    fn r3_what_a_helper_starts_ends_with_it() {
        let bin = tempfile::tempdir().unwrap();
        let (program, note) = (bin.path().join("docker-credential-test"), bin.path().join("pid"));
        let script = format!("#!/bin/sh\nsleep 60 &\necho $! > {}\nwait\n", note.display());
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let is_gone = || {
            let pid = fs::read_to_string(&note).unwrap();
            // A process that was killed and not yet waited for is a zombie.
            (0..100).any(|_| {
                std::thread::sleep(Duration::from_millis(20));
                let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
                stat.is_empty() || stat.contains(") Z ")
            })
        };
        let late = ask_program(&program, "reg.test", Duration::from_millis(500), &Cancel::default());
        assert_eq!((late, is_gone()), (Err("no answer within 0 s".to_owned()), true));
        let cancel = Cancel::default();
        std::thread::scope(|threads| {
            let asked = threads.spawn(|| ask_program(&program, "reg.test", HELPER_TIME, &cancel));
            std::thread::sleep(Duration::from_millis(300));
            cancel.cancel();
            assert_eq!(asked.join().unwrap(), Err("cancelled".to_owned()));
        });
        assert!(is_gone());
    }
}
