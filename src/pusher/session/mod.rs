//! One socket's session: which channels it is in, who it is, and what it may do (protocol.md §2–§5).

mod channels;
mod publishing;
mod user;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use self::user::SignedIn;
use super::command::Command;
use super::{Pusher, error, frame};
use crate::apps::LiveApp;
use crate::hub::{AppHub, Budget, Subscriber, Subscription};
use crate::mailbox::Mailbox;
use crate::model::channel::ChannelName;
use crate::model::close::CloseReason;
use crate::model::rate::TokenBucket;
use crate::repeats::Repeats;
use crate::sockets::Place;
use crate::transport::{Framing, Session};

/// A whole crowd may be slow at once.
static SLOW_CONSUMERS: Repeats = Repeats::new();

/// The protocol's end of an admitted socket.
pub(super) struct PusherSession {
    pusher: Arc<Pusher>,
    app: Arc<LiveApp>,
    hub: Arc<AppHub>,
    mailbox: Arc<Mailbox>,
    /// The one list of the socket's channels; a channel itself knows only seats.
    subscriptions: HashMap<ChannelName, Subscription>,
    /// Who it has signed in as.
    user: Option<Box<SignedIn>>,
    client_events: TokenBucket,
    /// Of everything that it sends, but for client events that are let through.
    messages: TokenBucket,
    /// What may still be delivered in place in this millisecond.
    budget: (u64, Budget),
    protocol: u32,
    /// The client has been told its socket id.
    established: bool,
    /// Given back when the session ends.
    place: Place,
}

impl PusherSession {
    pub(super) fn new(
        pusher: Arc<Pusher>,
        app: Arc<LiveApp>,
        protocol: u32,
        mailbox: Arc<Mailbox>,
        place: Place,
    ) -> Self {
        let hub = pusher.hub.app(app.id());
        let (now, now_ms) = (app.now(), pusher.sockets.now_ms());
        let client_events = TokenBucket::full(now.limits.client_events_per_second, now_ms);
        let messages = TokenBucket::full(now.limits.messages_at_once(), now_ms);
        drop(now);
        Self {
            pusher,
            app,
            hub,
            mailbox,
            subscriptions: HashMap::new(),
            user: None,
            client_events,
            messages,
            budget: (0, Budget::none()),
            protocol,
            established: false,
            place,
        }
    }

    fn refuse(&self, message: &str) {
        self.mailbox.push(&frame::error(self.framing(), None, message));
    }

    fn framing(&self) -> Framing {
        Framing::of(self.mailbox.transport())
    }

    fn subscriber(&self) -> Subscriber {
        Subscriber { mailbox: Arc::clone(&self.mailbox), format: self.pusher.format(self.framing()) }
    }

    /// The socket is about to be let into something that needs a signature. Where sockets count only
    /// from then on, says whether it still may be one; it is closed if not.
    fn authorize_socket(&mut self) -> bool {
        let authorized = self.place.authorize().is_ok();
        if !authorized {
            self.mailbox.close(CloseReason::OverQuota);
        }
        authorized
    }

    /// Says whether that is done; the message comes again otherwise.
    fn carry_out(&mut self, message: &str) -> bool {
        let command = Command::decode(message);
        // Subscribes may wait together; everything else finds them answered.
        if let Ok(Command::Subscribe(request)) = &command {
            return self.subscribe(request);
        }
        if self.mailbox.owes_answers() {
            return false;
        }
        match command {
            Ok(Command::Ping) => self.mailbox.push(&frame::pong(self.framing())),
            Ok(Command::Pong | Command::Subscribe(_)) => {}
            Ok(Command::SignIn(request)) => return self.sign_in(&request),
            Ok(Command::Unsubscribe { channel }) => self.unsubscribe(&channel),
            Ok(Command::Publish { name, channel, data }) => self.publish(&name, &channel, data),
            Err(malformed) => self.refuse(&malformed.to_string()),
        }
        true
    }

    fn close_code(&self, reason: CloseReason) -> (u16, &'static str) {
        if self.established { error::close(reason) } else { error::refusal(reason) }
    }

    /// Counts a message. One that is refused or without effect costs as much as any other, and a dropped
    /// one would leave its client waiting: who sends too many is closed.
    fn count_message(&mut self) {
        let app = self.app.now();
        let (size, rate) = (app.limits.messages_at_once(), app.limits.messages_per_second);
        if rate > 0 && !self.messages.take_of(size, rate, self.pusher.sockets.now_ms()) {
            self.mailbox.close(CloseReason::TooManyMessages);
        }
    }

    fn leave_all(&mut self) {
        for (_, subscription) in self.subscriptions.drain() {
            self.hub.unsubscribe(self.mailbox.socket(), subscription);
        }
        self.sign_out();
    }
}

impl Session for PusherSession {
    fn opened(&mut self) {
        let timeout = self.app.now().limits.activity_timeout.max(Duration::from_secs(1)).as_secs();
        self.mailbox.push(&frame::connection_established(self.framing(), self.mailbox.socket(), timeout));
        // A socket that was closed before this has not been told.
        self.established = self.mailbox.closing().is_none();
    }

    fn text(&mut self, message: &str) -> bool {
        let is_taken = self.carry_out(message);
        if is_taken {
            self.pusher.metrics.client_bytes.add(message.len());
            self.count_message();
        }
        is_taken
    }

    fn binary(&mut self) -> bool {
        let is_due = !self.mailbox.owes_answers();
        if is_due {
            self.refuse("Binary messages are not supported");
            self.count_message();
        }
        is_due
    }

    fn control(&mut self) {
        self.count_message();
    }

    fn closed(&mut self, reason: CloseReason) {
        self.leave_all();
        self.pusher.metrics.closed(reason);
        let (code, text) = self.close_code(reason);
        // Old protocols know no close codes.
        if self.protocol <= 5 && code >= 4000 {
            self.mailbox.push_farewell(frame::error(self.framing(), Some(code), text));
        }
        let (socket, app) = (self.mailbox.socket(), self.app.id());
        if reason == CloseReason::SlowConsumer
            && let Some(left_out) = SLOW_CONSUMERS.due()
        {
            tracing::warn!(%socket, %app, left_out, "socket closed: it does not read fast enough");
        } else {
            tracing::debug!(%socket, %app, reason = reason.name(), "socket closed");
        }
    }

    fn farewell(&self, reason: CloseReason) -> (u16, Cow<'_, str>) {
        let (code, text) = self.close_code(reason);
        (code, Cow::Borrowed(text))
    }
}

impl Drop for PusherSession {
    /// Also when a panic ends the socket's task: nobody stays behind in a channel, or signed in.
    fn drop(&mut self) {
        self.leave_all();
    }
}
