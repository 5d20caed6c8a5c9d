//! When cached events end, and how many bytes they may take together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::AppHub;
use super::format::Published;
use crate::model::channel::ChannelName;
use crate::model::event::Event;

/// What an entry costs beside its event.
const OVERHEAD: usize = 512;

/// The last event of a cache channel.
pub(super) struct Cached {
    pub(super) published: Arc<Published>,
    pub(super) expires: Instant,
    number: u64,
}

/// Every cached event of the hub, the one that ends first in front.
pub(super) struct CacheIndex {
    limit: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    bytes: usize,
    entries: BTreeMap<(Instant, u64), Entry>,
}

struct Entry {
    app: Weak<AppHub>,
    channel: ChannelName,
    bytes: usize,
}

impl CacheIndex {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: AtomicUsize::new(limit), state: Mutex::default() }
    }

    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Enters the event that replaces `old` in a channel. Called under that channel's lock.
    pub(super) fn enter(
        &self,
        app: &Arc<AppHub>,
        published: Arc<Published>,
        expires: Instant,
        old: Option<Cached>,
    ) -> Cached {
        let mut state = self.state.lock();
        if let Some(old) = old {
            state.remove((old.expires, old.number));
        }
        let number = state.next;
        state.next += 1;
        // Once as the event, and once as the frame of those who came for it.
        let bytes = 2 * published.event.size() + OVERHEAD;
        state.bytes += bytes;
        let channel = published.event.channel.clone();
        state.entries.insert((expires, number), Entry { app: Arc::downgrade(app), channel, bytes });
        Cached { published, expires, number }
    }

    /// Forgets an event that its channel has given up.
    pub(super) fn forget(&self, cached: &Cached) {
        self.state.lock().remove((cached.expires, cached.number));
    }

    /// Ends every event whose time is over.
    pub(super) fn expire(&self) {
        let now = Instant::now();
        self.end_while(|state| {
            state.entries.first_key_value().is_some_and(|((expires, _), _)| *expires <= now)
        });
    }

    /// Ends the events that would end first, until the rest keeps the limit. A channel that
    /// loses its event this way answers a newcomer with a cache miss.
    pub(super) fn evict(&self) {
        self.end_while(|state| state.bytes > self.limit.load(Ordering::Relaxed));
    }

    /// Locks a channel only while the index is unlocked: the order is channel, then index.
    fn end_while(&self, mut over: impl FnMut(&State) -> bool) {
        loop {
            let entry = {
                let mut state = self.state.lock();
                if !over(&state) {
                    return;
                }
                let Some(first) = state.entries.first_key_value().map(|(key, _)| *key) else { return };
                let Some(entry) = state.remove(first) else { return };
                (first, entry)
            };
            let ((_, number), Entry { app, channel, .. }) = entry;
            if let Some(app) = app.upgrade() {
                app.drop_cached(&channel, number);
            }
        }
    }

    /// How many events are cached, and their bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.entries.len(), state.bytes)
    }
}

impl State {
    fn remove(&mut self, key: (Instant, u64)) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        self.bytes -= entry.bytes;
        Some(entry)
    }
}

impl Cached {
    pub(super) fn is_number(&self, number: u64) -> bool {
        self.number == number
    }

    /// The event and its time, unless that is over.
    pub(super) fn left(&self) -> Option<(Event, Duration)> {
        let left = self.expires.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| (self.published.event.clone(), left))
    }

    /// The event, unless its time is over.
    pub(super) fn fresh(&self) -> Option<&Arc<Published>> {
        (self.expires > Instant::now()).then_some(&self.published)
    }
}
