//! Webhooks of several nodes: the cluster tells everything once, in turns, and ends true.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use common::nodes::{LOSSES, PATIENCE};
use common::told::{told, told_of, told_to};
use common::{Client, Dice, HOME, Listener, Nodes, Receiver, Redis, within};
use serde_json::json;
use tokio::task::JoinSet;

const ROOM: &str = "presence-room";
/// Once everything is gone, nothing more is told if nothing has been for so long.
const QUIET: Duration = Duration::from_secs(2);

/// Nobody has more to tell: what each node tells after this comes after everything else. They are to be
/// kept as long as nothing else shall be told.
async fn nothing_more(receiver: &mut Receiver, nodes: &Nodes) -> Vec<Listener> {
    let mut markers = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let listener = node.listener().await;
        let channel = format!("marker-{number}");
        listener.subscribe(&channel).await;
        assert_eq!(receiver.event().await, told("channel_occupied", &channel));
        markers.push(listener);
    }
    markers
}

/// Ada joins the room on every node, which is told once.
async fn ada_on_every(nodes: &Nodes, receiver: &mut Receiver) -> Vec<Listener> {
    let mut listeners = Vec::new();
    for node in nodes.iter() {
        let listener = node.listener().await;
        listener.join(ROOM, "ada").await;
        listeners.push(listener);
    }
    receiver.expect([told("channel_occupied", ROOM), told_of("member_added", ROOM, "ada")]).await;
    listeners
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_on_three_nodes_is_occupied_once_and_vacated_once() {
    let mut receiver = Receiver::new().await;
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), told_to(&receiver, "0s")).await;
    let listeners = ada_on_every(&nodes, &mut receiver).await;
    let _markers = nothing_more(&mut receiver, &nodes).await;
    for listener in &listeners {
        listener.unsubscribe(ROOM).await;
    }
    receiver.expect([told_of("member_removed", ROOM, "ada"), told("channel_vacated", ROOM)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_on_another_node_in_time_was_never_away() {
    let mut receiver = Receiver::new().await;
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), told_to(&receiver, "5s")).await;
    let mut listener = nodes[0].listener().await;
    listener.join(ROOM, "ada").await;
    receiver.expect([told("channel_occupied", ROOM), told_of("member_added", ROOM, "ada")]).await;
    for hop in 1..10 {
        listener.unsubscribe(ROOM).await;
        listener = nodes[hop % 3].listener().await;
        listener.join(ROOM, "ada").await;
    }
    // What leaves later is told later: whatever the hops had to tell has been told by then.
    for node in nodes.iter() {
        let last = node.listener().await;
        last.subscribe("last").await;
    }
    receiver.expect([told("channel_occupied", "last"), told("channel_vacated", "last")]).await;
    listener.unsubscribe(ROOM).await;
    receiver.expect([told_of("member_removed", ROOM, "ada"), told("channel_vacated", ROOM)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_cache_is_missed_once() {
    let mut receiver = Receiver::new().await;
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), told_to(&receiver, "0s")).await;
    let mut listeners = Vec::new();
    for node in nodes.iter() {
        let listener = node.listener().await;
        listener.subscribe("cache-a").await;
        listener.until("a miss", |ear| ear.sub("cache-a").misses == 1).await;
        listeners.push(listener);
    }
    receiver.expect([told("channel_occupied", "cache-a"), told("cache_miss", "cache-a")]).await;
    let _markers = nothing_more(&mut receiver, &nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_event_is_told_once() {
    let mut receiver = Receiver::new().await;
    let redis = Redis::start().await;
    let settings = told_to(&receiver, "0s").of_hook("events", vec!["client_event"]);
    let nodes = Nodes::start(3, &redis.url(), settings).await;
    let mut listeners = Vec::new();
    for node in nodes.iter() {
        let listener = node.listener().await;
        listener.subscribe("private-a").await;
        listeners.push(listener);
    }
    for (number, listener) in listeners.iter().enumerate() {
        listener.send(json!({"event": "client-e", "channel": "private-a", "data": number}));
        let wanted = json!({"name": "client_event", "channel": "private-a", "event": "client-e",
            "data": number.to_string(), "socket_id": listener.socket_id});
        receiver.expect([wanted]).await;
    }
    for listener in &listeners {
        listener.until("the others' events", |ear| ear.others.len() == 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_forgets_is_not_told_again() {
    let mut receiver = Receiver::new().await;
    let redis = Redis::start().await;
    let nodes = Nodes::start(2, &redis.url(), told_to(&receiver, "0s")).await;
    let listeners = ada_on_every(&nodes, &mut receiver).await;
    redis.flush().await;
    for node in nodes.iter() {
        node.becomes(LOSSES, 1.0).await;
        node.ready().await;
        node.counts(ROOM, 2).await;
    }
    // Who comes afterwards is told as ever, and nothing else was before.
    let bob = nodes[0].listener().await;
    bob.join(ROOM, "bob").await;
    receiver.expect([told_of("member_added", ROOM, "bob")]).await;
    let _markers = nothing_more(&mut receiver, &nodes).await;
    for listener in &listeners {
        listener.unsubscribe(ROOM).await;
    }
    receiver.expect([told_of("member_removed", ROOM, "ada")]).await;
    bob.unsubscribe(ROOM).await;
    receiver.expect([told_of("member_removed", ROOM, "bob"), told("channel_vacated", ROOM)]).await;
}

/// Joins and leaves on one node after the other, and stays shorter or longer than a delay.
async fn hop(addresses: Vec<SocketAddr>, id: String, pause_ms: u64, mut dice: Dice) {
    for _ in 0..30 {
        let address = *dice.pick(&addresses);
        let mut client = Client::open(address, HOME, &[]).await.unwrap();
        client.expect_established().await;
        let listener = Listener::new(client);
        listener.join(ROOM, &id).await;
        tokio::time::sleep(Duration::from_millis(dice.below(pause_ms + 1))).await;
        listener.unsubscribe(ROOM).await;
    }
}

/// Whoever hops and however long: what is told of anything is in turns, and ends true.
async fn hopping(delay: &str, pause_ms: u64, name: &str) {
    let mut receiver = Receiver::new().await;
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), told_to(&receiver, delay)).await;
    let mut dice = Dice::printed(name);
    let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
    let mut hoppers = JoinSet::new();
    for number in 0..9_u64 {
        hoppers.spawn(hop(addresses.clone(), format!("u{}", number % 3), pause_ms, dice.child()));
    }
    within(PATIENCE * 3, "all hops", hoppers.join_all()).await;
    in_turns_to_the_end(&mut receiver).await;
    for node in nodes.iter() {
        node.lists(&[]).await;
    }
}

/// What is told of the room and of each user is in turns, and in the end all are gone.
async fn in_turns_to_the_end(receiver: &mut Receiver) {
    let mut state = BTreeMap::new();
    loop {
        let empty = !state.is_empty() && state.values().all(|present| !present);
        let event = match tokio::time::timeout(QUIET, receiver.event()).await {
            Ok(event) => event,
            Err(_) if empty => return,
            Err(_) => receiver.event().await,
        };
        let (key, comes) = match event["name"].as_str().unwrap() {
            "channel_occupied" => (String::new(), true),
            "channel_vacated" => (String::new(), false),
            "member_added" => (event["user_id"].to_string(), true),
            "member_removed" => (event["user_id"].to_string(), false),
            _ => panic!("told of {event}"),
        };
        assert_ne!(state.insert(key, comes).unwrap_or(false), comes, "told twice: {event}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hoppers_are_told_in_turns_at_once() {
    hopping("0s", 20, "hoppers_are_told_in_turns_at_once").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hoppers_are_told_in_turns_after_a_delay() {
    hopping("100ms", 200, "hoppers_are_told_in_turns_after_a_delay").await;
}
