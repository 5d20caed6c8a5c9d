//! From the fields of a trigger request to what is published (protocol.md §6.3).

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::json;
use super::info::Info;
use super::{Call, Refusal, quota};
use crate::hub::{Budget, Draft};
use crate::model::app::Limits;
use crate::model::channel::ChannelName;
use crate::model::event::{Body, Origin};
use crate::model::quoted::Quoted;
use crate::model::socket::{GivenSocketId, SocketId};

/// Bytes of a body that an event may always keep in memory.
const SMALL_BODY: usize = 4096;

/// The fields of an event in a request, as they stand there.
#[derive(Deserialize)]
pub(super) struct Fields<'a> {
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    channel: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) channels: Option<&'a RawValue>,
    #[serde(borrow, default)]
    socket_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    info: Option<&'a RawValue>,
}

impl Fields<'_> {
    /// The single channel.
    ///
    /// # Errors
    /// 400 when it is missing or no channel's name.
    pub(super) fn channel(&self, limits: &Limits) -> Result<ChannelName, Refusal> {
        let name = optional(self.channel, "channel")?.ok_or_else(no_channel)?;
        channel_name(limits, &name)
    }

    /// The event for `channels`, all of it checked. `body` is what the fields stand in.
    ///
    /// # Errors
    /// 400 or 413 with a text that says what is wrong.
    pub(super) fn publication(
        &self,
        limits: &Limits,
        body: &Bytes,
        channels: Vec<ChannelName>,
    ) -> Result<Publication, Refusal> {
        let name = event_name(limits, body, self.name)?;
        let data = required(body, self.data, "data")?;
        let except = optional(self.socket_id, "socket_id")?.map_or(Ok(None), |text| excluded(&text))?;
        let info = optional(self.info, "info")?.map_or(Ok(Info::default()), |list| Info::parse(&list))?;
        Publication::new(limits, body.len(), channels, (name, data), except, info)
    }
}

/// The refusal of an event for no channel.
pub(super) fn no_channel() -> Refusal {
    Refusal::bad_request("Missing required parameter: channel")
}

/// One event for one or several channels, checked.
pub(super) struct Publication {
    pub(super) channels: Vec<ChannelName>,
    pub(super) info: Info,
    name: Quoted,
    data: Quoted,
    except: Option<SocketId>,
}

impl Publication {
    /// Checks an event out of a body of `body_len` bytes. `channels` have been checked already.
    ///
    /// # Errors
    /// 400 or 413 with a text that says what is wrong.
    pub(super) fn new(
        limits: &Limits,
        body_len: usize,
        channels: Vec<ChannelName>,
        (name, data): (Quoted, Quoted),
        except: Option<SocketId>,
        info: Info,
    ) -> Result<Self, Refusal> {
        let (len, max) = (data.decoded_len(), limits.max_event_bytes);
        if len > max {
            let text = format!(
                "The data content of this event exceeds the allowed maximum ({max} bytes): it has {len} bytes"
            );
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        // A small part must not keep a large body in memory while it waits to be delivered.
        let kept = name.as_bytes().len() + data.as_bytes().len();
        let (name, data) =
            if body_len > 4 * kept + SMALL_BODY { (name.detached(), data.detached()) } else { (name, data) };
        Ok(Self { channels, info, name, data, except })
    }

    /// Publishes to every channel. Never waits: a caller that hangs up must not leave half of it.
    pub(super) fn publish(&self, call: &Call<'_>, budget: &mut Budget) {
        call.published.store(true, Ordering::Relaxed);
        call.pusher.metrics.api_events.add(self.channels.len());
        for channel in &self.channels {
            let body = Body::Message { name: self.name.clone(), data: self.data.clone(), user_id: None };
            let cache_for = Some(call.app.limits.cache_ttl);
            let draft = Draft { origin: Origin::Api, except: self.except, body, cache_for };
            call.hub.publish(channel, draft, budget);
        }
    }
}

/// Counts an event for each of `channels`, and waits until all of them have space; nothing is
/// published before that. The caller publishes next, without waiting for anything.
///
/// # Errors
/// 429 when the app has published too much, 503 when a channel stays full or other nodes cannot be
/// told and are to be. Nothing is counted then.
pub(super) async fn admit(call: &Call<'_>, channels: &[ChannelName]) -> Result<(), Refusal> {
    let charge = quota::events(call, channels.len())?;
    call.hub.may_publish(channels).await.map_err(|why| {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("Nothing was published: {why}, try again"))
    })?;
    charge.settle();
    Ok(())
}

/// A required string field, as it stands in the body.
///
/// # Errors
/// 400 when it is missing or something else.
fn required(body: &Bytes, field: Option<&RawValue>, name: &str) -> Result<Quoted, Refusal> {
    let raw = field.ok_or_else(|| Refusal::bad_request(format!("Missing required parameter: {name}")))?;
    Quoted::from_valid_json(body.slice_ref(raw.get().as_bytes()))
        .ok_or_else(|| Refusal::bad_request(format!("Expected {name} parameter to be a string")))
}

/// The event's name.
///
/// # Errors
/// 400 when it is missing, no string, too long or reserved.
fn event_name(limits: &Limits, body: &Bytes, field: Option<&RawValue>) -> Result<Quoted, Refusal> {
    let quoted = required(body, field, "name")?;
    let text = field.and_then(json::string).ok_or_else(|| Refusal::bad_request("Invalid name"))?;
    check_event_name(limits, &text)?;
    Ok(quoted)
}

/// Checks a decoded event name.
///
/// # Errors
/// 400 when it is empty, too long or reserved.
pub(super) fn check_event_name(limits: &Limits, name: &str) -> Result<(), Refusal> {
    let max = limits.max_event_name_length;
    if name.is_empty() {
        return Err(Refusal::bad_request("Missing required parameter: name"));
    }
    if name.chars().nth(max).is_some() {
        let length = name.chars().count();
        return Err(Refusal::bad_request(format!("Event name too long ({length} > {max} characters)")));
    }
    if name.starts_with("pusher") {
        return Err(Refusal::bad_request("The 'pusher' namespace is reserved for internal usage"));
    }
    Ok(())
}

/// A channel's name.
///
/// # Errors
/// 400 when it is not one.
pub(super) fn channel_name(limits: &Limits, name: &str) -> Result<ChannelName, Refusal> {
    ChannelName::parse(name, limits.max_channel_name_length)
        .map_err(|_| Refusal::bad_request(format!("Invalid channel name: {}", json::shown(name))))
}

/// The socket that is not told, if it can exist at all.
///
/// # Errors
/// 400 when it is no socket id.
pub(super) fn excluded(text: &str) -> Result<Option<SocketId>, Refusal> {
    match text.parse() {
        Ok(GivenSocketId::Possible(socket)) => Ok(Some(socket)),
        Ok(GivenSocketId::Nobody) => Ok(None),
        Err(_) => Err(Refusal::bad_request(format!("Invalid socket_id: {}", json::shown(text)))),
    }
}

/// An optional string field.
///
/// # Errors
/// 400 when it is something else.
fn optional<'a>(field: Option<&'a RawValue>, name: &str) -> Result<Option<Cow<'a, str>>, Refusal> {
    let Some(raw) = field else { return Ok(None) };
    let text = json::string(raw);
    text.map(Some).ok_or_else(|| Refusal::bad_request(format!("Expected {name} parameter to be a string")))
}
