//! The engine that joins this node to others, on the private listener: whether it is there, and what
//! was lost by it.

use std::fmt;

use hyper::StatusCode;
use prometheus_client::encoding::DescriptorEncoder;

use super::metrics::samples::{counter, gauge};
use crate::cluster::{Away, Engine, Report};
use crate::http::{self, Reply};

/// `GET /readyz`: whether this node should be sent clients.
pub(super) fn readiness(are_stopping: bool, engine: &dyn Engine) -> Reply {
    if are_stopping {
        return http::text(StatusCode::SERVICE_UNAVAILABLE, "stopping");
    }
    let report = engine.report();
    match report.away {
        Some(reason) => http::text(StatusCode::SERVICE_UNAVAILABLE, &format!("{Away}: {reason}")),
        None if report.is_catching_up => {
            http::text(StatusCode::SERVICE_UNAVAILABLE, "catching up with the cluster's engine")
        }
        None => http::text(StatusCode::OK, "ready"),
    }
}

/// A number of the report: its name, its help text, and where it is.
type Number<T> = (&'static str, &'static str, fn(&Report) -> T);

const COUNTERS: [Number<u64>; 8] = [
    ("engine_published_events", "Events given to other nodes", |report| report.published),
    ("engine_received_events", "Events from other nodes", |report| report.received),
    ("engine_received_bytes", "Bytes of the events from other nodes", |report| report.received_bytes),
    (
        "engine_gaps",
        "Channels and users of which events of other nodes may have been missed, each time once",
        |report| report.gaps,
    ),
    (
        "engine_unsent_events",
        "Events that other nodes were not told, because the engine was lost",
        |report| report.unsent,
    ),
    (
        "engine_dropped_events",
        "Events from other nodes dropped, since the queue of their channel stayed full",
        |report| report.dropped,
    ),
    ("engine_losses", "Times that the engine was lost", |report| report.losses),
    (
        "engine_withdrawn_shares",
        "Shares of dead nodes, in a channel or a user each, that this node withdrew",
        |report| report.withdrawn,
    ),
];

const GAUGES: [Number<usize>; 3] = [
    (
        "engine_up",
        "1 while the engine can be reached in full and knows all that this node holds, otherwise 0",
        |report| usize::from(report.away.is_none() && !report.is_catching_up),
    ),
    ("engine_queued_bytes", "Bytes of events that wait to be given to the engine", |report| {
        report.queued_bytes
    }),
    ("engine_queued_topics", "Channels and users whose state waits to be written to the engine", |report| {
        report.queued_topics
    }),
];

/// The metrics of the engine. A node by itself has none.
pub(super) fn encode(engine: &dyn Engine, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    if !engine.is_shared() {
        return Ok(());
    }
    let report = engine.report();
    for (name, help, value) in GAUGES {
        gauge(encoder, name, help, value(&report))?;
    }
    for (name, help, value) in COUNTERS {
        counter(encoder, name, help, value(&report))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
