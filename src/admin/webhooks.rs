//! Webhooks on the private listener: what could not be delivered, and how endpoints are doing.

use std::fmt;
use std::sync::Arc;

use hyper::StatusCode;
use percent_encoding::percent_decode_str;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::metrics::OTHER;
use super::metrics::samples::gauge;
use crate::http::{self, Reply};
use crate::metrics::Counter;
use crate::webhook::{Endpoint, Selection, Stats, Webhooks};

/// `GET /webhooks/failed`: the events that were given up.
pub(super) fn failed(webhooks: &Webhooks, query: &str) -> Reply {
    match selection(query) {
        Ok(selection) => http::json(StatusCode::OK, webhooks.failed(&selection)),
        Err(what) => http::text(StatusCode::BAD_REQUEST, &what),
    }
}

/// `POST /webhooks/replay`: sends them again.
pub(super) fn replay(webhooks: &Webhooks, query: &str) -> Reply {
    match selection(query) {
        Ok(selection) => {
            let replayed = webhooks.replay(&selection);
            http::json(StatusCode::OK, format!("{{\"replayed\":{replayed}}}"))
        }
        Err(what) => http::text(StatusCode::BAD_REQUEST, &what),
    }
}

/// `app=ID` and `endpoint=INDEX`, both optional.
fn selection(query: &str) -> Result<Selection, String> {
    let mut selection = Selection::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(value).decode_utf8_lossy();
        match name {
            "app" => selection.app = Some(value.into_owned()),
            "endpoint" => {
                let index =
                    value.parse().map_err(|_| format!("endpoint: expected a number, found {value:?}"))?;
                selection.endpoint = Some(index);
            }
            _ => return Err(format!("unknown parameter {name:?}, expected app or endpoint")),
        }
    }
    Ok(selection)
}

/// A counter of each endpoint: its name, its help text, and where it is.
type EndpointCounter = (&'static str, &'static str, fn(&Stats) -> &Counter);

const COUNTERS: [EndpointCounter; 5] = [
    ("webhook_sent_events", "Webhook events delivered", |stats| &stats.sent),
    ("webhook_failed_requests", "Webhook requests that failed", |stats| &stats.failed),
    ("webhook_retried_requests", "Webhook requests that were tries after the first", |stats| &stats.retried),
    ("webhook_dropped_events", "Webhook events forgotten because too many waited", |stats| &stats.dropped),
    ("webhook_dead_events", "Webhook events given up", |stats| &stats.dead),
];

/// The metrics of all endpoints, by app and by place in the app's list. `name` is what an app goes by:
/// those that go by [`OTHER`] are summed, and have no latencies.
pub(super) fn encode(
    webhooks: &Webhooks,
    name: impl Fn(&str) -> &str,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let (other, endpoints): (Vec<_>, Vec<_>) =
        webhooks.endpoints().into_iter().partition(|endpoint| name(endpoint.app()) == OTHER);
    let other = (!other.is_empty()).then_some(other);
    for (name, help, counter) in COUNTERS {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for endpoint in &endpoints {
            let value = ConstCounter::new(counter(&endpoint.stats).get());
            value.encode(family.encode_family(&labels(endpoint))?)?;
        }
        if let Some(other) = &other {
            let sum = other.iter().map(|endpoint| counter(&endpoint.stats).get()).sum();
            ConstCounter::<u64>::new(sum).encode(family.encode_family(&OTHERS)?)?;
        }
    }
    encode_queues(&endpoints, other.as_deref(), encoder)?;
    let help = "Webhook events given up that can be sent again";
    gauge(encoder, "webhook_failed_kept_events", help, webhooks.failed_len())
}

/// What waits for endpoints, and how long it takes to them.
fn encode_queues(
    endpoints: &[Arc<Endpoint>],
    other: Option<&[Arc<Endpoint>]>,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let help = "Webhook events that wait to be delivered";
    let mut family = encoder.encode_descriptor("webhook_queue_events", help, None, MetricType::Gauge)?;
    for endpoint in endpoints {
        ConstGauge::new(endpoint.unsent() as i64).encode(family.encode_family(&labels(endpoint))?)?;
    }
    if let Some(other) = other {
        let sum: usize = other.iter().map(|endpoint| endpoint.unsent()).sum();
        ConstGauge::new(sum as i64).encode(family.encode_family(&OTHERS)?)?;
    }
    let help = "Seconds from a webhook event to its delivery";
    let mut family =
        encoder.encode_descriptor("webhook_delivery_seconds", help, None, MetricType::Histogram)?;
    for endpoint in endpoints {
        endpoint.stats.latency.encode(family.encode_family(&labels(endpoint))?)?;
    }
    Ok(())
}

/// The labels of all endpoints that have no samples of their own.
const OTHERS: [(&str, &str); 2] = [("app", OTHER), ("endpoint", OTHER)];

fn labels(endpoint: &Endpoint) -> [(&'static str, String); 2] {
    [("app", endpoint.app().to_owned()), ("endpoint", endpoint.index().unwrap_or_default().to_string())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_is_by_app_and_endpoint() {
        let read = |query| selection(query).map(|s| (s.app, s.endpoint));
        assert_eq!(read(""), Ok((None, None)));
        assert_eq!(read("app=a%20b&endpoint=1"), Ok((Some("a b".to_owned()), Some(1))));
        assert!(read("endpoint=x").is_err_and(|what| what.contains("a number")));
        assert!(read("ap=1").is_err_and(|what| what.contains("unknown parameter")));
    }
}
