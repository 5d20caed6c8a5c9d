//! A crowd that does everything at random on all nodes at once, beside a model of what is true of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tokio::task::JoinSet;

use super::ear::{Begun, CLIENT_TICK, TICK};
use super::nodes::PATIENCE;
use super::users::watching;
use super::{APP, Api, Client, Dice, HOME, Listener, Node, Nodes, Settings, eventually_within, settings};

const ROOMS: [&str; 2] = ["presence-a", "presence-b"];
const COUNTED: [&str; 3] = ["public", "private-a", "cache-a"];
const CHANNELS: [&str; 6] =
    ["public", "private-a", "cache-a", "presence-a", "presence-b", "presence-cache-a"];
/// Members and users.
const PEOPLE: u64 = 8;

/// What such a crowd needs.
pub fn lively() -> Settings {
    let settings = settings().feature("client_events", true).feature("watchlist_events", true);
    let settings = settings.feature("subscription_count", true).limit("client_events_per_second", 0);
    settings.limit("offline_delay", "200ms")
}

/// Everybody, and one observer on each node who stays in every channel and watches every user.
pub struct Crowd {
    actors: Vec<Actor>,
    observers: Vec<Listener>,
    begun: Arc<Begun>,
}

/// Somebody with one socket at a time.
struct Actor {
    name: String,
    nodes: Vec<SocketAddr>,
    dice: Dice,
    begun: Arc<Begun>,
    /// Requests may fail and events may be missed.
    forgiving: bool,
    sockets: u64,
    socket: Option<Listener>,
    /// Its channels, and as whom it is in them.
    channels: BTreeMap<&'static str, String>,
    signed_in: Option<String>,
}

impl Crowd {
    pub async fn gather(nodes: &Nodes, actors: usize, mut dice: Dice) -> Self {
        let begun = Arc::<Begun>::default();
        let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
        let mut observers = Vec::new();
        for (number, address) in addresses.iter().enumerate() {
            let observer = connect(*address, &begun).await;
            let people: Vec<_> = (0..PEOPLE).map(|person| format!("u{person}")).collect();
            let people: Vec<_> = people.iter().map(String::as_str).collect();
            observer.sign_in(&watching(&format!("observer-{number}"), &people)).await;
            for channel in CHANNELS {
                enter(&observer, channel, &format!("observer-{number}")).await;
            }
            observers.push(observer);
        }
        let actor = |number: usize| Actor {
            name: format!("a{number}"),
            nodes: addresses.clone(),
            dice: dice.child(),
            begun: Arc::clone(&begun),
            forgiving: false,
            sockets: 0,
            socket: None,
            channels: BTreeMap::new(),
            signed_in: None,
        };
        let actors = (0..actors).map(actor).collect();
        Self { actors, observers, begun }
    }

    /// Everybody does this many things.
    pub async fn live(mut self, steps: usize) -> Self {
        let mut living = JoinSet::new();
        for mut actor in self.actors.drain(..) {
            living.spawn(async move {
                for _ in 0..steps {
                    actor.step().await;
                }
                actor
            });
        }
        self.actors = living.join_all().await;
        self
    }

    /// Everybody goes on until it is told to stop; meanwhile events may get lost.
    pub async fn live_through(mut self, stop: Arc<AtomicBool>) -> Self {
        self.forgive(true);
        let mut living = JoinSet::new();
        for mut actor in self.actors.drain(..) {
            let stop = Arc::clone(&stop);
            living.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    actor.step().await;
                }
                actor
            });
        }
        self.actors = living.join_all().await;
        self
    }

    fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.observers.iter().chain(self.actors.iter().filter_map(|actor| actor.socket.as_ref()))
    }

    /// Events may get lost from here on, or not any more.
    fn forgive(&mut self, forgiving: bool) {
        for listener in self.listeners() {
            listener.forgive(forgiving);
        }
        for actor in &mut self.actors {
            actor.forgiving = forgiving;
        }
    }

    /// From here on nothing may be missed again.
    pub fn insist(&mut self) {
        self.forgive(false);
    }

    /// Everything that anybody can see is true by now, or becomes so.
    pub async fn is_true(&mut self, nodes: &Nodes) {
        let complete = self.actors.iter().all(|actor| !actor.forgiving);
        // Orders to close sockets may still be on the way.
        for room in ROOMS {
            eventually_within(PATIENCE, &format!("the truth about {room}"), async || {
                let (mut truth, sockets) = self.truth(room);
                truth.extend((0..self.observers.len()).map(|number| format!("observer-{number}")));
                let mut seen = true;
                for listener in self.listeners().filter(|listener| listener.is_in(room)) {
                    seen &= listener.look(|ear| ear.sub(room).members == truth);
                }
                seen && all_say(nodes, room, sockets + nodes.len(), Some(&truth)).await
            })
            .await;
        }
        for channel in COUNTED {
            eventually_within(PATIENCE, &format!("the number in {channel}"), async || {
                let count = self.truth(channel).1 + nodes.len();
                let told = |listener: &Listener| listener.look(|ear| ear.sub(channel).count);
                let seen = self.observers.iter().all(|observer| told(observer) == Some(count as u64));
                seen && all_say(nodes, channel, count, None).await
            })
            .await;
        }
        self.watchers_know().await;
        if complete {
            self.nothing_is_missing().await;
        }
        for node in nodes.iter() {
            node.lists(&CHANNELS).await;
        }
        for channel in ["cache-a", "presence-cache-a"] {
            same_kept(nodes, channel).await;
        }
        for listener in self.listeners() {
            listener.assert_right();
        }
        assert!(self.observers.iter().all(|observer| !observer.is_closed()), "an observer was closed");
    }

    /// The users of a channel, and its sockets.
    fn truth(&self, channel: &str) -> (BTreeSet<String>, usize) {
        let here = self.actors.iter().filter(|actor| actor.is_open());
        let users: Vec<_> = here.filter_map(|actor| actor.channels.get(channel).cloned()).collect();
        (users.iter().cloned().collect(), users.len())
    }

    async fn watchers_know(&self) {
        eventually_within(PATIENCE, "the truth about users", async || {
            let here = self.actors.iter().filter(|actor| actor.is_open());
            let truth: BTreeSet<_> = here.filter_map(|actor| actor.signed_in.clone()).collect();
            self.observers.iter().all(|observer| {
                observer.look(|ear| {
                    let online = ear.watched.iter().filter(|(_, online)| **online);
                    online.map(|(id, _)| id.clone()).collect::<BTreeSet<_>>() == truth
                })
            })
        })
        .await;
    }

    async fn nothing_is_missing(&self) {
        for channel in CHANNELS {
            for listener in self.listeners().filter(|listener| listener.is_in(channel)) {
                let what = format!("every event in {channel}");
                eventually_within(PATIENCE, &what, async || {
                    listener.is_closed() || listener.look(|ear| ear.is_complete(channel))
                })
                .await;
            }
        }
    }

    /// The events that were begun so far.
    pub fn published(&self) -> u64 {
        CHANNELS.iter().map(|channel| self.begun.of(channel).values().sum::<u64>()).sum()
    }
}

async fn all_say(nodes: &Nodes, channel: &str, sockets: usize, users: Option<&BTreeSet<String>>) -> bool {
    for node in nodes.iter() {
        let mut api = node.api();
        if api.subscribers(channel).await != sockets as u64 {
            return false;
        }
        if let Some(users) = users
            && api.users(channel).await != users.iter().cloned().collect::<Vec<_>>()
        {
            return false;
        }
    }
    true
}

async fn same_kept(nodes: &Nodes, channel: &str) {
    eventually_within(PATIENCE, &format!("the same in {channel} everywhere"), async || {
        let mut kept = BTreeSet::new();
        for node in nodes.iter() {
            kept.insert(Node::api(node).cached(channel).await);
        }
        kept.len() == 1
    })
    .await;
}

async fn connect(address: SocketAddr, begun: &Arc<Begun>) -> Listener {
    let mut client = Client::open(address, HOME, &[]).await.expect("the upgrade is completed");
    client.expect_established().await;
    Listener::knowing(client, begun)
}

async fn enter(listener: &Listener, channel: &str, id: &str) {
    match channel.starts_with("presence-") {
        true => listener.join(channel, id).await,
        false => listener.subscribe(channel).await,
    }
}

impl Actor {
    fn is_open(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| !socket.is_closed())
    }

    fn person(&mut self) -> String {
        format!("u{}", self.dice.below(PEOPLE))
    }

    /// Does one thing. A socket that is closed meanwhile was terminated.
    async fn step(&mut self) {
        if !self.is_open() {
            self.appear().await;
        }
        match self.dice.below(100) {
            0..30 => self.enter_or_leave().await,
            30..65 => self.publish().await,
            65..85 => self.whisper().await,
            85..92 => self.sign_in().await,
            92..95 => self.terminate().await,
            _ => self.socket = None,
        }
        if let Some(socket) = &self.socket {
            socket.assert_right();
            let closed = socket.look(|ear| ear.closed.as_ref().map(|(code, _)| *code));
            let terminated = self.signed_in.is_some() && closed == Some(4009);
            assert!(closed.is_none() || terminated, "{} was closed with {closed:?}", self.name);
        }
    }

    async fn appear(&mut self) {
        self.channels.clear();
        self.signed_in = None;
        self.sockets += 1;
        let address = *self.dice.pick(&self.nodes);
        let socket = connect(address, &self.begun).await;
        socket.forgive(self.forgiving);
        self.socket = Some(socket);
    }

    fn socket(&self) -> &Listener {
        self.socket.as_ref().expect("a socket")
    }

    async fn enter_or_leave(&mut self) {
        let channel = *self.dice.pick(&CHANNELS);
        let person = self.person();
        if self.channels.remove(channel).is_some() {
            self.socket().try_unsubscribe(channel).await;
        } else if self.socket().try_enter(channel, channel.starts_with("presence-").then_some(&person)).await
        {
            self.channels.insert(channel, person);
        }
    }

    /// Events that one backend publishes by one node keep their order.
    async fn publish(&mut self) {
        let channel = *self.dice.pick(&CHANNELS);
        let index = self.dice.index(self.nodes.len());
        let data = self.begun.next(channel, &format!("{}@{index}", self.name));
        let event = json!({"name": TICK, "channel": channel, "data": data});
        let reply = Api::new(self.nodes[index], APP).post("/events", &event).await;
        let refused = self.forgiving && reply.status == 503;
        assert!(reply.status == 200 || refused, "{reply:?}");
    }

    async fn whisper(&mut self) {
        let allowed = |channel: &&&str| channel.starts_with('p') && **channel != "public";
        let channels: Vec<_> = self.channels.keys().filter(allowed).copied().collect();
        if !channels.is_empty() {
            let channel = *self.dice.pick(&channels);
            let data = self.begun.next(channel, &format!("client-{}-{}", self.name, self.sockets));
            self.socket().send(json!({"event": CLIENT_TICK, "channel": channel, "data": data}));
            self.socket().try_round().await;
        }
    }

    async fn sign_in(&mut self) {
        let (person, friend) = (self.person(), self.person());
        let person = self.signed_in.clone().unwrap_or(person);
        // Whether it is told of success or closed: it is signed in until then.
        self.signed_in = Some(person.clone());
        self.socket().try_sign_in(&watching(&person, &[&friend])).await;
    }

    async fn terminate(&mut self) {
        let person = self.person();
        let address = *self.dice.pick(&self.nodes);
        Api::new(address, APP).terminate(&person).await;
    }
}
