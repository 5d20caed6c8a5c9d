//! How webhooks are delivered: retries, order, batches, bounds, and what becomes of events at the end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::receiver::PATIENCE;
use common::{APP, Answer, Broker, Credentials, Receiver, Settings, boot, settings, within};
use serde_json::{Value, json};

/// Every event is told at once, in a request of its own.
fn told_to(url: &str) -> Settings {
    settings().feature("client_events", true).limit("webhook_delay", "0s").hook(url).of_hook("batch", false)
}

fn occupied(channel: &str) -> Value {
    json!({"name": "channel_occupied", "channel": channel})
}

/// The list on the private listener.
async fn failed(broker: &Broker, query: &str) -> Vec<Value> {
    let reply = broker.private("GET", &format!("/webhooks/failed{query}")).await.expect_ok();
    reply["failed"].as_array().expect("a list").clone()
}

async fn replay(broker: &Broker, query: &str) -> u64 {
    let reply = broker.private("POST", &format!("/webhooks/replay{query}")).await.expect_ok();
    reply["replayed"].as_u64().expect("a number")
}

/// Waits until so many events have been given up.
async fn until_failed(broker: &Broker, count: usize) -> Vec<Value> {
    let listed = async {
        loop {
            let failed = failed(broker, "").await;
            if failed.len() >= count {
                return failed;
            }
        }
    };
    within(PATIENCE, "failed events", listed).await
}

// Case 144.
#[tokio::test(flavor = "multi_thread")]
async fn c144_a_request_that_fails_is_sent_again_with_a_new_time_and_signature() {
    let mut receiver = Receiver::scripted([500, 404].map(Answer::Status), Answer::Status(204)).await;
    let broker = boot(told_to(&receiver.url())).await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    client.subscribe("b").await;
    let tries = [receiver.request().await, receiver.request().await, receiver.request().await];
    let bodies = tries.each_ref().map(|request| request.validate(APP));
    for pair in bodies.windows(2) {
        assert!(pair[0]["time_ms"].as_u64() < pair[1]["time_ms"].as_u64(), "{pair:?}");
        assert_eq!(pair[0]["events"], pair[1]["events"]);
    }
    let signatures = tries.each_ref().map(|request| request.header("x-pusher-signature").expect("signed"));
    assert_ne!(signatures[0], signatures[1]);
    // The event behind it has waited, and is not delayed any further.
    assert_eq!(receiver.request().await.events(APP), [occupied("b")]);
    assert!(failed(&broker, "").await.is_empty());
    let count = async |name: &str| {
        broker.metric(&format!("fanfare_webhook_{name}_total{{app=\"1\",endpoint=\"0\"}}")).await
    };
    common::eventually("both delivered", async || count("sent_events").await == 2.0).await;
    assert_eq!([count("failed_requests").await, count("retried_requests").await], [2.0, 2.0]);
}

// Case 144.
#[tokio::test(flavor = "multi_thread")]
async fn c144_what_is_too_old_is_given_up_and_can_be_sent_again() {
    let mut receiver = Receiver::scripted([], Answer::Status(500)).await;
    // Just before a fourth try can be: pauses of one, two and four seconds may be a quarter shorter.
    let settings = told_to(&receiver.secret_url()).webhooks("retry_for", "5200ms");
    let broker = boot(settings).await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    let failed = until_failed(&broker, 1).await;
    assert_eq!(failed[0]["event"], occupied("a"));
    assert_eq!(failed[0]["reason"], "answered 500 Internal Server Error");
    assert_eq!((failed[0]["attempts"].as_u64(), receiver.come().len()), (Some(3), 3));
    assert_eq!(
        [&failed[0]["app"], &failed[0]["endpoint"], &failed[0]["url"]],
        [&json!("1"), &json!(0), &json!(receiver.url())]
    );
    receiver.answers(Answer::Status(200));
    assert_eq!([replay(&broker, "?app=2").await, replay(&broker, "?endpoint=1").await], [0, 0]);
    assert_eq!(broker.private("GET", "/webhooks/failed?apps=1").await.status, 400);
    until_replayed(&broker, &mut receiver, occupied("a")).await;
}

/// Sends failed events again until one arrives: within the pause after a failure they are too old again.
async fn until_replayed(broker: &Broker, receiver: &mut Receiver, expected: Value) {
    let replaying = async {
        loop {
            replay(broker, "?app=1&endpoint=0").await;
        }
    };
    tokio::select! {
        event = receiver.event() => assert_eq!(event, expected),
        () = replaying => {}
    }
    common::eventually("an empty list", async || failed(broker, "").await.is_empty()).await;
}

/// Everything that was told to it was once given up untried, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_asked_again_however_early_events_are_given_up() {
    for (batch, retry_for) in [(false, "0s"), (true, "500ms")] {
        let mut receiver = Receiver::scripted([Answer::Status(500)], Answer::Status(200)).await;
        let settings = told_to(&receiver.url()).of_hook("batch", batch).webhooks("retry_for", retry_for);
        let broker = boot(settings).await;
        let mut client = broker.connect().await;
        client.subscribe("a").await;
        assert_eq!(receiver.event().await, occupied("a"));
        until_failed(&broker, 1).await;
        within(PATIENCE, "a replay that is tried", async {
            while receiver.come().is_empty() {
                replay(&broker, "").await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_key_signs() {
    let mut receiver = Receiver::new().await;
    let further = |key: &str| {
        toml::Table::from_iter([("key".to_owned(), key.into()), ("secret".to_owned(), "new".into())])
    };
    let settings = told_to(&receiver.url()).app("keys", vec![further("newer"), further("newest")]);
    let broker = boot(settings).await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    let request = receiver.request().await;
    assert_eq!(request.events(Credentials { key: "app-key", ..APP }), [occupied("a")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_the_headers_and_the_password_of_its_endpoint_and_their_query() {
    let (mut receiver, mut plain) = (Receiver::new().await, Receiver::new().await);
    let settings = told_to(&receiver.secret_url())
        .of_hook("headers", vec!["X-Token: s3cret: 1", "Accept: text/plain"])
        .hook(&plain.secret_url())
        .of_hook("headers", vec!["Authorization: Bearer s3cret"]);
    let broker = boot(settings).await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    let request = receiver.request().await;
    request.validate(APP);
    assert_eq!(request.line, "POST /hook?token=hidden HTTP/1.1");
    let host = receiver.address.to_string();
    let agent = concat!("fanfare/", env!("CARGO_PKG_VERSION"));
    for (name, value) in [
        // "name:pass/word"
        ("authorization", "Basic bmFtZTpwYXNzL3dvcmQ="),
        ("x-token", "s3cret: 1"),
        ("accept", "text/plain"),
        ("host", host.as_str()),
        ("user-agent", agent),
    ] {
        assert_eq!(request.header(name), Some(value), "{request:?}");
    }
    // Two of them were once sent, which few servers take.
    let request = plain.request().await;
    assert_eq!(request.header("authorization"), Some("Bearer s3cret"));
    assert_eq!(request.header("x-token"), None);
}

// Case 147.
#[tokio::test(flavor = "multi_thread")]
async fn c147_an_endpoint_that_hangs_delays_no_other_and_keeps_its_order() {
    let mut hanging = Receiver::scripted([Answer::Hang], Answer::Status(200)).await;
    let mut well = Receiver::new().await;
    let settings = told_to(&hanging.url()).hook(&well.url()).of_hook("batch", false);
    let broker = boot(settings.webhooks("timeout", "10s")).await;
    let mut client = broker.connect().await;
    let channels = ["a", "b", "c", "d"];
    for channel in channels {
        client.subscribe(channel).await;
    }
    hanging.expect([occupied("a")]).await;
    well.expect(channels.map(occupied)).await;
    assert!(hanging.come().is_empty(), "one request at a time");
    hanging.expect(channels.map(occupied)).await;
}

// Case 147.
#[tokio::test(flavor = "multi_thread")]
async fn c147_a_redirect_is_a_failure_and_leads_nowhere() {
    let mut elsewhere = Receiver::new().await;
    let mut moved = Receiver::scripted([], Answer::Redirect(elsewhere.url())).await;
    let broker = boot(told_to(&moved.url()).webhooks("retry_for", "0s")).await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    let failed = until_failed(&broker, 1).await;
    assert_eq!(failed[0]["reason"], "answered 301 Moved Permanently");
    assert_eq!((moved.come().len(), elsewhere.come().len()), (1, 0));
}

/// Nothing but the status matters, and no more than its header is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_success_is_one_whatever_becomes_of_its_body() {
    for answer in [Answer::CutBody, Answer::HangInBody, Answer::Huge, Answer::Status(299)] {
        let mut receiver = Receiver::scripted([], answer.clone()).await;
        let broker = boot(told_to(&receiver.url()).webhooks("timeout", "5s")).await;
        let mut client = broker.connect().await;
        for channel in ["a", "b"] {
            client.subscribe(channel).await;
        }
        receiver.expect(["a", "b"].map(occupied)).await;
        let sent = "fanfare_webhook_sent_events_total{app=\"1\",endpoint=\"0\"}";
        common::eventually("both delivered", async || broker.metric(sent).await == 2.0).await;
        assert!(receiver.come().is_empty() && failed(&broker, "").await.is_empty(), "{answer:?}");
        // The kernel's buffers take some.
        assert!(receiver.written() < 32 << 20, "{} bytes were read", receiver.written());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_events_are_selected_by_app_and_endpoint() {
    let bad = Receiver::scripted([], Answer::Status(503)).await;
    let (first, neighbours) = (bad.url(), format!("{}?token=hidden", bad.url()));
    let settings = told_to(&first)
        .hook(&bad.url())
        .of_hook("batch", false)
        .neighbours_hook(&neighbours)
        .webhooks("retry_for", "0s")
        .webhooks("max_failed_events", 4);
    let broker = boot(settings).await;
    let (mut neighbour, mut client) = (broker.neighbour().await, broker.connect().await);
    neighbour.subscribe("n").await;
    until_failed(&broker, 1).await;
    client.subscribe("a").await;
    until_failed(&broker, 3).await;
    assert_eq!(failed(&broker, "?app=2").await.len(), 1);
    assert_eq!(failed(&broker, "?app=1&endpoint=1").await.len(), 1);
    assert_eq!(failed(&broker, "?endpoint=0").await.len(), 2);
    assert_eq!(broker.metric("fanfare_webhook_failed_kept_events").await, 3.0);
    // The list has room for four.
    client.subscribe("b").await;
    let forgotten = async || broker.private("GET", "/webhooks/failed").await.expect_ok()["forgotten"].clone();
    common::eventually("the oldest forgotten", async || forgotten().await == 1).await;
    assert_eq!(failed(&broker, "?app=2").await.len(), 0);
    assert_eq!(failed(&broker, "").await.len(), 4);
}
