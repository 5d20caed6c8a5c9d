//! From a channel's queue to its subscribers' mailboxes.
//!
//! A channel's subscribers sit in segments of bounded size. A segment has a queue of events and
//! at most one runner. Whoever finds it idle runs it: in place when the subscribers are few, as a
//! task of its own otherwise. A round takes all events that have arrived, joins their frames and
//! writes them with one system call for each subscriber; what arrives meanwhile waits for the
//! next round. So a busy channel costs fewer system calls than it has deliveries, no publisher
//! waits for a large fan-out, and each subscriber sees the channel's order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use slab::Slab;
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::Shared;
use super::format::{FormatId, Formats, MAX_FORMATS, Published};
use crate::mailbox::Mailbox;
use crate::model::socket::SocketId;

/// Subscribers of one segment, at most: with several, a large channel uses every core.
const SEGMENT_SIZE: usize = 2048;
/// Subscribers written to before others get their turn; up to here a round runs in place.
const CHUNK: usize = 128;
/// Bytes of events that one round joins, at most.
const ROUND_BYTES: usize = 256 * 1024;

/// Segments that were idle and have something to do now.
pub(super) type Idle = SmallVec<[Arc<Segment>; 2]>;

/// Where a socket's events go, and how they are written.
#[derive(Clone)]
pub struct Subscriber {
    /// The way to the socket.
    pub mailbox: Arc<Mailbox>,
    /// The wire form its door speaks.
    pub format: FormatId,
}

/// Part of a channel's subscribers.
#[derive(Default)]
pub(super) struct Segment {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Places are stable: a round may go on by index while others come and go.
    seats: Slab<Seat>,
    queue: Vec<Queued>,
    queued: usize,
    running: bool,
    /// Places that are freed once their last event has been delivered.
    leaving: Vec<usize>,
}

#[derive(Clone)]
struct Seat {
    subscriber: Subscriber,
    /// The first position it is told.
    since: u64,
    /// The last one; it has unsubscribed after that.
    until: u64,
}

struct Queued {
    position: u64,
    published: Arc<Published>,
}

impl Segment {
    pub(super) fn with_first(subscriber: &Subscriber, since: u64) -> (Arc<Self>, usize) {
        let mut seats = Slab::with_capacity(1);
        let slot = seats.insert(Seat::new(subscriber, since));
        let state = State { seats, ..State::default() };
        (Arc::new(Self { state: Mutex::new(state) }), slot)
    }

    /// A place for a subscriber, if there is a free one.
    pub(super) fn seat(&self, subscriber: &Subscriber, since: u64) -> Option<usize> {
        let mut state = self.state.lock();
        (state.seats.len() < SEGMENT_SIZE).then(|| state.seats.insert(Seat::new(subscriber, since)))
    }

    /// Frees a place whose subscriber is told nothing after position `until`; what has its place
    /// before that and is still under way will reach it. Says whether no place is taken any more.
    pub(super) fn unseat(&self, slot: usize, until: u64) -> bool {
        let mut state = self.state.lock();
        if state.running
            && let Some(seat) = state.seats.get_mut(slot)
        {
            seat.until = until;
            state.leaving.push(slot);
        } else {
            state.seats.try_remove(slot);
        }
        state.is_empty()
    }

    /// Queues an event. Says whether the segment was idle: then the caller must start it.
    pub(super) fn append(&self, position: u64, published: &Arc<Published>) -> bool {
        let mut state = self.state.lock();
        if state.is_empty() {
            return false;
        }
        state.queued += published.event.size();
        state.queue.push(Queued { position, published: Arc::clone(published) });
        !std::mem::replace(&mut state.running, true)
    }

    /// Bytes of events that wait for a round.
    pub(super) fn queued(&self) -> usize {
        self.state.lock().queued
    }

    fn is_small(&self) -> bool {
        self.state.lock().seats.len() <= CHUNK
    }

    /// The next round, or `None` when nothing has arrived: the segment is idle then.
    fn take_round(&self, shared: &Shared) -> Option<Round> {
        let mut state = self.state.lock();
        state.free_left();
        if state.queue.is_empty() {
            state.running = false;
            state.queue = Vec::new();
            return None;
        }
        let mut bytes = 0;
        let fits = |queued: &&Queued| {
            bytes += queued.published.event.size();
            bytes <= ROUND_BYTES
        };
        let count = state.queue.iter().take_while(fits).count().max(1);
        let batch: Vec<Queued> = if count == state.queue.len() {
            std::mem::take(&mut state.queue)
        } else {
            state.queue.drain(..count).collect()
        };
        state.queued -= batch.iter().map(|queued| queued.published.event.size()).sum::<usize>();
        drop(state);
        shared.room.made();
        Some(Round::new(batch))
    }

    /// Gives a round to the chunk of subscribers at `from`. Returns where the next one begins.
    fn deliver(&self, round: &mut Round, from: usize, shared: &Shared) -> Option<usize> {
        let mut chunk = std::mem::take(&mut round.chunk);
        let next = {
            let state = self.state.lock();
            let end = state.seats.capacity();
            let to = end.min(from + CHUNK);
            chunk.extend((from..to).filter_map(|slot| state.seats.get(slot)).cloned());
            (to < end).then_some(to)
        };
        shared.metrics.deliveries.add(chunk.len() * round.batch.len());
        for seat in chunk.drain(..) {
            round.give(&seat, &shared.formats);
        }
        round.chunk = chunk;
        next
    }
}

impl Shared {
    /// Starts segments that were idle.
    pub(super) fn start(self: &Arc<Self>, idle: Idle) {
        for segment in idle {
            if !segment.is_small() {
                tokio::spawn(Arc::clone(self).run(segment, None));
                continue;
            }
            let Some(mut round) = segment.take_round(self) else { continue };
            // One chunk at most in the publisher's own time.
            let next = segment.deliver(&mut round, 0, self).map(|at| (round, at));
            if next.is_some() || segment.has_more() {
                tokio::spawn(Arc::clone(self).run(segment, next));
            }
        }
    }

    async fn run(self: Arc<Self>, segment: Arc<Segment>, begun: Option<(Round, usize)>) {
        let mut current = begun;
        loop {
            let (mut round, mut at) = match current.take() {
                Some(begun) => begun,
                None => match segment.take_round(&self) {
                    Some(round) => (round, 0),
                    None => return,
                },
            };
            while let Some(next) = segment.deliver(&mut round, at, &self) {
                at = next;
                tokio::task::yield_now().await;
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Segment {
    /// Whether a runner has more to do; the segment is idle if not.
    fn has_more(&self) -> bool {
        let mut state = self.state.lock();
        state.free_left();
        state.running = !state.queue.is_empty();
        state.running
    }
}

impl State {
    /// Whether nobody would be told another event.
    fn is_empty(&self) -> bool {
        self.seats.len() == self.leaving.len()
    }

    /// Between rounds: frees the places of those who have had their last event.
    fn free_left(&mut self) {
        let next = self.queue.first().map_or(u64::MAX, |queued| queued.position);
        let seats = &mut self.seats;
        self.leaving.retain(|&slot| match seats.get(slot) {
            Some(seat) if seat.until >= next => true,
            _ => {
                seats.try_remove(slot);
                false
            }
        });
        if self.leaving.is_empty() {
            self.leaving = Vec::new();
        }
    }
}

impl Seat {
    fn new(subscriber: &Subscriber, since: u64) -> Self {
        Self { subscriber: subscriber.clone(), since, until: u64::MAX }
    }
}

/// Events that are written together.
struct Round {
    batch: Vec<Queued>,
    excepts: SmallVec<[SocketId; 4]>,
    joined: [Option<Bytes>; MAX_FORMATS],
    /// Kept between chunks for its memory.
    chunk: Vec<Seat>,
}

impl Round {
    fn new(batch: Vec<Queued>) -> Self {
        let excepts = batch.iter().filter_map(|queued| queued.published.event.except).collect();
        Self { batch, excepts, joined: Default::default(), chunk: Vec::new() }
    }

    /// Gives a subscriber what of the round is meant for it.
    fn give(&mut self, seat: &Seat, formats: &Formats) {
        let Subscriber { mailbox, format } = &seat.subscriber;
        let throughout = self.batch.first().is_some_and(|first| seat.since <= first.position)
            && self.batch.last().is_some_and(|last| last.position <= seat.until);
        let excepted = !self.excepts.is_empty() && self.excepts.contains(&mailbox.socket());
        if throughout && !excepted {
            mailbox.push(self.joined(*format, formats));
            return;
        }
        let socket = mailbox.socket();
        let mine = |queued: &&Queued| {
            (seat.since..=seat.until).contains(&queued.position)
                && queued.published.event.except != Some(socket)
        };
        let frames = join(self.batch.iter().filter(mine), *format, formats);
        if !frames.is_empty() {
            mailbox.push(&frames);
        }
    }

    fn joined(&mut self, format: FormatId, formats: &Formats) -> &Bytes {
        let batch = &self.batch;
        self.joined[format.index()].get_or_insert_with(|| join(batch.iter(), format, formats))
    }
}

/// The frames of several events behind one another; that of a single one as it is.
fn join<'a>(events: impl Iterator<Item = &'a Queued>, format: FormatId, formats: &Formats) -> Bytes {
    let mut events = events.map(|queued| queued.published.frame(format, formats));
    let Some(first) = events.next() else { return Bytes::new() };
    let Some(second) = events.next() else { return first.clone() };
    let mut joined = BytesMut::with_capacity(2 * (first.len() + second.len()));
    joined.extend_from_slice(first);
    joined.extend_from_slice(second);
    events.for_each(|frame| joined.extend_from_slice(frame));
    joined.freeze()
}

/// Publishers that wait for room in some queue.
#[derive(Default)]
pub(super) struct Room {
    waiting: AtomicUsize,
    changed: Notify,
}

impl Room {
    /// A round has been taken: there may be room.
    fn made(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.changed.notify_waiters();
        }
    }

    /// Waits until `has_room` says so. It is asked again whenever a round has been taken.
    pub(super) async fn wait_until(&self, has_room: impl Fn() -> bool) {
        let _waiting = Waiting::begin(&self.waiting);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if has_room() {
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
