//! Writes log lines to standard error.
//!
//! This module owns their format, `imgmount: LEVEL: MESSAGE`, and when a timestamp precedes it: not on
//! a terminal, which shows messages at once, but in a log file, which is read later.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use imgmount::Timestamp;
use log::LevelFilter;

use super::output::rfc3339_millis;
use super::printable;

/// Whether lines begin with the time.
static WITH_TIME: AtomicBool = AtomicBool::new(false);

/// Starts logging: warnings and errors, or what `-v`, `-q` or `IMGMOUNT_LOG` select.
pub(crate) fn init(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("IMGMOUNT_LOG", level))
        // These log addresses that are signed, for whoever knows them.
        .filter_module("ureq", LevelFilter::Off)
        .filter_module("ureq_proto", LevelFilter::Off)
        .filter_module("rustls", LevelFilter::Off)
        .format(|out, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(out, "{}{level}: {}", prefix(), printable(&record.args().to_string()))
        })
        .init();
}

/// Starts all further lines with the time, in UTC.
#[cfg(feature = "fuse")]
pub(crate) fn show_time() {
    WITH_TIME.store(true, Ordering::Relaxed);
}

/// Returns the start of a line: `imgmount: `, preceded by the time if times are shown.
pub(crate) fn prefix() -> String {
    if !WITH_TIME.load(Ordering::Relaxed) {
        return "imgmount: ".to_owned();
    }
    // A clock before 1970 is treated as 1970.
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Timestamp { seconds: since_epoch.as_secs(), nanos: since_epoch.subsec_nanos() };
    format!("{} imgmount: ", rfc3339_millis(now))
}
