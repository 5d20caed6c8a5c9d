//! What joins the nodes is lost, stands still, or is slow: nodes go on with what they have, say so, and
//! are whole again afterwards.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::nodes::{GAPS, LOSSES, PATIENCE, UNSENT, WITHDRAWN, mortal, patient};
use common::{Api, Listener, Node, Nodes, Proxy, Redis, eventually_within, settings};
use serde_json::json;

const ROOM: &str = "presence-room";
/// Of `lease` in [`mortal`]; the long forms are those of the default lease of 10 s.
const LEASE: Duration = Duration::from_secs(6);
/// For how long a flood is watched at most.
const WATCHED: Duration = Duration::from_secs(40);

/// Longer than the lease. `FANFARE_LONG_TESTS` waits as long as people are told in the README.
fn beyond_the_lease() -> Duration {
    match std::env::var_os("FANFARE_LONG_TESTS") {
        Some(_) => Duration::from_secs(20),
        None => LEASE * 2,
    }
}

/// Time itself is what has to pass here.
async fn passes(time: Duration) {
    tokio::time::sleep(time).await;
}

async fn try_publish(api: &mut Api, channel: &str, data: &str) -> u16 {
    api.post("/events", &json!({"name": "e", "channel": channel, "data": data})).await.status
}

/// A member of the room on each node, named by its number.
async fn one_each(nodes: &Nodes) -> (Vec<Listener>, Vec<String>) {
    let (mut listeners, mut names) = (Vec::new(), Vec::new());
    for (number, node) in nodes.iter().enumerate() {
        let listener = node.listener().await;
        listener.subscribe("news").await;
        names.push(format!("u{number}"));
        listener.join(ROOM, &names[number]).await;
        listeners.push(listener);
    }
    for listener in &listeners {
        listener.sees(ROOM, &names).await;
    }
    (listeners, names)
}

/// An event from each node arrives at each.
async fn all_hear_all(nodes: &Nodes, listeners: &[Listener], word: &str) {
    for (number, node) in nodes.iter().enumerate() {
        let data = format!("{word} from {number}");
        node.api().publish("news", "e", &data).await;
        for listener in listeners {
            listener
                .until(&data, |ear| ear.others.iter().filter(|frame| frame["data"] == *data).count() == 1)
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_nodes_serve_their_own() {
    let mut redis = Redis::start().await;
    let nodes = Nodes::start(2, &redis.url(), mortal(settings())).await;
    let (listeners, names) = one_each(&nodes).await;
    redis.kill();
    for node in nodes.iter() {
        let reason = node.unready().await;
        assert!(reason.trim().len() > 10, "no reason: {reason:?}");
        assert_eq!(node.metric(LOSSES).await, 1.0);
    }
    for (number, node) in nodes.iter().enumerate() {
        let data = format!("alone-{number}");
        assert_eq!(try_publish(&mut node.api(), "news", &data).await, 200);
        let heard = |listener: &Listener| {
            listener.look(|ear| ear.others.iter().filter(|frame| frame["data"] == *data).count())
        };
        eventually_within(PATIENCE, "one's own event", async || heard(&listeners[number]) == 1).await;
        listeners[1 - number].round().await;
        assert_eq!(heard(&listeners[1 - number]), 0);
        assert_eq!(node.metric(UNSENT).await, 1.0);
    }
    let late = nodes[0].listener().await;
    late.join(ROOM, "late").await;
    listeners[0].until("the newcomer", |ear| ear.sub(ROOM).members.contains("late")).await;
    redis.begin_again().await;
    nodes.ready().await;
    let all = [names, vec!["late".to_owned()]].concat();
    for (listener, node) in listeners.iter().zip(nodes.iter()) {
        listener.sees(ROOM, &all).await;
        node.lists_users(ROOM, &all).await;
        node.counts("news", 2).await;
        assert!(node.metric(GAPS).await > 0.0, "nobody knows whether something was missed");
    }
    all_hear_all(&nodes, &listeners, "back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_publishers_are_refused_where_that_is_wanted() {
    let mut redis = Redis::start().await;
    let settings = mortal(settings()).cluster("on_engine_loss", "refuse");
    let nodes = Nodes::start(2, &redis.url(), settings).await;
    let (listeners, names) = one_each(&nodes).await;
    redis.kill();
    for (node, listener) in nodes.iter().zip(&listeners) {
        node.unready().await;
        assert_eq!(try_publish(&mut node.api(), "news", "unheard").await, 503);
        assert_eq!(try_publish(&mut node.api(), "of-nobody", "unheard").await, 503);
        listener.round().await;
        listener.look(|ear| assert!(ear.others.is_empty(), "{:?}", ear.others));
    }
    redis.begin_again().await;
    nodes.ready().await;
    for listener in &listeners {
        listener.sees(ROOM, &names).await;
    }
    all_hear_all(&nodes, &listeners, "back").await;
}

/// It once said that it was ready before it listened to its channels again.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_ready_when_it_misses_nothing_any_more() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.address()).await;
    let mut nodes = Nodes::start(1, &redis.url(), patient(settings())).await;
    nodes.add(&proxy.url()).await;
    nodes.ready().await;
    let listener = nodes[1].listener().await;
    let channels: Vec<_> = (0..100).map(|number| format!("channel-{number}")).collect();
    for channel in &channels {
        listener.subscribe(channel).await;
    }
    proxy.cut();
    nodes[1].unready().await;
    // To tell of each channel takes a while.
    proxy.slow(50_000);
    nodes[1].ready().await;
    let event = json!({"name": "e", "channels": channels, "data": "back"});
    nodes[0].api().post("/events", &event).await.expect_ok();
    listener.until("every event", |ear| ear.others.len() == channels.len()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_begins_without_redis_joins_when_it_comes() {
    let mut redis = Redis::start().await;
    redis.kill();
    let mut nodes = Nodes::none(mortal(settings()));
    for _ in 0..2 {
        nodes.add(&redis.url()).await;
    }
    let mut listeners = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        assert!(!node.is_ready().await);
        let listener = node.listener().await;
        listener.subscribe("news").await;
        listener.join(ROOM, &format!("u{number}")).await;
        assert_eq!(try_publish(&mut node.api(), "news", "early").await, 200);
        listener.until("one's own event", |ear| ear.others.len() == 1).await;
        listeners.push(listener);
    }
    redis.begin_again().await;
    nodes.ready().await;
    for (listener, node) in listeners.iter().zip(nodes.iter()) {
        let both = ["u0".to_owned(), "u1".to_owned()];
        listener.sees(ROOM, &both).await;
        node.lists_users(ROOM, &both).await;
    }
    all_hear_all(&nodes, &listeners, "together").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_cut_off_beyond_its_lease_is_gone_and_comes_back() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.address()).await;
    let mut nodes = Nodes::start(2, &redis.url(), mortal(settings())).await;
    nodes.add(&proxy.url()).await;
    nodes.ready().await;
    let (listeners, names) = one_each(&nodes).await;
    proxy.cut();
    nodes[2].unready().await;
    for listener in &listeners[..2] {
        listener.sees(ROOM, &names[..2]).await;
    }
    passes(beyond_the_lease()).await;
    let own = listeners[2].look(|ear| ear.sub(ROOM).members.contains("u2"));
    assert!(own, "it is still there for itself");
    proxy.resume();
    nodes.ready().await;
    for (listener, node) in listeners.iter().zip(nodes.iter()) {
        listener.sees(ROOM, &names).await;
        node.lists_users(ROOM, &names).await;
    }
    for listener in &listeners[..2] {
        listener.look(|ear| assert_eq!(ear.sub(ROOM).removed, 1, "gone once"));
    }
    all_hear_all(&nodes, &listeners, "back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_node_is_gone_once_and_comes_back_once() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), mortal(settings())).await;
    let (listeners, names) = one_each(&nodes).await;
    let before: Vec<_> = listeners.iter().map(|listener| listener.look(|ear| ear.sub(ROOM).added)).collect();
    nodes[2].program.pause();
    for (listener, node) in listeners[..2].iter().zip(nodes.iter()) {
        listener.sees(ROOM, &names[..2]).await;
        node.lists_users(ROOM, &names[..2]).await;
    }
    passes(beyond_the_lease()).await;
    nodes[2].program.resume();
    for (listener, node) in listeners.iter().zip(nodes.iter()) {
        listener.sees(ROOM, &names).await;
        node.lists_users(ROOM, &names).await;
    }
    nodes.ready().await;
    all_hear_all(&nodes, &listeners, "back").await;
    for (listener, before) in listeners[..2].iter().zip(before) {
        listener.look(|ear| assert_eq!((ear.sub(ROOM).removed, ear.sub(ROOM).added - before), (1, 1)));
    }
    let mut withdrawn = 0.0;
    for node in nodes.iter() {
        withdrawn += node.metric(WITHDRAWN).await;
    }
    assert!(withdrawn > 0.0);
}

/// Nodes whose owners have forgotten `lease` do not trip over a Redis that was only busy.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_pauses_briefly_loses_nothing() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(2, &redis.url(), patient(settings())).await;
    let (listeners, names) = one_each(&nodes).await;
    redis.pause();
    assert_eq!(try_publish(&mut nodes[0].api(), "news", "meanwhile").await, 200);
    redis.resume();
    for listener in &listeners {
        listener.until("the event", |ear| ear.others.iter().any(|frame| frame["data"] == "meanwhile")).await;
        listener.sees(ROOM, &names).await;
    }
    for node in nodes.iter() {
        assert_eq!((node.metric(LOSSES).await, node.metric(GAPS).await), (0.0, 0.0));
    }
}

/// Twenty backends publish as fast as they are let, 200 MB in all; each gives up when it is refused again.
async fn flood(node: &Node) -> u32 {
    let data = "x".repeat(10_000);
    let publishing = (0..20).map(|_| async {
        let (mut api, mut refused) = (node.api(), 0);
        for _ in 0..1_000 {
            let status = try_publish(&mut api, "news", &data).await;
            assert!(status == 200 || status == 503, "{status}");
            refused += u32::from(status == 503);
            if refused > 2 {
                break;
            }
        }
        refused
    });
    futures_util::future::join_all(publishing).await.into_iter().sum()
}

/// Publishers that are faster than Redis wait, or are told so; memory does not grow with what they want.
async fn flooded(nodes: &Nodes, proxy: &Proxy, hinder: impl Fn(&Proxy)) {
    const BOUND: u64 = 64 << 20;
    let listener = nodes[1].listener().await;
    listener.subscribe("news").await;
    let before = nodes[0].program.resident();
    hinder(proxy);
    let watch = async {
        loop {
            let grown = nodes[0].program.resident().saturating_sub(before);
            assert!(grown < BOUND, "grown by {grown} bytes");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // A slow line may take longer than anybody wants to wait; what has been seen by then counts.
    tokio::select! {
        refused = flood(&nodes[0]) => println!("refused {refused}"),
        () = watch => {}
        () = tokio::time::sleep(WATCHED) => {}
    }
    proxy.resume();
    nodes.ready().await;
    nodes[0].becomes("fanfare_engine_queued_bytes", 0.0).await;
    nodes[0].api().publish("news", "marker", "").await;
    listener.until("the marker", |ear| ear.others.iter().any(|frame| frame["event"] == "marker")).await;
}

async fn behind(redis: &Redis) -> (Nodes, Proxy) {
    let proxy = Proxy::start(redis.address()).await;
    let settings = mortal(settings()).cluster("max_queue_bytes", "1MiB").server("queue_timeout", "500ms");
    let mut nodes = Nodes::none(settings);
    nodes.add(&proxy.url()).await;
    nodes.add(&redis.url()).await;
    nodes.ready().await;
    (nodes, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_on_a_slow_line_is_held_back() {
    let redis = Redis::start().await;
    let (nodes, proxy) = behind(&redis).await;
    flooded(&nodes, &proxy, |proxy| proxy.slow(2_000_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_on_a_stalled_line_is_held_back() {
    let redis = Redis::start().await;
    let (nodes, proxy) = behind(&redis).await;
    flooded(&nodes, &proxy, Proxy::stall).await;
}
