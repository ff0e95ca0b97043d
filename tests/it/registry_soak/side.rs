//! What happens beside mounts: damage to the content cache, and other commands.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::{HUNG, Known, Soak, readers};
use crate::mounted::{Imgmount, Run, run as run_command};
use crate::numbers::Random;

/// Truncates, changes or removes something in a content cache.
pub(super) fn damage(soak: &Soak, random: &mut Random) {
    thread::sleep(Duration::from_millis(random.next() % 150));
    let cache = random.pick(&soak.places).cache();
    let blobs = listed(&cache.join("blobs"));
    match random.below(16) {
        0..4 => {
            for path in &blobs {
                change(path, |file| file.set_len(0));
            }
        }
        4 => blobs.iter().for_each(|path| drop(fs::remove_file(path))),
        5 => {
            let folder = random.pick(&["blobs", "docs", "refs"]);
            drop(fs::remove_dir_all(cache.join(folder)));
        }
        6 => listed(&cache).iter().for_each(|path| drop(fs::remove_file(path))),
        7..9 if !blobs.is_empty() => drop(fs::remove_file(random.pick::<PathBuf>(&blobs))),
        9..12 if !blobs.is_empty() => change(random.pick::<PathBuf>(&blobs), |file| {
            let size = file.metadata()?.len();
            file.set_len(random.next() % (size + 1))
        }),
        _ if !blobs.is_empty() => change(random.pick::<PathBuf>(&blobs), |file| {
            let size = file.metadata()?.len().max(1);
            (0..=random.below(20)).try_for_each(|_| {
                let byte = *random.pick(&[0, 1, 255]);
                file.write_all_at(&[byte], random.next() % size)
            })
        }),
        _ => return,
    }
    soak.count("damages");
}

/// Returns the files in a directory, which can be gone.
fn listed(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().map_while(Result::ok);
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

/// Changes a file, unless it is gone.
fn change(path: &Path, change: impl FnOnce(&File) -> std::io::Result<()>) {
    if let Ok(file) = File::options().read(true).write(true).open(path) {
        change(&file).expect("changing a file");
    }
}

/// Runs a command on an image, with the cache directory of mounts.
pub(super) fn run(soak: &Soak, random: &mut Random) {
    let (place, image) = (random.pick(&soak.places), random.pick(&soak.images));
    let reference = soak.registry.reference(image.name);
    match random.below(12) {
        0..6 => cat(soak, random, place, image, &reference),
        6 => extract(soak, place, image, &reference),
        7 => drop(finished(soak, &mut command(place, &["verify", &reference]))),
        8 => drop(finished(soak, &mut command(place, &["cache", "prune", "--max-size", "3M"]))),
        9 => drop(finished(soak, &mut command(place, &["cache", "clear"]))),
        _ => interrupt(soak, random, &mut command(place, &["ls", "-R", &reference])),
    }
}

fn command(place: &Imgmount, args: &[&str]) -> Command {
    let mut command = place.command(args);
    command.env("HOME", place.dir());
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

fn cat(soak: &Soak, random: &mut Random, place: &Imgmount, image: &Known, reference: &str) {
    let (name, content) = random.pick(&image.files);
    let mut command = command(place, &["cat", &format!("{reference}:/{name}")]);
    command.args(*random.pick(&[&[][..], &["--no-cache"], &["--offline"]]));
    let done = finished(soak, &mut command);
    let is_right = match done.code {
        0 => done.stdout == **content,
        _ => content.starts_with(&done.stdout),
    };
    if !is_right {
        readers::wrong(soak, &format!("cat of {name} with exit code {}", done.code), &done.stdout, content);
    }
}

fn extract(soak: &Soak, place: &Imgmount, image: &Known, reference: &str) {
    let target = place.dir().join("extracted");
    let done = finished(soak, &mut command(place, &["extract", reference, target.to_str().expect("UTF-8")]));
    if done.code == 0 {
        for (name, content) in &image.files {
            let bytes = fs::read(target.join(name)).expect("an extracted file");
            if bytes != **content {
                readers::wrong(soak, &format!("{name}, extracted"), &bytes, content);
            }
        }
    }
    let _ = fs::remove_dir_all(target);
}

/// Starts a command and ends it by a signal after a while.
fn interrupt(soak: &Soak, random: &mut Random, command: &mut Command) {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child = child.expect("starting the program");
    thread::sleep(Duration::from_millis(random.next() % 1500));
    // Not SIGINT, which is ignored if the test runs in the background of a shell.
    let signal = *random.pick(&[rustix::process::Signal::TERM, rustix::process::Signal::KILL]);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).expect("a signal");
    let limit = Duration::from_secs(5);
    soak.timed("end of a command", "a command that got a signal", limit, || child.wait().expect("its end"));
    soak.count("commands ended by a signal");
}
