//! What one socket hears, held against what may be heard: members come and go in turns, events of one
//! publisher come in order, once, and without a gap. The first thing that is wrong is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::client::Heard;
use super::data_of;
use super::users::watched_in;

/// The event whose data are `PUBLISHER:NUMBER`.
pub const TICK: &str = "tick";
/// The same from a client.
pub const CLIENT_TICK: &str = "client-tick";

/// What publishers have begun to publish: the next number of each in each channel.
#[derive(Debug, Default)]
pub struct Begun(Mutex<BTreeMap<String, BTreeMap<String, u64>>>);

impl Begun {
    /// The data of a publisher's next event in a channel.
    pub fn next(&self, channel: &str, publisher: &str) -> String {
        let mut begun = self.0.lock().expect("a lock");
        let next = begun.entry(channel.to_owned()).or_default().entry(publisher.to_owned()).or_default();
        *next += 1;
        format!("{publisher}:{}", *next - 1)
    }

    /// The next numbers in a channel.
    pub fn of(&self, channel: &str) -> BTreeMap<String, u64> {
        self.0.lock().expect("a lock").get(channel).cloned().unwrap_or_default()
    }
}

/// A channel, as it was heard since the last success.
#[derive(Debug, Default)]
pub struct Sub {
    /// How often a subscription succeeded.
    pub successes: u64,
    /// Who is there.
    pub members: BTreeSet<String>,
    /// Who came and went, over all subscriptions.
    pub added: u64,
    pub removed: u64,
    /// The last number of each publisher.
    pub last: BTreeMap<String, u64>,
    /// Ticks, over all subscriptions.
    pub ticks: u64,
    /// Of cache channels.
    pub misses: u64,
    /// How many subscribers there are.
    pub count: Option<u64>,
    /// What had begun when the success came: of what begins later, nothing may be missed.
    floor: BTreeMap<String, u64>,
}

/// What was heard.
#[derive(Default)]
pub struct Ear {
    pub subs: BTreeMap<String, Sub>,
    /// Of watched users, whether they are online.
    pub watched: BTreeMap<String, bool>,
    pub pongs: u64,
    pub sign_ins: u64,
    /// Everything else: events that are no ticks.
    pub others: Vec<Value>,
    /// The code and the reason; 0 without a close frame.
    pub closed: Option<(u16, String)>,
    pub fault: Option<String>,
    begun: Option<Arc<Begun>>,
    /// Events may be missing, as when the engine was away.
    forgiving: bool,
}

impl Ear {
    /// One that knows what is published.
    pub fn knowing(begun: &Arc<Begun>) -> Self {
        Self { begun: Some(Arc::clone(begun)), ..Self::default() }
    }

    /// From here on events may be missing, never doubled nor out of turn; or nothing may be missing of
    /// what begins from here on.
    pub fn forgive(&mut self, forgiving: bool) {
        if self.forgiving && !forgiving {
            for (channel, sub) in &mut self.subs {
                sub.floor = self.begun.as_ref().map(|begun| begun.of(channel)).unwrap_or_default();
                sub.last.clear();
            }
        }
        self.forgiving = forgiving;
    }

    /// A channel; one of which nothing was heard is empty.
    pub fn sub(&self, channel: &str) -> &Sub {
        static NOTHING: std::sync::LazyLock<Sub> = std::sync::LazyLock::new(Sub::default);
        self.subs.get(channel).unwrap_or(&NOTHING)
    }

    /// Everything that backends have begun in a channel has come. Clients do not hear themselves, and may
    /// be gone before what they say is taken.
    pub fn is_complete(&self, channel: &str) -> bool {
        let begun = self.begun.as_ref().map(|begun| begun.of(channel)).unwrap_or_default();
        let sub = self.sub(channel);
        let mut by_backends = begun.iter().filter(|(publisher, _)| !publisher.starts_with("client-"));
        by_backends.all(|(publisher, next)| match sub.last.get(publisher) {
            Some(last) => last + 1 == *next,
            None => *next == 0 || sub.floor.get(publisher) == Some(next),
        })
    }

    pub fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Frame(frame) => {
                if let Err(fault) = self.take_frame(&frame) {
                    self.fault.get_or_insert(format!("{fault}: {frame}"));
                }
            }
            Heard::Pong(_) => {}
            Heard::Closed { code, reason } => self.closed = Some((code, reason)),
            Heard::Gone => {
                self.closed.get_or_insert((0, String::new()));
            }
        }
    }

    fn take_frame(&mut self, frame: &Value) -> Result<(), String> {
        let channel = frame["channel"].as_str().unwrap_or_default();
        match frame["event"].as_str().unwrap_or_default() {
            "pusher:pong" => self.pongs += 1,
            "pusher:signin_success" => {
                self.sign_ins += 1;
                self.watched.clear();
            }
            "pusher_internal:watchlist_events" => return self.take_watched(frame),
            "pusher_internal:subscription_succeeded" => return self.succeeded(channel, frame),
            "pusher_internal:member_added" => {
                let sub = self.heard_in(channel)?;
                sub.added += 1;
                return insert(&mut sub.members, user_in(frame));
            }
            "pusher_internal:member_removed" => {
                let sub = self.heard_in(channel)?;
                sub.removed += 1;
                let known = sub.members.remove(&user_in(frame));
                return if known { Ok(()) } else { Err("removed, but was not there".to_owned()) };
            }
            "pusher_internal:subscription_count" => {
                self.heard_in(channel)?.count = data_of(frame)["subscription_count"].as_u64();
            }
            "pusher:cache_miss" => self.heard_in(channel)?.misses += 1,
            TICK | CLIENT_TICK => return self.take_tick(channel, frame),
            _ => self.others.push(frame.clone()),
        }
        Ok(())
    }

    fn heard_in(&mut self, channel: &str) -> Result<&mut Sub, String> {
        self.subs.get_mut(channel).ok_or_else(|| "without a subscription".to_owned())
    }

    fn succeeded(&mut self, channel: &str, frame: &Value) -> Result<(), String> {
        let floor = self.begun.as_ref().map(|begun| begun.of(channel)).unwrap_or_default();
        let sub = self.subs.entry(channel.to_owned()).or_default();
        let before = std::mem::take(sub);
        *sub = Sub { successes: before.successes + 1, added: before.added, floor, ..Sub::default() };
        (sub.removed, sub.ticks, sub.misses) = (before.removed, before.ticks, before.misses);
        let presence = data_of(frame)["presence"].take();
        for id in presence["ids"].as_array().into_iter().flatten() {
            insert(&mut sub.members, id.as_str().unwrap_or_default().to_owned())?;
        }
        let hash = presence["hash"].as_object().map_or(0, serde_json::Map::len);
        let count = presence["count"].as_u64().unwrap_or_default();
        let agree = hash == sub.members.len() && count == hash as u64;
        if agree { Ok(()) } else { Err("a list that contradicts itself".to_owned()) }
    }

    fn take_tick(&mut self, channel: &str, frame: &Value) -> Result<(), String> {
        let forgiving = self.forgiving;
        let knows = self.begun.is_some();
        let data = frame["data"].as_str().unwrap_or_default().trim_matches('"');
        let (publisher, number) = data.split_once(':').ok_or("no tick")?;
        let number: u64 = number.parse().map_err(|_| "no tick")?;
        let sub = self.heard_in(channel)?;
        sub.ticks += 1;
        let floor = sub.floor.get(publisher).copied().unwrap_or_default();
        match sub.last.insert(publisher.to_owned(), number) {
            Some(last) if number <= last => Err(format!("after {last}")),
            Some(last) if number > last + 1 && !forgiving => Err(format!("something missing after {last}")),
            None if knows && number > floor && !forgiving => {
                Err(format!("something missing: {floor} was not begun when the subscription succeeded"))
            }
            _ => Ok(()),
        }
    }

    fn take_watched(&mut self, frame: &Value) -> Result<(), String> {
        let (online, offline) = watched_in(frame);
        let told = online.into_iter().map(|id| (id, true));
        for (id, is) in told.chain(offline.into_iter().map(|id| (id, false))) {
            if self.watched.insert(id, is) == Some(is) {
                return Err("told twice".to_owned());
            }
        }
        Ok(())
    }
}

fn insert(members: &mut BTreeSet<String>, id: String) -> Result<(), String> {
    if members.insert(id) { Ok(()) } else { Err("added, but was there".to_owned()) }
}

fn user_in(frame: &Value) -> String {
    data_of(frame)["user_id"].as_str().unwrap_or_default().to_owned()
}
