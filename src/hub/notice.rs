//! What the hub reports upwards: facts about channels, in the order in which they became true.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::model::app::{App, WebhookEvent};
use crate::model::channel::ChannelName;
use crate::model::member::UserId;
use crate::model::quoted::Quoted;
use crate::model::socket::SocketId;

/// Something that became true of a channel.
#[derive(Debug, Clone)]
pub enum Fact {
    /// The first subscriber came.
    Occupied,
    /// The last subscriber left.
    Vacated,
    /// A user's first socket joined.
    MemberAdded(UserId),
    /// A user's last socket left.
    MemberRemoved(UserId),
    /// A socket published.
    ClientEvent {
        /// The event's name.
        name: Quoted,
        /// Its payload.
        data: Quoted,
        /// Who published.
        socket: SocketId,
        /// The publishing member, in presence channels.
        user_id: Option<UserId>,
    },
    /// A subscriber found an empty cache.
    CacheMiss,
    /// The cache, empty before, has an event.
    CacheFilled,
    /// Subscribers were told how many they are.
    Counted(usize),
}

impl Fact {
    /// The kind of webhook event that tells it; `None` when none does.
    pub fn event(&self) -> Option<WebhookEvent> {
        Some(match self {
            Self::Occupied => WebhookEvent::ChannelOccupied,
            Self::Vacated => WebhookEvent::ChannelVacated,
            Self::MemberAdded(_) => WebhookEvent::MemberAdded,
            Self::MemberRemoved(_) => WebhookEvent::MemberRemoved,
            Self::ClientEvent { .. } => WebhookEvent::ClientEvent,
            Self::CacheMiss => WebhookEvent::CacheMiss,
            Self::CacheFilled => return None,
            Self::Counted(_) => WebhookEvent::SubscriptionCount,
        })
    }
}

/// Who is told the facts of one app.
pub trait Observer: Send + Sync {
    /// Takes a fact in. Called under the channel's lock: so facts of a channel come in their order,
    /// and whoever takes them must not wait.
    fn note(&self, channel: &ChannelName, fact: Fact);

    /// Takes in what is true for good: nobody waits whether a departure is taken back. Must not wait.
    fn tell(&self, channel: &ChannelName, fact: Fact);

    /// How long a departure can be taken back before it is told.
    fn departures_after(&self) -> Duration;
}

/// How facts are written for somebody else's server.
pub trait NoticeFormat: Send + Sync {
    /// One event, as it stands in a request's list.
    fn event(&self, kind: WebhookEvent, channel: &ChannelName, fact: &Fact) -> Bytes;

    /// A whole request, signed now.
    fn request(&self, app: &App, time_ms: u64, events: &[Bytes]) -> SignedRequest;
}

/// A request's body, and the headers that belong to it.
#[derive(Debug, Clone)]
pub struct SignedRequest {
    /// The body.
    pub body: Bytes,
    /// Names, in lower case, and values.
    pub headers: Vec<(&'static str, String)>,
}

/// How facts are written, shared by all who tell them.
pub type SharedNoticeFormat = Arc<dyn NoticeFormat>;
