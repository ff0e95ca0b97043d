//! The host that a store belongs to: its users, and the IDs that their containers may use.
//!
//! A store can lie below the root directory of another host, for example on a mounted disk. This module owns
//! which directory is that root, and reads its files as that host would see them: links are followed, and
//! none of them leads out of the root. It must not know what a store contains.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, Result, Subject};
use crate::read_at::FileBytes;
use crate::source::beneath::Beneath;
use crate::source::blobs::read_bounded;
use crate::source::directory::IdRange;

/// The largest file of the host's configuration that is read: 4 MiB. A list of ten thousand users takes
/// less than 1 MiB.
const MAX_HOST_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// The place of root's store, without the leading slash.
pub(super) const SYSTEM_STORE: &str = "var/lib/containers/storage";
/// The place of a user's store, below the home directory.
pub(super) const USER_STORE: &str = ".local/share/containers/storage";
/// The places of the data of a user's Docker engine, of its containerd, and of a user's containerd, below the
/// home directory.
const USER_DOCKER: &str = ".local/share/docker";
const USER_DOCKERS_CONTAINERD: &str = ".local/share/docker/containerd/daemon";
const USER_CONTAINERD: &str = ".local/share/containerd";

/// The root directory of a host.
#[derive(Debug)]
pub(super) struct Host {
    root: OwnedFd,
    path: PathBuf,
}

/// A user of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) home: String,
}

impl Host {
    /// Opens the root directory at `path`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::io_on("cannot open", Subject::File(path.to_owned()), errno.into()))?;
        Ok(Host { root, path: path.to_owned() })
    }

    /// Opens the root directory of the host to which the store at `store` belongs, see [`root_of`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn of_store(store: &Path) -> Result<Self> {
        let full = store
            .canonicalize()
            .map_err(|cause| Error::io_on("cannot open", Subject::File(store.to_owned()), cause))?;
        Host::open(&root_of(&full, &|file| file.is_file()))
    }

    /// Returns all bytes of the file at the absolute path `path` of the host; `None` if the file does not
    /// exist.
    ///
    /// # Errors
    /// [`Error::Limit`] past [`MAX_HOST_FILE_BYTES`]; [`Error::Malformed`] if it is not a regular file.
    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let what = Subject::File(self.place(path));
        let Some(fd) = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)? else {
            return Ok(None);
        };
        let file = File::from(fd);
        let cannot = |cause| Error::io_on("cannot read", what.clone(), cause);
        if !file.metadata().map_err(cannot)?.is_file() {
            return Err(Error::malformed(what, "not a regular file"));
        }
        let bytes = FileBytes::new(file).map_err(cannot)?;
        read_bounded(&what, &bytes, "MAX_HOST_FILE_BYTES", MAX_HOST_FILE_BYTES).map(Some)
    }

    /// Returns the directory at the absolute path `path` of the host; `None` if it does not exist or is not a
    /// directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn directory(&self, path: &str) -> Result<Option<Beneath>> {
        let found = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(found.map(|fd| Beneath::new(fd, self.place(path))))
    }

    /// Returns the user with the ID `uid`; `None` if `etc/passwd` does not list the ID.
    pub(super) fn user(&self, uid: u32) -> Option<User> {
        let passwd = self.text("/etc/passwd")?;
        passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, id, _, _, home, ..] = fields[..] else { return None };
            let is_user = id.parse() == Ok(uid) && !name.is_empty();
            is_user.then(|| User { name: name.to_owned(), home: home.to_owned() })
        })
    }

    /// Returns the users that the containers of user `uid` may use (`etc/subuid`), and the owners that they
    /// have on disk. User 0 is `uid` itself.
    pub(super) fn sub_users(&self, uid: u32) -> Vec<IdRange> {
        self.sub_ids("/etc/subuid", uid, uid)
    }

    /// Returns the groups that the containers of user `uid` may use (`etc/subgid`). Group 0 is `gid`.
    pub(super) fn sub_groups(&self, uid: u32, gid: u32) -> Vec<IdRange> {
        self.sub_ids("/etc/subgid", uid, gid)
    }

    fn sub_ids(&self, path: &str, uid: u32, own: u32) -> Vec<IdRange> {
        let text = self.text(path).unwrap_or_default();
        let name = self.user(uid).map(|user| user.name);
        let id = uid.to_string();
        let is_own = |owner: &str| owner == id || Some(owner) == name.as_deref();
        let mut found: Vec<(u32, u32)> = text
            .lines()
            .filter_map(sub_id_line)
            .filter(|(owner, ..)| is_own(owner))
            .map(|(_, a, b)| (a, b))
            .collect();
        // Engines use the ranges in this order, whatever their order in the file.
        found.sort_unstable();
        let mut ranges = vec![IdRange { container: 0, host: own, len: 1 }];
        let mut container: u32 = 1;
        for (host, len) in found {
            ranges.push(IdRange { container, host, len });
            let Some(next) = container.checked_add(len) else { break };
            container = next;
        }
        ranges
    }

    fn text(&self, path: &str) -> Option<String> {
        match self.read(path) {
            Ok(bytes) => Some(String::from_utf8_lossy(&bytes?).into_owned()),
            Err(error) => {
                log::warn!("{error}");
                None
            }
        }
    }

    /// Returns where the absolute path `path` of the host is.
    pub(super) fn place(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    fn open_at(&self, path: &str, flags: OFlags) -> Result<Option<OwnedFd>> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(Error::io_on("cannot open", Subject::File(self.place(path)), errno.into())),
        }
    }
}

/// Returns true if both are the same directory.
pub(super) fn is_same(a: &Beneath, b: &Beneath) -> bool {
    let of = |place: &Beneath| rustix::fs::fstat(place.fd()).map(|stat| (stat.st_dev, stat.st_ino));
    of(a).is_ok_and(|a| of(b).is_ok_and(|b| a == b))
}

/// Returns the root directory of the host to which the store at the absolute path `store` belongs:
///
/// 1. what precedes `var/lib/containers/storage`;
/// 2. for the place of an engine in `HOME/.local/share`, the nearest directory above HOME with `etc/passwd`,
///    unless that is `/` and HOME is neither `/home/USER` nor `/var/home/USER` nor `/root`; then what
///    precedes `home/USER`, so that no file of this host is read for a store of another one;
/// 3. otherwise the nearest directory above the store that contains `etc/passwd`.
fn root_of(store: &Path, is_file: &dyn Fn(&Path) -> bool) -> PathBuf {
    let above = |levels: usize| store.ancestors().nth(levels);
    if store.ends_with(SYSTEM_STORE)
        && let Some(root) = above(Path::new(SYSTEM_STORE).components().count())
    {
        return root.to_owned();
    }
    let user_stores = [USER_STORE, USER_DOCKER, USER_DOCKERS_CONTAINERD, USER_CONTAINERD];
    let user_store = user_stores.into_iter().find(|place| store.ends_with(place));
    let home = user_store.and_then(|place| above(Path::new(place).components().count()));
    let nearest = store.ancestors().skip(1).find(|dir| is_file(&dir.join("etc/passwd")));
    match (home, nearest) {
        (Some(home), nearest) if nearest.is_none_or(|root| root == Path::new("/")) => home_root(home),
        (_, nearest) => nearest.unwrap_or(Path::new("/")).to_owned(),
    }
}

/// Returns the root directory above the home directory `home`, by its usual place.
fn home_root(home: &Path) -> PathBuf {
    let names: Vec<&Path> = home
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .map(|part| Path::new(part.as_os_str()))
        .collect();
    let is = |name: &&Path, wanted: &str| **name == *Path::new(wanted);
    let levels = match names[..] {
        [.., var, dir, _] if is(&var, "var") && is(&dir, "home") => 3,
        [.., dir, _] if is(&dir, "home") => 2,
        _ => 1,
    };
    home.ancestors().nth(levels).unwrap_or(home).to_owned()
}

/// Parses `OWNER:START:COUNT`.
fn sub_id_line(line: &str) -> Option<(&str, u32, u32)> {
    let mut fields = line.trim().split(':');
    let (owner, start, count) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    (!owner.is_empty() && count > 0).then_some((owner, start, count))
}

/// Returns the owner of a directory: user and group.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn owner(place: &Beneath) -> Result<(u32, u32)> {
    let stat = rustix::fs::fstat(place.fd())
        .map_err(|errno| Error::io_on("cannot read", Subject::File(place.path().to_owned()), errno.into()))?;
    Ok((stat.st_uid, stat.st_gid))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let temp = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = temp.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host::open(temp.path()).unwrap();
        (temp, host)
    }

    #[test]
    fn f34_the_root_of_the_host_is_found_from_the_place_of_the_store() {
        for (store, with_passwd, root) in [
            ("/var/lib/containers/storage", &["/"][..], "/"),
            ("/mnt/e/var/lib/containers/storage", &["/"], "/mnt/e"),
            ("/mnt/e/var/lib/containers/storage", &["/", "/mnt/e"], "/mnt/e"),
            ("/home/u/.local/share/containers/storage", &["/"], "/"),
            ("/var/home/u/.local/share/containers/storage", &["/"], "/"),
            ("/root/.local/share/containers/storage", &["/"], "/"),
            ("/mnt/e/home/u/.local/share/containers/storage", &["/"], "/mnt/e"),
            ("/mnt/e/var/home/u/.local/share/containers/storage", &["/"], "/mnt/e"),
            ("/mnt/e/data/u/.local/share/containers/storage", &["/", "/mnt/e"], "/mnt/e"),
            ("/mnt/homes/u/.local/share/containers/storage", &["/"], "/mnt/homes"),
            ("/mnt/e/home/u/.local/share/docker", &["/"], "/mnt/e"),
            ("/home/u/.local/share/docker", &["/"], "/"),
            ("/mnt/e/home/u/.local/share/docker/containerd/daemon", &["/"], "/mnt/e"),
            ("/mnt/e/home/u/.local/share/containerd", &["/"], "/mnt/e"),
            ("/srv/containers", &["/"], "/"),
            ("/mnt/e/srv/containers", &["/", "/mnt/e"], "/mnt/e"),
            ("/mnt/e/srv/containers", &[], "/"),
        ] {
            let is_file =
                |file: &Path| with_passwd.iter().any(|dir| Path::new(dir).join("etc/passwd") == file);
            assert_eq!(root_of(Path::new(store), &is_file), Path::new(root), "{store} {with_passwd:?}");
        }
    }

    #[test]
    fn f33_owners_follow_from_subuid_and_subgid() {
        let (_temp, host) = host(&[
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbroken\n"),
            ("etc/subuid", "bob:1:5\n1000:300000:10\nann:100000:65536\nann:x:1\nann\n"),
            ("etc/subgid", "ann:200000:65536\n"),
        ]);
        assert_eq!(host.user(1000).unwrap(), User { name: "ann".into(), home: "/home/ann".into() });
        assert_eq!(host.user(7), None);
        let range = |container, host, len| IdRange { container, host, len };
        assert_eq!(
            host.sub_users(1000),
            [range(0, 1000, 1), range(1, 100_000, 65536), range(65537, 300_000, 10)]
        );
        assert_eq!(host.sub_groups(1000, 50), [range(0, 50, 1), range(1, 200_000, 65536)]);
        assert_eq!(host.sub_users(7), [range(0, 7, 1)]);
    }

    #[test]
    fn f34_links_of_the_host_lead_nowhere_outside() {
        let (temp, host) = host(&[("etc/real", "inside"), ("dir/x", "")]);
        symlink("/etc/real", temp.path().join("etc/subuid")).unwrap();
        symlink("/../../../../etc/passwd", temp.path().join("etc/passwd")).unwrap();
        symlink("/proc/self/root", temp.path().join("magic")).unwrap();
        assert_eq!(host.read("/etc/subuid").unwrap().unwrap(), b"inside");
        assert!(host.read("/etc/passwd").is_err(), "a link to itself");
        assert!(host.directory("/magic").unwrap().is_none());
        assert!(host.directory("/dir").unwrap().is_some());
        assert!(host.directory("/etc/real").unwrap().is_none());
        assert!(host.read("/dir").is_err());
    }
}
