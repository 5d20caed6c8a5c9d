//! What a webhook says (protocol.md §7): the body of its request, and its signature.

use bytes::Bytes;

use crate::hub::{Fact, NoticeFormat, SignedRequest};
use crate::model::app::{App, WebhookEvent};
use crate::model::channel::ChannelName;
use crate::model::quoted::{push_quoted, push_without_lone_surrogates};

/// Webhooks as Pusher's libraries validate them.
pub struct PusherWebhooks;

impl NoticeFormat for PusherWebhooks {
    fn event(&self, kind: WebhookEvent, channel: &ChannelName, fact: &Fact) -> Bytes {
        // A channel's name has no character that JSON escapes.
        let mut out = format!("{{\"name\":\"{}\",\"channel\":\"{channel}\"", kind.name()).into_bytes();
        let text = |out: &mut Vec<u8>, name: &str, text: &str| {
            out.extend_from_slice(format!(",\"{name}\":").as_bytes());
            push_quoted(out, text);
        };
        match fact {
            Fact::MemberAdded(user_id) | Fact::MemberRemoved(user_id) => text(&mut out, "user_id", user_id),
            Fact::ClientEvent { name, data, socket, user_id } => {
                out.extend_from_slice(b",\"event\":");
                push_without_lone_surrogates(&mut out, name);
                out.extend_from_slice(b",\"data\":");
                push_without_lone_surrogates(&mut out, data);
                text(&mut out, "socket_id", &socket.to_string());
                if let Some(user_id) = user_id {
                    text(&mut out, "user_id", user_id);
                }
            }
            Fact::Counted(count) => {
                out.extend_from_slice(format!(",\"subscription_count\":{count}").as_bytes());
            }
            Fact::Occupied | Fact::Vacated | Fact::CacheMiss | Fact::CacheFilled => {}
        }
        out.push(b'}');
        out.into()
    }

    /// Signed with the app's oldest key, which is the one that receivers have.
    fn request(&self, app: &App, time_ms: u64, events: &[Bytes]) -> SignedRequest {
        let mut body = format!("{{\"time_ms\":{time_ms},\"events\":[").into_bytes();
        for (i, event) in events.iter().enumerate() {
            if i > 0 {
                body.push(b',');
            }
            body.extend_from_slice(event);
        }
        body.extend_from_slice(b"]}");
        // Without a charset: some validators compare the whole text.
        let mut headers = vec![("content-type", "application/json".to_owned())];
        if let Some(pair) = app.keys.first() {
            headers.push(("x-pusher-key", pair.key.clone()));
            headers.push(("x-pusher-signature", pair.secret.sign(&body)));
        }
        SignedRequest { body: body.into(), headers }
    }
}
