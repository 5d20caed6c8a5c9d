//! Requests with an `Idempotency-Key`: carried out once, answered alike, and bounded.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{APP, Api, Broker, Client, OTHER, Reply, Settings, Signed, boot, eventually, in_time, settings};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const HEADER: &str = "Idempotency-Key";

/// A subscriber of `a` and somebody to publish.
async fn audience(broker: &Broker) -> (Client, Api) {
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    (client, broker.api())
}

async fn stage(settings: Settings) -> (Broker, Client, Api) {
    let broker = boot(settings).await;
    let (client, api) = audience(&broker).await;
    (broker, client, api)
}

fn event(data: &str) -> Value {
    json!({"name": "e", "channel": "a", "data": data})
}

fn keyed(path: &str, body: &Value, key: &str) -> Signed {
    Signed::post(&format!("/apps/1{path}"), body).header(HEADER, Some(key))
}

fn publish(data: &str, key: &str) -> Signed {
    keyed("/events", &event(data), key)
}

/// Nothing else came before this event.
async fn expect_marker(client: &mut Client, api: &mut Api) {
    api.publish("a", "marker", "").await;
    client.expect_event("a", "marker", "").await;
}

fn assert_alike(one: &Reply, other: &Reply) {
    let of =
        |reply: &Reply| (reply.status, reply.body.clone(), reply.header("content-type").map(str::to_owned));
    assert_eq!(of(one), of(other));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_delivered_once_and_answered_alike() {
    let (broker, mut client, mut api) = stage(settings()).await;
    let counting = json!({"name": "e", "channel": "a", "data": "d", "info": "subscription_count"});
    let batch = json!({"batch": [counting, event("2")]});
    for (path, body, events, answer) in [
        ("/events", event("d"), 1, json!({})),
        ("/events", counting.clone(), 1, json!({"channels": {"a": {"subscription_count": 1}}})),
        ("/batch_events", batch, 2, json!({"batch": [{"subscription_count": 1}, {}]})),
    ] {
        let request = keyed(path, &body, &format!("{path}-{answer}"));
        let first = api.send(&request).await;
        assert_eq!(first.expect_ok(), answer);
        for _ in 0..events {
            client.expect("e").await;
        }
        // What would be counted by now is another number.
        let mut newcomer = broker.connect().await;
        newcomer.subscribe("a").await;
        for _ in 0..3 {
            assert_alike(&first, &api.send(&request).await);
            assert_alike(&first, &broker.api().send(&request).await);
        }
        newcomer.close().await;
        eventually("one subscriber", async || broker.api().subscribers("a").await == 1).await;
    }
    expect_marker(&mut client, &mut api).await;
    assert_eq!(broker.metric("fanfare_idempotency_keys").await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_and_with_other_keys_everything_is_published() {
    let (broker, mut client, mut api) = stage(settings()).await;
    for _ in 0..3 {
        api.post("/events", &event("d")).await.expect_ok();
        client.expect_event("a", "e", "d").await;
    }
    assert_eq!(broker.metric("fanfare_idempotency_keys").await, 0.0);
    for key in ["a", "A", "\"a\"", &"k".repeat(255), &"k".repeat(254)] {
        api.send(&publish("d", key)).await.expect_ok();
        client.expect_event("a", "e", "d").await;
    }
    assert_eq!(broker.metric("fanfare_idempotency_keys").await, 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_key_is_refused() {
    let (broker, mut client, mut api) = stage(settings()).await;
    let mut witness = broker.witness().await;
    for bad in ["", " ", "two words", "a\tb", "clé", "🔑", &"k".repeat(256), &"k".repeat(10_000)] {
        for path in ["/events", "/batch_events"] {
            let reply = api.send(&keyed(path, &event("d"), bad)).await;
            reply.expect_error(400, "Invalid Idempotency-Key: expected 1 to 255 visible ASCII characters");
        }
    }
    for lines in
        ["Idempotency-Key: k\r\nidempotency-key: k\r\n", "Idempotency-Key: k\r\nIdempotency-Key:\r\n"]
    {
        let request = String::from_utf8(Signed::post("/apps/1/events", &event("d")).bytes()).unwrap();
        let mut http = broker.http().await;
        http.write(request.replace("Host:", &format!("{lines}Host:")).as_bytes()).await;
        http.reply().await.unwrap().expect_error(400, "Duplicate header: Idempotency-Key");
    }
    let request = Signed::post("/apps/1/events", &event("d")).header(HEADER, Some("KEY")).bytes();
    let at = request.windows(3).position(|bytes| bytes == b"KEY").unwrap();
    let mut http = broker.http().await;
    http.write(&[&request[..at], b"\xff\xfe\x80", &request[at + 3..]].concat()).await;
    http.reply().await.unwrap().expect_error(400, "Invalid Idempotency-Key");
    expect_marker(&mut client, &mut api).await;
    assert_eq!(broker.metric("fanfare_idempotency_keys").await, 0.0);
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_one_endpoint_and_one_body() {
    let (_broker, mut client, mut api) = stage(settings()).await;
    let text = "This Idempotency-Key belongs to another request";
    // Legal for both.
    let mut both = event("d");
    both["batch"] = json!([event("d")]);
    let first = api.send(&keyed("/events", &both, "k")).await;
    first.expect_ok();
    client.expect_event("a", "e", "d").await;
    api.send(&keyed("/batch_events", &both, "k")).await.expect_error(422, text);
    api.send(&publish("d", "k")).await.expect_error(422, text);
    // Not even looked at.
    api.send(&keyed("/events", &json!([]), "k")).await.expect_error(422, text);
    assert_alike(&first, &api.send(&keyed("/events", &both, "k")).await);
    expect_marker(&mut client, &mut api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_in_the_query_is_compared_too() {
    let (_broker, mut client, mut api) = stage(settings()).await;
    let in_query = |data: &str| {
        let request = Signed::new("POST", "/apps/1/events", APP, b"").header(HEADER, Some("k"));
        request.param("name", "e").param("channel", "a").param("data", data)
    };
    for _ in 0..2 {
        api.send(&in_query("d")).await.expect_ok();
    }
    client.expect_event("a", "e", "d").await;
    api.send(&in_query("other")).await.expect_error(422, "");
    expect_marker(&mut client, &mut api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_endpoints_do_not_look_at_it() {
    let (_broker, mut client, mut api) = stage(settings()).await;
    for path in ["/channels", "/channels/a", "/channels/presence-a/users", "/channels/a/stats"] {
        for key in ["", "k", "two words"] {
            api.send(&Signed::get(&format!("/apps/1{path}")).header(HEADER, Some(key))).await.expect_ok();
        }
    }
    let old = Signed::new("POST", "/apps/1/channels/a/events", APP, b"d").param("name", "e");
    for _ in 0..2 {
        assert_eq!(api.send(&old.clone().header(HEADER, Some("k"))).await.status, 202);
        client.expect_event("a", "e", "d").await;
    }
    api.send(&publish("d", "k")).await.expect_ok();
    client.expect_event("a", "e", "d").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_do_not_share_keys() {
    let (broker, mut client, mut api) = stage(settings()).await;
    let mut neighbour = broker.neighbour().await;
    neighbour.subscribe("a").await;
    api.send(&publish("d", "k")).await.expect_ok();
    client.expect_event("a", "e", "d").await;
    let theirs = event("theirs").to_string();
    let theirs = Signed::new("POST", "/apps/2/events", OTHER, theirs.as_bytes()).header(HEADER, Some("k"));
    broker.api().send(&theirs).await.expect_ok();
    neighbour.expect_event("a", "e", "theirs").await;
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_leaves_its_key_free() {
    let limited = settings().limit("api_events_per_second", 2);
    let (broker, mut client, mut api) = stage(limited).await;
    for (body, status) in [
        (json!({"name": "e", "channel": "a"}), 400),
        (json!({"name": "e", "channel": "not a name", "data": ""}), 400),
        (event(&"d".repeat(10_241)), 413),
    ] {
        api.send(&keyed("/events", &body, "k")).await.expect_error(status, "");
        assert_eq!(broker.metric("fanfare_idempotency_keys").await, 0.0);
    }
    api.send(&publish("d", "k").without("body_md5")).await.expect_error(401, "");
    api.post("/batch_events", &json!({"batch": vec![event("debt"); 5]})).await.expect_ok();
    for _ in 0..5 {
        client.expect_event("a", "e", "debt").await;
    }
    let corrected = publish("corrected", "k");
    eventually("a legal request", async || api.send(&corrected).await.status == 200).await;
    client.expect_event("a", "e", "corrected").await;
    api.send(&corrected).await.expect_ok();
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_counts_no_events() {
    let limited = settings().limit("api_events_per_second", 1).limit("max_batch_events", 1000);
    let (broker, _client, mut api) = stage(limited).await;
    let batch = keyed("/batch_events", &json!({"batch": vec![event("d"); 1000]}), "k");
    let first = api.send(&batch).await;
    first.expect_ok();
    for _ in 0..20 {
        assert_alike(&first, &api.send(&batch).await);
        api.send(&publish("d", "other")).await.expect_error(429, "at most 1 events per second");
    }
    assert_eq!(broker.metric("fanfare_idempotency_keys").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_before_the_end_of_the_body_leaves_the_key_free() {
    let (broker, mut client, mut api) = stage(settings()).await;
    let request = publish("d", "k");
    let bytes = request.bytes();
    for cut in [bytes.len() - 1, bytes.len() - 20] {
        let mut http = broker.http().await;
        http.write(&bytes[..cut]).await;
    }
    api.send(&request).await.expect_ok();
    client.expect_event("a", "e", "d").await;
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_after_the_request_is_remembered_all_the_same() {
    let (broker, mut client, mut api) = stage(settings()).await;
    let requests: Vec<_> = (0..50).map(|n| publish(&n.to_string(), &format!("k{n}"))).collect();
    for request in &requests {
        let mut http = broker.http().await;
        http.write(&request.bytes()).await;
    }
    // Some were not even read, the others not answered; each is published once by now or then.
    for request in &requests {
        api.send(request).await.expect_ok();
    }
    let mut heard = Vec::new();
    for _ in &requests {
        heard.push(client.expect("e").await["data"].as_str().unwrap().parse::<usize>().unwrap());
    }
    heard.sort_unstable();
    assert_eq!(heard, (0..50).collect::<Vec<_>>());
    expect_marker(&mut client, &mut api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_requests_at_once_are_one() {
    let (broker, mut client, mut api) = stage(settings()).await;
    let mut witness = broker.witness().await;
    let body = json!({"name": "e", "channel": "a", "data": "d", "info": "subscription_count"});
    for round in 0..5 {
        let mut requests = JoinSet::new();
        for _ in 0..50 {
            let (mut api, request) = (broker.api(), keyed("/events", &body, &round.to_string()));
            requests.spawn(async move { api.send(&request).await });
        }
        for reply in requests.join_all().await {
            assert_eq!(reply.expect_ok(), json!({"channels": {"a": {"subscription_count": 1}}}));
        }
        client.expect_event("a", "e", "d").await;
        expect_marker(&mut client, &mut api).await;
    }
    witness.still_works().await;
}

/// Eight backends send the same thirty requests to a channel that has little room, until each is
/// accepted; others send them and hang up at once. Every event comes once.
async fn crowded(queue_timeout: &str) {
    let tight = settings().server("max_queue_bytes", "1KiB").server("queue_timeout", queue_timeout);
    let broker = boot(tight).await;
    let mut readers = JoinSet::new();
    for mut client in broker.listeners(150).await {
        readers.spawn(async move {
            let mut numbers = Vec::new();
            for _ in 0..30 {
                numbers.push(client.expect("n").await["data"].as_str().unwrap()[..2].to_owned());
            }
            client.expect_nothing().await;
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), 30);
        });
    }
    let requests = (10..40).map(|number| {
        let data = format!("{number}{}", "x".repeat(10_000));
        keyed("/events", &json!({"name": "n", "channel": "flood", "data": data}), &number.to_string())
    });
    let requests: Vec<_> = requests.collect();
    let mut publishers = JoinSet::new();
    for offset in 0..8 {
        let (mut api, mut requests) = (broker.api(), requests.clone());
        requests.rotate_left(offset);
        publishers.spawn(async move {
            for request in &requests {
                in_time("room", async { while !accepted(&api.send(request).await) {} }).await;
            }
        });
    }
    for request in &requests {
        broker.http().await.write(&request.bytes()).await;
    }
    publishers.join_all().await;
    readers.join_all().await;
    assert_eq!(broker.metric("fanfare_idempotency_keys").await, 30.0);
}

/// It is; or else it is told to try again.
fn accepted(reply: &Reply) -> bool {
    match reply.status {
        503 => reply.expect_error(503, "Nothing was published"),
        409 => reply.expect_error(409, "is still under way, try again"),
        _ => assert_eq!(reply.expect_ok(), json!({})),
    }
    reply.status == 200
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_for_room_and_for_one_another_are_one_too() {
    crowded("1m").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_do_not_wait_for_long_can_try_again() {
    crowded("1ms").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_keys_take_no_more_than_they_may() {
    let (broker, mut client, mut api) = stage(settings().limit("max_idempotency_bytes", "16KiB")).await;
    let mut witness = broker.witness().await;
    let requests: Vec<_> = (0..1000).map(|n| publish(&n.to_string(), &format!("key-{n}"))).collect();
    let mut http = broker.http().await;
    for together in requests.chunks(100) {
        let bytes: Vec<_> = together.iter().map(Signed::bytes).collect();
        for reply in http.pipeline(&bytes).await {
            reply.expect_ok();
        }
        let (keys, bytes) = (
            broker.metric("fanfare_idempotency_keys").await,
            broker.metric("fanfare_idempotency_bytes").await,
        );
        assert!((20.0..100.0).contains(&keys) && bytes <= 16384.0, "{keys} keys of {bytes} bytes");
    }
    for number in 0..1000 {
        client.expect_event("a", "e", &number.to_string()).await;
    }
    // The last ones are known, the first ones are not.
    api.send(&requests[999]).await.expect_ok();
    expect_marker(&mut client, &mut api).await;
    api.send(&requests[0]).await.expect_ok();
    client.expect_event("a", "e", "0").await;
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_fits_into_too_small_a_bound_and_nothing_breaks() {
    let (broker, mut client, mut api) = stage(settings().limit("max_idempotency_bytes", 1)).await;
    for _ in 0..2 {
        api.send(&publish("d", "k")).await.expect_ok();
        client.expect_event("a", "e", "d").await;
    }
    assert_eq!(broker.metric("fanfare_idempotency_keys").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_time_a_key_is_free_and_its_memory_given_back() {
    let (broker, mut client, mut api) = stage(settings().limit("idempotency_ttl", "1ms")).await;
    api.send(&publish("first", "k")).await.expect_ok();
    client.expect_event("a", "e", "first").await;
    eventually("a free key", async || api.send(&publish("second", "k")).await.status == 200).await;
    client.expect_event("a", "e", "second").await;
    // Nobody touches it again.
    eventually("no keys", async || broker.metric("fanfare_idempotency_keys").await == 0.0).await;
    assert_eq!(broker.metric("fanfare_idempotency_bytes").await, 0.0);
}
