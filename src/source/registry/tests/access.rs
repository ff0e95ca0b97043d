//! Tokens, credentials, redirects and mirrors.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const CHALLENGE: &str = r#"Basic realm="x", Bearer realm="https://auth.test/token",service="reg.test",scope="repository:app:pull""#;
const TOKEN_REQUEST: &str = "GET https://auth.test/token?service=reg.test&scope=repository%3Aapp%3Apull";

fn auth_file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("auth.json");
    fs::write(&path, text).unwrap();
    (home, path)
}

fn entry(user_and_password: &str) -> String {
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(user_and_password);
    format!(r#"{{"auths": {{"reg.test": {{"auth": "{auth}"}}}}}}"#)
}

/// Answers as a registry that accepts only the token `accepted`, and a token server that gives out `token-N`
/// for the Nth request.
fn registry(accepted: &'static str) -> impl Fn(&Request, usize) -> Result<Response, Fault> + Send + Sync {
    let given = Mutex::new(0);
    move |request, _| match request.url.host.as_str() {
        "auth.test" => {
            let mut given = given.lock().unwrap();
            *given += 1;
            answer(200, &[], format!(r#"{{"token": "token-{given}", "expires_in": 300}}"#).as_bytes())
        }
        _ if header(request, "authorization") == Some(&format!("Bearer {accepted}")) => {
            answer(200, &[], b"{}")
        }
        _ => answer(401, &[("www-authenticate", CHALLENGE)], b""),
    }
}

#[test]
fn r3_a_token_is_requested_once_and_used_for_all_requests() {
    let setup = Setup::new(registry("token-1"));
    assert_eq!(setup.manifest().unwrap(), b"{}");
    assert_eq!(setup.manifest().unwrap(), b"{}");
    let with_token = format!("{} authorization=Bearer token-1", get_manifest("reg.test"));
    assert_eq!(
        setup.requests(),
        [get_manifest("reg.test"), TOKEN_REQUEST.to_owned(), with_token.clone(), with_token]
    );
}

#[test]
fn r3_eight_readers_that_are_refused_at_once_request_one_token() {
    let is_second = Arc::new(AtomicBool::new(false));
    let setup = Setup::new({
        let (given, barrier) = (Mutex::new(0), std::sync::Barrier::new(8));
        let is_second = is_second.clone();
        move |request, _| {
            if request.url.host == "auth.test" {
                let mut given = given.lock().unwrap();
                *given += 1;
                return answer(200, &[], format!(r#"{{"access_token": "token-{given}"}}"#).as_bytes());
            }
            let accepted = if is_second.load(Ordering::SeqCst) { "Bearer token-2" } else { "Bearer token-1" };
            if header(request, "authorization") == Some(accepted) {
                return answer(200, &[], b"{}");
            }
            // All eight have sent their requests before any of them is refused.
            barrier.wait();
            answer(401, &[("www-authenticate", CHALLENGE)], b"")
        }
    });
    // First without a token, then with one that is no longer accepted.
    for second in [false, true] {
        is_second.store(second, Ordering::SeqCst);
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| setup.manifest().unwrap());
            }
        });
        let requests = setup.requests();
        let tokens = requests.iter().filter(|request| request.contains("auth.test")).count();
        assert_eq!((tokens, requests.len()), (1, 17), "{requests:?}");
    }
}

#[test]
fn r3_credentials_are_read_again_when_they_are_refused() {
    let (_home, path) = auth_file(&entry("eve:old"));
    let changing = path.clone();
    let setup = Setup::at(vec![Endpoint::new("reg.test", "app")], Some(&path), move |request, number| {
        if number == 1 {
            fs::write(&changing, entry("eve:new")).unwrap();
        }
        match header(request, "authorization") {
            Some("Basic ZXZlOm5ldw==") => answer(200, &[], b"{}"),
            _ => answer(401, &[("www-authenticate", "Basic realm=\"x\"")], b""),
        }
    });
    assert_eq!(setup.manifest().unwrap(), b"{}");
    let get = get_manifest("reg.test");
    let with = |value: &str| format!("{get} authorization=Basic {value}");
    assert_eq!(setup.requests(), [get.clone(), with("ZXZlOm9sZA=="), with("ZXZlOm5ldw==")]);
    fs::write(&path, entry("eve:other")).unwrap();
    assert_eq!(setup.manifest().unwrap(), b"{}", "the header is kept");
    assert_eq!(setup.requests().len(), 1);
}

#[test]
fn r3_access_that_is_denied_names_host_and_user_and_is_not_asked_for_again() {
    let (_home, path) = auth_file(&entry("eve:old"));
    for status in [401, 403] {
        let setup = Setup::at(vec![Endpoint::new("reg.test", "app")], Some(&path), move |_, number| {
            let status = if number == 0 { 401 } else { status };
            answer(status, &[("www-authenticate", "Basic realm=\"x\"")], b"")
        });
        let denied = NetError::Denied { host: "reg.test".into(), user: Some("eve".into()) };
        assert_eq!(setup.manifest(), Err(denied));
        assert_eq!(setup.requests().len(), 2, "{status}");
    }
}

#[test]
fn r3_an_identity_token_is_exchanged_and_goes_to_the_token_server_alone() {
    let (_home, path) = auth_file(r#"{"auths": {"reg.test": {"identitytoken": "idt&1"}}}"#);
    let setup = Setup::at(vec![Endpoint::new("reg.test", "app")], Some(&path), registry("token-1"));
    assert_eq!(setup.manifest().unwrap(), b"{}");
    let requests = setup.requests();
    assert_eq!(
        requests[1],
        "POST https://auth.test/token grant_type=refresh_token&service=reg.test&client_id=imgmount\
         &scope=repository%3Aapp%3Apull&refresh_token=idt%261"
    );
    let elsewhere = requests.iter().filter(|request| request.contains("idt")).count();
    assert_eq!((elsewhere, requests.len()), (1, 3));
}

/// Runs that share a cache directory with the challenge of `https://auth.test/token`, as [`registry`] makes it.
fn after_a_run() -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("cache");
    let first = later(&cache, None, registry("token-1"));
    assert_eq!(first.manifest().unwrap(), b"{}");
    assert_eq!(first.requests().len(), 3);
    (home, cache)
}

fn later(
    cache: &Path,
    auth_file: Option<&Path>,
    answer: impl Fn(&Request, usize) -> Result<Response, Fault> + Send + Sync + 'static,
) -> Setup {
    Setup::keeping(vec![Endpoint::new("reg.test", "app")], auth_file, Some(cache.to_owned()), answer)
}

#[test]
fn r3_the_next_run_asks_the_token_server_at_once() {
    let (_home, cache) = after_a_run();
    let next = later(&cache, None, registry("token-1"));
    assert_eq!(next.manifest().unwrap(), b"{}");
    let with_token = format!("{} authorization=Bearer token-1", get_manifest("reg.test"));
    assert_eq!(next.requests(), [TOKEN_REQUEST.to_owned(), with_token]);
    // The host makes another challenge by now: it decides.
    let (moved, get) = ("Bearer realm=\"https://new.test/token\"", get_manifest("reg.test"));
    let answers = move |request: &Request, _: usize| match request.url.host.as_str() {
        "auth.test" => answer(404, &[], b""),
        "new.test" => answer(200, &[], br#"{"token": "new"}"#),
        _ if header(request, "authorization") == Some("Bearer new") => answer(200, &[], b"{}"),
        _ => answer(401, &[("www-authenticate", moved)], b""),
    };
    let new_token = "GET https://new.test/token?scope=repository%3Aapp%3Apull".to_owned();
    let with_new_token = format!("{get} authorization=Bearer new");
    let after_move = later(&cache, None, answers);
    assert_eq!(after_move.manifest().unwrap(), b"{}");
    assert_eq!(
        after_move.requests(),
        [TOKEN_REQUEST.to_owned(), get, new_token.clone(), with_new_token.clone()]
    );
    let last = later(&cache, None, answers);
    assert_eq!(last.manifest().unwrap(), b"{}");
    assert_eq!(last.requests(), [new_token, with_new_token]);
}

#[test]
fn r3_a_challenge_of_an_earlier_run_never_keeps_an_image_from_being_read() {
    let get = get_manifest("reg.test");
    let with_token = format!("{get} authorization=Bearer token");
    // The registry is public by now, and its token server is gone, or gives out tokens that it refuses.
    for (status, body, refused, expected) in [
        (401, &b""[..], 401, vec![TOKEN_REQUEST.to_owned(), get.clone()]),
        (200, b"no token", 401, vec![TOKEN_REQUEST.to_owned(), get.clone()]),
        (200, br#"{"token": "token"}"#, 403, vec![TOKEN_REQUEST.to_owned(), with_token, get.clone()]),
    ] {
        let (_home, cache) = after_a_run();
        let public = later(&cache, None, move |request, _| match request.url.host.as_str() {
            "auth.test" => answer(status, &[], body),
            _ if header(request, "authorization").is_some() => answer(refused, &[], b""),
            _ => answer(200, &[], b"{}"),
        });
        assert_eq!(public.manifest().unwrap(), b"{}", "{status}");
        assert_eq!(public.requests(), expected);
    }
}

#[test]
fn r3_credentials_that_are_refused_are_sent_once_in_later_runs_too() {
    let (_home, path) = auth_file(&entry("eve:old"));
    let (_home, cache) = after_a_run();
    let denied = Err(NetError::Denied { host: "reg.test".into(), user: Some("eve".into()) });
    let by_token = later(&cache, Some(&path), |request, _| match request.url.host.as_str() {
        "auth.test" => answer(401, &[], b""),
        _ => answer(401, &[("www-authenticate", CHALLENGE)], b""),
    });
    assert_eq!(by_token.manifest(), denied);
    let token = format!("{TOKEN_REQUEST} authorization=Basic ZXZlOm9sZA==");
    assert_eq!(by_token.requests(), [token, get_manifest("reg.test")]);
    let refuses = |_: &Request, _: usize| answer(401, &[("www-authenticate", "Basic realm=\"x\"")], b"");
    let cache = cache.join("other");
    let first = later(&cache, Some(&path), refuses);
    assert_eq!((first.manifest(), first.requests().len()), (denied.clone(), 2));
    let by_password = later(&cache, Some(&path), refuses);
    assert_eq!(by_password.manifest(), denied);
    let with_password = format!("{} authorization=Basic ZXZlOm9sZA==", get_manifest("reg.test"));
    assert_eq!(by_password.requests(), [with_password]);
}

#[test]
fn r4_a_token_server_without_tls_gets_no_credentials() {
    let (_home, path) = auth_file(&entry("eve:old"));
    let challenge = "Bearer realm=\"http://auth.test/token\"";
    let setup = Setup::at(vec![Endpoint::new("reg.test", "app")], Some(&path), move |_, _| {
        answer(401, &[("www-authenticate", challenge)], b"")
    });
    let error = setup.manifest().unwrap_err().to_string();
    assert_eq!(error, "'reg.test': the challenge names a token server without TLS");
    assert_eq!(setup.requests(), [get_manifest("reg.test")]);
}

#[test]
fn r4_a_token_server_without_tls_on_this_machine_is_for_registries_without_tls() {
    let (_home, path) = auth_file(&entry("eve:old").replace("reg.test", "127.0.0.1:5000"));
    let challenge = "Bearer realm=\"http://127.0.0.1:5001/token\"";
    for speaks_tls in [true, false] {
        let endpoint = Endpoint::new("127.0.0.1:5000", "app");
        let setup = Setup::at(vec![endpoint], Some(&path), move |request, _| match &*request.url.host {
            "127.0.0.1:5000" if request.url.tls != speaks_tls => Err(Fault::NotTls),
            "127.0.0.1:5000" if header(request, "authorization").is_none() => {
                answer(401, &[("www-authenticate", challenge)], b"")
            }
            "127.0.0.1:5000" => answer(200, &[], b"{}"),
            _ => answer(200, &[], br#"{"token": "t"}"#),
        });
        let result = setup.manifest().map_err(|error| error.to_string());
        let sent = setup.requests().iter().filter(|request| request.contains("Basic")).count();
        let expected = match speaks_tls {
            true => Err("'127.0.0.1:5000': the challenge names a token server without TLS".to_owned()),
            false => Ok(b"{}".to_vec()),
        };
        assert_eq!((result, sent), (expected, usize::from(!speaks_tls)));
    }
}

#[test]
fn r4_a_token_allows_no_more_than_to_read_the_repository() {
    let challenge =
        "Bearer realm=\"https://auth.test/token\",service=\"reg.test\",scope=\"repository:other:pull,push\"";
    let setup = Setup::new(move |request, _| match request.url.host.as_str() {
        "auth.test" => answer(200, &[], br#"{"token": "t"}"#),
        _ if header(request, "authorization").is_some() => answer(200, &[], b"{}"),
        _ => answer(401, &[("www-authenticate", challenge)], b""),
    });
    setup.manifest().unwrap();
    assert_eq!(setup.requests()[1], TOKEN_REQUEST);
}

#[test]
fn r4_the_target_of_a_redirect_that_refuses_asks_for_no_login() {
    let setup = Setup::new(|request, _| match request.url.host.as_str() {
        "reg.test" => answer(302, &[("location", "https://cdn.test/blob")], b""),
        _ => answer(401, &[], b""),
    });
    let error = setup.manifest().unwrap_err();
    let text = "'cdn.test': the registry redirects to this host, which answers with status 401";
    assert_eq!((error.to_string(), matches!(error, NetError::Refused { .. })), (text.to_owned(), true));
}

#[test]
fn r3_an_error_about_credentials_names_the_host_once() {
    let gone = Path::new("/nonexistent/auth.json");
    let setup = Setup::at(vec![Endpoint::new("reg.test", "app")], Some(gone), |_, _| {
        answer(401, &[("www-authenticate", CHALLENGE)], b"")
    });
    let error = crate::Error::from(setup.manifest().unwrap_err()).to_string();
    let text = "'reg.test': cannot read its credentials: cannot read '/nonexistent/auth.json': ";
    assert_eq!(error, format!("{text}No such file or directory (os error 2)"));
}

#[test]
fn r4_a_redirect_to_another_host_carries_no_credentials() {
    let (_home, path) = auth_file(&entry("eve:old"));
    let mut endpoint = Endpoint::new("reg.test", "app");
    endpoint.headers.push(("x-key".to_owned(), "from-hosts-toml".to_owned()));
    let setup = Setup::at(vec![endpoint], Some(&path), |request, _| match request.url.host.as_str() {
        "reg.test" if header(request, "authorization").is_none() => {
            answer(401, &[("www-authenticate", "Basic realm=\"x\"")], b"")
        }
        "reg.test" if request.url.path == "/moved" => {
            answer(307, &[("location", "//cdn.test/blob?sig=1")], b"")
        }
        "reg.test" => answer(302, &[("location", "/moved")], b""),
        _ => answer(200, &[], b"{}"),
    });
    assert_eq!(setup.manifest().unwrap(), b"{}");
    let get = get_manifest("reg.test");
    let own = "x-key=from-hosts-toml authorization=Basic ZXZlOm9sZA==";
    assert_eq!(
        setup.requests(),
        [
            format!("{get} x-key=from-hosts-toml"),
            format!("{get} {own}"),
            format!("GET https://reg.test/moved {own}"),
            "GET https://cdn.test/blob?sig=1".to_owned(),
        ]
    );
}

#[test]
fn r4_a_redirect_is_followed_five_times_and_never_from_https_to_http() {
    for (location, requests, reason) in [
        ("http://reg.test/x", 1, "'reg.test': redirects from https to http"),
        ("ftp://reg.test/x", 1, "'reg.test': redirects to an address that cannot be requested"),
        ("/loop", 6, "'reg.test': more than 5 redirects"),
    ] {
        let setup = Setup::new(move |_, _| answer(302, &[("location", location)], b""));
        assert_eq!(setup.manifest().unwrap_err().to_string(), reason);
        assert_eq!(setup.requests().len(), requests, "{location}");
    }
}

#[test]
fn r2_mirrors_are_asked_in_order_and_the_registry_last() {
    let mirror = |host: &str| Endpoint { resolves_tags: false, ..Endpoint::new(host, "app") };
    let hosts = || vec![mirror("a.test"), mirror("b.test"), Endpoint::new("reg.test", "app")];
    let setup = Setup::at(hosts(), None, |request, _| match request.url.host.as_str() {
        "a.test" => answer(404, &[], b""),
        _ => answer(200, &[], b"{}"),
    });
    setup.manifest().unwrap();
    assert_eq!(setup.requests(), [get_manifest("a.test"), get_manifest("b.test")]);
    setup.manifest().unwrap();
    assert_eq!(setup.requests(), [get_manifest("b.test")], "the mirror that served is asked first");
    setup.repository.tagged("1", None, 1000).unwrap();
    assert_eq!(setup.requests(), ["GET https://reg.test/v2/app/manifests/1"]);
    setup.manifest().unwrap();
    assert_eq!(setup.requests(), [get_manifest("a.test"), get_manifest("b.test")], "mirrors serve digests");
    let setup = Setup::at(hosts(), None, |request, _| match request.url.host.as_str() {
        "reg.test" => answer(404, &[], b""),
        _ => answer(400, &[], b""),
    });
    let missing = setup.manifest().unwrap_err();
    assert!(matches!(&missing, NetError::Missing { host, .. } if host == "reg.test"), "{missing}");
}

#[test]
fn r2_a_mirror_with_wrong_documents_is_passed_over() {
    let hosts = || vec![Endpoint::new("mirror.test", "app"), Endpoint::new("reg.test", "app")];
    let setup = Setup::at(hosts(), None, |request, _| match request.url.host.as_str() {
        "mirror.test" => answer(200, &[], b"{\"wrong\": 1}"),
        _ => answer(200, &[], b"{}"),
    });
    assert_eq!(setup.manifest().unwrap(), b"{}");
    assert_eq!(setup.repository.small_blob(&digest(), 1000).unwrap(), b"{}");
    // Wrong bytes that no host corrects are for the caller to refuse.
    let setup = Setup::at(hosts(), None, |_, _| answer(200, &[], b"wrong"));
    assert_eq!((setup.manifest().unwrap(), setup.requests().len()), (b"wrong".to_vec(), 2));
}

#[test]
fn r2_a_mirror_gets_half_of_the_time() {
    let hosts = || vec![Endpoint::new("mirror.test", "app"), Endpoint::new("reg.test", "app")];
    let setup = Setup::at(hosts(), None, |request, _| match request.url.host.as_str() {
        "mirror.test" => answer(404, &[], b""),
        _ => answer(200, &[], b"{}"),
    });
    setup.manifest().unwrap();
    let rounded = |times: Vec<(f64, f64)>| {
        times.iter().map(|(start, end)| (start.ceil(), end.ceil())).collect::<Vec<_>>()
    };
    // A document is short, so all of it must arrive in that time; a blob only begins.
    assert_eq!(rounded(setup.times()), [(30., 30.), (60., 60.)]);
    let setup = Setup::at(hosts(), None, |_, _| answer(200, &[("content-length", "2")], b"{}"));
    let blob = super::super::blob_fetch::BlobFetch::new(setup.repository.clone(), digest(), 2, false);
    super::super::fetch::Fetch::fetch(&blob, 0..2, false, &setup.repository.wait()).unwrap();
    assert_eq!(rounded(setup.times()), [(30., 60.)]);
}

#[test]
fn r1_a_list_of_tags_has_a_last_page() {
    let setup = Setup::new(|_, number| {
        let link = format!("</v2/app/tags/list?last={number}>; rel=\"next\"");
        answer(200, &[("link", &link)], br#"{"tags": []}"#)
    });
    let error = setup.repository.tags().unwrap_err().to_string();
    assert_eq!(error, "'reg.test': more than 200 pages of tags (MAX_TAG_PAGES)");
    assert_eq!(setup.requests().len(), 200);
}

#[test]
fn r1_a_tag_that_is_known_costs_a_head_request() {
    let known = digest().to_string();
    let setup = Setup::new(move |request, _| match request.method.name() {
        "HEAD" => answer(200, &[("docker-content-digest", &known)], b""),
        _ => answer(200, &[], b"{}"),
    });
    let first = setup.repository.tagged("1", None, 1000).unwrap();
    assert_eq!((first.digest, first.bytes.as_deref()), (digest(), Some(&b"{}"[..])));
    let again = setup.repository.tagged("1", Some(digest()), 1000).unwrap();
    assert_eq!((again.digest, again.bytes), (digest(), None));
    let url = "https://reg.test/v2/app/manifests/1";
    assert_eq!(setup.requests(), [format!("GET {url}"), format!("HEAD {url}")]);
    // A registry that says another digest, or none, is asked for the document, whose bytes decide.
    let old = Algorithm::Sha256.digest(b"old");
    let moved = setup.repository.tagged("1", Some(old), 1000).unwrap();
    assert_eq!(moved.digest, digest());
    assert_eq!(setup.requests(), [format!("HEAD {url}"), format!("GET {url}")]);
}

#[test]
fn r1_tags_are_listed_page_by_page() {
    let setup = Setup::new(|request, _| match request.url.path.as_str() {
        "/v2/app/tags/list?n=1000" => answer(
            200,
            &[("link", "</v2/app/tags/list?last=b&n=1000>; rel=\"next\"")],
            br#"{"name": "app", "tags": ["b", "a", "not/a tag"]}"#,
        ),
        _ => answer(200, &[], br#"{"tags": ["c", "b"]}"#),
    });
    assert_eq!(setup.repository.tags().unwrap(), ["a", "b", "c"]);
    assert_eq!(setup.requests().len(), 2);
    for link in ["<https://evil.test/v2/app/tags/list?x>; rel=next", "</v2/other/tags/list?x>; rel=next"] {
        let setup = Setup::new(move |_, _| answer(200, &[("link", link)], br#"{"tags": null}"#));
        let error = setup.repository.tags().unwrap_err().to_string();
        assert_eq!(error, "'reg.test': the list of tags continues outside the repository");
        assert_eq!(setup.requests().len(), 1);
    }
}
