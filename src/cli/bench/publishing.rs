//! Publishers: each a connection to the API, with channels of its own so that order is defined.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::api::Api;
use super::crowd::{Crowd, GLANCE};
use super::failure::Failure;
use super::marker::Marker;
use super::percentiles::Times;
use super::run::Run;
use super::traffic::Traffic;

/// How long deliveries are waited for after the last event was published.
const DRAIN: Duration = Duration::from_secs(5);
/// How far behind its pace a run may fall before it is ended.
const MAX_LATE: Duration = Duration::from_secs(10);
/// How long saturating waits for deliveries before it takes them for lost.
const STALLED: Duration = Duration::from_millis(500);
/// How late the runtime's timer may be, which knows whole milliseconds only.
const TICK: Duration = Duration::from_millis(2);
/// A publisher that finds nobody so often in a row ends the run.
const MAX_UNREACHABLE: u32 = 3;

/// When events are published.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// So many a second.
    Every(f64),
    /// Whenever fewer deliveries than this are on their way.
    Outstanding(u64),
    /// As soon as the one before is answered.
    Answered,
}

/// What is published, and how it went.
#[derive(Debug)]
pub(super) struct Publishing {
    pub(super) run: Rc<Run>,
    pub(super) traffic: Rc<Traffic>,
    pub(super) crowd: Rc<Crowd>,
    pub(super) prefix: &'static str,
    /// Subscribers of each channel.
    pub(super) subscribers: Vec<u64>,
    pub(super) size: usize,
    pub(super) batch: Option<u32>,
    pub(super) pace: Pace,
    pub(super) count: usize,
    pub(super) progress: Cell<Progressed>,
    pub(super) requests: RefCell<Times>,
    pub(super) given_up: Cell<u64>,
}

/// How far publishing has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progressed {
    pub(super) answered: u64,
    pub(super) refused: u64,
    /// Nobody is there any more.
    pub(super) over: bool,
}

impl Progressed {
    /// How often it was published, with success or without.
    fn turns(&self) -> u64 {
        self.answered + self.refused
    }
}

/// How many publishers one channel has at most, each with an order of its own.
pub(super) fn lanes(publishers: usize, channels: usize) -> usize {
    publishers.div_ceil(channels.max(1)).max(1)
}

/// How many events a pace asks for.
fn asked(rate: f64, time: Duration) -> u64 {
    (rate * time.as_secs_f64()) as u64
}

impl Publishing {
    /// Everyone who publishes, connected.
    pub(super) async fn publishers(&self) -> Vec<Publisher> {
        let mut all = Vec::with_capacity(self.count);
        for number in 0..self.count {
            let mut publisher = Publisher::new(number, self);
            if let Err(failure) = publisher.api.ready().await {
                self.run.failures.add(&failure);
            }
            all.push(publisher);
        }
        all
    }

    /// Publishes for some time; gives the publishers back for the next.
    pub(super) async fn publish(
        self: &Rc<Self>,
        publishers: Vec<Publisher>,
        time: Duration,
    ) -> Vec<Publisher> {
        let (started, before) = (Instant::now(), self.progress.get().turns());
        let mut tasks = JoinSet::new();
        for publisher in publishers {
            tasks.spawn_local(publisher.go(Rc::clone(self), started, time));
        }
        let publishers = tasks.join_all().await;
        if let Pace::Every(rate) = self.pace {
            let (asked, turns) = (asked(rate, time), self.progress.get().turns() - before);
            if turns < asked {
                self.run.failures.add(&Failure::Late(asked - turns, asked));
            }
        }
        publishers
    }

    /// Waits for what is still on its way.
    pub(super) async fn drain(&self) {
        let started = Instant::now();
        while self.traffic.lost() > 0 && self.crowd.present() > 0 && started.elapsed() < DRAIN {
            sleep(GLANCE).await;
        }
    }

    /// Forgets how it went so far: from here on it is measured.
    pub(super) fn reset(&self) {
        self.traffic.reset();
        self.requests.borrow_mut().clear();
        self.given_up.set(0);
        self.progress.set(Progressed { over: self.progress.get().over, ..Progressed::default() });
    }

    /// Waits for the `turn`th time to publish, if there is one. Returns the latest time that may
    /// stand in its events, by the clock of the run.
    async fn next(&self, number: usize, turn: u64, started: Instant, time: Duration) -> Option<u64> {
        match self.pace {
            Pace::Every(rate) => {
                let index = turn * self.count as u64 + number as u64;
                return self.due(rate, index, started, time).await;
            }
            Pace::Outstanding(most) => {
                self.traffic.room(most, &self.given_up, STALLED, started + time).await;
            }
            Pace::Answered => {}
        }
        (started.elapsed() < time).then_some(u64::MAX)
    }

    /// The same when there is a pace.
    async fn due(&self, rate: f64, index: u64, started: Instant, time: Duration) -> Option<u64> {
        if index >= asked(rate, time) {
            // N events take N intervals, and not one less.
            sleep_until((started + time).into()).await;
            return None;
        }
        let due = started + Duration::from_secs_f64(index as f64 / rate);
        // When the time has passed already, the server kept us waiting, and latency counts from when
        // the event was due: else a stall would only show in the one event that met it.
        let mut latest = due;
        if Instant::now() < due {
            sleep_until(due.into()).await;
            latest += TICK;
        }
        (started.elapsed() < time + MAX_LATE).then(|| self.run.clock.at(latest))
    }

    fn note(&self, answer: Result<(), Failure>, deliveries: u64) -> bool {
        let mut progress = self.progress.get();
        let reached = match answer {
            Ok(()) => {
                progress.answered += 1;
                true
            }
            Err(failure) => {
                progress.refused += 1;
                self.run.failures.add(&failure);
                let reached = matches!(failure, Failure::Status(..));
                // Without an answer nobody knows whether it was published.
                if reached {
                    self.traffic.unexpect(deliveries);
                }
                reached
            }
        };
        self.progress.set(progress);
        reached
    }
}

/// One connection to the API, and where it stands in the order of each of its channels.
#[derive(Debug)]
pub(super) struct Publisher {
    number: usize,
    lane: usize,
    /// Channel and next sequence number.
    channels: Vec<(usize, u64)>,
    next: usize,
    pub(super) api: Api,
}

impl Publisher {
    fn new(number: usize, plan: &Publishing) -> Self {
        let (channels, count) = (plan.subscribers.len(), plan.count);
        // Its own share of many channels, or together with others one of few.
        let own = if channels >= count {
            (number..channels).step_by(count).collect()
        } else {
            vec![number % channels]
        };
        Self {
            number,
            lane: number / channels,
            channels: own.into_iter().map(|channel| (channel, 0)).collect(),
            next: 0,
            api: Api::new(&plan.run.target),
        }
    }

    async fn go(mut self, plan: Rc<Publishing>, started: Instant, time: Duration) -> Self {
        let (mut turn, mut unreachable) = (0, 0);
        while !plan.progress.get().over {
            let Some(latest) = plan.next(self.number, turn, started, time).await else { break };
            turn += 1;
            if self.publish(&plan, latest).await {
                unreachable = 0;
                continue;
            }
            unreachable += 1;
            if unreachable >= MAX_UNREACHABLE {
                plan.progress.set(Progressed { over: true, ..plan.progress.get() });
            }
        }
        self
    }

    /// Publishes once; says whether the server was reached.
    async fn publish(&mut self, plan: &Publishing, latest: u64) -> bool {
        // Before the time is taken that stands in the event: a new connection is no part of it.
        if let Err(failure) = self.api.ready().await {
            return plan.note(Err(failure), 0);
        }
        let (body, deliveries) = self.body(plan, latest);
        let sent = plan.run.clock.now();
        let what = if plan.batch.is_some() { "batch_events" } else { "events" };
        plan.traffic.expect(deliveries);
        let answer = self.api.post(what, &body).await;
        if answer.is_ok() {
            plan.requests.borrow_mut().add(plan.run.clock.now() - sent);
        }
        plan.note(answer, deliveries)
    }

    /// The body of a request, and the deliveries that have to follow from it.
    fn body(&mut self, plan: &Publishing, latest: u64) -> (String, u64) {
        let events = plan.batch.unwrap_or(1);
        let mut body = String::with_capacity((plan.size + 96) * events as usize + 16);
        if plan.batch.is_some() {
            body.push_str("{\"batch\":[");
        }
        let mut deliveries = 0;
        for n in 0..events {
            if n > 0 {
                body.push(',');
            }
            deliveries += self.event(plan, latest, &mut body);
        }
        if plan.batch.is_some() {
            body.push_str("]}");
        }
        (body, deliveries)
    }

    fn event(&mut self, plan: &Publishing, latest: u64, body: &mut String) -> u64 {
        let (channel, sequence) = &mut self.channels[self.next];
        body.push_str("{\"name\":\"bench\",\"channel\":\"");
        body.push_str(plan.prefix);
        body.push_str(&channel.to_string());
        body.push_str("\",\"data\":\"");
        let (sent, lane) = (plan.run.clock.now().min(latest), self.lane);
        Marker { sent, lane, sequence: *sequence, channel: *channel }.write(body, plan.size);
        body.push_str("\"}");
        *sequence += 1;
        let deliveries = plan.subscribers[*channel];
        self.next = (self.next + 1) % self.channels.len();
        deliveries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_share_a_channel_only_when_there_are_too_few() {
        assert_eq!([lanes(1, 1), lanes(4, 100), lanes(8, 1), lanes(5, 2)], [1, 1, 8, 3]);
    }
}
