//! How much an app may do through the API in a second: what counts, and what is answered beyond it.
//!
//! Limits of one a second and requests that count for hundreds leave debts that outlast any test, so
//! that nothing here depends on how fast it runs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{APP, Api, Broker, OTHER, Reply, Signed, boot, eventually, settings};
use serde_json::{Value, json};

const EVENTS: &str = "Rate limit exceeded: at most 1 events per second for this app";
const READS: &str = "Rate limit exceeded: at most 1 reads per second for this app";

/// A broker whose first app may publish one event a second.
async fn one_event() -> Broker {
    let settings = settings().limit("api_events_per_second", 1);
    boot(settings.limit("max_batch_events", 1000).limit("max_channels_per_trigger", 1000)).await
}

fn event() -> Value {
    json!({"name": "e", "channel": "a", "data": "d"})
}

fn batch(count: usize) -> Value {
    json!({"batch": vec![event(); count]})
}

fn event_for(channels: usize) -> Value {
    let channels: Vec<String> = (0..channels).map(|number| format!("c{number}")).collect();
    json!({"name": "e", "channels": channels, "data": "d"})
}

/// The reply is this refusal; returns after how many seconds to come back.
fn retry_after(reply: &Reply, text: &str) -> u64 {
    reply.expect_error(429, text);
    assert_eq!(reply.body.trim_end(), text);
    assert!(!reply.closes(), "{reply:?}");
    let seconds = reply.header("retry-after").expect("a Retry-After").parse().expect("whole seconds");
    assert!(seconds >= 1, "{reply:?}");
    seconds
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_limit_nothing_is_counted() {
    let broker = boot(settings()).await;
    let post = Signed::post("/apps/1/events", &event()).bytes();
    let get = Signed::get("/apps/1/channels").bytes();
    let requests: Vec<_> = (0..500).flat_map(|_| [post.clone(), get.clone()]).collect();
    let replies = broker.http().await.pipeline(&requests).await;
    assert!(replies.iter().all(|reply| reply.status == 200 && reply.header("retry-after").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_nothing_is_published_and_nobody_else_suffers() {
    let broker = one_event().await;
    let (mut client, mut api) = (broker.connect().await, broker.api());
    client.subscribe("a").await;
    let mut neighbour = broker.neighbour().await;
    neighbour.subscribe("a").await;
    // More than the limit in one request passes when nothing was published before.
    api.post("/batch_events", &batch(1000)).await.expect_ok();
    for _ in 0..1000 {
        client.expect_event("a", "e", "d").await;
    }
    let old = Signed::new("POST", "/apps/1/channels/a/events", APP, b"d").param("name", "e");
    for _ in 0..10 {
        retry_after(&api.post("/events", &event()).await, EVENTS);
        retry_after(
            &api.post("/events", &json!({"name": "e", "channels": ["b", "a"], "data": ""})).await,
            EVENTS,
        );
        retry_after(&api.post("/batch_events", &batch(2)).await, EVENTS);
        retry_after(&api.send(&old).await, EVENTS);
    }
    client.expect_nothing().await;
    // Reads are counted by themselves, and other apps too.
    assert_eq!(api.occupied().await, ["a"]);
    let mut other = Api::new(broker.address, OTHER);
    for number in 0..50 {
        other.publish("a", "n", &number.to_string()).await;
        neighbour.expect_event("a", "n", &number.to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_counts_once_for_every_channel_and_the_time_to_wait_is_told() {
    // Ten seconds are left for the test to be slow in.
    let about = |seconds: u64| (seconds.max(10) - 10)..=seconds;
    let twice = {
        let names: Vec<String> = (0..1000).map(|number| format!("c{}", number % 500)).collect();
        json!({"name": "e", "channels": names, "data": "d"})
    };
    for (path, body, count) in
        [("/events", event_for(1000), 1000), ("/events", twice, 500), ("/batch_events", batch(700), 700)]
    {
        let broker = one_event().await;
        let mut api = broker.api();
        api.post(path, &body).await.expect_ok();
        let mut last = retry_after(&api.post("/events", &event()).await, EVENTS);
        assert!(about(count).contains(&last), "{last} for {count}");
        // A refused request counts nothing: it does not get longer.
        for _ in 0..20 {
            let seconds = retry_after(&api.post("/batch_events", &batch(1000)).await, EVENTS);
            assert!(seconds <= last, "{seconds} after {last}");
            last = seconds;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_is_told_so_and_counts_nothing() {
    let broker = one_event().await;
    let mut api = broker.api();
    let bad = [
        ("/events", json!({"name": "e", "channels": ["b", "not a name"], "data": "d"}), 400),
        ("/events", json!({"name": "e", "channel": "a", "data": "d".repeat(10_241)}), 413),
        ("/batch_events", json!({"batch": [event(), {"channel": "a"}]}), 400),
    ];
    for (path, body, status) in &bad {
        api.post(path, body).await.expect_error(*status, "");
    }
    // So this still finds a full bucket.
    api.post("/events", &event_for(1000)).await.expect_ok();
    for (path, body, status) in &bad {
        api.post(path, body).await.expect_error(*status, "");
    }
    let unsigned = Signed::post("/apps/1/events", &event()).sends_query("");
    api.send(&unsigned).await.expect_error(401, "");
    retry_after(&api.post("/events", &event()).await, EVENTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_time_that_was_told_it_goes_on() {
    let broker = boot(settings().limit("api_events_per_second", 1)).await;
    let (mut client, mut api) = (broker.connect().await, broker.api());
    client.subscribe("a").await;
    api.post("/batch_events", &batch(5)).await.expect_ok();
    let seconds = retry_after(&api.post("/events", &event()).await, EVENTS);
    assert!(seconds <= 5);
    eventually("an end of the wait", async || api.post("/events", &event()).await.status == 200).await;
    for _ in 0..6 {
        client.expect_event("a", "e", "d").await;
    }
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_that_publishes_nothing_is_a_read() {
    let broker = boot(settings().limit("api_reads_per_second", 1)).await;
    let mut http = broker.http().await;
    let gets = ["/channels", "/channels/a", "/channels/presence-a/users", "/channels/a/stats"];
    let mut requests: Vec<_> =
        gets.iter().map(|path| Signed::get(&format!("/apps/1{path}")).bytes()).collect();
    requests.push(Signed::post("/apps/1/batch_events", &batch(0)).bytes());
    for request in requests {
        // Of these at least one comes within a second of another.
        let replies = http.pipeline(&vec![request; 50]).await;
        let refused: Vec<_> = replies.iter().filter(|reply| reply.status != 200).collect();
        assert!(!refused.is_empty());
        refused.iter().for_each(|reply| assert_eq!(retry_after(reply, READS), 1));
    }
    // To publish is no read, and what is not found or not legal is not counted.
    let mut api = broker.api();
    for number in 0..50 {
        api.publish("a", "n", &number.to_string()).await;
        api.get("/nothing", &[]).await.expect_error(404, "");
        api.get("/channels/a:b", &[]).await.expect_error(400, "");
    }
    eventually("another read", async || api.get("/channels", &[]).await.status == 200).await;
    Api::new(broker.address, OTHER).get("/channels", &[]).await.expect_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_on_many_connections_share_the_limit() {
    let broker = one_event().await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    let mut publishers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let mut api = broker.api();
        publishers.spawn(async move { api.post("/batch_events", &batch(1000)).await.status });
    }
    let mut statuses = publishers.join_all().await;
    statuses.sort_unstable();
    assert_eq!((statuses[0], statuses[1]), (200, 429), "{statuses:?}");
    for _ in 0..1000 {
        client.expect_event("a", "e", "d").await;
    }
    client.expect_nothing().await;
}
