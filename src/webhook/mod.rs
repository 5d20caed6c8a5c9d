//! Webhooks (protocol.md §7): from the hub's notices to signed requests.
//!
//! In reading order: this file (which notice becomes an event, and for whom) → `debounce` (who comes
//! back in time has never left), `misses` → `queue` → `endpoint` (delivery, one request after the other) →
//! `client`; `failed` keeps what could not be delivered.

mod client;
mod debounce;
mod endpoint;
mod failed;
mod misses;
mod queue;
#[cfg(test)]
mod tests;
mod trouble;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

pub use self::endpoint::{Endpoint, Stats};
pub use self::failed::Selection;

use self::client::Client;
use self::debounce::{Debounce, Due, Leaver};
use self::endpoint::Sender;
use self::failed::Failed;
use self::misses::Misses;
use self::queue::Bounds;
use crate::hub::{Fact, Observer, SharedNoticeFormat};
use crate::model::app::{App, AppId, WebhookEvent};
use crate::model::channel::ChannelName;
use crate::model::webhooks::WebhookSettings;
use crate::tasks::forever;

/// Departures told under one lock before others get their turn.
const TOLD_AT_ONCE: usize = 256;
/// How long past its time a departure waits for room in a queue.
const MAX_HELD: Duration = Duration::from_secs(30);
/// How often is looked whether it still has to.
const HELD_CHECK: Duration = Duration::from_millis(250);
/// How often is looked whether there is trouble to be logged.
const LOG_CHECK: Duration = Duration::from_secs(1);

/// The webhooks of all apps.
pub struct Webhooks {
    apps: Vec<Arc<AppWebhooks>>,
    sender: Arc<Sender>,
    /// How many events had been lost when the stop began.
    lost_before: AtomicU64,
}

/// The webhooks of one app.
struct AppWebhooks {
    app: Arc<App>,
    endpoints: Vec<Arc<Endpoint>>,
    format: SharedNoticeFormat,
    debounce: Mutex<Debounce>,
    misses: Arc<Mutex<Misses>>,
    /// Somebody waits who was the first to, or the broker stops.
    changed: Notify,
}

impl Webhooks {
    /// The webhooks of those `apps` that have any.
    ///
    /// # Errors
    /// When an endpoint is asked for by https and the system trusts no certificates.
    pub fn new(
        apps: &[Arc<App>],
        settings: &WebhookSettings,
        format: SharedNoticeFormat,
    ) -> io::Result<Self> {
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
        Ok(Self { apps, sender: Arc::new(sender), lost_before: AtomicU64::new(0) })
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
            let (app, sender) = (Arc::clone(app), Arc::clone(&self.sender));
            tasks.spawn(forever("departures", move || Arc::clone(&app).tell_departures(Arc::clone(&sender))));
        }
        for endpoint in self.endpoints() {
            let (endpoint, sender) = (Arc::clone(endpoint), Arc::clone(&self.sender));
            tasks.spawn(forever("endpoint", move || Arc::clone(&endpoint).run(Arc::clone(&sender))));
        }
        let webhooks = Arc::clone(&self);
        tasks.spawn(forever("troubles", move || Arc::clone(&webhooks).log()));
        while tasks.join_next().await.is_some() {}
    }

    /// Logs trouble, for ever. Not where it comes from: locks are held there.
    async fn log(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOG_CHECK).await;
            self.endpoints().for_each(|endpoint| endpoint.log_troubles());
        }
    }

    /// The broker stops: from now on departures are told at once, and nothing waits for more.
    pub fn hurry(&self) {
        self.lost_before.store(self.lost(), Ordering::Release);
        self.apps.iter().for_each(|app| app.hurry());
        self.sender.hurry.send_replace(true);
    }

    /// Waits until everything has been delivered or given up, at most until `deadline`. Returns how
    /// many events are left, or were lost since the stop began.
    pub async fn drain(&self, deadline: Instant) -> usize {
        loop {
            let progress = self.sender.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if self.left() == 0 || timeout_at(deadline, progress).await.is_err() {
                break;
            }
        }
        self.endpoints().for_each(|endpoint| endpoint.log_troubles());
        let lost = self.lost() - self.lost_before.load(Ordering::Acquire);
        self.left() + usize::try_from(lost).unwrap_or(usize::MAX)
    }

    /// Events that may still be delivered. Departures first: what is told meanwhile is then unsent.
    fn left(&self) -> usize {
        self.departures() + self.endpoints().map(|endpoint| endpoint.unsent()).sum::<usize>()
    }

    /// Events that were forgotten or given up.
    fn lost(&self) -> u64 {
        self.endpoints().map(|endpoint| endpoint.lost()).sum()
    }

    /// Departures that wait to be told.
    pub fn departures(&self) -> usize {
        self.apps.iter().map(|app| app.debounce.lock().len()).sum()
    }

    /// Channels of which is remembered that a cache miss was told.
    pub fn misses(&self) -> usize {
        self.apps.iter().map(|app| app.misses.lock().len()).sum()
    }

    /// How many failed events are kept.
    pub fn failed_len(&self) -> usize {
        self.sender.failed.len()
    }

    /// The failed events that are selected, as a JSON object.
    pub fn failed(&self, selection: &Selection) -> String {
        self.sender.failed.list(selection)
    }

    /// Queues the selected failed events again, as if they had just happened, as far as there is room;
    /// the rest stay where they are. Returns how many.
    pub fn replay(&self, selection: &Selection) -> usize {
        // What comes after an event that had no room must not overtake it.
        let mut full = HashSet::new();
        self.sender.failed.release(selection, |failed| {
            let is_its = |e: &&Arc<Endpoint>| e.app() == &*failed.app && e.index() == failed.endpoint;
            let Some(endpoint) = self.endpoints().find(is_its) else { return false };
            let place = Arc::as_ptr(endpoint);
            let takes = !full.contains(&place) && endpoint.offer(&failed.event);
            if !takes {
                full.insert(place);
            }
            takes
        })
    }
}

impl AppWebhooks {
    fn new(app: &Arc<App>, bounds: Bounds, format: &SharedNoticeFormat) -> Self {
        let misses = Arc::default();
        let endpoint = |(index, webhook)| Arc::new(Endpoint::new(app, index, webhook, bounds, &misses));
        Self {
            app: Arc::clone(app),
            endpoints: app.webhooks.iter().enumerate().map(endpoint).collect(),
            format: Arc::clone(format),
            debounce: Mutex::new(Debounce::new(app.limits.webhook_delay)),
            misses,
            changed: Notify::new(),
        }
    }

    /// The endpoints that are told events of this kind in this channel.
    fn wanting(&self, kind: WebhookEvent, channel: &ChannelName) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.iter().filter(move |endpoint| endpoint.wants(kind, channel))
    }

    /// The event as it is sent, if anybody wants it.
    fn write(&self, channel: &ChannelName, fact: &Fact) -> Option<(WebhookEvent, Bytes)> {
        let kind = fact.event()?;
        self.wanting(kind, channel).next()?;
        Some((kind, self.format.event(kind, channel, fact)))
    }

    /// Queues an event for every endpoint that wants it.
    fn queue(&self, channel: &ChannelName, (kind, event): (WebhookEvent, Bytes)) {
        let miss = Some(channel).filter(|_| kind == WebhookEvent::CacheMiss);
        self.wanting(kind, channel).for_each(|endpoint| endpoint.push(event.clone(), miss));
    }

    fn tell_all(&self, channel: &ChannelName, fact: &Fact) {
        if let Some(event) = self.write(channel, fact) {
            self.queue(channel, event);
        }
    }

    /// Somebody comes. Who leaves and comes is told under the lock of `debounce`, so in turns.
    fn come(&self, leaver: &Leaver, fact: &Fact) {
        let event = self.write(&leaver.channel, fact);
        let mut debounce = self.debounce.lock();
        if debounce.come(leaver)
            && let Some(event) = event
        {
            self.queue(&leaver.channel, event);
        }
    }

    fn depart(&self, leaver: Leaver) {
        let mut debounce = self.debounce.lock();
        let (now, was_empty) = (Instant::now(), debounce.len() == 0);
        if let Some(earliest) = debounce.leave(leaver, now) {
            self.tell_departure(earliest);
        }
        self.tell_due(&mut debounce, now);
        if was_empty && debounce.len() > 0 {
            self.changed.notify_one();
        }
    }

    /// The broker stops.
    fn hurry(&self) {
        self.debounce.lock().hurry(Instant::now());
        self.changed.notify_one();
    }

    /// Tells those who have stayed away, for ever.
    async fn tell_departures(self: Arc<Self>, sender: Arc<Sender>) {
        loop {
            let progress = sender.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            let due = self.tell_due(&mut self.debounce.lock(), Instant::now());
            match due {
                // There may be more.
                Due::Now(_) => tokio::task::yield_now().await,
                Due::Held => {
                    let _ = timeout(HELD_CHECK, progress).await;
                }
                Due::At(Some(due)) => {
                    let _ = timeout_at(due, self.changed.notified()).await;
                }
                Due::At(None) => {
                    sender.progress.notify_waiters();
                    self.changed.notified().await;
                }
            }
        }
    }

    /// Tells some of those whose time has come. Returns what there was after them, or the last of them.
    fn tell_due(&self, debounce: &mut Debounce, now: Instant) -> Due {
        let mut told = None;
        for _ in 0..TOLD_AT_ONCE {
            match debounce.due(now, |leaver, due| self.holds(leaver, due, now)) {
                Due::Now(leaver) => {
                    self.tell_departure(leaver.clone());
                    told = Some(leaver);
                }
                other => return other,
            }
        }
        told.map_or(Due::At(None), Due::Now)
    }

    /// Whether a departure that was due then waits for room in a queue.
    fn holds(&self, leaver: &Leaver, due: Instant, now: Instant) -> bool {
        let mut wanting = self.wanting(leaver.kind(), &leaver.channel);
        now < due + MAX_HELD && wanting.any(|endpoint| endpoint.holds(now))
    }

    fn tell_departure(&self, leaver: Leaver) {
        let fact = leaver.user_id.map_or(Fact::Vacated, Fact::MemberRemoved);
        self.tell_all(&leaver.channel, &fact);
    }

    /// Whether it can matter to anybody: also what only takes back, or prepares, what is told.
    fn is_wanted(&self, channel: &ChannelName, fact: &Fact) -> bool {
        use WebhookEvent::{CacheMiss, ChannelOccupied, ChannelVacated, ClientEvent};
        use WebhookEvent::{MemberAdded, MemberRemoved, SubscriptionCount};
        let kinds: &[WebhookEvent] = match fact {
            Fact::Occupied | Fact::Vacated => &[ChannelOccupied, ChannelVacated],
            Fact::MemberAdded(_) | Fact::MemberRemoved(_) => &[MemberAdded, MemberRemoved],
            Fact::CacheMiss | Fact::CacheFilled => &[CacheMiss],
            Fact::ClientEvent { .. } => &[ClientEvent],
            Fact::Counted(_) => &[SubscriptionCount],
        };
        kinds.iter().any(|kind| self.wanting(*kind, channel).next().is_some())
    }
}

impl Observer for AppWebhooks {
    fn tell(&self, channel: &ChannelName, fact: Fact) {
        self.tell_all(channel, &fact);
    }

    fn departures_after(&self) -> Duration {
        self.app.limits.webhook_delay
    }

    fn note(&self, channel: &ChannelName, fact: Fact) {
        if !self.is_wanted(channel, &fact) {
            return;
        }
        let leaver = |user_id| Leaver { channel: channel.clone(), user_id };
        match &fact {
            Fact::Occupied => self.come(&leaver(None), &fact),
            Fact::MemberAdded(user_id) => self.come(&leaver(Some(Arc::clone(user_id))), &fact),
            Fact::Vacated => self.depart(leaver(None)),
            Fact::MemberRemoved(user_id) => self.depart(leaver(Some(Arc::clone(user_id)))),
            Fact::CacheFilled => self.misses.lock().forget(channel),
            Fact::CacheMiss => {
                let is_news = self.misses.lock().miss(channel);
                if is_news {
                    self.tell_all(channel, &fact);
                }
            }
            // The channel's lock keeps their order.
            Fact::ClientEvent { .. } | Fact::Counted(_) => self.tell_all(channel, &fact),
        }
    }
}
