//! What is Redis's own about the engine that joins nodes by it: how it is found and signed in to, and
//! what becomes of nodes when it is lost or forgets.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::redis::free_port;
use common::redis_groups::{Cluster, Sentinel};
use common::site::{LIMIT, Node, channel};
use common::{Redis, eventually_within, within};
use fanfare::cluster::{self, Engine};
use fanfare::model::cluster::{ClusterSettings, EngineKind};

const KEEP: Option<Duration> = Some(Duration::from_secs(60));

fn settings(url: &str) -> ClusterSettings {
    ClusterSettings {
        engine: EngineKind::Redis,
        url: url.to_owned(),
        prefix: "test".to_owned(),
        // Short, for who waits for them to end, and longer than a busy machine holds anybody up.
        lease: Duration::from_secs(6),
        timeout: Duration::from_secs(3),
        ..ClusterSettings::default()
    }
}

fn engine(settings: &ClusterSettings) -> Arc<dyn Engine> {
    Arc::new(cluster::Redis::new(settings).expect("an engine"))
}

async fn two(settings: &ClusterSettings) -> [Node; 2] {
    [Node::start(engine(settings), None).await, Node::start(engine(settings), None).await]
}

/// Two nodes that do what nodes do, in topics of every partition.
async fn works(nodes: &[Node; 2], names: &str) {
    let [a, b] = nodes;
    for number in 0..64 {
        let topic = channel(&format!("presence-{names}-{number}"));
        a.join(&topic, "ann", None);
        b.join(&topic, "bob", None);
    }
    for number in 0..64 {
        let topic = channel(&format!("presence-{names}-{number}"));
        for node in nodes {
            node.knows(&topic, "both", |known| known.total() == 2 && known.users().len() == 2).await;
        }
        a.publish(&topic, "plain", None);
        a.publish(&topic, "cached", KEEP);
        b.knows(&topic, "two events", |known| known.events == ["plain", "cached"]).await;
    }
    let (app, prefix) = ("app".into(), format!("presence-{names}"));
    let list = within(LIMIT, "a list", a.engine.occupied(&app, &prefix, true)).await;
    assert_eq!(list.expect("reached").len(), 64);
    nodes.iter().for_each(Node::nothing_was_wrong);
}

async fn is_back(nodes: &[Node]) {
    for node in nodes {
        eventually_within(LIMIT, "it is back", async || node.engine.report().away.is_none()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_forgets_is_written_again() {
    let server = Redis::start().await;
    let nodes = two(&settings(&server.url())).await;
    works(&nodes, "a").await;
    server.flush().await;
    for node in &nodes {
        eventually_within(LIMIT, "it has noticed", async || node.engine.report().losses > 0).await;
    }
    is_back(&nodes).await;
    for number in 0..64 {
        let topic = channel(&format!("presence-a-{number}"));
        eventually_within(LIMIT, "both are there", async || {
            let seen = nodes[0].engine.look(&topic, true).await;
            seen.is_ok_and(|seen| seen.subscriptions == 2 && seen.user_count == 2)
        })
        .await;
        for node in &nodes {
            node.knows(&topic, "both", |k| k.total() == 2 && k.users().len() == 2 && k.version.is_some())
                .await;
        }
    }
    works(&nodes, "b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_forgets_is_not_told_again() {
    let server = Redis::start().await;
    let settings = settings(&server.url());
    let told = Some(Duration::from_millis(1));
    let nodes = [Node::start(engine(&settings), told).await, Node::start(engine(&settings), told).await];
    let (room, next) = (channel("presence-room"), channel("presence-next"));
    let facts = || nodes.iter().map(|node| node.site.state.lock().facts.len()).sum::<usize>();
    for node in &nodes {
        node.join(&room, "ann", None);
        node.settled(&room).await;
    }
    eventually_within(LIMIT, "two facts", async || facts() == 2).await;
    server.flush().await;
    for node in &nodes {
        eventually_within(LIMIT, "it has noticed", async || node.engine.report().losses > 0).await;
    }
    is_back(&nodes).await;
    for node in &nodes {
        node.knows(&room, "both", |k| k.total() == 2 && k.counts.len() == 1 && k.members.len() == 1).await;
    }
    for node in &nodes {
        node.abandon(&room);
        node.settled(&room).await;
    }
    // Two departures, and no arrival before them.
    eventually_within(LIMIT, "four facts", async || facts() == 4).await;
    nodes[0].join(&next, "bob", None);
    eventually_within(LIMIT, "six facts", async || facts() >= 6).await;
    assert_eq!(facts(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cached_event_that_a_node_gives_back_is_seen_by_all() {
    let server = Redis::start().await;
    let topic = channel("cache-news");
    let first = Node::start(engine(&settings(&server.url())), None).await;
    first.listen(&topic);
    first.knows(&topic, "it listens", |known| known.version.is_some()).await;
    // As if the engine had forgotten the event while this node was away.
    let back = Node::begin(engine(&settings(&server.url())), None);
    back.hold(&topic, |known| {
        known.cached = Some("x".to_owned());
        known.listens = true;
    });
    first.knows(&topic, "it has come", |known| known.cached.as_deref() == Some("x")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_is_not_seen_to_have_gone() {
    let server = Redis::start().await;
    let nodes = two(&settings(&server.url())).await;
    let other = Node::start(engine(&settings(&server.url())), None).await;
    let room = channel("presence-room");
    nodes[0].join(&room, "ann", None);
    nodes[0].settled(&room).await;
    // By another name for the connection, so that only the others are cut.
    let ids = async || -> Vec<String> {
        let text = server.command(&["CLIENT", "LIST"]).await.text();
        let names = text.lines().filter(|line| line.contains("name=fanfare"));
        names.map(|line| line.split([' ', '=']).nth(1).expect("an id").to_owned()).collect()
    };
    let cut = ids().await;
    let observer = Node::start(engine(&settings(&server.url())), None).await;
    observer.listen(&room);
    observer.knows(&room, "ann", |known| known.total() == 1).await;
    for round in 1..=5_u64 {
        let now = if round == 1 { cut.clone() } else { ids().await };
        let own = observer.engine.report().losses;
        for id in &now {
            // It may have gone by itself.
            server.try_command(&["CLIENT", "KILL", "ID", id]).await.expect("an answer");
        }
        for node in &nodes {
            eventually_within(LIMIT, "it is lost", async || node.engine.report().losses >= round).await;
        }
        is_back(&nodes).await;
        nodes[0].settled(&room).await;
        is_back(std::slice::from_ref(&observer)).await;
        observer.settled(&room).await;
        observer.knows(&room, "ann is here", |k| k.total() == 1 && k.members["ann"].len() == 1).await;
        assert!(round > 1 || observer.engine.report().losses == own, "the observer was not cut");
        let flaps = observer.known(&room, |known| (known.removals, known.additions));
        assert_eq!(flaps, (0, 1), "she was seen once, and never to go");
    }
    observer.nothing_was_wrong();
    is_back(std::slice::from_ref(&other)).await;
    let seen = within(LIMIT, "a look", other.engine.look(&room, true)).await.expect("reached");
    assert_eq!((seen.subscriptions, seen.user_count), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_away_until_it_goes_on() {
    let server = Redis::start().await;
    let nodes = two(&settings(&server.url())).await;
    works(&nodes, "a").await;
    server.pause();
    let topic = channel("presence-a-1");
    for node in &nodes {
        eventually_within(LIMIT, "it is away", async || node.engine.is_away(&topic)).await;
        assert!(node.engine.look(&topic, false).await.is_err());
        assert!(node.engine.occupied(&"app".into(), "", false).await.is_err());
        node.publish(&topic, "lost", None);
        assert!(node.engine.report().unsent > 0 && node.engine.report().gaps >= 64);
    }
    server.resume();
    is_back(&nodes).await;
    works(&nodes, "b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_to_be_sent_is_bounded() {
    let server = Redis::start().await;
    let patient = ClusterSettings {
        max_queue_bytes: 100_000,
        timeout: Duration::from_secs(20),
        lease: Duration::from_secs(60),
        ..settings(&server.url())
    };
    let node = Node::start(engine(&patient), None).await;
    let topic = channel("news");
    server.pause();
    let text = "x".repeat(1000);
    while node.engine.has_space(&topic) {
        node.publish(&topic, &text, None);
    }
    assert_eq!(node.engine.report().unsent, 0);
    for _ in 0..1000 {
        node.publish(&topic, &text, None);
    }
    let report = node.engine.report();
    assert!(report.unsent > 500 && report.queued_bytes < 220_000, "{report:?}");
    server.resume();
    node.until("space is made", |state| state.spaces == 1).await;
    node.settled(&topic).await;
    let after = node.engine.report();
    assert_eq!((after.queued_bytes, after.unsent, after.losses), (0, report.unsent, 0));
    assert!(node.engine.has_space(&topic));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_of_ours_does_no_harm() {
    let server = Redis::start().await;
    let nodes = two(&settings(&server.url())).await;
    let topic = channel("news");
    nodes.iter().for_each(|node| node.listen(&topic));
    nodes[0].settled(&topic).await;
    nodes[1].settled(&topic).await;
    let channels = server.command(&["PUBSUB", "SHARDCHANNELS"]).await.texts();
    assert!(channels.iter().any(|name| name.ends_with(":c/app/news")));
    for name in &channels {
        for payload in ["", "C", "C1:x", "E", "E1:11:1", "nonsense", "C1:11:118446744073709551615:"] {
            server.command(&["SPUBLISH", name, payload]).await;
        }
    }
    nodes[0].publish(&topic, "x", None);
    nodes[1].knows(&topic, "it goes on", |known| known.events == ["x"]).await;
    for node in &nodes {
        assert_eq!((node.engine.report().losses, node.engine.report().away), (0, None));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefixes_and_databases_never_meet() {
    let server = Redis::start().await;
    let other = ClusterSettings { prefix: "test2".to_owned(), ..settings(&server.url()) };
    let second = settings(&format!("{}/1", server.url()));
    let room = channel("presence-room");
    let mut nodes = Vec::new();
    for settings in [&settings(&server.url()), &other, &second] {
        let node = Node::start(engine(settings), None).await;
        node.join(&room, "u", None);
        node.settled(&room).await;
        node.publish(&room, "hello", KEEP);
        node.settled(&room).await;
        nodes.push(node);
    }
    for node in &nodes {
        let seen = within(LIMIT, "a look", node.engine.look(&room, true)).await.expect("reached");
        assert_eq!((seen.subscriptions, seen.user_count), (1, 1));
        assert_eq!(node.engine.report().received, 0);
        assert_eq!(node.known(&room, |known| known.counts.len()), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signs_in_and_never_says_the_password() {
    let server = Redis::with_password("hush").await;
    server.add_user("fan", "pw/1", &["~{test:*", "&{test:*", "+@all", "-@admin", "-@dangerous"]).await;
    let url = |who: &str| format!("redis://{who}@127.0.0.1:{}", server.port);
    works(&two(&settings(&url(":hush"))).await, "a").await;
    works(&two(&settings(&url("fan:pw%2F1"))).await, "b").await;
    let stranger = Node::begin(engine(&settings(&url("fan:wrongpw"))), None);
    eventually_within(LIMIT, "it is refused", async || {
        stranger.engine.report().away.is_some_and(|why| why.contains("WRONGPASS"))
    })
    .await;
    assert!(!format!("{:?}", stranger.engine.report()).contains("wrongpw"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reaches_it_by_tls() {
    let (server, cert) = Redis::with_self_signed_tls().await;
    let url = server.tls_url();
    let trusting = ClusterSettings { ca: Some(cert), ..settings(&url) };
    works(&two(&trusting).await, "a").await;
    let doubting = Node::begin(engine(&settings(&url)), None);
    eventually_within(LIMIT, "it is refused", async || {
        doubting.engine.report().away.is_some_and(|why| why.contains("TLS"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spreads_over_a_cluster_and_follows_it() {
    let mut cluster = Cluster::start().await;
    // The first named is nobody.
    let url = format!("redis-cluster://127.0.0.1:{},{}", free_port(), cluster.masters[0].address());
    let nodes = two(&settings(&url)).await;
    works(&nodes, "a").await;
    for master in &cluster.masters {
        assert!(master.command(&["PUBSUB", "SHARDCHANNELS"]).await.texts().len() > 10);
    }
    cluster.move_slots(5461, 0, 1).await;
    for node in &nodes {
        eventually_within(LIMIT, "it has noticed", async || node.engine.report().losses > 0).await;
    }
    is_back(&nodes).await;
    works(&nodes, "b").await;
    for number in 0..64 {
        let topic = channel(&format!("presence-a-{number}"));
        for node in &nodes {
            node.knows(&topic, "still both", |k| k.total() == 2 && k.version.is_some()).await;
        }
    }
    // One master goes: the others serve on.
    cluster.masters[2].kill();
    let away =
        |node: &Node| (0..64).filter(|n| node.engine.is_away(&channel(&format!("presence-a-{n}")))).count();
    for node in &nodes {
        eventually_within(LIMIT, "a part is away", async || (1..64).contains(&away(node))).await;
        assert!(node.engine.report().away.is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follows_sentinels_to_the_new_master() {
    let mut sentinel = Sentinel::start().await;
    // The first named is nobody.
    let at = sentinel.sentinel.address();
    let url = format!("redis-sentinel://127.0.0.1:{},{at}/main", free_port());
    let nodes = two(&settings(&url)).await;
    works(&nodes, "a").await;
    sentinel.master.kill();
    for node in &nodes {
        eventually_within(LIMIT, "it has noticed", async || node.engine.report().losses > 0).await;
    }
    within(LIMIT, "it is back", is_back(&nodes)).await;
    works(&nodes, "b").await;
}
