//! Signals that end work which should be ended in order: SIGINT and SIGTERM. SIGHUP keeps
//! what it does, which nohup(1) may have changed.
//!
//! The first sets a flag that the work looks at; a second one ends the program at once. Afterwards the
//! program ends by that signal, so that a shell loop around it ends too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::emulate_default_handler;

/// What came in, if anything.
pub(crate) struct Interrupt {
    stop: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// From now on, signals only set the flag.
    pub(crate) fn watch() -> Result<Self> {
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

    /// True once a signal came.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.stop
    }

    /// Ends the program by the signal that came; does nothing when none did.
    pub(crate) fn end_if_any(&self) {
        if let Ok(signal @ 1..) = i32::try_from(self.signal.load(Ordering::Relaxed)) {
            // It does not come back, unless there is no such signal.
            let _ = emulate_default_handler(signal);
        }
    }
}
