//! Addresses of HTTP requests: absolute `http` and `https` URLs, and what a `Location` makes of them.
//!
//! Pure. This module owns which addresses are refused, and what of an address may be shown: never the query,
//! which signs a download for whoever knows it.

use std::fmt;

/// An absolute URL without user information and fragment.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Url {
    /// True for `https`.
    pub(super) tls: bool,
    /// Host and, if it is not the default, the port; lower case.
    pub(super) host: String,
    /// Path and query; begins with a slash.
    pub(super) path: String,
}

/// The longest URL that is followed, in bytes. Signed URLs of object stores have about 2 KiB.
const MAX_URL_BYTES: usize = 16 << 10;

impl Url {
    /// Creates the URL of `path`, which begins with a slash, on `host`.
    pub(super) fn new(tls: bool, host: &str, path: &str) -> Self {
        Url { tls, host: without_default_port(tls, &host.to_ascii_lowercase()), path: path.to_owned() }
    }

    /// Parses an absolute URL; `None` if it has another scheme, user information, or characters that a
    /// request line cannot hold.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.split('#').next().unwrap_or_default();
        let (scheme, rest) = text.split_once("://")?;
        let tls = match &*scheme.to_ascii_lowercase() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at_checked(at)?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        (is_host(host) && is_path(&path)).then(|| Url::new(tls, host, &path))
    }

    /// Returns the URL that `location`, absolute or relative, names from here (RFC 3986, section 5.2);
    /// `None` if it cannot be requested.
    pub(super) fn join(&self, location: &str) -> Option<Self> {
        let location = location.split('#').next().unwrap_or_default().trim();
        let scheme = if self.tls { "https" } else { "http" };
        let (base, _) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let path = match location {
            "" => return None,
            _ if location.contains("://") && !location.starts_with(['/', '?', '.']) => {
                return Url::parse(location);
            }
            _ if location.starts_with("//") => return Url::parse(&format!("{scheme}:{location}")),
            _ if location.starts_with('/') => location.to_owned(),
            _ if location.starts_with('?') => format!("{base}{location}"),
            _ => format!("{}/{location}", base.rsplit_once('/').map_or("", |(directory, _)| directory)),
        };
        let path = without_dots(&path);
        is_path(&path).then(|| Url { path, ..self.clone() })
    }

    /// Returns the text of a request.
    pub(super) fn text(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.host, self.path)
    }

    /// Returns the host without its port.
    pub(super) fn host_name(&self) -> &str {
        host_name(&self.host)
    }
}

/// Shows the URL without its query.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "{}://{}{path}", if self.tls { "https" } else { "http" }, self.host)?;
        if self.path.contains('?') { f.write_str("?...") } else { Ok(()) }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Returns `host`, which may have a port, without the port.
pub(super) fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Returns whether `host` names this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = host_name(host);
    name == "localhost"
        || name
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Returns whether `text` is a host with an optional port: a name, an IPv4 address, or an IPv6 address in
/// brackets.
pub(super) fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (text, None),
    };
    let is_name = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            // `..` and `./app` are paths.
            let begins_as_host = name.starts_with(|first: char| first.is_ascii_alphanumeric());
            begins_as_host && name.len() <= 253 && name.bytes().all(allowed)
        }
    };
    is_name && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}

fn is_path(path: &str) -> bool {
    path.len() <= MAX_URL_BYTES
        && path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\'))
}

fn without_default_port(tls: bool, host: &str) -> String {
    let default = if tls { ":443" } else { ":80" };
    host.strip_suffix(default).unwrap_or(host).to_owned()
}

/// Removes the segments `.` and `..` from a path (RFC 3986, section 5.2.4).
fn without_dots(path: &str) -> String {
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path, None),
    };
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_directory = false;
    for segment in path.split('/').skip(1) {
        ends_in_directory = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let mut joined = format!("/{}", kept.join("/"));
    if ends_in_directory && !joined.ends_with('/') {
        joined.push('/');
    }
    query.map_or_else(|| joined.clone(), |query| format!("{joined}?{query}"))
}

/// Encodes `text` as the value of a query parameter.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_resolved_as_rfc_3986_says() {
        let base = Url::parse("https://Reg.test:5000/v2/app/blobs/sha256:00?x=1").unwrap();
        for (location, expected) in [
            ("https://cdn.test/a?sig=1", Some("https://cdn.test/a?sig=1")),
            ("//cdn.test:443/a", Some("https://cdn.test/a")),
            ("/b", Some("https://reg.test:5000/b")),
            ("b?y", Some("https://reg.test:5000/v2/app/blobs/b?y")),
            ("../manifests/./1", Some("https://reg.test:5000/v2/app/manifests/1")),
            ("../../../../../x", Some("https://reg.test:5000/x")),
            ("..", Some("https://reg.test:5000/v2/app/")),
            ("?y=2", Some("https://reg.test:5000/v2/app/blobs/sha256:00?y=2")),
            ("http://cdn.test/a#part", Some("http://cdn.test/a")),
            ("http://cdn.test:80", Some("http://cdn.test/")),
            ("/login?to=https://reg.test/", Some("https://reg.test:5000/login?to=https://reg.test/")),
            ("", None),
            ("ftp://cdn.test/a", None),
            ("https://user:word@cdn.test/a", None),
            ("https://cdn.test:0/a", None),
            ("https://[::1]:8/a", Some("https://[::1]:8/a")),
            ("https://[::x]/a", None),
            ("/a b", None),
            ("/a\r\nX: y", None),
        ] {
            let joined = base.join(location).map(|url| url.text());
            assert_eq!(joined.as_deref(), expected, "{location:?}");
        }
    }

    #[test]
    fn a_query_is_not_shown() {
        let url = Url::parse("https://cdn.test/blob?signature=secret").unwrap();
        assert_eq!(format!("{url} {url:?}"), "https://cdn.test/blob?... https://cdn.test/blob?...");
        assert_eq!(url.text(), "https://cdn.test/blob?signature=secret");
    }

    #[test]
    fn loopback_hosts_are_this_machine() {
        for (host, expected) in [
            ("localhost:5000", true),
            ("127.0.0.1", true),
            ("127.8.9.1:80", true),
            ("[::1]:5000", true),
            ("localhost.evil.test", false),
            ("127.0.0.1.evil.test", false),
            ("10.0.0.1:5000", false),
        ] {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }
}
