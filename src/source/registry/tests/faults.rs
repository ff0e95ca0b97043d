//! Faults that pass, faults that do not, and pauses that hosts ask for.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn seconds(pauses: &[Duration]) -> Vec<u64> {
    pauses.iter().map(|pause| pause.as_millis().div_ceil(1000).try_into().unwrap()).collect()
}

#[test]
fn r5_a_dead_connection_is_replaced_at_once_and_other_faults_after_a_pause() {
    let faults = [
        Some(Fault::Broken("reset".into())),
        Some(Fault::TimedOut),
        Some(Fault::Unreachable("refused".into())),
        None,
    ];
    let setup = Setup::new(move |_, number| match faults.get(number).cloned().flatten() {
        Some(fault) => Err(fault),
        None => answer(200, &[], b"{}"),
    });
    assert_eq!(setup.manifest().unwrap(), b"{}");
    assert_eq!((setup.requests().len(), setup.pauses().len()), (4, 2));
}

#[test]
fn r5_after_five_tries_the_last_fault_is_the_error() {
    for (status, reason) in
        [(503, "'reg.test': answers with status 503"), (408, "'reg.test': answers with status 408")]
    {
        let setup = Setup::new(move |_, _| answer(status, &[], b""));
        assert_eq!(setup.manifest().unwrap_err().to_string(), reason);
        let pauses = setup.pauses();
        assert_eq!((setup.requests().len(), pauses.len()), (5, 4));
        // Each pause is a random part of twice the one before.
        for (pause, most) in pauses.iter().zip([200, 400, 800, 1600]) {
            assert!(*pause <= Duration::from_millis(most), "{pauses:?}");
        }
    }
    let setup = Setup::new(|_, _| Err(Fault::Unreachable("no such host".into())));
    assert_eq!(setup.manifest().unwrap_err().to_string(), "cannot reach 'reg.test': no such host");
    assert_eq!(setup.requests().len(), 5);
}

#[test]
fn r5_a_fault_that_does_not_pass_is_not_tried_again() {
    for fault in [
        Fault::Certificate("the certificate is not valid: expired".into()),
        Fault::NotTls,
        Fault::Malformed("the answer is not HTTP".into()),
        Fault::Cancelled,
    ] {
        let setup = Setup::new(move |_, _| Err(fault.clone()));
        assert!(setup.manifest().is_err());
        assert_eq!((setup.requests().len(), setup.pauses().len()), (1, 0));
    }
    for status in [400, 404, 410, 418] {
        let setup = Setup::new(move |_, _| answer(status, &[], b""));
        assert!(setup.manifest().is_err());
        assert_eq!(setup.requests().len(), 1, "{status}");
    }
}

#[test]
fn r5_a_429_is_obeyed_in_all_its_shapes() {
    for (value, pause) in
        [(Some("7"), 7), (Some("880.092µs"), 1), (None, 1), (Some("Sun, 06 Nov 1994 08:49:37 GMT"), 1)]
    {
        let setup = Setup::new(move |_, number| match (number, value) {
            (0, Some(value)) => answer(429, &[("retry-after", value)], b""),
            (0, None) => answer(429, &[], b""),
            _ => answer(200, &[], b"{}"),
        });
        assert_eq!(setup.manifest().unwrap(), b"{}");
        assert_eq!(seconds(&setup.pauses()), [pause], "{value:?}");
        assert_eq!(setup.requests().len(), 2);
    }
}

#[test]
fn r5_a_host_that_keeps_asking_for_pauses_is_given_up() {
    let setup = Setup::new(|_, _| answer(429, &[("retry-after", "2")], b""));
    let limited = NetError::Limited { host: "reg.test".into(), after: Some(Duration::from_secs(2)) };
    assert_eq!(setup.manifest(), Err(limited));
    assert_eq!((setup.requests().len(), seconds(&setup.pauses())), (5, vec![2; 4]));
}

#[test]
fn r5_a_pause_that_is_too_long_is_an_error_for_all_requests_to_the_host() {
    let setup = Setup::new(|_, _| answer(429, &[("retry-after", "3600")], b""));
    let limited = NetError::Limited { host: "reg.test".into(), after: Some(Duration::from_secs(3600)) };
    assert_eq!(setup.manifest(), Err(limited));
    assert_eq!(setup.requests().len(), 1);
    let error = setup.manifest().unwrap_err();
    assert!(matches!(error, NetError::Limited { .. }), "{error}");
    assert_eq!((setup.requests().len(), setup.pauses().len()), (0, 0), "the host is left alone");
}

#[test]
fn r5_an_answer_that_is_too_long_or_encoded_is_refused() {
    let setup = Setup::new(|_, _| answer(200, &[], &[b' '; 1001]));
    assert_eq!(setup.manifest().unwrap_err().to_string(), "'reg.test': the answer is longer than 1000 bytes");
    let setup = Setup::new(|_, _| answer(200, &[("content-encoding", "gzip")], b"{}"));
    let error = setup.manifest().unwrap_err().to_string();
    assert_eq!(error, "'reg.test': the answer has a Content-Encoding, which was not asked for");
}

/// A body that breaks after its first bytes.
struct Breaking(&'static [u8]);

impl std::io::Read for Breaking {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match std::mem::take(&mut self.0) {
            b"" => Err(std::io::ErrorKind::UnexpectedEof.into()),
            bytes => Ok(std::io::Read::read(&mut &*bytes, buf).unwrap()),
        }
    }
}

#[test]
fn r5_a_document_whose_connection_breaks_is_requested_again() {
    let breaks = |times: usize| {
        Setup::new(move |_, number| match number < times {
            true => Ok(Response { status: 200, headers: Vec::new(), body: Box::new(Breaking(b"{")) }),
            false => answer(200, &[], b"{}"),
        })
    };
    let setup = breaks(2);
    assert_eq!(setup.manifest().unwrap(), b"{}");
    assert_eq!(setup.requests().len(), 3);
    let setup = breaks(9);
    assert!(matches!(setup.manifest(), Err(NetError::Unreachable { .. })));
    assert_eq!(setup.requests().len(), 3);
}

#[test]
fn r5_all_tries_of_a_document_have_one_deadline() {
    struct Slow;
    impl std::io::Read for Slow {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            std::thread::sleep(Duration::from_millis(60));
            Err(NetError::TimedOut { host: "reg.test".into() }.into())
        }
    }
    let setup = Setup::new(|_, _| Ok(Response { status: 200, headers: Vec::new(), body: Box::new(Slow) }));
    assert_eq!(setup.manifest(), Err(NetError::TimedOut { host: "reg.test".into() }));
    let times = setup.times();
    assert!(times.len() == 3 && times[2].0 <= times[0].0 - 0.12, "{times:?}");
}

/// A host of this machine. Whether it speaks TLS is found out.
fn here() -> Vec<Endpoint> {
    vec![Endpoint::new("127.0.0.1:5000", "app")]
}

#[test]
fn r2_plain_http_is_remembered_only_after_an_answer() {
    let manifest = |scheme: &str| format!("GET {scheme}://127.0.0.1:5000/v2/app/manifests/{}", digest());
    let probe = "GET https://127.0.0.1:5000/v2/".to_owned();
    // A registry with TLS that is down, that breaks connections, and that works.
    for fault in [Fault::Unreachable("refused".into()), Fault::Broken("reset".into())] {
        let is_up = Arc::new(AtomicBool::new(false));
        let setup = Setup::at(here(), None, {
            let is_up = is_up.clone();
            move |request, _| match (is_up.load(Ordering::SeqCst), request.url.tls) {
                (true, true) => answer(200, &[], b"{}"),
                (true, false) => answer(400, &[], b""),
                (false, _) => Err(fault.clone()),
            }
        });
        let error = setup.manifest().unwrap_err();
        assert!(matches!(error, NetError::Unreachable { .. }), "{error}");
        setup.requests();
        is_up.store(true, Ordering::SeqCst);
        assert_eq!(setup.manifest().unwrap(), b"{}");
        assert_eq!(setup.requests(), [probe.clone(), manifest("https")]);
    }
    // A registry with TLS whose connection breaks once: its 400 to plain HTTP proves nothing.
    let setup = Setup::at(here(), None, |request, number| match (number, request.url.tls) {
        (0, _) => Err(Fault::Broken("reset".into())),
        (_, true) => answer(200, &[], b"{}"),
        (_, false) => answer(400, &[], b""),
    });
    assert!(setup.manifest().is_err());
    assert_eq!(setup.manifest().unwrap(), b"{}");
    // A registry without TLS is asked for it once.
    let setup = Setup::at(here(), None, |request, _| match request.url.tls {
        true => Err(Fault::NotTls),
        false => answer(200, &[], b"{}"),
    });
    setup.manifest().unwrap();
    setup.manifest().unwrap();
    assert_eq!(setup.requests(), [probe, manifest("http"), manifest("http")]);
}

#[test]
fn r5_nothing_is_sent_after_a_cancel_or_the_deadline() {
    let setup = Setup::new(|_, _| answer(200, &[], b"{}"));
    setup.repository.cancel.cancel();
    assert_eq!(setup.manifest(), Err(NetError::Cancelled));
    assert_eq!(setup.requests().len(), 0);
}
