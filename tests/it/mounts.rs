//! Tests mounting, access by other users, and the end of a mount.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::{Compression, Image, file, oci, patterned, sample_tree, tar};
use crate::mounted::{Imgmount, Mounted, Need, as_nobody, have, is_mounted, run, wait_until};
use crate::tree::Snapshot;

fn sample(imgmount: &Imgmount) -> PathBuf {
    imgmount.write("image.tar", &tar(&oci(&[Image::sample("", Compression::Gzip(6))])))
}

/// Returns a `cat` of a file, run by an ordinary user who did not mount.
fn read_by_another(point: &Path, name: &str) -> Command {
    let mut command = as_nobody("cat");
    command.arg(point.join(name)).env("LC_ALL", "C");
    command
}

/// Lets other users reach the mount point.
fn let_others_pass(imgmount: &Imgmount) {
    fs::set_permissions(imgmount.dir(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn x14_nobody_but_the_one_who_mounts_gets_in() {
    if !have(&[Need::Fuse, Need::Root]) {
        return;
    }
    let imgmount = Imgmount::new();
    let_others_pass(&imgmount);
    let mounted = imgmount.mount(sample(&imgmount), &[]);
    run(&mut read_by_another(mounted.path(), "bin/tool")).expect(1).says("Permission denied");
}

#[test]
fn x14_with_allow_other_everybody_comes_in_and_modes_count() {
    if !have(&[Need::Fuse, Need::Root]) {
        return;
    }
    let imgmount = Imgmount::new();
    let_others_pass(&imgmount);
    let mounted = imgmount.mount(sample(&imgmount), &["-o", "allow_other"]);
    let tool = run(&mut read_by_another(mounted.path(), "bin/tool")).expect(0);
    assert_eq!(tool.text(), "#!/bin/sh\n");
    // Mode 0640, owner root: other users cannot read the file.
    run(&mut read_by_another(mounted.path(), "etc/passwd")).expect(1).says("Permission denied");
    // Mode 0750, owned by another user.
    run(&mut read_by_another(mounted.path(), "bin/becomes-dir/inside")).expect(1).says("Permission denied");
}

#[test]
fn allow_other_is_for_users_whom_the_system_lets() {
    let configured = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    let allowed = configured.lines().any(|line| line.trim() == "user_allow_other");
    if !have(&[Need::FuseForUsers, Need::Root]) || allowed {
        return;
    }
    let imgmount = Imgmount::as_ordinary_user();
    let image = sample(&imgmount);
    let point = imgmount.mount_point();
    let refused = run(imgmount.command(&["mount"]).arg(image).arg(&point).args(["-o", "allow_other"]));
    refused.expect(2).says("user_allow_other");
    assert!(!is_mounted(&point));
}

#[test]
fn a_mount_that_nobody_uses_goes_away_after_the_idle_timeout() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let mut mounted = imgmount.mount_in_foreground(sample(&imgmount), &["--idle-timeout", "1s"]);
    let ended = mounted.server_ends().expect("an end");
    assert!(ended.success(), "{ended}");
    assert!(!is_mounted(mounted.path()));
}

#[test]
fn a_mount_that_is_used_or_that_somebody_sits_in_does_not_go_away() {
    if !have(&[Need::Fuse]) {
        return;
    }
    const TIMEOUT: Duration = Duration::from_secs(1);
    let imgmount = Imgmount::new();
    let mounted = imgmount.mount(sample(&imgmount), &["-o", "idle-timeout=1s"]);
    let start = Instant::now();
    while start.elapsed() < 3 * TIMEOUT {
        assert_eq!(fs::read_dir(mounted.path().join("etc")).expect("still there").count(), 3);
        thread::sleep(TIMEOUT / 10);
    }
    let sitting = File::open(mounted.path().join("etc")).unwrap();
    thread::sleep(3 * TIMEOUT);
    assert!(is_mounted(mounted.path()), "an open directory is use");
    drop(sitting);
    assert!(wait_until(|| !is_mounted(mounted.path())));
}

#[test]
fn the_log_file_gets_what_is_said_once_the_mount_is_in_the_background() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let content = patterned(8 << 20, 9);
    let items = oci(&[Image::named("a:1").layer("COPY", &[file("large", &content)])]);
    let image = imgmount.write("image.tar", &tar(&items));
    let log = imgmount.dir().join("log");
    fs::write(&log, "from before\n").unwrap();
    let mounted_at = utc_now();
    let mounted = imgmount.mount(&image, &["--log-file", log.to_str().unwrap()]);
    OpenOptions::new().write(true).open(&image).unwrap().set_len(4096).unwrap();
    fs::read(mounted.path().join("large")).unwrap_err();
    let said = fs::read_to_string(&log).unwrap();
    let (before, said) = said.split_at("from before\n".len());
    assert_eq!(before, "from before\n", "it is appended to");
    let (time, said) = said.split_once(' ').unwrap();
    assert!((mounted_at.as_str()..=&*utc_now()).contains(&time), "{time} is not after {mounted_at}");
    assert!(said.starts_with("imgmount: error: ") && said.contains("layer 0"), "{said}");
    // The log may contain names from the image.
    fs::remove_file(&log).unwrap();
    drop(mounted);
    fs::write(&image, tar(&items)).unwrap();
    drop(imgmount.mount(&image, &["--log-file", log.to_str().unwrap()]));
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Returns the time as in RFC 3339, in milliseconds; such texts sort like the times.
fn utc_now() -> String {
    let out = Command::new("date").args(["-u", "+%FT%T.%3NZ"]).output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn a_log_file_that_cannot_be_opened_is_told_before_anything_is_mounted() {
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let point = imgmount.mount_point();
    let mut command = imgmount.command(&["mount", "--log-file", "no/such/dir"]);
    run(command.arg(image).arg(&point)).expect(2).says("no/such/dir");
    assert!(!is_mounted(&point));
}

/// Runs `mount_command` with the mount point as `$M`, reads the mount and unmounts. Returns the mount's
/// type and options, and the contents of `etc/passwd`.
///
/// mount(8) clears PATH, so the program must be where a shell finds it without PATH: in a mount
/// namespace of the script, `/usr/local/bin` is another directory.
#[track_caller]
pub(crate) fn by_mount_8(imgmount: &Imgmount, mount_command: &str) -> String {
    let point = imgmount.mount_point();
    let script = format!(
        "M='{}'\nmount --bind bin /usr/local/bin\n{mount_command}\nfindmnt -nro FSTYPE,VFS-OPTIONS \"$M\"\n\
        cat \"$M/etc/passwd\"\nimgmount umount \"$M\"\n",
        point.display()
    );
    let mut command = imgmount.shell_with_program(&format!("unshare -m bash -euc '{}'", quoted(&script)));
    let done = run(&mut command);
    assert_eq!(done.code, 0, "{mount_command}: {}", done.stderr);
    done.text().to_owned()
}

fn quoted(script: &str) -> String {
    script.replace('\'', r"'\''")
}

#[test]
fn mount_8_mounts_through_mount_fuse3() {
    if !have(&[Need::Fuse, Need::Root, Need::Program("mount.fuse3"), Need::Program("unshare")]) {
        return;
    }
    let imgmount = Imgmount::new();
    sample(&imgmount);
    let passwd = "root:x:0:0\nuser:x:1000:1000\n";
    for (options, more) in [
        ("", ""),
        ("-o ro", ""),
        ("-o platform=linux/amd64,cache-size=16M", ""),
        ("-r -o noexec,_netdev,x-mine", ",noexec"),
    ] {
        let told =
            by_mount_8(&imgmount, &format!("mount -t fuse.imgmount \"$PWD/image.tar\" \"$M\" {options}"));
        assert_eq!(told, format!("fuse.imgmount ro,nosuid,nodev{more},relatime\n{passwd}"), "{options}");
    }
}

#[test]
fn a_line_of_fstab_mounts() {
    if !have(&[Need::Fuse, Need::Root, Need::Program("mount.fuse3"), Need::Program("unshare")]) {
        return;
    }
    let imgmount = Imgmount::new();
    sample(&imgmount);
    let line = "echo \"$PWD/image.tar $M fuse.imgmount noauto,user,platform=linux/amd64 0 0\" > fstab";
    let told = by_mount_8(&imgmount, &format!("{line}\nmount --fstab fstab \"$M\""));
    // The option `user` implies noexec: mount(8).
    assert!(told.starts_with("fuse.imgmount ro,nosuid,nodev,noexec,relatime\nroot:x:0:0\n"), "{told}");
}

#[test]
fn an_option_that_does_not_exist_is_named_and_nothing_is_mounted() {
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let point = imgmount.mount_point();
    for (options, said) in [
        ("ro,frobnicate", "frobnicate"),
        ("cache-size=much", "cache-size"),
        ("platform", "'platform' needs a value"),
        ("semantics=podman", "runtime, oci"),
    ] {
        run(imgmount.command(&["mount"]).arg(&image).arg(&point).args(["-o", options])).expect(2).says(said);
        assert!(!is_mounted(&point), "{options}");
    }
}

#[test]
fn an_unmount_by_somebody_else_ends_the_process() {
    if !have(&[Need::Fuse, Need::Root]) {
        return;
    }
    let imgmount = Imgmount::new();
    let mut mounted = imgmount.mount_in_foreground(sample(&imgmount), &[]);
    run(Command::new("umount").arg(mounted.path())).expect(0);
    assert!(mounted.server_ends().expect("an end").success());
}

#[test]
fn fusermount_ends_the_process_of_an_ordinary_user() {
    if !have(&[Need::FuseForUsers]) {
        return;
    }
    let imgmount = Imgmount::as_ordinary_user();
    let mut mounted = imgmount.mount_in_foreground(sample(&imgmount), &[]);
    run(&mut imgmount.shell(&format!("fusermount3 -u '{}'", mounted.path().display()))).expect(0);
    assert!(mounted.server_ends().expect("an end").success());
}

#[test]
fn an_unmount_of_what_is_in_use_names_who_uses_it() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let mounted = imgmount.mount(sample(&imgmount), &[]);
    let mut sleeper = Command::new("sleep");
    sleeper.arg0("a sleeper").arg("1000").current_dir(mounted.path().join("etc"));
    let mut sleeper = sleeper.stdin(Stdio::null()).spawn().unwrap();
    let busy = run(imgmount.command(&["umount"]).arg(mounted.path()));
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    let busy = busy.expect(2).says("sleep").says(&sleeper.id().to_string()).says("hint: ");
    assert!(is_mounted(mounted.path()), "{}", busy.stderr);
    run(imgmount.command(&["umount"]).arg(mounted.path())).expect(0);
    assert!(!is_mounted(mounted.path()));
}

#[test]
fn one_image_is_mounted_twice_and_each_mount_ends_for_itself() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let first = imgmount.mount(&image, &[]);
    let second = imgmount.mount(&image, &[]);
    let expected = Snapshot::described(&sample_tree());
    expected.assert_shown_by(&Snapshot::of(first.path()), "the first of two");
    run(imgmount.command(&["umount"]).arg(first.path())).expect(0);
    expected.assert_shown_by(&Snapshot::of(second.path()), "the second of two");
}

#[test]
fn a_directory_is_not_mounted_on_twice() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let mounted = imgmount.mount(&image, &[]);
    let again = run(imgmount.command(&["mount"]).arg(&image).arg(mounted.path()));
    again.expect(2).says("already").says("imgmount umount");
}

#[test]
fn a_directory_that_was_mounted_on_meanwhile_is_left_alone() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let point = imgmount.mount_point();
    let mut slow = imgmount.command(&["mount", "-"]);
    let mut slow = slow.arg(&point).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = slow.stdin.take().unwrap();
    input.write_all(&fs::read(&image).unwrap()).unwrap();
    // More bytes than a pipe holds: when all are written, the mount point was checked and the image is
    // being read.
    input.write_all(&[0; 256 << 10]).unwrap();
    let fast = Mounted::at(&point, run(imgmount.command(&["mount"]).arg(&image).arg(&point)).expect(0));
    drop(input);
    let slow = slow.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&slow.stderr);
    assert_eq!(slow.status.code(), Some(2), "{said}");
    assert!(said.contains("already"), "{said}");
    Snapshot::described(&sample_tree()).assert_shown_by(&Snapshot::of(fast.path()), "the first");
    run(imgmount.command(&["umount"]).arg(&point)).expect(0);
    assert!(!is_mounted(&point));
}

/// The kernel reuses the number of a mount that has ended for the next one.
#[test]
fn a_server_that_ends_leaves_the_next_mount_alone() {
    if !have(&[Need::Fuse, Need::Root]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = imgmount.write("image.tar", &tar(&oci(&[Image::named("a:1").layer("ADD", &[])])));
    let point = imgmount.mount_point();
    for turn in 0..30 {
        run(imgmount.command(&["mount"]).arg(&image).arg(&point)).expect(0);
        rustix::mount::unmount(&point, rustix::mount::UnmountFlags::empty()).unwrap();
        let nothing = rustix::mount::MountFlags::empty();
        rustix::mount::mount("other", &point, "tmpfs", nothing, None::<&std::ffi::CStr>).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        let gone = rustix::mount::unmount(&point, rustix::mount::UnmountFlags::empty()).is_err();
        assert!(!gone, "turn {turn}: the file system that was mounted next is gone");
    }
}
