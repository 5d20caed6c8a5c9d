//! Client events: what one client may say to the others, and in whose name.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Broker, Client, Settings, boot, settings};
use serde_json::{Value, json};

fn talkative() -> Settings {
    settings().feature("client_events", true)
}

/// Two clients in one private channel.
async fn pair(broker: &Broker) -> (Client, Client) {
    let (mut a, mut b) = (broker.connect().await, broker.connect().await);
    a.subscribe("private-a").await;
    b.subscribe("private-a").await;
    (a, b)
}

#[tokio::test(flavor = "multi_thread")]
async fn c081_the_others_hear_a_client_event_once() {
    let broker = boot(talkative()).await;
    let (mut a, mut b) = pair(&broker).await;
    let mut elsewhere = broker.connect().await;
    elsewhere.subscribe("private-b").await;
    a.whisper("private-a", "client-x", json!("hello")).await;
    b.expect_event("private-a", "client-x", "hello").await;
    let mut api = broker.api();
    api.publish("private-a", "marker", "").await;
    a.expect_event("private-a", "marker", "").await;
    b.expect_event("private-a", "marker", "").await;
    elsewhere.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c081_client_events_keep_their_order() {
    let broker = boot(talkative().limit("client_events_per_second", 1000)).await;
    let (mut a, mut b) = pair(&broker).await;
    let event = |n: u32| json!({"event": "client-n", "channel": "private-a", "data": n});
    a.send_together((0..500).map(event)).await;
    for number in 0..500 {
        b.expect_event("private-a", "client-n", &number.to_string()).await;
    }
    a.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c082_on_presence_channels_the_subscription_says_who_spoke() {
    let broker = boot(talkative()).await;
    let channel = "presence-a";
    let (mut a, mut b) = (broker.connect().await, broker.connect().await);
    a.join(channel, r#"{"user_id":7}"#).await;
    b.join(channel, r#"{"user_id":"b"}"#).await;
    a.expect("pusher_internal:member_added").await;
    let forged = json!({"event": "client-x", "channel": channel, "data": "d", "user_id": "root"});
    a.send(forged).await;
    let heard = b.frame().await;
    assert_eq!(heard, json!({"event": "client-x", "channel": channel, "data": "d", "user_id": "7"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn c082_another_connection_of_the_same_user_hears_it() {
    let broker = boot(talkative()).await;
    let (mut a, mut again) = (broker.connect().await, broker.connect().await);
    a.join("presence-a", r#"{"user_id":"a"}"#).await;
    again.join("presence-a", r#"{"user_id":"a"}"#).await;
    a.whisper("presence-a", "client-x", json!("d")).await;
    assert_eq!(again.expect("client-x").await["user_id"], "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn c083_who_is_not_subscribed_may_not_speak() {
    let broker = boot(talkative()).await;
    let (_, mut b) = pair(&broker).await;
    let mut outsider = broker.connect().await;
    outsider.whisper("private-a", "client-x", json!("d")).await;
    let fragment = "Cannot broadcast client event (connection not subscribed to channel private-a)";
    outsider.expect_error(fragment).await;
    outsider.subscribe("private-a").await;
    outsider.unsubscribe("private-a").await;
    outsider.whisper("private-a", "client-x", json!("d")).await;
    outsider.expect_error(fragment).await;
    broker.api().publish("private-a", "marker", "").await;
    b.expect_event("private-a", "marker", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c083_public_channels_take_no_client_events() {
    let broker = boot(talkative()).await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    for channel in ["a", "elsewhere", "#server-to-user-x", "cache-a", "my-private-a"] {
        client.whisper(channel, "client-x", json!("d")).await;
        client.expect_error("only supported on private and presence channels").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c083_an_app_may_do_without_client_events() {
    let broker = boot(settings()).await;
    let (mut a, mut b) = pair(&broker).await;
    a.whisper("private-a", "client-x", json!("d")).await;
    a.expect_error("you must enable this feature").await;
    broker.api().publish("private-a", "marker", "").await;
    b.expect_event("private-a", "marker", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c084_a_name_without_the_prefix_is_unsupported() {
    let broker = boot(talkative()).await;
    let (mut a, mut b) = pair(&broker).await;
    for name in ["xclient-a", "client", "Client-x", "my-client-x", "pusher:client-x", "clientx"] {
        a.whisper("private-a", name, json!("d")).await;
        a.expect_error(&format!("Unsupported event received on socket: {name}")).await;
    }
    broker.api().publish("private-a", "marker", "").await;
    b.expect_event("private-a", "marker", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c085_the_eleventh_client_event_of_a_second_is_dropped() {
    let broker = boot(talkative()).await;
    let (mut a, mut b) = pair(&broker).await;
    let event = |n: u32| json!({"event": "client-n", "channel": "private-a", "data": n});
    a.send_together((0..11).map(event)).await;
    a.expect_error_frame(&json!(4301), "rate limit").await;
    a.expect_nothing().await;
    for number in 0..10 {
        b.expect_event("private-a", "client-n", &number.to_string()).await;
    }
    // What is refused costs nothing, so asking again and again ends in being heard.
    common::eventually("an accepted client event", async || {
        a.whisper("private-a", "client-again", json!("d")).await;
        let heard = a.round().await;
        assert!(heard.iter().all(|frame| frame["data"]["code"] == 4301), "in {heard:?}");
        heard.is_empty()
    })
    .await;
    b.expect_event("private-a", "client-again", "d").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c085_each_connection_has_a_rate_of_its_own() {
    let broker = boot(talkative().limit("client_events_per_second", 1)).await;
    let (mut a, mut b) = pair(&broker).await;
    for name in ["client-1", "client-2"] {
        a.whisper("private-a", name, json!("")).await;
    }
    a.expect_error_frame(&json!(4301), "").await;
    b.expect_event("private-a", "client-1", "").await;
    b.whisper("private-a", "client-3", json!("")).await;
    a.expect_event("private-a", "client-3", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c085_the_rate_is_counted_over_all_channels() {
    let broker = boot(talkative().limit("client_events_per_second", 2)).await;
    let mut client = broker.connect().await;
    let channels = ["private-a", "private-b", "private-c"];
    for channel in channels {
        client.subscribe(channel).await;
    }
    client
        .send_together(channels.map(|name| json!({"event": "client-x", "channel": name, "data": ""})))
        .await;
    client.expect_error_frame(&json!(4301), "").await;
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c086_data_arrives_as_a_string_that_means_the_same() {
    let broker = boot(talkative().limit("client_events_per_second", 100)).await;
    let (mut a, mut b) = pair(&broker).await;
    let forms = [
        (r#"{"b": 1, "a": [ 1.50, "x" ]}"#, None),
        (r#"[ 1, {"x" : null} ]"#, None),
        ("123", Some("123")),
        ("true", Some("true")),
        ("null", Some("null")),
        (r#""123""#, Some("123")),
        (r#""plain text""#, Some("plain text")),
        (r#""""#, Some("")),
        (r#""{\"a\": 1}""#, Some(r#"{"a": 1}"#)),
        (r#""\u00e4\ud83d\ude00\u0000""#, Some("ä😀\0")),
    ];
    for (sent, wanted) in forms {
        a.send_text(format!(r#"{{"event":"client-x","channel":"private-a","data":{sent}}}"#)).await;
        let frame = b.expect("client-x").await;
        let heard = frame["data"].as_str().unwrap();
        match wanted {
            Some(wanted) => assert_eq!(heard, wanted),
            None => {
                let same = |text: &str| serde_json::from_str::<Value>(text).unwrap();
                assert_eq!(same(heard), same(sent));
                assert!(!heard.contains(' '), "not compact: {heard}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c087_data_of_10240_bytes_is_the_most() {
    let broker = boot(talkative()).await;
    let (mut a, mut b) = pair(&broker).await;
    for data in ["x".repeat(10_240), "ä".repeat(5_120), "\n".repeat(10_240)] {
        a.whisper("private-a", "client-x", json!(data)).await;
        b.expect_event("private-a", "client-x", &data).await;
    }
    for data in ["x".repeat(10_241), "ä".repeat(5_121)] {
        a.whisper("private-a", "client-x", json!(data)).await;
        a.expect_error("").await;
    }
    a.whisper("private-a", "client-x", json!({"x": "x".repeat(10_240)})).await;
    a.expect_error("").await;
    broker.api().publish("private-a", "marker", "").await;
    b.expect_event("private-a", "marker", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c087_a_name_of_200_characters_is_the_longest() {
    let broker = boot(talkative()).await;
    let (mut a, mut b) = pair(&broker).await;
    let name = format!("client-{}", "x".repeat(193));
    a.whisper("private-a", &name, json!("d")).await;
    b.expect_event("private-a", &name, "d").await;
    a.whisper("private-a", &format!("{name}x"), json!("d")).await;
    a.expect_error("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c088_a_client_event_needs_channel_and_data() {
    let broker = boot(talkative()).await;
    let (mut a, _b) = pair(&broker).await;
    let incomplete = [
        json!({"event": "client-x", "channel": "private-a"}),
        json!({"event": "client-x", "data": "d"}),
        json!({"event": "client-x"}),
    ];
    for event in incomplete {
        a.send(event).await;
        a.expect_error("must contain channel and data").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c089_encrypted_channels_take_no_client_events() {
    let broker = boot(talkative()).await;
    let (mut a, mut b) = (broker.connect().await, broker.connect().await);
    for channel in ["private-encrypted-a", "private-encrypted-cache-a"] {
        a.subscribe(channel).await;
        b.subscribe(channel).await;
        a.round().await;
        b.round().await;
        a.whisper(channel, "client-x", json!("d")).await;
        a.expect_error("").await;
        broker.api().publish(channel, "marker", "").await;
        b.expect_event(channel, "marker", "").await;
        a.expect_event(channel, "marker", "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c090_other_members_of_the_frame_stay_behind() {
    let broker = boot(talkative()).await;
    let (mut a, mut b) = pair(&broker).await;
    a.send(json!({
        "event": "client-x", "channel": "private-a", "data": "d",
        "user_id": "forged", "socket_id": "1.1", "time": 5, "extra": {"event": "pusher:error"}
    }))
    .await;
    b.expect_event("private-a", "client-x", "d").await;
}
