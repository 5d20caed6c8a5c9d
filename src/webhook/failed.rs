//! What could not be delivered: kept for a while, to be looked at and sent again.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::model::app::AppId;
use crate::model::event::now_ms;

/// What a kept event costs beside its bytes.
const OVERHEAD: usize = 256;

/// An event that was given up.
#[derive(Debug, Clone)]
pub(super) struct FailedEvent {
    pub(super) app: AppId,
    pub(super) endpoint: usize,
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
            && self.endpoint.is_none_or(|endpoint| endpoint == failed.endpoint)
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
    endpoint: usize,
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
        let state = self.state.lock();
        let now = now_ms();
        let listed = state.events.iter().filter(|failed| selection.has(failed)).filter_map(|failed| {
            Some(Listed {
                app: &failed.app,
                endpoint: failed.endpoint,
                url: &failed.url,
                event: serde_json::from_slice(&failed.event).ok()?,
                created_ms: failed.created_ms,
                age_s: now.saturating_sub(failed.created_ms) / 1000,
                attempts: failed.attempts,
                reason: &failed.reason,
            })
        });
        let listed: Vec<_> = listed.collect();
        let failed = serde_json::to_string(&listed).unwrap_or_default();
        format!("{{\"failed\":{failed},\"forgotten\":{}}}", state.forgotten)
    }

    /// Takes the selected events out, the oldest first.
    pub(super) fn take(&self, selection: &Selection) -> Vec<FailedEvent> {
        let mut state = self.state.lock();
        let events = std::mem::take(&mut state.events);
        let (taken, kept): (Vec<_>, Vec<_>) = events.into_iter().partition(|failed| selection.has(failed));
        state.bytes = kept.iter().map(cost).sum();
        state.events = kept.into();
        taken
    }
}

fn cost(failed: &FailedEvent) -> usize {
    failed.event.len() + OVERHEAD
}
