//! Setters of [`MountOptions`].

use std::time::Duration;

use super::{MountOptions, MountView};

impl MountOptions {
    /// Sets the source in the mount table.
    #[must_use]
    pub fn fsname(mut self, fsname: impl Into<String>) -> Self {
        self.fsname = fsname.into();
        self
    }

    /// Allows access for all users.
    #[must_use]
    pub fn allow_other(mut self, allow_other: bool) -> Self {
        self.allow_other = allow_other;
        self
    }

    /// Allows access for root beside the mounting user.
    #[must_use]
    pub fn allow_root(mut self, allow_root: bool) -> Self {
        self.allow_root = allow_root;
        self
    }

    /// Lets the kernel check modes and owners for the mounting user, too.
    #[must_use]
    pub fn default_permissions(mut self, default_permissions: bool) -> Self {
        self.default_permissions = default_permissions;
        self
    }

    /// Honours set-user-id and set-group-id bits.
    #[must_use]
    pub fn suid(mut self, suid: bool) -> Self {
        self.suid = suid;
        self
    }

    /// Makes devices usable.
    #[must_use]
    pub fn dev(mut self, dev: bool) -> Self {
        self.dev = dev;
        self
    }

    /// Forbids running programs.
    #[must_use]
    pub fn noexec(mut self, noexec: bool) -> Self {
        self.noexec = noexec;
        self
    }

    /// Sets the number of requests that are served at a time.
    #[must_use]
    pub fn threads(mut self, threads: impl Into<Option<usize>>) -> Self {
        self.threads = threads.into();
        self
    }

    /// Sets the value of [`Mounted::idle`](super::Mounted::idle) at which the caller means to unmount.
    #[must_use]
    pub fn idle_timeout(mut self, idle_timeout: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = idle_timeout.into();
        self
    }

    /// Sets the trees that are shown.
    #[must_use]
    pub fn view(mut self, view: MountView) -> Self {
        self.view = view;
        self
    }
}
