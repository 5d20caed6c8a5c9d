//! Cache channels: the last event waits for those who come late.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::{Duration, Instant};

use common::client::subscribe_with;
use common::{Broker, Client, boot, eventually, settings};
use serde_json::json;

/// A newcomer who has just been told of success.
async fn newcomer(broker: &Broker, channel: &str) -> Client {
    let mut client = broker.connect().await;
    client.subscribe(channel).await;
    client
}

async fn expect_miss(client: &mut Client, channel: &str) {
    let frame = client.frame().await;
    assert_eq!(frame, json!({"event": "pusher:cache_miss", "channel": channel, "data": "{}"}));
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c071_an_empty_cache_is_missed_right_after_success() {
    let broker = boot(settings()).await;
    let mut first = newcomer(&broker, "cache-a").await;
    expect_miss(&mut first, "cache-a").await;
    let mut second = newcomer(&broker, "cache-a").await;
    expect_miss(&mut second, "cache-a").await;
    first.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c072_the_last_event_and_only_it_is_replayed() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    api.publish("cache-a", "e1", "one").await;
    api.publish("cache-a", "e2", r#"{"two": 2}"#).await;
    let mut client = newcomer(&broker, "cache-a").await;
    client.expect_event("cache-a", "e2", r#"{"two": 2}"#).await;
    client.expect_nothing().await;
    api.publish("cache-a", "e3", "three").await;
    client.expect_event("cache-a", "e3", "three").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c072_subscribing_twice_replays_nothing() {
    let broker = boot(settings()).await;
    broker.api().publish("cache-a", "e", "d").await;
    let mut client = newcomer(&broker, "cache-a").await;
    client.expect_event("cache-a", "e", "d").await;
    client.send(client.subscription("cache-a")).await;
    client.expect_error("Existing subscription").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c072_of_a_batch_the_last_event_is_kept() {
    let broker = boot(settings()).await;
    let event = |name: &str| json!({"channel": "cache-a", "name": name, "data": name});
    let batch = json!({"batch": [event("e1"), event("e2"), event("e3")]});
    broker.api().post("/batch_events", &batch).await.expect_ok();
    let mut client = newcomer(&broker, "cache-a").await;
    client.expect_event("cache-a", "e3", "e3").await;
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c072_an_excluded_socket_does_not_keep_an_event_out_of_the_cache() {
    let broker = boot(settings()).await;
    let mut sender = newcomer(&broker, "cache-a").await;
    expect_miss(&mut sender, "cache-a").await;
    let body = json!({"name": "e", "channel": "cache-a", "data": "d", "socket_id": sender.socket_id});
    broker.api().post("/events", &body).await.expect_ok();
    let mut late = newcomer(&broker, "cache-a").await;
    late.expect_event("cache-a", "e", "d").await;
    broker.api().publish("cache-a", "marker", "").await;
    sender.expect_event("cache-a", "marker", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c073_a_cached_event_is_forgotten_in_time() {
    // Nobody waits between two looks here.
    let broker = boot(settings().limit("cache_ttl", "3s").limit("messages_per_second", 0)).await;
    let started = Instant::now();
    broker.api().publish("cache-a", "e", "d").await;
    let mut client = newcomer(&broker, "cache-a").await;
    client.expect_event("cache-a", "e", "d").await;
    eventually("a cache miss", async || {
        client.unsubscribe("cache-a").await;
        client.subscribe("cache-a").await;
        client.frame().await["event"] == "pusher:cache_miss"
    })
    .await;
    assert!(started.elapsed() >= Duration::from_millis(2900), "forgotten after {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn c074_a_client_event_is_not_cached() {
    let broker = boot(settings().feature("client_events", true)).await;
    let mut sender = newcomer(&broker, "private-cache-a").await;
    expect_miss(&mut sender, "private-cache-a").await;
    let mut hearer = newcomer(&broker, "private-cache-a").await;
    expect_miss(&mut hearer, "private-cache-a").await;
    sender.whisper("private-cache-a", "client-x", json!("d")).await;
    hearer.expect_event("private-cache-a", "client-x", "d").await;
    let mut late = newcomer(&broker, "private-cache-a").await;
    expect_miss(&mut late, "private-cache-a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c075_the_cache_outlives_the_channels_emptiness() {
    let broker = boot(settings()).await;
    let mut client = newcomer(&broker, "cache-a").await;
    expect_miss(&mut client, "cache-a").await;
    let mut api = broker.api();
    api.publish("cache-a", "e", "d").await;
    client.expect_event("cache-a", "e", "d").await;
    client.close().await;
    eventually("an empty channel", async || api.occupied().await.is_empty()).await;
    let mut late = newcomer(&broker, "cache-a").await;
    late.expect_event("cache-a", "e", "d").await;
    late.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c076_a_cache_in_the_middle_of_a_name_is_no_cache() {
    let broker = boot(settings()).await;
    for channel in ["x-cache-a", "cache", "Cache-a", "private-x-cache-a", "private-cachet"] {
        broker.api().publish(channel, "e", "d").await;
        newcomer(&broker, channel).await.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c077_private_and_encrypted_channels_replay_too() {
    let broker = boot(settings()).await;
    let ciphertext = r#"{"nonce":"AAAA","ciphertext":"c2VjcmV0"}"#;
    for channel in ["private-cache-a", "private-encrypted-cache-a"] {
        let mut early = newcomer(&broker, channel).await;
        expect_miss(&mut early, channel).await;
        broker.api().publish(channel, "e", ciphertext).await;
        let mut late = newcomer(&broker, channel).await;
        late.expect_event(channel, "e", ciphertext).await;
        late.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c077_presence_channels_replay_too_but_not_who_came() {
    let broker = boot(settings()).await;
    let channel = "presence-cache-a";
    let mut early = broker.connect().await;
    early.join(channel, r#"{"user_id":"1"}"#).await;
    expect_miss(&mut early, channel).await;
    let mut second = broker.connect().await;
    second.join(channel, r#"{"user_id":"2"}"#).await;
    expect_miss(&mut second, channel).await;
    early.expect("pusher_internal:member_added").await;
    broker.api().publish(channel, "e", "d").await;
    second.expect_event(channel, "e", "d").await;
    second.close().await;
    early.expect_event(channel, "e", "d").await;
    early.expect("pusher_internal:member_removed").await;
    let mut late = broker.connect().await;
    late.join(channel, r#"{"user_id":"3"}"#).await;
    late.expect_event(channel, "e", "d").await;
    late.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_subscribe_is_shown_no_cached_event() {
    let broker = boot(settings()).await;
    broker.api().publish("private-cache-a", "e", "secret").await;
    let mut client = broker.connect().await;
    client.send(subscribe_with(json!({"channel": "private-cache-a", "auth": "app-key:00"}))).await;
    client.expect_refused("private-cache-a", "Invalid signature").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_apps_cache_is_no_other_apps_business() {
    let broker = boot(settings()).await;
    broker.api().publish("cache-a", "e", "d").await;
    let mut stranger = broker.dial("/app/other-key?protocol=7").await;
    stranger.expect_established().await;
    stranger.subscribe("cache-a").await;
    expect_miss(&mut stranger, "cache-a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_forgets_rather_than_grows_without_end() {
    if common::settings::is_joined() {
        // Redis keeps what a node forgets, and has limits of its own.
        return;
    }
    let broker = boot(settings().server("max_cache_bytes", "64KiB")).await;
    let mut api = broker.api();
    let data = "x".repeat(10_000);
    for number in 0..100 {
        api.publish(&format!("cache-{number}"), "e", &data).await;
    }
    let mut kept = 0;
    for number in 0..100 {
        let params = [("info", "cache")];
        let reply = api.get(&format!("/channels/cache-{number}"), &params).await.expect_ok();
        kept += usize::from(!reply["cache"].is_null());
    }
    assert!((1..=6).contains(&kept), "{kept} events of 10,000 bytes in 64 KiB");
}
