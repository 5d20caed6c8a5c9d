//! Client events: what a socket publishes (protocol.md §3).

use serde_json::value::RawValue;

use super::super::{frame, json};
use super::PusherSession;
use crate::hub::{self, Budget, Draft};
use crate::model::channel::{ChannelName, kind_of};
use crate::model::event::{Body, Origin};
use crate::model::member::UserId;
use crate::model::quoted::{Quoted, push_compact};

struct NotPublished {
    code: Option<u16>,
    message: String,
}

impl From<String> for NotPublished {
    fn from(message: String) -> Self {
        Self { code: None, message }
    }
}

impl PusherSession {
    pub(super) fn publish(&mut self, name: &str, channel: &str, data: &RawValue) {
        match self.try_publish(name, channel, data) {
            Ok(()) => {
                self.pusher.metrics.client_events.add(1);
                // It has a limit of its own.
                self.messages.give_back(1, self.app.now().limits.messages_at_once());
            }
            Err(NotPublished { code, message }) => {
                self.mailbox.push(&frame::error(self.framing(), code, &message))
            }
        }
    }

    fn try_publish(&mut self, name: &str, channel: &str, data: &RawValue) -> Result<(), NotPublished> {
        let (channel, user_id) = self.may_publish(channel)?;
        let data = self.check_client_event(name, data)?;
        self.hub.may_publish_now(&channel).map_err(|why| match why {
            hub::NotPublished::Full(_) => {
                format!("Client event rejected - channel {channel} is over capacity")
            }
            hub::NotPublished::Away(away) => format!("Client event rejected - {away}"),
        })?;
        let (rate, now_ms) = (self.app.now().limits.client_events_per_second, self.pusher.sockets.now_ms());
        if !self.client_events.take(rate, now_ms) {
            let message = "The client event rate limit has been exceeded".to_owned();
            return Err(NotPublished { code: Some(4301), message });
        }
        let socket = self.mailbox.socket();
        let body = Body::Message { name: Quoted::from_text(name), data, user_id };
        let draft = Draft { origin: Origin::Socket(socket), except: Some(socket), body, cache_for: None };
        if self.budget.0 != now_ms {
            self.budget = (now_ms, Budget::one_chunk());
        }
        self.hub.publish(&channel, draft, &mut self.budget.1);
        Ok(())
    }

    /// The channel, if the socket may publish in it, and the member that it is there.
    fn may_publish(&self, channel: &str) -> Result<(ChannelName, Option<UserId>), NotPublished> {
        if !self.app.now().features.client_events {
            let text = "To send client events, you must enable this feature in the settings of the app.";
            return Err(text.to_owned().into());
        }
        if !kind_of(channel).client_events {
            let text = "Client event rejected - only supported on private and presence channels";
            return Err(text.to_owned().into());
        }
        let subscribed = self.subscriptions.get_key_value(channel);
        let Some((channel, subscription)) = subscribed.filter(|(_, it)| it.is_confirmed()) else {
            let channel = json::shown(channel);
            let text =
                format!("Cannot broadcast client event (connection not subscribed to channel {channel})");
            return Err(text.into());
        };
        Ok((channel.clone(), subscription.user_id().cloned()))
    }

    /// The event's data, if name and data keep the limits.
    fn check_client_event(&self, name: &str, data: &RawValue) -> Result<Quoted, NotPublished> {
        let max = self.app.now().limits.max_event_name_length;
        if name.chars().nth(max).is_some() {
            let text = format!("Client event rejected - the event name is longer than {max} characters");
            return Err(text.into());
        }
        let data = payload(data);
        let (len, max) = (data.decoded_len(), self.app.now().limits.max_event_bytes);
        if len > max {
            let text = format!("Client event rejected - the data has {len} bytes, the maximum is {max}");
            return Err(text.into());
        }
        Ok(data)
    }
}

/// A client event's data for the others: a string as it came, anything else as a string that
/// holds its JSON, since some clients take nothing but strings.
fn payload(data: &RawValue) -> Quoted {
    let literal = data.get();
    match Quoted::from_valid_json(bytes::Bytes::copy_from_slice(literal.as_bytes())) {
        Some(string) => string,
        None => {
            let mut compact = Vec::with_capacity(literal.len());
            push_compact(&mut compact, literal);
            Quoted::from_text(&String::from_utf8_lossy(&compact))
        }
    }
}
