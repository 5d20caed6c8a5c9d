//! What any engine that joins nodes must do, tried on Redis: one server, and a Redis Cluster.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use common::redis_groups::Cluster;
use common::site::{LIMIT, Node, channel};
use common::{Redis, within};
use fanfare::cluster::{self, Engine, Fact, Order, Topic};
use fanfare::model::cluster::{ClusterSettings, EngineKind};

/// Short, for who waits for it to end, and longer than a busy machine holds anybody up.
const LEASE: Duration = Duration::from_secs(6);
const KEEP: Option<Duration> = Some(Duration::from_secs(60));

/// Makes engines that meet.
type Make<'a> = &'a dyn Fn() -> Arc<dyn Engine>;

fn redis(url: &str, prefix: &str) -> Arc<dyn Engine> {
    let settings = ClusterSettings {
        engine: EngineKind::Redis,
        url: url.to_owned(),
        prefix: prefix.to_owned(),
        lease: LEASE,
        timeout: LEASE / 2,
        ..ClusterSettings::default()
    };
    Arc::new(cluster::Redis::new(&settings).expect("an engine"))
}

async fn three(make: Make<'_>, told: Option<Duration>) -> [Node; 3] {
    [Node::start(make(), told).await, Node::start(make(), told).await, Node::start(make(), told).await]
}

fn users(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Facts of all nodes about members of a topic, in each node's order.
fn facts(nodes: &[Node], topic: &Topic) -> Vec<Fact> {
    let all = |node: &Node| node.site.state.lock().facts.clone();
    nodes.iter().flat_map(all).filter(|(of, _)| of == topic).map(|(_, fact)| fact).collect()
}

async fn joined_sets_are_true(make: Make<'_>) {
    let [a, b, c] = three(make, None).await;
    let room = channel("presence-room");
    a.join(&room, "ann", None);
    a.settled(&room).await;
    b.join(&room, "bob", None);
    b.knows(&room, "b sees ann", |known| known.users() == users(&["ann", "bob"])).await;
    a.knows(&room, "a sees bob", |known| known.users() == users(&["ann", "bob"])).await;
    c.listen(&room);
    c.knows(&room, "c sees both", |known| known.total() == 2 && known.members.len() == 2).await;
    b.join(&room, "ann", None);
    a.part(&room, "ann");
    c.knows(&room, "ann stays at b", |known| known.total() == 2 && known.members["ann"].len() == 1).await;
    assert_eq!(c.known(&room, |known| known.removals), 0);
    b.abandon(&room);
    c.knows(&room, "nobody is left", |known| known.total() == 0 && known.members.is_empty()).await;
    let seen = within(LIMIT, "a look", a.engine.look(&room, true)).await.expect("reached");
    assert_eq!((seen.subscriptions, seen.user_count), (0, 0));
    [a, b, c].iter().for_each(Node::nothing_was_wrong);
}

async fn a_user_comes_and_goes(make: Make<'_>, rounds: u32) {
    let nodes = three(make, Some(Duration::ZERO)).await;
    let room = channel("presence-busy");
    nodes[2].listen(&room);
    nodes[2].knows(&room, "it listens", |known| known.version.is_some()).await;
    come_and_go(&nodes, &room, rounds).await;
    for node in &nodes {
        node.knows(&room, "u is gone", |known| known.total() == 0 && known.users().is_empty()).await;
        node.nothing_was_wrong();
    }
    let members = |fact: &Fact| matches!(fact, Fact::MemberAdded(_) | Fact::MemberRemoved(_));
    let told = || facts(&nodes, &room).into_iter().filter(members).collect::<Vec<_>>();
    let even = || !told().is_empty() && told().len() % 2 == 0;
    common::eventually_within(LIMIT, "all is told", async || even()).await;
    let told = told();
    for (at, fact) in told.iter().enumerate() {
        let first = matches!(fact, Fact::MemberAdded(_));
        assert_eq!(first, at % 2 == 0, "fact {at} of {}", told.len());
    }
    let changes = nodes[2].known(&room, |known| known.additions + known.removals);
    println!("{rounds} rounds: {} facts, {changes} changes of the set", told.len());
}

/// One user, at either of two nodes or both, sometimes awaited and sometimes not.
async fn come_and_go(nodes: &[Node; 3], room: &Topic, rounds: u32) {
    let mut here = [false; 2];
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..rounds {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let at = (random % 2) as usize;
        if here[at] {
            nodes[at].part(room, "u")
        } else {
            nodes[at].join(room, "u", None)
        }
        here[at] = !here[at];
        match random >> 8 & 7 {
            0..3 => nodes[at].settled(room).await,
            3 => nodes[0].settled(room).await,
            _ if round % 2 == 0 => tokio::task::yield_now().await,
            _ => {}
        }
    }
    for (node, here) in nodes.iter().zip(here) {
        if here {
            node.part(room, "u");
        }
        node.settled(room).await;
    }
}

async fn a_full_topic_refuses(make: Make<'_>) {
    let [a, b, _] = three(make, None).await;
    let room = channel("presence-full");
    a.join(&room, "one", Some(2));
    a.settled(&room).await;
    b.join(&room, "two", Some(2));
    b.settled(&room).await;
    a.join(&room, "three", Some(2));
    a.knows(&room, "three is refused", |known| known.refused == ["three"]).await;
    a.join(&room, "two", Some(2));
    a.settled(&room).await;
    assert_eq!(a.known(&room, |known| known.refused.len()), 1);
    let seen = within(LIMIT, "a look", b.engine.look(&room, true)).await.expect("reached");
    assert_eq!(
        seen.users.iter().map(|user| user.to_string()).collect::<BTreeSet<_>>(),
        users(&["one", "two"])
    );
    assert_eq!((seen.user_count, seen.subscriptions), (2, 3));
    // What it did not let in is withdrawn from what it counts.
    b.knows(&room, "b counts what is there", |known| known.users() == users(&["one", "two"])).await;
}

async fn a_dead_node_is_withdrawn_once(make: Make<'_>) {
    let [a, b, dead] = three(make, None).await;
    let room = channel("presence-hall");
    for node in [&a, &b] {
        node.join(&room, "stays", None);
    }
    for user in 0..1000 {
        dead.join(&room, &format!("u{user}"), None);
    }
    for node in [&a, &b] {
        node.knows(&room, "all are there", |known| known.users().len() == 1001 && known.total() == 1002)
            .await;
    }
    dead.die();
    for node in [&a, &b] {
        node.knows(&room, "the dead are gone", |known| known.users().len() == 1 && known.total() == 2).await;
        assert_eq!(node.known(&room, |known| known.removals), 1000);
        node.nothing_was_wrong();
    }
    assert_eq!(a.engine.report().withdrawn + b.engine.report().withdrawn, 1);
}

async fn events_reach_who_listens(make: Make<'_>) {
    let [a, b, c] = three(make, None).await;
    let (topic, cached) = (channel("news"), channel("cache-news"));
    for node in [&a, &b] {
        node.listen(&topic);
        node.listen(&cached);
        node.settled(&topic).await;
        node.settled(&cached).await;
    }
    for number in 0..2000 {
        a.publish(&topic, &format!("a{number}"), None);
        b.publish(&topic, &format!("b{number}"), None);
        a.publish(&cached, &format!("a{number}"), KEEP);
        b.publish(&cached, &format!("b{number}"), KEEP);
    }
    for (node, from) in [(&a, "b"), (&b, "a")] {
        for topic in [&topic, &cached] {
            node.knows(topic, "all events", |known| known.events.len() == 2000).await;
            let wanted: Vec<_> = (0..2000).map(|number| format!("{from}{number}")).collect();
            assert_eq!(node.known(topic, |known| known.events.clone()), wanted);
        }
    }
    a.settled(&cached).await;
    b.settled(&cached).await;
    let seen = within(LIMIT, "a look", c.engine.look(&cached, false)).await.expect("reached");
    let (_, keep) = seen.cached.expect("a cached event");
    assert!(keep <= KEEP.unwrap());
    c.listen(&cached);
    c.knows(&cached, "c has a cached event", |known| known.cached.is_some()).await;
    let last = c.known(&cached, |known| known.cached.clone());
    for node in [&a, &b] {
        node.knows(&cached, "the same cached event", |known| known.cached == last).await;
    }
    assert_eq!((c.engine.report().received, c.engine.report().received_bytes), (0, 0));
    assert_eq!((a.engine.report().received, a.engine.report().published), (4000, 4000));
    assert_eq!(a.engine.report().queued_bytes, 0);
}

async fn a_channel_without_space_holds_up_others_once(make: Make<'_>) {
    let [a, b, _] = three(make, None).await;
    let (full, free) = (channel("full"), channel("free"));
    for topic in [&full, &free] {
        b.listen(topic);
        b.settled(topic).await;
    }
    b.site.state.lock().full.insert("full".to_owned());
    for number in 0..100 {
        a.publish(&full, &number.to_string(), None);
    }
    a.settled(&full).await;
    a.publish(&free, "x", None);
    b.knows(&free, "the other channel goes on", |known| known.events == ["x"]).await;
    common::eventually_within(LIMIT, "they are dropped", async || b.engine.report().dropped == 100).await;
    assert_eq!(b.engine.report().losses, 0);
    b.site.state.lock().full.clear();
    a.publish(&full, "y", None);
    b.knows(&full, "it goes on as well", |known| known.events.contains(&"y".to_owned())).await;
}

async fn facts_are_told_once(make: Make<'_>) {
    let nodes = three(make, Some(Duration::from_millis(1))).await;
    let room = channel("presence-told");
    nodes[0].join(&room, "u", None);
    nodes[1].join(&room, "u", None);
    nodes[0].settled(&room).await;
    nodes[1].settled(&room).await;
    nodes[0].abandon(&room);
    nodes[1].abandon(&room);
    let user = || Arc::from("u");
    let wanted = [Fact::Occupied, Fact::MemberAdded(user()), Fact::MemberRemoved(user()), Fact::Vacated];
    common::eventually_within(LIMIT, "four facts", async || facts(&nodes, &room).len() >= 4).await;
    let told = facts(&nodes, &room);
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(wanted.iter().all(|fact| told.contains(fact)), "{told:?}");
    let plain = channel("told");
    nodes[0].hold(&plain, |known| known.count = 7);
    let seven = Fact::Counted(7);
    common::eventually_within(LIMIT, "a count", async || facts(&nodes, &plain).contains(&seven)).await;
    let cached = channel("cache-told");
    nodes[0].listen(&cached);
    nodes[0].settled(&cached).await;
    for node in &nodes {
        node.engine.missed(&cached);
        node.settled(&cached).await;
    }
    common::eventually_within(LIMIT, "a miss", async || !facts(&nodes, &cached).is_empty()).await;
    nodes[0].publish(&cached, "x", Some(Duration::from_millis(1)));
    nodes[0].settled(&cached).await;
    common::eventually_within(LIMIT, "another miss", async || {
        nodes[1].engine.missed(&cached);
        nodes[1].settled(&cached).await;
        facts(&nodes, &cached).len() == 2
    })
    .await;
    assert_eq!(facts(&nodes, &cached), [Fact::CacheMiss, Fact::CacheMiss]);
}

async fn who_leaves_is_gone_and_the_last_tells(make: Make<'_>) {
    let nodes = three(make, Some(Duration::from_secs(3600))).await;
    let room = channel("presence-left");
    for node in &nodes {
        node.join(&room, "u", None);
        node.settled(&room).await;
    }
    for node in &nodes {
        node.site.state.lock().topics.remove(&room);
        node.engine.touch(&room);
        within(LIMIT, "it leaves", node.engine.leave()).await;
        assert!(node.engine.is_away(&room));
    }
    let told = facts(&nodes, &room);
    let gone = [Fact::MemberRemoved("u".into()), Fact::Vacated];
    assert!(gone.iter().all(|fact| told.contains(fact)), "{told:?}");
    assert_eq!(told.len(), 4, "{told:?}");
}

async fn lists_and_orders(make: Make<'_>) {
    let [a, b, c] = three(make, None).await;
    for number in 0..100 {
        let topic = channel(&format!("presence-{number}"));
        a.join(&topic, "u", None);
        b.join(&topic, &format!("v{number}"), None);
        a.settled(&topic).await;
        b.settled(&topic).await;
    }
    let list = within(LIMIT, "a list", c.engine.occupied(&"app".into(), "presence-1", true)).await;
    let list = list.expect("reached");
    assert_eq!(list.len(), 11);
    assert!(list.iter().all(|(_, tally)| tally.subscriptions == 2 && tally.users == 2), "{list:?}");
    let none = within(LIMIT, "a list", c.engine.occupied(&"ap*".into(), "", true)).await;
    assert_eq!(none.expect("reached"), []);
    a.engine.order(&"app".into(), Order::Terminate("u".into()));
    for node in [&b, &c] {
        node.until("the order", |state| state.orders == [Order::Terminate("u".into())]).await;
    }
    assert_eq!(a.site.state.lock().orders, []);
}

/// Everything, each by itself: `make` is given a name that only its engines have.
async fn suite(make: &dyn Fn(&str) -> Arc<dyn Engine>) {
    joined_sets_are_true(&|| make("sets")).await;
    a_user_comes_and_goes(&|| make("busy"), 1000).await;
    a_full_topic_refuses(&|| make("full")).await;
    events_reach_who_listens(&|| make("events")).await;
    a_channel_without_space_holds_up_others_once(&|| make("space")).await;
    facts_are_told_once(&|| make("facts")).await;
    lists_and_orders(&|| make("lists")).await;
    a_dead_node_is_withdrawn_once(&|| make("dead")).await;
    who_leaves_is_gone_and_the_last_tells(&|| make("left")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_does_all_of_it() {
    let servers = Cluster::start().await;
    let url = format!("redis-cluster://{}", servers.masters[0].address());
    suite(&|prefix| redis(&url, prefix)).await;
}

macro_rules! on_one_server {
    ($($name:ident $(($($arg:expr),*))?),* $(,)?) => {
        mod one_server {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let server = Redis::start().await;
                super::$name(&|| redis(&server.url(), "test") $(, $($arg),*)?).await;
            })*
        }
    };
}

on_one_server!(
    joined_sets_are_true,
    a_user_comes_and_goes(10_000),
    a_full_topic_refuses,
    a_dead_node_is_withdrawn_once,
    events_reach_who_listens,
    a_channel_without_space_holds_up_others_once,
    facts_are_told_once,
    who_leaves_is_gone_and_the_last_tells,
    lists_and_orders,
);
