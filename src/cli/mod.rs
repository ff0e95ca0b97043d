//! The command line: the only printers. One file a command.

pub(crate) mod daemon;
pub(crate) mod mount;
pub(crate) mod options;
pub(crate) mod umount;
