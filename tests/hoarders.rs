//! Above `max_mailboxes_bytes` those are closed who fill the mailboxes, by whatever they came, and nobody
//! else (README, Protection).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::certificates::{Authority, Folder};
use common::fallback::{QUERY, STREAM, narrow};
use common::{Broker, DEADLINE, Settings, boot, eventually, eventually_within, settings, tls};
use tokio::net::TcpSocket;

/// What may wait for all.
const LIMIT: f64 = 1_048_576.0;
/// What the hoarder has of it, before nothing more comes for it.
const HOARD: f64 = 750_000.0;
/// What waits for a small one that is slow.
const LITTLE: f64 = 30_000.0;
/// Bytes of one event.
const EVENT: usize = 20_000;
/// The kernel's buffers come first.
const PATIENCE: Duration = DEADLINE.saturating_mul(2);

fn tight() -> Settings {
    settings()
        .server("max_mailbox_bytes", "100MiB")
        .server("max_mailboxes_bytes", "1MiB")
        .limit("max_event_bytes", "64KiB")
}

async fn waiting(broker: &Broker) -> f64 {
    broker.metrics().await.get("fanfare_mailbox_bytes")
}

async fn slow_consumers(broker: &Broker) -> f64 {
    broker.metrics().await.get("fanfare_closed_connections_total{reason=\"slow_consumer\"}")
}

/// Publishes to a channel until so many bytes more wait for whoever does not read it. `hear` is a reader
/// that does.
async fn fill(broker: &Broker, channel: &str, bytes: f64, mut hear: impl AsyncFnMut()) {
    let (mut api, wanted) = (broker.api(), waiting(broker).await + bytes);
    eventually_within(PATIENCE, "so much waits", async || {
        api.publish(channel, "n", &"x".repeat(EVENT)).await;
        hear().await;
        waiting(broker).await >= wanted
    })
    .await;
}

/// A hoarder in `hoard` has much and gets nothing further. When the limit is crossed by another one's
/// backlog, it is the hoarder who goes.
async fn the_hoarder_goes(broker: &Broker, mut hear: impl AsyncFnMut()) {
    let mut witness = broker.witness().await;
    let (_small, _late) = (broker.stuck_in("small").await, broker.stuck_in("late").await);
    fill(broker, "hoard", HOARD, &mut hear).await;
    fill(broker, "small", LITTLE, async || ()).await;
    assert_eq!(slow_consumers(broker).await, 0.0, "all of them fit");
    let mut api = broker.api();
    eventually_within(PATIENCE, "somebody's end", async || {
        assert!(waiting(broker).await <= 2.0 * LIMIT);
        api.publish("late", "n", &"x".repeat(EVENT)).await;
        slow_consumers(broker).await > 0.0
    })
    .await;
    // The one who reads the channel, too, stays.
    for (channel, count) in [("hoard", 1), ("small", 1), ("late", 1)] {
        eventually("the end of the hoarder alone", async || api.subscribers(channel).await == count).await;
    }
    api.publish("hoard", "n", &"x".repeat(EVENT)).await;
    hear().await;
    assert_eq!(slow_consumers(broker).await, 1.0);
    assert!(waiting(broker).await <= LIMIT * 7.0 / 8.0, "there is room again");
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hoarder_is_closed_though_nothing_further_comes_for_it() {
    let broker = boot(tight()).await;
    let _hoarder = broker.stuck_in("hoard").await;
    let mut reader = broker.connect().await;
    reader.subscribe("hoard").await;
    the_hoarder_goes(&broker, async || {
        reader.expect("n").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hoarder_by_tls_is_closed_and_a_reader_by_tls_is_not() {
    let (authority, folder) = (Authority::new(), Folder::new("hoarders"));
    folder.hold(&authority.issue_number(1));
    let files = [("cert", folder.file("cert.pem")), ("key", folder.file("key.pem"))];
    let files = toml::Table::from_iter(files.map(|(key, file)| (key.to_owned(), file.into())));
    let both = tight().server("listen", vec!["127.0.0.1:0", "tls://127.0.0.1:0"]).server("tls", files);
    let broker = boot(both).await;
    let connector = tls::trusting(&authority.der);
    let narrow = TcpSocket::new_v4().expect("a socket");
    narrow.set_recv_buffer_size(4096).expect("a small receive buffer");
    let narrow = narrow.connect(broker.addresses[1]).await.expect("a connection");
    let mut hoarder = tls::connect_over(&connector, narrow).await;
    tls::subscribe(&mut hoarder, "hoard").await;
    let mut reader = tls::connect(&connector, broker.addresses[1].port()).await;
    tls::subscribe(&mut reader, "hoard").await;
    the_hoarder_goes(&broker, async || {
        assert_eq!(tls::next(&mut reader).await["event"], "n");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hoarder_by_the_fallbacks_is_closed_and_a_reader_by_them_is_not() {
    let broker = boot(tight()).await;
    let mut hoarder = broker.carry(STREAM).await;
    hoarder.subscribe("hoard").await;
    let _unread = narrow(&broker, &format!("{}/{STREAM}{QUERY}", hoarder.path)).await;
    hoarder.reply.as_mut().expect("a reply").lines().await;
    let mut reader = broker.carry(common::fallback::POLL).await;
    reader.subscribe("hoard").await;
    the_hoarder_goes(&broker, async || {
        reader.expect("n").await;
    })
    .await;
}

/// Nobody has much here, and yet there is too much: the fullest go, and as many as have to.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_equals_no_more_go_than_have_to() {
    const CROWD: u64 = 8;
    let broker = boot(tight()).await;
    let mut witness = broker.witness().await;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(broker.stuck_in("flood").await);
    }
    let mut api = broker.api();
    eventually_within(PATIENCE, "somebody's end", async || {
        api.publish("flood", "n", &"x".repeat(EVENT)).await;
        slow_consumers(&broker).await > 0.0
    })
    .await;
    // A frame that has begun is kept for who is closed, for as long as it is waited for. The last event may
    // still be on its way to others when there is room.
    eventually_within(PATIENCE, "room", async || waiting(&broker).await <= LIMIT).await;
    let left = api.subscribers("flood").await;
    assert!((1..CROWD).contains(&left), "{left} are left");
    witness.still_works().await;
    drop(crowd);
    broker.nothing_waits().await;
}
