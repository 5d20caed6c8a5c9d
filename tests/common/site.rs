//! A node that is nothing but what its engine needs: a model of the hub, which keeps what it was told
//! and what was wrong with it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use fanfare::cluster::{
    Change, Engine, Fact, Holding, NodeId, Order, Received, Share, Site, Snapshot, Topic, Version, Waiting,
    Written,
};
use fanfare::model::app::AppId;
use fanfare::model::member::Member;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use super::topics::channel;
use super::topics::{data, event};
use super::within;

pub const LIMIT: Duration = Duration::from_secs(30);

/// What a node knows of a topic.
#[derive(Default)]
pub struct Known {
    // Its own.
    pub listens: bool,
    pub count: usize,
    pub own: BTreeMap<String, Option<usize>>,
    dirty: BTreeSet<String>,
    pub refused: Vec<String>,
    /// Those of its own that the engine knew when it was lost.
    lost: Option<BTreeSet<String>>,
    // The others'.
    pub version: Option<Version>,
    wants: bool,
    early: Vec<Change>,
    pub counts: BTreeMap<NodeId, usize>,
    pub members: BTreeMap<String, BTreeSet<NodeId>>,
    pub cached: Option<String>,
    /// Every event, and every time that somebody else's last socket went or first came.
    pub events: Vec<String>,
    pub removals: usize,
    pub additions: usize,
    pub snapshots: usize,
}

impl Known {
    pub fn total(&self) -> usize {
        self.count + self.counts.values().sum::<usize>()
    }

    /// Users at this node and others.
    pub fn users(&self) -> BTreeSet<String> {
        self.own.keys().chain(self.members.keys()).cloned().collect()
    }

    fn apply(&mut self, change: Change, wrong: &mut Vec<String>) {
        self.version = Some(change.version);
        for (node, count) in change.counts {
            if count == 0 {
                self.counts.remove(&node)
            } else {
                self.counts.insert(node, count)
            };
        }
        for (node, member) in change.added {
            let nodes = self.members.entry(member.user_id.to_string()).or_default();
            self.additions += usize::from(nodes.is_empty());
            if !nodes.insert(node) {
                wrong.push(format!("{member:?} was added twice"));
            }
        }
        for (node, user) in change.removed {
            let nodes = self.members.entry(user.to_string()).or_default();
            if !nodes.remove(&node) {
                wrong.push(format!("{user} was removed without being there"));
            }
            if nodes.is_empty() {
                self.members.remove(&*user);
                self.removals += 1;
            }
        }
    }

    fn begin(&mut self, version: Version, snapshot: Snapshot, wrong: &mut Vec<String>) {
        self.snapshots += 1;
        self.wants = false;
        if self.version.is_some_and(|known| known.world == version.world && known.number > version.number) {
            // The changes that it lacks have been applied already.
            return;
        }
        self.version = Some(version);
        self.counts = snapshot.counts.into_iter().collect();
        let before = std::mem::take(&mut self.members);
        for (node, member) in snapshot.members {
            self.members.entry(member.user_id.to_string()).or_default().insert(node);
        }
        self.removals += before.keys().filter(|user| !self.members.contains_key(*user)).count();
        self.additions += self.members.keys().filter(|user| !before.contains_key(*user)).count();
        if let Some((event, _)) = snapshot.cached {
            self.cached = Some(data(&event));
        }
        for change in std::mem::take(&mut self.early) {
            self.changed(change, wrong);
        }
    }

    /// False when one was missed.
    fn changed(&mut self, change: Change, wrong: &mut Vec<String>) -> bool {
        let Some(known) = self.version else {
            self.early.push(change);
            return true;
        };
        if known.world != change.version.world {
            return false;
        }
        match change.version.number {
            number if number <= known.number => {}
            number if number == known.number + 1 => self.apply(change, wrong),
            _ => return false,
        }
        true
    }
}

#[derive(Default)]
pub struct State {
    pub topics: HashMap<Topic, Known>,
    pub facts: Vec<(Topic, Fact)>,
    pub orders: Vec<Order>,
    pub cut_offs: usize,
    pub wrong: Vec<String>,
    /// Channels that never have space.
    pub full: BTreeSet<String>,
    /// Times that the engine's queue had space again.
    pub spaces: usize,
    stamp: u64,
}

/// A node with its engine.
pub struct Node {
    pub engine: Arc<dyn Engine>,
    pub site: Arc<FakeSite>,
    task: JoinHandle<()>,
}

pub struct FakeSite {
    pub state: Mutex<State>,
    bell: watch::Sender<u64>,
    engine: Arc<dyn Engine>,
    told_after: Option<Duration>,
}

impl Node {
    /// Starts a node and waits until it has joined.
    pub async fn start(engine: Arc<dyn Engine>, told_after: Option<Duration>) -> Self {
        let node = Self::begin(engine, told_after);
        within(LIMIT, "the node joins", node.engine.joined()).await;
        node
    }

    pub fn begin(engine: Arc<dyn Engine>, told_after: Option<Duration>) -> Self {
        let site = Arc::new(FakeSite {
            state: Mutex::default(),
            bell: watch::Sender::new(0),
            engine: engine.clone(),
            told_after,
        });
        let task = tokio::spawn(engine.clone().run(site.clone()));
        Self { engine, site, task }
    }

    /// Stops without a word.
    pub fn die(&self) {
        self.task.abort();
    }

    /// Changes what this node holds of a topic.
    pub fn hold(&self, topic: &Topic, change: impl FnOnce(&mut Known)) {
        {
            let mut state = self.site.state.lock();
            let known = state.topics.entry(topic.clone()).or_default();
            change(known);
            known.listens = known.listens || known.count > 0;
        }
        self.engine.touch(topic);
    }

    pub fn listen(&self, topic: &Topic) {
        self.hold(topic, |known| known.listens = true);
    }

    pub fn join(&self, topic: &Topic, user: &str, limit: Option<usize>) {
        self.hold(topic, |known| {
            known.count += 1;
            known.own.insert(user.to_owned(), limit);
            known.dirty.insert(user.to_owned());
        });
    }

    pub fn part(&self, topic: &Topic, user: &str) {
        self.hold(topic, |known| {
            known.count -= 1;
            known.own.remove(user);
            known.dirty.insert(user.to_owned());
        });
    }

    /// Holds nothing of the topic any more.
    pub fn abandon(&self, topic: &Topic) {
        self.site.state.lock().topics.remove(topic);
        self.engine.touch(topic);
    }

    pub fn publish(&self, topic: &Topic, text: &str, keep: Option<Duration>) {
        let Topic::Channel(app, _) = topic else { panic!("{topic:?}") };
        self.engine.publish(app, &event(topic, text), keep);
    }

    pub async fn settled(&self, topic: &Topic) {
        within(LIMIT, "it settles", self.engine.settled(topic)).await;
    }

    pub async fn until(&self, what: &str, mut is: impl FnMut(&State) -> bool) {
        let mut bell = self.site.bell.subscribe();
        let done = async {
            while !is(&self.site.state.lock()) {
                bell.changed().await.expect("a site");
            }
        };
        within(LIMIT, what, done).await;
    }

    /// Waits until what this node knows of a topic is so.
    pub async fn knows(&self, topic: &Topic, what: &str, mut is: impl FnMut(&Known) -> bool) {
        self.until(what, |state| state.topics.get(topic).is_some_and(&mut is)).await;
    }

    pub fn known<T>(&self, topic: &Topic, take: impl FnOnce(&Known) -> T) -> T {
        take(self.site.state.lock().topics.get(topic).expect("a topic that is held"))
    }

    pub fn nothing_was_wrong(&self) {
        assert_eq!(self.site.state.lock().wrong, Vec::<String>::new());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeSite {
    fn ring(&self) {
        self.bell.send_modify(|rung| *rung += 1);
    }
}

impl Site for FakeSite {
    fn topics(&self, visit: &mut dyn FnMut(Topic)) {
        let topics: Vec<Topic> = self.state.lock().topics.keys().cloned().collect();
        topics.into_iter().for_each(visit);
    }

    fn share(&self, topic: &Topic, whole: bool) -> Share {
        let mut state = self.state.lock();
        state.stamp += 1;
        let stamp = state.stamp;
        let Some(known) = state.topics.get_mut(topic) else { return Share { stamp, ..Share::default() } };
        let dirty = std::mem::take(&mut known.dirty);
        let lost = known.lost.as_ref();
        let present = |(user, limit): (&String, &Option<usize>)| Holding::Present {
            member: Member { user_id: user.as_str().into(), user_info: Some("{\"n\":1}".into()) },
            limit: *limit,
            known: lost.is_some_and(|lost| lost.contains(user)),
        };
        let members = if whole {
            known.own.iter().map(present).collect()
        } else {
            let one = |user: &String| match known.own.get(user) {
                Some(limit) => present((user, limit)),
                None => Holding::Absent(user.as_str().into()),
            };
            dirty.iter().map(one).collect()
        };
        let snapshot = known.listens && (whole || known.version.is_none() || known.wants);
        let cached = known.cached.as_ref().filter(|_| whole);
        Share {
            counted: matches!(topic, Topic::Channel(_, name) if name.kind().is_counted()),
            stamp,
            listens: known.listens,
            count: known.count,
            members,
            snapshot,
            cached: cached.map(|text| (event(topic, text), Duration::from_secs(60))),
            told_after: self.told_after,
            known: lost.is_some(),
        }
    }

    fn written(&self, topic: &Topic, written: Written) {
        {
            let mut state = self.state.lock();
            let State { topics, wrong, .. } = &mut *state;
            let Some(known) = topics.get_mut(topic) else { return };
            known.lost = None;
            for user in written.refused {
                known.own.remove(&*user);
                known.count -= 1;
                known.refused.push(user.to_string());
            }
            for limit in known.own.values_mut() {
                *limit = None;
            }
            if let Some(snapshot) = written.snapshot {
                known.begin(written.version, snapshot, wrong);
            }
        }
        self.ring();
    }

    fn changed(&self, topic: &Topic, change: Change) {
        let missed = {
            let mut state = self.state.lock();
            let State { topics, wrong, .. } = &mut *state;
            let Some(known) = topics.get_mut(topic) else { return };
            let missed = !known.changed(change, wrong);
            known.wants |= missed;
            missed
        };
        if missed {
            self.engine.touch(topic);
        }
        self.ring();
    }

    fn received(&self, app: &AppId, received: Received) {
        {
            let topic = Topic::Channel(app.clone(), received.event.channel.clone());
            let mut state = self.state.lock();
            let State { topics, wrong, .. } = &mut *state;
            let Some(known) = topics.get_mut(&topic) else { return };
            let text = data(&received.event);
            if let Some((version, _)) = received.cached {
                known.cached = Some(text.clone());
                known.changed(Change { version, ..Change::default() }, wrong);
            }
            if !received.own {
                known.events.push(text);
            }
        }
        self.ring();
    }

    fn space<'a>(&'a self, topic: &'a Topic) -> Waiting<'a, ()> {
        let Topic::Channel(_, name) = topic else { panic!("{topic:?}") };
        if self.state.lock().full.contains(name.as_str()) {
            return Box::pin(std::future::pending());
        }
        Box::pin(std::future::ready(()))
    }

    fn space_made(&self) {
        self.state.lock().spaces += 1;
        self.ring();
    }

    fn told(&self, topic: &Topic, fact: Fact) {
        self.state.lock().facts.push((topic.clone(), fact));
        self.ring();
    }

    fn ordered(&self, _: &AppId, order: Order) {
        self.state.lock().orders.push(order);
        self.ring();
    }

    fn cut_off(&self, concerned: &dyn Fn(&Topic) -> bool) {
        {
            let mut state = self.state.lock();
            state.cut_offs += 1;
            for (topic, known) in &mut state.topics {
                if concerned(topic) {
                    // What it knew stands until there is a snapshot; changes in between are lost.
                    known.lost =
                        known.version.map(|_| known.own.keys().cloned().collect()).or(known.lost.take());
                    known.version = None;
                    known.early.clear();
                }
            }
        }
        self.ring();
    }
}
