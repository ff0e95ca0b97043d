//! Readers of mounts: every byte is compared, and every operation has a limit.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Soak;
use super::slots::{End, MAX_STOP, Mount, Slot};
use crate::numbers::Random;

/// The longest read, in bytes: one request of the kernel.
const MAX_READ_BYTES: usize = 128 << 10;
/// How long a file may fail after the registry has recovered: it may have asked for a pause.
const RECOVERY: Duration = Duration::from_secs(15);

/// Does one operation on a mount.
pub(super) fn read(soak: &Soak, random: &mut Random) {
    let slot = random.pick(&soak.slots);
    let Ok(mount) = slot.mount.try_read() else { return thread::sleep(Duration::from_millis(5)) };
    let Some(mount) = &*mount else { return thread::sleep(Duration::from_millis(5)) };
    let source = slot.source(soak);
    let number = random.below(source.variants[0].len());
    let ((name, content), contents) = (&source.variants[0][number], source.contents(number));
    let (path, limit) = (mount.point.join(name), soak.limit(slot.patience()));
    let reading = Reading { soak, slot, mount };
    match random.below(40) {
        0..27 => {
            let (offset, length) = part(random, content.len());
            let what = format!("direct read of {name} from {offset}, {length} bytes");
            let read = soak.timed("direct read", &what, limit, || read_part(&path, offset, length, true));
            reading.check_part(&what, read, &from(&contents, offset));
        }
        27..34 => {
            let (offset, length) = part(random, content.len());
            let what = format!("read of {name} from {offset}, {length} bytes");
            // The kernel reads ahead, and reads a page again whose read failed.
            let read = soak.timed("read", &what, limit * 3, || read_part(&path, offset, length, false));
            reading.check_part(&what, read, &from(&contents, offset));
        }
        34 => {
            let what = format!("read of all of {name}");
            let read = soak.timed("read of a file", &what, limit * 20, || fs::read(&path));
            reading.check_whole(&what, read, &from(&contents, 0));
        }
        35..39 => {
            let what = format!("attributes of {name}");
            let limit = soak.limit(MAX_STOP);
            let found = soak.timed("lookup", &what, limit, || look(&path));
            match found {
                Ok(found) if found == (content.len() as u64, true) => soak.count("lookups right"),
                Ok(found) => soak.fail(format!("{what}: {found:?} instead of {}", content.len())),
                Err(error) if slot.leaving.load(Ordering::SeqCst) => soak.count(format!("ending: {error}")),
                Err(error) => soak.fail(format!("{what}: {error}")),
            }
        }
        _ => kill_reader(soak, random, &path, limit),
    }
}

/// Returns what files contain from `offset` on.
fn from<'a>(contents: &[&'a Arc<[u8]>], offset: usize) -> Vec<&'a [u8]> {
    contents.iter().map(|content| &content[offset..]).collect()
}

/// Returns a random offset and length within a file, or `(0, 0)`.
fn part(random: &mut Random, size: usize) -> (usize, usize) {
    if size == 0 {
        return (0, 0);
    }
    let offset = random.below(size);
    (offset, (1 + random.below(MAX_READ_BYTES)).min(size - offset))
}

fn read_part(path: &Path, offset: usize, length: usize, directly: bool) -> io::Result<Vec<u8>> {
    let flags = if directly { libc::O_DIRECT } else { 0 };
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if !directly {
        // The kernel forgets what it has read before.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    let mut bytes = vec![0; length];
    let read = file.read_at(&mut bytes, offset as u64)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// A read from a mount.
struct Reading<'a> {
    soak: &'a Soak,
    slot: &'a Slot,
    mount: &'a Mount,
}

impl Reading<'_> {
    /// Checks bytes that were read, which can be fewer than requested if a later one cannot be had.
    fn check_part(&self, what: &str, read: io::Result<Vec<u8>>, contents: &[&[u8]]) {
        self.check(what, read, contents, |bytes, content| {
            content.starts_with(bytes) && bytes.is_empty() == content.is_empty()
        });
    }

    fn check_whole(&self, what: &str, read: io::Result<Vec<u8>>, contents: &[&[u8]]) {
        self.check(what, read, contents, |bytes, content| bytes == content);
    }

    fn check(
        &self,
        what: &str,
        read: io::Result<Vec<u8>>,
        contents: &[&[u8]],
        is_right: impl Fn(&[u8], &[u8]) -> bool,
    ) {
        match read {
            Ok(bytes) => {
                let matches = matching(contents.iter().map(|content| is_right(&bytes, content)));
                match self.mount.agrees(matches) {
                    true => self.soak.count("reads right"),
                    false => wrong(self.soak, &self.named(what), &bytes, contents),
                }
            }
            Err(error) => self.failed(what, &error),
        }
    }

    fn named(&self, what: &str) -> String {
        format!("{}: {what}", self.slot.what(self.soak))
    }

    fn failed(&self, what: &str, error: &io::Error) {
        let code = error.raw_os_error().unwrap_or(0);
        let is_ending = self.slot.leaving.load(Ordering::SeqCst);
        let source = self.slot.source(self.soak);
        let usual: &[i32] =
            if source.is_remote() { &[libc::EIO, libc::EACCES, libc::ETIMEDOUT] } else { &[libc::EIO] };
        if !is_ending && !usual.contains(&code) {
            self.soak.fail(format!("{}: {error}", self.named(what)));
        }
        self.soak.count(format!("{}{error}", if is_ending { "ending: " } else { "" }));
    }
}

/// Returns the positions of true values as bits.
pub(super) fn matching(matches: impl Iterator<Item = bool>) -> u8 {
    matches.enumerate().fold(0, |bits, (position, is_right)| bits | u8::from(is_right) << position)
}

/// Reports bytes that are not those of one image.
pub(super) fn wrong(soak: &Soak, what: &str, bytes: &[u8], contents: &[&[u8]]) {
    let differs = |content: &&[u8]| bytes.iter().zip(*content).position(|(is, should)| is != should);
    let at: Vec<_> = contents.iter().map(differs).collect();
    soak.fail(format!(
        "{what}: {} bytes, wrong from byte {at:?} on, for each image that is possible",
        bytes.len()
    ));
}

/// Returns the size of a file, and whether its directory lists it.
fn look(path: &Path) -> io::Result<(u64, bool)> {
    let size = fs::metadata(path)?.len();
    let names = fs::read_dir(path.parent().expect("a directory"))?;
    let names = names.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    Ok((size, names.iter().any(|name| Some(&**name) == path.file_name())))
}

/// Starts a reader and kills it, at once or after a while.
fn kill_reader(soak: &Soak, random: &mut Random, path: &Path, limit: Duration) {
    let mut reader = Command::new("cat").arg(path).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let reader = reader.as_mut().expect("starting cat");
    thread::sleep(Duration::from_millis(random.next() % 50));
    let what = format!("end of a killed reader of {}", path.display());
    soak.timed("killed reader", &what, limit, || {
        reader.kill().expect("killing a child");
        reader.wait().expect("the end of a child");
    });
    soak.count("readers killed");
}

impl Soak {
    /// Mounts what is not mounted and reads all files of all mounts, now that nothing fails.
    pub(super) fn check_all(&self, random: &mut Random) {
        for slot in &self.slots {
            slot.end_outdated(self);
            if !self.mounts_again(slot, random) {
                return self.fail(format!("no mount of {} after all was repaired", slot.what(self)));
            }
            slot.check_server(self);
            let Err(message) = self.check_files(slot, random) else { continue };
            // A damaged index is found when it is opened, and made again.
            if !slot.had_index_damage(self) {
                return self.fail(message);
            }
            self.count("mounted again after damage of an index");
            slot.end(self, End::Unmount);
            if !self.mounts_again(slot, random) {
                return self.fail(format!("no mount of {} after damage of an index", slot.what(self)));
            }
            if let Err(message) = self.check_files(slot, random) {
                return self.fail(format!("after a new mount: {message}"));
            }
        }
    }

    fn mounts_again(&self, slot: &Slot, random: &mut Random) -> bool {
        let begun = Instant::now();
        while !self.is_over() && !slot.begin(self, random) {
            if begun.elapsed() > self.limit(RECOVERY) {
                return false;
            }
            thread::sleep(Duration::from_millis(200));
        }
        true
    }

    fn check_files(&self, slot: &Slot, random: &mut Random) -> Result<(), String> {
        let mount = slot.mount.read().unwrap_or_else(PoisonError::into_inner);
        let Some(mount) = &*mount else { return Ok(()) };
        for (name, content) in &slot.source(self).variants[0] {
            if !self.is_over() {
                self.check_recovered(&mount.point.join(name), content, random.once_in(2))
                    .map_err(|message| format!("{}: {message}", slot.what(self)))?;
            }
        }
        Ok(())
    }

    fn check_recovered(&self, path: &Path, content: &Arc<[u8]>, directly: bool) -> Result<(), String> {
        let begun = Instant::now();
        let what = format!("{} after all was repaired", path.display());
        loop {
            let read = self.timed("read after recovery", &what, super::HUNG, || read_all(path, directly));
            match read {
                Ok(bytes) if bytes == **content => {
                    self.count("files right after recovery");
                    return Ok(());
                }
                Ok(bytes) => {
                    wrong(self, &what, &bytes, &[content]);
                    return Ok(());
                }
                Err(error) if begun.elapsed() > self.limit(RECOVERY) => {
                    return Err(format!("{what}: {error}"));
                }
                Err(error) => {
                    self.count(format!("again after recovery: {error}"));
                    thread::sleep(Duration::from_millis(200));
                }
            }
        }
    }
}

fn read_all(path: &Path, directly: bool) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let flags = if directly { libc::O_DIRECT } else { 0 };
    let mut bytes = Vec::new();
    let mut file = File::options().read(true).custom_flags(flags).open(path)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
