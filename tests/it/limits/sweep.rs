//! Runs every command on every hostile image, and prints what each needs.
//!
//! `make limits` runs this with the optimised program; `make test` builds no such image. `IMGMOUNT_LIMITS`
//! selects images: `all`, or names separated by commas.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, io};

use super::hostile::{self, Hostile, MAX_BYTES};
use super::measure::{Bounds, Measured, Watched, first_line, measure};
use crate::mounted::{is_mounted, unmount};

const VARIABLE: &str = "IMGMOUNT_LIMITS";
/// The program to measure, instead of the one that the tests are built with.
const PROGRAM: &str = "IMGMOUNT_LIMITS_PROGRAM";
/// A directory in which the images are kept for the next run, because some take a minute to make.
const IMAGES: &str = "IMGMOUNT_LIMITS_IMAGES";
/// The goal of docs/limits.md for every command.
const GOAL: Bounds =
    Bounds { wall: Duration::from_secs(30), cpu: Duration::from_secs(30), peak_bytes: 512 << 20 };
/// Where a command is killed, so that the figures show by how much the goal is missed.
const KILLED: Bounds =
    Bounds { wall: Duration::from_secs(120), cpu: Duration::from_secs(40), peak_bytes: 2 << 30 };

/// Commands with the image as `IMAGE`, and a directory of their own as `DIR`.
const COMMANDS: &[&str] = &[
    "ls IMAGE",
    "ls -lR IMAGE",
    "inspect IMAGE",
    "inspect --json IMAGE",
    "history IMAGE",
    "history IMAGE:/a",
    "deleted --overwritten IMAGE",
    "diff --a-upto 0 IMAGE",
    "diff -u --a-upto 0 IMAGE",
    "diff --html DIR/page.html --a-upto 0 IMAGE",
    "verify IMAGE",
    "images IMAGE",
    "cat IMAGE:/**",
    "cp IMAGE:/ DIR/copy",
    "extract IMAGE DIR/tree",
    "export IMAGE",
    "ls -R --no-cache IMAGE",
    "export --no-cache IMAGE",
    "ls -R --verify off IMAGE",
];

/// Options of mounts that are walked and read.
const MOUNTS: &[&str] = &["", "--no-cache", "--view all"];

struct Place {
    dir: tempfile::TempDir,
    image: PathBuf,
    program: PathBuf,
}

impl Place {
    fn command(&self, text: &str) -> Command {
        let work = self.dir.path().join("work");
        let mut command = Command::new(&self.program);
        for word in text.split(' ') {
            let word = word.replace("IMAGE", self.image.to_str().unwrap());
            command.arg(word.replace("DIR", work.to_str().unwrap()));
        }
        command.env("IMGMOUNT_CACHE_DIR", self.dir.path().join("cache")).env_remove("IMGMOUNT_LOG");
        command.current_dir(&work);
        command
    }

    /// Makes the directory for the output of a command empty.
    fn clear(&self) {
        let work = self.dir.path().join("work");
        if let Err(error) = fs::remove_dir_all(&work) {
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        }
        fs::create_dir(&work).unwrap();
        fs::create_dir(work.join("mnt")).unwrap();
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Mounts the image, lists all names with their attributes, and reads all files. Returns what the server
    /// has used for each of these steps together with the steps before.
    fn mount(&self, options: &str) -> Vec<(String, Measured)> {
        self.clear();
        let point = self.dir.path().join("work/mnt");
        let label =
            |step: &str| format!("mount {options}{}{step}", if options.is_empty() { "" } else { " " });
        let mut command = self.command("mount -f IMAGE DIR/mnt");
        command.args(options.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::File::create(self.log()).unwrap());
        let mut server = Watched::start(&mut command);
        while server.look() && !is_mounted(&point) && server.spent().wall < KILLED.wall {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !is_mounted(&point) {
            let (spent, code) = server.finish(KILLED);
            return vec![(label(""), Measured { spent, code, said: first_line(&self.log()) })];
        }
        let mut found = vec![(label(""), self.step(&mut server, 0))];
        let scripts = [("find -ls", "find . -ls"), ("cat", "find . -type f -size -1G -exec cat {} +")];
        for (step, script) in scripts {
            let mut reader = Command::new("timeout");
            let seconds = GOAL.wall.as_secs().to_string();
            reader.args(["-s", "KILL", seconds.as_str(), "sh", "-c", script]).current_dir(&point);
            reader.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut reader = reader.spawn().unwrap();
            let start = server.spent();
            let code = loop {
                server.look();
                if let Some(status) = reader.try_wait().unwrap() {
                    break status.code().unwrap_or(-1);
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            let mut measured = self.step(&mut server, if code == 0 { 0 } else { 1 });
            measured.spent.wall -= start.wall;
            measured.spent.cpu = measured.spent.cpu.saturating_sub(start.cpu);
            if code > 1 {
                measured.said = format!("not done after {} s", GOAL.wall.as_secs());
            }
            found.push((label(step), measured));
        }
        server.terminate();
        server.finish(Bounds { wall: Duration::from_secs(600), ..KILLED });
        if is_mounted(&point) {
            unmount(&point, true);
        }
        found
    }

    fn step(&self, server: &mut Watched, code: i32) -> Measured {
        server.look();
        Measured { spent: server.spent(), code: Some(code), said: first_line(&self.log()) }
    }
}

/// Returns why an outcome misses the goal.
fn miss(measured: &Measured) -> Option<String> {
    let mut text = String::new();
    let Measured { spent, code, said } = measured;
    // On a busy machine a command waits for a processor: then its own time counts.
    if spent.cpu > GOAL.cpu || (spent.wall > GOAL.wall && spent.cpu > spent.wall / 2) {
        text.push_str(" TIME");
    }
    if spent.peak_bytes > GOAL.peak_bytes {
        text.push_str(" MEMORY");
    }
    if !matches!(code, Some(0..=2)) || (*code == Some(2) && !said.starts_with("imgmount: ")) {
        write!(text, " EXIT {code:?}").unwrap();
    }
    (!text.is_empty()).then_some(text)
}

fn row(image: &str, command: &str, measured: &Measured) -> String {
    let Measured { spent, code, said } = measured;
    let said: String = said.chars().take(150).collect();
    format!(
        "| {image} | `{command}` | {} | {:.1} | {:.1} | {} | {} | {said} |",
        code.map_or("killed".to_owned(), |code| code.to_string()),
        spent.wall.as_secs_f64(),
        spent.cpu.as_secs_f64(),
        spent.peak_bytes >> 20,
        miss(measured).unwrap_or_default().trim(),
    )
}

fn bytes_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum()
}

/// Prints a line at once, whether or not the test passes.
fn say(text: &str) {
    // A failure to print is not a failure of the test.
    let _ = writeln!(io::stdout(), "{text}");
}

/// Returns the bytes of an image, from the directory of images if it is there.
fn made(hostile: &Hostile) -> Vec<u8> {
    let Some(images) = env::var_os(IMAGES).map(PathBuf::from) else { return (hostile.make)() };
    let kept = images.join(format!("{}.tar", hostile.name));
    fs::read(&kept).unwrap_or_else(|_| {
        let bytes = (hostile.make)();
        fs::write(&kept, &bytes).unwrap();
        bytes
    })
}

/// Runs all commands on one image. Returns the outcomes that miss the goal.
fn sweep(hostile: &Hostile, program: &Path) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image.tar");
    let bytes = made(hostile);
    say(&format!("# {}: {}; {} bytes", hostile.name, hostile.about, bytes.len()));
    if bytes.len() > MAX_BYTES {
        return vec![format!("{} has {} bytes", hostile.name, bytes.len())];
    }
    fs::write(&image, bytes).unwrap();
    let place = Place { dir, image, program: program.to_owned() };
    let mut missed = Vec::new();
    let mut report = |command: &str, measured: &Measured| {
        let row = row(hostile.name, command, measured);
        say(&row);
        missed.extend(miss(measured).map(|_| row));
    };
    for command in COMMANDS {
        place.clear();
        report(command, &measure(&mut place.command(command), KILLED, &place.log()));
    }
    for options in MOUNTS {
        for (step, measured) in place.mount(options) {
            report(&step, &measured);
        }
    }
    place.clear();
    let cached = bytes_below(&place.dir.path().join("cache"));
    say(&format!("# {}: {cached} bytes in the cache directory", hostile.name));
    missed
}

#[test]
fn every_command_on_every_hostile_image_is_within_the_goal() {
    let Ok(wanted) = env::var(VARIABLE) else {
        println!("SKIPPED: {VARIABLE} is not set; `make limits` runs this for an hour");
        return;
    };
    let program = env::var_os(PROGRAM).map_or(env!("CARGO_BIN_EXE_imgmount").into(), PathBuf::from);
    let program = fs::canonicalize(program).unwrap();
    let selected =
        hostile::ALL.iter().filter(|one| wanted == "all" || wanted.split(',').any(|name| name == one.name));
    let mut missed = Vec::new();
    say("| image | command | exit | wall s | cpu s | peak MiB | missed | message |");
    say("|---|---|---|---|---|---|---|---|");
    for hostile in selected {
        missed.extend(sweep(hostile, &program));
    }
    assert!(missed.is_empty(), "{} outcomes miss the goal:\n{}", missed.len(), missed.join("\n"));
}
