//! Replies kept by the keys that requests bear, so that a repeated request is answered again without
//! being carried out again (protocol.md §6.11).
//!
//! The lock of an app's keys is short, and never held while anybody waits.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dashmap::DashMap;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::http::{self, Reply};
use crate::model::app::{App, AppId};
use crate::model::clock::millis;

#[cfg(test)]
mod tests;

/// What a key takes beside itself, its fingerprint and its reply, about.
const OVERHEAD: usize = 384;

/// A hash of all that must be the same in a repeated request.
pub type Fingerprint = [u8; 32];

/// The keys of all apps. An app that never uses any has no entry.
pub struct Idempotency {
    apps: DashMap<AppId, Arc<Mutex<Keys>>>,
    started: Instant,
    patience_ms: AtomicU64,
}

/// What a request with a key has to do.
pub enum Turn {
    /// To be carried out: it is the first with its key.
    First(Claim),
    /// Nothing: this is the reply that the first one got.
    Again(Reply),
}

/// Why a request with a key is neither carried out nor answered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The key belongs to a request with another fingerprint.
    OtherRequest,
    /// The request that has the key did not end in time.
    UnderWay,
}

/// A key that belongs to a request under way. Dropped without a reply, it is free again.
pub struct Claim {
    keys: Arc<Mutex<Keys>>,
    key: Arc<str>,
    started: Instant,
    ttl_ms: u64,
    max_bytes: usize,
    outcome: watch::Sender<Option<Kept>>,
    is_kept: bool,
}

impl Idempotency {
    /// No keys. Requests wait for one another no longer than `patience`.
    pub fn new(patience: Duration) -> Self {
        Self { apps: DashMap::new(), started: Instant::now(), patience_ms: AtomicU64::new(millis(patience)) }
    }

    /// From now on they wait no longer than this.
    pub fn set_patience(&self, patience: Duration) {
        self.patience_ms.store(millis(patience), Ordering::Relaxed);
    }

    /// Finds out what a request of `app` that bears `key` has to do. While another one with this key
    /// is under way, it waits for its end; if that leaves no reply, the key goes to one that waited.
    ///
    /// # Errors
    /// See [`Denied`].
    pub async fn begin(&self, app: &App, key: &str, fingerprint: Fingerprint) -> Result<Turn, Denied> {
        let keys = self.keys_of(&app.id);
        let patience = Duration::from_millis(self.patience_ms.load(Ordering::Relaxed));
        let beginning = async {
            loop {
                let entered = keys.lock().enter(key, fingerprint, now_ms(self.started));
                let (mut outcome, is_same) = match entered {
                    Entered::First(key, outcome) => {
                        return Ok(Turn::First(self.claim(app, Arc::clone(&keys), key, outcome)));
                    }
                    Entered::Finished(kept) => return Ok(Turn::Again(kept.reply())),
                    Entered::Other => return Err(Denied::OtherRequest),
                    Entered::UnderWay(outcome, is_same) => (outcome, is_same),
                };
                // From the outcome itself: where little may be kept, the key can be forgotten by now.
                let kept = outcome.wait_for(Option::is_some).await.ok().and_then(|kept| kept.clone());
                match kept {
                    Some(kept) if is_same => return Ok(Turn::Again(kept.reply())),
                    Some(_) => return Err(Denied::OtherRequest),
                    None => {}
                }
            }
        };
        tokio::time::timeout(patience, beginning).await.unwrap_or(Err(Denied::UnderWay))
    }

    /// Gives back the memory of replies whose time is over.
    pub fn expire(&self) {
        let now_ms = now_ms(self.started);
        for keys in &self.apps {
            keys.lock().expire(now_ms);
        }
    }

    /// How many keys are held, and the bytes they are counted as; of all apps.
    pub fn size(&self) -> (usize, usize) {
        let sizes = self.apps.iter().map(|keys| {
            let keys = keys.lock();
            (keys.entries.len(), keys.bytes)
        });
        sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
    }

    fn keys_of(&self, id: &AppId) -> Arc<Mutex<Keys>> {
        if let Some(keys) = self.apps.get(id) {
            return Arc::clone(&keys);
        }
        Arc::clone(&self.apps.entry(Arc::clone(id)).or_default())
    }

    fn claim(
        &self,
        app: &App,
        keys: Arc<Mutex<Keys>>,
        key: Arc<str>,
        outcome: watch::Sender<Option<Kept>>,
    ) -> Claim {
        let ttl_ms = millis(app.limits.idempotency_ttl);
        let max_bytes = app.limits.max_idempotency_bytes;
        Claim { keys, key, started: self.started, ttl_ms, max_bytes, outcome, is_kept: false }
    }
}

impl Claim {
    /// The request was carried out: keeps its reply, and gives it to those who wait.
    pub fn keep(mut self, reply: &Reply) {
        self.is_kept = true;
        let kept = Kept::of(reply);
        let expires_ms = now_ms(self.started).saturating_add(self.ttl_ms);
        self.keys.lock().finish(&self.key, kept.clone(), expires_ms, self.max_bytes);
        self.outcome.send_replace(Some(kept));
    }
}

impl Drop for Claim {
    /// Those who wait learn of the end after this, and find the key free.
    fn drop(&mut self) {
        if !self.is_kept {
            self.keys.lock().remove(&self.key);
        }
    }
}

fn now_ms(started: Instant) -> u64 {
    millis(started.elapsed())
}

/// As much of a reply as is told again.
#[derive(Clone)]
struct Kept {
    status: StatusCode,
    content_type: Option<HeaderValue>,
    body: Bytes,
}

impl Kept {
    fn of(reply: &Reply) -> Self {
        let body = reply.body().whole().unwrap_or_default();
        // Copied: what it was written into may be larger than what is counted.
        let body = Bytes::copy_from_slice(&body);
        Self { status: reply.status(), content_type: reply.headers().get(CONTENT_TYPE).cloned(), body }
    }

    fn reply(&self) -> Reply {
        if let Some(content_type) = self.content_type.clone() {
            return http::reply(self.status, content_type, self.body.clone());
        }
        let mut reply = Response::new(self.body.clone().into());
        *reply.status_mut() = self.status;
        reply
    }
}

/// The keys of one app. Pure: the caller tells the time.
#[derive(Default)]
struct Keys {
    entries: HashMap<Arc<str>, Entry>,
    /// Those that have a reply, the oldest first.
    finished: BTreeMap<u64, Arc<str>>,
    next: u64,
    bytes: usize,
}

struct Entry {
    fingerprint: Fingerprint,
    bytes: usize,
    stage: Stage,
}

enum Stage {
    UnderWay(watch::Receiver<Option<Kept>>),
    Finished { kept: Kept, expires_ms: u64, number: u64 },
}

/// What a key was found to be.
enum Entered {
    First(Arc<str>, watch::Sender<Option<Kept>>),
    /// And whether it is for the same request.
    UnderWay(watch::Receiver<Option<Kept>>, bool),
    Finished(Kept),
    Other,
}

impl Keys {
    /// Looks a key up, and enters it if it is free.
    fn enter(&mut self, key: &str, fingerprint: Fingerprint, now_ms: u64) -> Entered {
        match self.entries.get(key) {
            Some(Entry { stage: Stage::Finished { expires_ms, .. }, .. }) if *expires_ms <= now_ms => {
                self.remove(key);
            }
            Some(entry) => return entry.found(fingerprint),
            None => {}
        }
        let (outcome, waiting) = watch::channel(None);
        let bytes = key.len() + size_of::<Fingerprint>() + OVERHEAD;
        self.bytes += bytes;
        let key: Arc<str> = Arc::from(key);
        self.entries.insert(Arc::clone(&key), Entry { fingerprint, bytes, stage: Stage::UnderWay(waiting) });
        Entered::First(key, outcome)
    }

    /// Gives a key under way its reply. The oldest replies are forgotten until all keys together
    /// keep the limit; keys under way are few and small, and stay.
    fn finish(&mut self, key: &Arc<str>, kept: Kept, expires_ms: u64, max_bytes: usize) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let number = self.next;
        self.next += 1;
        self.bytes += kept.body.len();
        entry.bytes += kept.body.len();
        entry.stage = Stage::Finished { kept, expires_ms, number };
        self.finished.insert(number, Arc::clone(key));
        while self.bytes > max_bytes
            && let Some((_, oldest)) = self.finished.pop_first()
        {
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &str) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.bytes -= entry.bytes;
        if let Stage::Finished { number, .. } = entry.stage {
            self.finished.remove(&number);
        }
    }

    /// Forgets the replies whose time is over.
    fn expire(&mut self, now_ms: u64) {
        // A reload may have changed how long they are kept. Those that end out of turn go with the
        // older ones; nobody is told of them meanwhile.
        while let Some((_, oldest)) = self.finished.first_key_value() {
            let oldest = Arc::clone(oldest);
            match self.entries.get(&oldest) {
                Some(entry) if !entry.is_over(now_ms) => break,
                _ => self.remove(&oldest),
            }
        }
        if self.entries.is_empty() {
            self.entries = HashMap::new();
        }
    }
}

impl Entry {
    fn is_over(&self, now_ms: u64) -> bool {
        matches!(self.stage, Stage::Finished { expires_ms, .. } if expires_ms <= now_ms)
    }

    fn found(&self, fingerprint: Fingerprint) -> Entered {
        let is_same = self.fingerprint == fingerprint;
        match &self.stage {
            Stage::UnderWay(outcome) => Entered::UnderWay(outcome.clone(), is_same),
            Stage::Finished { kept, .. } if is_same => Entered::Finished(kept.clone()),
            Stage::Finished { .. } => Entered::Other,
        }
    }
}
