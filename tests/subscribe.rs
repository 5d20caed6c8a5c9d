//! Subscribing and unsubscribing: names, signatures, order, and what a refusal sounds like.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::client::subscribe_with;
use common::sign::SAMPLE;
use common::{APP, Credentials, OTHER, boot, eventually, settings};
use serde_json::{Value, json};

fn unsubscribe_from(channel: &str) -> Value {
    json!({"event": "pusher:unsubscribe", "data": {"channel": channel}})
}

#[tokio::test(flavor = "multi_thread")]
async fn c034_public_subscribe_succeeds() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.send(subscribe_with(json!({"auth": "", "channel": "a"}))).await;
    client.expect_subscribed("a").await;
    client.send(subscribe_with(json!({"channel": "b"}))).await;
    client.expect_subscribed("b").await;
    client.send(subscribe_with(json!({"channel": "c", "auth": "not:needed", "channel_data": "x"}))).await;
    client.expect_subscribed("c").await;
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c035_subscribing_twice_is_an_error_and_changes_nothing() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let mut api = broker.api();
    client.subscribe("a").await;
    client.send(client.subscription("a")).await;
    client.expect_error("Existing subscription to channel a").await;
    assert_eq!(api.subscribers("a").await, 1);
    api.publish("a", "once", "1").await;
    api.publish("a", "once", "2").await;
    client.expect_event("a", "once", "1").await;
    client.expect_event("a", "once", "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c036_the_data_of_a_subscribe_may_be_a_string() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.send(subscribe_with(json!(r#"{"channel":"a","auth":""}"#))).await;
    client.expect_subscribed("a").await;
    let auth = APP.auth(&client.socket_id, "private-a", None);
    let data = json!({"channel": "private-a", "auth": auth}).to_string();
    client.send(subscribe_with(json!(data))).await;
    client.expect_subscribed("private-a").await;
    let data = json!({"channel": "a"}).to_string();
    client.send(json!({"event": "pusher:unsubscribe", "data": data})).await;
    client.expect_nothing().await;
    assert_eq!(broker.api().occupied().await, ["private-a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn c037_invalid_names_are_errors() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let long = "x".repeat(201);
    for name in ["with space", "ä", "", &long, "a/b", "a:b", "a*", "a\nb", "a#b", "💩"] {
        client.send(subscribe_with(json!({"auth": "", "channel": name}))).await;
        client.expect_declined("").await;
    }
    for data in [json!({"channel": 5}), json!({"channel": null}), json!({"auth": ""}), json!({})] {
        client.send(subscribe_with(data)).await;
        client.expect_declined("").await;
    }
    client.send(subscribe_with(json!({"channel": "a b"}))).await;
    client.expect_declined("Invalid channel name").await;
    assert!(broker.api().occupied().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn c037_the_longest_name_is_configured() {
    let broker = boot(settings().limit("max_channel_name_length", 164)).await;
    let mut client = broker.connect().await;
    client.send(subscribe_with(json!({"channel": "x".repeat(165)}))).await;
    client.expect_refused(&"x".repeat(165), "Invalid channel name").await;
    client.subscribe(&"x".repeat(164)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c038_every_allowed_character_is_allowed() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let long = "x".repeat(200);
    let names = ["a_b", "a-b", "a=b", "a@b", "a,b", "a.b", "a;b", "_-=@,.;", "Az09", "-", "7", &long];
    for name in names {
        client.subscribe(name).await;
    }
    client.expect_nothing().await;
    assert_eq!(broker.api().occupied().await.len(), names.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn c039_prefixes_count_only_at_the_start_and_as_written() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let names =
        ["my-private-x", "Private-x", "privately", "private", "presence", "x-presence-a", "PRESENCE-a"];
    for name in names {
        client.send(subscribe_with(json!({"auth": "", "channel": name}))).await;
        client.expect_subscribed(name).await;
    }
    client.send(subscribe_with(json!({"auth": "", "channel": "private-encryptedx"}))).await;
    client.expect_refused("private-encryptedx", "Auth info required").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c040_a_private_channel_asks_for_auth() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    for channel in ["private-a", "private-encrypted-a", "private-cache-a", "presence-a"] {
        for data in [json!({"channel": channel}), json!({"channel": channel, "auth": ""})] {
            client.send(subscribe_with(data)).await;
            client.expect_refused(channel, &format!("Auth info required to subscribe to {channel}")).await;
        }
    }
    for auth in [json!(null), json!(5), json!({}), json!(["a"])] {
        client.send(subscribe_with(json!({"channel": "private-a", "auth": auth}))).await;
        client.expect_declined("").await;
    }
    assert!(broker.api().occupied().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn c041_a_signed_private_subscribe_succeeds() {
    // The reference's own example, made by the function that signs below.
    let expected = "278d425bdf160c739803:58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4";
    assert_eq!(SAMPLE.auth("1234.1234", "private-foobar", None), expected);
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    for channel in ["private-foobar", "private-encrypted-foobar", "private-a@b;c"] {
        client.subscribe(channel).await;
    }
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c042_a_signature_of_something_else_is_refused() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let stranger = broker.connect().await;
    let liar = Credentials { secret: "guessed", ..APP };
    let right = APP.auth(&client.socket_id, "private-a", None);
    let auths = [
        APP.auth(&stranger.socket_id, "private-a", None),
        APP.auth(&client.socket_id, "private-b", None),
        liar.auth(&client.socket_id, "private-a", None),
        right[..right.len() - 1].to_owned(),
        format!("{right}0"),
    ];
    for auth in auths {
        client.send(subscribe_with(json!({"channel": "private-a", "auth": auth}))).await;
        client.expect_refused("private-a", "Invalid signature").await;
    }
    client.subscribe("private-a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c043_the_key_of_another_app_is_refused() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let nobody = Credentials { key: "nobody", ..APP };
    for by in [OTHER, nobody] {
        let auth = by.auth(&client.socket_id, "private-a", None);
        client.send(subscribe_with(json!({"channel": "private-a", "auth": auth}))).await;
        let fragment = format!("Invalid key in subscription auth data: '{}'", by.key);
        client.expect_refused("private-a", &fragment).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c044_auth_of_another_form_is_refused() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    for auth in ["nocolon", ":", "app-key:", "app-key", "app-key::", "::::", " : "] {
        client.send(subscribe_with(json!({"channel": "private-a", "auth": auth}))).await;
        client.expect_refused("private-a", "").await;
    }
    client.subscribe("private-a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c045_an_upper_case_signature_is_refused() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let signature = APP.sign(&format!("{}:private-a", client.socket_id)).to_uppercase();
    let data = json!({"channel": "private-a", "auth": format!("app-key:{signature}")});
    client.send(subscribe_with(data)).await;
    client.expect_refused("private-a", "Invalid signature").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c046_channel_data_is_part_of_a_private_signature() {
    let expected = "bf9f2eda99b88b670aedd071792d41c2796fda040476f39b46f89a28ccc69a9c";
    let channel_data = r#"{"user_id":"10"}"#;
    assert!(SAMPLE.auth("1234.1234", "private-foobar", Some(channel_data)).ends_with(expected));
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let auth = APP.auth(&client.socket_id, "private-a", Some(channel_data));
    let without = json!({"channel": "private-a", "auth": auth});
    let changed = json!({"channel": "private-a", "auth": auth, "channel_data": r#"{"user_id":"11"}"#});
    for data in [without, changed] {
        client.send(subscribe_with(data)).await;
        client.expect_refused("private-a", "Invalid signature").await;
    }
    let whole = json!({"channel": "private-a", "auth": auth, "channel_data": channel_data});
    client.send(subscribe_with(whole)).await;
    client.expect_subscribed("private-a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c047_empty_channel_data_is_no_part_of_a_signature() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    for (channel, channel_data) in [("private-a", json!(null)), ("private-b", json!(""))] {
        let auth = APP.auth(&client.socket_id, channel, None);
        let data = json!({"channel": channel, "auth": auth, "channel_data": channel_data});
        client.send(subscribe_with(data)).await;
        client.expect_subscribed(channel).await;
    }
    for channel_data in [json!(5), json!({"user_id": "1"}), json!([]), json!(true)] {
        let auth = APP.auth(&client.socket_id, "private-c", None);
        let data = json!({"channel": "private-c", "auth": auth, "channel_data": channel_data});
        client.send(subscribe_with(data)).await;
        client.expect_declined("").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c048_after_unsubscribing_no_event_arrives() {
    let broker = boot(settings()).await;
    let (mut client, mut other) = (broker.connect().await, broker.connect().await);
    let mut api = broker.api();
    client.subscribe("a").await;
    other.subscribe("a").await;
    client.unsubscribe("a").await;
    client.expect_nothing().await;
    api.publish("a", "missed", "1").await;
    other.expect_event("a", "missed", "1").await;
    client.subscribe("a").await;
    api.publish("a", "seen", "2").await;
    client.expect_event("a", "seen", "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c049_unsubscribing_from_elsewhere_is_an_error() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.subscribe("b").await;
    let fragment = "No current subscription to channel a, or subscription in progress";
    client.unsubscribe("a").await;
    client.expect_error(fragment).await;
    client.subscribe("a").await;
    client.unsubscribe("a").await;
    client.unsubscribe("a").await;
    client.expect_error(fragment).await;
    for data in [json!({}), json!({"channel": 5}), json!({"channel": ""})] {
        client.send(json!({"event": "pusher:unsubscribe", "data": data})).await;
        client.expect_error("").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c050_subscribe_unsubscribe_subscribe_succeeds_twice() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let again = client.subscription("private-a");
    client.send_together([again.clone(), unsubscribe_from("private-a"), again]).await;
    client.expect_subscribed("private-a").await;
    client.expect_subscribed("private-a").await;
    client.expect_nothing().await;
    assert_eq!(broker.api().subscribers("private-a").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn c051_a_dropped_connection_leaves_its_channels() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let mut api = broker.api();
    client.subscribe("a").await;
    client.subscribe("private-b").await;
    assert_eq!(api.occupied().await, ["a", "private-b"]);
    drop(client);
    eventually("empty channels", async || api.occupied().await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c052_a_refusal_reaches_the_channels_own_listeners() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.send(subscribe_with(json!({"channel": "private-a", "auth": "app-key:00"}))).await;
    let data = client.expect_refused("private-a", "Invalid signature").await;
    assert_eq!((&data["type"], &data["status"]), (&json!("AuthError"), &json!(401)));
}

#[tokio::test(flavor = "multi_thread")]
async fn c052_a_refusal_is_only_an_error_where_that_is_wanted() {
    let broker = boot(settings().server("subscription_errors", false)).await;
    let mut client = broker.connect().await;
    client.send(subscribe_with(json!({"channel": "private-a", "auth": "app-key:00"}))).await;
    client.expect_error("Invalid signature").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c053_c054_nobody_walks_into_a_hash_channel() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    for channel in ["#server-to-user-x", "#foo", "#", "#server-to-user-", "##server-to-user-x"] {
        client.send(subscribe_with(json!({"auth": "", "channel": channel}))).await;
        client.expect_declined("").await;
    }
    assert!(broker.api().occupied().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn c055_a_burst_of_subscribes_is_answered_in_order() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let name = |n: usize| if n < 100 { format!("a{n}") } else { format!("private-{n}") };
    let burst: Vec<Value> = (0..200).map(|n| client.subscription(&name(n))).collect();
    client.send_together(burst).await;
    for n in 0..200 {
        client.expect_subscribed(&name(n)).await;
    }
    client.expect_nothing().await;
    assert_eq!(broker.api().occupied().await.len(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_is_in_at_most_so_many_channels() {
    let broker = boot(settings().limit("max_channels_per_connection", 3)).await;
    let (mut client, mut other) = (broker.connect().await, broker.connect().await);
    for channel in ["a", "b", "private-c"] {
        client.subscribe(channel).await;
    }
    client.send(subscribe_with(json!({"channel": "d"}))).await;
    client.expect_refused("d", "3").await;
    other.subscribe("d").await;
    client.unsubscribe("a").await;
    client.subscribe("d").await;
}
