//! The webhooks of one app: which of its notices become events, and for which endpoint.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::debounce::{Debounce, Due, Leaver};
use super::endpoint::{Endpoint, Sender};
use super::misses::Misses;
use super::queue::Bounds;
use crate::apps::LiveApp;
use crate::hub::{Fact, Observer, SharedNoticeFormat};
use crate::model::app::{Webhook, WebhookEvent};
use crate::model::channel::ChannelName;

/// Departures told under one lock before others get their turn.
const TOLD_AT_ONCE: usize = 256;
/// How long past its time a departure waits for room in a queue.
const MAX_HELD: Duration = Duration::from_secs(30);
/// How often is looked whether it still has to.
pub(super) const HELD_CHECK: Duration = Duration::from_millis(250);

/// The webhooks of one app.
pub(super) struct AppWebhooks {
    pub(super) app: Arc<LiveApp>,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    bounds: Bounds,
    format: SharedNoticeFormat,
    pub(super) debounce: Mutex<Debounce>,
    pub(super) misses: Arc<Mutex<Misses>>,
    /// Somebody waits who was the first to, or the broker stops.
    changed: Notify,
}

impl AppWebhooks {
    pub(super) fn new(app: &Arc<LiveApp>, bounds: Bounds, format: &SharedNoticeFormat) -> Self {
        Self {
            app: Arc::clone(app),
            endpoints: ArcSwap::default(),
            bounds,
            format: Arc::clone(format),
            debounce: Mutex::new(Debounce::new(app.now().limits.webhook_delay)),
            misses: Arc::default(),
            changed: Notify::new(),
        }
    }

    pub(super) fn endpoints(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.endpoints.load_full()
    }

    /// From now on its endpoints are these; one that stays goes on with what waits for it. Returns
    /// those that are new.
    pub(super) fn replace(&self, webhooks: &[Webhook]) -> Vec<Arc<Endpoint>> {
        let mut left = self.endpoints.load().to_vec();
        if left.len() != webhooks.len() || left.iter().zip(webhooks).any(|(known, new)| !known.has(new)) {
            // What was told may have been told to others: told twice is better than never.
            self.misses.lock().forget_all();
        }
        let (mut all, mut new) = (Vec::new(), Vec::new());
        for (index, webhook) in webhooks.iter().enumerate() {
            let known = left.iter().position(|endpoint| endpoint.is(webhook)).map(|at| left.remove(at));
            let endpoint = known.unwrap_or_else(|| {
                new.push(Arc::new(Endpoint::new(&self.app, index, webhook, self.bounds, &self.misses)));
                Arc::clone(&new[new.len() - 1])
            });
            endpoint.become_as(index, webhook);
            all.push(endpoint);
        }
        self.endpoints.store(Arc::new(all));
        left.iter().for_each(|gone| gone.end());
        self.debounce.lock().set_delay(self.departures_after());
        new
    }

    /// Whether an endpoint that is told events of this kind in this channel is so.
    fn any(&self, kind: WebhookEvent, channel: &ChannelName, is: impl Fn(&Endpoint) -> bool) -> bool {
        self.endpoints.load().iter().any(|endpoint| endpoint.wants(kind, channel) && is(endpoint))
    }

    /// The event as it is sent, if anybody wants it.
    fn write(&self, channel: &ChannelName, fact: &Fact) -> Option<(WebhookEvent, Bytes)> {
        let kind = fact.event()?;
        self.any(kind, channel, |_| true).then(|| (kind, self.format.event(kind, channel, fact)))
    }

    /// Queues an event for every endpoint that wants it.
    fn queue(&self, channel: &ChannelName, (kind, event): (WebhookEvent, Bytes)) {
        let miss = Some(channel).filter(|_| kind == WebhookEvent::CacheMiss);
        for endpoint in self.endpoints.load().iter().filter(|endpoint| endpoint.wants(kind, channel)) {
            endpoint.push(event.clone(), miss);
        }
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
    pub(super) fn hurry(&self) {
        self.debounce.lock().hurry(Instant::now());
        self.changed.notify_one();
    }

    /// Tells those who have stayed away, for ever.
    pub(super) async fn tell_departures(self: Arc<Self>, sender: Arc<Sender>) {
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
        now < due + MAX_HELD && self.any(leaver.kind(), &leaver.channel, |endpoint| endpoint.holds(now))
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
        kinds.iter().any(|kind| self.any(*kind, channel, |_| true))
    }
}

impl Observer for AppWebhooks {
    fn tell(&self, channel: &ChannelName, fact: Fact) {
        self.tell_all(channel, &fact);
    }

    fn departures_after(&self) -> Duration {
        self.app.now().limits.webhook_delay
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
