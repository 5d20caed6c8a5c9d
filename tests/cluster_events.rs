//! Several nodes on one Redis: whoever listens on one hears what is said on another.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;

use common::ear::{Begun, TICK};
use common::nodes::{PATIENCE, RECEIVED_BYTES};
use common::users::{channel_of, user, watching};
use common::{Api, Client, Listener, Nodes, Redis, Settings, eventually_within, settings};
use serde_json::{Value, json};

const COUNT: &str = "pusher_internal:subscription_count";

fn lively() -> Settings {
    settings().feature("client_events", true).limit("client_events_per_second", 0)
}

async fn subscribers(nodes: &Nodes, channel: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    for node in nodes.iter() {
        let mut client = node.connect().await;
        client.subscribe(channel).await;
        clients.push(client);
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_heard_on_every_node_once_and_in_order() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), settings()).await;
    let mut clients = subscribers(&nodes, "news").await;
    for (from, node) in nodes.iter().enumerate() {
        let mut api = node.api();
        for number in 0..50 {
            api.publish("news", "e", &format!("{from}:{number}")).await;
        }
        for client in &mut clients {
            for number in 0..50 {
                client.expect_event("news", "e", &format!("{from}:{number}")).await;
            }
        }
    }
    for client in &mut clients {
        client.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_every_kind_and_size_arrive_as_they_were_published() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(2, &redis.url(), settings()).await;
    let mut client = nodes[0].connect().await;
    let (channels, data) =
        (["a", "private-a", "private-encrypted-a", "b=@,.;-_"], "\u{0}💩\"\\\n".repeat(700));
    for channel in channels {
        client.subscribe(channel).await;
    }
    let mut api = nodes[1].api();
    for data in ["", "{}", data.as_str()] {
        let event = json!({"name": "App\\Events\\Ä\n", "channels": channels, "data": data});
        assert_eq!(api.post("/events", &event).await.expect_ok(), json!({}));
        for channel in channels {
            client.expect_event(channel, "App\\Events\\Ä\n", data).await;
        }
    }
    let batch: Vec<_> =
        (0..10).map(|n| json!({"name": "e", "channel": "a", "data": n.to_string()})).collect();
    api.post("/batch_events", &json!({"batch": batch})).await.expect_ok();
    for number in 0..10 {
        client.expect_event("a", "e", &number.to_string()).await;
    }
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_excluded_socket_is_not_told_wherever_it_is() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), settings()).await;
    let mut clients = subscribers(&nodes, "news").await;
    let excluded = clients[0].socket_id.clone();
    for (number, node) in nodes.iter().enumerate() {
        let data = number.to_string();
        let event = json!({"name": "e", "channel": "news", "data": data, "socket_id": excluded});
        node.api().post("/events", &event).await.expect_ok();
        for client in &mut clients[1..] {
            client.expect_event("news", "e", &data).await;
        }
    }
    nodes[1].api().publish("news", "marker", "").await;
    clients[0].expect_event("news", "marker", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_events_reach_all_others_with_who_it_was() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(2, &redis.url(), lively()).await;
    let (mut a, mut b) = (nodes[0].connect().await, nodes[1].connect().await);
    a.join("presence-a", r#"{"user_id":"ada"}"#).await;
    b.join("presence-a", r#"{"user_id":"bob"}"#).await;
    a.expect("pusher_internal:member_added").await;
    let heard = |data: String, user: &str| json!({"event": "client-e", "channel": "presence-a", "data": data, "user_id": user});
    for number in 0..100 {
        a.whisper("presence-a", "client-e", json!(number)).await;
        assert_eq!(b.frame().await, heard(number.to_string(), "ada"));
        b.whisper("presence-a", "client-e", json!("s")).await;
        assert_eq!(a.frame().await, heard("s".to_owned(), "bob"));
    }
    a.expect_nothing().await;
    b.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_reached_on_every_node_and_nobody_else() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), settings()).await;
    let mut devices = Vec::new();
    for node in nodes.iter() {
        let (mut client, mut other) = (node.connect().await, node.connect().await);
        client.sign_in(&user("ada")).await;
        other.sign_in(&user("bob")).await;
        devices.push((client, other));
    }
    for (number, node) in nodes.iter().enumerate() {
        node.api().publish(&channel_of("ada"), "mail", &number.to_string()).await;
        for (client, _) in &mut devices {
            client.expect_event(&channel_of("ada"), "mail", &number.to_string()).await;
        }
    }
    nodes[1].api().terminate("ada").await;
    for (client, other) in &mut devices {
        client.closed_with(4009).await;
        other.expect_nothing().await;
    }
    nodes[0].api().terminate("nobody").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_are_told_of_users_on_other_nodes() {
    let redis = Redis::start().await;
    let settings = settings().feature("watchlist_events", true).limit("offline_delay", "100ms");
    let nodes = Nodes::start(3, &redis.url(), settings).await;
    let early = nodes[0].connect().await;
    let mut watchers = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let watcher = node.listener().await;
        watcher.sign_in(&watching(&format!("watcher-{number}"), &["ada", "bob"])).await;
        watcher.until("a first word", |ear| ear.watched.len() == 2).await;
        watchers.push(watcher);
    }
    let told = async |id: &str, online: bool| {
        for watcher in &watchers {
            watcher.until(&format!("{id} online: {online}"), |ear| ear.watched[id] == online).await;
        }
    };
    let mut early = early;
    early.sign_in(&user("ada")).await;
    told("ada", true).await;
    let mut second = nodes[2].connect().await;
    second.sign_in(&user("ada")).await;
    early.close().await;
    let mut bob = nodes[1].connect().await;
    bob.sign_in(&user("bob")).await;
    told("bob", true).await;
    bob.close().await;
    told("bob", false).await;
    // Another device of hers was there all the time.
    assert!(watchers.iter().all(|watcher| watcher.look(|ear| ear.watched["ada"])));
    let late = nodes[1].listener().await;
    late.sign_in(&watching("late", &["ada", "bob"])).await;
    late.until("how it is", |ear| ear.watched.len() == 2).await;
    late.look(|ear| assert_eq!((ear.watched["ada"], ear.watched["bob"]), (true, false)));
    second.close().await;
    told("ada", false).await;
    late.until("ada offline", |ear| !ear.watched["ada"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_on_one_node_is_given_on_another() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), settings()).await;
    for (number, (from, to)) in [(0, 1), (1, 2), (2, 0)].into_iter().enumerate() {
        nodes[from].api().publish("cache-price", "price", &number.to_string()).await;
        for index in [to, from] {
            let mut client = nodes[index].connect().await;
            client.subscribe("cache-price").await;
            client.expect_event("cache-price", "price", &number.to_string()).await;
            client.expect_nothing().await;
            let kept = nodes[index].api().cached("cache-price").await;
            assert_eq!(kept, Some(number.to_string()));
        }
    }
    let mut client = nodes[1].connect().await;
    client.subscribe("cache-other").await;
    client.expect("pusher:cache_miss").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_end_with_the_same_kept_event() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), settings()).await;
    let begun = Arc::<Begun>::default();
    for round in 0..10 {
        let channel = format!("cache-{round}");
        let mut listeners = Vec::new();
        // Those who are there already keep it in their nodes; on the third one nobody is.
        for node in &nodes.iter().collect::<Vec<_>>()[..2] {
            let listener = Listener::knowing(node.connect().await, &begun);
            listener.subscribe(&channel).await;
            listeners.push(listener);
        }
        let publish = async |index: usize| {
            let mut api = nodes[index].api();
            for _ in 0..20 {
                api.publish(&channel, TICK, &begun.next(&channel, &index.to_string())).await;
            }
        };
        tokio::join!(publish(0), publish(1), publish(2));
        for listener in &listeners {
            listener.completes(&channel).await;
        }
        same_kept(&nodes, &channel).await;
    }
}

/// Waits until all nodes say the same of what is kept, and give newcomers just that.
async fn same_kept(nodes: &Nodes, channel: &str) {
    let mut apis: Vec<Api> = nodes.iter().map(common::Node::api).collect();
    let mut kept = None;
    eventually_within(PATIENCE, "one kept event", async || {
        let mut all = Vec::new();
        for api in &mut apis {
            all.push(api.cached(channel).await.expect("something is kept"));
        }
        kept = Some(all[0].clone());
        all.iter().all(|one| *one == all[0])
    })
    .await;
    for node in nodes.iter() {
        let mut client = node.connect().await;
        client.subscribe(channel).await;
        client.expect_event(channel, TICK, kept.as_ref().unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_of_all_nodes_are_counted_together() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url(), settings().feature("subscription_count", true)).await;
    let mut listeners = Vec::new();
    for number in 0..9 {
        let listener = nodes[number % 3].listener().await;
        listener.subscribe("a").await;
        listeners.push(listener);
        for listener in &listeners {
            let wanted = number as u64 + 1;
            listener.until(&format!("{COUNT} {wanted}"), |ear| ear.sub("a").count == Some(wanted)).await;
        }
    }
    for node in nodes.iter() {
        node.counts("a", 9).await;
        node.lists(&["a"]).await;
    }
    listeners.truncate(2);
    for listener in &listeners {
        listener.until("two are left", |ear| ear.sub("a").count == Some(2)).await;
    }
    drop(listeners);
    for node in nodes.iter() {
        node.counts("a", 0).await;
        node.lists(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reply_to_a_publish_counts_the_whole_cluster() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(2, &redis.url(), settings()).await;
    let mut clients = subscribers(&nodes, "a").await;
    for (node, id) in nodes.iter().zip(["ada", "bob"]) {
        let mut client = node.connect().await;
        client.join("presence-a", &json!({"user_id": id}).to_string()).await;
        clients.push(client);
    }
    let event = json!({"name": "e", "channels": ["a", "presence-a", "none"], "data": "",
        "info": "user_count,subscription_count"});
    let reply: Value = nodes[1].api().post("/events", &event).await.expect_ok();
    let wanted = json!({"a": {"subscription_count": 2}, "none": {"subscription_count": 0},
        "presence-a": {"user_count": 2, "subscription_count": 2}});
    assert_eq!(reply["channels"], wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_without_subscribers_receive_nothing() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(10, &redis.url(), settings()).await;
    let mut clients = vec![nodes[0].connect().await, nodes[1].connect().await];
    for client in &mut clients {
        client.subscribe("news").await;
    }
    let mut before = Vec::new();
    for node in nodes.iter() {
        before.push(node.metric(RECEIVED_BYTES).await);
    }
    for (number, node) in nodes.iter().enumerate() {
        let mut api = node.api();
        for count in 0..100 {
            api.publish("news", "e", &format!("{number}:{count}")).await;
        }
        for client in &mut clients {
            for count in 0..100 {
                client.expect_event("news", "e", &format!("{number}:{count}")).await;
            }
        }
    }
    for (number, node) in nodes.iter().enumerate() {
        let received = node.metric(RECEIVED_BYTES).await - before[number];
        assert_eq!(received > 0.0, number < 2, "node {number} received {received} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_prefixes_never_meet() {
    let redis = Redis::start().await;
    let here = Nodes::start(2, &redis.url(), settings()).await;
    let there = Nodes::start(2, &redis.url(), settings()).await;
    let mut clients = Vec::new();
    for (name, nodes) in [("here", &here), ("there", &there)] {
        for node in nodes.iter() {
            let listener = node.listener().await;
            listener.subscribe("news").await;
            listener.join("presence-a", name).await;
            clients.push((name, listener));
        }
    }
    for (name, nodes) in [("here", &here), ("there", &there)] {
        nodes[0].api().publish("news", "e", name).await;
        nodes[1].api().publish("cache-a", "e", name).await;
    }
    for (name, listener) in &clients {
        listener.until("one event", |ear| ear.others.iter().any(|frame| frame["data"] == **name)).await;
        listener.round().await;
        listener.sees("presence-a", &[(*name).to_owned()]).await;
        listener.look(|ear| assert_eq!(ear.others.len(), 1, "{:?}", ear.others));
    }
    for (name, nodes) in [("here", &here), ("there", &there)] {
        assert_eq!(nodes[0].api().cached("cache-a").await.as_deref(), Some(name));
        nodes[1].counts("news", 2).await;
        nodes[1].lists_users("presence-a", &[name.to_owned()]).await;
    }
}
