//! Webhooks as most tests want them, and the events that they tell.

use serde_json::{Value, json};

use super::{Receiver, Settings, settings};

/// Every event is told after this delay, in a request of its own.
pub fn told_to(receiver: &Receiver, delay: &str) -> Settings {
    settings()
        .feature("client_events", true)
        .limit("webhook_delay", delay)
        .hook(&receiver.url())
        .of_hook("batch", false)
}

pub fn told(name: &str, channel: &str) -> Value {
    json!({"name": name, "channel": channel})
}

pub fn told_of(name: &str, channel: &str, user_id: &str) -> Value {
    json!({"name": name, "channel": channel, "user_id": user_id})
}
