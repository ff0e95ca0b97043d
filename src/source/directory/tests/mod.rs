//! Tests of the walk: what the tar contains, and what happens when the directory changes.

mod overlay;

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use super::super::assembled::AssembledTar;
use super::*;
use crate::error::StreamResult;
use crate::layer::entry::{self, EntryKind, Stored};
use crate::layer::scan::scan;
use crate::layer::tar::Sink;
use crate::limits::Limits;
use crate::path::escape;
use crate::read_at::{ReadAt, read_to_vec};
use crate::warning::WarningKind;

/// A directory that is removed at the end.
struct Tree {
    temp: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        Tree { temp: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn file(&self, name: &str, content: &[u8]) -> &Self {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
        self
    }

    fn node(&self, name: &str, kind: FileType, device: u64) -> &Self {
        rustix::fs::mknodat(CWD, self.path(name), kind, Mode::from_raw_mode(0o600), device).unwrap();
        self
    }

    fn xattr(&self, name: &str, attribute: &str, value: &[u8]) -> &Self {
        rustix::fs::lsetxattr(self.path(name), attribute, value, XattrFlags::empty()).unwrap();
        self
    }

    fn root(&self) -> Beneath {
        Beneath::open(self.temp.path()).unwrap()
    }

    fn plan(&self, form: DirectoryForm) -> Result<(TarPlan, Digest)> {
        plan(&self.root(), form, &IdMap::identity())
    }

    fn tar(&self, form: DirectoryForm) -> AssembledTar {
        AssembledTar::planned(self.root(), self.plan(form).unwrap().0)
    }

    /// Returns each member of the tar: name, type and link target.
    fn members(&self, form: DirectoryForm) -> Vec<String> {
        described(&self.tar(form))
    }

    fn identity(&self) -> Digest {
        self.plan(DirectoryForm::Plain).unwrap().1
    }
}

/// Collects a line for each member.
struct Lines(Vec<String>);

impl Sink for Lines {
    fn entry(&mut self, entry: entry::Entry<'_>) -> StreamResult<()> {
        let name = escape(entry.name);
        let kind = match entry.kind {
            EntryKind::File(data) => match data.stored {
                Stored::Contiguous(_) => format!("file of {}", data.size),
                Stored::Sparse(_) => format!("file of {} with {} stored", data.size, data.stored_bytes()),
            },
            EntryKind::Directory => "directory".to_owned(),
            EntryKind::Symlink(target) => format!("-> {}", escape(target)),
            EntryKind::Hardlink(target) => format!("= {}", escape(target)),
            EntryKind::Char(device) => format!("char {}:{}", device.major, device.minor),
            EntryKind::Block(device) => format!("block {}:{}", device.major, device.minor),
            EntryKind::Fifo => "fifo".to_owned(),
        };
        let xattrs = entry.xattrs.iter().map(|(name, value)| format!(" {}={}", escape(name), escape(value)));
        self.0.push(format!("{name} {kind}{}", xattrs.collect::<String>()));
        Ok(())
    }

    fn warning(&mut self, kind: WarningKind, name: &[u8]) {
        self.0.push(format!("{} {kind}", escape(name)));
    }
}

fn described(tar: &AssembledTar) -> Vec<String> {
    let mut lines = Lines(Vec::new());
    scan(tar, Limits::default(), &mut lines).unwrap();
    lines.0
}

/// Returns whether this process is root; says so if a test is skipped. With `CI` set, it must be.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        use std::io::Write as _;
        assert!(std::env::var_os("CI").is_none(), "SKIPPED: needs root");
        writeln!(io::stderr(), "SKIPPED a test of source::directory: needs root").unwrap();
    }
    is_root
}

#[test]
fn f44_a_directory_is_a_tar_in_the_order_of_bytes() {
    let tree = Tree::new();
    tree.file("b/z", b"zz").file("b/a", b"").file("a.txt", b"text").file("B", b"b").file("a/x", b"x");
    fs::hard_link(tree.path("b/z"), tree.path("a/z")).unwrap();
    fs::hard_link(tree.path("b/z"), tree.path("c")).unwrap();
    symlink("/etc/passwd", tree.path("link")).unwrap();
    tree.node("pipe", FileType::Fifo, 0).node("socket", FileType::Socket, 0);
    tree.xattr("a", "user.note", b"1\n2\0").xattr("a/x", "user.b", b"").xattr("a/x", "user.a", b"v");
    assert_eq!(
        tree.members(DirectoryForm::Plain),
        [
            "./ directory",
            "B file of 1",
            "a/ directory user.note=1\\x0a2\\x00",
            "a/x file of 1 user.a=v user.b=",
            "a/z file of 2",
            "a.txt file of 4",
            "b/ directory",
            "b/a file of 0",
            "b/z = a/z",
            "c = a/z",
            "link -> /etc/passwd",
            "pipe fifo",
        ]
    );
}

#[test]
fn f44_another_program_reads_the_same_bytes_modes_and_times() {
    let tree = Tree::new();
    let long = format!("{}/{}", "d".repeat(200), "n".repeat(200));
    tree.file("f", &[7; 1000]).file(&long, b"long");
    fs::set_permissions(tree.path("f"), fs::Permissions::from_mode(0o4751)).unwrap();
    let bytes = read_to_vec(&tree.tar(DirectoryForm::Plain)).unwrap();
    let mut archive = ::tar::Archive::new(&bytes[..]);
    let mut found = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let real = fs::metadata(tree.temp.path().join(&path)).unwrap();
        let header = entry.header();
        assert_eq!(header.mode().unwrap(), real.mode() & 0o7777, "{path:?}");
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (real.uid().into(), real.gid().into()));
        assert_eq!(header.mtime().unwrap(), u64::try_from(real.mtime()).unwrap());
        let mut content = Vec::new();
        io::Read::read_to_end(&mut entry, &mut content).unwrap();
        found.push((path.as_os_str().as_bytes().to_vec(), content.len()));
    }
    let names = [("./", 0), (&format!("{}/", "d".repeat(200)), 0), (&*long, 4), ("f", 1000)];
    assert_eq!(found, names.map(|(name, len)| (name.as_bytes().to_vec(), len)));
}

#[test]
fn f44_holes_are_not_stored() {
    let tree = Tree::new();
    let file = fs::File::create(tree.path("sparse")).unwrap();
    file.write_all_at(b"end", 10 << 20).unwrap();
    file.write_all_at(b"start", 0).unwrap();
    file.set_len(1 << 40).unwrap();
    if file.metadata().unwrap().blocks() > 1000 {
        return; // The file system stores no holes.
    }
    let members = tree.members(DirectoryForm::Plain);
    let stored: u64 = members[1].rsplit("with ").next().unwrap().trim_end_matches(" stored").parse().unwrap();
    assert!(members[1].starts_with("sparse file of 1099511627776 with"), "{}", members[1]);
    assert!((8..=16384).contains(&stored), "{stored}");
    let tar = tree.tar(DirectoryForm::Plain);
    let bytes = read_to_vec(&tar).unwrap();
    assert!(bytes.windows(5).any(|five| five == b"start") && bytes.windows(3).any(|three| three == b"end"));
}

#[test]
fn f44_the_identity_changes_with_everything_that_was_seen() {
    let tree = Tree::new();
    tree.file("a/f", b"one").file("b", b"b");
    let mut seen = vec![tree.identity()];
    assert_eq!(tree.identity(), seen[0]);
    let mut differs = |tree: &Tree, what: &str| {
        let identity = tree.identity();
        assert!(!seen.contains(&identity), "{what}");
        seen.push(identity);
    };
    // As long as before, and with the old time of modification.
    let times =
        fs::FileTimes::new().set_modified(fs::metadata(tree.path("a/f")).unwrap().modified().unwrap());
    fs::write(tree.path("a/f"), b"two").unwrap();
    fs::File::options().write(true).open(tree.path("a/f")).unwrap().set_times(times).unwrap();
    differs(&tree, "content");
    fs::set_permissions(tree.path("b"), fs::Permissions::from_mode(0o600)).unwrap();
    differs(&tree, "mode");
    tree.xattr("a", "user.a", b"1");
    differs(&tree, "attribute");
    fs::rename(tree.path("b"), tree.path("c")).unwrap();
    differs(&tree, "name");
    fs::hard_link(tree.path("c"), tree.path("d")).unwrap();
    differs(&tree, "link");
}

#[test]
fn f44_a_file_that_changed_since_the_walk_is_an_error_that_names_it() {
    for change in ["content", "gone", "link", "directory"] {
        let tree = Tree::new();
        tree.file("etc/f", b"before").file("etc/g", b"same");
        let tar = Arc::new(tree.tar(DirectoryForm::Plain));
        let path = tree.path("etc/f");
        match change {
            "content" => fs::write(&path, b"after!").unwrap(),
            "gone" => fs::remove_file(&path).unwrap(),
            "link" => {
                fs::rename(&path, tree.path("old")).unwrap();
                symlink("../old", &path).unwrap();
            }
            _ => {
                fs::remove_file(&path).unwrap();
                fs::create_dir(&path).unwrap();
            }
        }
        let error = read_to_vec(&tar).unwrap_err().to_string();
        let name = format!("'etc/f' in '{}'", tree.temp.path().display());
        assert!(error.contains(&name), "{change}: {error}");
        // Headers and other files are read all the same.
        assert!(tar.checks_files());
        assert_eq!(described(&tar).len(), 4, "{change}");
        let mut tail = [0; 2048];
        tar.read_exact_at(&mut tail, tar.len() - 2048).unwrap();
        assert_eq!(&tail[512..516], b"same");
    }
}

#[test]
fn f44_a_directory_that_is_replaced_during_the_walk_is_an_error_that_names_it() {
    for change in ["gone", "link", "file"] {
        let tree = Tree::new();
        tree.file("a/f", b"1").file("outside/secret", b"secret");
        let root = tree.root().dir("a").unwrap().unwrap();
        fs::create_dir(tree.path("a/sub")).unwrap();
        let ids = IdMap::identity();
        let mut walk = Walk::new(&root, DirectoryForm::Plain, &ids);
        walk.enter(Vec::new()).unwrap();
        fs::remove_dir(tree.path("a/sub")).unwrap();
        match change {
            "gone" => {}
            "link" => symlink("../outside", tree.path("a/sub")).unwrap(),
            _ => fs::write(tree.path("a/sub"), b"").unwrap(),
        }
        let error = walk.all_below().unwrap_err().to_string();
        let expected =
            format!("cannot read 'sub' in '{}': changed while the directory was read", root.path().display());
        assert_eq!(error, expected, "{change}");
    }
}

#[test]
fn f44_x11_a_path_longer_than_the_kernel_takes_exceeds_a_limit() {
    let tree = Tree::new();
    let mut directory = rustix::fs::open(tree.temp.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    let name = "d".repeat(250);
    for _ in 0..17 {
        rustix::fs::mkdirat(&directory, &*name, Mode::RWXU).unwrap();
        directory = rustix::fs::openat(&directory, &*name, OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    match tree.plan(DirectoryForm::Plain).map(drop) {
        Err(Error::Limit { limit: "MAX_PATH_BYTES", value: 4266, max: 4096, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn f44_devices_and_owners_are_part_of_the_tar() {
    if !is_root() {
        return;
    }
    let tree = Tree::new();
    tree.node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    tree.node("loop", FileType::BlockDevice, rustix::fs::makedev(7, 1_048_575));
    tree.file("f", b"");
    std::os::unix::fs::lchown(tree.path("f"), Some(4_000_000_000), Some(70_000)).unwrap();
    let range = |host, len| IdRange { container: 0, host, len };
    let ids = IdMap::new(vec![range(4_000_000_000, 1)], vec![range(0, 70_000)]);
    for (ids, owner) in [(IdMap::identity(), (4_000_000_000, 70_000)), (ids, (0, 65_534))] {
        let (plan, _) = plan(&tree.root(), DirectoryForm::Plain, &ids).unwrap();
        let tar = AssembledTar::planned(tree.root(), plan);
        assert_eq!(described(&tar), ["./ directory", "f file of 0", "loop block 7:1048575", "null char 1:3"]);
        struct Owner(Option<(u32, u32)>);
        impl Sink for Owner {
            fn entry(&mut self, entry: entry::Entry<'_>) -> StreamResult<()> {
                if entry.name == b"f" {
                    self.0 = Some((entry.meta.uid, entry.meta.gid));
                }
                Ok(())
            }
            fn warning(&mut self, _: WarningKind, _: &[u8]) {}
        }
        let mut found = Owner(None);
        scan(&tar, Limits::default(), &mut found).unwrap();
        assert_eq!(found.0, Some(owner));
    }
}

/// A bind mount that is detached at the end.
#[cfg(feature = "fuse")]
struct Bind(PathBuf);

#[cfg(feature = "fuse")]
impl Bind {
    /// Mounts one path of `tree` on another; `None` without the right to mount.
    fn new(tree: &Tree, from: &str, to: &str) -> Option<Self> {
        let (from, to) = (tree.path(from), tree.path(to));
        rustix::mount::mount(from, &to, "", rustix::mount::MountFlags::BIND, None).ok()?;
        Some(Bind(to))
    }
}

#[cfg(feature = "fuse")]
impl Drop for Bind {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[cfg(feature = "fuse")]
#[test]
fn f44_another_mount_is_not_entered() {
    if !is_root() {
        return;
    }
    let tree = Tree::new();
    tree.file("a", b"").file("mounted/below", b"").file("other/in-it", b"");
    let mounts = [Bind::new(&tree, "other", "mounted"), Bind::new(&tree, "other/in-it", "a")];
    if mounts.iter().any(Option::is_none) {
        assert!(std::env::var_os("CI").is_none(), "SKIPPED: needs the right to mount");
        return;
    }
    assert_eq!(
        tree.members(DirectoryForm::Plain),
        ["./ directory", "mounted/ directory", "other/ directory", "other/in-it file of 0"]
    );
}

#[test]
fn f45_marks_of_an_overlay_become_the_marks_of_a_layer() {
    let tree = Tree::new();
    tree.file("d/.wh.kept", b"").file("d/f", b"f").file("d/sub/g", b"");
    tree.xattr("d", "user.overlay.opaque", b"y").xattr("d", "user.overlay.origin", b"x");
    tree.xattr("d/f", "user.overlay.origin", b"x").xattr("d/f", "user.own", b"1");
    tree.xattr("d/sub", "user.fuseoverlayfs.opaque", b"y");
    let kernel = [
        "./ directory",
        "d/ directory",
        "d/.wh..wh..opq file of 0",
        "d/f file of 1 user.own=1",
        "d/sub/ directory user.fuseoverlayfs.opaque=y",
        "d/sub/g file of 0",
    ];
    assert_eq!(tree.members(DirectoryForm::UserOverlay), kernel);
    let by_fuse = tree.members(DirectoryForm::FuseOverlay);
    assert_eq!(by_fuse[3], "d/.wh.kept file of 0");
    assert_eq!(by_fuse[5..], ["d/sub/ directory", "d/sub/.wh..wh..opq file of 0", "d/sub/g file of 0"]);
}

#[test]
fn f45_attributes_that_move_files_are_refused_by_name() {
    for (name, attribute) in [("d", "user.overlay.redirect"), ("d/f", "user.overlay.metacopy")] {
        let tree = Tree::new();
        tree.file("d/f", b"f").xattr(name, attribute, b"");
        match tree.plan(DirectoryForm::UserOverlay).map(drop) {
            Err(Error::Unsupported { subject, reason }) => {
                let archive = tree.temp.path().to_owned();
                assert_eq!(*subject, Subject::Member { archive, name: name.to_owned() });
                assert!(reason.starts_with(&format!("the attribute '{attribute}': ")), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn f46_an_override_gives_owner_mode_and_type() {
    let tree = Tree::new();
    let name = "user.containers.override_stat";
    tree.file("dev", b"").file("f", b"f").file("pipe", b"").file("socket", b"");
    tree.xattr("dev", name, b"0:0:0600:char-1-3").xattr("f", name, b"5:6:04755:file");
    tree.xattr("pipe", name, b"0:0:0644:pipe").xattr("socket", name, b"0:0:0644:socket");
    let ids = IdMap::new(Vec::new(), Vec::new()).with_override_stat();
    let (laid_out, _) = plan(&tree.root(), DirectoryForm::FuseOverlay, &ids).unwrap();
    let bytes = read_to_vec(&AssembledTar::planned(tree.root(), laid_out)).unwrap();
    let mut archive = ::tar::Archive::new(&bytes[..]);
    let found: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let header = entry.unwrap().header().clone();
            let owner = (header.uid().unwrap(), header.gid().unwrap());
            (header.path().unwrap().display().to_string(), owner, header.mode().unwrap())
        })
        .collect();
    let root_mode = fs::metadata(tree.temp.path()).unwrap().mode() & 0o7777;
    let expected = [
        ("./", (65_534, 65_534), root_mode),
        ("dev", (0, 0), 0o600),
        ("f", (5, 6), 0o4755),
        ("pipe", (0, 0), 0o644),
    ];
    assert_eq!(found, expected.map(|(name, owner, mode)| (name.to_owned(), owner, mode)));

    for broken in ["x", "0:0:0644:dir"] {
        tree.xattr("f", name, broken.as_bytes());
        let error = plan(&tree.root(), DirectoryForm::Plain, &ids).map(drop).unwrap_err().to_string();
        assert!(error.starts_with("'f' in '") && error.contains(name), "{error}");
    }
    // Without a store that uses it, the attribute belongs to the file.
    assert!(tree.members(DirectoryForm::Plain)[2].ends_with("user.containers.override_stat=0:0:0644:dir"));
}
