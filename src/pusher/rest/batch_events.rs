//! `POST /apps/ID/batch_events`: several events, all or none of them (protocol.md §6.3).

use bytes::Bytes;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::json;
use super::info::Info;
use super::publication::{self, Fields, Publication};
use super::{Call, Refusal, empty_object, parse};
use crate::http::{self, Reply};
use crate::hub::Budget;
use crate::model::app::Limits;

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow, default)]
    batch: Option<Vec<&'a RawValue>>,
}

/// A batch that may be anything.
#[derive(Deserialize)]
struct AnyBatch<'a> {
    #[serde(borrow, default, rename = "batch")]
    _batch: Option<&'a RawValue>,
}

/// Publishes the events in their order.
pub(super) async fn trigger(call: &Call<'_>, body: Bytes) -> Result<Reply, Refusal> {
    let batch = read(&call.app.limits, &body)?;
    let channels: Vec<_> =
        batch.iter().flat_map(|publication| publication.channels.iter().cloned()).collect();
    publication::admit(call, &channels).await?;
    let mut budget = Budget::one_chunk();
    for publication in &batch {
        publication.publish(call, &mut budget);
    }
    call.hub.settle(&channels).await;
    let with_info = batch.iter().any(|publication| publication.info != Info::default());
    Ok(if with_info { counts(call, &batch).await } else { empty_object() })
}

fn read(limits: &Limits, body: &Bytes) -> Result<Vec<Publication>, Refusal> {
    let not_events = || Refusal::bad_request("Expected batch parameter to be an array of events");
    let batch: Batch<'_> = match json::object(body) {
        Some(batch) => batch,
        // Only a refusal pays for telling what is wrong.
        None => return Err(parse::<AnyBatch<'_>>(body).map_or_else(|refusal| refusal, |_| not_events())),
    };
    let entries = batch.batch.ok_or_else(|| Refusal::bad_request("Missing required parameter: batch"))?;
    let (count, max) = (entries.len(), limits.max_batch_events);
    if count > max {
        return Err(Refusal::bad_request(format!("Batch too large ({count} > {max})")));
    }
    let publication = |raw: &RawValue| {
        let fields: Fields<'_> = json::object(raw.get().as_bytes()).ok_or_else(not_events)?;
        fields.publication(limits, body, vec![fields.channel(limits)?])
    };
    entries.into_iter().map(publication).collect()
}

/// One object for each event, in their order; empty for an event that asked for nothing.
async fn counts(call: &Call<'_>, batch: &[Publication]) -> Reply {
    let mut entries = Vec::with_capacity(batch.len());
    for publication in batch {
        let counts = match publication.channels.first() {
            Some(name) => publication.info.counts(&call.hub, name).await,
            None => Vec::new(),
        };
        entries.push(format!("{{{}}}", counts.join(",")));
    }
    http::json(StatusCode::OK, format!("{{\"batch\":[{}]}}", entries.join(",")))
}
