//! Two old endpoints that some libraries still call (protocol.md §6.9).

use bytes::Bytes;
use hyper::{Response, StatusCode};

use super::info::Info;
use super::publication::{self, Publication};
use super::{Call, Refusal, quota};
use crate::http::{self, Reply};
use crate::hub::Budget;
use crate::model::quoted::Quoted;

/// `POST /apps/ID/channels/NAME/events?name=…`: the body is the data as it is.
pub(super) async fn trigger(call: &Call<'_>, channel: &str, body: Bytes) -> Result<Reply, Refusal> {
    let limits = &call.app.limits;
    let channels = vec![publication::channel_name(limits, channel)?];
    let name = call.query.get("name").unwrap_or_default();
    publication::check_event_name(limits, &name)?;
    let data = std::str::from_utf8(&body).map_err(|_| Refusal::bad_request("The data is not UTF-8"))?;
    let except = match call.query.get("socket_id") {
        Some(text) => publication::excluded(&text)?,
        None => None,
    };
    let (name, data) = (Quoted::from_text(&name), Quoted::from_text(data));
    let publication = Publication::new(limits, body.len(), channels, (name, data), except, Info::default())?;
    publication::admit(call, &publication.channels).await?;
    publication.publish(call, &mut Budget::one_chunk());
    call.hub.settle(&publication.channels).await;
    let mut reply = Response::new(Default::default());
    *reply.status_mut() = StatusCode::ACCEPTED;
    Ok(reply)
}

/// `GET /apps/ID/channels/NAME/stats`.
pub(super) async fn stats(call: &Call<'_>, name: &str) -> Result<Reply, Refusal> {
    let name = publication::channel_name(&call.app.limits, name)?;
    quota::read(call)?;
    let counts = call.hub.counts(&name).await;
    let (occupied, users, connections) = (counts.subscriptions > 0, counts.users, counts.subscriptions);
    let body =
        format!("{{\"occupied\":{occupied},\"user_count\":{users},\"connection_count\":{connections}}}");
    Ok(http::json(StatusCode::OK, body))
}
