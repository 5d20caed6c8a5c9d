//! Who a socket has signed in as, and what comes with it: the user's own channel and a watchlist
//! (protocol.md §4.2, §5).

use std::sync::Arc;

use bytes::Bytes;

use super::super::auth::{self, AuthError};
use super::super::command;
use super::super::user::{self, InvalidUser, MAX_WATCHED, User, Watchlist};
use super::super::{frame, json};
use super::PusherSession;
use crate::hub::{AppHub, NotSubscribed, SignIn, Snapshot, Subscriber, Subscription, Terms, Watch};
use crate::metrics::Unproven;
use crate::model::channel::ChannelName;
use crate::model::member::UserId;

/// A socket's user.
pub(super) struct SignedIn {
    pub(super) user: User,
    sign_in: SignIn,
    /// To the user's own channel, unless the client has unsubscribed.
    channel: Option<Subscription>,
    /// The client has subscribed to that channel by itself since it was last signed in. It need not,
    /// to be told what is published there.
    acknowledged: bool,
    /// The sign-in is not answered yet: the rest of it follows then.
    entering: bool,
    watch: Option<Watch>,
}

/// Why a sign-in is refused.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    User(#[from] InvalidUser),
    #[error("The connection is signed in as another user already: {}", json::shown(.0))]
    Another(UserId),
}

impl SignedIn {
    fn new(user: User, sign_in: SignIn) -> Self {
        Self { user, sign_in, channel: None, acknowledged: false, entering: false, watch: None }
    }

    /// Tells the socket `first`, and from then on, if not already, what is published to the user.
    fn receive(&mut self, hub: &Arc<AppHub>, subscriber: Subscriber, first: &Bytes) {
        let mailbox = Arc::clone(&subscriber.mailbox);
        if self.channel.is_some() {
            mailbox.push(first);
            return;
        }
        let first = first.clone();
        // Only channels with members refuse anybody.
        let arrival = move |_: Result<&Snapshot<'_>, NotSubscribed>| mailbox.push(&first);
        self.channel = hub.subscribe(&self.user.channel, &subscriber, &Terms::default(), arrival);
    }

    /// The subscription to the user's own channel, to be ended.
    fn give_up_channel(&mut self) -> Option<Subscription> {
        self.acknowledged = false;
        self.channel.take()
    }
}

impl PusherSession {
    /// Says whether that is done. What is watched is told after the success, which may have to wait.
    pub(super) fn sign_in(&mut self, request: &command::SignIn<'_>) -> bool {
        let (user, watchlist) = match self.verify_user(request) {
            Ok(verified) => verified,
            Err(refused) => {
                if let Refused::Auth(error) = &refused {
                    self.pusher.metrics.auth_failures.add(Unproven::SignIn, error.cause());
                }
                self.refuse(&refused.to_string());
                return true;
            }
        };
        let has_entered = self.user.as_mut().is_some_and(|it| std::mem::take(&mut it.entering));
        if !has_entered {
            if !self.authorize_socket() {
                return true;
            }
            self.enter(user, &request.user_data);
        }
        let is_answered = !self.mailbox.owes_answers();
        match &mut self.user {
            Some(signed_in) if !is_answered => signed_in.entering = true,
            _ => self.watch(watchlist),
        }
        is_answered
    }

    fn verify_user(&self, request: &command::SignIn<'_>) -> Result<(User, Watchlist), Refused> {
        auth::verify_sign_in(&self.app.now(), self.mailbox.socket(), request)?;
        let (user, watchlist) =
            user::read(&request.user_data, self.app.now().limits.max_channel_name_length)?;
        match &self.user {
            Some(signed_in) if signed_in.user.id != user.id => {
                Err(Refused::Another(Arc::clone(&signed_in.user.id)))
            }
            _ => Ok((user, watchlist)),
        }
    }

    /// From here on the socket is told what is published to its user: nothing is lost before the
    /// client subscribes by itself, as libraries do.
    fn enter(&mut self, user: User, user_data: &str) {
        let success = frame::signin_success(self.framing(), user_data);
        let subscriber = self.subscriber();
        match &mut self.user {
            None => {
                let sign_in = self.hub.sign_in(&user.id, &self.mailbox);
                self.user = Some(Box::new(SignedIn::new(user, sign_in)));
            }
            Some(signed_in) => {
                signed_in.user = user;
                signed_in.acknowledged = false;
            }
        }
        if let Some(signed_in) = &mut self.user {
            signed_in.receive(&self.hub, subscriber, &success);
        }
    }

    fn watch(&mut self, watchlist: Watchlist) {
        let (framing, subscriber) = (self.framing(), self.subscriber());
        let Some(signed_in) = self.user.as_mut().filter(|_| self.app.now().features.watchlist_events) else {
            return;
        };
        if watchlist.cut {
            let text = format!("The watchlist is too long: only its first {MAX_WATCHED} users are watched");
            self.mailbox.push(&frame::error(framing, Some(4302), &text));
        }
        let (before, delay) = (signed_in.watch.take(), self.app.now().limits.offline_delay);
        if !watchlist.ids.is_empty() {
            signed_in.watch = Some(self.hub.watch(subscriber, &watchlist.ids, before, delay));
        } else if let Some(before) = before {
            self.hub.unwatch(before);
        }
    }

    /// Subscribes to the channel of the user that the socket is signed in as. Says whether it is
    /// subscribed already; `None` when the channel is another user's.
    pub(super) fn subscribe_as_user(&mut self, name: &ChannelName) -> Option<bool> {
        let (framing, subscriber) = (self.framing(), self.subscriber());
        let signed_in = self.user.as_mut().filter(|signed_in| signed_in.user.channel == *name)?;
        let again = std::mem::replace(&mut signed_in.acknowledged, true);
        if !again {
            signed_in.receive(&self.hub, subscriber, &frame::subscription_succeeded(framing, name, None));
        }
        Some(again)
    }

    /// Ends the subscription to the user's own channel, if that is what `channel` names.
    pub(super) fn unsubscribe_as_user(&mut self, channel: &str) -> bool {
        let own = self.user.as_mut().filter(|signed_in| signed_in.user.channel.as_str() == channel);
        let Some(subscription) = own.and_then(|signed_in| signed_in.give_up_channel()) else { return false };
        self.hub.unsubscribe(self.mailbox.socket(), subscription);
        true
    }

    pub(super) fn sign_out(&mut self) {
        let Some(signed_in) = self.user.take() else { return };
        let SignedIn { sign_in, channel, watch, .. } = *signed_in;
        if let Some(watch) = watch {
            self.hub.unwatch(watch);
        }
        if let Some(subscription) = channel {
            self.hub.unsubscribe(self.mailbox.socket(), subscription);
        }
        self.hub.sign_out(sign_in, self.app.now().limits.offline_delay);
    }
}
