//! Topics whose share waits to be written, each once.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::cluster::Topic;

#[derive(Debug)]
pub(super) struct Dirty {
    state: Mutex<State>,
    wake: Notify,
    /// How many of those ever pushed have been written.
    written: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Topic>,
    /// Those in the queue, and whether the whole share is to be written.
    whole: HashMap<Topic, bool>,
    pushed: u64,
    /// The engine knows nothing of this node yet: everything is written in whole.
    joining: bool,
}

impl Dirty {
    pub(super) fn new() -> Self {
        let state = State { queue: VecDeque::new(), whole: HashMap::new(), pushed: 0, joining: true };
        Self { state: Mutex::new(state), wake: Notify::new(), written: watch::Sender::new(0) }
    }

    pub(super) fn push(&self, topic: &Topic, whole: bool) {
        let mut state = self.state.lock();
        let whole = whole || state.joining;
        if let Some(known) = state.whole.get_mut(topic) {
            *known |= whole;
            return;
        }
        state.whole.insert(topic.clone(), whole);
        state.queue.push_back(topic.clone());
        state.pushed += 1;
        drop(state);
        self.wake.notify_one();
    }

    /// The next topics, and whether the whole share of each is to be written; at least one.
    pub(super) async fn take(&self, most: usize) -> Vec<(Topic, bool)> {
        loop {
            let taken = self.take_now(most);
            if !taken.is_empty() {
                return taken;
            }
            self.wake.notified().await;
        }
    }

    fn take_now(&self, most: usize) -> Vec<(Topic, bool)> {
        let mut state = self.state.lock();
        let count = most.min(state.queue.len());
        let topics: Vec<Topic> = state.queue.drain(..count).collect();
        if state.queue.is_empty() {
            // What a rush has left behind need not be kept.
            state.queue.shrink_to(most);
        }
        let whole = |topic: Topic| state.whole.remove(&topic).map(|whole| (topic, whole));
        topics.into_iter().filter_map(whole).collect()
    }

    pub(super) fn written(&self, count: usize) {
        self.written.send_modify(|written| *written += count as u64);
    }

    pub(super) fn pushed(&self) -> u64 {
        self.state.lock().pushed
    }

    /// Whether so many of those pushed are written.
    pub(super) fn is_written(&self, pushed: u64) -> bool {
        *self.written.borrow() >= pushed
    }

    pub(super) fn progress(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// Everything has been written in whole once.
    pub(super) fn has_joined(&self) {
        self.state.lock().joining = false;
    }

    pub(super) fn is_joining(&self) -> bool {
        self.state.lock().joining
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().queue.len()
    }
}
