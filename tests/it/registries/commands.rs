//! Commands on images in registries: what they request, print and keep.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::*;
use crate::fixture::tar;
use crate::mounted::{wait, wait_until, with_default};
use crate::mounts::by_mount_8;

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

#[test]
fn r1_mount_8_and_fstab_mount_an_image_in_a_registry() {
    if !have(&[Need::Fuse, Need::Root, Need::Program("mount.fuse3"), Need::Program("unshare")]) {
        return;
    }
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &sample());
    let reference = registry.reference("app:1");
    let line = format!("{reference} $M fuse.imgmount noauto,_netdev,net-timeout=30s 0 0");
    for how in [
        format!("mount -t fuse.imgmount {reference} \"$M\" -o net-timeout=30s"),
        format!("echo \"{line}\" > fstab\nmount --fstab fstab \"$M\""),
    ] {
        let shown = by_mount_8(&imgmount, &how);
        assert!(shown.starts_with("fuse.imgmount ro,nosuid,nodev,relatime\nroot:x:0:0\n"), "{shown}");
    }
}

#[test]
fn r1_paths_digests_and_archives_are_named_as_elsewhere() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    let image = sample();
    let digest = registry.push("team/app:1", &image);
    registry.push("team/app:2", &image.clone().layer("RUN more", &[file("more", b"more")]));
    let archive = imgmount.write("image.tar", &tar(&oci(&[image])));
    let archive = archive.to_str().unwrap();
    let [one, two] = ["1", "2"].map(|tag| registry.reference(&format!("team/app:{tag}")));
    let by_digest = registry.reference(&format!("team/app@{digest}"));
    let run = |args: &[&str]| imgmount_run(&imgmount, args).expect(0).stdout;
    let small = run(&["cat", &format!("{archive}:/usr/lib/small")]);
    for reference in [&one, &two, &by_digest] {
        assert_eq!(run(&["cat", &format!("{reference}:/usr/lib/small")]), small, "{reference}");
        assert_eq!(run(&["cat", reference, "--path", "/usr/lib/small"]), small, "{reference}");
        run(&["cp", &format!("{reference}:/usr/lib/small"), "copied"]);
        assert_eq!(fs::read(imgmount.dir().join("copied")).unwrap(), small);
        let listed = run(&["ls", &format!("{reference}:/usr/lib")]);
        assert_eq!(String::from_utf8(listed).unwrap(), "large\nsmall\n");
    }
    for options in [&[][..], &["--layer", "1"], &["--upto", "1"]] {
        let export = |reference: &str| run(&[&["export", reference], options].concat());
        assert!(export(&one) == export(archive), "{options:?}");
    }
    for (a, b, code, text) in [
        (&*one, archive, 0, ""),
        (archive, &*by_digest, 0, ""),
        (&*one, &*two, 1, "A /more\n"),
        (&*two, archive, 1, "D /more\n"),
    ] {
        assert_eq!(imgmount_run(&imgmount, &["diff", a, b]).expect(code).text(), text, "{a} {b}");
    }
    for command in ["history", "deleted"] {
        assert_eq!(run(&[command, "--json", &one]), run(&[command, "--json", archive]), "{command}");
    }
    let path = "/etc/passwd";
    assert_eq!(run(&["history", &format!("{one}:{path}")]), run(&["history", &format!("{archive}:{path}")]),);
}

#[test]
fn c42_a_shell_that_completes_requests_nothing() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &sample());
    for word in ["app", "app:", "app:1", "app@"] {
        let completed = imgmount_run(&imgmount, &["complete", &registry.reference(word)]).expect(0);
        assert_eq!((completed.text(), completed.stderr.as_str()), ("", ""));
    }
    assert_eq!(registry.requests(), [""; 0]);
}

#[test]
fn r7_a_tag_that_moved_is_what_it_was_offline() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &sample());
    let reference = registry.reference("app:1");
    let ls = |options: &[&str]| {
        imgmount_run(&imgmount, &[&["ls", "-R", &reference], options].concat()).expect(0).text().to_owned()
    };
    let before = ls(&[]);
    registry.push("app:1", &sample().layer("RUN more", &[file("more", b"more")]));
    registry.requests();
    assert_eq!((ls(&["--offline"]), registry.requests().len()), (before.clone(), 0));
    let after = ls(&[]);
    assert!(after != before && after.contains("more"));
    assert_eq!(ls(&["--offline"]), after);
}

#[test]
fn c2_a_download_is_shown_on_a_terminal() {
    if !have(&[Need::Program("script")]) {
        return;
    }
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &large());
    // A bar appears after half a second.
    registry.fail(|seen| seen.is_blob().then(|| Fault::Delay(Duration::from_millis(700))));
    let reference = registry.reference("app:1");
    let on_terminal = |options: &str| {
        let script =
            format!("script -qec 'stty cols 100; imgmount {options} ls --no-cache {reference}' /dev/null");
        let mut command = imgmount.shell_with_program(&script);
        run(command.env("TERM", "xterm").env("HOME", imgmount.dir())).expect(0).text().to_owned()
    };
    let shown = on_terminal("");
    for part in ["Indexing layers", "MiB/", "/s"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!on_terminal("-q").contains("Indexing layers"));
    let to_a_file = imgmount_run(&imgmount, &["ls", "--no-cache", &reference]).expect(0);
    assert_eq!(to_a_file.stderr, "");
}

/// Returns a command that SIGINT can end.
fn interruptible(imgmount: &Imgmount, args: &[&str]) -> Command {
    let mut interruptible = with_default("INT", &command(imgmount, args));
    interruptible.stdout(Stdio::null());
    interruptible
}

/// Sends SIGINT to a command, and returns the signal that ended it. Panics if it takes longer than five seconds,
/// a small part of `--net-timeout`.
#[track_caller]
fn interrupted(child: &mut Child) -> Option<i32> {
    let since = Instant::now();
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
    let status = wait(child).expect("the end of a command that was interrupted");
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    status.signal()
}

#[test]
fn c44_an_interrupt_ends_a_first_download_at_once_and_the_next_run_continues() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    let image = large();
    let digest = registry.push("app:1", &image);
    let reference = registry.reference(&format!("app@{digest}"));
    let (total, stalled) = (layer_bytes(&image), 2 << 20);
    let layer = format!("blobs/{}", &crate::fixture::sha256_hex(&image.layers[0].blob)[..12]);
    let is_layer = layer.clone();
    registry.fail(move |seen| (seen.what() == is_layer).then_some(Fault::Stall(stalled)));
    let mut first = interruptible(&imgmount, &["ls", &reference]).spawn().unwrap();
    let map = format!("blobs/sha256-{}.map", crate::fixture::sha256_hex(&image.layers[0].blob));
    let map = imgmount.cache().join(map);
    let kept = || fs::read(&map).unwrap_or_default().iter().filter(|block| **block == 1).count() * (64 << 10);
    assert!(wait_until(|| kept() == stalled), "{}", kept());
    assert_eq!(interrupted(&mut first), Some(Signal::INT.as_raw()));
    registry.recover();
    registry.requests();
    imgmount_run(&imgmount, &["ls", &reference]).expect(0);
    let requests = registry.requests();
    let rest = format!("GET {layer} {stalled}-{}", total - 1);
    assert_eq!(requests.iter().filter(|request| request.contains(&layer)).collect::<Vec<_>>(), [&rest]);
}

#[test]
fn c44_an_interrupt_ends_what_waits_for_a_registry() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    let digest = registry.push("app:1", &large());
    let reference = registry.reference(&format!("app@{digest}"));
    imgmount_run(&imgmount, &["ls", &reference]).expect(0);
    let copied = format!("{reference}:/big");
    for args in [
        &["extract", &reference, "tree"][..],
        &["cp", &copied, "copy"],
        &["export", "-o", "out.tar", &reference],
        &["cat", &copied],
    ] {
        fs::remove_dir_all(imgmount.cache().join("blobs")).unwrap();
        registry.requests();
        registry.fail(|seen| seen.is_blob().then_some(Fault::Delay(Duration::from_secs(3600))));
        let mut waiting = interruptible(&imgmount, args).spawn().unwrap();
        assert!(wait_until(|| !registry.requests().is_empty()), "{args:?}");
        assert_eq!(interrupted(&mut waiting), Some(Signal::INT.as_raw()), "{args:?}");
        registry.recover();
        imgmount_run(&imgmount, &["ls", &reference]).expect(0);
        imgmount_run(&imgmount, &["cat", &copied]).expect(0);
    }
    assert!(!imgmount.dir().join("out.tar").exists());
}
