//! Limits of the system on this process: descriptors, and the size of files.

use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::SIGXFSZ;
use signal_hook::flag;

/// Raises the number of descriptors to the most that the system allows: by default only 1,024 of them may be used,
/// because `select` cannot wait for more. An image of thousands of layers needs several for each.
pub(super) fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(errno) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        log::debug!("cannot raise the limit on descriptors: {errno}");
    }
}

/// Makes a write past the limit on the size of files an error, which says so, and not the end of the program. The
/// programs that this one starts are not affected.
pub(super) fn report_file_size_limit() {
    // The flag is not read; it only keeps the signal from ending the program.
    if let Err(cause) = flag::register(SIGXFSZ, Arc::default()) {
        log::debug!("cannot catch SIGXFSZ: {cause}");
    }
}
