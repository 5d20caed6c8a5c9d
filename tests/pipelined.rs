//! Commands that follow one another at once: each finds done what was asked before it, whoever has to
//! agree to that.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::{Client, Nodes, Redis, Settings, boot, settings};
use serde_json::{Value, json};

fn talkative() -> Settings {
    settings().feature("client_events", true).limit("client_events_per_second", 0)
}

fn unsubscription(channel: &str) -> Value {
    json!({"event": "pusher:unsubscribe", "data": {"channel": channel}})
}

fn whisper(channel: &str, data: &str) -> Value {
    json!({"event": "client-x", "channel": channel, "data": data})
}

fn ping() -> Value {
    json!({"event": "pusher:ping", "data": {}})
}

async fn expect_pong(client: &mut Client) {
    assert_eq!(client.frame().await["event"], "pusher:pong");
}

/// Comes, speaks and leaves, at once.
fn visit(client: &Client, channel: &str, data: &str) -> Vec<Value> {
    vec![client.subscription(channel), ping(), whisper(channel, data), unsubscription(channel), ping()]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_subscribe_is_carried_out_after_it() {
    let broker = boot(talkative()).await;
    let (mut client, mut other) = (broker.connect().await, broker.connect().await);
    other.subscribe("private-a").await;
    for number in 0..50 {
        let data = number.to_string();
        client.send_together(visit(&client, "private-a", &data)).await;
        client.expect_subscribed("private-a").await;
        expect_pong(&mut client).await;
        expect_pong(&mut client).await;
        other.expect_event("private-a", "client-x", &data).await;
    }
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_holds_where_messages_come_by_requests() {
    let broker = boot(talkative()).await;
    let mut session = broker.carry("xhr_streaming").await;
    for number in 0..20 {
        let data = number.to_string();
        let public = json!({"event": "pusher:subscribe", "data": {"channel": "a"}});
        let commands = [public, ping(), unsubscription("a"), whisper("a", &data), ping()];
        let body: Vec<String> = commands.iter().map(Value::to_string).collect();
        session.say(&serde_json::to_vec(&body).unwrap()).await;
        session.expect("pusher_internal:subscription_succeeded").await;
        session.expect("pusher:pong").await;
        session.expect("pusher:error").await;
        session.expect("pusher:pong").await;
    }
    session.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_subscribe_and_a_refused_one_are_answered_after_the_first() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let refused = json!({"event": "pusher:subscribe", "data": {"channel": "no channel"}});
    client.send_together([client.subscription("a"), client.subscription("a"), refused, ping()]).await;
    client.expect_subscribed("a").await;
    for wanted in ["Existing subscription", "Invalid channel name"] {
        let frame = client.expect("pusher:error").await;
        assert!(frame["data"]["message"].as_str().unwrap().starts_with(wanted), "{frame}");
    }
    client.expect("pusher:subscription_error").await;
    expect_pong(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn much_that_follows_a_subscribe_waits_and_is_all_carried_out() {
    let broker = boot(talkative()).await;
    let (mut client, mut other) = (broker.connect().await, broker.connect().await);
    other.subscribe("private-a").await;
    let data = "x".repeat(3000);
    let words = (0..100).map(|number| whisper("private-a", &format!("{number} {data}")));
    client.send_together([client.subscription("private-a")].into_iter().chain(words).chain([ping()])).await;
    client.expect_subscribed("private-a").await;
    expect_pong(&mut client).await;
    for number in 0..100 {
        other.expect_event("private-a", "client-x", &format!("{number} {data}")).await;
    }
}

/// Redis does not answer for a while.
#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_a_subscribe_waits_leaves_nothing_behind() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(1, &redis.url(), talkative()).await;
    let (mut gone, mut stays) = (nodes[0].connect().await, nodes[0].connect().await);
    redis.pause();
    gone.send_together(visit(&gone, "private-a", "")).await;
    stays.send_together([stays.subscription("private-b"), ping()]).await;
    drop(gone);
    let early = tokio::time::timeout(Duration::from_millis(300), stays.frame()).await;
    assert!(early.is_err(), "answered without Redis: {early:?}");
    redis.resume();
    stays.expect_subscribed("private-b").await;
    expect_pong(&mut stays).await;
    nodes[0].lists(&["private-b"]).await;
}
