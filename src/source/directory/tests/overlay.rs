//! Compares layers of real overlays with what the kernel or fuse-overlayfs shows.
//!
//! A test mounts an overlay, changes files through the mount, and lays its directories out as tars. The
//! image of these tars, exported, must be the same tar as that of the mounted tree: names, types, modes,
//! owners, times, attributes, links and contents.

use std::process::{Command, Stdio};

use super::*;
use crate::{Engine, EngineOptions, ExportOptions, LoadOptions, Reference};

/// Directories of an overlay, and its mount, which is unmounted at the end.
struct Overlay {
    dir: tempfile::TempDir,
    /// The lower directories, the lowest first.
    lower: Vec<String>,
    form: DirectoryForm,
}

impl Overlay {
    /// Creates the directories, with `fill` as a script that runs in the lowest of them.
    fn new(form: DirectoryForm, fill: &str) -> Self {
        let overlay = Overlay { dir: tempfile::tempdir().unwrap(), lower: vec!["lower".to_owned()], form };
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(overlay.path(name)).unwrap();
            fs::set_permissions(overlay.path(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        overlay.run_in("lower", fill);
        overlay
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run_in(&self, name: &str, script: &str) {
        let status = Command::new("sh").args(["-euc", script]).current_dir(self.path(name)).status().unwrap();
        assert!(status.success(), "{script}");
    }

    /// Mounts the overlay; `options` follow those of its form. Returns false if it cannot be mounted.
    fn mount(&self, options: &str) -> bool {
        let lower: Vec<_> =
            self.lower.iter().rev().map(|name| self.path(name).display().to_string()).collect();
        let (upper, work) = (self.path("upper"), self.path("work"));
        let mut all = format!(
            "lowerdir={},upperdir={},workdir={}{options}",
            lower.join(":"),
            upper.display(),
            work.display()
        );
        let mut command = match self.form {
            DirectoryForm::FuseOverlay => {
                // Otherwise FUSE keeps times of modification in memory, and writes others to the files.
                all.push_str(",writeback=0");
                Command::new("fuse-overlayfs")
            }
            _ => {
                all.push_str(if self.form == DirectoryForm::UserOverlay { ",userxattr" } else { "" });
                let mut mount = Command::new("mount");
                mount.args(["-t", "overlay", "overlay"]);
                mount
            }
        };
        let run = command.args(["-o", &all]).arg(self.path("merged")).stderr(Stdio::null()).status();
        run.is_ok_and(|status| status.success())
    }

    /// Returns the tar of the tree that the kernel shows.
    fn shown(&self) -> Vec<u8> {
        tar_of(&self.path("merged"), DirectoryForm::Plain)
    }

    /// Returns the tar of the tree that the layers give.
    fn merged(&self) -> Vec<u8> {
        let layers = self.lower.iter().map(|name| (name.as_str(), self.lower_form(name)));
        let layers = layers.chain([("upper", self.form)]);
        self.export(&layers.map(|(name, form)| tar_of(&self.path(name), form)).collect::<Vec<_>>())
    }

    /// The lowest directory is a plain tree.
    fn lower_form(&self, name: &str) -> DirectoryForm {
        if name == "lower" { DirectoryForm::Plain } else { self.form }
    }

    /// Returns the tar that `export` writes of an image of these layers.
    fn export(&self, layers: &[Vec<u8>]) -> Vec<u8> {
        let ids: Vec<_> = layers.iter().map(|tar| Algorithm::Sha256.digest(tar).to_string()).collect();
        let names: Vec<_> = (0..layers.len()).map(|number| format!("{number}.tar")).collect();
        let config = serde_json::json!({"rootfs": {"type": "layers", "diff_ids": ids}}).to_string();
        let manifest = serde_json::json!([{"Config": "config.json", "Layers": names}]).to_string();
        let path = self.path("image.tar");
        let mut archive = ::tar::Builder::new(fs::File::create(&path).unwrap());
        let files = [("config.json", config.as_bytes()), ("manifest.json", manifest.as_bytes())];
        let layers = names.iter().zip(layers).map(|(name, tar)| (name.as_str(), &tar[..]));
        for (name, bytes) in files.into_iter().chain(layers) {
            let mut header = ::tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, bytes).unwrap();
        }
        archive.into_inner().unwrap();
        let reference = Reference::parse(path.as_os_str(), None).unwrap();
        let engine = Engine::new(EngineOptions::default());
        let image = engine.select(&reference, None).unwrap().load(&LoadOptions::default()).unwrap();
        let mut exported = Vec::new();
        // fuse-overlayfs shows no holes.
        let sparse = self.form != DirectoryForm::FuseOverlay;
        image.export(&mut exported, &ExportOptions::default().sparse(sparse)).unwrap();
        exported
    }

    /// Checks that the layers give the tree that is shown.
    #[track_caller]
    fn check(&self, about: &str) {
        let (shown, merged) = (self.shown(), self.merged());
        if shown != merged {
            let lines = |tar: Vec<u8>| {
                let mut lines = Lines(Vec::new());
                scan(&tar, Limits::default(), &mut lines).unwrap();
                lines.0
            };
            assert_eq!(lines(merged), lines(shown), "{about}");
            panic!("{about}: modes, owners, times or contents differ");
        }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path("merged")).stderr(Stdio::null()).status();
    }
}

fn tar_of(path: &Path, form: DirectoryForm) -> Vec<u8> {
    let root = Beneath::open(path).unwrap();
    let (plan, _) = plan(&root, form, &IdMap::identity()).unwrap();
    read_to_vec(&AssembledTar::planned(root, plan)).unwrap()
}

/// Returns true as root. Otherwise, and where `what` cannot be mounted, the test is skipped.
fn can_mount(overlay: &Overlay, what: &str) -> bool {
    if overlay.mount("") {
        return true;
    }
    use std::io::Write as _;
    assert!(std::env::var_os("CI").is_none(), "SKIPPED: needs {what}");
    writeln!(io::stderr(), "SKIPPED a test of source::directory: needs {what}").unwrap();
    false
}

/// Files of every type, for a lower directory.
const LOWER: &str = "
    mkdir -p a/b/c d e/f
    echo one >a/one; echo two >a/b/two; echo three >a/b/c/three; echo f >e/f/f
    ln a/one d/link; ln -s ../a d/symlink; mkfifo d/fifo; mknod d/null c 1 3; mknod d/loop b 7 0
    truncate -s 1M d/sparse; printf data | dd of=d/sparse bs=1 seek=500000 conv=notrunc status=none
    chmod 4755 a/one; chown 1000:2000 a/b/two; setfattr -n user.note -v low a/b; chmod 1777 d
    touch -d @1000000000.123456789 a/b/two";

/// Changes of every kind, for a mounted overlay.
const CHANGES: &str = "
    echo more >>a/one; rm a/b/two; rm -r a/b/c; mkdir a/b/c; echo new >a/b/c/new
    chmod 700 d; chown 5:6 d/sparse; rm d/null; mkdir d/null; rm -r e; echo file >e
    mv d/loop d/loop2; mv d/symlink moved; ln a/b/c/new a/b/again; setfattr -n user.note -v high a/b
    setfattr -x user.note a/b; setfattr -n user.own -v x d/sparse; ln -s /etc/passwd abs; mkfifo p
    truncate -s 2M d/sparse; mkdir -p x/y/z; rm -r x/y; echo x >x/y; touch -d @1.5 x/y
    rm d/link; echo other >d/link; mkdir a/new; mv a/new a/renamed; echo 1 >a/renamed/1";

#[test]
fn f45_the_kernel_shows_the_tree_that_its_layers_give() {
    if !is_root() {
        return;
    }
    for form in [DirectoryForm::Overlay, DirectoryForm::UserOverlay] {
        let overlay = Overlay::new(form, LOWER);
        if !can_mount(&overlay, "overlayfs") {
            return;
        }
        overlay.check("unchanged");
        overlay.run_in("merged", CHANGES);
        overlay.check("changed");
    }
}

#[test]
fn f45_fuse_overlayfs_shows_the_tree_that_its_layers_give() {
    if !is_root() {
        return;
    }
    let overlay = Overlay::new(DirectoryForm::FuseOverlay, LOWER);
    if !can_mount(&overlay, "fuse-overlayfs and /dev/fuse") {
        return;
    }
    // fuse-overlayfs 1.10 cannot change a device.
    overlay.run_in("merged", &CHANGES.replace("mv d/loop d/loop2;", ""));
    overlay.check("changed");
}

#[test]
fn f45_random_changes_through_an_overlay_give_the_same_tree() {
    if !is_root() {
        return;
    }
    let forms = [DirectoryForm::Overlay, DirectoryForm::UserOverlay, DirectoryForm::FuseOverlay];
    for (case, form) in (0..36_u64).zip(forms.into_iter().cycle()) {
        let overlay = Overlay::new(form, &random_changes(case, 30));
        if !can_mount(&overlay, "overlayfs, and fuse-overlayfs and /dev/fuse") {
            return;
        }
        overlay.run_in("merged", &random_changes(case + 1000, 40));
        overlay.check(&format!("case {case}, {form:?}"));
    }
}

/// Returns a script of changes to a few names. A change that is not possible fails without effect.
fn random_changes(seed: u64, count: usize) -> String {
    const NAMES: [&str; 10] = ["a", "b", "a/a", "a/b", "b/a", "b/b", "a/a/a", "a/a/b", "b/a/a", "b/b/b"];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let mut script = "exec 2>/dev/null\n".to_owned();
    for turn in 0..count {
        let (name, other) = (NAMES[next(NAMES.len())], NAMES[next(NAMES.len())]);
        let change = match next(12) {
            0..=2 => format!("mkdir -p {name}"),
            3 | 4 => format!("echo {turn} >{name}"),
            5 | 6 => format!("rm -r {name}"),
            7 => format!("mv -T {name} {other}"),
            8 => format!("ln {name} {other}"),
            9 => format!("chmod {:o} {name}", 0o700 + next(0o100)),
            10 => format!("setfattr -n user.turn -v {turn} {name}"),
            _ => format!("ln -s {other} {name}"),
        };
        script.push_str(&format!("{change} || true\n"));
    }
    script
}

#[test]
fn f45_whiteouts_may_be_files_with_an_attribute() {
    if !is_root() {
        return;
    }
    let mut overlay = Overlay::new(DirectoryForm::Overlay, LOWER);
    overlay.lower.push("middle".to_owned());
    fs::create_dir(overlay.path("middle")).unwrap();
    overlay.run_in(
        "middle",
        "mkdir -p a/b d; touch a/one a/b/two d/fifo; echo full >d/null
         for dir in . a a/b d; do setfattr -n trusted.overlay.opaque -v x $dir; done
         for file in a/one a/b/two d/fifo d/null; do setfattr -n trusted.overlay.whiteout -v y $file; done",
    );
    if !can_mount(&overlay, "overlayfs") {
        return;
    }
    if overlay.path("merged/a/one").exists() {
        // Linux before 6.7 shows the files.
        return;
    }
    overlay.check("marked");
    let has = |overlay: &Overlay, name: &str| {
        tar_lines(&overlay.merged()).iter().any(|line| line.starts_with(&format!("{name} ")))
    };
    assert_eq!(["a/b/two", "d/null"].map(|name| has(&overlay, name)), [false, true]);
    // The mark of the root decides.
    overlay.run_in("middle", "setfattr -x trusted.overlay.opaque a/b");
    assert!(!has(&overlay, "a/b/two"));
    overlay.run_in("middle", "setfattr -x trusted.overlay.opaque .");
    assert!(has(&overlay, "a/b/two"));
}

fn tar_lines(tar: &Vec<u8>) -> Vec<String> {
    let mut lines = Lines(Vec::new());
    scan(tar, Limits::default(), &mut lines).unwrap();
    lines.0
}

#[test]
fn f45_what_redirect_dir_and_metacopy_leave_is_refused_by_name() {
    if !is_root() {
        return;
    }
    for (options, change, attribute) in [
        (",redirect_dir=on,metacopy=off", "mv a renamed", "trusted.overlay.redirect"),
        (",redirect_dir=on,metacopy=on", "chmod 600 a/one", "trusted.overlay.metacopy"),
    ] {
        let overlay = Overlay::new(DirectoryForm::Overlay, LOWER);
        if !overlay.mount(options) {
            assert!(std::env::var_os("CI").is_none(), "SKIPPED: needs overlayfs with {options}");
            return;
        }
        overlay.run_in("merged", change);
        let root = Beneath::open(&overlay.path("upper")).unwrap();
        let error = plan(&root, DirectoryForm::Overlay, &IdMap::identity()).map(drop).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(&format!("the attribute '{attribute}'")), "{error}");
    }
}
