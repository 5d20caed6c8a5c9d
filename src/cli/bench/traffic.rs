//! Deliveries as they come in: counted, timed, and each checked against the order of its lane.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::marker::Marker;
use super::percentiles::Times;
use super::socket::Seen;

/// Most sequence numbers of one socket and lane that are remembered as missing.
const MAX_MISSING: usize = 100_000;

/// Nanoseconds since the run began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    /// Begins now.
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// Now.
    pub(super) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// Some other moment; the beginning for any before it.
    pub(super) fn at(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.0).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The deliveries of all sockets of a run.
#[derive(Debug)]
pub(super) struct Traffic {
    pub(super) clock: Clock,
    /// What was sent before is not counted.
    since: Cell<u64>,
    expected: Cell<u64>,
    received: Cell<u64>,
    doubled: Cell<u64>,
    out_of_order: Cell<u64>,
    misdirected: Cell<u64>,
    latency: RefCell<Times>,
    hint: Cell<usize>,
    /// Who saturates is told when this many have arrived.
    wanted: Cell<u64>,
    arrived: Notify,
}

impl Traffic {
    /// Nothing sent yet.
    pub(super) fn new(clock: Clock) -> Self {
        let zero = || Cell::new(0);
        Self {
            clock,
            since: zero(),
            expected: zero(),
            received: zero(),
            doubled: zero(),
            out_of_order: zero(),
            misdirected: zero(),
            latency: RefCell::default(),
            hint: Cell::new(0),
            wanted: Cell::new(u64::MAX),
            arrived: Notify::new(),
        }
    }

    /// Forgets all that has been counted: from here on it is measured.
    pub(super) fn reset(&self) {
        for count in [&self.expected, &self.received, &self.doubled, &self.out_of_order, &self.misdirected] {
            count.set(0);
        }
        self.latency.borrow_mut().clear();
        self.since.set(self.clock.now());
    }

    /// Deliveries that have to follow from what is sent now.
    pub(super) fn expect(&self, deliveries: u64) {
        self.expected.set(self.expected.get() + deliveries);
    }

    /// Takes back what was expected of something that the server refused.
    pub(super) fn unexpect(&self, deliveries: u64) {
        self.expected.set(self.expected.get().saturating_sub(deliveries));
    }

    /// Looks at a frame that came to a socket.
    pub(super) fn take(&self, frame: &[u8], place: &mut Place) -> Seen<()> {
        let mut hint = self.hint.get();
        let Some(marker) = Marker::find(frame, &mut hint) else { return Seen::Other };
        self.hint.set(hint);
        let now = self.clock.now();
        match place.judge(&marker) {
            Verdict::InOrder => {}
            Verdict::OutOfOrder => add(&self.out_of_order),
            Verdict::Doubled => {
                add(&self.doubled);
                return Seen::Expected;
            }
            Verdict::Misdirected => {
                add(&self.misdirected);
                return Seen::Expected;
            }
        }
        if marker.sent >= self.since.get() {
            add(&self.received);
            self.latency.borrow_mut().add(now.saturating_sub(marker.sent));
            if self.received.get() >= self.wanted.get() {
                self.wanted.set(u64::MAX);
                self.arrived.notify_waiters();
            }
        }
        Seen::Expected
    }

    /// Waits until fewer than `most` deliveries are missing, or until none has come for `patience`,
    /// or until the `end`. What is missing after `patience` is given up as lost until it does come.
    pub(super) async fn room(&self, most: u64, given_up: &Cell<u64>, patience: Duration, end: Instant) {
        loop {
            given_up.set(given_up.get().min(self.lost()));
            let settled = self.expected.get().saturating_sub(given_up.get());
            let left = end.saturating_duration_since(Instant::now());
            if settled < self.received.get() + most || left.is_zero() {
                return;
            }
            self.wanted.set(self.wanted.get().min((settled + 1).saturating_sub(most)));
            let before = self.received.get();
            let silent = tokio::time::timeout(patience.min(left), self.arrived.notified()).await.is_err();
            if silent && patience <= left && self.received.get() == before {
                given_up.set(self.expected.get().saturating_sub(before));
            }
        }
    }

    /// Deliveries that should have come.
    pub(super) fn expected(&self) -> u64 {
        self.expected.get()
    }

    /// Deliveries that came.
    pub(super) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Deliveries that should have come and did not.
    pub(super) fn lost(&self) -> u64 {
        self.expected.get().saturating_sub(self.received.get())
    }

    /// Deliveries that came twice.
    pub(super) fn doubled(&self) -> u64 {
        self.doubled.get()
    }

    /// Deliveries that came after one sent later.
    pub(super) fn out_of_order(&self) -> u64 {
        self.out_of_order.get()
    }

    /// Deliveries to a socket that they were not meant for.
    pub(super) fn misdirected(&self) -> u64 {
        self.misdirected.get()
    }

    /// From just before an event was sent, or from when it was due, to its delivery.
    pub(super) fn latency(&self) -> Times {
        self.latency.borrow().clone()
    }
}

fn add(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

/// How a delivery fits with those before it.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    InOrder,
    OutOfOrder,
    Doubled,
    Misdirected,
}

/// Where a socket stands in the order of its channel's lanes.
#[derive(Debug)]
pub(super) struct Place {
    channel: usize,
    lanes: Box<[Lane]>,
}

#[derive(Clone, Debug, Default)]
struct Lane {
    next: u64,
    missing: Option<HashSet<u64>>,
}

impl Place {
    /// A socket that is to hear everything of a channel from the beginning.
    pub(super) fn new(channel: usize, lanes: usize) -> Self {
        Self { channel, lanes: vec![Lane::default(); lanes].into_boxed_slice() }
    }

    /// A socket that is to hear nothing.
    pub(super) fn deaf() -> Self {
        Self::new(usize::MAX, 0)
    }

    fn judge(&mut self, marker: &Marker) -> Verdict {
        match self.lanes.get_mut(marker.lane) {
            Some(lane) if marker.channel == self.channel => lane.judge(marker.sequence),
            _ => Verdict::Misdirected,
        }
    }
}

impl Lane {
    fn judge(&mut self, sequence: u64) -> Verdict {
        if sequence >= self.next {
            if sequence > self.next {
                let missing = self.missing.get_or_insert_default();
                let space = MAX_MISSING.saturating_sub(missing.len());
                missing.extend((self.next..sequence).take(space));
            }
            self.next = sequence + 1;
            return Verdict::InOrder;
        }
        let was_missing = self.missing.as_mut().is_some_and(|missing| missing.remove(&sequence));
        if was_missing { Verdict::OutOfOrder } else { Verdict::Doubled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(sent: u64, sequence: u64, channel: usize) -> Vec<u8> {
        let mut text = String::from("{\"data\":\"");
        Marker { sent, lane: 0, sequence, channel }.write(&mut text, 60);
        text.push_str("\"}");
        text.into_bytes()
    }

    #[test]
    fn loss_doubles_and_disorder_are_told_apart() {
        let traffic = Traffic::new(Clock::start());
        let mut place = Place::new(7, 1);
        traffic.expect(6);
        for sequence in [0, 1, 3, 2, 3, 5] {
            assert!(matches!(traffic.take(&frame(0, sequence, 7), &mut place), Seen::Expected));
        }
        assert_eq!((traffic.expected(), traffic.received(), traffic.lost()), (6, 5, 1));
        assert_eq!((traffic.doubled(), traffic.out_of_order(), traffic.misdirected()), (1, 1, 0));
    }

    #[test]
    fn what_was_meant_for_others_is_told() {
        let traffic = Traffic::new(Clock::start());
        for mut place in [Place::new(1, 1), Place::deaf()] {
            traffic.take(&frame(0, 0, 7), &mut place);
        }
        assert_eq!((traffic.received(), traffic.misdirected()), (0, 2));
    }

    #[test]
    fn what_was_sent_before_the_measurement_keeps_the_order_but_does_not_count() {
        let traffic = Traffic::new(Clock::start());
        let mut place = Place::new(0, 1);
        traffic.reset();
        traffic.take(&frame(0, 0, 0), &mut place);
        traffic.take(&frame(u64::MAX, 1, 0), &mut place);
        assert_eq!((traffic.received(), traffic.out_of_order(), traffic.doubled()), (1, 0, 0));
        assert!(matches!(traffic.take(b"{\"event\":\"pusher:ping\"}", &mut place), Seen::Other));
    }

    #[tokio::test]
    async fn room_is_given_by_deliveries_or_by_giving_up() {
        let traffic = Traffic::new(Clock::start());
        let given_up = Cell::new(0);
        traffic.expect(2);
        let (brief, long) = (Duration::from_millis(1), Duration::from_secs(3600));
        let (now, never) = (Instant::now(), Instant::now() + long);
        traffic.room(3, &given_up, long, never).await;
        // The end of the run says nothing about what is missing.
        traffic.room(2, &given_up, long, now).await;
        assert_eq!(given_up.get(), 0);
        traffic.room(2, &given_up, brief, never).await;
        assert_eq!(given_up.get(), 2);
        // What comes after all is not given up any more.
        let mut place = Place::new(0, 1);
        traffic.take(&frame(u64::MAX, 0, 0), &mut place);
        traffic.room(2, &given_up, long, never).await;
        assert_eq!(given_up.get(), 1);
    }
}
