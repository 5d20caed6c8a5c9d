//! Who is signed in, and on which sockets. Those who watch a user are told when it comes and goes;
//! see `watch`. Sockets on other nodes are in `abroad`.
//!
//! Locks: entry of the map → user → watcher → mailbox. Never together with a channel's, which this
//! never takes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use slab::Slab;
use tokio::time::Instant;

use super::abroad::Abroad;
use super::agenda::{Agenda, Job, Ticket};
use super::fanout::free;
use super::watch::{Telling, Watcher};
use super::{AppHub, Shared};
use crate::mailbox::Mailbox;
use crate::model::member::UserId;

/// A user who is signed in or watched. It lives in the map for as long.
pub(super) struct User {
    pub(super) id: UserId,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// Given back: no longer in the map. Whoever still holds it must look again.
    retired: bool,
    pub(super) sockets: Slab<Arc<Mailbox>>,
    pub(super) watchers: Slab<Watching>,
    /// Signed in, or was a moment ago: what watchers are to know.
    online: bool,
    /// What watchers know, or are being told.
    told: bool,
    /// Somebody tells them.
    telling: bool,
    /// How long it may be away before that counts.
    delay: Duration,
    /// Whoever is not back by then is offline.
    back_by: Option<Instant>,
    /// The job to see whether it has come back.
    absence_job: Option<Ticket>,
    /// What is known of other nodes, where there are any and somebody here watches.
    pub(super) abroad: Option<Box<Abroad>>,
}

/// Somebody who watches the user.
pub(super) struct Watching {
    pub(super) watcher: Arc<Watcher>,
    /// It has yet to be told how the user is: until then no change is told to it.
    pub(super) waits: bool,
}

/// A socket's sign-in, held by its session. It must be ended, not dropped.
pub struct SignIn {
    user: Arc<User>,
    slot: usize,
}

impl AppHub {
    /// Signs a socket in as the user who goes by `id`.
    pub fn sign_in(&self, id: &UserId, mailbox: &Arc<Mailbox>) -> SignIn {
        loop {
            let user = self.user(id);
            if let Some(slot) = user.enter(mailbox, &self.shared) {
                self.touch_user(id);
                return SignIn { user, slot };
            }
        }
    }

    /// Ends a socket's sign-in. Watchers are told when the user has no other for `offline_delay`.
    pub fn sign_out(&self, sign_in: SignIn, offline_delay: Duration) {
        let SignIn { user, slot } = sign_in;
        let vacant = user.leave(slot, offline_delay, &self.shared);
        self.touch_user(&user.id);
        if vacant {
            self.give_back_user(&user.id);
        }
    }

    /// The sockets that are signed in as `id` on this node.
    pub(super) fn sockets_of(&self, id: &str) -> Vec<Arc<Mailbox>> {
        let user = self.users.get(id).map(|user| Arc::clone(&user));
        user.map_or_else(Vec::new, |user| user.sockets())
    }

    /// How many users are signed in on this node.
    pub fn signed_in(&self) -> usize {
        // Nobody waits for the map while a user's lock is waited for.
        let users: Vec<_> = self.users.iter().map(|user| Arc::clone(&user)).collect();
        users.iter().filter(|user| !user.state.lock().sockets.is_empty()).count()
    }

    pub(super) fn user(&self, id: &UserId) -> Arc<User> {
        if let Some(user) = self.users.get(id) {
            return Arc::clone(&user);
        }
        let new = || Arc::new(User { id: Arc::clone(id), state: Mutex::default() });
        Arc::clone(&self.users.entry(Arc::clone(id)).or_insert_with(new))
    }

    /// Removes the user if there is nobody who is it or watches it. Where the engine has to be told
    /// first, it is removed when that is done, see `site`.
    pub(super) fn give_back_user(&self, id: &UserId) {
        if self.decides_alone(|| self.user_topic(id)) {
            self.users.remove_if(id, |_, user| user.retire(&self.shared.agenda));
        }
    }
}

impl User {
    pub(super) fn id(&self) -> &UserId {
        &self.id
    }

    fn sockets(&self) -> Vec<Arc<Mailbox>> {
        self.state.lock().sockets.iter().map(|(_, mailbox)| Arc::clone(mailbox)).collect()
    }

    /// `None` when the user is retired.
    pub(super) fn enter(self: &Arc<Self>, mailbox: &Arc<Mailbox>, shared: &Shared) -> Option<usize> {
        let mut state = self.state.lock();
        if state.retired {
            return None;
        }
        let slot = state.sockets.insert(Arc::clone(mailbox));
        let telling = state.come_back();
        drop(state);
        self.tell(telling, shared);
        Some(slot)
    }

    /// Says whether there is nobody any more who is this user or watches it.
    pub(super) fn leave(self: &Arc<Self>, slot: usize, delay: Duration, shared: &Shared) -> bool {
        let mut state = self.state.lock();
        free(&mut state.sockets, slot);
        state.delay = delay;
        if state.is_somewhere() {
            return state.is_vacant();
        }
        let telling = self.begin_absence(&mut state, shared);
        let vacant = state.is_vacant();
        drop(state);
        self.tell(telling, shared);
        vacant
    }

    /// The last socket has gone. Says whether the caller must tell the watchers.
    pub(super) fn begin_absence(self: &Arc<Self>, state: &mut State, shared: &Shared) -> bool {
        if state.watchers.is_empty() {
            return state.set_online(false);
        }
        if state.may_be_elsewhere() {
            // Whoever has yet to say decides.
            return false;
        }
        if state.delay.is_zero() {
            return state.set_online(false);
        }
        let back_by = Instant::now() + state.delay;
        state.back_by = Some(back_by);
        if state.absence_job.is_none() {
            state.absence_job = Some(shared.agenda.add(back_by, Job::Absence(Arc::clone(self))));
        }
        false
    }

    /// The agenda has come to this user.
    pub(super) fn absence_due(self: Arc<Self>, shared: &Shared) {
        let mut state = self.state.lock();
        state.absence_job = None;
        let telling = match state.back_by {
            None => false,
            // It was back, and has left again since.
            Some(back_by) if back_by > Instant::now() => {
                state.absence_job = Some(shared.agenda.add(back_by, Job::Absence(Arc::clone(&self))));
                false
            }
            Some(_) => {
                state.back_by = None;
                // Or whoever has yet to say decides.
                !state.may_be_elsewhere() && state.set_online(false)
            }
        };
        drop(state);
        self.tell(telling, shared);
    }

    /// Lets a watcher in, and tells it whether the user is online, or has it wait for other nodes to be
    /// heard; `None` when the user is retired.
    pub(super) fn admit(
        &self,
        watcher: &Arc<Watcher>,
        delay: Duration,
        decides_alone: impl FnOnce() -> bool,
    ) -> Option<usize> {
        let mut state = self.state.lock();
        if state.retired {
            return None;
        }
        state.delay = delay;
        // Under the lock: whatever is told from now on comes after this.
        watcher.gather(&self.id, state.told);
        let waits = !decides_alone() && !state.abroad.get_or_insert_default().is_known();
        if waits {
            watcher.miss();
        }
        Some(state.watchers.insert(Watching { watcher: Arc::clone(watcher), waits }))
    }

    /// Lets a watcher go. Says whether there is nobody any more who is this user or watches it.
    pub(super) fn dismiss(&self, slot: usize) -> bool {
        let mut state = self.state.lock();
        free(&mut state.watchers, slot);
        if state.is_vacant() {
            // Nobody is left who would have to be told.
            state.back_by = None;
            state.online = false;
            state.told = false;
            // Nothing of other nodes is followed from here on.
            state.abroad = None;
        }
        state.is_vacant()
    }

    /// What those who watch have to be told next; `None` when they know.
    pub(super) fn next_telling(&self) -> Option<Telling> {
        let mut state = self.state.lock();
        if state.told == state.online {
            state.telling = false;
            return None;
        }
        state.told = state.online;
        let told = state.watchers.iter().filter(|(_, watching)| !watching.waits);
        let watchers = told.map(|(_, watching)| Arc::clone(&watching.watcher)).collect();
        Some(Telling::new(Arc::clone(&self.id), state.told, watchers))
    }

    /// Whoever told the watchers cannot go on: the next change has somebody else do it.
    pub(super) fn stop_telling(&self) {
        self.state.lock().telling = false;
    }

    pub(super) fn retire(&self, agenda: &Agenda) -> bool {
        let mut state = self.state.lock();
        if state.is_vacant() {
            state.retired = true;
            agenda.remove(state.absence_job.take());
        }
        state.retired
    }
}

impl State {
    fn is_vacant(&self) -> bool {
        self.sockets.is_empty() && self.watchers.is_empty()
    }

    /// It has a socket, on whatever node.
    pub(super) fn is_somewhere(&self) -> bool {
        !self.sockets.is_empty() || self.abroad.as_ref().is_some_and(|abroad| abroad.is_there())
    }

    /// It may still turn out to have a socket on another node.
    pub(super) fn may_be_elsewhere(&self) -> bool {
        self.abroad.as_ref().is_some_and(|abroad| abroad.may_be_there())
    }

    /// Watchers are to know it as online.
    pub(super) fn is_online(&self) -> bool {
        self.online
    }

    /// It is online: it has a socket, or had one a moment ago.
    pub(super) fn counts_as_online(&self) -> bool {
        self.is_somewhere() || self.back_by.is_some()
    }

    /// It is back, or was never away.
    pub(super) fn come_back(&mut self) -> bool {
        self.back_by = None;
        self.set_online(true)
    }

    /// All who watch have yet to be told how the user is: nobody has to be told that it has changed.
    pub(super) fn set_first(&mut self, online: bool) {
        if self.is_somewhere() {
            self.back_by = None;
        }
        self.online = online;
        self.told = if self.telling { self.told } else { online };
    }

    /// Those who wait wait no more: they know what the others know, and are told what changes.
    pub(super) fn end_waiting(&mut self, id: &UserId) -> Vec<Arc<Watcher>> {
        let waiting = self.watchers.iter_mut().filter(|(_, watching)| watching.waits);
        let ended = waiting.map(|(_, watching)| {
            watching.waits = false;
            watching.watcher.correct(id, self.told);
            Arc::clone(&watching.watcher)
        });
        ended.collect()
    }

    /// Says whether the caller must tell the watchers. There is one at a time who does: so what they
    /// are told last is how it is.
    pub(super) fn set_online(&mut self, online: bool) -> bool {
        self.online = online;
        if self.watchers.is_empty() && !self.telling {
            self.told = online;
        }
        let begins = self.told != online && !self.telling;
        self.telling |= begins;
        begins
    }
}
