//! The setters of [`MountOptions`]. They make no decisions.

use std::time::Duration;

use super::{MountOptions, MountView};

impl MountOptions {
    /// Sets the source in the mount table.
    #[must_use]
    pub fn fsname(mut self, fsname: impl Into<String>) -> Self {
        self.fsname = fsname.into();
        self
    }

    /// Sets whether all users have access.
    #[must_use]
    pub fn allow_other(mut self, allow_other: bool) -> Self {
        self.allow_other = allow_other;
        self
    }

    /// Sets whether root has access in addition to the mounting user.
    #[must_use]
    pub fn allow_root(mut self, allow_root: bool) -> Self {
        self.allow_root = allow_root;
        self
    }

    /// Sets whether the kernel checks modes and owners for the mounting user, too.
    #[must_use]
    pub fn default_permissions(mut self, default_permissions: bool) -> Self {
        self.default_permissions = default_permissions;
        self
    }

    /// Sets whether set-user-id and set-group-id bits are honoured.
    #[must_use]
    pub fn suid(mut self, suid: bool) -> Self {
        self.suid = suid;
        self
    }

    /// Sets whether device files can be accessed.
    #[must_use]
    pub fn dev(mut self, dev: bool) -> Self {
        self.dev = dev;
        self
    }

    /// Sets whether executing programs is forbidden.
    #[must_use]
    pub fn noexec(mut self, noexec: bool) -> Self {
        self.noexec = noexec;
        self
    }

    /// Sets the number of threads that take requests from the kernel.
    #[must_use]
    pub fn threads(mut self, threads: impl Into<Option<usize>>) -> Self {
        self.threads = threads.into();
        self
    }

    /// Sets the idle time after which the caller intends to unmount, measured by
    /// [`Mounted::idle`](super::Mounted::idle).
    #[must_use]
    pub fn idle_timeout(mut self, idle_timeout: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = idle_timeout.into();
        self
    }

    /// Sets the trees to show.
    #[must_use]
    pub fn view(mut self, view: MountView) -> Self {
        self.view = view;
        self
    }
}
