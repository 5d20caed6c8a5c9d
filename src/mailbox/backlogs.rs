//! What waits in all mailboxes together. Only who queues or takes from a queue comes here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes that wait in all mailboxes together, and how many they may be.
///
/// Above that, a mailbox in which something waits already and that has more than its share of the whole is
/// closed when more comes for it; the others go on. So the whole never gets much beyond twice the limit:
/// what was there before, and a share for everybody.
#[derive(Debug)]
pub struct Backlogs {
    limit: AtomicUsize,
    bytes: AtomicUsize,
    mailboxes: AtomicUsize,
}

impl Backlogs {
    /// Nothing waits. A `limit` of 0 is none.
    pub fn new(limit: usize) -> Self {
        Self { limit: AtomicUsize::new(limit), bytes: AtomicUsize::new(0), mailboxes: AtomicUsize::new(0) }
    }

    /// From now on this is the limit.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Bytes that wait, with what each queued buffer costs beside its own.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Mailboxes in which something waits.
    pub fn mailboxes(&self) -> usize {
        self.mailboxes.load(Ordering::Relaxed)
    }
}

/// What of it waits in one mailbox.
pub(super) struct Backlog {
    all: Arc<Backlogs>,
    bytes: usize,
}

impl Backlog {
    pub(super) fn new(all: Arc<Backlogs>) -> Self {
        Self { all, bytes: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether so much more would be above the limit of all, and more than this mailbox's share.
    pub(super) fn is_excessive(&self, more: usize) -> bool {
        let limit = self.all.limit.load(Ordering::Relaxed);
        if limit == 0 || self.all.bytes() + more <= limit {
            return false;
        }
        let share = limit / self.all.mailboxes().max(1);
        self.bytes > 0 && self.bytes + more > share
    }

    pub(super) fn set(&mut self, bytes: usize) {
        let was = std::mem::replace(&mut self.bytes, bytes);
        if bytes >= was {
            self.all.bytes.fetch_add(bytes - was, Ordering::Relaxed);
        } else {
            self.all.bytes.fetch_sub(was - bytes, Ordering::Relaxed);
        }
        match (was, bytes) {
            (0, 1..) => drop(self.all.mailboxes.fetch_add(1, Ordering::Relaxed)),
            (1.., 0) => drop(self.all.mailboxes.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.set(0);
        }
    }
}
