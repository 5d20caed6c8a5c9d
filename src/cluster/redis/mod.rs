//! Nodes joined by Redis 7 or Valkey: a single server, one watched by Sentinels, or a Redis Cluster.
//!
//! Everything lives in [`PARTITIONS`] partitions. A *link* serves those that one master keeps, by three
//! connections: one for shares and questions, one for events, one that listens. If one of them is lost,
//! so is the link; it is made anew, and the node then goes by another name and writes everything again.
//!
//! Reading order: this file (the engine) → `place` (partitions and names) → `scripts/common.lua` (what
//! is kept) → `supervise` (which links there are) → `link` (a link's life) → `dirty`, `flush` (shares)
//! → `outbox`, `publish` (events) → `listen`, `message` (what comes in) → `keep`, `reap` (leases)
//! → `tell` (facts) → `queries`, `leave` → below: `discover`, `connection`, `scripts`, `wire`.

mod connection;
mod dirty;
mod discover;
mod flush;
mod keep;
mod leave;
mod link;
mod listen;
mod message;
mod outbox;
mod place;
mod publish;
mod queries;
mod reap;
mod scripts;
mod stats;
mod supervise;
mod tell;
mod wire;

use std::future::ready;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use self::connection::{Access, tls_connector};
use self::link::Link;
use self::outbox::Outgoing;
use self::place::{PARTITIONS, Place, partition_of, tag};
use self::stats::Stats;
use super::envelope::{seal_event, seal_order};
use super::{Away, Engine, NodeId, Order, Report, Seen, Site, Tally, Topic, Waiting};
use crate::model::app::AppId;
use crate::model::channel::ChannelName;
use crate::model::cluster::ClusterSettings;
use crate::model::cluster_url::EngineUrl;
use crate::model::event::Event;

/// Low bits of a node's id count its registrations; the others are the process's.
const COUNTED_BITS: u32 = 20;
/// How long a world takes to settle, at most.
const SETTLING: Duration = Duration::from_secs(5);

/// The engine that joins nodes by Redis.
pub struct Redis {
    settings: ClusterSettings,
    url: EngineUrl,
    access: Access,
    /// Of each partition.
    tags: Vec<String>,
    /// High bits of all ids that this process goes by.
    own: u64,
    drawn: AtomicU64,
    /// The link that serves each partition.
    routes: RwLock<Vec<Option<Arc<Link>>>>,
    /// What this node was called in each partition, where it may still hold something by that name.
    former: Mutex<Vec<Vec<NodeId>>>,
    /// The world that was found in each partition last.
    worlds: Mutex<Vec<String>>,
    site: OnceLock<Arc<dyn Site>>,
    /// Bytes of events that wait.
    queued: AtomicUsize,
    /// Somebody was told that there is no space.
    full: AtomicBool,
    stats: Stats,
    joined: watch::Sender<bool>,
    leaving: AtomicBool,
    left: Notify,
}

impl Redis {
    /// Prepares the engine. Does not connect yet.
    ///
    /// # Errors
    /// When the URL is not one of Redis, the certificates cannot be read, or the system has no
    /// randomness to give.
    pub fn new(settings: &ClusterSettings) -> io::Result<Self> {
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        let url =
            EngineUrl::parse(&settings.url).map_err(|why| invalid(format!("the engine's URL {why}")))?;
        let tls = if url.tls { Some(tls_connector(settings.ca.as_deref())?) } else { None };
        let access = Access {
            tls,
            user: url.user.clone(),
            password: url.password.clone(),
            database: url.database,
            timeout: settings.timeout,
        };
        let tags = (0..PARTITIONS).map(|p| tag(&settings.prefix, url.database, p)).collect();
        Ok(Self {
            settings: settings.clone(),
            access,
            tags,
            url,
            own: getrandom::u64().map_err(io::Error::other)? >> COUNTED_BITS << COUNTED_BITS,
            drawn: AtomicU64::new(0),
            routes: RwLock::new(vec![None; PARTITIONS]),
            former: Mutex::new(vec![Vec::new(); PARTITIONS]),
            worlds: Mutex::new(vec![String::new(); PARTITIONS]),
            site: OnceLock::new(),
            queued: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            stats: Stats::default(),
            joined: watch::Sender::new(false),
            leaving: AtomicBool::new(false),
            left: Notify::new(),
        })
    }

    /// A name that this node has not gone by.
    fn draw(&self) -> NodeId {
        let count = self.drawn.fetch_add(1, Ordering::Relaxed) & ((1 << COUNTED_BITS) - 1);
        NodeId(self.own | count)
    }

    /// Whether this node goes by that name, or did.
    fn is_own(&self, node: NodeId) -> bool {
        node.0 >> COUNTED_BITS << COUNTED_BITS == self.own
    }

    fn link_of(&self, topic: &Topic) -> Option<Arc<Link>> {
        self.routes.read()[partition_of(topic)].clone()
    }

    /// The links that there are, each once.
    fn links(&self) -> Vec<Arc<Link>> {
        let mut links: Vec<Arc<Link>> = self.routes.read().iter().flatten().cloned().collect();
        links.sort_by_key(|link| link.node);
        links.dedup_by_key(|link| link.node);
        links
    }

    fn settling(&self) -> Duration {
        self.settings.lease.min(SETTLING)
    }

    fn send(&self, topic: &Topic, make: impl FnOnce(&Link, Place) -> Outgoing) {
        let Some(link) = self.link_of(topic) else {
            self.stats.unsent(1);
            return;
        };
        let outgoing = make(&link, Place::of(topic));
        let size = outgoing.size();
        let most = self.settings.max_queue_bytes.saturating_mul(2);
        let counts = outgoing.is_event();
        if self.queued.fetch_add(size, Ordering::AcqRel) > most || !link.outbox.push(outgoing) {
            self.unqueue(size);
            self.stats.unsent(u64::from(counts));
        }
    }

    /// So many bytes wait no longer.
    fn unqueue(&self, bytes: usize) {
        let left = self.queued.fetch_sub(bytes, Ordering::AcqRel) - bytes;
        let has_space = left < self.settings.max_queue_bytes;
        if has_space
            && self.full.swap(false, Ordering::AcqRel)
            && let Some(site) = self.site.get()
        {
            site.space_made();
        }
    }
}

impl Engine for Redis {
    fn is_shared(&self) -> bool {
        true
    }

    fn is_away(&self, topic: &Topic) -> bool {
        self.routes.read()[partition_of(topic)].is_none()
    }

    fn touch(&self, topic: &Topic) {
        if let Some(link) = self.link_of(topic) {
            link.dirty.push(topic, false);
        }
    }

    fn publish(&self, app: &AppId, event: &Event, cache_for: Option<Duration>) {
        let topic = Topic::Channel(app.clone(), event.channel.clone());
        self.send(&topic, |link, place| {
            let envelope = seal_event(link.node, app, event);
            match cache_for {
                Some(keep) => Outgoing::Cached { place, envelope, keep },
                None => Outgoing::Plain { place, envelope },
            }
        });
    }

    fn has_space(&self, _: &Topic) -> bool {
        let has = || self.queued.load(Ordering::Acquire) < self.settings.max_queue_bytes;
        if has() {
            return true;
        }
        self.full.store(true, Ordering::Release);
        // It may have been made before the mark was there to be seen.
        has()
    }

    fn missed(&self, topic: &Topic) {
        self.send(topic, |_, place| Outgoing::Missed { place });
    }

    fn order(&self, app: &AppId, order: Order) {
        let Order::Terminate(user) = &order;
        let topic = Topic::User(app.clone(), user.clone());
        self.send(&topic, |link, place| {
            let envelope = seal_order(link.node, app, &order);
            Outgoing::Order { partition: place.partition, envelope }
        });
    }

    fn settled<'a>(&'a self, topic: &'a Topic) -> Waiting<'a, ()> {
        let Some(link) = self.link_of(topic) else { return Box::pin(ready(())) };
        Box::pin(link.settled(self.settings.timeout * 2))
    }

    fn look<'a>(&'a self, topic: &'a Topic, users: bool) -> Waiting<'a, Result<Seen, Away>> {
        Box::pin(queries::look(self, topic, users))
    }

    fn occupied<'a>(
        &'a self,
        app: &'a AppId,
        prefix: &'a str,
        users: bool,
    ) -> Waiting<'a, Result<Vec<(ChannelName, Tally)>, Away>> {
        Box::pin(queries::occupied(self, app, prefix, users))
    }

    fn report(&self) -> Report {
        let mut report = self.stats.report();
        report.queued_bytes = self.queued.load(Ordering::Relaxed);
        report.queued_topics = self.links().iter().map(|link| link.dirty.len()).sum();
        if self.is_reached() {
            report.away = None;
            report.is_catching_up = !self.is_whole();
        } else if report.away.is_none() {
            report.away = Some("it has not been reached yet".to_owned());
        }
        report
    }

    fn run(self: Arc<Self>, site: Arc<dyn Site>) -> Waiting<'static, ()> {
        Box::pin(supervise::run(self, site))
    }

    fn joined(&self) -> Waiting<'_, ()> {
        let mut joined = self.joined.subscribe();
        Box::pin(async move {
            // The sender lives as long as the engine.
            let _ = joined.wait_for(|joined| *joined).await;
        })
    }

    fn leave(&self) -> Waiting<'_, ()> {
        Box::pin(leave::leave(self))
    }
}
