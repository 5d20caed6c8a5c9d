//! What the engine has done, and what it says in the log.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cluster::Report;

/// How often one kind of bad data is logged, at most.
const PERIOD: Duration = Duration::from_secs(60);

/// Nodes whose end was logged that are remembered.
const REMEMBERED: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Stats {
    published: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
    gaps: AtomicU64,
    unsent: AtomicU64,
    dropped: AtomicU64,
    losses: AtomicU64,
    withdrawn: AtomicU64,
    /// Why it was lost last.
    reason: Mutex<Option<String>>,
    /// It has been reached in whole once.
    joined: AtomicBool,
    /// The nodes that were withdrawn last, so that each is named once, and not for each partition.
    buried: Mutex<VecDeque<String>>,
    /// When bad data was logged last, and how much came since.
    complained: Mutex<(Option<Instant>, u64)>,
}

macro_rules! counters {
    ($($name:ident),*) => {
        $(pub(super) fn $name(&self, by: u64) {
            self.$name.fetch_add(by, Ordering::Relaxed);
        })*
    };
}

impl Stats {
    counters!(published, gaps, unsent, dropped, withdrawn);

    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(1, Ordering::Relaxed);
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// It cannot be reached, or no longer. Says so in the log once until it is back.
    pub(super) fn lost(&self, why: &str, was_up: bool) {
        if was_up {
            self.losses.fetch_add(1, Ordering::Relaxed);
        }
        if self.reason.lock().replace(why.to_owned()).is_none() {
            tracing::warn!(reason = why, "the cluster's engine cannot be reached");
        }
    }

    /// It is reached in whole, by the name and prefix of `where_to`.
    pub(super) fn back(&self, where_to: impl FnOnce() -> String) {
        let was_away = self.reason.lock().take().is_some();
        if !self.joined.swap(true, Ordering::Relaxed) {
            tracing::info!("joined the cluster: {}", where_to());
        } else if was_away {
            tracing::info!("the cluster's engine is back");
        }
    }

    /// Another node is gone, and this one withdraws some of what it held.
    pub(super) fn withdraws(&self, node: &str) {
        let mut buried = self.buried.lock();
        if !buried.iter().any(|known| known == node) {
            buried.push_back(node.to_owned());
            if buried.len() > REMEMBERED {
                buried.pop_front();
            }
            tracing::info!(node, "a node is gone: what it held is withdrawn");
        }
    }

    /// Something came that cannot be read. It is dropped.
    pub(super) fn bad_data(&self, what: &str) {
        let mut complained = self.complained.lock();
        complained.1 += 1;
        if complained.0.is_none_or(|at| at.elapsed() >= PERIOD) {
            tracing::warn!(count = complained.1, "dropped what came from the cluster's engine: {what}");
            *complained = (Some(Instant::now()), 0);
        }
    }

    /// Everything but the queues.
    pub(super) fn report(&self) -> Report {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Report {
            away: self.reason.lock().clone(),
            published: load(&self.published),
            received: load(&self.received),
            received_bytes: load(&self.received_bytes),
            gaps: load(&self.gaps),
            unsent: load(&self.unsent),
            dropped: load(&self.dropped),
            losses: load(&self.losses),
            withdrawn: load(&self.withdrawn),
            ..Report::default()
        }
    }
}
