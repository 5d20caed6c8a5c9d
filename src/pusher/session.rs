//! One socket's session: which channels it is in, and what it may do (protocol.md §2, §3).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::auth::{self, AuthError};
use super::command::{Command, Subscribe};
use super::{Pusher, error, frame, json};
use crate::hub::{AppHub, Draft, Snapshot, Subscriber, Subscription};
use crate::mailbox::Mailbox;
use crate::model::app::App;
use crate::model::channel::{Access, ChannelName};
use crate::model::close::CloseReason;
use crate::model::event::{Body, Origin};
use crate::model::member::Member;
use crate::model::quoted::{Quoted, push_compact};
use crate::model::rate::TokenBucket;
use crate::sockets::Seat;
use crate::transport::Session;

/// The protocol's end of an admitted socket.
pub(super) struct PusherSession {
    pusher: Arc<Pusher>,
    app: Arc<App>,
    hub: Arc<AppHub>,
    mailbox: Arc<Mailbox>,
    /// The one list of the socket's channels; a channel itself knows only seats.
    subscriptions: HashMap<ChannelName, Subscription>,
    client_events: TokenBucket,
    /// Given back when the session ends.
    _seat: Seat,
}

/// Why a subscribe is refused.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("Invalid channel name: {0}")]
    ChannelName(String),
    #[error("Existing subscription to channel {0}")]
    Existing(ChannelName),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("{0} is the channel of a user, and the connection is not signed in as that user")]
    NotThatUser(ChannelName),
    #[error("The connection is subscribed to {0} channels, which is the maximum")]
    TooManyChannels(usize),
    #[error("{0} has {1} members, which is the maximum")]
    ChannelFull(ChannelName, usize),
}

impl Refused {
    /// The type and status of a `pusher:subscription_error`; `None` where there is no channel to
    /// tell it to, or its subscription stands.
    fn subscription_error(&self) -> Option<(&'static str, u16)> {
        match self {
            Self::ChannelName(_) | Self::Existing(_) => None,
            Self::Auth(_) | Self::NotThatUser(_) => Some(("AuthError", 401)),
            Self::TooManyChannels(_) | Self::ChannelFull(..) => Some(("LimitReached", 4100)),
        }
    }
}

impl PusherSession {
    pub(super) fn new(pusher: Arc<Pusher>, app: Arc<App>, mailbox: Arc<Mailbox>, seat: Seat) -> Self {
        let hub = pusher.hub.app(&app.id);
        let client_events = TokenBucket::full(app.limits.client_events_per_second, pusher.sockets.now_ms());
        Self { pusher, app, hub, mailbox, subscriptions: HashMap::new(), client_events, _seat: seat }
    }

    fn refuse(&self, message: &str) {
        self.mailbox.push(&frame::error(None, message));
    }

    fn subscribe(&mut self, request: &Subscribe<'_>) {
        let Err(refused) = self.try_subscribe(request) else { return };
        let message = refused.to_string();
        self.refuse(&message);
        // pusher-js leaves a refused channel pending whatever it is told, but hands this event to
        // the channel's own bindings, where applications look for it.
        if let Some((kind, status)) = refused.subscription_error()
            && self.pusher.settings.subscription_errors
        {
            self.mailbox.push(&frame::subscription_error(&request.channel, kind, status, &message));
        }
    }

    fn try_subscribe(&mut self, request: &Subscribe<'_>) -> Result<(), Refused> {
        let limits = &self.app.limits;
        let name = ChannelName::parse(&request.channel, limits.max_channel_name_length)
            .map_err(|_| Refused::ChannelName(json::shown(&request.channel).to_owned()))?;
        if self.subscriptions.contains_key(&name) {
            return Err(Refused::Existing(name));
        }
        if self.subscriptions.len() >= limits.max_channels_per_connection {
            return Err(Refused::TooManyChannels(self.subscriptions.len()));
        }
        let member = self.authorise(&name, request)?;
        let subscriber = Subscriber { mailbox: Arc::clone(&self.mailbox), format: self.pusher.format };
        let member = member.map(|member| (member, limits.max_presence_members));
        let prefix = |snapshot: &Snapshot<'_>| welcome(&self.mailbox, &name, snapshot);
        match self.hub.subscribe(&name, subscriber, member, prefix) {
            Ok(subscription) => {
                self.subscriptions.insert(name, subscription);
                Ok(())
            }
            Err(_) => Err(Refused::ChannelFull(name, limits.max_presence_members)),
        }
    }

    /// Whether the socket may subscribe, and as which member.
    fn authorise(&self, name: &ChannelName, request: &Subscribe<'_>) -> Result<Option<Member>, Refused> {
        let kind = name.kind();
        match kind.access {
            Access::Open => return Ok(None),
            Access::OwnUser => return Err(Refused::NotThatUser(name.clone())),
            Access::Signed => auth::verify(&self.app, self.mailbox.socket(), request)?,
        }
        let max = self.app.limits.max_presence_member_bytes;
        Ok(if kind.presence { Some(auth::member(request, max)?) } else { None })
    }

    fn unsubscribe(&mut self, channel: &str) {
        match self.subscriptions.remove(channel) {
            Some(subscription) => self.hub.unsubscribe(subscription),
            None => {
                let channel = json::shown(channel);
                self.refuse(&format!(
                    "No current subscription to channel {channel}, or subscription in progress"
                ));
            }
        }
        // A socket that once was in many channels gives their memory back.
        if self.subscriptions.capacity() > 64 && self.subscriptions.len() * 8 < self.subscriptions.capacity()
        {
            self.subscriptions.shrink_to_fit();
        }
    }

    fn publish(&mut self, name: &str, channel: &str, data: &RawValue) {
        match self.try_publish(name, channel, data) {
            Ok(()) => self.pusher.metrics.client_events.add(1),
            Err(NotPublished { code, message }) => self.mailbox.push(&frame::error(code, &message)),
        }
    }

    fn try_publish(&mut self, name: &str, channel: &str, data: &RawValue) -> Result<(), NotPublished> {
        let limits = &self.app.limits;
        let refuse = |message: String| Err(NotPublished { code: None, message });
        if !self.app.features.client_events {
            return refuse("To send client events, you must enable this feature for the app.".to_owned());
        }
        let kind = crate::model::channel::kind_of(channel);
        if !kind.client_events {
            return refuse(
                "Client event rejected - only supported on private and presence channels".to_owned(),
            );
        }
        let Some((channel, subscription)) = self.subscriptions.get_key_value(channel) else {
            let channel = json::shown(channel);
            return refuse(format!(
                "Cannot broadcast client event (connection not subscribed to channel {channel})"
            ));
        };
        if name.chars().nth(limits.max_event_name_length).is_some() {
            let max = limits.max_event_name_length;
            return refuse(format!("Client event rejected - the event name is longer than {max} characters"));
        }
        let data = payload(data);
        let (len, max) = (data.decoded_len(), limits.max_event_bytes);
        if len > max {
            return refuse(format!("Client event rejected - the data has {len} bytes, the maximum is {max}"));
        }
        if !self.hub.has_room(channel) {
            return refuse(format!("Client event rejected - channel {channel} is over capacity"));
        }
        let rate = limits.client_events_per_second;
        if !self.client_events.take(rate, self.pusher.sockets.now_ms()) {
            let message = "The client event rate limit has been exceeded".to_owned();
            return Err(NotPublished { code: Some(4301), message });
        }
        let socket = self.mailbox.socket();
        let (name, user_id) = (Quoted::from_text(name), subscription.user_id().cloned());
        let body = Body::Message { name, data, user_id };
        let draft = Draft { origin: Origin::Socket(socket), except: Some(socket), body, cache_for: None };
        self.hub.publish(channel, draft);
        Ok(())
    }

    fn leave_all(&mut self) {
        for (_, subscription) in self.subscriptions.drain() {
            self.hub.unsubscribe(subscription);
        }
    }
}

struct NotPublished {
    code: Option<u16>,
    message: String,
}

/// What a newcomer gets before the channel's first event.
fn welcome(mailbox: &Mailbox, name: &ChannelName, snapshot: &Snapshot<'_>) {
    mailbox.push(&frame::subscription_succeeded(name, snapshot.members));
    match &snapshot.cached {
        Some(cached) => mailbox.push(cached),
        None if name.kind().cache => mailbox.push(&frame::cache_miss(name)),
        None => {}
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

impl Session for PusherSession {
    fn opened(&mut self) {
        let timeout = self.app.limits.activity_timeout.max(Duration::from_secs(1)).as_secs();
        self.mailbox.push(&frame::connection_established(self.mailbox.socket(), timeout));
    }

    fn text(&mut self, message: &str) {
        match Command::decode(message) {
            Ok(Command::Ping) => self.mailbox.push(&frame::pong()),
            Ok(Command::Pong) => {}
            Ok(Command::Subscribe(request)) => self.subscribe(&request),
            Ok(Command::Unsubscribe { channel }) => self.unsubscribe(&channel),
            Ok(Command::Publish { name, channel, data }) => self.publish(&name, &channel, data),
            Err(malformed) => self.refuse(&malformed.to_string()),
        }
    }

    fn binary(&mut self) {
        self.refuse("Binary messages are not supported");
    }

    fn closed(&mut self, reason: CloseReason) {
        self.leave_all();
        self.pusher.metrics.closed(reason);
        let (socket, app) = (self.mailbox.socket(), &self.app.id);
        match reason {
            CloseReason::SlowConsumer => {
                tracing::warn!(%socket, %app, reason = reason.name(), "socket closed: it does not read fast enough");
            }
            _ => tracing::debug!(%socket, %app, reason = reason.name(), "socket closed"),
        }
    }

    fn farewell(&self, reason: CloseReason) -> (u16, Cow<'_, str>) {
        let (code, text) = error::close(reason);
        (code, Cow::Borrowed(text))
    }
}

impl Drop for PusherSession {
    /// Also when a panic ends the socket's task: nobody stays behind in a channel.
    fn drop(&mut self) {
        self.leave_all();
    }
}
