//! From a channel's queue to its subscribers' mailboxes.
//!
//! A channel's subscribers sit in segments of bounded size. A segment has a queue of events and
//! at most one runner. Whoever finds it idle runs it: in place when the subscribers are few, as a
//! task of its own otherwise. A round takes all events that have arrived, joins their frames and
//! writes them with one system call for each subscriber; what arrives meanwhile waits for the
//! next round. So a busy channel costs fewer system calls than it has deliveries, no publisher
//! waits for a large fan-out, and each subscriber sees the channel's order.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use slab::Slab;
use smallvec::SmallVec;

use super::Shared;
use super::format::{FormatId, Formats, MAX_FORMATS, Published};
use crate::mailbox::{Mailbox, SeatId};
use crate::model::channel::ChannelName;
use crate::model::socket::SocketId;

/// Subscribers of one segment, at most: a channel beyond it uses more than one core. Fewer, larger
/// segments join more in each round: with 5000 saturated subscribers on 2 cores, three segments of
/// 2048 took 3.2 µs of CPU for a delivery, one takes 1.0, and both the same when there is time.
const SEGMENT_SIZE: usize = 8192;
/// Subscribers written to before others get their turn; up to here a round runs in place.
pub(super) const CHUNK: usize = 128;
/// Bytes of events that one round joins, at most.
const ROUND_BYTES: usize = 256 * 1024;

/// Segments that were idle and have something to do now.
pub(super) type Idle = SmallVec<[Arc<Segment>; 2]>;

/// How many deliveries a publisher may still make in its own time; the rest is left to tasks.
///
/// To deliver in place is the quickest way for an event with few subscribers, and it keeps the
/// order of what one request publishes in several small channels.
#[derive(Debug)]
pub struct Budget(usize);

impl Budget {
    /// As much as does not keep others waiting.
    pub fn one_chunk() -> Self {
        Self(CHUNK)
    }

    /// Nothing: for whoever causes events by the dozen.
    pub fn none() -> Self {
        Self(0)
    }

    /// What comes after something that is left to a task is left to tasks too.
    fn covers(&mut self, deliveries: usize) -> bool {
        let left = self.0.checked_sub(deliveries);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

/// Where a socket's events go, and how they are written.
#[derive(Clone)]
pub struct Subscriber {
    /// The way to the socket.
    pub mailbox: Arc<Mailbox>,
    /// The wire form its door speaks.
    pub format: FormatId,
}

/// Part of a channel's subscribers.
pub(super) struct Segment {
    channel: ChannelName,
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
pub(super) struct Seat {
    subscriber: Subscriber,
    /// The first position it is told.
    since: u64,
    /// The last one; it has unsubscribed after that.
    until: u64,
    id: SeatId,
}

struct Queued {
    position: u64,
    published: Arc<Published>,
}

impl Segment {
    pub(super) fn with_first(channel: &ChannelName, seat: Seat) -> (Arc<Self>, usize) {
        let mut seats = Slab::with_capacity(1);
        let slot = seats.insert(seat);
        let state = State { seats, ..State::default() };
        (Arc::new(Self { channel: channel.clone(), state: Mutex::new(state) }), slot)
    }

    /// Takes a subscriber in, if there is a free place.
    pub(super) fn seat(&self, seat: &Seat) -> Option<usize> {
        let mut state = self.state.lock();
        (state.seats.len() < SEGMENT_SIZE).then(|| state.seats.insert(seat.clone()))
    }

    /// Frees a place whose subscriber is told nothing after position `until`. What has its place
    /// before that and is still under way reaches it, unless it subscribes again meanwhile. Says
    /// whether no place is taken any more.
    pub(super) fn unseat(&self, slot: usize, until: u64) -> bool {
        let mut state = self.state.lock();
        if state.running
            && let Some(seat) = state.seats.get_mut(slot)
        {
            seat.until = until;
            seat.subscriber.mailbox.owe(&self.channel);
            state.leaving.push(slot);
        } else {
            state.free(slot);
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

    fn len(&self) -> usize {
        self.state.lock().seats.len()
    }

    /// The next round, or `None` when nothing has arrived: the segment is idle then.
    fn take_round(&self, shared: &Shared) -> Option<Round> {
        let mut state = self.state.lock();
        state.free_left(&self.channel);
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
        let (limit, before) = (shared.bounds.max_queue_bytes(), state.queued);
        state.queued -= batch.iter().map(|queued| queued.published.event.size()).sum::<usize>();
        let has_space_again = before >= limit && state.queued < limit;
        drop(state);
        if has_space_again {
            shared.space.made();
        }
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
        let (mut events, mut bytes) = (0, 0);
        for seat in chunk.drain(..) {
            let given = round.give(&self.channel, &seat, &shared.formats);
            events += given.events;
            bytes += given.bytes;
        }
        shared.metrics.deliveries.add(events);
        shared.metrics.delivered_bytes.add(bytes);
        round.chunk = chunk;
        next
    }
}

impl Shared {
    /// Starts segments that were idle.
    pub(super) fn start(self: &Arc<Self>, idle: Idle, budget: &mut Budget) {
        for segment in idle {
            let in_place = budget.covers(segment.len());
            let mut runner = Runner::new(self, segment);
            if !in_place || runner.step() {
                tokio::spawn(runner.run());
            }
        }
    }
}

/// Runs a segment: there is one at most for each. It exists while the segment is `running`.
struct Runner {
    shared: Arc<Shared>,
    segment: Arc<Segment>,
    /// The round under way, and where its next chunk begins.
    current: Option<(Round, usize)>,
    finished: bool,
}

impl Runner {
    fn new(shared: &Arc<Shared>, segment: Arc<Segment>) -> Self {
        Self { shared: Arc::clone(shared), segment, current: None, finished: false }
    }

    /// Delivers one chunk. Says whether there is more to do; the segment is idle if not.
    fn step(&mut self) -> bool {
        let current = self.current.take();
        if let Some((mut round, at)) = current.or_else(|| Some((self.segment.take_round(&self.shared)?, 0))) {
            let next = self.segment.deliver(&mut round, at, &self.shared);
            self.current = next.map(|at| (round, at));
            self.finished = self.current.is_none() && !self.segment.has_more();
        } else {
            self.finished = true;
        }
        !self.finished
    }

    async fn run(mut self) {
        while self.step() {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Runner {
    /// Should a panic end a runner, another goes on with what is left.
    fn drop(&mut self) {
        if self.finished || !std::thread::panicking() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && self.segment.has_more()
        {
            runtime.spawn(Self::new(&self.shared, Arc::clone(&self.segment)).run());
        }
    }
}

impl Segment {
    /// Whether a runner has more to do; the segment is idle if not.
    fn has_more(&self) -> bool {
        let mut state = self.state.lock();
        state.free_left(&self.channel);
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
    fn free_left(&mut self, channel: &ChannelName) {
        let next = self.queue.first().map_or(u64::MAX, |queued| queued.position);
        for slot in std::mem::take(&mut self.leaving) {
            match self.seats.get(slot) {
                Some(seat) if seat.until >= next => self.leaving.push(slot),
                Some(seat) => {
                    seat.subscriber.mailbox.settled(channel);
                    self.free(slot);
                }
                None => {}
            }
        }
    }

    fn free(&mut self, slot: usize) {
        free(&mut self.seats, slot);
    }
}

impl Seat {
    /// A place for a subscriber that is told what has its place from position `since` on.
    pub(super) fn new(subscriber: &Subscriber, since: u64, id: SeatId) -> Self {
        Self { subscriber: subscriber.clone(), since, until: u64::MAX, id }
    }
}

/// Frees a place, and gives back what lies behind the last place that is taken. That walks all places,
/// so a crowd that leaves one by one has it done at each halving, not at each departure.
pub(super) fn free<T>(places: &mut Slab<T>, slot: usize) {
    places.try_remove(slot);
    if places.is_empty() {
        *places = Slab::new();
    } else if places.len().is_power_of_two() && places.len() * 4 < places.capacity() {
        places.shrink_to_fit();
    }
}

/// Events that are written together.
struct Round {
    batch: Vec<Queued>,
    excepts: SmallVec<[SocketId; 4]>,
    /// Some seats are spared an event.
    spares: bool,
    joined: [Option<Bytes>; MAX_FORMATS],
    /// Kept between chunks for its memory.
    chunk: Vec<Seat>,
}

/// What a subscriber was given.
struct Given {
    events: usize,
    bytes: usize,
}

impl Round {
    fn new(batch: Vec<Queued>) -> Self {
        let excepts = batch.iter().filter_map(|queued| queued.published.event.except).collect();
        let spares = batch.iter().any(|queued| queued.published.spared.is_some());
        Self { batch, excepts, spares, joined: Default::default(), chunk: Vec::new() }
    }

    /// Gives a subscriber what of the round is meant for it.
    fn give(&mut self, channel: &ChannelName, seat: &Seat, formats: &Formats) -> Given {
        let Subscriber { mailbox, format } = &seat.subscriber;
        let throughout = self.batch.first().is_some_and(|first| seat.since <= first.position)
            && self.batch.last().is_some_and(|last| last.position <= seat.until);
        let excepted = !self.excepts.is_empty() && self.excepts.contains(&mailbox.socket());
        if throughout && !excepted && !self.spares {
            let frames = self.joined(*format, formats);
            mailbox.deliver(channel, seat.id, frames);
            let bytes = frames.len();
            return Given { events: self.batch.len(), bytes };
        }
        let socket = mailbox.socket();
        let mine = |queued: &&Queued| {
            (seat.since..=seat.until).contains(&queued.position)
                && queued.published.event.except != Some(socket)
                && queued.published.spared.is_none_or(|spared| seat.id < spared)
        };
        let mut events = 0;
        let mine = self.batch.iter().filter(mine).inspect(|_| events += 1);
        let frames = join(mine, *format, formats);
        if events > 0 {
            mailbox.deliver(channel, seat.id, &frames);
        }
        Given { events, bytes: frames.len() }
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
