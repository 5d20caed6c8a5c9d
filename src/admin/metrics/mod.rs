//! `GET /metrics`. Gauges are read from the live tables at each scrape.

mod apps;
mod counters;
mod process;
mod runtime;
pub(super) mod samples;
mod tables;
mod text;
mod tls;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

pub(super) use self::apps::OTHER;

use self::apps::{Known, Listed};
use self::text::Form;
use super::{Admin, cluster, webhooks};
use crate::http::{self, Reply};

/// How long a reading of the tables holds up the next one, at most.
const MAX_REST: Duration = Duration::from_secs(1);

/// Readings of the tables, one after another.
///
/// Whoever asks while one is under way shares the next with all others who do. Between two there is
/// a rest as long as the last one took: a storm of scrapes takes half a core at most.
#[derive(Default)]
pub struct Scrapes(Mutex<Past>);

#[derive(Default)]
struct Past {
    apps: Known,
    last: Option<Reading>,
}

struct Reading {
    began: Instant,
    rested: Instant,
    text: Arc<str>,
}

/// Answers a scrape in the form that is asked for.
pub(super) async fn scrape(admin: &Arc<Admin>, headers: &HeaderMap) -> Reply {
    let form = Form::accepted(headers);
    match read(admin).await {
        Ok(text) => {
            let content_type = HeaderValue::from_static(form.content_type());
            http::reply(StatusCode::OK, content_type, Bytes::from(form.write(&text)))
        }
        Err(_) => http::text(StatusCode::INTERNAL_SERVER_ERROR, "The metrics cannot be written"),
    }
}

/// All metrics in the OpenMetrics text format, as they have been at some time since this was called.
async fn read(admin: &Arc<Admin>) -> Result<Arc<str>, fmt::Error> {
    let asked = Instant::now();
    let mut past = admin.scrapes.0.lock().await;
    if let Some(reading) = &past.last {
        if reading.began >= asked {
            return Ok(Arc::clone(&reading.text));
        }
        sleep_until(reading.rested).await;
    }
    let began = Instant::now();
    let text: Arc<str> = exposition(admin, past.apps.listed(admin))?.into();
    let rested = Instant::now() + began.elapsed().min(MAX_REST);
    past.last = Some(Reading { began, rested, text: Arc::clone(&text) });
    Ok(text)
}

fn exposition(admin: &Arc<Admin>, listed: Listed) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process));
    let own = registry.sub_registry_with_prefix("fanfare");
    own.register_collector(Box::new(Live(Arc::clone(admin), listed)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Of the process, by the names that all programs have for it.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        process::encode(&mut encoder)
    }
}

/// Of the broker.
struct Live(Arc<Admin>, Listed);

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Live")
    }
}

impl Collector for Live {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Self(admin, listed) = self;
        runtime::encode(admin, &mut encoder)?;
        tables::encode(admin, listed, &mut encoder)?;
        counters::encode(&admin.metrics, &mut encoder)?;
        cluster::encode(admin.engine.as_ref(), &mut encoder)?;
        webhooks::encode(&admin.webhooks, |id| listed.name(id), &mut encoder)?;
        admin.certificates.as_ref().map_or(Ok(()), |certificates| tls::encode(certificates, &mut encoder))
    }
}
