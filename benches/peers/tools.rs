//! Finds the installed peers.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::mounts::is_root;
use crate::report::Tool;

/// The programs to compare with, and the options that print their versions.
const PEERS: &[(&str, &[&str])] = &[
    ("igzip", &["--version"]),
    ("gzip", &["--version"]),
    ("pigz", &["--version"]),
    ("zstd", &["--version"]),
    ("openssl", &["version"]),
    ("tar", &["--version"]),
    ("diff", &["--version"]),
    ("umoci", &["--version"]),
    ("curl", &["--version"]),
    ("docker-registry", &["--version"]),
    ("skopeo", &["--version"]),
    ("podman", &["--version"]),
    ("dockerd", &["--version"]),
    ("ratarmount", &["--version"]),
    ("archivemount", &["--version"]),
    ("fuse-archive", &["--version"]),
    ("squashfuse_ll", &["--help"]),
    ("mksquashfs", &["-version"]),
    ("mkfs.erofs", &["--version"]),
];

/// A requirement of a contender.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Need {
    Program(&'static str),
    Root,
    /// A file system of the kernel.
    Kernel(&'static str),
}

/// Returns the first missing requirement, as text for a table.
pub(crate) fn missing(needs: &[Need]) -> Option<String> {
    needs.iter().find_map(|need| match need {
        Need::Program(name) => find(name).is_none().then(|| format!("not installed: {name}")),
        Need::Root => (!is_root()).then(|| "needs root".to_owned()),
        Need::Kernel(name) => (!kernel_has(name)).then(|| format!("not in this kernel: {name}")),
    })
}

/// Returns the path of a program; sbin directories are searched even if PATH does not contain them.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Returns a command whose PATH contains all programs that it may call.
pub(crate) fn command(name: &str) -> Command {
    Command::new(find(name).unwrap_or_else(|| PathBuf::from(name)))
}

/// Returns all peers and imgmount, with their versions.
pub(crate) fn versions(program: &Path) -> Vec<Tool> {
    let ours = Tool { name: "imgmount".to_owned(), version: version(program, &["--version"]) };
    let peers = PEERS.iter().map(|(name, arguments)| Tool {
        name: (*name).to_owned(),
        version: find(name).map(|file| version(&file, arguments).unwrap_or_else(|| "?".to_owned())),
    });
    std::iter::once(ours).chain(peers).collect()
}

/// Returns the version that a program prints: the first line with a digit, preferably one with the
/// program's name.
fn version(program: &Path, arguments: &[&str]) -> Option<String> {
    let out = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    let text = [out.stdout, out.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let has_digit = |line: &str| line.contains(|c: char| c.is_ascii_digit());
    let stem = program.file_name()?.to_str()?.split(['_', '.']).next()?.to_lowercase();
    let mut lines: Vec<&str> = text.lines().filter(|line| has_digit(line)).collect();
    lines.sort_by_key(|line| !line.to_lowercase().contains(&stem));
    let line = lines.first()?.trim_matches(['*', ' ']);
    // The text in parentheses is about libraries and dates.
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
