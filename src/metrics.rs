//! Counters of what has happened. What *is* (sockets, channels) is read from the live tables
//! at scrape time instead, so that no gauge can drift.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::close::CloseReason;

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
    /// Client events accepted.
    pub client_events: Counter,
    /// Events given to mailboxes, one for each subscriber.
    pub deliveries: Counter,
    /// API requests answered 200 or 202.
    pub api_accepted: Counter,
    /// API requests answered otherwise.
    pub api_refused: Counter,
    /// Reloads of the config that took effect.
    pub reloads: Counter,
    /// Reloads that were refused.
    pub reloads_refused: Counter,
    closes: [Counter; CloseReason::ALL.len()],
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
}
