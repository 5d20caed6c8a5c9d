//! What waits in all mailboxes together. Only who queues or takes from a queue comes here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Bytes up to which a mailbox is never refused more for what waits in the others, and keeps what it has when
/// it closes. Only the search for the fullest may close one that has less.
pub const SMALL_BACKLOG: usize = 16 * 1024;

/// The bytes that wait in all mailboxes together, and how many they may be.
///
/// Above the limit, the fullest mailboxes are to be closed until an eighth of it is free again; see
/// [`Backlogs::crossed`]. Until that is done, half the limit more is taken. Beyond that a mailbox in whose
/// queue something waits, and that would have more than [`SMALL_BACKLOG`], is closed when more comes for it.
/// What closing sockets may still read comes to half the limit, and to [`SMALL_BACKLOG`] for each.
///
/// So at no time there is more than twice the limit, and for each mailbox that is beyond it two times
/// [`SMALL_BACKLOG`], or [`SMALL_BACKLOG`] and one write.
#[derive(Debug)]
pub struct Backlogs {
    limit: AtomicUsize,
    /// In mailboxes that are open.
    open: AtomicUsize,
    /// In mailboxes that are closing: what is closed in their stead would not make it less.
    closing: AtomicUsize,
    mailboxes: AtomicUsize,
    crossed: Notify,
}

impl Backlogs {
    /// Nothing waits. A `limit` of 0 is none.
    pub fn new(limit: usize) -> Self {
        let (open, closing, mailboxes) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let limit = AtomicUsize::new(unless_none(limit));
        Self { limit, open, closing, mailboxes, crossed: Notify::new() }
    }

    /// From now on this is the limit; 0 is none.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(unless_none(limit), Ordering::Relaxed);
        // It may be crossed by that.
        self.crossed.notify_one();
    }

    fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Bytes that wait, with what each queued buffer costs beside its own.
    pub fn bytes(&self) -> usize {
        self.open.load(Ordering::Relaxed) + self.closing.load(Ordering::Relaxed)
    }

    /// Mailboxes in which something waits.
    pub fn mailboxes(&self) -> usize {
        self.mailboxes.load(Ordering::Relaxed)
    }

    /// Waits until there is more in open mailboxes than there may be.
    pub async fn crossed(&self) {
        while self.open.load(Ordering::Relaxed) <= self.limit() {
            self.crossed.notified().await;
        }
    }

    /// Whether there is still too much in open mailboxes, once the limit has been crossed. A little less
    /// than the limit is asked for, or the next push would cross it again.
    pub fn are_too_full(&self) -> bool {
        let limit = self.limit();
        self.open.load(Ordering::Relaxed) > limit - limit / 8
    }

    fn half(&self) -> usize {
        self.limit() / 2
    }

    fn counter(&self, is_closing: bool) -> &AtomicUsize {
        if is_closing { &self.closing } else { &self.open }
    }
}

fn unless_none(limit: usize) -> usize {
    if limit == 0 { usize::MAX } else { limit }
}

/// What of it waits in one mailbox.
pub(super) struct Backlog {
    all: Arc<Backlogs>,
    queued: usize,
    /// What the connection has taken, and the kernel has not.
    held: usize,
    is_closing: bool,
}

impl Backlog {
    pub(super) fn new(all: Arc<Backlogs>) -> Self {
        Self { all, queued: 0, held: 0, is_closing: false }
    }

    /// All that waits.
    pub(super) fn bytes(&self) -> usize {
        self.queued + self.held
    }

    /// What of it the mailbox itself has.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Queues so much more, unless there is too much in all and more than a little here.
    #[must_use]
    pub(super) fn add(&mut self, more: usize) -> bool {
        let all = &self.all;
        // Counted before it is compared: of two that come at once, one sees both.
        let open = all.open.fetch_add(more, Ordering::Relaxed) + more;
        let limit = all.limit();
        if open > limit {
            all.crossed.notify_one();
            let has_its_due = self.queued > 0 && self.bytes() + more > SMALL_BACKLOG;
            if has_its_due && open - limit > limit / 2 {
                all.open.fetch_sub(more, Ordering::Relaxed);
                return false;
            }
        }
        if self.bytes() == 0 {
            all.mailboxes.fetch_add(1, Ordering::Relaxed);
        }
        self.queued += more;
        true
    }

    /// So much is queued now.
    pub(super) fn set(&mut self, queued: usize) {
        self.change(queued, self.held);
    }

    /// So much has the connection now that the kernel has not.
    pub(super) fn hold(&mut self, held: usize) {
        if held != self.held {
            self.change(self.queued, held);
        }
    }

    fn change(&mut self, queued: usize, held: usize) {
        let was = self.bytes();
        (self.queued, self.held) = (queued, held);
        let (now, counter) = (self.bytes(), self.all.counter(self.is_closing));
        if now >= was {
            counter.fetch_add(now - was, Ordering::Relaxed);
        } else {
            counter.fetch_sub(was - now, Ordering::Relaxed);
        }
        match (was, now) {
            (0, 1..) => drop(self.all.mailboxes.fetch_add(1, Ordering::Relaxed)),
            (1.., 0) => drop(self.all.mailboxes.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    /// The mailbox closes: from here on this is among what closing ones have.
    pub(super) fn close(&mut self) {
        if !self.is_closing {
            self.is_closing = true;
            self.all.closing.fetch_add(self.bytes(), Ordering::Relaxed);
            self.all.open.fetch_sub(self.bytes(), Ordering::Relaxed);
        }
    }

    /// Whether there is room for what closing mailboxes have, or this one has but a little.
    pub(super) fn may_stay(&self) -> bool {
        self.queued <= SMALL_BACKLOG || self.all.closing.load(Ordering::Relaxed) <= self.all.half()
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        if self.bytes() > 0 {
            self.change(0, 0);
        }
    }
}
