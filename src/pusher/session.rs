//! One socket's session: which channels it is in, and what it may do (protocol.md §2, §3).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::auth::{self, AuthError};
use super::command::{Command, Subscribe};
use super::{Pusher, error, frame, json};
use crate::hub::{AppHub, Budget, Draft, NotSubscribed, Snapshot, Subscriber, Subscription};
use crate::mailbox::Mailbox;
use crate::model::app::App;
use crate::model::channel::{Access, ChannelName, kind_of};
use crate::model::close::CloseReason;
use crate::model::event::{Body, Origin};
use crate::model::member::{Member, UserId};
use crate::model::quoted::{Quoted, push_compact};
use crate::model::rate::TokenBucket;
use crate::sockets::Place;
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
    /// What may still be delivered in place in this millisecond.
    budget: (u64, Budget),
    protocol: u32,
    /// The client has been told its socket id.
    established: bool,
    /// Given back when the session ends.
    _place: Place,
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
    #[error("{0} is over capacity")]
    ChannelBusy(ChannelName),
}

impl Refused {
    /// The type and status of a `pusher:subscription_error`; `None` where the channel's
    /// subscription stands, or the socket does not.
    fn subscription_error(&self) -> Option<(&'static str, u16)> {
        match self {
            Self::Existing(_) | Self::ChannelBusy(_) => None,
            Self::ChannelName(_) => Some(("InvalidChannel", 400)),
            Self::Auth(_) | Self::NotThatUser(_) => Some(("AuthError", 401)),
            Self::TooManyChannels(_) | Self::ChannelFull(..) => Some(("LimitReached", 4100)),
        }
    }
}

impl PusherSession {
    pub(super) fn new(
        pusher: Arc<Pusher>,
        app: Arc<App>,
        protocol: u32,
        mailbox: Arc<Mailbox>,
        place: Place,
    ) -> Self {
        let hub = pusher.hub.app(&app.id);
        let client_events = TokenBucket::full(app.limits.client_events_per_second, pusher.sockets.now_ms());
        Self {
            pusher,
            app,
            hub,
            mailbox,
            subscriptions: HashMap::new(),
            client_events,
            budget: (0, Budget::none()),
            protocol,
            established: false,
            _place: place,
        }
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
            Err(NotSubscribed::Full) => Err(Refused::ChannelFull(name, limits.max_presence_members)),
            Err(NotSubscribed::Busy) => {
                // A refused channel would stay pending for ever; a closed client comes back.
                self.mailbox.close(CloseReason::OverCapacity);
                Err(Refused::ChannelBusy(name))
            }
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
            Some(subscription) => self.hub.unsubscribe(self.mailbox.socket(), subscription),
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
        let (channel, user_id) = self.may_publish(channel)?;
        let data = self.check_client_event(name, data)?;
        if !self.hub.has_space(&channel) {
            return Err(format!("Client event rejected - channel {channel} is over capacity").into());
        }
        let (rate, now_ms) = (self.app.limits.client_events_per_second, self.pusher.sockets.now_ms());
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
        if !self.app.features.client_events {
            let text = "To send client events, you must enable this feature in the settings of the app.";
            return Err(text.to_owned().into());
        }
        if !kind_of(channel).client_events {
            let text = "Client event rejected - only supported on private and presence channels";
            return Err(text.to_owned().into());
        }
        let Some((channel, subscription)) = self.subscriptions.get_key_value(channel) else {
            let channel = json::shown(channel);
            let text =
                format!("Cannot broadcast client event (connection not subscribed to channel {channel})");
            return Err(text.into());
        };
        Ok((channel.clone(), subscription.user_id().cloned()))
    }

    /// The event's data, if name and data keep the limits.
    fn check_client_event(&self, name: &str, data: &RawValue) -> Result<Quoted, NotPublished> {
        let max = self.app.limits.max_event_name_length;
        if name.chars().nth(max).is_some() {
            let text = format!("Client event rejected - the event name is longer than {max} characters");
            return Err(text.into());
        }
        let data = payload(data);
        let (len, max) = (data.decoded_len(), self.app.limits.max_event_bytes);
        if len > max {
            let text = format!("Client event rejected - the data has {len} bytes, the maximum is {max}");
            return Err(text.into());
        }
        Ok(data)
    }

    fn close_code(&self, reason: CloseReason) -> (u16, &'static str) {
        if self.established { error::close(reason) } else { error::refusal(reason) }
    }

    fn leave_all(&mut self) {
        for (_, subscription) in self.subscriptions.drain() {
            self.hub.unsubscribe(self.mailbox.socket(), subscription);
        }
    }
}

struct NotPublished {
    code: Option<u16>,
    message: String,
}

impl From<String> for NotPublished {
    fn from(message: String) -> Self {
        Self { code: None, message }
    }
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
        // A socket that was closed before this has not been told.
        self.established = self.mailbox.closing().is_none();
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
        let (code, text) = self.close_code(reason);
        // Old protocols know no close codes.
        if self.protocol <= 5 && code >= 4000 {
            self.mailbox.push_farewell(frame::error(Some(code), text));
        }
        let (socket, app) = (self.mailbox.socket(), &self.app.id);
        match reason {
            CloseReason::SlowConsumer => {
                tracing::warn!(%socket, %app, reason = reason.name(), "socket closed: it does not read fast enough");
            }
            _ => tracing::debug!(%socket, %app, reason = reason.name(), "socket closed"),
        }
    }

    fn farewell(&self, reason: CloseReason) -> (u16, Cow<'_, str>) {
        let (code, text) = self.close_code(reason);
        (code, Cow::Borrowed(text))
    }
}

impl Drop for PusherSession {
    /// Also when a panic ends the socket's task: nobody stays behind in a channel.
    fn drop(&mut self) {
        self.leave_all();
    }
}
