//! HTTP requests over a unix socket, as far as the API of an engine needs them.
//!
//! This module owns the request that is sent, the limits and timeouts of an answer, and where its body ends.
//! It must not know what is asked for. Each request has a connection of its own and asks the server to close
//! it. HTTP/1.1 is used although HTTP/1.0 would be simpler: a body of 1.1 has a length or a last chunk, so a
//! body that was cut off is noticed. Source: RFC 9112.

use std::io::{self, BufReader, Chain, Cursor, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Error, Result, Subject};

/// Maximum length of the status line and the headers of an answer, in bytes. Engines send less than 1 KiB.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Maximum number of headers. Engines send about ten.
const MAX_HEADERS: usize = 100;
/// Maximum length of the line before a chunk, and of the lines after the last one, in bytes.
const MAX_CHUNK_LINE_BYTES: usize = 4096;
/// Bytes that are read from the connection at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// How long a server may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// For accepting the connection and taking the request.
    pub(super) connect: Duration,
    /// For the next bytes of a body.
    pub(super) silence: Duration,
}

/// A server behind a unix socket.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) socket: PathBuf,
    pub(super) timeouts: Timeouts,
}

/// An answer whose body is not read yet.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The words after the status, escaped; can be empty.
    pub(super) reason: String,
    pub(super) body: Body,
}

impl Server {
    /// Returns the subject of errors.
    pub(super) fn subject(&self) -> Subject {
        Subject::Socket(self.socket.clone())
    }

    /// Sends `GET target`, and reads the status and headers of the answer, which must arrive within `patience`.
    /// `target` is a path of visible ASCII characters.
    ///
    /// # Errors
    /// [`Error::Io`] when the server cannot be reached or does not answer in time, and [`Error::Malformed`] for
    /// an answer that is not HTTP.
    pub(super) fn get(&self, target: &str, patience: Duration) -> Result<Answer> {
        debug_assert!(target.bytes().all(|c| c.is_ascii_graphic()), "{target:?}");
        let connect = || connect(&self.socket, self.timeouts.connect);
        let mut stream =
            connect().map_err(|cause| Error::io_on("cannot connect to", self.subject(), in_words(cause)))?;
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: imgmount\r\nConnection: close\r\n\r\n"
        );
        let sent = stream.write_all(request.as_bytes());
        sent.map_err(|cause| Error::io_on("cannot send a request to", self.subject(), in_words(cause)))?;
        let head = read_head(&mut stream, patience).map_err(|fault| self.error(fault))?;
        let silence = stream.set_read_timeout(Some(self.timeouts.silence));
        silence.map_err(|cause| Error::io_on("cannot read the answer of", self.subject(), cause))?;
        let stream = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(head.unread).chain(stream));
        let body = Body { stream, framing: head.framing };
        Ok(Answer { status: head.status, reason: head.reason, body })
    }

    fn error(&self, fault: HeadFault) -> Error {
        match fault {
            HeadFault::Io(cause) => {
                Error::io_on("cannot read the answer of", self.subject(), in_words(cause))
            }
            HeadFault::NotHttp(reason) => Error::malformed(self.subject(), reason),
            HeadFault::TooLong(found) => {
                Error::limit(self.subject(), "MAX_HEAD_BYTES", found as u64, MAX_HEAD_BYTES as u64)
            }
        }
    }
}

/// Connects to `socket` within `patience`.
fn connect(socket: &Path, patience: Duration) -> io::Result<UnixStream> {
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // A server whose queue is full would keep a connection waiting.
    set_socket_timeout(&fd, Timeout::Send, Some(patience))?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(socket)?)?;
    Ok(UnixStream::from(fd))
}

/// Returns a timeout as an error that says so; the system reports "resource temporarily unavailable".
fn in_words(cause: io::Error) -> io::Error {
    match cause.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
        _ => cause,
    }
}

/// Status and headers of an answer.
struct Head {
    status: u16,
    reason: String,
    framing: Framing,
    /// Bytes of the body that arrived with the headers.
    unread: Vec<u8>,
}

enum HeadFault {
    Io(io::Error),
    NotHttp(String),
    TooLong(usize),
}

/// Where a body ends.
#[derive(Debug, Clone, Copy)]
enum Framing {
    /// After this number of bytes.
    Length(u64),
    /// After the last chunk. `left` bytes of the current chunk are not read yet.
    Chunked { left: u64, is_first: bool },
    /// The end was reached.
    Ended,
}

fn read_head(stream: &mut UnixStream, patience: Duration) -> Result<Head, HeadFault> {
    let start = Instant::now();
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        // A server that sends byte by byte must not wait longer than one that sends nothing.
        let left = patience.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).map_err(HeadFault::Io)?;
        let count = match stream.read(&mut piece) {
            Ok(count) => count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(HeadFault::Io(cause)),
        };
        let read = piece.get(..count).unwrap_or_default();
        if read.is_empty() {
            return Err(HeadFault::NotHttp("the answer ended before its headers did".to_owned()));
        }
        bytes.extend_from_slice(read);
        if read.contains(&b'\n')
            && let Some(head) = parse_head(&bytes)?
        {
            return Ok(head);
        }
        if bytes.len() > MAX_HEAD_BYTES {
            return Err(HeadFault::TooLong(bytes.len()));
        }
        if start.elapsed() >= patience {
            return Err(HeadFault::Io(io::ErrorKind::WouldBlock.into()));
        }
    }
}

/// Parses status and headers; `None` if more bytes are needed.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, HeadFault> {
    let not_http = |reason: String| HeadFault::NotHttp(format!("the answer is not valid HTTP: {reason}"));
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|cause| not_http(cause.to_string()))?;
    let httparse::Status::Complete(len) = parsed else { return Ok(None) };
    let status = response.code.unwrap_or_default();
    let reason = crate::path::escape(response.reason.unwrap_or_default().as_bytes());
    let framing = framing(status, response.headers).map_err(not_http)?;
    let unread = bytes.get(len..).unwrap_or_default().to_vec();
    Ok(Some(Head { status, reason, framing, unread }))
}

fn framing(status: u16, headers: &[httparse::Header<'_>]) -> Result<Framing, String> {
    let values = |name: &str| {
        let named = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value.trim_ascii()).collect::<Vec<_>>()
    };
    if matches!(status, 100..=199 | 204 | 304) {
        return Ok(Framing::Length(0));
    }
    match values("transfer-encoding").as_slice() {
        [] => {}
        [encoding] if encoding.eq_ignore_ascii_case(b"chunked") => {
            return Ok(Framing::Chunked { left: 0, is_first: true });
        }
        _ => return Err("the transfer encoding is not 'chunked'".to_owned()),
    }
    let lengths = values("content-length");
    let Some((length, others)) = lengths.split_first() else {
        return Err("the body has neither a length nor chunks, so its end cannot be found".to_owned());
    };
    let is_number = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(length).ok().and_then(|length| length.parse().ok());
    match number {
        Some(number) if is_number && others.iter().all(|other| other == length) => {
            Ok(Framing::Length(number))
        }
        _ => Err("the length of the body is not a number".to_owned()),
    }
}

/// The body of an answer. Reading fails if the connection ends before the body does.
#[derive(Debug)]
pub(super) struct Body {
    /// The bytes that arrived with the headers, and then the connection.
    stream: BufReader<Chain<Cursor<Vec<u8>>, UnixStream>>,
    framing: Framing,
}

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if let Framing::Chunked { left: 0, is_first } = self.framing {
            self.framing = self.next_chunk(is_first)?;
        }
        let left = match self.framing {
            Framing::Length(left) | Framing::Chunked { left, .. } => left,
            Framing::Ended => 0,
        };
        if left == 0 {
            return Ok(0);
        }
        let wanted = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.read_some(buf.get_mut(..wanted).unwrap_or_default())?;
        if count == 0 {
            return Err(cut_off());
        }
        let left = left.saturating_sub(count as u64);
        self.framing = match self.framing {
            Framing::Chunked { .. } => Framing::Chunked { left, is_first: false },
            _ => Framing::Length(left),
        };
        Ok(count)
    }
}

impl Body {
    /// Reads bytes of the connection; 0 at its end.
    fn read_some(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf).map_err(in_words)
    }

    /// Reads the line before a chunk, and after the last chunk all lines that follow.
    fn next_chunk(&mut self, is_first: bool) -> io::Result<Framing> {
        if !is_first && !self.line()?.is_empty() {
            return Err(bad_chunk());
        }
        let line = self.line()?;
        let digits = line.split(|c| *c == b';').next().unwrap_or_default().trim_ascii();
        let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
        let digits = std::str::from_utf8(digits).ok().filter(|_| is_number);
        let left = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or_else(bad_chunk)?;
        if left > 0 {
            return Ok(Framing::Chunked { left, is_first: false });
        }
        for _ in 0..MAX_HEADERS {
            if self.line()?.is_empty() {
                return Ok(Framing::Ended);
            }
        }
        Err(bad_chunk())
    }

    /// Reads a line, without its end.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.len() <= MAX_CHUNK_LINE_BYTES {
            match self.read_some(&mut byte) {
                Ok(0) => return Err(cut_off()),
                Ok(_) if byte == *b"\n" => {
                    let line = line.strip_suffix(b"\r").unwrap_or(&line);
                    return Ok(line.to_vec());
                }
                Ok(_) => line.extend_from_slice(&byte),
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause),
            }
        }
        Err(bad_chunk())
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed before the end of the answer")
}

fn bad_chunk() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the chunks of the answer are not valid HTTP")
}
