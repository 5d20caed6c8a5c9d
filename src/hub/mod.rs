//! The hub: channels, their subscribers, users, and the way of an event from whoever publishes it to
//! every mailbox. It knows no protocol and no transport; doors give it a [`Format`] and mailboxes.
//!
//! Reading order: this file (publish, subscribe, queries) → `channel` (what happens under a
//! channel's lock) → `fanout` (segments, runners and rounds) → `presence`, `cache` and `counting`;
//! then `users` (who is signed in) → `watch` (who is told), and `agenda` (what is done later). What other
//! nodes have to do with it is in `site`, `channel/joint` and `abroad`.
//!
//! Locks are short, never held over an await, and taken in this order:
//! map entry → channel → segment → mailbox, and map entry → user → watcher → mailbox. The cache index
//! comes after the channel, and the agenda after all but mailboxes, which are never locked under it.

mod abroad;
mod agenda;
mod bounds;
mod cache;
mod channel;
mod counting;
mod elsewhere;
mod fanout;
mod format;
mod notice;
mod presence;
mod queries;
mod site;
mod space;
#[cfg(test)]
mod tests;
mod users;
mod watch;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dashmap::DashMap;

pub use self::agenda::keep_agenda;
pub use self::channel::{NotSubscribed, Snapshot, Subscription, Terms};
pub use self::fanout::{Budget, Subscriber};
pub use self::format::{Format, FormatId, Formats};
pub use self::notice::{Fact, NoticeFormat, Observer, SharedNoticeFormat, SignedRequest};
pub use self::presence::Members;
pub use self::queries::{CachedEvent, Counts, Tables};
pub use self::users::SignIn;
pub use self::watch::Watch;

use self::agenda::Agenda;
use self::bounds::Bounds;
use self::cache::CacheIndex;
use self::channel::{Channel, Parcel};
use self::space::Space;
use self::users::User;
use crate::cluster::{Away, Engine, Topic};
use crate::mailbox::SeatId;
use crate::metrics::Metrics;
use crate::model::app::AppId;
use crate::model::channel::ChannelName;
use crate::model::clock::now_ms;
use crate::model::event::{Body, Event, EventIds, Origin};
use crate::model::member::UserId;
use crate::model::socket::SocketId;

/// What bounds the hub.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes of events queued in a channel, in each of its segments, before publishers wait.
    pub max_queue_bytes: usize,
    /// How long a publisher waits for space.
    pub queue_timeout: Duration,
    /// Bytes of cached events, over all cache channels.
    pub max_cache_bytes: usize,
    /// Nobody may publish while other nodes cannot be told.
    pub refuse_when_away: bool,
}

/// The channels of all apps.
pub struct Hub {
    apps: DashMap<AppId, Arc<AppHub>>,
    shared: Arc<Shared>,
}

/// What every channel of the hub shares.
struct Shared {
    bounds: Bounds,
    refuse_when_away: bool,
    formats: Formats,
    ids: EventIds,
    space: Space,
    seats: AtomicU64,
    cache: CacheIndex,
    agenda: Agenda,
    metrics: Arc<Metrics>,
    engine: Arc<dyn Engine>,
    /// The engine joins this node to others.
    is_joined: bool,
    stamps: AtomicU64,
}

/// The channels and users of one app.
pub struct AppHub {
    id: AppId,
    channels: DashMap<ChannelName, Arc<Channel>>,
    users: DashMap<UserId, Arc<User>>,
    /// Who is told what becomes true of the channels, if anybody is.
    observer: OnceLock<Arc<dyn Observer>>,
    shared: Arc<Shared>,
}

/// The publisher waited for space in a channel's queue, and there was none in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the channel's queue is full")]
pub struct QueueFull;

/// Why nothing can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotPublished {
    /// See [`QueueFull`].
    #[error(transparent)]
    Full(#[from] QueueFull),
    /// Other nodes could not be told, and nobody is to take that for done.
    #[error(transparent)]
    Away(#[from] Away),
}

/// What a publisher says; the hub makes an [`Event`] of it.
pub struct Draft {
    /// Who publishes.
    pub origin: Origin,
    /// The socket that is not told.
    pub except: Option<SocketId>,
    /// What.
    pub body: Body,
    /// How long a cache channel keeps it; `None`: not at all.
    pub cache_for: Option<Duration>,
}

impl Hub {
    /// An empty hub that writes events in `formats`, joined to other nodes by `engine`.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new(
        settings: Settings,
        formats: Formats,
        metrics: Arc<Metrics>,
        engine: Arc<dyn Engine>,
    ) -> Result<Self, getrandom::Error> {
        let cache = CacheIndex::new(settings.max_cache_bytes);
        let (ids, space, seats) = (EventIds::begin()?, Space::default(), AtomicU64::new(0));
        let (agenda, is_joined, stamps) = (Agenda::default(), engine.is_shared(), AtomicU64::new(0));
        let shared = Shared {
            bounds: Bounds::new(&settings),
            refuse_when_away: settings.refuse_when_away,
            formats,
            ids,
            space,
            seats,
            cache,
            agenda,
            metrics,
            engine,
            is_joined,
            stamps,
        };
        let shared = Arc::new(shared);
        Ok(Self { apps: DashMap::new(), shared })
    }

    /// The channels of the app that goes by `id`.
    pub fn app(&self, id: &AppId) -> Arc<AppHub> {
        if let Some(app) = self.known(id) {
            return app;
        }
        let new = || Arc::new(AppHub::new(id, Arc::clone(&self.shared)));
        Arc::clone(&self.apps.entry(Arc::clone(id)).or_insert_with(new))
    }

    /// The same, if anything has happened in it.
    fn known(&self, id: &AppId) -> Option<Arc<AppHub>> {
        self.apps.get(id).map(|app| Arc::clone(&app))
    }

    /// Has `observer` told what becomes true of an app's channels, from now on and for good.
    pub fn observe(&self, id: &AppId, observer: Arc<dyn Observer>) {
        // There is one for each app: the first stays.
        let _ = self.app(id).observer.set(observer);
    }

    /// Each app that anything has happened in.
    pub fn each_app(&self, mut visit: impl FnMut(&AppId, &AppHub)) {
        let apps: Vec<_> = self.apps.iter().map(|e| (Arc::clone(e.key()), Arc::clone(&e))).collect();
        for (id, app) in apps {
            visit(&id, &app);
        }
    }

    /// Gives back the memory of cached events whose time is over.
    pub fn expire_cache(&self) {
        self.shared.cache.expire();
    }
}

impl AppHub {
    fn new(id: &AppId, shared: Arc<Shared>) -> Self {
        let id = Arc::clone(id);
        Self { id, channels: DashMap::new(), users: DashMap::new(), observer: OnceLock::new(), shared }
    }

    /// Waits until an event can be published in every one of `channels`.
    ///
    /// # Errors
    /// When a channel has no space for as long as publishers wait, or other nodes would not be told and
    /// are to be. Nothing has been published then.
    pub async fn may_publish(&self, channels: &[ChannelName]) -> Result<(), NotPublished> {
        channels.iter().try_for_each(|name| self.is_reached(name))?;
        let has_space = || channels.iter().all(|name| self.has_space(name));
        if has_space() {
            return Ok(());
        }
        let waiting = self.shared.space.wait_until(has_space);
        let waited = tokio::time::timeout(self.shared.bounds.queue_timeout(), waiting).await;
        Ok(waited.map_err(|_| QueueFull)?)
    }

    /// Whether an event can be published in `channel` now.
    ///
    /// # Errors
    /// The same.
    pub fn may_publish_now(&self, channel: &ChannelName) -> Result<(), NotPublished> {
        self.is_reached(channel)?;
        if self.has_space(channel) { Ok(()) } else { Err(QueueFull.into()) }
    }

    fn is_reached(&self, channel: &ChannelName) -> Result<(), Away> {
        let must_be = self.shared.is_joined && self.shared.refuse_when_away;
        if must_be && self.decides_alone(|| self.topic(channel)) { Err(Away) } else { Ok(()) }
    }

    fn has_space(&self, channel: &ChannelName) -> bool {
        let limit = self.shared.bounds.max_queue_bytes();
        let here = self.channels.get(channel).is_none_or(|channel| channel.has_space(limit));
        here && (!self.shared.is_joined || self.shared.engine.has_space(&self.topic(channel)))
    }

    /// Publishes: gives the event its place in the channel's order, and hands it to the other nodes.
    /// Delivery follows, in this call as far as `budget` goes.
    pub fn publish(self: &Arc<Self>, name: &ChannelName, draft: Draft, budget: &mut Budget) {
        let cache_for = draft.cache_for.filter(|_| name.kind().cache);
        if !self.shared.is_joined {
            return self.deliver(name, Parcel::Draft(draft), cache_for, budget);
        }
        let event = self.shared.event(name, draft);
        if cache_for.is_none() {
            self.shared.engine.publish(&self.id, &event, cache_for);
            return self.deliver(name, Parcel::Event(event), cache_for, budget);
        }
        // It comes back from the engine, and has to be known here by then.
        self.deliver(name, Parcel::Event(event.clone()), cache_for, budget);
        self.shared.engine.publish(&self.id, &event, cache_for);
    }

    fn deliver(
        self: &Arc<Self>,
        name: &ChannelName,
        parcel: Parcel,
        cache_for: Option<Duration>,
        budget: &mut Budget,
    ) {
        let mut parcel = Some(parcel);
        loop {
            let channel = match self.channels.get(name) {
                Some(channel) => Arc::clone(&channel),
                None if cache_for.is_some() && self.decides_alone(|| self.topic(name)) => self.channel(name),
                None => return,
            };
            // A channel that was given back meanwhile refuses; the next one stands in the map.
            match channel.publish(self, &mut parcel, cache_for) {
                Some(idle) => {
                    self.shared.start(idle, budget);
                    break;
                }
                None => continue,
            }
        }
        if cache_for.is_some() {
            self.shared.cache.evict();
        }
    }

    /// Subscribes. The subscriber becomes visible, and in the same step `arrival` is called to write
    /// to its mailbox what must come before the first event; or, with an error, to say why it is not let
    /// in: a presence channel has as many members as it may have, or cannot keep up.
    ///
    /// Where nodes have to agree first, that is later: see [`Subscription::is_confirmed`]. Otherwise it
    /// has been done when this returns, and `None` means that the subscriber was refused.
    pub fn subscribe(
        self: &Arc<Self>,
        name: &ChannelName,
        subscriber: &Subscriber,
        terms: &Terms,
        arrival: impl FnOnce(Result<&Snapshot<'_>, NotSubscribed>) + Send + 'static,
    ) -> Option<Subscription> {
        let mut arrival = Some(arrival);
        loop {
            let channel = self.channel(name);
            let Some((subscription, idle)) = channel.subscribe(self, subscriber, terms, &mut arrival) else {
                continue;
            };
            self.shared.start(idle, &mut Budget::none());
            if subscription.is_none() {
                self.give_back(name);
            }
            return subscription;
        }
    }

    /// Ends a socket's subscription.
    pub fn unsubscribe(self: &Arc<Self>, socket: SocketId, subscription: Subscription) {
        let (name, idle, vacant) = subscription.end(socket, self);
        self.shared.start(idle, &mut Budget::none());
        if vacant {
            self.give_back(&name);
        }
    }

    fn channel(&self, name: &ChannelName) -> Arc<Channel> {
        if let Some(channel) = self.channels.get(name) {
            return Arc::clone(&channel);
        }
        let new = || Arc::new(Channel::new(name.clone()));
        Arc::clone(&self.channels.entry(name.clone()).or_insert_with(new))
    }

    /// Removes the channel if nobody and nothing is in it. Where the engine has to be told first, it is
    /// removed when that is done, see `site`.
    fn give_back(&self, name: &ChannelName) {
        if self.decides_alone(|| self.topic(name)) {
            self.channels.remove_if(name, |_, channel| channel.retire(&self.shared.agenda, None));
        }
    }

    /// Drops the channel's cached event if it is still the one that goes by `number`.
    fn drop_cached(&self, name: &ChannelName, number: u64) {
        let channel = self.channels.get(name).map(|channel| Arc::clone(&channel));
        if channel.is_some_and(|channel| channel.drop_cached(number)) {
            self.give_back(name);
        }
    }

    fn topic(&self, name: &ChannelName) -> Topic {
        Topic::Channel(Arc::clone(&self.id), name.clone())
    }

    /// Whether no other node has a say in a topic, or none can be reached.
    fn decides_alone(&self, topic: impl FnOnce() -> Topic) -> bool {
        !self.shared.is_joined || self.shared.engine.is_away(&topic())
    }
}

impl Shared {
    fn next_seat(&self) -> SeatId {
        self.seats.fetch_add(1, Ordering::Relaxed)
    }

    /// Whoever is seated from now on has this seat or a later one.
    fn coming_seat(&self) -> SeatId {
        self.seats.load(Ordering::Relaxed)
    }

    /// Names a share that is being written.
    fn next_stamp(&self) -> u64 {
        self.stamps.fetch_add(1, Ordering::Relaxed)
    }

    fn event(&self, channel: &ChannelName, draft: Draft) -> Event {
        Event {
            id: self.ids.next(),
            timestamp_ms: now_ms(),
            channel: channel.clone(),
            origin: draft.origin,
            except: draft.except,
            body: draft.body,
        }
    }
}
