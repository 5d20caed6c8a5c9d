//! What the hub has to do later: one list for all channels and users, worked off by one task.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::channel::Channel;
use super::users::User;
use super::{AppHub, Budget, Hub, Shared};

/// Something to do later. Each channel and each user has one at most.
pub(super) enum Job {
    /// Tell a channel's subscribers how many they are.
    Count(Weak<AppHub>, Arc<Channel>),
    /// See whether a user has stayed away.
    Absence(Arc<User>),
}

/// Names a job that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    due: Instant,
    number: u64,
}

/// Jobs, the one that is due first in front.
#[derive(Default)]
pub(super) struct Agenda {
    state: Mutex<State>,
    /// A new job is due before all others.
    earlier: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    jobs: BTreeMap<Ticket, Job>,
}

impl Agenda {
    /// Enters a job. May be called under any other lock of the hub.
    pub(super) fn add(&self, due: Instant, job: Job) -> Ticket {
        let mut state = self.state.lock();
        let is_first = state.jobs.first_key_value().is_none_or(|(first, _)| due < first.due);
        let ticket = Ticket { due, number: state.next };
        state.next += 1;
        state.jobs.insert(ticket, job);
        drop(state);
        if is_first {
            self.earlier.notify_one();
        }
        ticket
    }

    /// Forgets a job that has become needless, if it has not begun.
    pub(super) fn remove(&self, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket {
            self.state.lock().jobs.remove(&ticket);
        }
    }

    /// How many jobs wait.
    pub(super) fn len(&self) -> usize {
        self.state.lock().jobs.len()
    }

    fn first_due(&self) -> Option<Instant> {
        self.state.lock().jobs.first_key_value().map(|(first, _)| first.due)
    }

    fn take_due(&self, now: Instant) -> Option<Job> {
        let mut state = self.state.lock();
        let first = state.jobs.first_entry().filter(|first| first.key().due <= now)?;
        Some(first.remove())
    }
}

/// Does what is due, for ever.
pub async fn keep_agenda(hub: Arc<Hub>) {
    let agenda = &hub.shared.agenda;
    loop {
        match agenda.first_due() {
            None => agenda.earlier.notified().await,
            Some(due) => {
                tokio::select! {
                    () = sleep_until(due) => {}
                    () = agenda.earlier.notified() => {}
                }
            }
        }
        while let Some(job) = agenda.take_due(Instant::now()) {
            hub.shared.begin(job);
            // A job may write to as many sockets as a chunk has.
            tokio::task::yield_now().await;
        }
    }
}

impl Shared {
    fn begin(self: &Arc<Self>, job: Job) {
        match job {
            Job::Count(app, channel) => {
                let idle = app.upgrade().map(|app| channel.count_due(&app)).unwrap_or_default();
                self.start(idle, &mut Budget::none());
            }
            Job::Absence(user) => user.absence_due(self),
        }
    }
}
