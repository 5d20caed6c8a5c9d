//! Limits of `[server]` change while it serves, for whoever comes next.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::nodes::PATIENCE;
use common::redis::signal;
use common::stage::{Stage, by_hand};
use common::{
    APP, Client, Credentials, DEADLINE, HOME, Http, Raw, Signed, eventually, eventually_within, in_time,
};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};

/// Nobody knows it.
const NEXT: Credentials = Credentials { id: "1", key: "next-key", secret: "next-secret" };

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_an_address_are_raised_and_lowered() {
    let at_most = |count: i64| {
        let all: Vec<String> = Vec::new();
        by_hand().server("unlimited_clients", all).server("max_connections_per_ip", count)
    };
    let mut stage = Stage::new(at_most(2)).await;
    let mut crowd = vec![stage.connect(HOME).await, stage.connect(HOME).await];
    assert!(Client::open(stage.node().address, HOME, &[]).await.is_err());
    stage.reload(&at_most(3)).await;
    crowd.push(stage.connect(HOME).await);
    assert!(Client::open(stage.node().address, HOME, &[]).await.is_err());
    // Who is there stays, and counts.
    stage.reload(&at_most(1)).await;
    crowd.pop().unwrap().close().await;
    assert!(Client::open(stage.node().address, HOME, &[]).await.is_err());
    for client in &mut crowd {
        assert!(client.round().await.is_empty());
    }
    stage.reload(&at_most(0)).await;
    stage.connect(HOME).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_signatures_are_forgiven_when_their_limit_goes() {
    let at_most = |count: i64| {
        let all: Vec<String> = Vec::new();
        by_hand().server("unlimited_clients", all).server("max_failed_requests_per_ip", count)
    };
    let mut stage = Stage::new(at_most(1)).await;
    assert_eq!(stage.publish(NEXT, "a").await, 401);
    assert_eq!(stage.publish(NEXT, "a").await, 429);
    stage.reload(&at_most(0)).await;
    assert_eq!(stage.publish(NEXT, "a").await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_ask_for_nothing_have_room_as_it_is_now() {
    let at_most = |limit: &str, count: i64| {
        let all: Vec<String> = Vec::new();
        by_hand().server("unlimited_clients", all).server(limit, count)
    };
    let mut stage = Stage::new(by_hand()).await;
    for limit in ["max_handshakes_per_ip", "max_handshakes"] {
        stage.reload(&at_most(limit, 1)).await;
        let silent = TcpStream::connect(stage.node().address).await.unwrap();
        let mut late = TcpStream::connect(stage.node().address).await.unwrap();
        assert!(matches!(in_time("an end", late.read(&mut [0; 1])).await, Ok(0) | Err(_)));
        stage.reload(&at_most(limit, 0)).await;
        stage.connect(HOME).await;
        drop(silent);
        eventually("a place that is left", async || stage.node().metrics().await.table("handshakes") == 0.0)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_comes_as_often_as_it_may_now() {
    let so_often = |count: i64| {
        let all: Vec<String> = Vec::new();
        by_hand().server("unlimited_clients", all).server("connections_per_second_per_ip", count)
    };
    let mut stage = Stage::new(so_often(0)).await;
    for _ in 0..50 {
        stage.connect(HOME).await;
    }
    stage.reload(&so_often(5)).await;
    eventually("somebody who is turned away", async || {
        Client::open(stage.node().address, HOME, &[]).await.is_err()
    })
    .await;
    stage.reload(&so_often(0)).await;
    for _ in 0..50 {
        stage.connect(HOME).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_much_is_cached_as_may_be_now() {
    let mut stage = Stage::new(by_hand()).await;
    let has_kept = async |stage: &Stage| {
        stage.api(APP).publish("cache-a", "e", &"x".repeat(1000)).await;
        stage.api(APP).cached("cache-a").await.is_some()
    };
    assert!(has_kept(&stage).await);
    stage.reload(&by_hand().server("max_cache_bytes", "1KiB")).await;
    assert_eq!(stage.api(APP).cached("cache-a").await, None);
    assert!(!has_kept(&stage).await);
    stage.reload(&by_hand()).await;
    assert!(has_kept(&stage).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_trusted_from_now_on_and_no_longer() {
    let trusting = |proxies: &[&str]| {
        let (all, proxies) = (Vec::<String>::new(), proxies.to_vec());
        let strict = by_hand().server("unlimited_clients", all).server("max_connections_per_ip", 2);
        strict.server("trusted_proxies", proxies).feature("force_tls", true)
    };
    let mut stage = Stage::new(trusting(&[])).await;
    let by_tls = [("X-Forwarded-Proto", "https"), ("X-Forwarded-For", "198.51.100.1")];
    let comes = async |stage: &Stage| Client::open(stage.node().address, HOME, &by_tls).await.unwrap();
    comes(&stage).await.closed_with(4000).await;
    stage.reload(&trusting(&["127.0.0.1"])).await;
    let mut crowd = Vec::new();
    for _ in 0..2 {
        let mut client = comes(&stage).await;
        client.expect_established().await;
        crowd.push(client);
    }
    comes(&stage).await.closed_with(4100).await;
    stage.reload(&trusting(&[])).await;
    comes(&stage).await.closed_with(4000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_limits_hold_for_the_next_connection() {
    let mut stage = Stage::new(by_hand()).await;
    stage.reload(&by_hand().server("header_timeout", "100ms")).await;
    let mut silent = TcpStream::connect(stage.node().address).await.unwrap();
    // The default is beyond every deadline here.
    assert_eq!(in_time("an end", silent.read(&mut [0; 1])).await.unwrap(), 0);
    stage.reload(&by_hand().server("idle_timeout", "100ms")).await;
    let mut idle = Http::over(TcpStream::connect(stage.node().address).await.unwrap());
    idle.write(&Signed::new("GET", "/apps/1/channels", APP, b"").bytes()).await;
    idle.reply().await.unwrap().expect_ok();
    assert!(in_time("an end", idle.rest()).await.is_empty());
    stage.reload(&by_hand().server("body_timeout", "100ms")).await;
    let mut http = Http::over(TcpStream::connect(stage.node().address).await.unwrap());
    http.write(&Signed::new("POST", "/apps/1/events", APP, b"{}").head(2)).await;
    http.reply().await.unwrap().expect_error(408, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn room_for_fallbacks_is_made_and_taken() {
    let mut stage = Stage::new(by_hand().server("max_fallback_sessions", 0)).await;
    assert!(!stage.has_room_for_a_fallback().await);
    stage.reload(&by_hand()).await;
    assert!(stage.has_room_for_a_fallback().await);
    stage.reload(&by_hand().server("max_fallback_sessions_per_ip", 0)).await;
    assert!(!stage.has_room_for_a_fallback().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_is_as_large_as_it_is_now() {
    // More than is published here.
    let roomy = by_hand().server("max_mailbox_bytes", "1GiB").server("max_mailboxes_bytes", 0);
    let mut stage = Stage::new(roomy).await;
    stage.reload(&by_hand().server("max_mailbox_bytes", "64KiB")).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = in_time("a connection", socket.connect(stage.node().address)).await.unwrap();
    let mut stuck = Raw::open(stream, HOME).await;
    stuck.text(&json!({"event": "pusher:subscribe", "data": {"channel": "a"}}).to_string()).await;
    let mut api = stage.api(APP);
    eventually("a subscriber", async || api.subscribers("a").await == 1).await;
    eventually_within(PATIENCE, "the end of a slow consumer", async || {
        api.publish("a", "e", &"x".repeat(10_000)).await;
        stage.node().metrics().await.get("fanfare_closed_connections_total{reason=\"slow_consumer\"}") == 1.0
    })
    .await;
}

/// It would not close anybody for 100 s, were the delay that it was started with still good.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_keeps_to_the_pace_that_it_is_given_last() {
    let slow = by_hand().server("shutdown_grace", "300s").server("drain_delay", "100s");
    let mut stage = Stage::new(slow).await;
    let mut client = stage.connect(HOME).await;
    stage.reload(&by_hand().server("drain_window", "0s")).await;
    let node = stage.nodes.pop();
    signal(node.program.pid(), "TERM");
    client.closed_with(4200).await;
    drop(client);
    let ended = node.program.ended(DEADLINE).await;
    assert_eq!(ended.code, Some(0), "{}", ended.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_subscriptions_are_told_in_one_way_or_in_two() {
    let mut stage = Stage::new(by_hand().server("subscription_errors", false)).await;
    let mut client = stage.connect(HOME).await;
    let refused = json!({"event": "pusher:subscribe", "data": {"channel": "private-a", "auth": "app-key:0"}});
    client.send(refused.clone()).await;
    client.expect_error("").await;
    stage.reload(&by_hand()).await;
    client.send(refused).await;
    client.expect_refused("private-a", "").await;
}
