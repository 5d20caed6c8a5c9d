//! A progress bar on stderr, for whoever sits in front of it: none when that is not a terminal.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;
use tokio::time::interval;

/// How often the bar of something that just takes its time moves.
const STEP: Duration = Duration::from_millis(100);

/// The bar of one run.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    ticking: std::cell::RefCell<Option<JoinHandle<()>>>,
}

impl Progress {
    /// A bar that does not show anything yet. Drawing to stderr, indicatif hides it by itself when
    /// nobody can see it.
    pub(super) fn new(mode: &'static str) -> Self {
        let bar = ProgressBar::new(0).with_prefix(mode);
        match ProgressStyle::with_template("{prefix:>13} {msg:<10} {bar:40} {percent:>3} %") {
            Ok(style) => bar.set_style(style),
            Err(_) => unreachable!("the template is constant"),
        }
        Self { bar, ticking: std::cell::RefCell::default() }
    }

    /// Something begins that has so many steps.
    pub(super) fn begin(&self, what: &'static str, steps: u64) {
        self.stop_ticking();
        self.bar.set_length(steps);
        self.bar.set_position(0);
        self.bar.set_message(what);
    }

    /// So many of the steps are done.
    pub(super) fn at(&self, step: u64) {
        self.bar.set_position(step);
    }

    /// Something begins that takes this long.
    pub(super) fn passing(&self, what: &'static str, time: Duration) {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.begin(what, milliseconds(time));
        if self.bar.is_hidden() {
            return;
        }
        let bar = self.bar.clone();
        let ticking = tokio::task::spawn_local(async move {
            let started = Instant::now();
            let mut steps = interval(STEP);
            while started.elapsed() < time {
                steps.tick().await;
                bar.set_position(milliseconds(started.elapsed()));
            }
        });
        *self.ticking.borrow_mut() = Some(ticking);
    }

    fn stop_ticking(&self) {
        if let Some(ticking) = self.ticking.borrow_mut().take() {
            ticking.abort();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop_ticking();
        self.bar.finish_and_clear();
    }
}
