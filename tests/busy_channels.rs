//! Coming and going while a channel is busy: no gaps, nothing stale, nothing left behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Broker, Raw, boot, eventually, settings};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};

/// A number, followed by a good deal of nothing.
fn large(number: usize) -> String {
    format!("{number:08} {}", "x".repeat(10_000))
}

/// Publishes rising numbers to these channels in turn, for ever.
fn counting(broker: &Broker, channels: &'static [&'static str]) -> JoinHandle<()> {
    let mut api = broker.api();
    tokio::spawn(async move {
        for number in 0.. {
            api.publish(channels[number % channels.len()], "n", &number.to_string()).await;
        }
    })
}

/// Subscribers of `flood` that read everything and care for nothing.
async fn crowd(broker: &Broker, size: usize) -> JoinSet<()> {
    crowd_in(broker, "flood", size).await
}

async fn crowd_in(broker: &Broker, channel: &str, size: usize) -> JoinSet<()> {
    let mut crowd = JoinSet::new();
    for _ in 0..size {
        let mut raw = broker.raw().await;
        raw.text(&json!({"event": "pusher:subscribe", "data": {"channel": channel}}).to_string()).await;
        crowd.spawn(async move {
            // Both halves move in here: without the other one the connection would end.
            let Raw { mut reader, writer: _writer } = raw;
            let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
        });
    }
    let mut api = broker.api();
    eventually("a crowd", async || api.subscribers(channel).await == size as u64).await;
    crowd
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_and_rejoins_a_busy_channel_hears_nothing_from_before() {
    let broker = boot(settings()).await;
    let _crowd = crowd(&broker, 200).await;
    let mut client = broker.connect().await;
    client.subscribe("flood").await;
    let flooding = counting(&broker, &["flood"]);
    let leave = json!({"event": "pusher:unsubscribe", "data": {"channel": "flood"}});
    let mut last = None;
    for _ in 0..300 {
        client.send_together([leave.clone(), client.subscription("flood")]).await;
        while client.frame().await["event"] != "pusher_internal:subscription_succeeded" {}
        let mut heard: Vec<usize> = Vec::new();
        for _ in 0..5 {
            let frame: Value = client.expect("n").await;
            heard.push(frame["data"].as_str().unwrap().parse().unwrap());
        }
        let first = heard[0];
        assert_eq!(heard, (first..first + 5).collect::<Vec<_>>(), "a gap after success");
        assert!(last < Some(first), "{first} came again after {last:?}");
        last = Some(first + 4);
    }
    flooding.abort();
}

/// A socket that left while a round was under way was still owed events of before. They once came
/// after the success of its next subscription, besides the cached event: doubled and out of order.
#[tokio::test(flavor = "multi_thread")]
async fn who_rejoins_a_busy_cache_channel_gets_the_cached_event_and_what_follows_it() {
    let broker = boot(settings()).await;
    let _crowd = crowd_in(&broker, "cache-flood", 300).await;
    let mut client = broker.connect().await;
    let flooding = counting(&broker, &["cache-flood"]);
    let leave = json!({"event": "pusher:unsubscribe", "data": {"channel": "cache-flood"}});
    eventually("an event", async || broker.api().cached("cache-flood").await.is_some()).await;
    client.subscribe("cache-flood").await;
    for _ in 0..200 {
        client.send_together([leave.clone(), client.subscription("cache-flood")]).await;
        while client.frame().await["event"] != "pusher_internal:subscription_succeeded" {}
        let mut heard: Vec<usize> = Vec::new();
        for _ in 0..4 {
            heard.push(client.expect("n").await["data"].as_str().unwrap().parse().unwrap());
        }
        assert!(heard.windows(2).all(|pair| pair[1] == pair[0] + 1), "{heard:?}");
    }
    flooding.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_smaller_than_one_event_still_let_it_through() {
    let tight = settings().server("max_mailbox_bytes", "1KiB").server("max_queue_bytes", "1KiB");
    let broker = boot(tight).await;
    let mut client = broker.listeners(1).await.remove(0);
    let mut api = broker.api();
    for number in 0..100 {
        api.publish("flood", "n", &large(number)).await;
        client.expect_event("flood", "n", &large(number)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_take_turns_where_a_channel_has_little_room() {
    let broker = boot(settings().server("max_queue_bytes", "4KiB")).await;
    let mut publishers = JoinSet::new();
    let mut readers = JoinSet::new();
    for mut client in broker.listeners(50).await {
        readers.spawn(async move {
            for _ in 0..8 * 50 {
                client.expect("n").await;
            }
            client.expect_nothing().await;
        });
    }
    for _ in 0..8 {
        let mut api = broker.api();
        publishers.spawn(async move {
            for _ in 0..50 {
                api.publish("flood", "n", &"x".repeat(1000)).await;
            }
        });
    }
    while let Some(done) = publishers.join_next().await {
        done.expect("a publisher");
    }
    while let Some(done) = readers.join_next().await {
        done.expect("a reader");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn coming_and_going_under_a_flood_leaves_nothing_behind() {
    let broker = boot(settings()).await;
    let flooding = counting(&broker, &["cache-0", "cache-1", "cache-2", "cache-3", "cache-4"]);
    let mut crowd = JoinSet::new();
    for number in 0..30_usize {
        let mut client = broker.connect().await;
        crowd.spawn(async move {
            for turn in 0..30 {
                let channel = format!("cache-{}", (number + turn) % 5);
                client.send(client.subscription(&channel)).await;
                if turn < 25 {
                    client.unsubscribe(&channel).await;
                    let heard = client.round().await;
                    assert!(heard.iter().all(|frame| frame["event"] != "pusher:error"), "{heard:?}");
                } else {
                    client.round().await;
                }
            }
            // Half of them leave without a word.
            if number % 2 == 0 {
                client.close().await;
            }
        });
    }
    while let Some(done) = crowd.join_next().await {
        done.expect("one of the crowd");
    }
    flooding.abort();
    let mut api = broker.api();
    eventually("empty channels", async || api.occupied().await.is_empty()).await;
}
