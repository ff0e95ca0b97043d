//! Tests of the requests that are sent, and of answers that no engine would give.

use std::io::{Cursor, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::thread;

use tempfile::TempDir;

use super::*;

/// Timeouts for servers that answer at once.
const PATIENT: Timeouts = Timeouts { connect: Duration::from_secs(60), silence: Duration::from_secs(60) };

/// A server that gives fixed answers, one for each connection. The last one is given again and again.
struct Double {
    _dir: TempDir,
    server: Server,
    requests: mpsc::Receiver<String>,
}

impl Double {
    fn new(answers: &[&[u8]]) -> Self {
        let dir = TempDir::new().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let answers: Vec<Vec<u8>> = answers.iter().map(|answer| answer.to_vec()).collect();
        let (send, requests) = mpsc::channel();
        // Ends with the process: the listener waits for connections.
        thread::spawn(move || {
            for (at, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let Some(request) = read_request(&mut stream) else { continue };
                let Some(answer) = answers.get(at).or(answers.last()) else { return };
                // The client may have closed the connection after it saw enough.
                let _ = stream.write_all(answer);
                if send.send(request).is_err() {
                    return;
                }
            }
        });
        Double { _dir: dir, server: Server { socket, timeouts: PATIENT }, requests }
    }

    fn source(&self) -> DockerDaemon {
        let spool_dirs = vec![std::env::temp_dir()];
        DockerDaemon::new(self.server.clone(), &OpenOptions { spool_dirs, ..OpenOptions::default() })
    }

    /// Opens the image `x` and returns the error.
    fn refusal(&self) -> String {
        self.source().image(&Selection::Name("x".to_owned()), None).unwrap_err().to_string()
    }
}

fn read_request(stream: &mut UnixStream) -> Option<String> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        request.extend_from_slice(&byte);
    }
    String::from_utf8(request).ok()
}

/// Returns an answer with a length.
fn answer(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Returns an answer in chunks of these lengths, and the rest in one.
fn in_chunks(body: &[u8], lengths: &[usize]) -> Vec<u8> {
    let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let mut rest = body;
    for length in lengths.iter().chain([&body.len()]) {
        let (chunk, after) = rest.split_at((*length).min(rest.len()));
        if !chunk.is_empty() {
            write!(answer, "{:X};name=value\r\n", chunk.len()).unwrap();
            answer.extend_from_slice(chunk);
            answer.extend_from_slice(b"\r\n");
        }
        rest = after;
    }
    answer.extend_from_slice(b"0\r\nTrailer: 1\r\n\r\n");
    answer
}

const ID: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// The answer to a question about one image.
fn inspected() -> Vec<u8> {
    answer("200 OK", format!(r#"{{"Id":"{ID}","RepoTags":["x:1","x:2"]}}"#).as_bytes())
}

/// A docker-archive with one image of one layer, as an engine sends it.
fn archive() -> Vec<u8> {
    let hex = |bytes: &[u8]| crate::digest::Algorithm::Sha256.digest(bytes).hex();
    let layer = b"layer";
    let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#, hex(layer));
    let manifest = br#"[{"Config":"config.json","RepoTags":null,"Layers":["layer.tar"]}]"#;
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in
        [("config.json", config.as_bytes()), ("layer.tar", layer), ("manifest.json", manifest)]
    {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, Cursor::new(bytes)).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn f42_an_image_is_fetched_by_its_id_and_keeps_all_its_names() {
    let archive = archive();
    for sent in [answer("200 OK", &archive), in_chunks(&archive, &[]), in_chunks(&archive, &[1, 2, 3000])] {
        let double = Double::new(&[&inspected(), &sent, &inspected()]);
        let source = double.source();
        let select = Selection::Name("x".to_owned());
        let image = source.image(&select, None).unwrap();
        assert_eq!(image.info.names, ["x:1", "x:2"]);
        assert_eq!(crate::read_at::read_to_vec(&*image.layers[0].bytes).unwrap(), b"layer");
        // The archive is not fetched again.
        source.survey(&select, None).unwrap();
        let lines: Vec<_> = (0..3).map(|_| double.requests.recv().unwrap()).collect();
        let lines: Vec<_> = lines.iter().map(|request| request.lines().next().unwrap()).collect();
        let question = "GET /images/x/json HTTP/1.1";
        assert_eq!(lines, [question, &format!("GET /images/{ID}/get HTTP/1.1"), question]);
    }
}

#[test]
fn f43_a_body_that_is_cut_off_is_an_error() {
    let archive = archive();
    for sent in [answer("200 OK", &archive), in_chunks(&archive, &[1000, 1]), in_chunks(&archive, &[])] {
        let head = sent.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        for end in [head, head + 1, head + 2, sent.len() / 2, sent.len() - 30, sent.len() - 1] {
            let double = Double::new(&[&inspected(), &sent[..end]]);
            let error = double.refusal();
            assert!(error.contains("closed before the end of the answer"), "{end}: {error}");
        }
    }
}

/// Docker reports an error in the middle of an archive by a line of JSON at its end.
#[test]
fn f43_an_archive_that_ends_with_a_message_is_an_error() {
    let message = br#"{"errorDetail":{"message":"open x: gone"},"error":"open x: gone"}"#;
    let body = [&archive()[..1536], message, b"\r\n"].concat();
    let error = Double::new(&[&inspected(), &answer("200 OK", &body)]).refusal();
    assert!(error.starts_with("the image was not sent completely by the engine at"), "{error}");
    assert!(error.ends_with(": open x: gone"), "{error}");
}

#[test]
fn f43_an_answer_that_is_not_http_is_an_error() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let header = |header: &str| format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n{{}}");
    let many = "A: 1\r\n".repeat(200);
    for (sent, why) in [
        (String::new(), "the answer ended before its headers did"),
        ("HTTP/1.1 200 OK\r\nContent-".to_owned(), "the answer ended before its headers did"),
        ("SSH-2.0-OpenSSH\r\n\r\n".to_owned(), "not valid HTTP"),
        ("\0\0\n\n".to_owned(), "not valid HTTP"),
        (header("no colon"), "not valid HTTP"),
        (header(many.trim_end()), "not valid HTTP: too many headers"),
        (header("A: 1"), "neither a length nor chunks"),
        (header("Content-Length: -1"), "not a number"),
        (header("Content-Length: +2"), "not a number"),
        (header("Content-Length: 99999999999999999999"), "not a number"),
        (header("Content-Length: 1\r\nContent-Length: 2"), "not a number"),
        (header("Transfer-Encoding: gzip, chunked"), "not 'chunked'"),
        (format!("{chunked}{{}}\r\n"), "chunks of the answer are not valid"),
        (format!("{chunked}-1\r\n"), "chunks of the answer are not valid"),
        (format!("{chunked}11111111111111111\r\n"), "chunks of the answer are not valid"),
        (format!("{chunked}1\r\n{{}}\r\n"), "chunks of the answer are not valid"),
        (format!("{chunked}1{}", "0".repeat(10_000)), "chunks of the answer are not valid"),
        (format!("{chunked}0\r\n{many}\r\n"), "chunks of the answer are not valid"),
    ] {
        let error = Double::new(&[sent.as_bytes()]).refusal();
        assert!(error.contains(why), "{sent:.80}: {error}");
    }
}

#[test]
fn f43_headers_without_end_exceed_a_limit() {
    let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(100_000));
    let error = Double::new(&[endless.as_bytes()]).refusal();
    assert!(error.contains("exceeds the limit MAX_HEAD_BYTES"), "{error}");
}

#[test]
fn f43_a_list_without_end_exceeds_a_limit() {
    let list = vec![b' '; usize::try_from(MAX_ENGINE_ANSWER_BYTES).unwrap() + 1];
    let error = Double::new(&[&answer("200 OK", &list)]).source().images().unwrap_err();
    assert!(error.to_string().contains("exceeds the limit MAX_ENGINE_ANSWER_BYTES"), "{error}");
}

#[test]
fn f43_an_error_of_the_engine_is_shown() {
    for (status, body, shown) in [
        (
            "500 Internal Server Error",
            r#"{"message":"out of\u001b memory"}"#,
            r"status 500: out of\x1b memory",
        ),
        ("503 Later", "", "status 503: Later"),
        ("403 Forbidden", "<html>", "status 403: <html>"),
        ("301 Moved", "", "status 301: Moved; redirects are not followed"),
        ("204 No Content", "", "status 204: No Content"),
    ] {
        let error = Double::new(&[&answer(status, body.as_bytes())]).refusal();
        assert!(error.starts_with("request refused by the engine at '"), "{error}");
        assert!(error.ends_with(shown), "{error}");
    }
}

#[test]
fn f42_a_name_that_the_engine_does_not_know_is_answered_with_its_names() {
    let unknown = answer("404 Not Found", br#"{"message":"No such image: x:latest"}"#);
    let list =
        answer("200 OK", format!(r#"[{{"Id":"{ID}","RepoTags":["a:1","<none>:<none>"]}}]"#).as_bytes());
    let double = Double::new(&[&unknown, &list]);
    let error = double.refusal();
    let place = double.server.socket.display();
    assert_eq!(error, format!("'{place}' holds no image 'x'; available:\n  a:1"));
}

/// An engine of another kind, or a hostile one, could answer a question with any document.
#[test]
fn f43_an_answer_of_another_form_is_an_error() {
    for body in ["", "[]", "{}", r#"{"Id":1}"#, r#"{"Id":"x"}"#, r#"{"Id":"sha256:../../x"}"#, "{"] {
        let error = Double::new(&[&answer("200 OK", body.as_bytes())]).refusal();
        assert!(!error.is_empty(), "{body}");
    }
    let error = Double::new(&[&inspected(), &answer("200 OK", b"no tar")]).refusal();
    assert!(error.starts_with(&format!("'docker-daemon:{ID}': not a container image")), "{error}");
}

#[test]
fn f43_a_name_is_never_a_part_of_the_request_line() {
    for (name, target) in [
        ("a/b:1.0", "/images/a/b:1.0/json"),
        ("a@sha256:00", "/images/a@sha256:00/json"),
        ("a HTTP/1.1\r\nHost: b\r\n\r\nGET /", ""),
        ("x\r\nX-Y: 1", "/images/x%0D%0AX-Y:%201/json"),
        ("x?force=1&y#z", "/images/x%3Fforce%3D1%26y%23z/json"),
        ("x%2F..%2Fy", "/images/x%252F..%252Fy/json"),
        ("caf\u{e9}\u{0}", "/images/caf%C3%A9%00/json"),
    ] {
        let double = Double::new(&[&answer("404 Not Found", b"")]);
        let error = double.source().image(&Selection::Name(name.to_owned()), None);
        assert!(error.is_err(), "{name:?}");
        if target.is_empty() {
            // A name that ends in a slash is refused, and nothing is sent.
            assert!(double.requests.try_recv().is_err(), "{name:?}");
            continue;
        }
        let request = double.requests.recv().unwrap();
        let expected = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: imgmount\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(request, expected);
    }
    for name in ["", ".", "..", "../containers/json", "a/../../b", "a//b", "/a", "a/"] {
        assert!(check_name(name).is_err(), "{name:?}");
    }
}

#[test]
fn f43_a_silent_server_is_left_after_a_while() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let brief = Duration::from_millis(50);
    let server = Server { socket, timeouts: Timeouts { connect: brief, silence: brief } };
    let times_out = |error: Error| {
        assert!(matches!(&error, Error::Io { cause, .. } if cause.kind() == std::io::ErrorKind::TimedOut));
        assert!(error.to_string().ends_with("no answer in time"), "{error}");
    };
    // Nobody accepts the connection; the kernel keeps it in the queue of the listener.
    times_out(server.get("/", brief).unwrap_err());
    // The headers arrive, and the body does not.
    let answering = thread::spawn(move || {
        let mut first = listener.accept().unwrap().0;
        let mut second = listener.accept().unwrap().0;
        first.write_all(b"").unwrap();
        second.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").unwrap();
        [first, second]
    });
    let mut body = server.get("/", Duration::from_secs(60)).unwrap().body;
    let mut read = Vec::new();
    let error = body.read_to_end(&mut read).unwrap_err();
    assert_eq!((read.as_slice(), error.kind()), (&b"ab"[..], std::io::ErrorKind::TimedOut));
    answering.join().unwrap();
}

#[test]
fn f42_the_socket_is_that_of_docker_host_or_the_first_usual_one_that_exists() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    let runtime_dir = dir.path().join("run-user");
    let mut environment = Environment::default();
    environment.root.clone_from(&root);
    environment.runtime_dir = Some(runtime_dir.clone());
    let usual = [
        root.join("run/podman/podman.sock"),
        runtime_dir.join("podman/podman.sock"),
        root.join("var/run/docker.sock"),
    ];
    let error = socket(&environment).unwrap_err().to_string();
    assert!(usual.iter().all(|path| error.contains(&path.display().to_string())), "{error}");
    // A file or directory in the place of a socket is not a socket.
    std::fs::create_dir_all(&usual[2]).unwrap();
    assert!(socket(&environment).is_err());
    std::fs::remove_dir(&usual[2]).unwrap();
    for path in usual {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        UnixListener::bind(&path).unwrap();
        assert_eq!(socket(&environment).unwrap(), path);
    }
    for (host, found) in [
        ("unix:///x/y.sock", Some("/x/y.sock".into())),
        ("unix://", Some(root.join("var/run/docker.sock"))),
        ("", Some(root.join("var/run/docker.sock"))),
        ("tcp://127.0.0.1:2375", None),
        ("ssh://host", None),
        ("/x/y.sock", None),
    ] {
        environment.docker_host = Some(host.to_owned());
        match (socket(&environment), found) {
            (Ok(path), Some(found)) => assert_eq!(path, found, "{host}"),
            (Err(error), None) => assert!(error.to_string().contains(host), "{error}"),
            (other, found) => panic!("{host}: {other:?}, not {found:?}"),
        }
    }
}
