//! What happens beside the readers: other commands use the same images and cache directories.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::places::Place;
use super::sources::Source;
use super::{HUNG, Soak, readers};
use crate::mounted::{Run, run as run_command};
use crate::numbers::Random;

/// Runs a command on an image, with the cache directory of mounts.
pub(super) fn run(soak: &Soak, random: &mut Random) {
    let (place, source) = (random.pick(&soak.places), random.pick(&soak.sources));
    let Some(_opening) = source.open() else { return };
    let reference = source.reference(random).to_owned();
    match random.below(15) {
        0..6 => cat(soak, random, place, source, &reference),
        6 | 7 => extract(soak, place, source, &reference),
        8 | 9 => export(soak, place, source, &reference),
        10 => drop(finished(soak, &mut command(place, &["verify", &reference]))),
        11 => diff(soak, place, source, &reference),
        12 => drop(finished(soak, &mut command(place, &["cache", "prune", "--max-size", "3M"]))),
        13 => drop(finished(soak, &mut command(place, &["cache", "clear"]))),
        _ => interrupt(soak, random, &mut command(place, &["ls", "-R", &reference])),
    }
}

fn command(place: &Place, args: &[&str]) -> Command {
    let mut command = place.imgmount.command(args);
    command.env("HOME", place.imgmount.dir());
    if args[0] != "cache" {
        command.args(["--net-timeout", "3s"]);
    }
    command
}

/// Runs a command to its end; anything but an answer or an error is a failure.
fn finished(soak: &Soak, command: &mut Command) -> Run {
    let what = format!("{command:?}");
    let done = soak.timed("command", &what, HUNG, || run_command(command));
    if !(0..=2).contains(&done.code) || done.stderr.contains("panicked") {
        soak.fail(format!("{what} ended with {}: {}", done.code, done.stderr));
    }
    soak.count(format!("commands with exit code {}", done.code));
    done
}

fn cat(soak: &Soak, random: &mut Random, place: &Place, source: &Source, reference: &str) {
    let number = random.below(source.variants[0].len());
    let name = &source.variants[0][number].0;
    let mut command = command(place, &["cat", &format!("{reference}:/{name}")]);
    command.args(*random.pick(&[&[][..], &["--no-cache"], &["--offline"]]));
    let done = finished(soak, &mut command);
    let contents = source.contents(number);
    let is_right = |content: &&Arc<[u8]>| match done.code {
        0 => done.stdout == ***content,
        _ => content.starts_with(&done.stdout),
    };
    if !contents.iter().any(is_right) {
        let contents: Vec<&[u8]> = contents.iter().map(|content| &***content).collect();
        let what = format!("cat of {name} of {} with exit code {}", source.name, done.code);
        readers::wrong(soak, &what, &done.stdout, &contents);
    }
}

fn extract(soak: &Soak, place: &Place, source: &Source, reference: &str) {
    let target = place.imgmount.dir().join("extracted");
    let done = finished(soak, &mut command(place, &["extract", reference, target.to_str().expect("UTF-8")]));
    if done.code == 0 {
        let what = format!("extract of {}", source.name);
        check_files(soak, source, &what, |name| fs::read(target.join(name)).ok());
    }
    let _ = fs::remove_dir_all(target);
}

fn export(soak: &Soak, place: &Place, source: &Source, reference: &str) {
    let target = place.imgmount.dir().join("exported.tar");
    let path = target.to_str().expect("UTF-8");
    let done = finished(soak, &mut command(place, &["export", "-o", path, reference]));
    if done.code == 0 {
        let mut files = HashMap::new();
        let mut archive = tar::Archive::new(fs::File::open(&target).expect("an exported tar"));
        for entry in archive.entries().expect("an exported tar") {
            let mut entry = entry.expect("an entry");
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("an entry");
            files.insert(name, content);
        }
        check_files(soak, source, &format!("export of {}", source.name), |name| files.remove(name));
    } else if target.exists() {
        soak.fail(format!("export of {} failed and left a file: {}", source.name, done.stderr));
    }
    let _ = fs::remove_file(target);
}

/// Checks that all files are those of one image.
fn check_files(soak: &Soak, source: &Source, what: &str, mut read: impl FnMut(&str) -> Option<Vec<u8>>) {
    let mut variants = u8::MAX;
    for (number, (name, _)) in source.variants[0].iter().enumerate() {
        let Some(bytes) = read(name) else { return soak.fail(format!("{what} has no {name}")) };
        let contents = source.contents(number);
        variants &= readers::matching(contents.iter().map(|content| bytes == ***content));
        if variants == 0 {
            let contents: Vec<&[u8]> = contents.iter().map(|content| &***content).collect();
            return readers::wrong(soak, &format!("{what}: {name}"), &bytes, &contents);
        }
    }
}

/// Compares an image with itself. While it is replaced by another, differences are right.
fn diff(soak: &Soak, place: &Place, source: &Source, reference: &str) {
    let changes = source.changes();
    let done = finished(soak, &mut command(place, &["diff", reference, reference]));
    if done.code == 1 && source.changes() == changes {
        soak.fail(format!("{} differs from itself: {}", source.name, done.text()));
    }
}

/// Starts a command and ends it by a signal after a while.
fn interrupt(soak: &Soak, random: &mut Random, command: &mut Command) {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child = child.expect("starting the program");
    thread::sleep(Duration::from_millis(random.next() % 1500));
    // Not SIGINT, which is ignored if the test runs in the background of a shell.
    let signal = *random.pick(&[rustix::process::Signal::TERM, rustix::process::Signal::KILL]);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).expect("a signal");
    let limit = soak.limit(Duration::from_secs(5));
    soak.timed("end of a command", "a command that got a signal", limit, || child.wait().expect("its end"));
    soak.count("commands ended by a signal");
}
