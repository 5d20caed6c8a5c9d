//! Who watches whom: a socket is told when the users on its watchlist come and go. A change costs as
//! much as there are sockets that watch the user, whatever else there is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::fanout::{CHUNK, Subscriber};
use super::format::{Formats, MAX_FORMATS};
use super::users::User;
use super::{AppHub, Shared};
use crate::model::member::UserId;

/// A socket that watches users.
pub(super) struct Watcher {
    subscriber: Subscriber,
    state: Mutex<State>,
}

enum State {
    /// Who is online is being gathered; it is told in one frame when nobody is `missing` any more. What
    /// changes meanwhile goes in here.
    /// Where other nodes are asked, what the client sends meanwhile waits.
    Gathering {
        first: Vec<(UserId, bool)>,
        missing: usize,
        owed: bool,
    },
    Live,
    Ended,
}

/// A socket's watchlist, held by its session. It must be ended, not dropped.
pub struct Watch {
    watcher: Arc<Watcher>,
    watched: Vec<(Arc<User>, usize)>,
}

impl AppHub {
    /// Tells a socket which of the users are online, and from then on what changes. `ids` are
    /// distinct. It is told nothing more of the users that it watched `before`. Whoever is away for
    /// `offline_delay` is offline.
    pub fn watch(
        &self,
        subscriber: Subscriber,
        ids: &[UserId],
        before: Option<Watch>,
        offline_delay: Duration,
    ) -> Watch {
        if let Some(before) = &before {
            before.end();
        }
        let owed = self.shared.is_joined;
        if owed {
            subscriber.mailbox.await_answer();
        }
        let watcher = Arc::new(Watcher::gathering(subscriber, ids.len(), owed));
        let watched = ids.iter().map(|id| self.admit(id, &watcher, offline_delay)).collect();
        watcher.heard(&self.shared.formats);
        // Only now: a user who is away for a moment is forgotten once nobody watches.
        if let Some(before) = before {
            self.unwatch(before);
        }
        Watch { watcher, watched }
    }

    fn admit(&self, id: &UserId, watcher: &Arc<Watcher>, delay: Duration) -> (Arc<User>, usize) {
        loop {
            let user = self.user(id);
            let alone = || self.decides_alone(|| self.user_topic(id));
            if let Some(slot) = user.admit(watcher, delay, alone) {
                self.touch_user(id);
                return (user, slot);
            }
        }
    }

    /// Ends a socket's watchlist: it is told nothing more.
    pub fn unwatch(&self, watch: Watch) {
        watch.end();
        for (user, slot) in watch.watched {
            let vacant = user.dismiss(slot);
            self.touch_user(user.id());
            if vacant {
                self.give_back_user(user.id());
            }
        }
    }
}

impl Watch {
    fn end(&self) {
        let before = std::mem::replace(&mut *self.watcher.state.lock(), State::Ended);
        if matches!(before, State::Gathering { owed: true, .. }) {
            self.watcher.subscriber.mailbox.answered();
        }
    }
}

impl Watcher {
    /// One that has yet to be told of so many users.
    pub(super) fn gathering(subscriber: Subscriber, users: usize, owed: bool) -> Self {
        // One is missing until all users are named.
        let first = State::Gathering { first: Vec::with_capacity(users), missing: 1, owed };
        Self { subscriber, state: Mutex::new(first) }
    }

    /// Notes how a user is, before the first frame.
    pub(super) fn gather(&self, id: &UserId, online: bool) {
        if let State::Gathering { first, .. } = &mut *self.state.lock() {
            first.push((Arc::clone(id), online));
        }
    }

    /// How a user is has yet to be heard: [`Watcher::heard`] says when it is.
    pub(super) fn miss(&self) {
        if let State::Gathering { missing, .. } = &mut *self.state.lock() {
            *missing += 1;
        }
    }

    /// Notes how a user is after all.
    pub(super) fn correct(&self, id: &UserId, online: bool) {
        if let State::Gathering { first, .. } = &mut *self.state.lock() {
            first.iter_mut().filter(|(known, _)| known == id).for_each(|(_, was)| *was = online);
        }
    }

    /// Something that was missing has been heard. After the last, the first frame is written.
    pub(super) fn heard(&self, formats: &Formats) {
        let mut state = self.state.lock();
        let State::Gathering { first, missing, owed } = &mut *state else { return };
        *missing -= 1;
        if *missing > 0 {
            return;
        }
        let (online, offline): (Vec<_>, Vec<_>) = first.iter().cloned().partition(|(_, online)| *online);
        let ids = |group: Vec<(UserId, bool)>| group.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        let (online, offline) = (ids(online), ids(offline));
        if !online.is_empty() || !offline.is_empty() {
            let format = &formats[self.subscriber.format.index()];
            self.subscriber.mailbox.push(&format.encode_watched(&online, &offline));
        }
        if *owed {
            self.subscriber.mailbox.answered();
        }
        *state = State::Live;
    }

    fn tell(&self, id: &UserId, online: bool, frame: &Bytes) {
        match &mut *self.state.lock() {
            State::Gathering { first, .. } => {
                first.iter_mut().filter(|(known, _)| known == id).for_each(|(_, was)| *was = online);
            }
            State::Live => self.subscriber.mailbox.push(frame),
            State::Ended => {}
        }
    }
}

/// A user's change, on its way to those who watch.
pub(super) struct Telling {
    id: UserId,
    online: bool,
    watchers: Vec<Arc<Watcher>>,
    frames: [Option<Bytes>; MAX_FORMATS],
}

impl Telling {
    pub(super) fn new(id: UserId, online: bool, watchers: Vec<Arc<Watcher>>) -> Self {
        Self { id, online, watchers, frames: Default::default() }
    }

    /// Tells one chunk of the watchers. Says whether there are more.
    fn step(&mut self, formats: &Formats) -> bool {
        let rest = self.watchers.len().saturating_sub(CHUNK);
        for watcher in self.watchers.drain(rest..) {
            let format = watcher.subscriber.format.index();
            let frame = self.frames[format].get_or_insert_with(|| {
                let id = std::slice::from_ref(&self.id);
                let (online, offline) = if self.online { (id, &[][..]) } else { (&[][..], id) };
                formats[format].encode_watched(online, offline)
            });
            watcher.tell(&self.id, self.online, frame);
        }
        !self.watchers.is_empty()
    }
}

impl User {
    /// Tells those who watch, if it is for the caller to do: a few in place, many by a task.
    pub(super) fn tell(self: &Arc<Self>, begins: bool, shared: &Shared) {
        if !begins {
            return;
        }
        let mut teller =
            Teller { user: Arc::clone(self), formats: Arc::clone(&shared.formats), telling: None };
        if teller.step() {
            tokio::spawn(teller.run());
        }
    }
}

/// Tells those who watch a user. There is one at most for each user, while it is `telling`.
struct Teller {
    user: Arc<User>,
    formats: Formats,
    /// What is being told.
    telling: Option<Telling>,
}

impl Teller {
    /// Tells one chunk. Says whether there is more to do.
    fn step(&mut self) -> bool {
        let Some(mut telling) = self.telling.take().or_else(|| self.user.next_telling()) else {
            return false;
        };
        let more = telling.step(&self.formats);
        self.telling = more.then_some(telling).or_else(|| self.user.next_telling());
        self.telling.is_some()
    }

    async fn run(mut self) {
        while self.step() {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Teller {
    /// Should a panic end it, the next change is told by another.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.user.stop_telling();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::FormatId;
    use crate::mailbox::{Backlogs, Mailbox};
    use crate::model::socket::SocketId;
    use crate::model::transport::Transport;

    #[test]
    fn what_changes_while_the_first_state_is_gathered_goes_into_it() {
        let mailbox = Arc::new(Mailbox::new(
            SocketId::NOBODY,
            Transport::WebSocket,
            None,
            1024,
            Arc::new(Backlogs::new(0)),
            0,
        ));
        let subscriber = Subscriber { mailbox: Arc::clone(&mailbox), format: FormatId(0) };
        let watcher = Watcher::gathering(subscriber, 2, false);
        let ids = ["a", "b"].map(UserId::from);
        ids.iter().for_each(|id| watcher.gather(id, false));
        for (id, online) in [("b", true), ("a", true), ("a", false)] {
            watcher.tell(&UserId::from(id), online, &Bytes::from_static(b"a change"));
        }
        let state = watcher.state.lock();
        let State::Gathering { first, .. } = &*state else { panic!("it is live already") };
        assert_eq!(first[..], [(ids[0].clone(), false), (ids[1].clone(), true)]);
        assert_eq!(mailbox.queued(), 0, "nothing is told before the first state");
    }
}
