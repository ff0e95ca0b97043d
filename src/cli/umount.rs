//! `imgmount umount DIR`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::commands::{Command, Example};

/// Unmount an image
///
/// Works for mounts whose process is gone, too. A mount in use stays; who uses it is said.
#[derive(Debug, clap::Args)]
pub(crate) struct UmountArgs {
    /// Where the image is mounted
    dir: PathBuf,
}

impl Command for UmountArgs {
    const NAME: &'static str = "umount";
    const EXAMPLES: &'static [Example] =
        &[("imgmount umount /mnt", "End a mount, also one whose process is gone:")];

    fn run(self) -> anyhow::Result<ExitCode> {
        run(&self)
    }
}

/// Unmounts.
fn run(args: &UmountArgs) -> anyhow::Result<ExitCode> {
    imgmount::unmount(&args.dir)?;
    Ok(ExitCode::SUCCESS)
}
