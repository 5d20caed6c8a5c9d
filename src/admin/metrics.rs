//! Metrics in the OpenMetrics text format. Gauges are read from the live tables at each scrape.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::{Admin, cluster, webhooks};
use crate::certificates::{Certificates, Outcome};
use crate::metrics::Counter;
use crate::model::close::CloseReason;

/// Of the text that [`exposition`] gives.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics, as they are now.
pub(super) fn exposition(admin: &Arc<Admin>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("fanfare");
    registry.register_collector(Box::new(Live(Arc::clone(admin))));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

struct Live(Arc<Admin>);

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Live")
    }
}

impl Collector for Live {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_gauges(&mut encoder)?;
        self.encode_counters(&mut encoder)?;
        cluster::encode(self.0.engine.as_ref(), &mut encoder)?;
        webhooks::encode(&self.0.webhooks, &mut encoder)?;
        self.0.certificates.as_ref().map_or(Ok(()), |certificates| encode_tls(certificates, &mut encoder))
    }
}

impl Live {
    fn encode_gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut sockets =
            encoder.encode_descriptor("connections", "Open sockets", None, MetricType::Gauge)?;
        for (app, count) in self.0.sockets.counts() {
            ConstGauge::new(count as i64).encode(sockets.encode_family(&[("app", app.as_ref())])?)?;
        }
        let help = "Open sockets, by what carries them";
        let mut carried =
            encoder.encode_descriptor("transport_connections", help, None, MetricType::Gauge)?;
        for (transport, count) in self.0.sockets.by_transport() {
            let labels = [("transport", transport.name())];
            ConstGauge::new(count as i64).encode(carried.encode_family(&labels)?)?;
        }
        self.encode_hub(encoder)?;
        self.encode_kept(encoder)?;
        self.encode_tables(encoder)
    }

    fn encode_hub(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (mut channels, mut subscriptions) = (Vec::new(), Vec::new());
        let (mut members, mut users) = (Vec::new(), Vec::new());
        self.0.hub.each_app(|id, hub| {
            users.push((Arc::clone(id), hub.signed_in()));
            let (occupied, counts) = hub.totals();
            channels.push((Arc::clone(id), occupied));
            subscriptions.push((Arc::clone(id), counts.subscriptions));
            members.push((Arc::clone(id), counts.users));
        });
        for (name, help, values) in [
            ("channels", "Occupied channels", channels),
            ("subscriptions", "Sockets in channels, each once for every channel", subscriptions),
            ("members", "Users in presence channels, each once for every channel", members),
            ("users", "Signed-in users", users),
        ] {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (app, value) in values {
                ConstGauge::new(value as i64).encode(gauge.encode_family(&[("app", app.as_ref())])?)?;
            }
        }
        Ok(())
    }

    fn encode_kept(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (events, bytes) = self.0.hub.cache_size();
        let (keys, key_bytes) = self.0.idempotency.size();
        for (name, help, value) in [
            ("cached_events", "Cached events", events),
            ("cached_bytes", "Bytes of cached events", bytes),
            ("idempotency_keys", "Keys of requests that are not carried out twice", keys),
            ("idempotency_bytes", "Bytes of these keys and their replies", key_bytes),
        ] {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value as i64).encode(gauge)?;
        }
        Ok(())
    }

    /// All are 0 when nobody is connected and nothing is cached, but for the cache misses that were
    /// told: a leak would show here.
    fn encode_tables(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let tables = self.0.hub.tables();
        let help = "Entries of the broker's tables";
        let mut gauge = encoder.encode_descriptor("table_entries", help, None, MetricType::Gauge)?;
        for (table, entries) in [
            ("sockets", self.0.sockets.count()),
            ("unauthorized_sockets", self.0.sockets.unauthorized()),
            ("channels", tables.channels),
            ("users", tables.users),
            ("jobs", tables.jobs),
            ("webhook_departures", self.0.webhooks.departures()),
            ("webhook_misses", self.0.webhooks.misses()),
        ] {
            ConstGauge::new(entries as i64).encode(gauge.encode_family(&[("table", table)])?)?;
        }
        Ok(())
    }

    fn encode_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let metrics = &self.0.metrics;
        let counters: [(&str, &str, &Counter); 8] = [
            ("opened_connections", "Sockets opened, refused ones included", &metrics.opened),
            ("api_events", "Events published through the API, one for each channel", &metrics.api_events),
            ("client_events", "Client events accepted", &metrics.client_events),
            ("deliveries", "Events given to sockets", &metrics.deliveries),
            ("api_accepted_requests", "API requests that succeeded", &metrics.api_accepted),
            ("api_refused_requests", "API requests that were refused", &metrics.api_refused),
            ("config_reloads", "Reloads of the configuration that took effect", &metrics.reloads),
            ("config_refused_reloads", "Reloads that changed nothing", &metrics.reloads_refused),
        ];
        for (name, help, counter) in counters {
            let encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(counter.get()).encode(encoder)?;
        }
        let mut closes = encoder.encode_descriptor(
            "closed_connections",
            "Sockets ended, by reason",
            None,
            MetricType::Counter,
        )?;
        for reason in CloseReason::ALL {
            let labels = [("reason", reason.name())];
            ConstCounter::new(metrics.closes(reason)).encode(closes.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn encode_tls(certificates: &Certificates, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let status = certificates.status();
    let expiry = "When the certificate expires, in seconds since 1970";
    let failed = "1 when the certificate's files could not be used when they were last read";
    for (name, help, value) in [
        ("tls_certificate_expiry_timestamp_seconds", expiry, status.not_after),
        ("tls_reload_failed", failed, u64::from(status.reload_failed)),
    ] {
        let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value as i64).encode(gauge)?;
    }
    let help = "Reloads of the certificate, by how they ended";
    let mut reloads = encoder.encode_descriptor("tls_reloads", help, None, MetricType::Counter)?;
    for (outcome, result) in Outcome::ALL {
        let labels = [("result", result)];
        ConstCounter::new(certificates.reloads(outcome)).encode(reloads.encode_family(&labels)?)?;
    }
    Ok(())
}
