//! `POST /apps/ID/events`: one event for up to a hundred channels (protocol.md §6.3).

use std::collections::HashSet;

use bytes::Bytes;
use hyper::StatusCode;

use super::super::json;
use super::info::Info;
use super::publication::{self, Fields, Publication};
use super::{Call, Refusal, empty_object, parse};
use crate::http::{self, Reply};
use crate::hub::Budget;
use crate::model::app::Limits;
use crate::model::channel::ChannelName;

/// Publishes, and answers once the event has its place in every channel.
pub(super) async fn trigger(call: &Call<'_>, body: Bytes) -> Result<Reply, Refusal> {
    let publication = read(&call.app.limits, &body)?;
    publication::admit(call, &publication.channels).await?;
    publication.publish(call, &mut Budget::one_chunk());
    call.hub.settle(&publication.channels).await;
    let with_info = publication.info != Info::default();
    Ok(if with_info { counts(call, &publication).await } else { empty_object() })
}

/// An old form of the request has its parameters in the query, and no body.
pub(super) fn body_from_query(call: &Call<'_>) -> Bytes {
    let mut body = serde_json::Map::new();
    for name in ["name", "data", "channel", "socket_id", "info"] {
        if let Some(value) = call.query.get(name) {
            body.insert(name.to_owned(), value.into());
        }
    }
    let channels = call.query.all("channels[]");
    if !channels.is_empty() {
        body.insert("channels".to_owned(), channels.into());
    }
    serde_json::Value::Object(body).to_string().into()
}

fn read(limits: &Limits, body: &Bytes) -> Result<Publication, Refusal> {
    let fields: Fields<'_> = parse(body)?;
    let channels = channels(limits, &fields)?;
    fields.publication(limits, body, channels)
}

/// The channels, each once. A list wins over a single channel.
fn channels(limits: &Limits, fields: &Fields<'_>) -> Result<Vec<ChannelName>, Refusal> {
    let Some(list) = fields.channels else { return Ok(vec![fields.channel(limits)?]) };
    let names: Vec<String> = json::owned(list)
        .ok_or_else(|| Refusal::bad_request("Expected channels parameter to be an array of strings"))?;
    let max = limits.max_channels_per_trigger;
    if names.len() > max {
        let count = names.len();
        return Err(Refusal::bad_request(format!("Too many channels ({count} > {max})")));
    }
    let mut seen = HashSet::with_capacity(names.len());
    let distinct = names.iter().filter(|name| seen.insert(name.as_str()));
    let channels = distinct.map(|name| publication::channel_name(limits, name));
    let channels = channels.collect::<Result<Vec<_>, _>>()?;
    if channels.is_empty() { Err(publication::no_channel()) } else { Ok(channels) }
}

async fn counts(call: &Call<'_>, publication: &Publication) -> Reply {
    let mut channels = Vec::with_capacity(publication.channels.len());
    for name in &publication.channels {
        let counts = publication.info.counts(&call.hub, name).await;
        channels.push(format!("\"{name}\":{{{}}}", counts.join(",")));
    }
    http::json(StatusCode::OK, format!("{{\"channels\":{{{}}}}}", channels.join(",")))
}
