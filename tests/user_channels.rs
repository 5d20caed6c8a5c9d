//! A user's own channel: joined by signing in, acknowledged when the client asks, left for good.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::users::{channel_of, user};
use common::{Broker, Client, boot, settings};
use serde_json::json;

async fn signed_in(broker: &Broker) -> Client {
    let mut client = broker.connect().await;
    client.sign_in(&user("u1")).await;
    client
}

/// What is published now is heard by this client once.
async fn hears_once(broker: &Broker, client: &mut Client, data: &str) {
    broker.api().publish(&channel_of("u1"), "e", data).await;
    client.expect_event(&channel_of("u1"), "e", data).await;
    client.expect_nothing().await;
}

async fn hears_nothing(broker: &Broker, client: &mut Client) {
    broker.api().publish(&channel_of("u1"), "e", "unheard").await;
    client.expect_nothing().await;
}

async fn is_subscribed_already(client: &mut Client) {
    let command = client.subscription(&channel_of("u1"));
    client.send(command).await;
    client.expect_error("Existing subscription").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_around_the_explicit_subscribe() {
    let broker = boot(settings()).await;
    let mut client = signed_in(&broker).await;
    hears_once(&broker, &mut client, "before").await;
    client.subscribe(&channel_of("u1")).await;
    hears_once(&broker, &mut client, "after").await;
    is_subscribed_already(&mut client).await;
    hears_once(&broker, &mut client, "once still").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_events_is_not_torn_by_signing_in_and_subscribing() {
    let broker = boot(settings()).await;
    let mut client = signed_in(&broker).await;
    let mut api = broker.api();
    let publishing = async {
        for number in 0..200 {
            api.publish(&channel_of("u1"), "e", &number.to_string()).await;
        }
    };
    let listening = async {
        let mut heard = Vec::new();
        let mut acknowledged = 0;
        while heard.len() < 200 {
            match heard.len() {
                50 => client.send(client.subscription(&channel_of("u1"))).await,
                100 => client.send(client.signing_in(&user("u1"))).await,
                150 => client.send(client.subscription(&channel_of("u1"))).await,
                _ => {}
            }
            let mut frame = client.frame().await;
            while frame["event"] != "e" {
                acknowledged += 1;
                frame = client.frame().await;
            }
            heard.push(frame["data"].as_str().unwrap().parse::<usize>().unwrap());
        }
        acknowledged += client.round().await.len();
        (heard, acknowledged)
    };
    let ((heard, acknowledged), ()) = tokio::join!(listening, publishing);
    assert_eq!(heard, (0..200).collect::<Vec<_>>());
    assert_eq!(acknowledged, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_repeated_sign_in_the_subscribe_is_acknowledged_again() {
    let broker = boot(settings()).await;
    let mut client = signed_in(&broker).await;
    for _ in 0..3 {
        client.subscribe(&channel_of("u1")).await;
        is_subscribed_already(&mut client).await;
        client.sign_in(&user("u1")).await;
        hears_once(&broker, &mut client, "once").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_unsubscribes_is_told_nothing_until_it_subscribes_again() {
    let broker = boot(settings()).await;
    let mut client = signed_in(&broker).await;
    client.subscribe(&channel_of("u1")).await;
    client.unsubscribe(&channel_of("u1")).await;
    client.expect_nothing().await;
    hears_nothing(&broker, &mut client).await;
    client.unsubscribe(&channel_of("u1")).await;
    client.expect_error("No current subscription").await;
    client.subscribe(&channel_of("u1")).await;
    hears_once(&broker, &mut client, "again").await;
    is_subscribed_already(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_never_subscribed_explicitly_may_unsubscribe_too() {
    let broker = boot(settings()).await;
    let mut client = signed_in(&broker).await;
    client.unsubscribe(&channel_of("u1")).await;
    client.expect_nothing().await;
    hears_nothing(&broker, &mut client).await;
    assert_eq!(broker.metrics().await.get("fanfare_users{app=\"1\"}"), 1.0, "it is signed in still");
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_again_joins_the_channel_again() {
    let broker = boot(settings()).await;
    let mut client = signed_in(&broker).await;
    client.unsubscribe(&channel_of("u1")).await;
    client.sign_in(&user("u1")).await;
    hears_once(&broker, &mut client, "again").await;
    client.subscribe(&channel_of("u1")).await;
    hears_once(&broker, &mut client, "and again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_signed_in_has_nothing_to_unsubscribe_from() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.unsubscribe(&channel_of("u1")).await;
    client.expect_error("No current subscription").await;
    client.sign_in(&user("u2")).await;
    client.unsubscribe(&channel_of("u1")).await;
    client.expect_error("No current subscription").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_channel_of_a_user_is_in_addition_to_all_that_a_socket_may_have() {
    let broker = boot(settings().limit("max_channels_per_connection", 2)).await;
    let mut client = signed_in(&broker).await;
    client.subscribe("a").await;
    client.subscribe("b").await;
    client.subscribe(&channel_of("u1")).await;
    client.send(client.subscription("c")).await;
    assert_eq!(client.expect_refused("c", "maximum").await["type"], "LimitReached");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_sent_in_one_breath_is_answered_in_order() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let mut commands = vec![client.signing_in(&user("u1"))];
    for _ in 0..2 {
        commands.push(client.subscription(&channel_of("u1")));
        commands.push(json!({"event": "pusher:unsubscribe", "data": {"channel": channel_of("u1")}}));
    }
    commands.push(client.subscription(&channel_of("u1")));
    client.send_together(commands).await;
    client.expect_signed_in(&user("u1")).await;
    for _ in 0..3 {
        client.expect_subscribed(&channel_of("u1")).await;
    }
    hears_once(&broker, &mut client, "once").await;
}
