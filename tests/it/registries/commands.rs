//! Commands on images in registries: what they request, print and keep.

use serde_json::Value;

use super::*;

#[test]
fn r8_inspect_and_history_request_documents_only() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    let image = sample();
    registry.push("app:1", &image);
    let reference = registry.reference("app:1");
    let config = format!("GET blobs/{}", &crate::fixture::sha256_hex(&image.config())[..12]);
    let run = |args: &[&str]| {
        let out = imgmount_run(&imgmount, &[args, &[&reference]].concat()).expect(0);
        (out.text().to_owned(), registry.requests())
    };
    let (text, requests) = run(&["inspect", "--no-cache"]);
    assert_eq!(requests, ["GET manifests/1", &config]);
    assert!(text.contains("bytes, not read yet") && text.contains("once all layers were read"), "{text}");
    let (before, requests) = run(&["inspect", "--json"]);
    assert_eq!(requests, ["GET manifests/1", &config]);
    let (history, requests) = run(&["history", "--json"]);
    assert_eq!(requests, ["HEAD manifests/1"]);
    let step: Value = serde_json::from_str(history.lines().next().unwrap()).unwrap();
    assert_eq!((&step["size"], &step["entries"]), (&image.layers[0].blob.len().into(), &Value::Null));
    assert_eq!(registry.sent_bytes(), 2 * image.config().len() as u64);

    assert_eq!(run(&["history"]).0.lines().count(), 2 * image.layers.len() + 1);

    // Once the layers were read, their indexes are used, and still nothing of a layer is requested.
    run(&["ls"]);
    let (after, requests) = run(&["inspect", "--json"]);
    assert_eq!(requests, ["HEAD manifests/1"]);
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let (before, after) = (parse(&before), parse(&after));
    assert_eq!(before["warnings"], Value::Null);
    assert_eq!(after["warnings"], serde_json::json!([]));
    for (at, layer) in image.layers.iter().enumerate() {
        let (read, unread) = (&after["layers"][at], &before["layers"][at]);
        for same in ["layer", "diff_id", "digest", "media_type", "compression", "size", "created_by"] {
            assert_eq!(read[same], unread[same], "{same}");
        }
        assert_eq!((&unread["tar_size"], &unread["entries"]), (&Value::Null, &Value::Null));
        assert_eq!(read["tar_size"], layer.tar.len());
    }
}

#[test]
fn r3_a_challenge_saves_the_next_run_a_refusal() {
    let password = || (USER.to_owned(), PASSWORD.to_owned());
    let get = "GET manifests/1";
    let head = "HEAD manifests/1";
    for (access, first, next) in [
        (Access::Token(Some(password()), 100), &[get, "GET token", get][..], &["GET token", head][..]),
        (Access::Basic(USER.to_owned(), PASSWORD.to_owned()), &[get, get], &[head]),
    ] {
        let (imgmount, registry) = (Imgmount::new(), Registry::start());
        registry.push("app:1", &sample());
        registry.set_access(access);
        log_in(&imgmount, &registry, USER, PASSWORD);
        let ls = |options: &[&str]| {
            let reference = registry.reference("app:1");
            imgmount_run(&imgmount, &[&["ls", &reference], options].concat()).expect(0);
            registry.requests()
        };
        assert_eq!(ls(&[])[..first.len()], *first);
        assert_eq!(ls(&[]), next);
        assert_eq!(ls(&["--no-cache"])[..first.len()], *first);
        // Nothing that an attacker on the way could have named is used or kept.
        let insecure = ls(&["--insecure"]);
        assert_eq!((&*insecure[0], insecure.len()), (head, first.len()));
        let listed = imgmount.run(&["cache", "ls", "--json"]).expect(0);
        assert_eq!(listed.lines().iter().filter(|line| line.contains("\"hosts/sha256-")).count(), 1);
        imgmount.run(&["cache", "clear"]).expect(0);
        assert_eq!(ls(&[])[..first.len()], *first);
    }
}
