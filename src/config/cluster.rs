//! How `[cluster]` is read, and what must hold in it.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::reading::{Reading, Section};
use super::sections::{BYTES, WAIT, checked, file};
use crate::model::cluster::{ClusterSettings, EngineKind, OnEngineLoss};
use crate::model::cluster_url::{EngineUrl, check_url};

/// Nodes renew their lease several times in its course, so it cannot be arbitrarily short; and who is
/// gone should not be shown for longer than this.
const LEASE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// A batch of ordinary events has to fit.
const QUEUE: RangeInclusive<u64> = 64 << 10..=*BYTES.end();

pub(super) fn cluster(section: &Section<'_>) -> ClusterSettings {
    let base = ClusterSettings::default();
    let given_url = checked(section, "url", |text| match text {
        "" => Ok(String::new()),
        _ => check_url(text).map(|()| text.to_owned()),
    });
    let prefix = checked(section, "prefix", |prefix| {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.:".contains(&c);
        let fits = !prefix.is_empty() && prefix.bytes().all(plain);
        if fits { Ok(prefix.to_owned()) } else { Err("must be of letters, digits and \"-_.:\"".to_owned()) }
    });
    ClusterSettings {
        engine: section.choice("engine", base.engine, &EngineKind::ALL),
        url: given_url.unwrap_or(base.url),
        prefix: prefix.unwrap_or(base.prefix),
        ca: file(section, "ca"),
        lease: section.duration("lease", base.lease, LEASE),
        timeout: section.duration("timeout", base.timeout, WAIT),
        max_queue_bytes: section.size("max_queue_bytes", base.max_queue_bytes, QUEUE),
        on_engine_loss: section.choice("on_engine_loss", base.on_engine_loss, &OnEngineLoss::ALL),
    }
}

/// What must hold between them.
pub(super) fn check(cluster: &ClusterSettings, reading: &Reading) {
    let clean = |key| reading.is_clean(key);
    if cluster.engine == EngineKind::Redis && cluster.url.is_empty() && clean("cluster.url") {
        reading.problem("cluster.url", "missing: the engine \"redis\" needs to be told where it is");
    }
    if cluster.timeout >= cluster.lease && clean("cluster.timeout") && clean("cluster.lease") {
        // Or else a single slow answer could cost a node its lease. Told of the one that was given.
        match reading.is_given("cluster.timeout") {
            true => reading.problem("cluster.timeout", "must be less than cluster.lease"),
            false => {
                let timeout = humantime::format_duration(cluster.timeout);
                reading.problem("cluster.lease", format!("must be more than cluster.timeout ({timeout})"));
            }
        }
    }
}

/// What is given in vain; one line each.
pub(super) fn warnings(cluster: &ClusterSettings) -> Vec<String> {
    let is_local = cluster.engine == EngineKind::Local;
    let mut warnings = Vec::new();
    if is_local && !cluster.url.is_empty() {
        warnings.push("cluster.url: not used by the engine \"local\"; this node is alone".to_owned());
    }
    if cluster.ca.is_some() && is_local {
        warnings.push("cluster.ca: not used by the engine \"local\"".to_owned());
    } else if cluster.ca.is_some() && !is_by_tls(&cluster.url) {
        warnings.push("cluster.ca: not used, since cluster.url is not by TLS (\"rediss…\")".to_owned());
    }
    warnings
}

fn is_by_tls(url: &str) -> bool {
    EngineUrl::parse(url).is_ok_and(|url| url.tls)
}
