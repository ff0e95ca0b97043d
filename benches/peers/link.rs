//! A slow link between two network namespaces of this machine.
//!
//! Each namespace has a TUN device, and the kernel's own TCP sends packets through it. This process carries
//! them from one device to the other: at the rate of the link, and later by its delay. Packets for which the
//! queue of the link has no space are dropped, as a router drops them. This works with kernels that have no
//! netem. It needs root and /dev/net/tun.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cleanup::{self, Running};
use crate::measure::output;
use crate::tools;

const DEVICE: &str = "bench0";
const TUN: &str = "/dev/net/tun";
/// The addresses of the two ends.
const NEAR: &str = "10.99.0.1";
pub(crate) const FAR: &str = "10.99.0.2";
/// Time limit for a namespace to be made.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than any packet of the device, whose largest has 1500 bytes.
const MAX_PACKET_BYTES: usize = 4096;

/// The properties of a link, the same in both directions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Speed {
    /// The time that a packet takes from one end to the other, besides its own length and the queue.
    pub(crate) delay: Duration,
    pub(crate) bits_a_second: u32,
    /// The time that the last packet of a full queue waits for.
    pub(crate) queue: Duration,
}

/// Two namespaces and the link between them, until dropped.
#[derive(Debug)]
pub(crate) struct Link {
    near: Namespace,
    far: Namespace,
}

impl Link {
    /// Makes the namespaces and begins to carry packets.
    pub(crate) fn new(speed: Speed) -> Result<Self> {
        let (near, near_end) = Namespace::new(NEAR, FAR)?;
        let (far, far_end) = Namespace::new(FAR, NEAR)?;
        carry(&near_end, &far_end, speed);
        carry(&far_end, &near_end, speed);
        Ok(Link { near, far })
    }

    /// Returns `command` as a command of the end at which the clients are.
    pub(crate) fn near(&self, command: &Command) -> Command {
        self.near.enter(command)
    }

    /// Returns `command` as a command of the other end, which has the address [`FAR`].
    pub(crate) fn far(&self, command: &Command) -> Command {
        self.far.enter(command)
    }
}

/// Returns the reason why links cannot be made here.
pub(crate) fn missing() -> Option<String> {
    let programs = ["ip", "nsenter", "unshare"].map(tools::Need::Program);
    tools::missing(&[&[tools::Need::Root], &programs[..]].concat())
        .or_else(|| (!Path::new(TUN).exists()).then(|| format!("no {TUN}")))
}

/// A network namespace, held by a process that waits for the end of its input.
#[derive(Debug)]
struct Namespace {
    holder: Child,
    _interruptible: Running,
}

impl Namespace {
    /// Makes a namespace with a TUN device that leads from `own` to `peer`, and opens the device.
    fn new(own: &str, peer: &str) -> Result<(Self, Arc<File>)> {
        let mut command = tools::command("unshare");
        command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let holder = command.spawn().context("cannot make a network namespace")?;
        let running = Running::group(holder.id());
        let namespace = Namespace { holder, _interruptible: running };
        let ours = fs::read_link("/proc/self/ns/net")?;
        let start = Instant::now();
        while fs::read_link(namespace.path()).is_ok_and(|its| its == ours) {
            ensure!(start.elapsed() < PATIENCE, "no network namespace was made");
            thread::sleep(Duration::from_millis(1));
        }
        let device = namespace.device()?;
        let link: [&[&str]; 3] = [
            &["address", "add", own, "peer", peer, "dev", DEVICE],
            &["link", "set", DEVICE, "up"],
            &["link", "set", "lo", "up"],
        ];
        for arguments in link {
            output(&mut namespace.enter(tools::command("ip").args(arguments)))?;
        }
        Ok((namespace, Arc::new(device)))
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }

    /// Opens a new TUN device in the namespace.
    fn device(&self) -> Result<File> {
        let namespace = File::open(self.path()).context("no network namespace")?;
        // Only this thread moves, and it ends.
        let opened = thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            let device = OpenOptions::new().read(true).write(true).open(TUN)?;
            attach(&device)?;
            std::io::Result::Ok(device)
        });
        let opened = opened.join().map_err(|_| anyhow::anyhow!("the thread panicked"))?;
        opened.context("cannot make a TUN device")
    }

    /// Returns `command` as a command of the namespace. Other namespaces stay the same, so what it mounts
    /// can be seen.
    fn enter(&self, command: &Command) -> Command {
        let mut inside = tools::command("nsenter");
        let mut option = std::ffi::OsString::from("--net=");
        option.push(self.path());
        inside.arg(option).arg("--").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Without its device, the namespace carries nothing, and the threads that read from it end.
        let _ = output(&mut self.enter(tools::command("ip").args(["link", "delete", DEVICE])));
        cleanup::kill_group(self.holder.id());
        let _ = self.holder.wait();
    }
}

/// Makes `file` the end of a new TUN device for plain IP packets.
#[expect(unsafe_code, reason = "a TUN device is made with an ioctl")]
fn attach(file: &File) -> std::io::Result<()> {
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap_or(0);
    // SAFETY: the descriptor is open, and the request is an ifreq that outlives the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } == -1 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// A packet, and the time at which it arrives.
type Sent = (Instant, Vec<u8>);

/// Carries packets in one direction on threads, which end when a device is removed.
fn carry(from: &Arc<File>, to: &Arc<File>, speed: Speed) {
    let (send, receive) = mpsc::channel();
    let (from, to) = (Arc::clone(from), Arc::clone(to));
    thread::spawn(move || take(&from, &send, speed));
    thread::spawn(move || deliver(&to, &receive));
}

/// Takes packets from a device, and computes when each arrives.
fn take(mut device: &File, send: &Sender<Sent>, speed: Speed) {
    let mut buffer = [0; MAX_PACKET_BYTES];
    // When the last bit of the packet before leaves.
    let mut free = Instant::now();
    while let Ok(len) = device.read(&mut buffer) {
        let now = Instant::now();
        if free.saturating_duration_since(now) > speed.queue {
            continue;
        }
        let seconds = 8.0 * crate::report::unit::to_f64(len as u64) / f64::from(speed.bits_a_second);
        free = free.max(now) + Duration::from_secs_f64(seconds);
        if send.send((free + speed.delay, buffer[..len].to_vec())).is_err() {
            return;
        }
    }
}

/// Gives packets to a device when they arrive.
fn deliver(mut device: &File, receive: &Receiver<Sent>) {
    while let Ok((arrival, packet)) = receive.recv() {
        thread::sleep(arrival.saturating_duration_since(Instant::now()));
        // A device that is down refuses packets.
        let _ = device.write(&packet);
    }
}
