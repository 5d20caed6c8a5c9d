//! A socket's subscriptions (protocol.md §2).

use std::sync::Arc;

use super::super::auth::{self, AuthError};
use super::super::command::Subscribe;
use super::super::{frame, json};
use super::PusherSession;
use crate::hub::{NotSubscribed, Snapshot, Terms};
use crate::mailbox::Mailbox;
use crate::metrics::{Cause, Unproven};
use crate::model::channel::{Access, ChannelName};
use crate::model::close::CloseReason;
use crate::model::member::Member;
use crate::transport::Framing;

/// Why a subscribe is refused.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("Invalid channel name: {0}")]
    ChannelName(String),
    #[error("Existing subscription to channel {}", json::shown(.0.as_str()))]
    Existing(ChannelName),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("{} is the channel of a user, and the connection is not signed in as that user", json::shown(.0.as_str()))]
    NotThatUser(ChannelName),
    #[error("The connection is subscribed to {0} channels, which is the maximum")]
    TooManyChannels(usize),
    #[error("{} has {} members, which is the maximum", json::shown(.0.as_str()), .1)]
    ChannelFull(ChannelName, usize),
    /// The socket is being closed, which says why. It is told nothing else any more.
    #[error("The connection is closing")]
    Closing,
}

impl Refused {
    /// The type and status of a `pusher:subscription_error`; `None` where the channel's
    /// subscription stands, or the socket does not.
    fn subscription_error(&self) -> Option<(&'static str, u16)> {
        match self {
            Self::Existing(_) | Self::Closing => None,
            Self::ChannelName(_) => Some(("InvalidChannel", 400)),
            Self::Auth(_) | Self::NotThatUser(_) => Some(("AuthError", 401)),
            Self::TooManyChannels(_) | Self::ChannelFull(..) => Some(("LimitReached", 4100)),
        }
    }

    /// Why the client is not believed, if that is why.
    fn unproven(&self) -> Option<Cause> {
        match self {
            Self::Auth(error) => Some(error.cause()),
            Self::NotThatUser(_) => Some(Cause::User),
            _ => None,
        }
    }
}

/// Tells a client that a subscribe is refused.
struct Refuser {
    mailbox: Arc<Mailbox>,
    /// With `pusher:subscription_error` besides.
    subscription_errors: bool,
}

impl Refuser {
    fn tell(&self, channel: &str, refused: &Refused) {
        let (framing, message) = (Framing::of(self.mailbox.transport()), refused.to_string());
        self.mailbox.push(&frame::error(framing, None, &message));
        // pusher-js leaves a refused channel pending whatever it is told, but hands this event to
        // the channel's own bindings, where applications look for it.
        if let Some((kind, status)) = refused.subscription_error()
            && self.subscription_errors
        {
            self.mailbox.push(&frame::subscription_error(framing, channel, kind, status, &message));
        }
    }
}

impl Refuser {
    /// What is to be said when it is known whether the socket is let in.
    fn arrival(
        self,
        name: &ChannelName,
        max_members: usize,
    ) -> impl FnOnce(Result<&Snapshot<'_>, NotSubscribed>) + Send + 'static + use<> {
        let name = name.clone();
        move |found| match found {
            Ok(snapshot) => welcome(&self.mailbox, &name, snapshot),
            Err(NotSubscribed::Full) => {
                self.tell(name.as_str(), &Refused::ChannelFull(name.clone(), max_members));
            }
            // A refused channel would stay pending for ever; a closed client comes back.
            Err(NotSubscribed::Busy) => self.mailbox.close(CloseReason::OverCapacity),
        }
    }
}

impl PusherSession {
    /// Says whether that is done: a refusal waits until the subscribes before it are answered, and may be
    /// none then.
    pub(super) fn subscribe(&mut self, request: &Subscribe<'_>) -> bool {
        let Err(refused) = self.try_subscribe(request) else { return true };
        let is_due = !self.mailbox.owes_answers();
        if is_due {
            if let Some(cause) = refused.unproven() {
                self.pusher.metrics.auth_failures.add(Unproven::Subscribe, cause);
            }
            self.refuser().tell(&request.channel, &refused);
        }
        is_due
    }

    fn refuser(&self) -> Refuser {
        let subscription_errors = self.pusher.settings.load().subscription_errors;
        Refuser { mailbox: Arc::clone(&self.mailbox), subscription_errors }
    }

    fn try_subscribe(&mut self, request: &Subscribe<'_>) -> Result<(), Refused> {
        let app = self.app.now();
        let limits = &app.limits;
        let name = ChannelName::parse(&request.channel, limits.max_channel_name_length)
            .map_err(|_| Refused::ChannelName(json::shown(&request.channel).to_owned()))?;
        if name.kind().access == Access::OwnUser {
            return match self.subscribe_as_user(&name) {
                Some(false) => Ok(()),
                Some(true) => Err(Refused::Existing(name)),
                None => Err(Refused::NotThatUser(name)),
            };
        }
        if self.subscriptions.get(&name).is_some_and(|subscription| !subscription.is_void()) {
            return Err(Refused::Existing(name));
        }
        if self.subscriptions.len() >= limits.max_channels_per_connection {
            // Some may have been refused after all.
            self.subscriptions.retain(|_, subscription| !subscription.is_void());
        }
        if self.subscriptions.len() >= limits.max_channels_per_connection {
            return Err(Refused::TooManyChannels(self.subscriptions.len()));
        }
        let terms = Terms {
            member: self.verify_subscribe(&name, request)?,
            max_members: limits.max_presence_members,
            counted: self.app.now().features.subscription_count && name.kind().is_counted(),
        };
        if name.kind().access == Access::Signed && !self.authorize_socket() {
            return Err(Refused::Closing);
        }
        let arrival = self.refuser().arrival(&name, terms.max_members);
        if let Some(subscription) = self.hub.subscribe(&name, &self.subscriber(), &terms, arrival) {
            self.subscriptions.insert(name, subscription);
        }
        Ok(())
    }

    /// Whether the socket may subscribe, and as which member.
    fn verify_subscribe(
        &self,
        name: &ChannelName,
        request: &Subscribe<'_>,
    ) -> Result<Option<Member>, Refused> {
        let kind = name.kind();
        if kind.access == Access::Signed {
            auth::verify(&self.app.now(), self.mailbox.socket(), request)?;
        }
        let max = self.app.now().limits.max_presence_member_bytes;
        let signed_in = self.user.as_ref().map(|signed_in| &signed_in.user);
        Ok(if kind.presence { Some(auth::member(request, signed_in, max)?) } else { None })
    }

    pub(super) fn unsubscribe(&mut self, channel: &str) {
        match self.subscriptions.remove(channel).filter(|subscription| !subscription.is_void()) {
            Some(subscription) => self.hub.unsubscribe(self.mailbox.socket(), subscription),
            None if self.unsubscribe_as_user(channel) => {}
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
}

/// What a newcomer gets before the channel's first event.
fn welcome(mailbox: &Mailbox, name: &ChannelName, snapshot: &Snapshot<'_>) {
    let framing = Framing::of(mailbox.transport());
    mailbox.push(&frame::subscription_succeeded(framing, name, snapshot.members));
    match &snapshot.cached {
        Some(cached) => mailbox.push(cached),
        None if name.kind().cache => mailbox.push(&frame::cache_miss(framing, name)),
        None => {}
    }
}
