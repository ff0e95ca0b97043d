//! `imgmount umount DIR`: unmounts an image.

use std::path::PathBuf;
use std::process::ExitCode;

use super::commands::{Command, Example};

/// Unmount an image
///
/// Also unmounts a mount whose process is gone. A mount that is in use stays mounted, and the processes that
/// use it are listed.
#[derive(Debug, clap::Args)]
pub(crate) struct UmountArgs {
    /// Mount point
    dir: PathBuf,
}

impl Command for UmountArgs {
    const NAME: &'static str = "umount";
    const EXAMPLES: &'static [Example] =
        &[("imgmount umount /mnt", "Unmount an image, even if the process that serves it is gone:")];

    fn run(self) -> anyhow::Result<ExitCode> {
        run(&self)
    }
}

/// Unmounts.
fn run(args: &UmountArgs) -> anyhow::Result<ExitCode> {
    imgmount::unmount(&args.dir)?;
    Ok(ExitCode::SUCCESS)
}
