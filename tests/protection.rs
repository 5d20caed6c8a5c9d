//! Floods from one address, and somebody at another who notices nothing (config/operation.md, Protection).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{
    Broker, Client, DEADLINE, HOME, Heard, Http, Reply, Settings, Signed, boot, eventually,
    eventually_within, in_time, settings,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The flood comes from here.
const FLOOD: u8 = 2;
/// Somebody else does from here.
const OTHER: u8 = 3;

/// Loopback addresses are limited like others.
fn limited(key: &str, value: i64) -> Settings {
    settings().server("unlimited_clients", Vec::<String>::new()).server(key, value)
}

/// Hung up on without a word.
async fn is_hung_up_on(stream: &mut TcpStream) -> bool {
    let ended = in_time("an end", stream.read(&mut [0; 1])).await;
    // A reset is an end as well.
    ended.unwrap_or(0) == 0
}

/// Somebody at another address comes, is told what is published, and goes.
async fn another_is_served(broker: &Broker) {
    let mut other = broker.connect_from(OTHER).await;
    other.subscribe("news").await;
    let mut api = Http::over(broker.tcp_from(OTHER).await);
    publish(&mut api).await.expect_ok();
    other.expect_event("news", "n", "d").await;
    other.close().await;
}

fn event() -> Signed {
    Signed::post("/apps/1/events", &serde_json::json!({"name": "n", "channel": "news", "data": "d"}))
}

async fn publish(http: &mut Http) -> Reply {
    ask(http, event()).await
}

async fn ask(http: &mut Http, request: Signed) -> Reply {
    http.write(&request.bytes()).await;
    http.reply().await.expect("a reply")
}

/// Everybody has left, and nothing is remembered of them.
async fn is_forgotten(broker: &Broker) {
    for table in ["addresses", "handshakes", "sockets"] {
        eventually(table, async || broker.metrics().await.table(table) == 0.0).await;
    }
}

async fn times_turned_away(broker: &Broker, reason: &str) -> f64 {
    broker.metrics().await.get(&format!("fanfare_turned_away_total{{reason=\"{reason}\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_so_many_connections_and_no_more() {
    let broker = boot(limited("max_connections_per_ip", 3)).await;
    let mut crowd = Vec::new();
    for _ in 0..3 {
        crowd.push(broker.connect_from(FLOOD).await);
    }
    for _ in 0..20 {
        assert!(is_hung_up_on(&mut broker.tcp_from(FLOOD).await).await);
    }
    another_is_served(&broker).await;
    assert_eq!(times_turned_away(&broker, "connections_per_ip").await, 20.0);
    crowd.pop().unwrap().close().await;
    eventually("a place that somebody has left", async || {
        let stream = broker.tcp_from(FLOOD).await;
        Client::over(stream, broker.address, HOME, &[]).await.is_ok()
    })
    .await;
    drop(crowd);
    is_forgotten(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_consumer_counts_until_its_connection_is_gone() {
    let strict = limited("max_connections_per_ip", 1).server("max_mailbox_bytes", "64KiB");
    let broker = boot(strict).await;
    let mut stuck = common::Raw::open(broker.tcp_from(FLOOD).await, HOME).await;
    stuck.text(r#"{"event":"pusher:subscribe","data":{"channel":"news"}}"#).await;
    let mut api = Http::over(broker.tcp_from(OTHER).await);
    let data = "x".repeat(10_000);
    let large = serde_json::json!({"name": "n", "channel": "news", "data": data});
    eventually_within(DEADLINE * 2, "the end of a slow consumer", async || {
        ask(&mut api, Signed::post("/apps/1/events", &large)).await.expect_ok();
        broker.metrics().await.get("fanfare_closed_connections_total{reason=\"slow_consumer\"}") == 1.0
    })
    .await;
    assert!(is_hung_up_on(&mut broker.tcp_from(FLOOD).await).await);
    drop(stuck);
    drop(api);
    is_forgotten(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_comes_so_often_and_no_oftener() {
    let broker = boot(limited("connections_per_second_per_ip", 5)).await;
    eventually("somebody who is hung up on", async || {
        broker.tcp_from(FLOOD).await;
        times_turned_away(&broker, "connections_per_second_per_ip").await > 0.0
    })
    .await;
    another_is_served(&broker).await;
    // Who waits may come again.
    eventually("a place after a pause", async || {
        let stream = broker.tcp_from(FLOOD).await;
        Client::over(stream, broker.address, HOME, &[]).await.is_ok()
    })
    .await;
    is_forgotten(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_so_many_connections_that_ask_for_nothing() {
    let broker = boot(limited("max_handshakes_per_ip", 3)).await;
    let mut silent = Vec::new();
    for begun in ["", "G", "GET /app/app-key HTTP/1.1\r\nHost: x\r\n"] {
        let mut stream = broker.tcp_from(FLOOD).await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        silent.push(stream);
    }
    assert!(is_hung_up_on(&mut broker.tcp_from(FLOOD).await).await);
    another_is_served(&broker).await;
    // Who has asked for something does not count any more.
    silent[2].write_all(b"\r\n").await.unwrap();
    assert!(!is_hung_up_on(&mut silent[2]).await);
    let mut crowd = Vec::new();
    for _ in 0..10 {
        crowd.push(broker.connect_from(FLOOD).await);
    }
    drop((silent, crowd));
    is_forgotten(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_addresses_together_have_so_many_connections_that_ask_for_nothing() {
    let broker = boot(limited("max_handshakes", 4)).await;
    let sat = broker.connect_from(OTHER).await;
    let mut silent = Vec::new();
    for host in 10..14 {
        silent.push(broker.tcp_from(host).await);
    }
    eventually("the broker sees them all", async || broker.metrics().await.table("handshakes") == 4.0).await;
    assert!(is_hung_up_on(&mut broker.tcp_from(10).await).await);
    // Who has no part in it is let in.
    let mut http = Http::over(broker.tcp_from(OTHER).await);
    publish(&mut http).await.expect_ok();
    silent.remove(0);
    eventually("a place that somebody has left", async || broker.metrics().await.table("handshakes") < 4.0)
        .await;
    publish(&mut Http::over(broker.tcp_from(10).await)).await.expect_ok();
    drop((silent, sat, http));
    is_forgotten(&broker).await;
}

async fn forwarded(broker: &Broker, client: &str) -> Heard {
    let mut dialled = broker.dial_with(HOME, &[("X-Forwarded-For", client)]).await;
    dialled.hear().await
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_the_clients_are_limited_and_told_so() {
    let proxied = limited("max_connections_per_ip", 2).server("trusted_proxies", vec!["127.0.0.1"]);
    let broker = boot(proxied).await;
    let mut crowd = Vec::new();
    for _ in 0..2 {
        let mut client = broker.dial_with(HOME, &[("X-Forwarded-For", "2001:db8::1")]).await;
        client.expect_established().await;
        crowd.push(client);
    }
    // Another of the same network.
    match forwarded(&broker, "2001:db8::2").await {
        Heard::Closed { code, reason } => assert_eq!((code, reason.as_str()), (4100, "Over capacity")),
        other => panic!("heard {other:?}"),
    }
    assert!(matches!(forwarded(&broker, "2001:db8:1::1").await, Heard::Frame(_)));
    // The proxy itself has as many connections as it likes.
    let mut api = Vec::new();
    for _ in 0..10 {
        let mut http = broker.http().await;
        publish(&mut http).await.expect_ok();
        api.push(http);
    }
    drop((crowd, api));
    is_forgotten(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn others_cannot_make_up_where_they_come_from() {
    let broker = boot(limited("max_connections_per_ip", 2)).await;
    let mut crowd = Vec::new();
    for _ in 0..2 {
        let stream = broker.tcp_from(FLOOD).await;
        let made_up = [("X-Forwarded-For", "198.51.100.1")];
        crowd.push(Client::over(stream, broker.address, HOME, &made_up).await.unwrap());
    }
    assert!(is_hung_up_on(&mut broker.tcp_from(FLOOD).await).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_signs_wrongly_is_not_listened_to_for_a_while() {
    let broker = boot(limited("max_failed_requests_per_ip", 3).server("failed_requests_window", "6s")).await;
    let (mut flood, mut other) =
        (Http::over(broker.tcp_from(FLOOD).await), Http::over(broker.tcp_from(OTHER).await));
    let wrong = || event().signature(&"0".repeat(64));
    for _ in 0..10 {
        publish(&mut flood).await.expect_ok();
    }
    ask(&mut flood, wrong()).await.expect_error(401, "Invalid signature");
    ask(&mut flood, event().with("auth_key", "nobody")).await.expect_error(401, "auth_key");
    ask(&mut flood, wrong()).await.expect_error(401, "Invalid signature");
    let refused = ask(&mut flood, wrong()).await;
    refused.expect_error(429, "Too many requests from this address");
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=6).contains(&seconds), "{seconds}");
    // By another connection, too, but not at another address.
    ask(&mut Http::over(broker.tcp_from(FLOOD).await), wrong()).await.expect_error(429, "address");
    ask(&mut other, wrong()).await.expect_error(401, "Invalid signature");
    // Who signs rightly is let in from anywhere: an address may be that of many.
    publish(&mut flood).await.expect_ok();
    publish(&mut other).await.expect_ok();
    another_is_served(&broker).await;
    assert!(times_turned_away(&broker, "failed_requests_per_ip").await >= 2.0);
    eventually("an end to the window", async || ask(&mut flood, wrong()).await.status == 401).await;
    drop((flood, other));
    is_forgotten(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_settings_this_machine_is_not_limited() {
    let broker = boot(settings()).await;
    let mut flood = Http::over(broker.tcp_from(FLOOD).await);
    let wrong = event().signature(&"0".repeat(64)).bytes();
    for _ in 0..11 {
        for reply in flood.pipeline(&vec![wrong.clone(); 100]).await {
            assert_eq!(reply.status, 401);
        }
    }
    assert_eq!(broker.metrics().await.table("addresses"), 0.0);
}

/// The first line of the answer to a socket of a client behind a proxy; nothing else of it is read.
async fn status_of(stream: &mut TcpStream, path: &str, client: &str) -> String {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(in_time("an answer", stream.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains("101") || head.to_lowercase().contains("retry-after: 1\r\n"), "{head}");
    head.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_few_at_once_are_told_of_a_limit() {
    const BUSY: &str = "HTTP/1.1 503 Service Unavailable";
    let proxied = limited("max_connections_per_ip", 1).server("trusted_proxies", vec!["127.0.0.1"]);
    let broker = boot(proxied).await;
    let mut first = broker.dial_with(HOME, &[("X-Forwarded-For", "198.51.100.1")]).await;
    first.expect_established().await;
    // Whether there is something at the path or not.
    for path in [HOME, "/nowhere"] {
        let mut told = Vec::new();
        eventually("one who is not told", async || {
            let mut stream = broker.tcp().await;
            let is_told = status_of(&mut stream, path, "198.51.100.1").await != BUSY;
            told.push(stream);
            !is_told
        })
        .await;
        // Somebody else is let in, and told.
        let mut other = broker.dial_with(HOME, &[("X-Forwarded-For", "198.51.100.2")]).await;
        other.expect_established().await;
        assert!(matches!(forwarded(&broker, "198.51.100.2").await, Heard::Closed { code: 4100, .. }));
        drop((told, other));
        eventually("one who is told again", async || {
            status_of(&mut broker.tcp().await, path, "198.51.100.1").await != BUSY
        })
        .await;
    }
    drop(first);
    is_forgotten(&broker).await;
}
