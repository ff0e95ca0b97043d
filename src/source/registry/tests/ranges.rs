//! Answers to requests for parts of a blob.

use std::io::Read as _;
use std::ops::Range;

use super::super::blob::RemoteBlob;
use super::super::blob_fetch::BlobFetch;
use super::super::content_cache::ContentCache;
use super::super::downloads::Downloads;
use super::super::fetch::Fetch as _;
use super::*;
use crate::read_at::ReadAt;

const BLOB: &[u8] = b"0123456789";

fn fetch(setup: &Setup) -> BlobFetch {
    BlobFetch::new(setup.repository.clone(), Algorithm::Sha256.digest(BLOB), BLOB.len() as u64, false)
}

/// Fetches a range and returns the place of the answer and its bytes.
fn part(fetch: &BlobFetch, range: Range<u64>) -> Result<(u64, String), String> {
    let wait = Wait::new(Some(Duration::from_secs(60)), &Cancel::default());
    let mut found = fetch.fetch(range, false, &wait).map_err(|error| error.to_string())?;
    let mut text = String::new();
    found.body.read_to_string(&mut text).map_err(|error| error.to_string())?;
    assert_eq!(text.len() as u64, found.len_bytes);
    Ok((found.offset, text))
}

fn get(extra: &str) -> String {
    format!("GET https://reg.test/v2/app/blobs/{}{extra}", Algorithm::Sha256.digest(BLOB))
}

fn found(offset: u64, text: &str) -> Result<(u64, String), String> {
    Ok((offset, text.to_owned()))
}

#[test]
fn r6_a_part_is_taken_as_far_as_it_was_asked_for() {
    for (range, length, body, expected) in [
        ("bytes 2-4/10", "3", &b"234"[..], found(2, "234")),
        ("bytes 2-3/10", "2", b"23", found(2, "23")),
        (
            "bytes 2-4/10",
            "3",
            b"23",
            Err("'reg.test': the connection ended before the end of the blob".to_owned()),
        ),
    ] {
        let setup = Setup::new(move |_, _| {
            answer(206, &[("content-range", range), ("content-length", length)], body)
        });
        assert_eq!(part(&fetch(&setup), 2..5), expected, "{range}");
        assert_eq!(setup.requests(), [get(" range=bytes=2-4")]);
    }
}

#[test]
fn r6_after_wrong_bytes_the_registry_is_asked_before_its_mirrors() {
    let hosts = vec![Endpoint::new("mirror.test", "app"), Endpoint::new("reg.test", "app")];
    let setup = Setup::at(hosts, None, |_, _| answer(200, &[("content-length", "10")], BLOB));
    let fetch = fetch(&setup);
    let wait = Wait::new(Some(Duration::from_secs(60)), &Cancel::default());
    let mut asked = Vec::new();
    for fresh in [false, true, false] {
        fetch.fetch(0..10, fresh, &wait).unwrap();
        asked.extend(setup.requests().iter().map(|request| request.contains("https://reg.test")));
    }
    assert_eq!(asked, [false, true, true]);
}

#[test]
fn r6_a_200_is_the_whole_blob() {
    let setup = Setup::new(|_, _| answer(200, &[("content-length", "10")], BLOB));
    let fetch = fetch(&setup);
    assert_eq!(part(&fetch, 2..5), found(0, "0123456789"));
    assert_eq!(part(&fetch, 0..10), found(0, "0123456789"));
    assert_eq!(setup.requests(), [get(" range=bytes=2-4"), get("")]);
}

#[test]
fn r6_a_wrong_answer_to_a_range_makes_one_request_for_the_whole_blob() {
    for (status, headers) in [
        (206, vec![("content-range", "bytes 3-5/10")]),
        (206, vec![("content-range", "bytes 2-5/10")]),
        (206, vec![("content-range", "bytes 2-4/11")]),
        (206, vec![("content-range", "bytes 2-4/*")]),
        (206, vec![("content-range", "bytes 4-2/10")]),
        (206, vec![("content-range", "bytes 2-4/10"), ("content-length", "4")]),
        (206, vec![("content-range", "bytes 2-4/10"), ("content-encoding", "gzip")]),
        (206, vec![("content-type", "multipart/byteranges; boundary=x")]),
        (206, vec![]),
        (200, vec![("content-length", "9")]),
        (416, vec![("content-length", "100000"), ("content-range", "bytes */10")]),
    ] {
        let shown = format!("{status} {headers:?}");
        let setup = Setup::new(move |request, _| match header(request, "range") {
            Some(_) => answer(status, &headers, b"abcdef"),
            None => answer(200, &[("content-length", "10")], BLOB),
        });
        let fetch = fetch(&setup);
        assert_eq!(part(&fetch, 2..5), found(0, "0123456789"), "{shown}");
        assert_eq!(part(&fetch, 6..7), found(0, "0123456789"), "{shown}");
        assert_eq!(setup.requests(), [get(" range=bytes=2-4"), get(""), get("")], "{shown}");
    }
}

#[test]
fn r6_a_wrong_answer_to_a_whole_blob_is_an_error() {
    for (status, headers, reason) in [
        (200, [("content-length", "11")], "sends 11 bytes instead of 10"),
        (200, [("content-encoding", "gzip")], "the answer has a Content-Encoding, which was not asked for"),
        (416, [("content-length", "100000")], "answers with status 416: range not in the blob"),
        (204, [("content-length", "0")], "answers with status 204"),
    ] {
        let setup = Setup::new(move |_, _| answer(status, &headers, b""));
        assert_eq!(part(&fetch(&setup), 0..10), Err(format!("'reg.test': {reason}")));
        assert_eq!(setup.requests(), [get("")]);
    }
}

#[test]
fn r6_the_address_of_a_redirect_is_kept_until_it_is_refused() {
    for expired in [400, 401, 403, 404, 410] {
        let setup = Setup::new(move |request, number| match (request.url.host.as_str(), number) {
            ("reg.test", _) => answer(307, &[("location", &format!("https://cdn.test/b?sig={number}"))], b""),
            // The third request to the registry's redirect is one too many.
            (_, 2) => answer(expired, &[], b""),
            _ => answer(206, &[("content-range", "bytes 2-4/10")], b"234"),
        });
        let fetch = fetch(&setup);
        assert_eq!(part(&fetch, 2..5), found(2, "234"));
        assert_eq!(part(&fetch, 2..5), found(2, "234"));
        assert_eq!(part(&fetch, 2..5), found(2, "234"));
        let (own, cdn) = (get(" range=bytes=2-4"), |number| {
            format!("GET https://cdn.test/b?sig={number} range=bytes=2-4")
        });
        assert_eq!(setup.requests(), [own.clone(), cdn(0), cdn(0), own, cdn(3), cdn(3)], "{expired}");
    }
}

#[test]
fn r6_an_address_that_is_refused_at_once_is_asked_for_once_more() {
    let setup = Setup::new(|request, _| match request.url.host.as_str() {
        "reg.test" => answer(307, &[("location", "https://cdn.test/b")], b""),
        _ => answer(403, &[], b""),
    });
    assert_eq!(
        part(&fetch(&setup), 0..10),
        Err("'cdn.test': the registry redirects to this host, which answers with status 403".to_owned())
    );
    assert_eq!(setup.requests().len(), 4);
}

#[test]
fn r6_a_fresh_part_passes_caches() {
    let setup = Setup::new(|_, _| answer(206, &[("content-range", "bytes 2-4/10")], b"234"));
    let wait = Wait::new(None, &Cancel::default());
    fetch(&setup).fetch(2..5, true, &wait).unwrap();
    assert_eq!(setup.requests(), [get(" range=bytes=2-4 cache-control=no-cache")]);
}

#[test]
fn r6_offline_no_request_is_made() {
    let setup = Setup::new(|_, _| answer(200, &[], BLOB));
    let digest = Algorithm::Sha256.digest(BLOB);
    let fetch = BlobFetch::new(setup.repository.clone(), digest, 10, true);
    let missing = format!("blob {digest} is not in the cache, and --offline allows no request");
    assert_eq!(part(&fetch, 0..10), Err(missing));
    assert_eq!(setup.requests().len(), 0);
}

#[test]
fn r6_a_stream_that_breaks_goes_on_where_it_broke() {
    let setup = Setup::new(|request, number| {
        let start = header(request, "range").map_or(0, |range| range[6..range.len() - 2].parse().unwrap());
        let range = format!("bytes {start}-9/10");
        let headers = [("content-range", &*range)];
        // The first three answers end after three bytes each.
        let end = if number < 3 { (start + 3).min(10) } else { 10 };
        let status = if request.headers.iter().any(|(name, _)| name == "range") { 206 } else { 200 };
        answer(status, if status == 206 { &headers } else { &[] }, &BLOB[start..end])
    });
    let cache = ContentCache::new(None, 0);
    let downloads = Downloads::new(cache, Duration::from_secs(60), Cancel::default());
    let digest = Algorithm::Sha256.digest(BLOB);
    let blob = Arc::new(RemoteBlob::new(Arc::new(fetch(&setup)), digest, &downloads));
    let mut text = String::new();
    Arc::clone(&blob).stream(0..10).read_to_string(&mut text).unwrap();
    assert_eq!(text, "0123456789");
    let from = |start| get(&format!(" range=bytes={start}-9"));
    assert_eq!(setup.requests(), [get(""), from(3), from(6), from(9)]);
    let mut two = [0; 2];
    blob.read_exact_at(&mut two, 8).unwrap();
    assert_eq!(&two, b"89");
    assert!(blob.read_exact_at(&mut two, 9).is_err());
}
