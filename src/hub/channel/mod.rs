//! One channel: its order of events, its subscribers, its members and its cached event. What
//! belongs together is decided under one short lock.

mod ahead;
mod joint;
mod share;
mod shown;
mod subscription;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

pub use self::subscription::{NotSubscribed, Snapshot, Subscription, Terms};

use self::joint::{Joint, Step};
use self::subscription::Seated;
use super::agenda::{Agenda, Job, Ticket};
use super::cache::{CacheIndex, Cached};
use super::counting::{Counting, Tell};
use super::fanout::{Idle, Seat, Segment, Subscriber};
use super::format::Published;
use super::notice::Fact;
use super::presence::{Joined, Members};
use super::{AppHub, Draft, Shared};
use crate::cluster::Received;
use crate::mailbox::SeatId;
use crate::model::channel::ChannelName;
use crate::model::event::{Body, Event, Origin};
use crate::model::member::Member;

/// Joins and counts are let in until so many times the queue limit waits: publishers wait before that,
/// but a client whose join is refused has no second try, and who counts is not to be shut out by them.
const JOIN_QUEUES: usize = 4;

/// What is published: by somebody here, or with the identity that it got elsewhere.
pub(super) enum Parcel {
    Draft(Draft),
    Event(Event),
}

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
    /// What it has to do with other nodes, where there are any.
    joint: Option<Box<Joint>>,
}

impl Channel {
    pub(super) fn new(name: ChannelName) -> Self {
        Self { name, state: Mutex::default() }
    }

    pub(super) fn name(&self) -> &ChannelName {
        &self.name
    }

    /// Takes the parcel and gives it its place. `None` when the channel is retired. The segments
    /// returned were idle and must be started.
    pub(super) fn publish(
        &self,
        app: &Arc<AppHub>,
        parcel: &mut Option<Parcel>,
        cache_for: Option<Duration>,
    ) -> Option<Idle> {
        let mut state = self.state.lock();
        if state.retired {
            return None;
        }
        let Some(parcel) = parcel.take().filter(|_| state.subscribers > 0 || cache_for.is_some()) else {
            return Some(Idle::new());
        };
        let event = match parcel {
            Parcel::Draft(draft) => app.shared.event(&self.name, draft),
            Parcel::Event(event) => event,
        };
        self.note_client_event(app, &event);
        let Some(ttl) = cache_for else { return Some(state.append(Published::new(event).into())) };
        let published = Arc::new(Published::new(event.detached()));
        self.keep(&mut state, app, &published, ttl);
        if !app.decides_alone(|| self.topic(app)) {
            state.run_ahead(published.event.id);
        }
        Some(state.append(published))
    }

    /// Delivers an event from another node; caches it, or this node's own, when its turn comes.
    pub(super) fn receive(self: &Arc<Self>, app: &Arc<AppHub>, received: Received) -> Idle {
        let Received { event, own, cached } = received;
        let mut state = self.state.lock();
        let event = if cached.is_some() { event.detached() } else { event };
        let shown = |(version, _)| state.joint.as_deref()?.shown.since(version);
        let published = Arc::new(Published::new(event).sparing(cached.and_then(shown)));
        if own {
            self.come_back(&mut state, app, published.event.id);
        }
        let heard = !own && state.subscribers > 0;
        let mut idle = if heard { state.append(Arc::clone(&published)) } else { Idle::new() };
        if let Some((version, ttl)) = cached {
            idle.extend(self.step(&mut state, app, version, Step::Cached(published, ttl)));
        }
        idle
    }

    /// Caches an event.
    fn keep(&self, state: &mut State, app: &Arc<AppHub>, published: &Arc<Published>, ttl: Duration) {
        if state.cached.as_deref().and_then(Cached::fresh).is_none() {
            self.note(app, || Fact::CacheFilled);
        }
        let old = state.cached.take().map(|old| *old);
        let expires = std::time::Instant::now() + ttl;
        let cached = app.shared.cache.enter(app, Arc::clone(published), expires, old);
        state.cached = Some(Box::new(cached));
    }

    /// Lets somebody in: it becomes visible, and `arrival` tells it so. `None` when it is refused.
    fn admit(
        self: &Arc<Self>,
        state: &mut State,
        app: &Arc<AppHub>,
        subscriber: &Subscriber,
        terms: &Terms,
        arrival: impl FnOnce(Result<&Snapshot<'_>, NotSubscribed>),
    ) -> Option<(Seated, Idle)> {
        let shared = &app.shared;
        let joined = terms.member.as_ref().map(|member| self.join(state, shared, subscriber, member, terms));
        let joined = match joined.transpose() {
            Ok(joined) => joined.flatten(),
            Err(refused) => {
                arrival(Err(refused));
                return None;
            }
        };
        let id = shared.next_seat();
        subscriber.mailbox.cancel_owed(&self.name, id);
        let seated = state.seat(&self.name, subscriber, id);
        let cached = state.cached.as_deref().and_then(Cached::fresh);
        let cached = cached.map(|event| event.frame(subscriber.format, &shared.formats).clone());
        let member = terms.member.as_ref().filter(|_| joined.is_some());
        self.note_arrival(app, state, member, cached.is_none());
        arrival(Ok(&Snapshot { members: state.members.as_deref(), cached }));
        if terms.counted {
            state.counting.get_or_insert_default();
        }
        let mut idle = joined.unwrap_or_default();
        idle.extend(self.count(state, app));
        Some((seated, idle))
    }

    /// The event for the others is appended before the newcomer is seated, so it misses it. `None`
    /// when the user is here already.
    fn join(
        &self,
        state: &mut State,
        shared: &Shared,
        subscriber: &Subscriber,
        member: &Member,
        terms: &Terms,
    ) -> Result<Option<Idle>, NotSubscribed> {
        // A join is an event for everybody here, and brings another when the member leaves.
        if !state.has_space(shared.bounds.max_queue_bytes().saturating_mul(JOIN_QUEUES)) {
            return Err(NotSubscribed::Busy);
        }
        let socket = subscriber.mailbox.socket();
        match state.members.get_or_insert_default().join(member, socket, terms.max_members) {
            Joined::Full => Err(NotSubscribed::Full),
            Joined::Again => Ok(None),
            Joined::First => {
                let (user_id, user_info) = (Arc::clone(&member.user_id), member.user_info.clone());
                let body = Body::MemberAdded { user_id, user_info };
                Ok(Some(self.announce(state, shared, Origin::Socket(socket), body)))
            }
        }
    }

    /// Reports what becomes true, if somebody wants to know. Where there are other nodes, the engine
    /// tells what is true of all of them.
    fn note(&self, app: &AppHub, fact: impl FnOnce() -> Fact) {
        if !app.shared.is_joined {
            self.report(app, fact);
        }
    }

    /// Users' channels are nobody's business.
    pub(super) fn report(&self, app: &AppHub, fact: impl FnOnce() -> Fact) {
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
            if app.shared.is_joined && app.observer.get().is_some() {
                app.shared.engine.missed(&self.topic(app));
            }
        }
    }

    fn note_client_event(&self, app: &AppHub, event: &Event) {
        let (Origin::Socket(socket), Body::Message { name, data, user_id }) = (event.origin, &event.body)
        else {
            return;
        };
        self.report(app, || {
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
        if state.retired {
            return Idle::new();
        }
        let Some(mut counting) = state.counting.take() else { return Idle::new() };
        // While other nodes have yet to say how many they have, it is too early to tell.
        let settled = !state.joint.as_deref().is_some_and(Joint::is_settling);
        let limit = shared.bounds.max_queue_bytes().saturating_mul(JOIN_QUEUES);
        let has_space = settled && state.has_space(limit);
        let count = state.subscribers_anywhere();
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

    /// Retires the channel if it is vacant: the caller removes it from the map. Where the engine is there
    /// to keep the cached event, that holds nobody back.
    pub(super) fn retire(&self, agenda: &Agenda, cache: Option<&CacheIndex>) -> bool {
        let mut state = self.state.lock();
        if let (Some(cache), true) = (cache, state.is_deserted())
            && let Some(cached) = state.cached.take()
        {
            cache.forget(&cached);
        }
        if state.is_vacant() {
            state.retired = true;
            agenda.remove(state.count_job.take());
        }
        state.retired
    }

    /// Drops the cached event if it goes by `number`. Says whether the channel is vacant then.
    pub(super) fn drop_cached(&self, number: u64) -> bool {
        let mut state = self.state.lock();
        let dropped = state.cached.take_if(|cached| cached.is_number(number));
        // It may be cached elsewhere all the same: whoever comes next has to be told what is.
        if let (Some(joint), true) = (&mut state.joint, dropped.is_some()) {
            joint.forget_cached();
        }
        state.is_vacant()
    }

    /// Looks at the subscribers, members and cached event together; subscribers of other nodes are
    /// those that are known here.
    pub(super) fn look<T>(&self, look: impl FnOnce(usize, Option<&Members>, Option<&Cached>) -> T) -> T {
        let state = self.state.lock();
        look(state.subscribers_anywhere(), state.members.as_deref(), state.cached.as_deref())
    }

    /// The subscribers and members of this node.
    pub(super) fn counts_here(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.subscribers, state.members.as_ref().map_or(0, |members| members.len_here()))
    }
}

impl State {
    fn is_vacant(&self) -> bool {
        self.is_deserted() && self.cached.is_none()
    }

    /// Nobody is here or about to come.
    fn is_deserted(&self) -> bool {
        self.subscribers == 0 && !self.joint.as_deref().is_some_and(Joint::has_newcomers)
    }

    fn subscribers_anywhere(&self) -> usize {
        self.subscribers + self.joint.as_deref().map_or(0, Joint::elsewhere)
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
