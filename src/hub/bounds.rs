//! The bounds of the hub that may change while it is used.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::{Hub, Settings};
use crate::model::clock::millis;

/// As they are now. Each is read by itself: nothing depends on two of them.
pub(super) struct Bounds {
    max_queue_bytes: AtomicUsize,
    queue_timeout_ms: AtomicU64,
}

impl Bounds {
    pub(super) fn new(settings: &Settings) -> Self {
        let bounds = Self { max_queue_bytes: AtomicUsize::new(0), queue_timeout_ms: AtomicU64::new(0) };
        bounds.set(settings);
        bounds
    }

    fn set(&self, settings: &Settings) {
        self.max_queue_bytes.store(settings.max_queue_bytes, Ordering::Relaxed);
        self.queue_timeout_ms.store(millis(settings.queue_timeout), Ordering::Relaxed);
    }

    pub(super) fn max_queue_bytes(&self) -> usize {
        self.max_queue_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn queue_timeout(&self) -> Duration {
        Duration::from_millis(self.queue_timeout_ms.load(Ordering::Relaxed))
    }
}

impl Hub {
    /// Keeps to these bounds from now on. Who waits for space goes on at once if there is some by them, and
    /// otherwise no longer than it would have waited before. `refuse_when_away` stays as it was.
    pub fn change(&self, settings: &Settings) {
        let shared = &self.shared;
        shared.bounds.set(settings);
        shared.cache.set_limit(settings.max_cache_bytes);
        shared.cache.evict();
        shared.space.made();
    }
}
