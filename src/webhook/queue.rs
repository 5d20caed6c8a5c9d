//! The events that wait for one endpoint. Pure: the caller tells the time.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::model::channel::ChannelName;

/// Events in one request, at most.
const MAX_BATCH: usize = 100;
/// Bytes of events in one request, unless a single one is larger: some frameworks take no more.
const MAX_BATCH_BYTES: usize = 64 * 1024;
/// How long the first event of a request waits for more.
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// What an event costs beside its bytes.
const OVERHEAD: usize = 64;

/// An event that waits.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) event: Bytes,
    pub(super) since: Instant,
    /// The same in milliseconds since 1970.
    pub(super) created_ms: u64,
    /// The channel whose cache miss it tells.
    pub(super) miss: Option<ChannelName>,
}

/// What bounds a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// A queue that forgets its oldest events when it is full.
#[derive(Debug)]
pub(super) struct Queue {
    bounds: Bounds,
    batch: bool,
    events: VecDeque<Waiting>,
    bytes: usize,
}

/// What the queue has for the next request.
#[derive(Debug)]
pub(super) enum Next {
    /// These events.
    Batch(Vec<Waiting>),
    /// Nothing before this.
    At(Instant),
    /// Nothing.
    Empty,
}

impl Queue {
    pub(super) fn new(bounds: Bounds, batch: bool) -> Self {
        Self { bounds, batch, events: VecDeque::new(), bytes: 0 }
    }

    /// From now on several events go in one request, or each in its own.
    pub(super) fn batch(&mut self, batch: bool) {
        self.batch = batch;
    }

    /// Queues an event. Returns those that were forgotten for it.
    pub(super) fn push(&mut self, waiting: Waiting) -> Vec<Waiting> {
        self.bytes += cost(&waiting);
        self.events.push_back(waiting);
        let mut forgotten = Vec::new();
        // A single event always fits.
        while self.events.len() > 1
            && (self.events.len() > self.bounds.events || self.bytes > self.bounds.bytes)
        {
            forgotten.extend(self.pop());
        }
        forgotten
    }

    /// What to send now; `hurry`: nothing waits for more.
    pub(super) fn next(&mut self, now: Instant, hurry: bool) -> Next {
        let Some(first) = self.events.front() else { return Next::Empty };
        if !self.batch {
            return Next::Batch(self.pop().into_iter().collect());
        }
        let due = first.since + BATCH_WAIT;
        if due > now && !hurry && self.events.len() < MAX_BATCH && self.bytes < MAX_BATCH_BYTES {
            return Next::At(due);
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < MAX_BATCH {
            bytes += self.events.front().map_or(usize::MAX / 2, |waiting| waiting.event.len());
            if !batch.is_empty() && bytes > MAX_BATCH_BYTES {
                break;
            }
            batch.extend(self.pop());
        }
        Next::Batch(batch)
    }

    /// Whether it takes events that can wait elsewhere: a quarter is kept free for those that cannot.
    pub(super) fn has_room(&self) -> bool {
        let most = |bound: usize| (bound / 4 * 3).max(1);
        self.events.len() < most(self.bounds.events) && self.bytes < most(self.bounds.bytes)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.events.pop_front()?;
        self.bytes -= cost(&waiting);
        if self.events.is_empty() {
            self.events = VecDeque::new();
        }
        Some(waiting)
    }
}

fn cost(waiting: &Waiting) -> usize {
    waiting.event.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(letter: u8, len: usize, since: Instant) -> Waiting {
        Waiting { event: vec![letter; len].into(), since, created_ms: 0, miss: None }
    }

    fn letters(next: Next) -> String {
        match next {
            Next::Batch(batch) => batch.iter().map(|waiting| char::from(waiting.event[0])).collect(),
            other => format!("{other:?}"),
        }
    }

    const BOUNDS: Bounds = Bounds { events: 1000, bytes: 1 << 20 };

    #[test]
    fn a_batch_is_due_when_it_is_full_or_a_second_old() {
        let (mut queue, now) = (Queue::new(BOUNDS, true), Instant::now());
        assert!(matches!(queue.next(now, false), Next::Empty));
        queue.push(waiting(b'a', 1, now));
        queue.push(waiting(b'b', 1, now));
        assert!(matches!(queue.next(now, false), Next::At(due) if due == now + BATCH_WAIT));
        assert_eq!(letters(queue.next(now + BATCH_WAIT, false)), "ab");
        queue.push(waiting(b'c', 1, now));
        assert_eq!(letters(queue.next(now, true)), "c", "in a hurry");
        assert!((0..=MAX_BATCH).all(|_| queue.push(waiting(b'd', 1, now)).is_empty()));
        assert_eq!(letters(queue.next(now, false)).len(), MAX_BATCH);
        assert!(matches!(queue.next(now, false), Next::At(_)), "one is left");
    }

    #[test]
    fn a_request_is_bounded_in_bytes_but_takes_any_single_event() {
        let (mut queue, now) = (Queue::new(BOUNDS, true), Instant::now());
        for (letter, len) in [(b'a', MAX_BATCH_BYTES * 2), (b'b', MAX_BATCH_BYTES - 1), (b'c', 1), (b'd', 1)]
        {
            queue.push(waiting(letter, len, now));
        }
        assert_eq!(letters(queue.next(now, false)), "a");
        assert_eq!(letters(queue.next(now, false)), "bc");
        assert_eq!(letters(queue.next(now, true)), "d");
    }

    #[test]
    fn without_batching_each_event_goes_alone_and_at_once() {
        let (mut queue, now) = (Queue::new(BOUNDS, false), Instant::now());
        queue.push(waiting(b'a', 1, now));
        queue.push(waiting(b'b', 1, now));
        assert_eq!(letters(queue.next(now, false)), "a");
        assert_eq!(letters(queue.next(now, false)), "b");
    }

    #[test]
    fn a_queue_that_is_nearly_full_has_no_room_but_an_empty_one_always_has() {
        let now = Instant::now();
        let mut queue = Queue::new(Bounds { events: 8, bytes: 1 << 20 }, true);
        assert!((0..6).all(|_| queue.has_room() && queue.push(waiting(b'a', 1, now)).is_empty()));
        assert!(!queue.has_room());
        let mut queue = Queue::new(Bounds { events: 1, bytes: 1 }, true);
        assert!(queue.has_room() && queue.push(waiting(b'a', 1, now)).is_empty() && !queue.has_room());
    }

    #[test]
    fn a_full_queue_forgets_its_oldest() {
        let now = Instant::now();
        let mut queue = Queue::new(Bounds { events: 2, bytes: 1 << 20 }, true);
        assert_eq!([b'a', b'b', b'c'].map(|letter| queue.push(waiting(letter, 1, now)).len()), [0, 0, 1]);
        assert_eq!(letters(queue.next(now, true)), "bc");
        let mut queue = Queue::new(Bounds { events: 100, bytes: 3 * (10 + OVERHEAD) }, true);
        let forgotten = [(b'a', 10), (b'b', 10), (b'c', 10), (b'd', 84)]
            .map(|(letter, len)| queue.push(waiting(letter, len, now)).len());
        assert_eq!(forgotten, [0, 0, 0, 2], "bytes count too");
        assert_eq!(queue.push(waiting(b'e', 1 << 20, now)).len(), 2, "a single one always fits");
        assert_eq!((letters(queue.next(now, true)), queue.bytes), ("e".to_owned(), 0));
    }
}
