//! What happened in a channel, free of any wire form.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::channel::ChannelName;
use super::member::UserId;
use super::quoted::Quoted;
use super::socket::SocketId;

/// An event on its way to the subscribers of one channel.
#[derive(Debug, Clone)]
pub struct Event {
    /// Unique over all brokers.
    pub id: EventId,
    /// When the broker took it, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// Where it happened.
    pub channel: ChannelName,
    /// Who brought it about.
    pub origin: Origin,
    /// The socket that is not told.
    pub except: Option<SocketId>,
    /// What happened.
    pub body: Body,
}

/// Who brought an event about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A backend, through the HTTP API.
    Api,
    /// A socket.
    Socket(SocketId),
    /// The broker itself.
    Broker,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Body {
    /// Somebody published.
    Message {
        /// The event's name.
        name: Quoted,
        /// The payload. Nobody parses it on the way.
        data: Quoted,
        /// The publishing member, in presence channels.
        user_id: Option<UserId>,
    },
    /// A user's first socket joined.
    MemberAdded {
        /// The user.
        user_id: UserId,
        /// JSON text for the others, or nothing.
        user_info: Option<Arc<str>>,
    },
    /// A user's last socket left.
    MemberRemoved {
        /// The user.
        user_id: UserId,
    },
    /// The number of subscribers changed.
    SubscriptionCount {
        /// How many there are.
        count: usize,
    },
}

impl Event {
    /// Bytes that the event roughly takes in a frame; what queues are bounded by.
    pub fn size(&self) -> usize {
        const FRAME: usize = 64;
        let body = match &self.body {
            Body::Message { name, data, .. } => name.as_bytes().len() + data.as_bytes().len(),
            Body::MemberAdded { user_id, user_info } => {
                user_id.len() + user_info.as_ref().map_or(0, |info| info.len())
            }
            Body::MemberRemoved { user_id } => user_id.len(),
            Body::SubscriptionCount { .. } => 0,
        };
        FRAME + self.channel.as_str().len() + body
    }

    /// A copy that keeps no request's buffer alive.
    pub fn detached(&self) -> Self {
        let mut copy = self.clone();
        if let Body::Message { name, data, .. } = &mut copy.body {
            *name = name.detached();
            *data = data.detached();
        }
        copy
    }
}

/// Names one event: the broker that took it, and a number that the broker gives once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventId {
    /// Drawn when the broker starts.
    pub broker: u64,
    /// Counts up.
    pub number: u64,
}

/// Where event ids come from.
#[derive(Debug)]
pub struct EventIds {
    broker: u64,
    next: AtomicU64,
}

impl EventIds {
    /// Begins a series that no other broker shares.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn begin() -> Result<Self, getrandom::Error> {
        Ok(Self { broker: getrandom::u64()?, next: AtomicU64::new(0) })
    }

    /// The next id.
    pub fn next(&self) -> EventId {
        EventId { broker: self.broker, number: self.next.fetch_add(1, Ordering::Relaxed) }
    }
}
