//! An event or an order as nodes hand it to one another. Never holds a secret.
//!
//! ```text
//! 0xfa version kind node | text app | …       numbers are big-endian, a text has its length before it
//! event: text channel, broker, number, timestamp, origin (tag, socket), except (tag, socket), body
//! ```

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::{NodeId, Order};
use crate::model::app::AppId;
use crate::model::channel::ChannelName;
use crate::model::event::{Body, Event, EventId, Origin};
use crate::model::quoted::Quoted;
use crate::model::socket::SocketId;

/// What every envelope begins with.
pub(super) const MAGIC: u8 = 0xfa;
const VERSION: u8 = 1;
/// Bytes of the largest envelope that is read.
const LARGEST: usize = 64 << 20;

const MESSAGE: u8 = 1;
const MESSAGE_OF_USER: u8 = 2;
const MEMBER_ADDED: u8 = 3;
const MEMBER_ADDED_WITH_INFO: u8 = 4;
const MEMBER_REMOVED: u8 = 5;
const SUBSCRIPTION_COUNT: u8 = 6;
const TERMINATE: u8 = 16;

/// What was in an envelope, and whose it is.
#[derive(Debug)]
pub(super) struct Envelope {
    /// The node that sent it.
    pub(super) node: NodeId,
    /// Whose channel or user it is about.
    pub(super) app: AppId,
    /// What it is.
    pub(super) content: Content,
}

/// What was in an envelope.
#[derive(Debug)]
pub(super) enum Content {
    /// Something happened.
    Event(Event),
    /// Something is to be done.
    Order(Order),
}

/// Why an envelope cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadEnvelope {
    /// It was made by a broker of another version.
    #[error("an envelope of version {0}, where this node knows version 1: all nodes must be of one version")]
    Version(u8),
    /// It is damaged, or nothing of ours.
    #[error("not an envelope, or a damaged one")]
    Damaged,
}

/// Puts an event into an envelope.
pub(super) fn seal_event(node: NodeId, app: &str, event: &Event) -> Vec<u8> {
    let mut out = Vec::with_capacity(event.size() + app.len() + 96);
    let kind = match &event.body {
        Body::Message { user_id: None, .. } => MESSAGE,
        Body::Message { user_id: Some(_), .. } => MESSAGE_OF_USER,
        Body::MemberAdded { user_info: None, .. } => MEMBER_ADDED,
        Body::MemberAdded { user_info: Some(_), .. } => MEMBER_ADDED_WITH_INFO,
        Body::MemberRemoved { .. } => MEMBER_REMOVED,
        Body::SubscriptionCount { .. } => SUBSCRIPTION_COUNT,
    };
    head(&mut out, kind, node, app);
    text(&mut out, event.channel.as_str().as_bytes());
    for number in [event.id.broker, event.id.number, event.timestamp_ms] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    match event.origin {
        Origin::Api => tagged(&mut out, 0, None),
        Origin::Broker => tagged(&mut out, 1, None),
        Origin::Socket(socket) => tagged(&mut out, 2, Some(socket)),
    }
    tagged(&mut out, u8::from(event.except.is_some()), event.except);
    body(&mut out, &event.body);
    out
}

/// Puts an order into an envelope.
pub(super) fn seal_order(node: NodeId, app: &str, order: &Order) -> Vec<u8> {
    let mut out = Vec::new();
    match order {
        Order::Terminate(user) => {
            head(&mut out, TERMINATE, node, app);
            text(&mut out, user.as_bytes());
        }
    }
    out
}

fn head(out: &mut Vec<u8>, kind: u8, node: NodeId, app: &str) {
    out.extend_from_slice(&[MAGIC, VERSION, kind]);
    out.extend_from_slice(&node.0.to_be_bytes());
    text(out, app.as_bytes());
}

fn tagged(out: &mut Vec<u8>, tag: u8, socket: Option<SocketId>) {
    out.push(tag);
    if let Some(socket) = socket {
        out.extend_from_slice(&socket.to_bits().to_be_bytes());
    }
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    // Nothing that a broker takes in comes near four gigabytes.
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(text);
}

fn body(out: &mut Vec<u8>, body: &Body) {
    match body {
        Body::Message { name, data, user_id } => {
            text(out, name.as_bytes());
            text(out, data.as_bytes());
            if let Some(user_id) = user_id {
                text(out, user_id.as_bytes());
            }
        }
        Body::MemberAdded { user_id, user_info } => {
            text(out, user_id.as_bytes());
            if let Some(info) = user_info {
                text(out, info.as_bytes());
            }
        }
        Body::MemberRemoved { user_id } => text(out, user_id.as_bytes()),
        Body::SubscriptionCount { count } => out.extend_from_slice(&(*count as u64).to_be_bytes()),
    }
}

/// Opens an envelope. What was in it shares its bytes.
///
/// # Errors
/// When it is damaged, or of another version.
pub(super) fn open(bytes: &Bytes) -> Result<Envelope, BadEnvelope> {
    if bytes.len() > LARGEST {
        return Err(BadEnvelope::Damaged);
    }
    let mut rest = Reader(bytes.clone());
    let envelope = match (rest.byte(), rest.byte()) {
        (Some(MAGIC), Some(VERSION)) => rest.envelope(),
        (Some(MAGIC), Some(other)) => return Err(BadEnvelope::Version(other)),
        _ => None,
    };
    envelope.filter(|_| rest.0.is_empty()).ok_or(BadEnvelope::Damaged)
}

struct Reader(Bytes);

impl Reader {
    fn byte(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }

    fn number(&mut self) -> Option<u64> {
        self.0.try_get_u64().ok()
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let len = self.0.try_get_u32().ok()? as usize;
        (len <= self.0.len()).then(|| self.0.split_to(len))
    }

    fn text(&mut self) -> Option<Arc<str>> {
        std::str::from_utf8(&self.bytes()?).ok().map(Arc::from)
    }

    fn quoted(&mut self) -> Option<Quoted> {
        let literal = self.bytes()?;
        let text = std::str::from_utf8(&literal).ok()?;
        // Frames are put together from literals: one that is not whole would break out of them.
        serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
        if !text.ends_with('"') {
            return None;
        }
        Quoted::from_valid_json(literal)
    }

    /// JSON text that stands in frames as it is.
    fn json(&mut self) -> Option<Arc<str>> {
        let text = self.text()?;
        serde_json::from_str::<serde::de::IgnoredAny>(&text).ok()?;
        Some(text)
    }

    fn socket(&mut self) -> Option<SocketId> {
        SocketId::from_bits(self.number()?)
    }

    fn envelope(&mut self) -> Option<Envelope> {
        let kind = self.byte()?;
        let node = NodeId(self.number()?);
        let app = self.text()?;
        let content = if kind == TERMINATE {
            Content::Order(Order::Terminate(self.text()?))
        } else {
            Content::Event(self.event(kind)?)
        };
        Some(Envelope { node, app, content })
    }

    fn event(&mut self, kind: u8) -> Option<Event> {
        let channel = ChannelName::parse(&self.text()?, usize::MAX).ok()?;
        let id = EventId { broker: self.number()?, number: self.number()? };
        let timestamp_ms = self.number()?;
        let origin = match self.byte()? {
            0 => Origin::Api,
            1 => Origin::Broker,
            2 => Origin::Socket(self.socket()?),
            _ => return None,
        };
        let except = match self.byte()? {
            0 => None,
            1 => Some(self.socket()?),
            _ => return None,
        };
        Some(Event { id, timestamp_ms, channel, origin, except, body: self.body(kind)? })
    }

    fn body(&mut self, kind: u8) -> Option<Body> {
        Some(match kind {
            MESSAGE => Body::Message { name: self.quoted()?, data: self.quoted()?, user_id: None },
            MESSAGE_OF_USER => {
                Body::Message { name: self.quoted()?, data: self.quoted()?, user_id: Some(self.text()?) }
            }
            MEMBER_ADDED => Body::MemberAdded { user_id: self.text()?, user_info: None },
            MEMBER_ADDED_WITH_INFO => {
                Body::MemberAdded { user_id: self.text()?, user_info: Some(self.json()?) }
            }
            MEMBER_REMOVED => Body::MemberRemoved { user_id: self.text()? },
            SUBSCRIPTION_COUNT => Body::SubscriptionCount { count: usize::try_from(self.number()?).ok()? },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(0x0123_4567_89ab_cdef);

    fn events() -> Vec<Event> {
        let socket = SocketId::draw().expect("randomness");
        let quoted = |text| Quoted::from_text(text);
        let bodies = [
            Body::Message { name: quoted("e"), data: quoted("{\"a\":\"ä\\n\"}"), user_id: None },
            Body::Message { name: quoted(""), data: quoted(""), user_id: Some("u".into()) },
            Body::MemberAdded { user_id: "u".into(), user_info: Some("{\"n\":1}".into()) },
            Body::MemberAdded { user_id: "u".into(), user_info: None },
            Body::MemberRemoved { user_id: "".into() },
            Body::SubscriptionCount { count: 7 },
        ];
        let origins = [Origin::Api, Origin::Broker, Origin::Socket(socket)];
        let event = |(i, body)| Event {
            id: EventId { broker: u64::MAX, number: i as u64 },
            timestamp_ms: 1_700_000_000_000,
            channel: ChannelName::parse("presence-cache-x", 200).expect("valid"),
            origin: origins[i % 3],
            except: (i % 2 == 0).then_some(socket),
            body,
        };
        bodies.into_iter().enumerate().map(event).collect()
    }

    #[test]
    fn what_goes_in_comes_out() {
        for event in events() {
            let sealed = Bytes::from(seal_event(NODE, "app/1", &event));
            let opened = open(&sealed).expect("whole");
            assert_eq!((opened.node, &*opened.app), (NODE, "app/1"));
            let Content::Event(out) = opened.content else { panic!("{opened:?}") };
            assert_eq!(format!("{out:?}"), format!("{event:?}"));
        }
        let order = Order::Terminate("ü".into());
        let opened = open(&seal_order(NODE, "a", &order).into()).expect("whole");
        assert!(matches!(opened.content, Content::Order(out) if out == order));
    }

    #[test]
    fn whatever_is_cut_off_or_added_is_an_error() {
        for event in events() {
            let sealed = seal_event(NODE, "app", &event);
            for len in 0..sealed.len() {
                let cut = Bytes::copy_from_slice(&sealed[..len]);
                assert_eq!(open(&cut).expect_err("cut"), BadEnvelope::Damaged, "{len}");
            }
            let longer = [&sealed[..], b"x"].concat();
            assert_eq!(open(&longer.into()).expect_err("longer"), BadEnvelope::Damaged);
        }
    }

    #[test]
    fn other_versions_are_named() {
        let mut sealed = seal_event(NODE, "app", &events()[0]);
        sealed[1] = 9;
        let error = open(&sealed.into()).expect_err("unknown");
        assert!(error.to_string().contains("version 9"), "{error}");
    }

    #[test]
    fn whatever_is_changed_is_an_error_or_a_valid_event() {
        // A fixed sequence: a failure can be had again.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut valid = 0;
        for round in 0..60_000 {
            let events = events();
            let mut sealed = seal_event(NODE, "app", &events[round % events.len()]);
            for _ in 0..=next() % 3 {
                let at = next() as usize % sealed.len();
                sealed[at] = next() as u8;
            }
            if let Ok(Envelope { content: Content::Event(event), .. }) = open(&sealed.into()) {
                valid += 1;
                if let Body::Message { name, data, .. } = &event.body {
                    for literal in [name, data] {
                        serde_json::from_slice::<serde::de::IgnoredAny>(literal.as_bytes()).expect("JSON");
                        literal.decoded_len();
                    }
                }
            }
        }
        assert!(valid > 0);
    }
}
