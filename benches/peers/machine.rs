//! Describes the machine and the commit of a measurement.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::measure::output;
use crate::report::Machine;

/// Describes this machine; `inputs` is on one of its disks.
pub(crate) fn describe(inputs: &Path) -> Machine {
    let disk = Command::new("findmnt").args(["-no", "FSTYPE,SOURCE", "--target"]).arg(inputs).output();
    let disk = disk.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default();
    Machine {
        cpu: value("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        system: value("/etc/os-release", "PRETTY_NAME").unwrap_or_default(),
        inputs_on: disk.split_whitespace().collect::<Vec<_>>().join(", "),
    }
}

/// Returns the date, in UTC.
pub(crate) fn today() -> String {
    output(Command::new("date").args(["-u", "+%F"])).unwrap_or_default().trim().to_owned()
}

/// Returns the commit that is measured, with a mark if the checkout differs from it.
pub(crate) fn commit() -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--exclude=*"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    output(&mut git).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn memory() -> u64 {
    let kib = value("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Returns the value of the first line of `file` that consists of `name`, then `:` or `=`, and the
/// value.
fn value(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let (_, value) =
        text.lines().filter_map(|line| line.split_once([':', '='])).find(|(n, _)| n.trim() == name)?;
    Some(value.trim().trim_matches('"').to_owned())
}
