//! Shows progress bars: only if standard error is a terminal, and only for work that takes a while.

use std::fmt;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use imgmount::Progress;

/// Work that ends sooner shows no progress bar.
const PATIENCE: Duration = Duration::from_millis(500);

/// A progress bar on standard error, one at a time.
#[derive(Default)]
pub(crate) struct Bars {
    current: Mutex<Option<Bar>>,
}

struct Bar {
    bar: ProgressBar,
    since: Instant,
    shown: bool,
}

impl fmt::Debug for Bars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bars")
    }
}

impl Progress for Bars {
    fn begin(&self, what: &str, total_bytes: u64) {
        // With `-q`, only errors are printed.
        if !std::io::stderr().is_terminal() || log::max_level() < log::LevelFilter::Warn {
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::hidden());
        if let Ok(style) =
            ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
        {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        *self.lock() = Some(Bar { bar, since: Instant::now(), shown: false });
    }

    fn advance(&self, bytes: u64) {
        let mut current = self.lock();
        let Some(Bar { bar, since, shown }) = current.as_mut() else { return };
        if !*shown && since.elapsed() >= PATIENCE {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            *shown = true;
        }
        bar.inc(bytes);
    }

    fn end(&self) {
        if let Some(Bar { bar, .. }) = self.lock().take() {
            bar.finish_and_clear();
        }
    }
}

impl Bars {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Bar>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
