//! Events that wait to be given to Redis.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::place::Place;

/// Bytes that an entry takes besides its event.
const OVERHEAD: usize = 128;

/// What is given to Redis in order.
#[derive(Debug)]
pub(super) enum Outgoing {
    Plain { place: Place, envelope: Vec<u8> },
    Cached { place: Place, envelope: Vec<u8>, keep: Duration },
    Missed { place: Place },
    Order { partition: usize, envelope: Vec<u8> },
}

impl Outgoing {
    /// Bytes that it takes in the queue.
    pub(super) fn size(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Plain { envelope, .. }
                | Self::Cached { envelope, .. }
                | Self::Order { envelope, .. } => envelope.len(),
                Self::Missed { .. } => 0,
            }
    }

    pub(super) fn is_event(&self) -> bool {
        matches!(self, Self::Plain { .. } | Self::Cached { .. })
    }
}

#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    wake: Notify,
    /// How many of those ever pushed have been answered.
    answered: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Outgoing>,
    pushed: u64,
    closed: bool,
    /// Taken out and not answered yet: entries that are events, and bytes.
    taken: (usize, usize),
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), wake: Notify::new(), answered: watch::Sender::new(0) }
    }

    /// False when the link is lost.
    pub(super) fn push(&self, outgoing: Outgoing) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        state.queue.push_back(outgoing);
        state.pushed += 1;
        drop(state);
        self.wake.notify_one();
        true
    }

    /// The next entries, of at most so many and about so many bytes; at least one.
    pub(super) async fn take(&self, most: usize, bytes: usize) -> Vec<Outgoing> {
        loop {
            let taken = self.take_now(most, bytes);
            if !taken.is_empty() {
                return taken;
            }
            self.wake.notified().await;
        }
    }

    fn take_now(&self, most: usize, bytes: usize) -> Vec<Outgoing> {
        let mut state = self.state.lock();
        let (mut taken, mut size) = (Vec::new(), 0);
        while taken.len() < most && size < bytes {
            let Some(next) = state.queue.pop_front() else { break };
            size += next.size();
            taken.push(next);
        }
        if state.queue.is_empty() {
            state.queue.shrink_to(most);
        }
        state.taken = (taken.iter().filter(|outgoing| outgoing.is_event()).count(), size);
        taken
    }

    /// What was taken has been answered. Gives events and bytes of it, to be counted before
    /// [`Self::advance`] lets those go on who wait for it.
    pub(super) fn answered(&self) -> (usize, usize) {
        std::mem::take(&mut self.state.lock().taken)
    }

    pub(super) fn advance(&self, entries: usize) {
        self.answered.send_modify(|answered| *answered += entries as u64);
    }

    /// Takes nothing any more. Gives events and bytes of what is not answered.
    pub(super) fn close(&self) -> (usize, usize) {
        let mut state = self.state.lock();
        state.closed = true;
        let queue = std::mem::take(&mut state.queue);
        let (events, bytes) = std::mem::take(&mut state.taken);
        drop(state);
        let waiting = queue.iter().filter(|outgoing| outgoing.is_event()).count();
        (events + waiting, bytes + queue.iter().map(Outgoing::size).sum::<usize>())
    }

    pub(super) fn pushed(&self) -> u64 {
        self.state.lock().pushed
    }

    pub(super) fn progress(&self) -> watch::Receiver<u64> {
        self.answered.subscribe()
    }
}
