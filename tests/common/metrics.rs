//! What the broker says about itself on its private listener.

use std::collections::BTreeMap;

use super::{Broker, Reply, eventually};

/// Every sample of one scrape, by its name with its labels.
#[derive(Debug)]
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    /// Those that the private listener has answered.
    pub fn of(reply: &Reply) -> Self {
        assert_eq!(reply.status, 200, "{reply:?}");
        let lines = reply.body.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.map(|line| {
            let (sample, value) = line.rsplit_once(' ').expect("a sample and its value");
            (sample.to_owned(), value.parse().expect("a number"))
        });
        Self(samples.collect())
    }

    /// A sample such as `fanfare_users{app="1"}`; 0 when there is none yet.
    pub fn get(&self, sample: &str) -> f64 {
        self.0.get(sample).copied().unwrap_or_default()
    }

    /// The entries of one of the broker's tables.
    pub fn table(&self, table: &str) -> f64 {
        self.get(&format!("fanfare_table_entries{{table=\"{table}\"}}"))
    }

    /// The samples of these metrics that are not 0.
    pub fn left_over(&self, metrics: &[&str]) -> Vec<(&str, f64)> {
        let name = |sample: &str| sample.split('{').next().unwrap_or_default().to_owned();
        let samples = self.0.iter().filter(|(sample, _)| metrics.contains(&name(sample).as_str()));
        samples.filter(|(_, value)| **value != 0.0).map(|(sample, value)| (sample.as_str(), *value)).collect()
    }
}

impl Broker {
    /// Scrapes the private listener.
    pub async fn metrics(&self) -> Metrics {
        Metrics::of(&self.private("GET", "/metrics").await)
    }

    /// Waits until a sample has this value.
    pub async fn becomes(&self, sample: &str, value: f64) {
        let what = format!("{sample} is {value}");
        eventually(&what, async || self.metrics().await.get(sample) == value).await;
    }

    /// Waits until nothing waits for any socket.
    pub async fn nothing_waits(&self) {
        eventually("nothing waits any more", async || {
            let metrics = self.metrics().await;
            metrics.get("fanfare_mailbox_bytes") == 0.0 && metrics.table("backlogs") == 0.0
        })
        .await;
    }

    /// Waits until the first app has so many open sockets: whoever has left has left everything.
    pub async fn has_sockets(&self, count: usize) {
        self.becomes("fanfare_connections{app=\"1\"}", count as f64).await;
    }

    /// Waits until so many users are signed in to the first app.
    pub async fn has_users(&self, count: usize) {
        self.becomes("fanfare_users{app=\"1\"}", count as f64).await;
    }
}
