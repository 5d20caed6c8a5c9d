//! What joins nodes: the engine, and what a node and its engine say to one another.
//!
//! Each node has a *share* of a topic: its sockets in a channel, the members they are, the sockets of
//! a user. The engine keeps the shares of all nodes. A node writes its own whenever it has changed,
//! always as it is then, so that nothing depends on a change having arrived; and it follows those of
//! the others on the topics that it listens to, from a snapshot and the numbered changes after it.
//! A share is kept as long as its node renews its lease, and withdrawn by the others afterwards.
//!
//! Reading order: this file (the words) → `local` (a node by itself) → `following` (of the others) →
//! `envelope` (an event between nodes) → `redis` (nodes joined by Redis).

mod envelope;
mod following;
mod local;
mod redis;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::following::{Following, Next};
pub use self::local::Local;
pub use self::redis::Redis;

use crate::model::app::AppId;
use crate::model::channel::ChannelName;
use crate::model::event::Event;
use crate::model::member::{Member, UserId};

/// Names a node from its registration with the engine until that is lost. A node that comes back is
/// another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// What nodes share something about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// A channel: its subscribers are counted, and have members behind them in presence channels.
    Channel(AppId, ChannelName),
    /// A user: the sockets that are signed in as it are counted.
    User(AppId, UserId),
}

/// A state of a topic: changes of a topic are numbered from one to the next without gaps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Version {
    /// Drawn when the engine begins with nothing: numbers of different worlds cannot be compared.
    pub world: u64,
    /// Counts up.
    pub number: u64,
}

/// What a node holds of a topic, to be written to the engine.
#[derive(Debug, Default)]
pub struct Share {
    /// Comes back with the answer, so that the node knows what it answers.
    pub stamp: u64,
    /// The node is to be told what happens in the topic.
    pub listens: bool,
    /// Its sockets. With 0, and without listening, it holds nothing: members need not be named.
    pub count: usize,
    /// Members that have come or gone here since the last time; all, if the whole was asked for.
    pub members: Vec<Holding>,
    /// The answer has to have a [`Snapshot`].
    pub snapshot: bool,
    /// The cached event and for how long, for an engine that has none.
    pub cached: Option<(Event, Duration)>,
    /// The engine had this node's share when it was lost: if it has forgotten it, somebody has been told
    /// of the channel already.
    pub known: bool,
    /// Somebody is told what becomes true of this channel, see [`Fact`]: departures that long
    /// afterwards, unless they are taken back.
    pub told_after: Option<Duration>,
    /// How many subscribers there are is told, too.
    pub counted: bool,
}

/// A member on a node's sockets.
#[derive(Debug, Clone)]
pub enum Holding {
    /// It is here.
    Present {
        /// Who.
        member: Member,
        /// It is refused when the topic has as many users; `None` when it has been let in already.
        limit: Option<usize>,
        /// The engine knew of it when it was lost, see [`Share::known`].
        known: bool,
    },
    /// It is no longer.
    Absent(UserId),
}

/// The answer to a [`Share`]: it is written.
#[derive(Debug)]
pub struct Written {
    /// Of the share.
    pub stamp: u64,
    /// The state that it led to, or that stood already.
    pub version: Version,
    /// Members that were refused because the topic is full. They are not held.
    pub refused: Vec<UserId>,
    /// The engine had been given everything by then that this node had published until `told`.
    pub told: Instant,
    /// Asked for by the share.
    pub snapshot: Option<Snapshot>,
}

/// What the *other* nodes hold of a topic.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Sockets by node, where there are any.
    pub counts: Vec<(NodeId, usize)>,
    /// Members by node.
    pub members: Vec<(NodeId, Member)>,
    /// The cached event, and how long it is kept.
    pub cached: Option<(Event, Duration)>,
    /// The engine has lost what it knew, and not every node has written its share again: what is
    /// missing here may still come. Another snapshot follows by itself when the time is over.
    pub settling: bool,
}

/// What has changed in a topic, all at once. Additions are to be applied before removals.
#[derive(Debug, Default)]
pub struct Change {
    /// The state that it leads to.
    pub version: Version,
    /// Sockets of the *other* nodes concerned; 0 for a node that has none any more.
    pub counts: Vec<(NodeId, usize)>,
    /// Members that other nodes hold now.
    pub added: Vec<(NodeId, Member)>,
    /// Members that other nodes hold no longer.
    pub removed: Vec<(NodeId, UserId)>,
}

/// An event from the bus.
#[derive(Debug)]
pub struct Received {
    /// The event.
    pub event: Event,
    /// This node itself has published it: it has been delivered here already. Only cached events come
    /// back, so that all nodes cache the same one.
    pub own: bool,
    /// Where it is cached: the state of the topic that this led to, and for how long.
    pub cached: Option<(Version, Duration)>,
}

/// Something that became true of a channel in the whole cluster. Each is told to one node, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The first subscriber came.
    Occupied,
    /// The last subscriber left, and nobody came back in time.
    Vacated,
    /// A user's first socket joined.
    MemberAdded(UserId),
    /// A user's last socket left, and did not come back in time.
    MemberRemoved(UserId),
    /// A subscriber found an empty cache, for the first time since there was an event in it.
    CacheMiss,
    /// There are so many subscribers.
    Counted(usize),
}

/// What one node tells all others to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Close every socket that is signed in as this user.
    Terminate(UserId),
}

/// What the whole cluster holds of a topic.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Sockets.
    pub subscriptions: usize,
    /// How many distinct users.
    pub user_count: usize,
    /// Who they are, if that was asked for.
    pub users: Vec<UserId>,
    /// The cached event, and how long it is kept.
    pub cached: Option<(Event, Duration)>,
}

/// How an occupied channel stands in a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sockets.
    pub subscriptions: usize,
    /// Distinct users.
    pub users: usize,
}

/// The engine cannot be asked now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cluster's engine cannot be reached")]
pub struct Away;

/// What an engine has done and suffered. Numbers count up, but for those of the queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Why it cannot be reached, in whole or in part; `None` once it can.
    pub away: Option<String>,
    /// It can, and this node has yet to write all that it holds, and to listen to it.
    pub is_catching_up: bool,
    /// Events given to other nodes.
    pub published: u64,
    /// Events from other nodes.
    pub received: u64,
    /// Bytes of them, as they came.
    pub received_bytes: u64,
    /// Topics on which events of other nodes may have been missed.
    pub gaps: u64,
    /// Events that other nodes were not told, because the engine was away.
    pub unsent: u64,
    /// Events of other nodes that were dropped, since their channel had no space in time.
    pub dropped: u64,
    /// Times that the engine was lost.
    pub losses: u64,
    /// Shares of dead nodes that this one has withdrawn.
    pub withdrawn: u64,
    /// Bytes of events that wait to be sent.
    pub queued_bytes: usize,
    /// Topics whose share waits to be written.
    pub queued_topics: usize,
}

/// A future behind a trait object.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Joins nodes. Nothing here but what gives a [`Waiting`] ever waits, and everything may be called
/// under a channel's lock or a user's.
pub trait Engine: Send + Sync {
    /// Whether there can be other nodes at all.
    fn is_shared(&self) -> bool;

    /// Whether this node decides about the topic alone: there are no others, or they cannot be reached.
    fn is_away(&self, topic: &Topic) -> bool;

    /// This node's share of the topic is another than before. The engine asks [`Site::share`] for it
    /// when it is its turn. A topic that waits for that need not be touched again. Does nothing while
    /// the engine is away: afterwards it asks for everything.
    fn touch(&self, topic: &Topic);

    /// Hands an event to the nodes that listen to its channel, and has it cached for `cache_for`.
    /// Events for one channel keep their order. When the engine is away, it is lost to them and counted.
    fn publish(&self, app: &AppId, event: &Event, cache_for: Option<Duration>);

    /// Whether there is space for further events of this topic in the queue. [`Site::space_made`] is
    /// called when there is again.
    fn has_space(&self, topic: &Topic) -> bool;

    /// A subscriber found an empty cache; see [`Fact::CacheMiss`].
    fn missed(&self, topic: &Topic);

    /// Tells all other nodes to do something.
    fn order(&self, app: &AppId, order: Order);

    /// Waits until the engine knows everything that this node has touched and published of this topic
    /// before, or is away. Ends in a bounded time.
    fn settled<'a>(&'a self, topic: &'a Topic) -> Waiting<'a, ()>;

    /// What the whole cluster holds of a topic. The users only if `users` is set.
    fn look<'a>(&'a self, topic: &'a Topic, users: bool) -> Waiting<'a, Result<Seen, Away>>;

    /// The channels with subscribers anywhere whose names begin with `prefix`, in no order; with the
    /// numbers of users only if `users` is set.
    fn occupied<'a>(
        &'a self,
        app: &'a AppId,
        prefix: &'a str,
        users: bool,
    ) -> Waiting<'a, Result<Vec<(ChannelName, Tally)>, Away>>;

    /// How it is and what it did.
    fn report(&self) -> Report;

    /// Works for `site`, for ever.
    fn run(self: Arc<Self>, site: Arc<dyn Site>) -> Waiting<'static, ()>;

    /// Waits until the engine is reached for the first time.
    fn joined(&self) -> Waiting<'_, ()>;

    /// This node stops and holds nothing any more: waits until that is written, gives up the lease, and
    /// has told what nobody else is left to tell. The caller bounds the time.
    fn leave(&self) -> Waiting<'_, ()>;
}

/// The node, as its engine sees it. Nothing here but what gives a [`Waiting`] ever waits; the engine
/// holds no lock when it calls.
pub trait Site: Send + Sync {
    /// Visits every topic of which this node holds something.
    fn topics(&self, visit: &mut dyn FnMut(Topic));

    /// What this node holds of a topic now. With `whole`, the engine knows nothing of it yet.
    fn share(&self, topic: &Topic, whole: bool) -> Share;

    /// The share of this topic has been written.
    fn written(&self, topic: &Topic, written: Written);

    /// Other nodes' shares have changed in a topic that this node listens to.
    fn changed(&self, topic: &Topic, change: Change);

    /// An event was published in a channel that this node listens to.
    fn received(&self, app: &AppId, received: Received);

    /// Waits until a channel has space for another event.
    fn space<'a>(&'a self, topic: &'a Topic) -> Waiting<'a, ()>;

    /// The engine's queue, full before, has space again.
    fn space_made(&self);

    /// Something became true in the cluster, and this node is the one to tell it.
    fn told(&self, topic: &Topic, fact: Fact);

    /// Another node wants something done.
    fn ordered(&self, app: &AppId, order: Order);

    /// The engine is away for all topics that `concerned` names: who waits for it is to be answered
    /// from what this node knows. [`Engine::is_away`] says so for them already.
    fn cut_off(&self, concerned: &dyn Fn(&Topic) -> bool);
}
