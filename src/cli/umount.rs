//! `imgmount umount DIR`.

use std::path::PathBuf;
use std::process::ExitCode;

/// Unmount an image
///
/// Works for mounts whose process is gone, too. A mount in use stays; who uses it is said.
#[derive(Debug, clap::Args)]
pub(crate) struct UmountArgs {
    /// Where the image is mounted
    dir: PathBuf,
}

/// Unmounts.
pub(crate) fn run(args: &UmountArgs) -> anyhow::Result<ExitCode> {
    imgmount::fuse::unmount(&args.dir)?;
    Ok(ExitCode::SUCCESS)
}
