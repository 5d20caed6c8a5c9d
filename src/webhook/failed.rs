//! What could not be delivered: kept for a while, to be looked at and sent again.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::RawValue;

use super::place::Place;
use crate::model::app::AppId;
use crate::model::clock::now_ms;

/// What a kept event costs beside its bytes.
const OVERHEAD: usize = 256;

/// An event that was given up.
#[derive(Debug, Clone)]
pub(super) struct FailedEvent {
    pub(super) app: AppId,
    pub(super) endpoint: Arc<Place>,
    pub(super) url: Arc<str>,
    pub(super) event: Bytes,
    pub(super) created_ms: u64,
    pub(super) attempts: u32,
    pub(super) reason: Arc<str>,
}

/// Which failed events are meant.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Those of one app; `None`: of all.
    pub app: Option<String>,
    /// Those of the endpoint at this place in the app's list; `None`: of all.
    pub endpoint: Option<usize>,
}

impl Selection {
    fn has(&self, failed: &FailedEvent) -> bool {
        self.app.as_deref().is_none_or(|app| app == &*failed.app)
            && self.endpoint.is_none_or(|endpoint| failed.endpoint.index() == Some(endpoint))
    }
}

/// The failed events of all endpoints. Above its bounds it forgets the oldest.
#[derive(Debug)]
pub(super) struct Failed {
    max_events: usize,
    max_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<FailedEvent>,
    bytes: usize,
    forgotten: u64,
}

/// One failed event, as it is listed.
#[derive(Serialize)]
struct Listed<'a> {
    app: &'a str,
    endpoint: Option<usize>,
    url: &'a str,
    event: &'a RawValue,
    created_ms: u64,
    age_s: u64,
    attempts: u32,
    reason: &'a str,
}

impl Failed {
    pub(super) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self { max_events, max_bytes, state: Mutex::default() }
    }

    pub(super) fn add(&self, failed: FailedEvent) {
        let mut state = self.state.lock();
        // It would have no room even alone, and all others would go for it.
        if cost(&failed) > self.max_bytes {
            state.forgotten += 1;
            return;
        }
        state.bytes += cost(&failed);
        state.events.push_back(failed);
        while state.events.len() > self.max_events || state.bytes > self.max_bytes {
            let Some(oldest) = state.events.pop_front() else { break };
            state.bytes -= cost(&oldest);
            state.forgotten += 1;
        }
    }

    /// How many are kept.
    pub(super) fn len(&self) -> usize {
        self.state.lock().events.len()
    }

    /// A JSON object with the selected events, the oldest first.
    pub(super) fn list(&self, selection: &Selection) -> String {
        // Copied, which is cheap, and written without the lock: endpoints want to add to it.
        let (events, forgotten) = {
            let state = self.state.lock();
            let selected = state.events.iter().filter(|failed| selection.has(failed));
            (selected.cloned().collect::<Vec<_>>(), state.forgotten)
        };
        let now = now_ms();
        let listed: Vec<_> = events.iter().filter_map(|failed| Listed::of(failed, now)).collect();
        let failed = serde_json::to_string(&listed).unwrap_or_default();
        format!("{{\"failed\":{failed},\"forgotten\":{forgotten}}}")
    }

    /// Takes out those of the selected events, the oldest first, that `takes` takes. Returns how many.
    pub(super) fn release(
        &self,
        selection: &Selection,
        mut takes: impl FnMut(&FailedEvent) -> bool,
    ) -> usize {
        let mut state = self.state.lock();
        let before = state.events.len();
        state.events.retain(|failed| !(selection.has(failed) && takes(failed)));
        state.bytes = state.events.iter().map(cost).sum();
        before - state.events.len()
    }
}

impl<'a> Listed<'a> {
    fn of(failed: &'a FailedEvent, now_ms: u64) -> Option<Self> {
        Some(Self {
            app: &failed.app,
            endpoint: failed.endpoint.index(),
            url: &failed.url,
            event: serde_json::from_slice(&failed.event).ok()?,
            created_ms: failed.created_ms,
            age_s: now_ms.saturating_sub(failed.created_ms) / 1000,
            attempts: failed.attempts,
            reason: &failed.reason,
        })
    }
}

fn cost(failed: &FailedEvent) -> usize {
    failed.event.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(bytes: usize) -> FailedEvent {
        let event = format!("\"{}\"", "x".repeat(bytes - 2)).into();
        let (app, url, reason) = ("1".into(), "http://x/".into(), "down".into());
        FailedEvent { app, endpoint: Place::new(0), url, event, created_ms: 0, attempts: 1, reason }
    }

    fn forgotten(failed: &Failed) -> u64 {
        failed.state.lock().forgotten
    }

    /// One was once enough to empty the list, and was not on it either.
    #[test]
    fn what_is_larger_than_the_list_drives_nobody_out() {
        let list = Failed::new(10, 3 * (OVERHEAD + 10));
        (0..3).for_each(|_| list.add(failed(10)));
        list.add(failed(1000));
        assert_eq!((list.len(), forgotten(&list)), (3, 1));
        list.add(failed(10));
        assert_eq!((list.len(), forgotten(&list)), (3, 2), "the oldest");
        assert!(list.list(&Selection::default()).ends_with("\"forgotten\":2}"));
    }

    #[test]
    fn what_is_not_taken_stays() {
        let list = Failed::new(10, 1 << 20);
        (5..10).for_each(|bytes| list.add(failed(bytes)));
        assert_eq!(list.release(&Selection::default(), |failed| failed.event.len() < 7), 2);
        assert_eq!((list.len(), list.state.lock().bytes), (3, 3 * OVERHEAD + 7 + 8 + 9));
        let other = Selection { app: Some("2".to_owned()), endpoint: None };
        assert_eq!(list.release(&other, |_| true), 0);
    }
}
