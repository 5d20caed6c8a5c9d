//! A channel that other nodes have too: the share that this node has in it, and what is known of theirs.
//!
//! Who comes waits until the engine has written down that it is here, and until this node knows what
//! the engine knew then: so everybody finds everybody who was told before. Who leaves has left at once,
//! and the engine is told.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::ahead::Ahead;
use super::shown::Shown;
use super::subscription::{Arrival, NotSubscribed, Terms, Ticket};
use super::{Channel, State};
use crate::cluster::{Change, Following, Next, NodeId, Snapshot, Topic, Version, Written};
use crate::hub::AppHub;
use crate::hub::elsewhere::Elsewhere;
use crate::hub::fanout::{Idle, Subscriber};
use crate::hub::format::Published;
use crate::model::event::{Body, Origin};
use crate::model::member::{Member, UserId};

/// What a channel has to do with other nodes.
#[derive(Default)]
pub(super) struct Joint {
    pub(super) following: Following<Step>,
    /// This node's own cached event, until the engine has numbered it.
    pub(super) ahead: Option<Ahead>,
    /// Who was shown what was cached.
    pub(super) shown: Shown,
    /// The cached event had to be forgotten here: the engine has to be asked for the next newcomer.
    pub(super) forgot_cached: bool,
    /// Subscribers on other nodes.
    counts: Elsewhere,
    /// Some nodes have yet to write their share again: until then nobody is taken for gone, and no
    /// number is told.
    settling: bool,
    /// The share that is being written, by its stamp.
    pub(super) asked: Option<u64>,
    /// Members of whom the engine may know something else than is true here.
    pub(super) unwritten: HashSet<UserId>,
    /// The engine was lost when it knew that somebody is here: these members, until it knows again.
    pub(super) known: Option<HashSet<UserId>>,
    pub(super) newcomers: Vec<Newcomer>,
}

/// Somebody who waits for the engine.
pub(super) struct Newcomer {
    subscriber: Subscriber,
    pub(super) terms: Terms,
    arrival: Arrival,
    ticket: Arc<Ticket>,
    pub(super) standing: Standing,
}

/// What the engine knows of a newcomer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Unknown,
    /// It is being written.
    Asked,
    /// It is written: it is let in when this node knows as much as that.
    Written(Version),
}

/// One of the numbered things that come from the engine.
pub(super) enum Step {
    Change(Change),
    Cached(Arc<Published>, Duration),
}

impl Joint {
    /// The engine has to be told of this member.
    pub(super) fn unwritten(&mut self, user_id: &UserId) {
        self.unwritten.insert(Arc::clone(user_id));
    }

    /// Subscribers on other nodes.
    pub(super) fn elsewhere(&self) -> usize {
        self.counts.sum()
    }

    pub(super) fn is_settling(&self) -> bool {
        self.settling
    }

    pub(super) fn has_newcomers(&self) -> bool {
        !self.newcomers.is_empty()
    }

    /// Somebody who waits leaves again.
    pub(super) fn give_up(&mut self, ticket: &Arc<Ticket>) {
        let Some(at) = self.newcomers.iter().position(|other| Arc::ptr_eq(&other.ticket, ticket)) else {
            return;
        };
        let newcomer = self.newcomers.remove(at);
        newcomer.subscriber.mailbox.answered();
        if let Some(member) = newcomer.terms.member {
            self.unwritten.insert(member.user_id);
        }
    }
}

impl Channel {
    pub(super) fn topic(&self, app: &AppHub) -> Topic {
        Topic::Channel(Arc::clone(&app.id), self.name.clone())
    }

    /// This node's share is another than before.
    pub(super) fn touch(&self, app: &AppHub) {
        if app.shared.is_joined {
            app.shared.engine.touch(&self.topic(app));
        }
    }

    /// Has a newcomer wait for the engine.
    pub(super) fn wait(
        &self,
        state: &mut State,
        app: &AppHub,
        subscriber: Subscriber,
        terms: Terms,
        arrival: Arrival,
    ) -> Arc<Ticket> {
        subscriber.mailbox.await_answer();
        let joint = state.joint.get_or_insert_default();
        if let Some(member) = &terms.member {
            joint.unwritten(&member.user_id);
        }
        let (ticket, standing) = (Arc::new(Ticket::new()), Standing::Unknown);
        let newcomer = Newcomer { subscriber, terms, arrival, ticket: Arc::clone(&ticket), standing };
        joint.newcomers.push(newcomer);
        self.touch(app);
        ticket
    }

    /// A share has been written: whoever was in it comes in, as soon as this node knows enough.
    pub(in crate::hub) fn written(self: &Arc<Self>, app: &Arc<AppHub>, written: Written) -> Idle {
        let mut state = self.state.lock();
        let Some(joint) = state.joint.as_deref_mut() else { return Idle::new() };
        if joint.asked != Some(written.stamp) {
            return Idle::new();
        }
        joint.asked = None;
        joint.known = None;
        for newcomer in joint.newcomers.iter_mut().filter(|it| it.standing == Standing::Asked) {
            newcomer.standing = Standing::Written(written.version);
        }
        self.refuse(joint, app, &written.refused);
        let mut idle = match written.snapshot {
            Some(snapshot) => {
                state.catch_up(written.told);
                self.begin(&mut state, app, written.version, snapshot)
            }
            None => Idle::new(),
        };
        idle.extend(self.let_in(&mut state, app));
        self.follow_again(&state, app);
        idle
    }

    /// There is no room for these users.
    fn refuse(&self, joint: &mut Joint, app: &AppHub, users: &[UserId]) {
        let refused = |it: &mut Newcomer| {
            let user_id = it.terms.member.as_ref().map(|member| &member.user_id);
            matches!(it.standing, Standing::Written(_)) && user_id.is_some_and(|id| users.contains(id))
        };
        if users.is_empty() {
            return;
        }
        for Newcomer { subscriber, arrival, ticket, .. } in joint.newcomers.extract_if(.., refused) {
            arrival(Err(NotSubscribed::Full));
            // A ticket is filled here only, once.
            let _ = ticket.set(None);
            subscriber.mailbox.answered();
        }
        self.touch(app);
    }

    /// Whoever the engine has written down comes in when everything before that is known here.
    fn let_in(self: &Arc<Self>, state: &mut State, app: &Arc<AppHub>) -> Idle {
        let Some(Joint { newcomers, following, .. }) = state.joint.as_deref_mut() else { return Idle::new() };
        let is_ready =
            |it: &mut Newcomer| matches!(it.standing, Standing::Written(version) if following.has(version));
        let ready: Vec<_> = newcomers.extract_if(.., is_ready).collect();
        self.seat_all(state, app, ready, |terms| terms.max_members = usize::MAX)
    }

    fn seat_all(
        self: &Arc<Self>,
        state: &mut State,
        app: &Arc<AppHub>,
        newcomers: Vec<Newcomer>,
        change: impl Fn(&mut Terms),
    ) -> Idle {
        let mut idle = Idle::new();
        for Newcomer { subscriber, mut terms, arrival, ticket, .. } in newcomers {
            change(&mut terms);
            let seated = self.admit(state, app, &subscriber, &terms, arrival).map(|(seated, started)| {
                idle.extend(started);
                seated
            });
            if seated.is_none() {
                // The engine has it down as somebody who is here.
                if let (Some(joint), Some(member)) = (&mut state.joint, terms.member) {
                    joint.unwritten(&member.user_id);
                }
                self.touch(app);
            }
            let _ = ticket.set(seated);
            subscriber.mailbox.answered();
        }
        idle
    }

    /// Something numbered has come from the engine.
    pub(super) fn step(
        self: &Arc<Self>,
        state: &mut State,
        app: &Arc<AppHub>,
        version: Version,
        step: Step,
    ) -> Idle {
        let Some(joint) = state.joint.as_deref_mut() else { return Idle::new() };
        joint.shown.come(version);
        match joint.following.next(version, step) {
            Next::Apply(step) => {
                let mut idle = self.apply(state, app, step);
                idle.extend(self.let_in(state, app));
                idle
            }
            Next::Nothing => Idle::new(),
            Next::Lost => {
                self.touch(app);
                Idle::new()
            }
        }
    }

    /// Other nodes' shares have changed.
    pub(in crate::hub) fn changed(self: &Arc<Self>, app: &Arc<AppHub>, change: Change) -> Idle {
        self.step(&mut self.state.lock(), app, change.version, Step::Change(change))
    }

    fn apply(self: &Arc<Self>, state: &mut State, app: &Arc<AppHub>, step: Step) -> Idle {
        let change = match step {
            Step::Change(change) => change,
            Step::Cached(published, ttl) => {
                self.keep_in_turn(state, app, published, ttl);
                return Idle::new();
            }
        };
        let mut idle = self.arrive(state, app, change.added);
        idle.extend(self.depart(state, app, change.removed));
        let Some(joint) = state.joint.as_deref_mut().filter(|_| !change.counts.is_empty()) else {
            return idle;
        };
        joint.counts.set(change.counts);
        idle.extend(self.count(state, app));
        idle
    }

    fn arrive(&self, state: &mut State, app: &AppHub, added: Vec<(NodeId, Member)>) -> Idle {
        let mut idle = Idle::new();
        for (node, member) in added {
            if state.members.get_or_insert_default().arrive(node, &member) {
                let Member { user_id, user_info } = member;
                let body = Body::MemberAdded { user_id, user_info };
                idle.extend(self.announce(state, &app.shared, Origin::Broker, body));
            }
        }
        idle
    }

    fn depart(&self, state: &mut State, app: &AppHub, removed: Vec<(NodeId, UserId)>) -> Idle {
        let mut idle = Idle::new();
        for (node, user_id) in removed {
            if state.members.as_mut().is_some_and(|members| members.depart(node, &user_id)) {
                let body = Body::MemberRemoved { user_id };
                idle.extend(self.announce(state, &app.shared, Origin::Broker, body));
            }
        }
        idle
    }

    /// Makes what is known of the other nodes what a snapshot says, and follows them from there.
    fn begin(
        self: &Arc<Self>,
        state: &mut State,
        app: &Arc<AppHub>,
        version: Version,
        snapshot: Snapshot,
    ) -> Idle {
        let gone = if snapshot.settling { Vec::new() } else { state.not_in(&snapshot) };
        let mut idle = self.arrive(state, app, snapshot.members);
        idle.extend(self.depart(state, app, gone));
        if let Some((event, ttl)) = snapshot.cached {
            self.keep_in_turn(state, app, Arc::new(Published::new(event)), ttl);
        }
        let Some(joint) = state.joint.as_deref_mut() else { return idle };
        if self.name.kind().cache {
            joint.shown.begin(version, app.shared.coming_seat());
        }
        joint.forgot_cached = false;
        joint.counts = snapshot.counts.into();
        joint.settling = snapshot.settling;
        let steps = joint.following.begin(version);
        idle.extend(self.count(state, app));
        for step in steps {
            idle.extend(self.apply(state, app, step));
        }
        idle
    }

    /// Asks for a snapshot if one is needed and none is under way.
    fn follow_again(&self, state: &State, app: &AppHub) {
        let joint = state.joint.as_deref().filter(|_| !state.is_deserted());
        if joint.is_some_and(|joint| !joint.following.is_live() && joint.asked.is_none()) {
            self.touch(app);
        }
    }

    /// The engine is away: whoever waits for it comes in by what is known here.
    pub(in crate::hub) fn cut_off(self: &Arc<Self>, app: &Arc<AppHub>) -> Idle {
        let mut state = self.state.lock();
        let known = state.known_to_the_engine();
        let Some(joint) = state.joint.as_deref_mut() else { return Idle::new() };
        joint.known = known;
        joint.following.forget();
        joint.asked = None;
        joint.ahead = None;
        // What was under way does not come any more, and the next link may count from a lower number.
        joint.shown = Shown::default();
        joint.settling = false;
        // Afterwards the engine is told of everybody.
        joint.unwritten = HashSet::new();
        let newcomers = std::mem::take(&mut joint.newcomers);
        let mut idle = self.seat_all(&mut state, app, newcomers, |_| {});
        idle.extend(self.count(&mut state, app));
        idle
    }
}
