//! Whether the runtime still runs tasks, as a thread outside of it sees. A runtime whose workers are
//! all blocked cannot say so itself.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
use tokio::time::{Instant, sleep_until};

/// How often a task stamps, and how often it is looked whether it has.
const PERIOD: Duration = Duration::from_millis(250);
/// A runtime that has run no task for this long has stalled.
pub const STALLED_AFTER: Duration = Duration::from_secs(5);
/// Upper bounds of the buckets of delays, in seconds.
const DELAYS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// A task stamps, a thread looks.
pub struct Watchdog {
    stamps: AtomicU64,
    /// Looks in a row that have found no new stamp.
    missing: AtomicU32,
    delays: Histogram,
}

/// The thread that looks. It ends when this is dropped.
pub struct Watching(#[expect(dead_code, reason = "to be dropped")] mpsc::Sender<Infallible>);

impl Default for Watchdog {
    fn default() -> Self {
        Self { stamps: AtomicU64::new(0), missing: AtomicU32::new(0), delays: Histogram::new(DELAYS) }
    }
}

impl Watchdog {
    /// Stamps, for ever: a task of the runtime that is watched.
    pub async fn stamp(self: Arc<Self>) {
        loop {
            let due = Instant::now() + PERIOD;
            sleep_until(due).await;
            self.delays.observe(due.elapsed().as_secs_f64());
            self.stamps.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Begins to look.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn watch(self: &Arc<Self>) -> io::Result<Watching> {
        let (watching, ended) = mpsc::channel();
        let watchdog = Arc::clone(self);
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let mut seen = 0;
            while ended.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                watchdog.look(&mut seen);
            }
        })?;
        Ok(Watching(watching))
    }

    /// Looks are counted, not time: while the whole process stands still, nobody looks, and nobody is
    /// to be blamed afterwards.
    fn look(&self, seen: &mut u64) {
        let stamps = self.stamps.load(Ordering::Relaxed);
        if std::mem::replace(seen, stamps) == stamps {
            self.missing.fetch_add(1, Ordering::Relaxed);
        } else {
            self.missing.store(0, Ordering::Relaxed);
        }
    }

    /// For how long the runtime has run no task, by now.
    pub fn stalled(&self) -> Duration {
        // Stamps and looks drift against each other, so that a single look finds none now and then.
        PERIOD * self.missing.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// Whether the runtime has run a task lately. Can be asked from any thread.
    pub fn is_healthy(&self) -> bool {
        self.stalled() < STALLED_AFTER
    }

    /// Seconds by which stamps came late, each of them.
    pub fn delays(&self) -> &Histogram {
        &self.delays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOKS: u32 = (STALLED_AFTER.as_millis() / PERIOD.as_millis()) as u32;

    #[test]
    fn it_is_healthy_until_stamps_have_been_missing_for_long_and_as_soon_as_there_is_one() {
        let (watchdog, mut seen) = (Watchdog::default(), 0);
        for _ in 0..LOOKS {
            watchdog.look(&mut seen);
            assert!(watchdog.is_healthy(), "{:?}", watchdog.stalled());
        }
        watchdog.look(&mut seen);
        assert!(!watchdog.is_healthy());
        assert_eq!(watchdog.stalled(), STALLED_AFTER);
        watchdog.stamps.fetch_add(1, Ordering::Relaxed);
        watchdog.look(&mut seen);
        assert!(watchdog.is_healthy());
        assert_eq!(watchdog.stalled(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_stamps_while_the_runtime_runs_it() {
        let watchdog = Arc::new(Watchdog::default());
        let stamping = tokio::spawn(Arc::clone(&watchdog).stamp());
        let mut seen = 0;
        for _ in 0..2 * LOOKS {
            tokio::time::sleep(PERIOD).await;
            watchdog.look(&mut seen);
            assert!(watchdog.is_healthy());
        }
        assert!(seen >= u64::from(LOOKS), "{seen}");
        stamping.abort();
    }
}
