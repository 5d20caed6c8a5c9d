//! A user who has sockets on other nodes too, as those here who watch it are told.
//!
//! Every node says how many sockets a user has there. Only a node where somebody watches the user follows
//! what the others say.

use std::sync::Arc;

use super::elsewhere::Elsewhere;
use super::users::{State, User};
use super::watch::Watcher;
use super::{AppHub, Shared};
use crate::cluster::{Change, Following, Next, Order, Share, Topic, Written};
use crate::mailbox::close_all;
use crate::model::close::CloseReason;
use crate::model::member::UserId;

/// What is known of a user's sockets on other nodes.
#[derive(Default)]
pub(super) struct Abroad {
    following: Following<Change>,
    counts: Elsewhere,
    /// Some nodes have yet to say: until then the user is not taken for gone.
    settling: bool,
    /// The share that is being written, by its stamp.
    asked: Option<u64>,
    /// Watchers that wait for what the other nodes say.
    waiting: Vec<Arc<Watcher>>,
}

impl Abroad {
    /// Has a watcher wait, if there is anything to wait for.
    pub(super) fn admit(&mut self, watcher: &Arc<Watcher>) {
        if !self.following.is_live() {
            watcher.miss();
            self.waiting.push(Arc::clone(watcher));
        }
    }

    pub(super) fn dismiss(&mut self, watcher: &Arc<Watcher>) {
        self.waiting.retain(|other| !Arc::ptr_eq(other, watcher));
    }

    /// It has a socket on another node.
    pub(super) fn is_there(&self) -> bool {
        !self.counts.is_empty()
    }

    /// It may still turn out to have one.
    fn may_be_there(&self) -> bool {
        self.settling && self.counts.is_empty()
    }
}

impl AppHub {
    pub(super) fn user_topic(&self, id: &UserId) -> Topic {
        Topic::User(Arc::clone(&self.id), Arc::clone(id))
    }

    /// This node's share of a user is another than before.
    pub(super) fn touch_user(&self, id: &UserId) {
        if self.shared.is_joined {
            self.shared.engine.touch(&self.user_topic(id));
        }
    }

    /// Closes every socket that is signed in as `id`, on whatever node.
    pub async fn terminate(&self, id: &UserId) {
        self.shared.engine.order(&self.id, Order::Terminate(Arc::clone(id)));
        self.terminate_here(id).await;
    }

    /// Closes those of this node.
    pub(super) async fn terminate_here(&self, id: &UserId) {
        let sockets = self.sockets_of(id);
        tracing::debug!(app = %self.id, sockets = sockets.len(), "user terminated");
        // By a task: a caller that hangs up must not leave half of them. It cannot fail but by a panic.
        let _ = tokio::spawn(async move { close_all(&sockets, CloseReason::Terminated).await }).await;
    }
}

impl User {
    /// What this node holds. With `whole`, the engine knows nothing of it.
    pub(super) fn share(&self, stamp: u64, whole: bool) -> Share {
        let mut state = self.state.lock();
        let (count, listens) = (state.sockets.len(), !state.watchers.is_empty());
        if !listens {
            state.abroad = None;
            return Share { stamp, count, ..Share::default() };
        }
        let abroad = state.abroad.get_or_insert_default();
        abroad.asked = Some(stamp);
        let snapshot = whole || !abroad.following.is_live();
        if snapshot {
            // What has come until now is in it.
            abroad.following.forget();
        }
        Share { stamp, listens, count, snapshot, ..Share::default() }
    }

    /// A share has been written. Says whether another has to be, for its snapshot.
    pub(super) fn written(self: &Arc<Self>, shared: &Shared, written: Written) -> bool {
        let mut state = self.state.lock();
        let Some(abroad) = state.abroad.as_deref_mut().filter(|it| it.asked == Some(written.stamp)) else {
            return false;
        };
        abroad.asked = None;
        let Some(snapshot) = written.snapshot else { return !abroad.following.is_live() };
        abroad.counts = snapshot.counts.into();
        abroad.settling = snapshot.settling;
        for change in abroad.following.begin(written.version) {
            abroad.counts.set(change.counts);
        }
        let again = !abroad.following.is_live();
        let telling = self.heard(&mut state, shared);
        drop(state);
        self.tell(telling, shared);
        again
    }

    /// Another node's share has changed. Says whether a snapshot is needed.
    pub(super) fn changed(self: &Arc<Self>, shared: &Shared, change: Change) -> bool {
        let mut state = self.state.lock();
        let Some(abroad) = state.abroad.as_deref_mut() else { return false };
        match abroad.following.next(change.version, change) {
            Next::Nothing => return false,
            Next::Lost => return true,
            Next::Apply(change) => abroad.counts.set(change.counts),
        }
        let telling = self.set_by_what_is_known(&mut state, shared);
        drop(state);
        self.tell(telling, shared);
        false
    }

    /// The engine is away: those who wait are told what is known here.
    pub(super) fn cut_off(self: &Arc<Self>, shared: &Shared) {
        let mut state = self.state.lock();
        let Some(abroad) = state.abroad.as_deref_mut() else { return };
        abroad.following.forget();
        abroad.asked = None;
        abroad.settling = false;
        let telling = self.heard(&mut state, shared);
        drop(state);
        self.tell(telling, shared);
    }

    /// What the other nodes say is known: those who wait for it are told. Says whether the caller must
    /// tell the other watchers.
    fn heard(self: &Arc<Self>, state: &mut State, shared: &Shared) -> bool {
        let waiting = state.abroad.as_mut().map(|abroad| std::mem::take(&mut abroad.waiting));
        let waiting = waiting.unwrap_or_default();
        let unknown = !state.is_somewhere() && state.abroad.as_ref().is_some_and(|it| it.may_be_there());
        let online = state.counts_as_online() || (unknown && state.is_online());
        let telling = if waiting.len() == state.watchers.len() {
            state.set_first(online);
            false
        } else {
            self.set_by_what_is_known(state, shared)
        };
        for watcher in waiting {
            watcher.correct(&self.id, online);
            watcher.heard(&shared.formats);
        }
        telling
    }

    /// Says whether the caller must tell the watchers.
    fn set_by_what_is_known(self: &Arc<Self>, state: &mut State, shared: &Shared) -> bool {
        if state.is_somewhere() {
            state.come_back()
        } else if state.counts_as_online() || !state.is_online() {
            // Its absence has begun, and is looked after; or it was never here.
            false
        } else if state.abroad.as_ref().is_some_and(|abroad| abroad.may_be_there()) {
            false
        } else {
            self.begin_absence(state, shared)
        }
    }
}
