//! Every way to reach a Redis: each of them joins two nodes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::nodes::mortal;
use common::redis_groups::{Cluster, Sentinel};
use common::{Client, Nodes, Redis, Settings, settings};
use serde_json::json;

const ROOM: &str = "presence-room";

async fn heard_on_both(nodes: &Nodes, clients: &mut [Client], channel: &str) {
    for node in nodes.iter() {
        node.api().publish(channel, "e", "heard").await;
        for client in &mut *clients {
            client.expect_event(channel, "e", "heard").await;
        }
    }
}

/// Two nodes on this Redis are one broker: events, members, and what is kept.
async fn joins(url: &str, settings: Settings) {
    let nodes = Nodes::start(2, url, settings).await;
    let mut clients = vec![nodes[0].connect().await, nodes[1].connect().await];
    let member = |id: &str| json!({"user_id": id}).to_string();
    assert_eq!(clients[0].join(ROOM, &member("a")).await["count"], 1);
    assert_eq!(clients[1].join(ROOM, &member("b")).await["count"], 2);
    clients[0].expect("pusher_internal:member_added").await;
    // Channels enough to be spread over everything that a cluster of Redis has.
    for number in 0..12 {
        let channel = format!("news-{number}");
        for client in &mut clients {
            client.subscribe(&channel).await;
        }
        heard_on_both(&nodes, &mut clients, &channel).await;
    }
    nodes[0].api().publish("cache-a", "e", "kept").await;
    clients[1].subscribe("cache-a").await;
    clients[1].expect_event("cache-a", "e", "kept").await;
    let channels: Vec<_> = (0..12).map(|number| format!("news-{number}")).collect();
    let mut channels: Vec<_> = channels.iter().map(String::as_str).collect();
    channels.extend([ROOM, "cache-a"]);
    for node in nodes.iter() {
        node.lists(&channels).await;
        node.lists_users(ROOM, &["a".to_owned(), "b".to_owned()]).await;
    }
    clients.remove(0).close().await;
    clients[0].expect("pusher_internal:member_removed").await;
    clients[0].expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_asks_for_a_password() {
    let redis = Redis::with_password("s3cr:et").await;
    let url = redis.url().replace("s3cr:et", "s3cr%3Aet");
    joins(&url, settings()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_touch_nothing_but_the_prefix() {
    let redis = Redis::start().await;
    // Prefixes of tests begin alike.
    redis.add_user("fan", "p4ss", &["~test-*", "&test-*", "~{test-*", "&{test-*", "+@all"]).await;
    let url = format!("redis://fan:p4ss@{}", redis.address());
    joins(&url, settings()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_by_tls() {
    let (redis, ca) = Redis::with_tls().await;
    joins(&redis.tls_url(), settings().cluster("ca", ca.display().to_string())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_trusts() {
    let ((redis, _), (_other, ca)) = (Redis::with_tls().await, Redis::with_tls().await);
    let mut nodes = Nodes::none(settings().cluster("ca", ca.display().to_string()));
    let reason = nodes.add(&redis.tls_url()).await.unready().await;
    assert!(reason.to_lowercase().contains("certificate"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_masters() {
    let cluster = Cluster::start().await;
    joins(&cluster.url(), settings()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_database() {
    let redis = Redis::start().await;
    joins(&format!("{}/3", redis.url()), settings()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_sentinel_names_and_the_one_after_it() {
    let mut sentinel = Sentinel::start().await;
    joins(&sentinel.url(), mortal(settings())).await;
    let nodes = Nodes::start(2, &sentinel.url(), mortal(settings())).await;
    let listeners = [nodes[0].listener().await, nodes[1].listener().await];
    for (listener, id) in listeners.iter().zip(["a", "b"]) {
        listener.join(ROOM, id).await;
    }
    sentinel.fail_over().await;
    nodes.ready().await;
    let both = ["a".to_owned(), "b".to_owned()];
    for (listener, node) in listeners.iter().zip(nodes.iter()) {
        listener.sees(ROOM, &both).await;
        node.lists_users(ROOM, &both).await;
    }
    let mut clients = Vec::new();
    for node in nodes.iter() {
        let mut client = node.connect().await;
        client.subscribe("news").await;
        clients.push(client);
    }
    heard_on_both(&nodes, &mut clients, "news").await;
}
