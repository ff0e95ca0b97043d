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
use super::slots::Slot;
use crate::numbers::Random;

/// The longest read, in bytes: one request of the kernel.
const MAX_READ_BYTES: usize = 128 << 10;
/// What a loaded machine may add to a deadline.
const MARGIN: Duration = Duration::from_millis(2500);
/// The limit on operations that never wait for the registry.
const NO_WAIT: Duration = Duration::from_millis(2500);
/// How long a file may fail after the registry has recovered: it may have asked for a pause.
const RECOVERY: Duration = Duration::from_secs(15);

/// Does one operation on a mount.
pub(super) fn read(soak: &Soak, random: &mut Random) {
    let slot = random.pick(&soak.slots);
    let Ok(mount) = slot.mount.try_read() else { return thread::sleep(Duration::from_millis(5)) };
    let Some(mount) = &*mount else { return thread::sleep(Duration::from_millis(5)) };
    let (name, content) = random.pick(&slot.image(soak).files);
    let (path, limit) = (mount.point.join(name), slot.net_timeout() + MARGIN);
    match random.below(40) {
        0..27 => {
            let (offset, length) = part(random, content.len());
            let what = format!("direct read of {name} from {offset}, {length} bytes");
            let read = soak.timed("direct read", &what, limit, || read_part(&path, offset, length, true));
            check(soak, slot, &what, read, &content[offset..]);
        }
        27..34 => {
            let (offset, length) = part(random, content.len());
            let what = format!("read of {name} from {offset}, {length} bytes");
            // The kernel reads ahead, and reads a page again whose read failed.
            let read = soak.timed("read", &what, limit * 3, || read_part(&path, offset, length, false));
            check(soak, slot, &what, read, &content[offset..]);
        }
        34 => {
            let what = format!("read of all of {name}");
            let read = soak.timed("read of a file", &what, limit * 20, || fs::read(&path));
            check_whole(soak, slot, &what, read, content);
        }
        35..39 => {
            let what = format!("attributes of {name}");
            let found = soak.timed("lookup", &what, NO_WAIT, || look(&path));
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

/// Checks bytes that were read, which can be fewer than requested if a later one cannot be had.
fn check(soak: &Soak, slot: &Slot, what: &str, read: io::Result<Vec<u8>>, content: &[u8]) {
    match read {
        Ok(bytes) if content.starts_with(&bytes) && bytes.is_empty() == content.is_empty() => {
            soak.count("reads right");
        }
        Ok(bytes) => wrong(soak, what, &bytes, content),
        Err(error) => failed(soak, slot, what, &error),
    }
}

fn check_whole(soak: &Soak, slot: &Slot, what: &str, read: io::Result<Vec<u8>>, content: &[u8]) {
    match read {
        Ok(bytes) if bytes == content => soak.count("reads right"),
        Ok(bytes) => wrong(soak, what, &bytes, content),
        Err(error) => failed(soak, slot, what, &error),
    }
}

pub(super) fn wrong(soak: &Soak, what: &str, bytes: &[u8], content: &[u8]) {
    let at = bytes.iter().zip(content).position(|(is, should)| is != should);
    soak.fail(format!("{what}: {} bytes, wrong from byte {at:?} on", bytes.len()));
}

fn failed(soak: &Soak, slot: &Slot, what: &str, error: &io::Error) {
    let code = error.raw_os_error().unwrap_or(0);
    let is_ending = slot.leaving.load(Ordering::SeqCst);
    if !is_ending && ![libc::EIO, libc::EACCES, libc::ETIMEDOUT].contains(&code) {
        soak.fail(format!("{what}: {error}"));
    }
    soak.count(format!("{}{error}", if is_ending { "ending: " } else { "" }));
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
            let begun = Instant::now();
            while !slot.begin(self, random) && begun.elapsed() < RECOVERY {
                thread::sleep(Duration::from_millis(200));
            }
            slot.check_server(self);
            let mount = slot.mount.read().unwrap_or_else(PoisonError::into_inner);
            let Some(mount) = &*mount else {
                return self.fail("no mount after the registry recovered".to_owned());
            };
            for (name, content) in &slot.image(self).files {
                if !self.is_over() {
                    self.check_recovered(&mount.point.join(name), content, random.once_in(2));
                }
            }
        }
    }

    fn check_recovered(&self, path: &Path, content: &Arc<[u8]>, directly: bool) {
        let begun = Instant::now();
        let what = format!("{} after the registry recovered", path.display());
        loop {
            let read = self.timed("read after recovery", &what, super::HUNG, || read_all(path, directly));
            match read {
                Ok(bytes) if bytes == **content => return self.count("files right after recovery"),
                Ok(bytes) => return wrong(self, &what, &bytes, content),
                Err(error) if begun.elapsed() > RECOVERY => return self.fail(format!("{what}: {error}")),
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
