//! Publishers that wait because some channel's queue is full.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Publishers that wait for space in some queue.
#[derive(Default)]
pub(super) struct Space {
    waiting: AtomicUsize,
    changed: Notify,
}

impl Space {
    /// A queue that was full has space again.
    pub(super) fn made(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.changed.notify_waiters();
        }
    }

    /// Waits until `has_space` says so. It is asked again whenever a full queue has space again.
    pub(super) async fn wait_until(&self, has_space: impl Fn() -> bool) {
        let _waiting = Waiting::begin(&self.waiting);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if has_space() {
                return;
            }
            changed.await;
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
