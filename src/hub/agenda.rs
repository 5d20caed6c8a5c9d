//! What the hub has to do later: one list for all channels and users, worked off by one task.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::channel::Channel;
use super::users::User;
use super::{Budget, Hub, Shared};

/// Jobs done before other tasks get their turn.
const JOBS_AT_ONCE: usize = 64;

/// Something to do later. Each channel and each user has one at most.
pub(super) enum Job {
    /// Tell a channel's subscribers how many they are.
    Count(Arc<Channel>),
    /// See whether a user has stayed away.
    Absence(Arc<User>),
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
    jobs: BTreeMap<(Instant, u64), Job>,
}

impl Agenda {
    /// Enters a job. May be called under any other lock of the hub.
    pub(super) fn add(&self, due: Instant, job: Job) {
        let mut state = self.state.lock();
        let is_first = state.jobs.first_key_value().is_none_or(|((first, _), _)| due < *first);
        let number = state.next;
        state.next += 1;
        state.jobs.insert((due, number), job);
        drop(state);
        if is_first {
            self.earlier.notify_one();
        }
    }

    /// How many jobs wait.
    pub(super) fn len(&self) -> usize {
        self.state.lock().jobs.len()
    }

    fn first_due(&self) -> Option<Instant> {
        self.state.lock().jobs.first_key_value().map(|((due, _), _)| *due)
    }

    fn take_due(&self, now: Instant) -> Option<Job> {
        let mut state = self.state.lock();
        let first = state.jobs.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }
}

impl Hub {
    /// Does what is due, for ever.
    pub async fn keep_agenda(&self) {
        let agenda = &self.shared.agenda;
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
            self.do_due_jobs().await;
        }
    }

    async fn do_due_jobs(&self) {
        let mut done = 0;
        while let Some(job) = self.shared.agenda.take_due(Instant::now()) {
            self.shared.begin(job);
            done += 1;
            if done % JOBS_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

impl Shared {
    fn begin(self: &Arc<Self>, job: Job) {
        match job {
            Job::Count(channel) => {
                let idle = channel.count_due(self);
                self.start(idle, &mut Budget::none());
            }
            Job::Absence(user) => user.absence_due(self),
        }
    }
}
