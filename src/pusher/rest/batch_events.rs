//! `POST /apps/ID/batch_events`: several events, all or none of them (protocol.md §6.3).

use bytes::Bytes;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::json;
use super::info::Info;
use super::publication::{self, Publication};
use super::{Call, Refusal, empty_object, parse};
use crate::http::{self, Reply};
use crate::hub::Budget;
use crate::model::app::Limits;

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow, default)]
    batch: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    channel: Option<&'a RawValue>,
    #[serde(borrow, default)]
    socket_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    info: Option<&'a RawValue>,
}

/// Publishes the events in their order.
pub(super) async fn trigger(call: &Call<'_>, body: Bytes) -> Result<Reply, Refusal> {
    let batch = read(&call.app.limits, &body)?;
    let channels: Vec<_> =
        batch.iter().flat_map(|publication| publication.channels.iter().cloned()).collect();
    publication::wait_for_space(call, &channels).await?;
    let mut budget = Budget::one_chunk();
    for publication in &batch {
        publication.publish(call, &mut budget);
    }
    let with_info = batch.iter().any(|publication| publication.info != Info::default());
    Ok(if with_info { counts(call, &batch) } else { empty_object() })
}

fn read(limits: &Limits, body: &Bytes) -> Result<Vec<Publication>, Refusal> {
    let batch: Batch<'_> = parse(body)?;
    let list = batch.batch.ok_or_else(|| Refusal::bad_request("Missing required parameter: batch"))?;
    let not_events = || Refusal::bad_request("Expected batch parameter to be an array of events");
    let entries: Vec<&RawValue> = serde_json::from_str(list.get()).map_err(|_| not_events())?;
    let (count, max) = (entries.len(), limits.max_batch_events);
    if count > max {
        return Err(Refusal::bad_request(format!("Batch too large ({count} > {max})")));
    }
    let entry = |raw: &RawValue| {
        let entry: Entry<'_> = json::object(raw.get().as_bytes()).ok_or_else(not_events)?;
        publication(limits, body, &entry)
    };
    entries.into_iter().map(entry).collect()
}

fn publication(limits: &Limits, body: &Bytes, entry: &Entry<'_>) -> Result<Publication, Refusal> {
    let missing = || Refusal::bad_request("Missing required parameter: channel");
    let channel = publication::optional(entry.channel, "channel")?.ok_or_else(missing)?;
    let channels = vec![publication::channel_name(limits, &channel)?];
    let name = publication::event_name(limits, body, entry.name)?;
    let data = publication::required(body, entry.data, "data")?;
    let except = publication::excluded(entry.socket_id)?;
    Publication::new(limits, body.len(), channels, (name, data), except, publication::info(entry.info)?)
}

/// One object for each event, in their order; empty for an event that asked for nothing.
fn counts(call: &Call<'_>, batch: &[Publication]) -> Reply {
    let entry = |publication: &Publication| {
        let counts = publication.channels.first().map(|name| publication.info.counts(&call.hub, name));
        format!("{{{}}}", counts.unwrap_or_default().join(","))
    };
    let entries: Vec<_> = batch.iter().map(entry).collect();
    http::json(StatusCode::OK, format!("{{\"batch\":[{}]}}", entries.join(",")))
}
