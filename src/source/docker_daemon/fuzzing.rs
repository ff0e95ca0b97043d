//! Fuzz target for the answers of an engine at a unix socket.

#![allow(clippy::unwrap_used, reason = "a target that finds a fault panics")]

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::http::Timeouts;
use super::{DockerDaemon, Server};
use crate::source::{ImageSource as _, OpenOptions, Selection};

/// The answers to the next connections, one each. Further connections are closed without an answer.
static ANSWERS: Mutex<VecDeque<Vec<u8>>> = Mutex::new(VecDeque::new());
/// A server in this process, and the directory of its socket.
static SERVER: LazyLock<(TempDir, Server)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || listener.incoming().for_each(|stream| serve(&mut stream.unwrap())));
    let timeouts = Timeouts { connect: Duration::from_secs(5), silence: Duration::from_secs(5) };
    (dir, Server { socket, timeouts })
});

/// Answers one request. The client may close the connection after it saw enough.
fn serve(stream: &mut UnixStream) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
        request.push(byte[0]);
    }
    assert!(request.starts_with(b"GET /images/"), "{}", request.escape_ascii());
    let answer = ANSWERS.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let _ = stream.write_all(&answer.unwrap_or_default());
    let _ = stream.shutdown(Shutdown::Both);
}

/// The first part selects the question; the others are answers.
pub(crate) fn run(parts: &[&[u8]]) {
    // One question at a time: the answers are for this one.
    static RUNNING: Mutex<()> = Mutex::new(());
    let _running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((choices, answers)) = parts.split_first() else { return };
    *ANSWERS.lock().unwrap_or_else(PoisonError::into_inner) =
        answers.iter().map(|answer| answer.to_vec()).collect();
    let (dir, server) = &*SERVER;
    let options = OpenOptions { spool_dirs: vec![dir.path().to_owned()], ..OpenOptions::default() };
    let daemon = DockerDaemon::new(server.clone(), &options);
    match choices.first().copied().unwrap_or(0) % 3 {
        0 => {
            let _ = daemon.image(&Selection::Name("x:1".to_owned()), None).is_ok();
        }
        1 => {
            let images = daemon.images().unwrap_or_default();
            for image in images.iter().take(3) {
                let _ = (image.to_string(), daemon.details(image, None).is_ok());
            }
        }
        _ => {
            let _ = daemon.survey(&Selection::Index(0), None).is_ok();
        }
    }
}
