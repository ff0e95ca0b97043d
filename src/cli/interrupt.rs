//! Handles SIGINT and SIGTERM, for work that must clean up before it ends. SIGHUP keeps its current
//! effect, which nohup(1) may have changed.
//!
//! The first signal sets a flag that the work checks, and ends waits for registries; a second signal ends the
//! program at once. After cleaning up, the program ends by the same signal, so that a shell loop around it ends
//! too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Builder;

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use imgmount::Engine;

/// The signal that was received, if any.
pub(crate) struct Interrupt {
    stop: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Starts to handle signals: from then on, they set the flag, and end all waits of `engine` for registries.
    pub(crate) fn watch(engine: &Engine) -> Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot catch signals")?;
        let engine = engine.clone();
        let cancel = move || signals.forever().for_each(|_| engine.cancel());
        Builder::new().name("signals".to_owned()).spawn(cancel).context("cannot start a thread")?;
        let interrupt = Interrupt { stop: Arc::default(), signal: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            let number = usize::try_from(signal).unwrap_or_default();
            flag::register_conditional_default(signal, interrupt.stop.clone())
                .and_then(|_| flag::register(signal, interrupt.stop.clone()))
                .and_then(|_| flag::register_usize(signal, interrupt.signal.clone(), number))
                .context("cannot catch signals")?;
        }
        Ok(interrupt)
    }

    /// Returns the flag, which is true after a signal was received.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.stop
    }

    /// Ends the program by the received signal; does nothing if there was none.
    pub(crate) fn end_if_any(&self) {
        if let Ok(signal @ 1..) = i32::try_from(self.signal.load(Ordering::Relaxed)) {
            // This returns only for an unknown signal.
            let _ = emulate_default_handler(signal);
        }
    }
}
