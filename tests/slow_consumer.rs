//! Readers that do not keep up, and floods: nobody waits for the slow, nobody else loses anything.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;

use common::raw::End;
use common::{Broker, DEADLINE, HOME, Raw, Settings, Signed, boot, eventually, settings, within};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Little patience: what a socket does not read soon ends it.
fn strict() -> Settings {
    settings().server("max_mailbox_bytes", "64KiB")
}

/// A number, followed by enough to fill kernel buffers soon.
fn large(number: usize) -> String {
    format!("{number:08} {}", "x".repeat(10_000))
}

/// The stuck reader resumes: it finds the beginning, without gaps, and then the end.
async fn resumes(mut stuck: Raw) {
    let (texts, end) = stuck.until_end().await;
    for (number, text) in texts.iter().enumerate() {
        let frame: Value = serde_json::from_str(text).unwrap();
        let data = frame["data"].as_str().unwrap();
        assert_eq!(data[..8].parse::<usize>().unwrap(), number, "out of order");
    }
    match end {
        End::Dropped => (),
        End::Closed(code, reason) => {
            assert_eq!(code, 4100);
            assert!(reason.to_lowercase().contains("slow"), "{reason}");
        }
    }
}

/// The bytes of a request that publishes to `flood`.
fn request(name: &str, data: &str) -> Vec<u8> {
    Signed::post("/apps/1/events", &json!({"name": name, "channel": "flood", "data": data})).bytes()
}

/// Publishes all of these over one connection without waiting, and sees them all accepted.
async fn flood(broker: &Broker, requests: Vec<Vec<u8>>) {
    for reply in broker.http().await.pipeline(&requests).await {
        assert_eq!(reply.expect_ok(), json!({}));
    }
}

fn number_in(frame: &Value) -> usize {
    frame["data"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_is_closed_and_its_neighbour_hears_everything() {
    let broker = boot(strict()).await;
    let mut witness = broker.witness().await;
    let stuck = broker.stuck_in("flood").await;
    let mut neighbour = broker.listeners(1).await.remove(0);
    let mut api = broker.api();
    let mut number = 0;
    while number % 20 != 0 || number == 0 || api.subscribers("flood").await == 2 {
        assert!(number < 2_000, "20 MB were not too much for a mailbox of 64 KiB");
        api.publish("flood", "n", &large(number)).await;
        neighbour.expect_event("flood", "n", &large(number)).await;
        number += 1;
    }
    resumes(stuck).await;
    neighbour.expect_nothing().await;
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_does_not_wait_for_a_stuck_reader() {
    let broker = boot(strict()).await;
    let mut witness = broker.witness().await;
    let stuck = broker.stuck_in("flood").await;
    let requests = (0..1_000).map(|number| request("n", &large(number))).collect();
    within(DEADLINE * 2, "a thousand replies", flood(&broker, requests)).await;
    let mut api = broker.api();
    eventually("the end of the stuck reader", async || api.occupied().await == ["witness"]).await;
    resumes(stuck).await;
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_consumer_leaves_its_presence_channel() {
    let broker = boot(strict()).await;
    let mut watcher = broker.connect().await;
    watcher.join("presence-flood", r#"{"user_id":"watcher"}"#).await;
    let mut raw = Raw::open(broker.narrow_tcp().await, HOME).await;
    let greeting = serde_json::from_slice(&raw.frame().await.unwrap().payload).unwrap();
    let socket_id = common::data_of(&greeting)["socket_id"].as_str().unwrap().to_owned();
    let user = r#"{"user_id":"stuck"}"#;
    let auth = common::APP.auth(&socket_id, "presence-flood", Some(user));
    let data = json!({"channel": "presence-flood", "auth": auth, "channel_data": user});
    raw.text(&common::client::subscribe_with(data).to_string()).await;
    watcher.expect("pusher_internal:member_added").await;
    let mut api = broker.api();
    for number in 0..2_000 {
        api.publish("presence-flood", "n", &large(number)).await;
        let frame = watcher.frame().await;
        if frame["event"] == "pusher_internal:member_removed" {
            assert_eq!(common::data_of(&frame), json!({"user_id": "stuck"}));
            return;
        }
    }
    panic!("the slow consumer stayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_and_never_listens_is_bounded() {
    let broker = boot(strict()).await;
    let mut witness = broker.witness().await;
    let mut raw = Raw::open(broker.narrow_tcp().await, HOME).await;
    let request = br#"{"event":"pusher:subscribe","data":{"channel":"private-a"}}"#;
    let requests = common::raw::frame(common::raw::FIN | common::raw::TEXT, request).repeat(500);
    common::until_ignored(&mut raw.writer, &requests).await;
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn healthy_readers_hear_two_thousand_events_in_order() {
    let broker = boot(settings()).await;
    let _stuck = broker.stuck_in("flood").await;
    let mut readers = JoinSet::new();
    for mut client in broker.listeners(5).await {
        readers.spawn(async move {
            for number in 0..2_000 {
                client.expect_event("flood", "n", &format!("{number}")).await;
            }
            client.expect_nothing().await;
        });
    }
    flood(&broker, (0..2_000).map(|number| request("n", &number.to_string())).collect()).await;
    while let Some(read) = readers.join_next().await {
        read.expect("a healthy reader");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_during_a_flood_misses_nothing_from_then_on() {
    const EVENTS: usize = 3_000;
    const JOINERS: usize = 30;
    let broker = Arc::new(boot(settings()).await);
    let mut readers = JoinSet::new();
    let mut joined = broker.listeners(1).await;
    let flooding = tokio::spawn({
        let broker = Arc::clone(&broker);
        let requests = (0..EVENTS).map(|number| request("n", &number.to_string())).collect();
        async move { flood(&broker, requests).await }
    });
    for _ in 0..JOINERS {
        // One reads on until the next has joined, so that they spread over the flood.
        joined[0].frame().await;
        let mut client = broker.connect().await;
        client.subscribe("flood").await;
        readers.spawn(async move {
            let mut seen: Vec<usize> = Vec::new();
            loop {
                let frame = client.frame().await;
                if frame["event"] == "end" {
                    break seen;
                }
                seen.push(number_in(&frame));
            }
        });
    }
    flooding.await.expect("the flood");
    broker.api().publish("flood", "end", "").await;
    let mut during = 0;
    while let Some(seen) = readers.join_next().await {
        let seen = seen.expect("a reader");
        let first = seen.first().copied().unwrap_or(EVENTS);
        assert_eq!(seen, (first..EVENTS).collect::<Vec<_>>());
        during += usize::from((1..EVENTS).contains(&first));
    }
    assert!(during > 0, "nobody joined during the flood");
}

#[tokio::test(flavor = "multi_thread")]
async fn exclusion_holds_under_a_flood() {
    let broker = boot(settings()).await;
    let mut clients = broker.listeners(2).await;
    let (mut other, mut sender) = (clients.remove(1), clients.remove(0));
    let requests = (0..1_000).map(|number| {
        let mut body = json!({"name": "n", "channel": "flood", "data": number.to_string()});
        if number % 3 == 0 {
            body["socket_id"] = json!(sender.socket_id);
        }
        Signed::post("/apps/1/events", &body).bytes()
    });
    let publishing = flood(&broker, requests.collect());
    let hearing = async {
        for number in 0..1_000 {
            other.expect_event("flood", "n", &number.to_string()).await;
        }
    };
    let excluded = async {
        for number in (0..1_000).filter(|number| number % 3 != 0) {
            sender.expect_event("flood", "n", &number.to_string()).await;
        }
    };
    tokio::join!(publishing, hearing, excluded);
    sender.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_subscribers_hear_four_publishers_each_in_its_order() {
    const PUBLISHERS: usize = 4;
    const EACH: usize = 50;
    let broker = boot(settings()).await;
    let mut readers = JoinSet::new();
    for mut client in broker.listeners(300).await {
        readers.spawn(async move {
            let mut next = [0; PUBLISHERS];
            for _ in 0..PUBLISHERS * EACH {
                let frame = client.frame().await;
                let publisher: usize = frame["event"].as_str().unwrap().parse().unwrap();
                assert_eq!(number_in(&frame), next[publisher], "of publisher {publisher}");
                next[publisher] += 1;
            }
            assert_eq!(next, [EACH; PUBLISHERS]);
            client.expect_nothing().await;
        });
    }
    let mut publishers = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let mut api = broker.api();
        publishers.spawn(async move {
            for number in 0..EACH {
                api.publish("flood", &publisher.to_string(), &number.to_string()).await;
            }
        });
    }
    while let Some(published) = publishers.join_next().await {
        published.expect("a publisher");
    }
    let all = async {
        while let Some(read) = readers.join_next().await {
            read.expect("a reader");
        }
    };
    within(DEADLINE * 2, "everything heard by everybody", all).await;
}
