//! Tests every mount option and its effect.

use clap::{Args, Command, FromArgMatches};

use super::*;
use crate::cli::args::{SemanticsMode, VerifyMode};

fn parse(arguments: &[&str]) -> MountArgs {
    let command = MountArgs::augment_args(Command::new("mount").no_binary_name(true));
    MountArgs::from_arg_matches(&command.get_matches_from(arguments)).unwrap()
}

/// Returns the arguments after `-o LIST` was applied.
fn with_options(list: &str) -> anyhow::Result<MountArgs> {
    let mut args = parse(&["a.tar", "/mnt", "-o", list]);
    args.fold_options().map(|()| args)
}

/// Returns whether suid, dev and noexec are set.
fn flags(list: &str) -> (bool, bool, bool) {
    let kernel = with_options(list).unwrap().kernel;
    (kernel.suid, kernel.dev, kernel.noexec)
}

#[test]
fn without_options_everything_is_off() {
    let args = parse(&["a.tar", "/mnt"]);
    assert!(!args.foreground && args.idle_timeout.is_none() && args.log_file.is_none());
    assert_eq!((args.image.verify, args.image.semantics), (VerifyMode::Full, SemanticsMode::Runtime));
    assert_eq!(args.image.cache_size, 256 << 20);
    let options = args.mount_options();
    assert_eq!(options.fsname, "a.tar");
    assert!(!options.allow_other && !options.allow_root && !options.suid && !options.dev);
}

#[test]
fn the_view_is_chosen_by_an_option_of_either_kind() {
    assert_eq!(parse(&["a.tar", "/mnt"]).view, ViewMode::Rootfs);
    assert_eq!(parse(&["a.tar", "/mnt", "--view", "all"]).view, ViewMode::All);
    assert_eq!(with_options("view=all").unwrap().view, ViewMode::All);
    let refused = with_options("view=none").unwrap_err().to_string();
    assert_eq!(refused, "mount option 'view': 'none' is not one of rootfs, all");
}

#[test]
fn what_fstab_and_mount_pass_is_accepted() {
    let list = "rw,ro,noauto,user,users,nosuid,nodev,exec,_netdev,nofail,defaults,x-systemd.automount,x-a=b,\
                user=joe,comment=x,noatime";
    let kernel = with_options(list).unwrap().kernel;
    assert!(!kernel.suid && !kernel.dev && !kernel.noexec && !kernel.allow_other);
}

#[test]
fn x13_suid_and_dev_count_when_asked_for() {
    let table = [
        ("suid", (true, false, false)),
        ("dev", (false, true, false)),
        ("suid,dev,noexec", (true, true, true)),
        ("suid,nosuid", (false, false, false)),
        ("noexec,exec", (false, false, false)),
    ];
    for (list, expected) in table {
        assert_eq!(flags(list), expected, "{list}");
    }
}

#[test]
fn x13_suid_and_dev_that_mount_8_adds_do_not_count() {
    for list in ["rw,dev,suid", "ro,dev,suid", "rw,noatime,dev,suid", "ro,nosuid,dev"] {
        assert_eq!(flags(list), (false, false, false), "{list}");
    }
    assert_eq!(flags("rw,noexec,nosuid,nodev"), (false, false, true));
}

#[test]
fn x14_audiences_are_off_until_asked_for() {
    let kernel = with_options("allow_other,default_permissions").unwrap().kernel;
    assert!(kernel.allow_other && kernel.default_permissions && !kernel.allow_root);
    assert!(with_options("allow_root").unwrap().kernel.allow_root);
}

#[test]
fn values_by_their_long_names() {
    let list =
        "platform=linux/arm64,image=a:b,verify=off,cache-size=1M,semantics=oci,idle-timeout=5m,log-file=/l";
    let args = with_options(list).unwrap();
    assert_eq!(args.image.select.platform.as_deref(), Some("linux/arm64"));
    assert_eq!(args.image.select.image.as_deref(), Some("a:b"));
    assert_eq!((args.image.verify, args.image.semantics), (VerifyMode::Off, SemanticsMode::Oci));
    assert_eq!(args.image.cache_size, 1 << 20);
    assert_eq!(args.idle_timeout, Some(Duration::from_secs(300)));
    assert_eq!(args.log_file, Some(PathBuf::from("/l")));
}

#[test]
fn a_list_changes_what_it_names_and_wins_over_the_command_line() {
    let mut args = parse(&["a.tar", "/mnt", "--strict", "--verify=off", "--view=all", "-o", "view=rootfs"]);
    args.fold_options().unwrap();
    assert!(args.image.strict && args.image.verify == VerifyMode::Off);
    assert_eq!((args.view, args.reference, args.dir), (ViewMode::Rootfs, "a.tar".into(), "/mnt".into()));
}

#[test]
fn flags_by_their_long_names() {
    let args = with_options("foreground,no-cache,strict,follow-dirlinks").unwrap();
    assert!(args.foreground && args.image.no_cache && args.image.strict && args.image.follow_dirlinks);
}

#[test]
fn every_long_option_is_a_mount_option_too() {
    let command = MountArgs::augment_args(Command::new("mount"));
    let long: Vec<_> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
    assert!(long.len() >= 11, "{long:?}");
    for name in long {
        let refusal = with_options(name).err().map(|error| error.to_string());
        assert!(refusal.is_none_or(|text| text.ends_with("needs a value")), "{name}");
    }
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let table = [
        ("ro,frobnicate", "mount option 'frobnicate' is unknown"),
        ("frobnicate=1", "mount option 'frobnicate' is unknown or takes no value"),
        ("help", "mount option 'help' is unknown"),
        ("suid=1", "mount option 'suid' is unknown or takes no value"),
        ("platform", "mount option 'platform' needs a value"),
        ("strict=1", "mount option 'strict' is unknown or takes no value"),
        ("verify=half", "mount option 'verify': 'half' is not one of full, off"),
        (
            "cache-size=big",
            "mount option 'cache-size': 'big' is not a size; use bytes, or a suffix as in 256M",
        ),
    ];
    for (list, expected) in table {
        assert_eq!(with_options(list).unwrap_err().to_string(), expected);
    }
}

#[test]
fn several_lists_add_up() {
    let mut args = parse(&["a.tar", "/mnt", "-o", "rw,suid", "-o", "dev,platform=a/b"]);
    args.fold_options().unwrap();
    assert!(args.kernel.dev && !args.kernel.suid);
    assert_eq!(args.image.select.platform.as_deref(), Some("a/b"));
}

#[test]
fn faults_with_a_way_out_have_a_hint() {
    let gone = hint("/mnt", &MountFault::Dead);
    assert_eq!(gone.as_deref(), Some("unmount it with `imgmount umount /mnt`"));
    assert!(hint("/mnt", &MountFault::NoHelper).unwrap().contains("fuse3"));
    assert!(hint("/mnt", &MountFault::NoDevice).unwrap().contains("without FUSE"));
    assert_eq!(hint("/mnt", &MountFault::NotFound), None);
}

#[test]
fn an_idle_mount_is_told_once_the_time_is_up() {
    let (_sender, events) = mpsc::channel();
    let start = std::time::Instant::now();
    let timeout = Duration::from_millis(60);
    assert_eq!(next_event(&events, Some(timeout), || start.elapsed()), Event::Idle);
    assert!(start.elapsed() >= timeout);
}

#[test]
fn a_used_mount_is_not_idle() {
    let (sender, events) = mpsc::channel();
    let asked = std::cell::Cell::new(0);
    let idle = || {
        asked.set(asked.get() + 1);
        if asked.get() == 3 {
            sender.send(Event::Ended).unwrap();
        }
        Duration::ZERO
    };
    assert_eq!(next_event(&events, Some(Duration::from_millis(10)), idle), Event::Ended);
    assert_eq!(asked.get(), 3);
}

#[test]
fn a_signal_goes_before_idleness() {
    let (sender, events) = mpsc::channel();
    sender.send(Event::Signal(SIGTERM)).unwrap();
    let idle = || Duration::from_secs(100);
    assert_eq!(next_event(&events, Some(Duration::from_secs(1)), idle), Event::Signal(SIGTERM));
}
