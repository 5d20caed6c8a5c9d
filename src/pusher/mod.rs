//! The Pusher Channels protocol: sockets (`connect`, `session`) and the HTTP API (`rest`).
//! What stands on the wire is in `frame`, what may be done is decided by `auth`, and how sockets
//! end is in `error`.

mod auth;
mod command;
mod connect;
mod error;
mod frame;
mod json;
mod origin;
mod query;
pub mod rest;
mod session;
mod user;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

pub use self::connect::{Arrival, Door, Entry};
pub use self::frame::PusherFormat;
pub use self::webhook::PusherWebhooks;

use crate::addresses::Addresses;
use crate::apps::Apps;
use crate::hub::{FormatId, Hub};
use crate::idempotency::Idempotency;
use crate::mailbox::Backlogs;
use crate::metrics::Metrics;
use crate::sockets::Sockets;
use crate::transport::Framing;

/// What bounds this room.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes queued towards one socket before it is closed as a slow consumer.
    pub max_mailbox_bytes: usize,
    /// How long a request's body may take.
    pub body_timeout: Duration,
    /// Send `pusher:subscription_error` after a refused subscribe.
    pub subscription_errors: bool,
}

/// What the protocol works with.
pub struct Pusher {
    /// Who is served.
    pub apps: Apps,
    /// Who has how many connections, and who fails to sign.
    pub addresses: Arc<Addresses>,
    /// Channels.
    pub hub: Arc<Hub>,
    /// Open sockets.
    pub sockets: Arc<Sockets>,
    /// What waits for all sockets together.
    pub backlogs: Arc<Backlogs>,
    /// What apps may still do through the API.
    pub quotas: rest::Quotas,
    /// Requests that are not carried out twice.
    pub idempotency: Arc<Idempotency>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Bounds and switches, as they are now.
    pub settings: ArcSwap<Settings>,
    /// The first of this protocol's wire forms in the hub: one for each framing, in their order.
    pub first_format: FormatId,
}

impl Pusher {
    /// The wire form of events in one framing.
    fn format(&self, framing: Framing) -> FormatId {
        FormatId(self.first_format.0 + framing as u8)
    }
}
