//! How a socket comes into a channel, and how it leaves.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::{Channel, State};
use crate::hub::AppHub;
use crate::hub::fanout::{Idle, Segment, Subscriber};
use crate::hub::notice::Fact;
use crate::hub::presence::{Left, Members};
use crate::model::channel::ChannelName;
use crate::model::event::{Body, Origin};
use crate::model::member::{Member, UserId};
use crate::model::socket::SocketId;

/// How somebody subscribes.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// The member that it is, in presence channels.
    pub member: Option<Member>,
    /// Users that a presence channel may have.
    pub max_members: usize,
    /// Subscribers are told how many they are.
    pub counted: bool,
}

/// What a newcomer finds.
pub struct Snapshot<'a> {
    /// The members, itself included, in presence channels.
    pub members: Option<&'a Members>,
    /// The cached event as a frame.
    pub cached: Option<Bytes>,
}

/// Why a socket is not subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSubscribed {
    /// The presence channel has as many members as it may have.
    #[error("the presence channel is full")]
    Full,
    /// More has happened in the presence channel than could be told so far.
    #[error("the presence channel is over capacity")]
    Busy,
}

/// Called once, under the channel's lock: writes to the newcomer's mailbox what must come before its
/// first event, or why it is not let in.
pub(super) type Arrival = Box<dyn FnOnce(Result<&Snapshot<'_>, NotSubscribed>) + Send>;

/// A socket's place in a channel, held by its session. It must be ended, not dropped.
pub struct Subscription {
    channel: Arc<Channel>,
    seating: Seating,
    user_id: Option<UserId>,
}

/// A subscriber's place among the segments.
pub(super) type Seated = (Arc<Segment>, usize);

enum Seating {
    Seated(Seated),
    /// The engine is to be heard first.
    Waiting(Arc<Ticket>),
}

/// Names a newcomer. It has its place once the engine has been heard, or `None` when it was refused.
pub(super) type Ticket = OnceLock<Option<Seated>>;

impl Channel {
    /// See [`AppHub::subscribe`]. `None` when the channel is retired; `arrival` stays where it is then.
    pub(in crate::hub) fn subscribe<A>(
        self: &Arc<Self>,
        app: &Arc<AppHub>,
        subscriber: &Subscriber,
        terms: &Terms,
        arrival: &mut Option<A>,
    ) -> Option<(Option<Subscription>, Idle)>
    where
        A: FnOnce(Result<&Snapshot<'_>, NotSubscribed>) + Send + 'static,
    {
        let mut state = self.state.lock();
        if state.retired {
            return None;
        }
        let arrival = arrival.take()?;
        let user_id = terms.member.as_ref().map(|member| Arc::clone(&member.user_id));
        let held = |seating| Subscription { channel: Arc::clone(self), seating, user_id };
        if app.decides_alone(|| self.topic(app)) {
            let seated = self.admit(&mut state, app, subscriber, terms, arrival);
            let (seated, idle) = seated.map_or((None, Idle::new()), |(seated, idle)| (Some(seated), idle));
            return Some((seated.map(|seated| held(Seating::Seated(seated))), idle));
        }
        let ticket = self.wait(&mut state, app, subscriber.clone(), terms.clone(), Box::new(arrival));
        Some((Some(held(Seating::Waiting(ticket))), Idle::new()))
    }
}

impl Subscription {
    /// Takes the socket out of the channel. Returns its name, the segments to start, and whether it
    /// is vacant.
    pub(in crate::hub) fn end(self, socket: SocketId, app: &Arc<AppHub>) -> (ChannelName, Idle, bool) {
        let (channel, user_id) = (&self.channel, self.user_id.as_ref());
        let mut state = channel.state.lock();
        // Under the lock: a ticket is not filled meanwhile.
        let mut idle = Idle::new();
        match (self.seated(), &self.seating) {
            (Some(Some(seated)), _) => idle = channel.vacate(&mut state, app, socket, seated, user_id),
            (None, Seating::Waiting(ticket)) => channel.give_up(&mut state, app, ticket),
            // It was refused.
            (Some(None) | None, _) => {}
        }
        (channel.name.clone(), idle, state.is_vacant())
    }

    /// Its place, or that it was refused one; nothing while it waits.
    fn seated(&self) -> Option<Option<&Seated>> {
        match &self.seating {
            Seating::Seated(seated) => Some(Some(seated)),
            Seating::Waiting(ticket) => ticket.get().map(Option::as_ref),
        }
    }

    /// The socket was refused after all: it was never in the channel, and need not leave it.
    pub fn is_void(&self) -> bool {
        matches!(self.seated(), Some(None))
    }

    /// The socket is in the channel, and has been told so.
    pub fn is_confirmed(&self) -> bool {
        matches!(self.seated(), Some(Some(_)))
    }

    /// The member that the socket is in this channel.
    pub fn user_id(&self) -> Option<&UserId> {
        self.user_id.as_ref()
    }
}

impl Channel {
    /// Frees a subscriber's place, and tells the others what that means.
    fn vacate(
        self: &Arc<Self>,
        state: &mut State,
        app: &Arc<AppHub>,
        socket: SocketId,
        (segment, slot): &Seated,
        user_id: Option<&UserId>,
    ) -> Idle {
        state.unseat(segment, *slot);
        let mut idle = Idle::new();
        if let (Some(user_id), Some(members)) = (user_id, &mut state.members) {
            let left = members.leave(user_id, socket);
            if let (Left::Last | Left::Elsewhere, Some(joint)) = (&left, &mut state.joint)
                && !app.decides_alone(|| self.topic(app))
            {
                joint.unwritten(user_id);
            }
            if left == Left::Last {
                let body = Body::MemberRemoved { user_id: Arc::clone(user_id) };
                idle = self.announce(state, &app.shared, Origin::Socket(socket), body);
                self.note(app, || Fact::MemberRemoved(Arc::clone(user_id)));
            }
        }
        idle.extend(self.count(state, app));
        if state.subscribers == 0 {
            self.note(app, || Fact::Vacated);
        }
        self.touch(app);
        idle
    }

    /// Somebody who waits for the engine leaves again.
    fn give_up(&self, state: &mut State, app: &AppHub, ticket: &Arc<Ticket>) {
        if let Some(joint) = &mut state.joint {
            joint.give_up(ticket);
        }
        self.touch(app);
    }
}
