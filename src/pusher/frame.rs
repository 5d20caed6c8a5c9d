//! What the broker writes on a socket (protocol.md §1.5–1.6). Every `data` is a JSON string, but
//! for `pusher:error`, whose `data` is an object: some clients accept nothing else.

use std::fmt::Write;

use bytes::Bytes;

use crate::hub::{Format, Members};
use crate::model::channel::ChannelName;
use crate::model::event::{Body, Event};
use crate::model::member::UserId;
use crate::model::quoted::{Quoted, push_escaped, push_quoted};
use crate::model::socket::SocketId;
use crate::transport::Framing;

/// Events as the text messages of one framing.
pub struct PusherFormat(pub Framing);

impl Format for PusherFormat {
    fn encode(&self, event: &Event) -> Bytes {
        let channel = &event.channel;
        self.0.text(event.size() + 64, |out| match &event.body {
            Body::Message { name, data, user_id } => {
                push_message(out, name, channel, data, user_id.as_deref());
            }
            Body::MemberAdded { user_id, user_info } => {
                let mut data = b"{\"user_id\":".to_vec();
                push_quoted(&mut data, user_id);
                if let Some(info) = user_info {
                    data.extend_from_slice(b",\"user_info\":");
                    data.extend_from_slice(info.as_bytes());
                }
                data.push(b'}');
                push_internal(out, "pusher_internal:member_added", channel, &data);
            }
            Body::MemberRemoved { user_id } => {
                let mut data = b"{\"user_id\":".to_vec();
                push_quoted(&mut data, user_id);
                data.push(b'}');
                push_internal(out, "pusher_internal:member_removed", channel, &data);
            }
            Body::SubscriptionCount { count } => {
                let data = format!("{{\"subscription_count\":{count}}}");
                push_internal(out, "pusher_internal:subscription_count", channel, data.as_bytes());
            }
        })
    }

    fn encode_watched(&self, online: &[UserId], offline: &[UserId]) -> Bytes {
        let groups = [("online", online), ("offline", offline)];
        let groups = groups.iter().filter(|(_, ids)| !ids.is_empty());
        let mut data = b"{\"events\":[".to_vec();
        separated(&mut data, groups, |out, (name, ids)| {
            out.extend_from_slice(format!("{{\"name\":\"{name}\",\"user_ids\":[").as_bytes());
            separated(out, ids.iter(), |out, id| push_quoted(out, id));
            out.extend_from_slice(b"]}");
        });
        data.extend_from_slice(b"]}");
        self.0.text(2 * data.len() + 64, |out| {
            out.extend_from_slice(b"{\"event\":\"pusher_internal:watchlist_events\"");
            push_data(out, &data);
        })
    }
}

fn push_message(
    out: &mut Vec<u8>,
    name: &Quoted,
    channel: &ChannelName,
    data: &Quoted,
    user_id: Option<&str>,
) {
    out.extend_from_slice(b"{\"event\":");
    out.extend_from_slice(name.as_bytes());
    push_channel(out, channel);
    out.extend_from_slice(b",\"data\":");
    out.extend_from_slice(data.as_bytes());
    if let Some(user_id) = user_id {
        out.extend_from_slice(b",\"user_id\":");
        push_quoted(out, user_id);
    }
    out.push(b'}');
}

/// The first frame of every socket.
pub(super) fn connection_established(framing: Framing, socket: SocketId, activity_timeout_s: u64) -> Bytes {
    framing.text(128, |out| {
        let data = format!("{{\"socket_id\":\"{socket}\",\"activity_timeout\":{activity_timeout_s}}}");
        out.extend_from_slice(b"{\"event\":\"pusher:connection_established\",\"data\":");
        push_quoted(out, &data);
        out.push(b'}');
    })
}

/// The answer to a ping.
pub(super) fn pong(framing: Framing) -> Bytes {
    framing.text(40, |out| out.extend_from_slice(b"{\"event\":\"pusher:pong\",\"data\":\"{}\"}"))
}

/// An error; without a code the client goes on.
pub(super) fn error(framing: Framing, code: Option<u16>, message: &str) -> Bytes {
    framing.text(80 + message.len(), |out| {
        out.extend_from_slice(b"{\"event\":\"pusher:error\",\"data\":{\"code\":");
        match code {
            Some(code) => out.extend_from_slice(code.to_string().as_bytes()),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"message\":");
        push_quoted(out, message);
        out.extend_from_slice(b"}}");
    })
}

/// A refused subscribe, told to the channel's own bindings.
pub(super) fn subscription_error(
    framing: Framing,
    channel: &str,
    kind: &str,
    status: u16,
    message: &str,
) -> Bytes {
    let mut data = format!("{{\"type\":\"{kind}\",\"error\":").into_bytes();
    push_quoted(&mut data, message);
    data.extend_from_slice(format!(",\"status\":{status}}}").as_bytes());
    framing.text(data.len() + 128, |out| {
        out.extend_from_slice(b"{\"event\":\"pusher:subscription_error\",\"channel\":");
        push_quoted(out, channel);
        push_data(out, &data);
    })
}

/// A granted subscribe; presence channels list their members.
pub(super) fn subscription_succeeded(
    framing: Framing,
    channel: &ChannelName,
    members: Option<&Members>,
) -> Bytes {
    let data = members.map_or_else(|| b"{}".to_vec(), presence);
    framing.text(2 * data.len() + 128, |out| {
        push_internal(out, "pusher_internal:subscription_succeeded", channel, &data);
    })
}

/// A granted sign-in, with `user_data` as it came.
pub(super) fn signin_success(framing: Framing, user_data: &str) -> Bytes {
    let mut data = b"{\"user_data\":".to_vec();
    push_quoted(&mut data, user_data);
    data.push(b'}');
    framing.text(2 * data.len() + 64, |out| {
        out.extend_from_slice(b"{\"event\":\"pusher:signin_success\"");
        push_data(out, &data);
    })
}

/// The cache channel has nothing to replay.
pub(super) fn cache_miss(framing: Framing, channel: &ChannelName) -> Bytes {
    framing.text(128, |out| push_internal(out, "pusher:cache_miss", channel, b"{}"))
}

fn presence(members: &Members) -> Vec<u8> {
    let mut data = String::with_capacity(64 * members.len() + 64);
    // Writing to a String cannot fail.
    let _ = write!(data, "{{\"presence\":{{\"count\":{},\"ids\":[", members.len());
    let mut data = data.into_bytes();
    separated(&mut data, members.users(), |out, (id, _)| push_quoted(out, id));
    data.extend_from_slice(b"],\"hash\":{");
    separated(&mut data, members.users(), |out, (id, info)| {
        push_quoted(out, id);
        out.push(b':');
        out.extend_from_slice(info.unwrap_or("null").as_bytes());
    });
    data.extend_from_slice(b"}}}");
    data
}

fn separated<T>(out: &mut Vec<u8>, items: impl Iterator<Item = T>, push: impl Fn(&mut Vec<u8>, T)) {
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        push(out, item);
    }
}

fn push_internal(out: &mut Vec<u8>, event: &str, channel: &ChannelName, data: &[u8]) {
    out.extend_from_slice(b"{\"event\":\"");
    out.extend_from_slice(event.as_bytes());
    out.push(b'"');
    push_channel(out, channel);
    push_data(out, data);
}

/// A channel's name has no character that JSON escapes.
fn push_channel(out: &mut Vec<u8>, channel: &ChannelName) {
    out.extend_from_slice(b",\"channel\":\"");
    out.extend_from_slice(channel.as_str().as_bytes());
    out.push(b'"');
}

fn push_data(out: &mut Vec<u8>, data: &[u8]) {
    out.extend_from_slice(b",\"data\":\"");
    push_escaped(out, data);
    out.extend_from_slice(b"\"}");
}
