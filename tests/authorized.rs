//! Authorised connections: whoever shows no signature in time is closed, and counts for nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::client::subscribe_with;
use common::raw::End;
use common::users::{sign_in_with, user};
use common::{Broker, Client, HOME, Settings, boot, eventually, settings};
use serde_json::json;
use tokio::task::JoinSet;

const REASON: &str = "Connection not authorized within timeout";

fn within(timeout: &str) -> Settings {
    settings().feature("authorized_connections", true).limit("authorization_timeout", timeout)
}

/// A quota, and all the time in the world.
fn places(max_connections: i64) -> Settings {
    within("1h").limit("max_connections", max_connections)
}

async fn is_closed_as_unauthorized(client: &mut Client) {
    assert_eq!(client.closed_with(4009).await, REASON);
}

async fn unauthorized(broker: &Broker) -> f64 {
    broker.metrics().await.table("unauthorized_sockets")
}

#[tokio::test(flavor = "multi_thread")]
async fn c101_whoever_does_nothing_is_closed_with_4009() {
    let broker = boot(within("300ms")).await;
    let mut idle = broker.connect().await;
    is_closed_as_unauthorized(&mut idle).await;
    broker.has_sockets(0).await;
    let metrics = broker.metrics().await;
    assert_eq!(metrics.get("fanfare_closed_connections_total{reason=\"unauthorized\"}"), 1.0);
    assert_eq!(metrics.table("unauthorized_sockets"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn c101_protocol_5_hears_the_error_before_the_close() {
    let broker = boot(within("300ms")).await;
    let mut client = broker.dial("/app/app-key?protocol=5").await;
    client.expect_established().await;
    client.expect_error_frame(&json!(4009), REASON).await;
    is_closed_as_unauthorized(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c101_what_needs_no_signature_does_not_help() {
    let broker = boot(within("3s")).await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    client.subscribe("cache-a").await;
    client.expect("pusher:cache_miss").await;
    client.expect_nothing().await;
    client.whisper("a", "client-x", json!({})).await;
    client.expect_error("").await;
    client.send_text("not json").await;
    client.expect_error("").await;
    is_closed_as_unauthorized(&mut client).await;
    eventually("it has left", async || broker.api().occupied().await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c101_what_is_refused_does_not_help() {
    let broker = boot(within("3s")).await;
    let mut client = broker.connect().await;
    for channel in ["private-a", "presence-a"] {
        client.send(subscribe_with(json!({"auth": "app-key:00", "channel": channel}))).await;
        client.expect_refused(channel, "Invalid signature").await;
    }
    client.send(sign_in_with(json!({"auth": "app-key:00", "user_data": user("u1")}))).await;
    client.expect_error("Invalid signature").await;
    client.send(client.signing_in(r#"{"id":5}"#)).await;
    client.expect_error("Invalid user_data").await;
    client.ask_to_join("presence-a", "not json").await;
    client.expect_refused("presence-a", "channel_data").await;
    is_closed_as_unauthorized(&mut client).await;
}

/// Closed later than everybody who came before it.
async fn after_the_time_of_all(broker: &Broker) {
    is_closed_as_unauthorized(&mut broker.connect().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c101_whoever_shows_a_signature_stays() {
    let broker = boot(within("3s")).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(broker.connect().await);
    }
    clients[0].subscribe("private-a").await;
    clients[1].join("presence-a", r#"{"user_id":"1"}"#).await;
    clients[2].subscribe("private-encrypted-a").await;
    clients[3].sign_in(&user("u1")).await;
    assert_eq!(unauthorized(&broker).await, 0.0);
    after_the_time_of_all(&broker).await;
    for client in &mut clients {
        client.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c101_whoever_unsubscribes_stays_as_well() {
    let broker = boot(within("3s")).await;
    let (mut one, mut two) = (broker.connect().await, broker.connect().await);
    one.subscribe("private-a").await;
    one.unsubscribe("private-a").await;
    two.join("presence-a", r#"{"user_id":"1"}"#).await;
    two.unsubscribe("presence-a").await;
    one.expect_nothing().await;
    two.expect_nothing().await;
    after_the_time_of_all(&broker).await;
    one.expect_nothing().await;
    two.subscribe("private-a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_closed_where_the_feature_is_off() {
    let brief = settings().limit("authorization_timeout", "1ms").limit("activity_timeout", "1s");
    let broker = boot(brief.limit("pong_timeout", "3s")).await;
    let mut idle = broker.connect().await;
    assert_eq!(unauthorized(&broker).await, 0.0, "nobody waits for a signature of it");
    // Who answers no ping is closed in the end, by one of the looks at all that would have closed it as well.
    let mut mute = broker.raw().await;
    tokio::select! {
        heard = idle.listen() => panic!("heard {heard:?}"),
        (_, end) = mute.until_end() => assert!(matches!(end, End::Closed(4201, _)), "{end:?}"),
    }
    idle.subscribe("a").await;
    idle.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_before_its_time_leaves_nothing_behind() {
    let broker = boot(within("1h")).await;
    for abruptly in [false, true] {
        let client = broker.connect().await;
        assert_eq!(unauthorized(&broker).await, 1.0);
        match abruptly {
            true => drop(client),
            false => client.close().await,
        }
        broker.has_sockets(0).await;
        assert_eq!(unauthorized(&broker).await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_without_a_signature_count_for_nothing() {
    let broker = boot(places(1)).await;
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let mut client = broker.connect().await;
        client.subscribe("a").await;
        waiting.push(client);
    }
    let (mut first, mut second) = (waiting.pop().unwrap(), waiting.pop().unwrap());
    first.subscribe("private-a").await;
    second.send(second.subscription("private-a")).await;
    second.closed_with(4004).await;
    broker.dial(HOME).await.closed_with(4004).await;
    first.subscribe("private-b").await;
    for client in &mut waiting {
        client.expect_nothing().await;
    }
    broker.dial("/app/other-key?protocol=7").await.expect_established().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_above_the_quota_is_closed_with_4004_and_never_stood() {
    let settings = places(1).feature("watchlist_events", true).limit("offline_delay", "0s");
    let broker = boot(settings).await;
    let (mut first, mut second) = (broker.connect().await, broker.connect().await);
    first.sign_in(&common::users::watching("u1", &["u2"])).await;
    assert_eq!(first.expect_watched().await.1, ["u2"]);
    second.send(second.signing_in(&user("u2"))).await;
    second.closed_with(4004).await;
    first.expect_nothing().await;
    broker.has_users(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_one_has_left_one_more_is_accepted_and_no_second() {
    let broker = boot(places(1)).await;
    let mut first = broker.connect().await;
    let (mut next, mut last) = (broker.connect().await, broker.connect().await);
    for _ in 0..3 {
        first.sign_in(&user("u1")).await;
        first.close().await;
        broker.has_sockets(2).await;
        first = broker.connect().await;
    }
    next.subscribe("private-a").await;
    last.send(last.signing_in(&user("u1"))).await;
    last.closed_with(4004).await;
    first.send(first.subscription("private-a")).await;
    first.closed_with(4004).await;
    broker.dial(HOME).await.closed_with(4004).await;
    next.close().await;
    broker.has_sockets(0).await;
    broker.connect().await.subscribe("private-a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_closed_as_unauthorized_gives_back_no_place_of_others() {
    let broker = boot(within("3s").limit("max_connections", 1)).await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(broker.connect().await);
    }
    for client in &mut idle {
        is_closed_as_unauthorized(client).await;
    }
    broker.has_sockets(0).await;
    let (mut first, mut second) = (broker.connect().await, broker.connect().await);
    first.subscribe("private-a").await;
    second.send(second.subscription("private-a")).await;
    second.closed_with(4004).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rush_of_signatures_fills_exactly_the_places_there_are() {
    let broker = boot(places(10)).await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(broker.connect().await);
    }
    let mut rush = JoinSet::new();
    for (number, mut client) in clients.into_iter().enumerate() {
        rush.spawn(async move {
            match number % 2 {
                0 => client.send(client.subscription("private-a")).await,
                _ => client.send(client.signing_in(&user("u1"))).await,
            }
            let heard = client.hear().await;
            (client, heard)
        });
    }
    assert_eq!(common::let_in(rush).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signature_takes_no_second_place() {
    let broker = boot(places(2)).await;
    let (mut first, mut second) = (broker.connect().await, broker.connect().await);
    for number in 0..10 {
        first.subscribe(&format!("private-{number}")).await;
        first.sign_in(&user("u1")).await;
    }
    second.sign_in(&user("u1")).await;
    broker.dial(HOME).await.closed_with(4004).await;
    first.expect_nothing().await;
}
