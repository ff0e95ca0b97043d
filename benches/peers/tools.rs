//! Which peers are here.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::mounts::is_root;
use crate::report::Tool;

/// Programs that are compared with, and how they tell their version.
const PEERS: &[(&str, &[&str])] = &[
    ("igzip", &["--version"]),
    ("gzip", &["--version"]),
    ("pigz", &["--version"]),
    ("zstd", &["--version"]),
    ("openssl", &["version"]),
    ("tar", &["--version"]),
    ("diff", &["--version"]),
    ("umoci", &["--version"]),
    ("podman", &["--version"]),
    ("dockerd", &["--version"]),
    ("ratarmount", &["--version"]),
    ("archivemount", &["--version"]),
    ("fuse-archive", &["--version"]),
    ("squashfuse_ll", &["--help"]),
    ("mksquashfs", &["-version"]),
    ("mkfs.erofs", &["--version"]),
];

/// What a contender cannot do without.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Need {
    Program(&'static str),
    Root,
    /// A file system of the kernel.
    Kernel(&'static str),
}

/// What of this is not there, as a table says it.
pub(crate) fn missing(needs: &[Need]) -> Option<String> {
    needs.iter().find_map(|need| match need {
        Need::Program(name) => find(name).is_none().then(|| format!("not installed: {name}")),
        Need::Root => (!is_root()).then(|| "needs root".to_owned()),
        Need::Kernel(name) => (!kernel_has(name)).then(|| format!("not in this kernel: {name}")),
    })
}

/// Where a program is: administrators' programs are looked for even if PATH is a user's.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// A program with all that it may call in its PATH.
pub(crate) fn command(name: &str) -> Command {
    Command::new(find(name).unwrap_or_else(|| PathBuf::from(name)))
}

/// All peers and this program, with their versions.
pub(crate) fn versions(program: &Path) -> Vec<Tool> {
    let ours = Tool { name: "imgmount".to_owned(), version: version(program, &["--version"]) };
    let peers = PEERS.iter().map(|(name, arguments)| Tool {
        name: (*name).to_owned(),
        version: find(name).map(|file| version(&file, arguments).unwrap_or_else(|| "?".to_owned())),
    });
    std::iter::once(ours).chain(peers).collect()
}

/// The version that a program prints: the first line with a digit in it, if possible one with its name.
fn version(program: &Path, arguments: &[&str]) -> Option<String> {
    let out = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    let text = [out.stdout, out.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let has_digit = |line: &str| line.contains(|c: char| c.is_ascii_digit());
    let stem = program.file_name()?.to_str()?.split(['_', '.']).next()?.to_lowercase();
    let mut lines: Vec<&str> = text.lines().filter(|line| has_digit(line)).collect();
    lines.sort_by_key(|line| !line.to_lowercase().contains(&stem));
    let line = lines.first()?.trim_matches(['*', ' ']);
    // What follows in parentheses tells of libraries and dates.
    let short = line.split(" (").next().filter(|short| has_digit(short));
    Some(short.unwrap_or(line).to_owned())
}

fn kernel_has(name: &str) -> bool {
    let known = || {
        let list = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        list.lines().any(|line| line.split_whitespace().last() == Some(name))
    };
    let load = || Command::new("modprobe").args(["-q", name]).status().is_ok_and(|status| status.success());
    known() || (load() && known())
}
