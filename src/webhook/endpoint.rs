//! One endpoint: its queue, and the task that delivers one request after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use data_encoding::BASE64;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{AUTHORIZATION, USER_AGENT};
use parking_lot::Mutex;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::client::Client;
use super::failed::{Failed, FailedEvent};
use super::misses::Misses;
use super::pace::Pace;
use super::place::Place;
use super::queue::{Bounds, Next, Queue, Waiting};
use super::trouble::Trouble;
use crate::apps::LiveApp;
use crate::hub::SharedNoticeFormat;
use crate::metrics::Counter;
use crate::model::app::{Webhook, WebhookEvent};
use crate::model::channel::ChannelName;
use crate::model::clock::now_ms;

const AGENT: &str = concat!("fanfare/", env!("CARGO_PKG_VERSION"));
/// For how long a request may be under way until nobody waits for room in the queue any more.
const STALL: Duration = Duration::from_secs(5);
/// Upper bounds of the delivery latency's buckets, in seconds.
const LATENCY: [f64; 10] = [0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0];

/// What all endpoints deliver with.
pub(super) struct Sender {
    pub(super) client: ArcSwap<Client>,
    pub(super) format: SharedNoticeFormat,
    pub(super) failed: Failed,
    /// How long after its creation an event is tried again.
    pub(super) retry_for: Duration,
    /// The broker stops: nothing waits any more.
    pub(super) hurry: watch::Sender<bool>,
    /// Something has been tried, delivered or given up, or no departure waits any more.
    pub(super) progress: Notify,
}

/// Where an app's webhooks go.
pub struct Endpoint {
    app: Arc<LiveApp>,
    webhook: ArcSwap<Webhook>,
    place: Arc<Place>,
    /// Without query and password.
    shown: Arc<str>,
    queue: Mutex<Queue>,
    changed: Notify,
    in_flight: AtomicUsize,
    flow: Mutex<Flow>,
    misses: Arc<Mutex<Misses>>,
    /// What was logged of `stats`: of events forgotten, of requests that failed, of events given up.
    troubles: Mutex<[Trouble; 3]>,
    /// What has happened so far.
    pub stats: Stats,
}

/// Counts of one endpoint.
#[derive(Debug)]
pub struct Stats {
    /// Events delivered.
    pub sent: Counter,
    /// Requests that failed.
    pub failed: Counter,
    /// Requests that were tries after the first.
    pub retried: Counter,
    /// Events forgotten because too many waited.
    pub dropped: Counter,
    /// Events given up.
    pub dead: Counter,
    /// Seconds from an event to its delivery.
    pub latency: Histogram,
}

/// Whether the queue moves.
struct Flow {
    /// The last request failed.
    fails: bool,
    /// Why the last that failed did.
    reason: Arc<str>,
    /// When it moved last, or got its first event.
    moved: Instant,
}

impl Endpoint {
    pub(super) fn new(
        app: &Arc<LiveApp>,
        index: usize,
        webhook: &Webhook,
        bounds: Bounds,
        misses: &Arc<Mutex<Misses>>,
    ) -> Self {
        let stats = Stats {
            sent: Counter::default(),
            failed: Counter::default(),
            retried: Counter::default(),
            dropped: Counter::default(),
            dead: Counter::default(),
            latency: Histogram::new(LATENCY),
        };
        Self {
            app: Arc::clone(app),
            webhook: ArcSwap::from_pointee(webhook.clone()),
            place: Place::new(index),
            shown: Arc::from(webhook.shown_url()),
            queue: Mutex::new(Queue::new(bounds, webhook.batch)),
            changed: Notify::new(),
            in_flight: AtomicUsize::new(0),
            flow: Mutex::new(Flow { fails: false, reason: Arc::from(""), moved: Instant::now() }),
            misses: Arc::clone(misses),
            troubles: Mutex::default(),
            stats,
        }
    }

    /// Whether this is where `webhook` goes, by whatever name and password.
    pub(super) fn is(&self, webhook: &Webhook) -> bool {
        self.webhook.load().place() == webhook.place()
    }

    /// Whether it is told just as `webhook` says.
    pub(super) fn has(&self, webhook: &Webhook) -> bool {
        **self.webhook.load() == *webhook
    }

    /// Its URL, as it is shown.
    pub(super) fn shown(&self) -> &Arc<str> {
        &self.shown
    }

    /// From now on it is told as `webhook` says, and stands at this place of the list.
    pub(super) fn become_as(&self, index: usize, webhook: &Webhook) {
        self.place.index.send_replace(Some(index));
        self.queue.lock().batch(webhook.batch);
        self.webhook.store(Arc::new(webhook.clone()));
    }

    /// It is not in the list any more: it is told nothing from now on, not even what waits.
    pub(super) fn end(&self) {
        self.place.index.send_replace(None);
        let (app, url, forgotten) = (self.app(), &self.shown, self.unsent());
        tracing::info!(%app, %url, forgotten, "webhook: the endpoint was removed");
    }

    pub(super) fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// The id of the app whose endpoint it is.
    pub fn app(&self) -> &str {
        self.app.id()
    }

    /// Its place in the app's list; `None` when it is not there any more.
    pub fn index(&self) -> Option<usize> {
        self.place.index()
    }

    /// Events that are neither delivered nor given up.
    pub fn unsent(&self) -> usize {
        self.queue.lock().len() + self.in_flight.load(Ordering::Acquire)
    }

    pub(super) fn wants(&self, kind: WebhookEvent, channel: &ChannelName) -> bool {
        let webhook = self.webhook.load();
        webhook.events.contains(&kind) && channel.as_str().starts_with(&webhook.channel_prefix)
    }

    /// Queues an event; `miss`: the channel whose cache miss it tells.
    pub(super) fn push(&self, event: Bytes, miss: Option<&ChannelName>) {
        let forgotten = self.queue_in(&mut self.queue.lock(), event, miss.cloned());
        self.stats.dropped.add(forgotten.len());
        self.lose(&forgotten);
        self.changed.notify_one();
    }

    /// Queues an event if there is room. Says whether there was.
    pub(super) fn offer(&self, event: &Bytes) -> bool {
        let mut queue = self.queue.lock();
        let has_room = queue.has_room();
        if has_room {
            self.queue_in(&mut queue, event.clone(), None);
            self.changed.notify_one();
        }
        has_room
    }

    fn queue_in(&self, queue: &mut Queue, event: Bytes, miss: Option<ChannelName>) -> Vec<Waiting> {
        let now = Instant::now();
        if queue.len() == 0 && self.in_flight.load(Ordering::Acquire) == 0 {
            self.flow.lock().moved = now;
        }
        queue.push(Waiting { event, since: now, created_ms: now_ms(), miss })
    }

    /// Whether what can wait elsewhere is to do so: there is no room, but the endpoint makes some.
    pub(super) fn holds(&self, now: Instant) -> bool {
        if self.queue.lock().has_room() {
            return false;
        }
        let flow = self.flow.lock();
        !flow.fails && now < flow.moved + STALL
    }

    /// These events will not arrive: whoever misses their cache next is told of.
    fn lose(&self, lost: &[Waiting]) {
        for channel in lost.iter().filter_map(|waiting| waiting.miss.as_ref()) {
            self.misses.lock().forget(channel);
        }
    }

    /// Events that were forgotten or given up so far.
    pub(super) fn lost(&self) -> u64 {
        self.stats.dropped.get() + self.stats.dead.get()
    }

    /// Logs the trouble that has come since it was logged last.
    pub(super) fn log_troubles(&self) {
        let reason = Arc::clone(&self.flow.lock().reason);
        let (stats, app, url, now) = (&self.stats, self.app(), &self.shown, Instant::now());
        let mut troubles = self.troubles.lock();
        for (trouble, (counter, what)) in troubles.iter_mut().zip([
            (&stats.dropped, "too many events wait: the oldest are forgotten"),
            (&stats.failed, "requests fail"),
            (&stats.dead, "events are given up"),
        ]) {
            if let Some(count) = trouble.news(counter.get(), now) {
                let (endpoint, reason) = (self.index(), (!reason.is_empty()).then_some(&*reason));
                tracing::warn!(%app, endpoint, %url, count, reason, "webhook: {what}");
            }
        }
    }

    /// Delivers, as long as it is in the list.
    pub(super) async fn run(self: Arc<Self>, sender: Arc<Sender>) {
        let mut index = self.place.index.subscribe();
        tokio::select! {
            () = self.deliver_all(&sender) => {}
            _ = index.wait_for(Option::is_none) => {}
        }
    }

    async fn deliver_all(&self, sender: &Sender) {
        // A panic took them.
        self.stats.dropped.add(self.in_flight.swap(0, Ordering::AcqRel));
        let mut hurry = sender.hurry.subscribe();
        let mut pace = Pace::new();
        loop {
            let batch = self.next_batch(&mut hurry).await;
            self.deliver(sender, &mut hurry, &mut pace, batch).await;
            self.in_flight.store(0, Ordering::Release);
            sender.progress.notify_waiters();
        }
    }

    async fn next_batch(&self, hurry: &mut watch::Receiver<bool>) -> Vec<Waiting> {
        loop {
            let hurries = *hurry.borrow_and_update();
            let due = match self.take(hurries) {
                Next::Batch(batch) => return batch,
                Next::At(due) => Some(due),
                Next::Empty => None,
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                Ok(()) = hurry.changed() => {}
            }
        }
    }

    /// What to send now.
    pub(super) fn take(&self, hurries: bool) -> Next {
        let mut queue = self.queue.lock();
        let next = queue.next(Instant::now(), hurries);
        if let Next::Batch(batch) = &next {
            self.in_flight.store(batch.len(), Ordering::Release);
            self.flow.lock().moved = Instant::now();
        }
        next
    }

    /// Tries until the events are delivered, or too old.
    async fn deliver(
        &self,
        sender: &Sender,
        hurry: &mut watch::Receiver<bool>,
        pace: &mut Pace,
        mut batch: Vec<Waiting>,
    ) {
        let mut attempts = 0;
        loop {
            if *hurry.borrow_and_update() {
                pace.hurry();
            }
            // Whoever is known to be down is not asked for the sake of what is too old anyway. Only
            // until the pause is over: somebody has to find out whether it still is.
            if pace.not_before > Instant::now() {
                self.give_up_old(sender, pace, &mut batch, attempts);
            }
            if batch.is_empty() {
                // There may be many more of the kind.
                return tokio::task::yield_now().await;
            }
            tokio::select! {
                () = sleep_until(pace.not_before) => {}
                Ok(()) = hurry.changed() => continue,
            }
            self.stats.retried.add(usize::from(attempts > 0));
            attempts += 1;
            match self.attempt(sender, &batch).await {
                Ok(()) => return self.delivered(pace, &batch),
                Err(reason) => self.failed(pace, reason.into()),
            }
            sender.progress.notify_waiters();
        }
    }

    fn delivered(&self, pace: &mut Pace, batch: &[Waiting]) {
        let now = Instant::now();
        pace.delivered(now);
        {
            let mut flow = self.flow.lock();
            (flow.fails, flow.moved) = (false, now);
        }
        self.stats.sent.add(batch.len());
        batch.iter().for_each(|sent| self.stats.latency.observe(sent.since.elapsed().as_secs_f64()));
    }

    fn failed(&self, pace: &mut Pace, reason: Arc<str>) {
        {
            let mut flow = self.flow.lock();
            (flow.fails, flow.reason) = (true, reason);
        }
        self.stats.failed.add(1);
        pace.failed();
    }

    /// Gives up the events that the next try would come too late for.
    fn give_up_old(&self, sender: &Sender, pace: &Pace, batch: &mut Vec<Waiting>, attempts: u32) {
        let is_old = |waiting: &mut Waiting| pace.not_before.duration_since(waiting.since) > sender.retry_for;
        let old: Vec<_> = batch.extract_if(.., is_old).collect();
        self.stats.dead.add(old.len());
        self.lose(&old);
        self.in_flight.store(batch.len(), Ordering::Release);
        let reason = Arc::clone(&self.flow.lock().reason);
        for waiting in old {
            sender.failed.add(FailedEvent {
                app: Arc::clone(self.app.id()),
                endpoint: Arc::clone(&self.place),
                url: Arc::clone(&self.shown),
                event: waiting.event,
                created_ms: waiting.created_ms,
                attempts,
                reason: Arc::clone(&reason),
            });
        }
    }

    async fn attempt(&self, sender: &Sender, batch: &[Waiting]) -> Result<(), String> {
        let events: Vec<Bytes> = batch.iter().map(|waiting| waiting.event.clone()).collect();
        // Written and signed anew each time: receivers refuse old ones.
        let app = Arc::clone(&self.app.now());
        let signed = sender.format.request(&app, now_ms(), &events);
        let webhook = self.webhook.load_full();
        let mut request = Request::post(&webhook.url).header(USER_AGENT, AGENT);
        // One of them is all that a request may have.
        let is_chosen = webhook.headers.iter().any(|(name, _)| name == AUTHORIZATION.as_str());
        if let Some(credentials) = webhook.credentials().filter(|_| !is_chosen) {
            let credentials = BASE64.encode(credentials.as_bytes());
            request = request.header(AUTHORIZATION, format!("Basic {credentials}"));
        }
        for (name, value) in &webhook.headers {
            request = request.header(name, value);
        }
        for (name, value) in signed.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(signed.body)).map_err(|error| error.to_string())?;
        sender.client.load_full().send(request).await.map_err(|error| error.to_string())
    }
}
