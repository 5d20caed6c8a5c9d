//! What bounds the delivery of webhooks.

use std::time::Duration;

/// How webhooks are delivered (`[webhooks]`). Sizes are in bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct WebhookSettings {
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a request may take until it is answered.
    pub timeout: Duration,
    /// How long after its creation an event is tried again.
    pub retry_for: Duration,
    /// Events that may wait for one endpoint; above it the oldest are forgotten.
    pub max_queue_events: usize,
    /// Bytes of them.
    pub max_queue_bytes: usize,
    /// Events that were given up and are kept, all endpoints together.
    pub max_failed_events: usize,
    /// Bytes of them.
    pub max_failed_bytes: usize,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            timeout: Duration::from_secs(5),
            retry_for: Duration::from_secs(300),
            max_queue_events: 10_000,
            max_queue_bytes: 8 << 20,
            max_failed_events: 1000,
            max_failed_bytes: 4 << 20,
        }
    }
}
