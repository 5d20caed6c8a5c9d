//! One channel: its order of events, its subscribers, its members and its cached event. What
//! belongs together is decided under one short lock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::agenda::{Agenda, Job, Ticket};
use super::cache::Cached;
use super::counting::{Counting, Tell};
use super::fanout::{Idle, Seat, Segment, Subscriber};
use super::format::Published;
use super::notice::Fact;
use super::presence::{Joined, Left, Members};
use super::{AppHub, Draft, Shared};
use crate::mailbox::SeatId;
use crate::model::channel::ChannelName;
use crate::model::event::{Body, Event, Origin};
use crate::model::member::{Member, UserId};
use crate::model::socket::SocketId;

/// Joins and counts are let in until so many times the queue limit waits: publishers wait before that,
/// but a client whose join is refused has no second try, and who counts is not to be shut out by them.
const JOIN_QUEUES: usize = 4;

/// A channel. It lives in the map while somebody is subscribed or an event is cached.
pub(super) struct Channel {
    name: ChannelName,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Given back: no longer in the map. Whoever still holds it must look again.
    retired: bool,
    /// The place of the last event in the channel's order.
    position: u64,
    subscribers: usize,
    /// Nearly always one.
    segments: SmallVec<[Arc<Segment>; 1]>,
    // In boxes, since most channels have none of them.
    members: Option<Box<Members>>,
    cached: Option<Box<Cached>>,
    counting: Option<Box<Counting>>,
    /// The job to tell the number of subscribers.
    count_job: Option<Ticket>,
}

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

/// A socket's place in a channel, held by its session. It must be ended, not dropped.
pub struct Subscription {
    channel: Arc<Channel>,
    segment: Arc<Segment>,
    slot: usize,
    user_id: Option<UserId>,
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

impl Channel {
    pub(super) fn new(name: ChannelName) -> Self {
        Self { name, state: Mutex::default() }
    }

    /// Takes the draft and gives it its place. `None` when the channel is retired. The segments
    /// returned were idle and must be started.
    pub(super) fn publish(
        &self,
        app: &Arc<AppHub>,
        draft: &mut Option<Draft>,
        cache_for: Option<Duration>,
    ) -> Option<Idle> {
        let mut state = self.state.lock();
        if state.retired {
            return None;
        }
        let Some(draft) = draft.take().filter(|_| state.subscribers > 0 || cache_for.is_some()) else {
            return Some(Idle::new());
        };
        let event = app.shared.event(&self.name, draft);
        self.note_client_event(app, &event);
        let Some(ttl) = cache_for else { return Some(state.append(Published::new(event).into())) };
        let published = Arc::new(Published::new(event.detached()));
        if state.cached.as_deref().and_then(Cached::fresh).is_none() {
            self.note(app, || Fact::CacheFilled);
        }
        let old = state.cached.take().map(|old| *old);
        let cached =
            app.shared.cache.enter(app, Arc::clone(&published), std::time::Instant::now() + ttl, old);
        state.cached = Some(Box::new(cached));
        Some(state.append(published))
    }

    /// See [`AppHub::subscribe`]. `Ok(None)` when the channel is retired.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        app: &Arc<AppHub>,
        subscriber: &Subscriber,
        terms: &Terms,
        prefix: &mut Option<impl FnOnce(&Snapshot<'_>)>,
    ) -> Result<Option<(Subscription, Idle)>, NotSubscribed> {
        let mut state = self.state.lock();
        if state.retired {
            return Ok(None);
        }
        let shared = &app.shared;
        let member = terms.member.as_ref();
        let joined = match member {
            Some(member) => self.join(&mut state, shared, subscriber, member, terms.max_members)?,
            None => None,
        };
        let id = shared.next_seat();
        subscriber.mailbox.cancel_owed(&self.name, id);
        let (segment, slot) = state.seat(&self.name, subscriber, id);
        let cached = state.cached.as_deref().and_then(Cached::fresh);
        let cached = cached.map(|event| event.frame(subscriber.format, &shared.formats).clone());
        self.note_arrival(app, &state, member.filter(|_| joined.is_some()), cached.is_none());
        if let Some(prefix) = prefix.take() {
            prefix(&Snapshot { members: state.members.as_deref(), cached });
        }
        if terms.counted {
            state.counting.get_or_insert_default();
        }
        let mut idle = joined.unwrap_or_default();
        idle.extend(self.count(&mut state, app));
        let channel = Arc::clone(self);
        let user_id = member.map(|member| Arc::clone(&member.user_id));
        Ok(Some((Subscription { channel, segment, slot, user_id }, idle)))
    }

    /// The event for the others is appended before the newcomer is seated, so it misses it. `None`
    /// when the user is here already.
    fn join(
        &self,
        state: &mut State,
        shared: &Shared,
        subscriber: &Subscriber,
        member: &Member,
        limit: usize,
    ) -> Result<Option<Idle>, NotSubscribed> {
        // A join is an event for everybody here, and brings another when the member leaves.
        if !state.has_space(shared.settings.max_queue_bytes.saturating_mul(JOIN_QUEUES)) {
            return Err(NotSubscribed::Busy);
        }
        let socket = subscriber.mailbox.socket();
        match state.members.get_or_insert_default().join(member, socket, limit) {
            Joined::Full => Err(NotSubscribed::Full),
            Joined::Again => Ok(None),
            Joined::First => {
                let (user_id, user_info) = (Arc::clone(&member.user_id), member.user_info.clone());
                let body = Body::MemberAdded { user_id, user_info };
                Ok(Some(self.announce(state, shared, Origin::Socket(socket), body)))
            }
        }
    }

    /// Reports what becomes true, if somebody wants to know. Users' channels are nobody's business.
    fn note(&self, app: &AppHub, fact: impl FnOnce() -> Fact) {
        if let Some(observer) = app.observer.get().filter(|_| self.name.kind().is_listed()) {
            observer.note(&self.name, fact());
        }
    }

    fn note_arrival(&self, app: &AppHub, state: &State, member: Option<&Member>, cache_is_empty: bool) {
        if state.subscribers == 1 {
            self.note(app, || Fact::Occupied);
        }
        if let Some(member) = member {
            self.note(app, || Fact::MemberAdded(Arc::clone(&member.user_id)));
        }
        if cache_is_empty && self.name.kind().cache {
            self.note(app, || Fact::CacheMiss);
        }
    }

    fn note_client_event(&self, app: &AppHub, event: &Event) {
        let (Origin::Socket(socket), Body::Message { name, data, user_id }) = (event.origin, &event.body)
        else {
            return;
        };
        self.note(app, || {
            let (name, data, user_id) = (name.clone(), data.clone(), user_id.clone());
            Fact::ClientEvent { name, data, socket, user_id }
        });
    }

    /// Tells the subscribers how many they are, if that is due.
    fn count(self: &Arc<Self>, state: &mut State, app: &Arc<AppHub>) -> Idle {
        self.count_by(Counting::changed, state, app)
    }

    /// The same, when the agenda comes to this channel.
    pub(super) fn count_due(self: &Arc<Self>, app: &Arc<AppHub>) -> Idle {
        self.count_by(Counting::due, &mut self.state.lock(), app)
    }

    fn count_by(
        self: &Arc<Self>,
        ask: impl FnOnce(&mut Counting, usize, bool, Instant) -> Tell,
        state: &mut State,
        app: &Arc<AppHub>,
    ) -> Idle {
        let shared = &app.shared;
        let Some(mut counting) = state.counting.take().filter(|_| !state.retired) else { return Idle::new() };
        let has_space = state.has_space(shared.settings.max_queue_bytes.saturating_mul(JOIN_QUEUES));
        let count = state.subscribers;
        let tell = ask(&mut counting, count, has_space, Instant::now());
        state.counting = Some(counting);
        match tell {
            Tell::Now => {
                self.note(app, || Fact::Counted(count));
                self.announce(state, shared, Origin::Broker, Body::SubscriptionCount { count })
            }
            Tell::At(time) => {
                state.count_job =
                    Some(shared.agenda.add(time, Job::Count(Arc::downgrade(app), Arc::clone(self))));
                Idle::new()
            }
            Tell::Nothing => Idle::new(),
        }
    }

    fn announce(&self, state: &mut State, shared: &Shared, origin: Origin, body: Body) -> Idle {
        if state.subscribers == 0 {
            return Idle::new();
        }
        let event = shared.event(&self.name, Draft { origin, except: None, body, cache_for: None });
        state.append(Published::new(event).into())
    }

    pub(super) fn has_space(&self, limit: usize) -> bool {
        self.state.lock().has_space(limit)
    }

    /// Retires the channel if it is vacant: the caller removes it from the map.
    pub(super) fn retire(&self, agenda: &Agenda) -> bool {
        let mut state = self.state.lock();
        if state.is_vacant() {
            state.retired = true;
            agenda.remove(state.count_job.take());
        }
        state.retired
    }

    /// Drops the cached event if it goes by `number`. Says whether the channel is vacant then.
    pub(super) fn drop_cached(&self, number: u64) -> bool {
        let mut state = self.state.lock();
        state.cached.take_if(|cached| cached.is_number(number));
        state.is_vacant()
    }

    /// Looks at the subscribers, members and cached event together.
    pub(super) fn look<T>(&self, look: impl FnOnce(usize, Option<&Members>, Option<&Cached>) -> T) -> T {
        let state = self.state.lock();
        look(state.subscribers, state.members.as_deref(), state.cached.as_deref())
    }
}

impl State {
    fn is_vacant(&self) -> bool {
        self.subscribers == 0 && self.cached.is_none()
    }

    fn has_space(&self, limit: usize) -> bool {
        self.segments.iter().all(|segment| segment.queued() < limit)
    }

    fn append(&mut self, published: Arc<Published>) -> Idle {
        self.position += 1;
        let was_idle = |segment: &&Arc<Segment>| segment.append(self.position, &published);
        self.segments.iter().filter(was_idle).cloned().collect()
    }

    /// Seats a subscriber in the first segment with a free place.
    fn seat(&mut self, channel: &ChannelName, subscriber: &Subscriber, id: SeatId) -> (Arc<Segment>, usize) {
        self.subscribers += 1;
        let seat = Seat::new(subscriber, self.position + 1, id);
        for segment in &self.segments {
            if let Some(slot) = segment.seat(&seat) {
                return (Arc::clone(segment), slot);
            }
        }
        let (segment, slot) = Segment::with_first(channel, seat);
        self.segments.push(Arc::clone(&segment));
        (segment, slot)
    }

    fn unseat(&mut self, segment: &Arc<Segment>, slot: usize) {
        self.subscribers -= 1;
        let empty = segment.unseat(slot, self.position);
        if empty && self.segments.len() > 1 {
            self.segments.retain(|other| !Arc::ptr_eq(other, segment));
        }
    }
}

impl Subscription {
    /// Takes the socket out of the channel. Returns its name, the segments to start, and whether it
    /// is vacant.
    pub(super) fn end(self, socket: SocketId, app: &Arc<AppHub>) -> (ChannelName, Idle, bool) {
        let shared = &app.shared;
        let mut state = self.channel.state.lock();
        state.unseat(&self.segment, self.slot);
        let mut idle = Idle::new();
        if let (Some(user_id), Some(members)) = (&self.user_id, &mut state.members)
            && members.leave(user_id, socket) == Left::Last
        {
            let body = Body::MemberRemoved { user_id: Arc::clone(user_id) };
            idle = self.channel.announce(&mut state, shared, Origin::Socket(socket), body);
            self.channel.note(app, || Fact::MemberRemoved(Arc::clone(user_id)));
        }
        idle.extend(self.channel.count(&mut state, app));
        if state.subscribers == 0 {
            self.channel.note(app, || Fact::Vacated);
        }
        (self.channel.name.clone(), idle, state.is_vacant())
    }

    /// The member that the socket is in this channel.
    pub fn user_id(&self) -> Option<&UserId> {
        self.user_id.as_ref()
    }
}
