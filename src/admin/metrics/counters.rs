//! What has happened.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::samples::{counter, counters};
use crate::metrics::Metrics;
use crate::model::close::CloseReason;
use crate::model::turned_away::TurnedAway;

pub(super) fn encode(metrics: &Metrics, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let (accepted, refused) = metrics.api_requests.sums();
    let all: [(&str, &str, u64); 11] = [
        ("opened_connections", "Sockets opened, refused ones included", metrics.opened.get()),
        ("api_events", "Events published through the API, one for each channel", metrics.api_events.get()),
        ("api_received_bytes", "Bytes of the bodies of API requests", metrics.api_bytes.get()),
        ("client_events", "Client events accepted", metrics.client_events.get()),
        ("client_received_bytes", "Bytes of the messages of clients", metrics.client_bytes.get()),
        ("deliveries", "Events given to sockets", metrics.deliveries.get()),
        ("delivered_bytes", "Bytes of the events given to sockets", metrics.delivered_bytes.get()),
        ("api_accepted_requests", "API requests that succeeded", accepted),
        ("api_refused_requests", "API requests that were refused", refused),
        ("config_reloads", "Reloads of the configuration that took effect", metrics.reloads.get()),
        ("config_refused_reloads", "Reloads that changed nothing", metrics.reloads_refused.get()),
    ];
    for (name, help, value) in all {
        counter(encoder, name, help, value)?;
    }
    // Pairs that were never seen are left out: there are more than a hundred.
    let requests =
        metrics.api_requests.each().filter(|(_, _, count)| *count > 0).map(|(endpoint, status, count)| {
            ([("endpoint", endpoint.name().to_owned()), ("status", status.to_string())], count)
        });
    counters(encoder, "api_requests", "API requests, by endpoint and status", requests)?;
    let closes = CloseReason::ALL.map(|reason| ([("reason", reason.name())], metrics.closes(reason)));
    counters(encoder, "closed_connections", "Sockets ended, by reason", closes)?;
    let failures = metrics
        .auth_failures
        .each()
        .map(|(who, cause, count)| ([("of", who.name()), ("cause", cause.name())], count));
    counters(encoder, "auth_failures", "What was refused for its signature or credentials", failures)?;
    let turned_away =
        TurnedAway::ALL.map(|reason| ([("reason", reason.name())], metrics.times_turned_away(reason)));
    counters(encoder, "turned_away", "Connections and requests turned away, by reason", turned_away)
}
