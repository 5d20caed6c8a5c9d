//! A user who has sockets on other nodes too, as those here who watch it are told.
//!
//! Every node says how many sockets a user has there. Only a node where somebody watches the user follows
//! what the others say.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::elsewhere::Elsewhere;
use super::users::{State, User};
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
}

impl Abroad {
    /// What the other nodes say has been heard. Otherwise it will be.
    pub(super) fn is_known(&self) -> bool {
        self.following.is_live()
    }

    /// It has a socket on another node.
    pub(super) fn is_there(&self) -> bool {
        !self.counts.is_empty()
    }

    /// It may still turn out to have one.
    pub(super) fn may_be_there(&self) -> bool {
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
        self.heard(state, shared);
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
        self.heard(state, shared);
    }

    /// What the other nodes say is known: those who wait for it are told, and so is what has changed.
    fn heard(self: &Arc<Self>, mut state: MutexGuard<'_, State>, shared: &Shared) {
        let telling = if state.watchers.iter().all(|(_, watching)| watching.waits) {
            let unknown = !state.is_somewhere() && state.may_be_elsewhere();
            let online = state.counts_as_online() || (unknown && state.is_online());
            state.set_first(online);
            false
        } else {
            self.set_by_what_is_known(&mut state, shared)
        };
        let waiting = state.end_waiting(&self.id);
        drop(state);
        // First: what has changed by now goes into the first frame of those who waited.
        self.tell(telling, shared);
        waiting.iter().for_each(|watcher| watcher.heard(&shared.formats));
    }

    /// Says whether the caller must tell the watchers.
    fn set_by_what_is_known(self: &Arc<Self>, state: &mut State, shared: &Shared) -> bool {
        if state.is_somewhere() {
            state.come_back()
        } else if state.counts_as_online() || !state.is_online() {
            // Its absence has begun, and is looked after; or it was never here.
            false
        } else {
            self.begin_absence(state, shared)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpStream;

    use super::*;
    use crate::cluster::{NodeId, Snapshot, Version};
    use crate::hub::fanout::Subscriber;
    use crate::hub::tests::{all_received, hub, socket};
    use crate::hub::watch::Watcher;

    /// Over at once, but an absence all the same.
    const DELAY: Duration = Duration::from_nanos(1);

    /// A user, and this node's shares of it as the engine has them written.
    struct Story {
        hub: Arc<AppHub>,
        user: Arc<User>,
        versions: u64,
        /// Some nodes have yet to write theirs.
        settling: bool,
    }

    impl Story {
        fn begin() -> Self {
            let hub = hub(1 << 20);
            let user = hub.user(&UserId::from("u"));
            Self { hub, user, versions: 0, settling: false }
        }

        /// Somebody begins to watch the user, while the engine is there.
        async fn watch(&self) -> (Subscriber, TcpStream) {
            let (who, far) = socket().await;
            let (mailbox, format) = (Arc::clone(&who.mailbox), who.format);
            let watcher = Arc::new(Watcher::gathering(Subscriber { mailbox, format }, 1, false));
            self.user.admit(&watcher, DELAY, || false).expect("not retired");
            watcher.heard(&self.hub.shared.formats);
            (who, far)
        }

        /// The share is written; another node has so many sockets.
        fn written(&mut self, elsewhere: usize) {
            self.versions += 1;
            let share = self.user.share(self.versions, true);
            assert!(share.snapshot);
            let counts = vec![(NodeId(7), elsewhere); usize::from(elsewhere > 0)];
            let written = Written {
                stamp: share.stamp,
                version: Version { world: 1, number: self.versions },
                refused: Vec::new(),
                told: std::time::Instant::now(),
                snapshot: Some(Snapshot { counts, settling: self.settling, ..Snapshot::default() }),
            };
            assert!(!self.user.written(&self.hub.shared, written));
        }

        /// The last socket that the user has here goes.
        fn leave(&self, slot: usize) {
            assert!(!self.user.leave(slot, DELAY, &self.hub.shared), "it is watched");
        }

        /// The agenda comes to the absence that has begun.
        fn absence_ends(&self) {
            Arc::clone(&self.user).absence_due(&self.hub.shared);
        }
    }

    /// Who came while others watched already was told with them what it had been told before.
    #[tokio::test]
    async fn who_comes_last_is_told_once() {
        let mut story = Story::begin();
        let early = story.watch().await;
        story.written(1);
        story.user.cut_off(&story.hub.shared);
        let late = story.watch().await;
        story.written(0);
        story.absence_ends();
        assert_eq!(all_received(early.0, early.1).await, "ox");
        assert_eq!(all_received(late.0, late.1).await, "ox", "away for a moment is not offline");
    }

    #[tokio::test]
    async fn who_comes_as_a_user_is_found_is_told_once() {
        let mut story = Story::begin();
        let early = story.watch().await;
        story.written(0);
        story.user.cut_off(&story.hub.shared);
        let late = story.watch().await;
        story.written(1);
        assert_eq!(all_received(early.0, early.1).await, "xo");
        assert_eq!(all_received(late.0, late.1).await, "o", "what it finds, and not what was");
    }

    /// The absence that begins here has nothing to say of one who is there after all.
    #[tokio::test]
    async fn who_turns_out_to_be_elsewhere_does_not_go_offline() {
        let mut story = Story::begin();
        let (socket, _far) = socket().await;
        let slot = story.user.enter(&socket.mailbox, &story.hub.shared).expect("not retired");
        let watcher = story.watch().await;
        story.leave(slot);
        story.written(1);
        story.absence_ends();
        assert_eq!(all_received(watcher.0, watcher.1).await, "o");
    }

    /// After an engine has come back empty, the others may write later than an absence here takes; whether it
    /// began before that or afterwards.
    #[tokio::test]
    async fn who_leaves_is_not_offline_before_all_others_have_said_who_is_there() {
        for (has_left, elsewhere, heard) in
            [(false, 1, "o"), (false, 0, "ox"), (true, 1, "o"), (true, 0, "ox")]
        {
            let mut story = Story::begin();
            let (socket, _far) = socket().await;
            let slot = story.user.enter(&socket.mailbox, &story.hub.shared).expect("not retired");
            let watcher = story.watch().await;
            story.written(0);
            story.user.cut_off(&story.hub.shared);
            if has_left {
                story.leave(slot);
            }
            story.settling = true;
            story.written(0);
            if !has_left {
                story.leave(slot);
            }
            story.absence_ends();
            story.settling = false;
            story.written(elsewhere);
            story.absence_ends();
            assert_eq!(all_received(watcher.0, watcher.1).await, heard);
        }
    }
}
