//! Counters of what has happened. What *is* (sockets, channels) is read from the live tables
//! at scrape time instead, so that no gauge can drift.

mod api;
mod unproven;

use std::sync::atomic::{AtomicU64, Ordering};

pub use self::api::{ApiEndpoint, ApiRequests};
pub use self::unproven::{AuthFailures, Cause, Unproven};

use crate::model::close::CloseReason;
use crate::model::turned_away::TurnedAway;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Every counter of the broker.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Sockets opened, refused ones included.
    pub opened: Counter,
    /// Events published through the API, one for each channel.
    pub api_events: Counter,
    /// Bytes of the bodies of API requests that were believed.
    pub api_bytes: Counter,
    /// Client events accepted.
    pub client_events: Counter,
    /// Bytes of the messages of clients.
    pub client_bytes: Counter,
    /// Events given to mailboxes, one for each subscriber.
    pub deliveries: Counter,
    /// Bytes of these, with all that is around them on the wire.
    pub delivered_bytes: Counter,
    /// API requests, by what they asked and how they were answered.
    pub api_requests: ApiRequests,
    /// Who was not believed, and why.
    pub auth_failures: AuthFailures,
    /// Reloads of the config that took effect.
    pub reloads: Counter,
    /// Reloads that were refused.
    pub reloads_refused: Counter,
    closes: [Counter; CloseReason::ALL.len()],
    turned_away: [Counter; TurnedAway::ALL.len()],
}

impl Metrics {
    /// Counts the end of a socket.
    pub fn closed(&self, reason: CloseReason) {
        self.closes[reason as usize].add(1);
    }

    /// How many sockets ended for `reason`.
    pub fn closes(&self, reason: CloseReason) -> u64 {
        self.closes[reason as usize].get()
    }

    /// Counts somebody who was turned away.
    pub fn turned_away(&self, reason: TurnedAway) {
        self.turned_away[reason as usize].add(1);
    }

    /// How many were turned away for `reason`.
    pub fn times_turned_away(&self, reason: TurnedAway) -> u64 {
        self.turned_away[reason as usize].get()
    }
}
