//! Webhooks (protocol.md §7): from the hub's notices to signed requests.
//!
//! In reading order: this file (which notice becomes an event, and for whom) → `debounce` (who comes
//! back in time has never left) → `queue` → `endpoint` (delivery, one request after the other) →
//! `client`; `failed` keeps what could not be delivered.

mod client;
mod debounce;
mod endpoint;
mod failed;
mod queue;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

pub use self::endpoint::{Endpoint, Stats};
pub use self::failed::Selection;

use self::client::Client;
use self::debounce::{Debounce, Leaver};
use self::endpoint::Sender;
use self::failed::Failed;
use self::queue::Bounds;
use crate::hub::{Fact, Observer, SharedNoticeFormat};
use crate::model::app::{App, AppId, WebhookEvent};
use crate::model::channel::ChannelName;
use crate::tasks::forever;

/// Departures told under one lock before others get their turn.
const TOLD_AT_ONCE: usize = 256;

/// What bounds webhooks.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a request may take until it is answered.
    pub timeout: Duration,
    /// How long after its creation an event is tried again.
    pub retry_for: Duration,
    /// Events that may wait for one endpoint.
    pub max_queue_events: usize,
    /// Bytes of them.
    pub max_queue_bytes: usize,
    /// Failed events that are kept, over all endpoints.
    pub max_failed_events: usize,
    /// Bytes of them.
    pub max_failed_bytes: usize,
}

/// The webhooks of all apps.
pub struct Webhooks {
    apps: Vec<Arc<AppWebhooks>>,
    sender: Arc<Sender>,
}

/// The webhooks of one app.
struct AppWebhooks {
    app: Arc<App>,
    endpoints: Vec<Arc<Endpoint>>,
    format: SharedNoticeFormat,
    debounce: Mutex<Debounce>,
    /// Somebody waits who was the first to.
    changed: Notify,
    /// The broker stops: departures are told at once.
    hurries: AtomicBool,
}

impl Webhooks {
    /// The webhooks of those `apps` that have any.
    ///
    /// # Errors
    /// When an endpoint is asked for by https and the system trusts no certificates.
    pub fn new(apps: &[Arc<App>], settings: &Settings, format: SharedNoticeFormat) -> io::Result<Self> {
        let with_endpoints = || apps.iter().filter(|app| !app.webhooks.is_empty());
        let secure = with_endpoints().any(|app| app.webhooks.iter().any(|webhook| webhook.is_secure()));
        let client = Client::new(secure, settings.connect_timeout, settings.timeout).map_err(|error| {
            io::Error::new(error.kind(), format!("webhooks need the system's root certificates: {error}"))
        })?;
        let sender = Sender {
            client,
            format: Arc::clone(&format),
            failed: Failed::new(settings.max_failed_events, settings.max_failed_bytes),
            retry_for: settings.retry_for,
            hurry: watch::Sender::new(false),
            progress: Notify::new(),
        };
        let bounds = Bounds { events: settings.max_queue_events, bytes: settings.max_queue_bytes };
        let apps = with_endpoints().map(|app| Arc::new(AppWebhooks::new(app, bounds, &format))).collect();
        Ok(Self { apps, sender: Arc::new(sender) })
    }

    /// Who has to be told the facts of which app.
    pub fn observers(&self) -> impl Iterator<Item = (&AppId, Arc<dyn Observer>)> {
        self.apps.iter().map(|app| (&app.app.id, Arc::clone(app) as Arc<dyn Observer>))
    }

    /// Every endpoint of every app.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.apps.iter().flat_map(|app| &app.endpoints)
    }

    /// Delivers, until it is dropped.
    pub async fn run(self: Arc<Self>) {
        let mut tasks = JoinSet::new();
        for app in &self.apps {
            let app = Arc::clone(app);
            tasks.spawn(forever("departures", move || Arc::clone(&app).tell_departures()));
        }
        for endpoint in self.endpoints() {
            let (endpoint, sender) = (Arc::clone(endpoint), Arc::clone(&self.sender));
            tasks.spawn(forever("endpoint", move || Arc::clone(&endpoint).run(Arc::clone(&sender))));
        }
        while tasks.join_next().await.is_some() {}
    }

    /// The broker stops: from now on departures are told at once, and nothing waits for more.
    pub fn hurry(&self) {
        for app in &self.apps {
            app.hurry();
        }
        self.sender.hurry.send_replace(true);
    }

    /// Waits until everything has been delivered or given up, at most until `deadline`. Returns how
    /// many events are left.
    pub async fn drain(&self, deadline: Instant) -> usize {
        let unsent = || self.endpoints().map(|endpoint| endpoint.unsent()).sum();
        loop {
            let progress = self.sender.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if unsent() == 0 || timeout_at(deadline, progress).await.is_err() {
                return unsent();
            }
        }
    }

    /// Departures that wait to be told.
    pub fn departures(&self) -> usize {
        self.apps.iter().map(|app| app.debounce.lock().len()).sum()
    }

    /// How many failed events are kept.
    pub fn failed_len(&self) -> usize {
        self.sender.failed.len()
    }

    /// The failed events that are selected, as a JSON object.
    pub fn failed(&self, selection: &Selection) -> String {
        self.sender.failed.list(selection)
    }

    /// Sends the selected failed events again, as if they had just happened. Returns how many.
    pub fn replay(&self, selection: &Selection) -> usize {
        let events = self.sender.failed.take(selection);
        let count = events.len();
        for failed in events {
            let endpoint = self.endpoints().find(|e| e.app() == &*failed.app && e.index() == failed.endpoint);
            if let Some(endpoint) = endpoint {
                endpoint.push(failed.event);
            }
        }
        count
    }
}

impl AppWebhooks {
    fn new(app: &Arc<App>, bounds: Bounds, format: &SharedNoticeFormat) -> Self {
        let endpoint = |(index, webhook)| Arc::new(Endpoint::new(app, index, webhook, bounds));
        Self {
            app: Arc::clone(app),
            endpoints: app.webhooks.iter().enumerate().map(endpoint).collect(),
            format: Arc::clone(format),
            debounce: Mutex::new(Debounce::new(app.limits.webhook_delay)),
            changed: Notify::new(),
            hurries: AtomicBool::new(false),
        }
    }

    fn wants_any(&self, kinds: &[WebhookEvent]) -> bool {
        self.app.webhooks.iter().any(|webhook| webhook.events.iter().any(|kind| kinds.contains(kind)))
    }

    /// Queues an event for every endpoint that wants it. Under the lock of `debounce`, so that all
    /// endpoints get events in the same order.
    fn tell(&self, channel: &ChannelName, fact: &Fact) {
        let Some(kind) = fact.event() else { return };
        let mut event: Option<Bytes> = None;
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.wants(kind, channel)) {
            let event = event.get_or_insert_with(|| self.format.event(kind, channel, fact));
            endpoint.push(event.clone());
        }
    }

    fn tell_departure(&self, leaver: Leaver) {
        let fact = leaver.user_id.map_or(Fact::Vacated, Fact::MemberRemoved);
        self.tell(&leaver.channel, &fact);
    }

    fn depart(&self, leaver: Leaver) {
        let mut debounce = self.debounce.lock();
        let now = Instant::now();
        let is_first = debounce.next_due().is_none();
        if let Some(earliest) = debounce.leave(leaver, now) {
            self.tell_departure(earliest);
        }
        if self.hurries.load(Ordering::Acquire) {
            while let Some(leaver) = debounce.give_up() {
                self.tell_departure(leaver);
            }
        }
        while let Some(leaver) = debounce.due(now) {
            self.tell_departure(leaver);
        }
        if is_first {
            self.changed.notify_one();
        }
    }

    /// The broker stops.
    fn hurry(&self) {
        let mut debounce = self.debounce.lock();
        self.hurries.store(true, Ordering::Release);
        while let Some(leaver) = debounce.give_up() {
            self.tell_departure(leaver);
        }
    }

    /// Tells those who have stayed away, for ever.
    async fn tell_departures(self: Arc<Self>) {
        loop {
            let next = self.debounce.lock().next_due();
            match next {
                None => self.changed.notified().await,
                Some(due) => sleep_until(due).await,
            }
            while self.tell_due() {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Tells some of those whose time has come. Says whether there may be more.
    fn tell_due(&self) -> bool {
        let mut debounce = self.debounce.lock();
        let now = Instant::now();
        for _ in 0..TOLD_AT_ONCE {
            match debounce.due(now) {
                Some(leaver) => self.tell_departure(leaver),
                None => return false,
            }
        }
        true
    }
}

impl Observer for AppWebhooks {
    fn note(&self, channel: &ChannelName, fact: Fact) {
        use WebhookEvent::{CacheMiss, ChannelOccupied, ChannelVacated, MemberAdded, MemberRemoved};
        let leaver = |user_id| Leaver { channel: channel.clone(), user_id };
        match &fact {
            Fact::Occupied | Fact::Vacated if !self.wants_any(&[ChannelOccupied, ChannelVacated]) => {}
            Fact::MemberAdded(_) | Fact::MemberRemoved(_)
                if !self.wants_any(&[MemberAdded, MemberRemoved]) => {}
            Fact::CacheMiss | Fact::CacheFilled if !self.wants_any(&[CacheMiss]) => {}
            Fact::Vacated => self.depart(leaver(None)),
            Fact::MemberRemoved(user_id) => self.depart(leaver(Some(Arc::clone(user_id)))),
            Fact::CacheFilled => self.debounce.lock().fill(channel),
            _ => {
                let mut debounce = self.debounce.lock();
                let is_news = match &fact {
                    Fact::Occupied => debounce.come(&leaver(None)),
                    Fact::MemberAdded(user_id) => debounce.come(&leaver(Some(Arc::clone(user_id)))),
                    Fact::CacheMiss => debounce.miss(channel),
                    _ => true,
                };
                if is_news {
                    self.tell(channel, &fact);
                }
            }
        }
    }
}
