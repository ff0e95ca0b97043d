//! Which answers fail, and how.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use crate::fixture::{Fault, Seen};
use crate::numbers::Random;

/// Which answers fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    None,
    /// Every tenth one, in any way.
    Tenth,
    /// All: no byte comes.
    AllStall,
    /// All: the connection ends.
    AllBreak,
}

const MODES: [Mode; 4] = [Mode::None, Mode::Tenth, Mode::AllStall, Mode::AllBreak];

#[derive(Debug)]
pub(super) struct Faults {
    seed: u64,
    /// The position in `MODES`.
    mode: AtomicU8,
    requests: AtomicU64,
    failed: AtomicU64,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Faults { seed, mode: AtomicU8::new(0), requests: AtomicU64::new(0), failed: AtomicU64::new(0) }
    }

    pub(super) fn set(&self, mode: Mode) {
        let position = MODES.iter().position(|known| *known == mode).expect("a mode");
        self.mode.store(u8::try_from(position).expect("four modes"), Ordering::SeqCst);
    }

    /// Returns how many requests were made, and how many of them failed.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.requests.load(Ordering::SeqCst), self.failed.load(Ordering::SeqCst))
    }

    /// Returns the fault of the answer to the next request, which is `seen` by the registry at `host`.
    pub(super) fn next(&self, seen: &Seen, host: &str) -> Option<Fault> {
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        let fault = match MODES[usize::from(self.mode.load(Ordering::SeqCst))] {
            Mode::None => None,
            Mode::Tenth => (number % 10 == 9).then(|| self.any(number, seen, host)),
            Mode::AllStall => Some(Fault::Stall(0)),
            Mode::AllBreak => Some(Fault::Reset),
        };
        self.failed.fetch_add(u64::from(fault.is_some()), Ordering::SeqCst);
        fault
    }

    fn any(&self, number: u64, seen: &Seen, host: &str) -> Fault {
        let mut random = Random::new(self.seed, number);
        // Documents are shorter than parts of layers.
        let at = random.below(if seen.is_blob() { 150_000 } else { 400 });
        let after = |text: &str| vec![("Retry-After", text.to_owned())];
        match random.below(24) {
            0..3 => Fault::Cut(at),
            3..5 => Fault::Reset,
            5..8 => Fault::Stall(at),
            8..11 => Fault::Flip(at),
            11 => Fault::Status(429, after("1")),
            12 => Fault::Status(429, after("880.092µs")),
            13 => Fault::Status(429, Vec::new()),
            14 => {
                let realm = format!("Bearer realm=\"http://{host}/token\",service=\"test\"");
                Fault::Status(401, vec![("WWW-Authenticate", realm)])
            }
            15 => Fault::Status(*random.pick(&[400, 401, 403, 404]), Vec::new()),
            16..18 => Fault::Status(*random.pick(&[408, 500, 502, 503, 504]), Vec::new()),
            18 => Fault::IgnoreRange,
            19 => Fault::ShiftedRange(65_536),
            20 => Fault::Status(416, vec![("Content-Length", "100000".to_owned())]),
            21 => Fault::Header("Content-Encoding", "gzip".to_owned()),
            _ => Fault::Delay(Duration::from_millis(random.next() % 2500)),
        }
    }
}
