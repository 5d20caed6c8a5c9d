//! Users: signing in, and what is published to a user rather than to a channel.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::client::subscribe_with;
use common::sign::SAMPLE;
use common::users::{channel_of, sign_in_with, user};
use common::{APP, Client, OTHER, boot, settings};
use serde_json::{Value, json};

const ROOM: &str = "presence-room";

fn named(id: &str, name: &str) -> String {
    json!({"id": id, "user_info": {"name": name}}).to_string()
}

/// Asks to join the room as whoever is signed in.
async fn ask_to_join_as_user(client: &mut Client) {
    let auth = APP.auth(&client.socket_id, ROOM, None);
    client.send(subscribe_with(json!({"auth": auth, "channel": ROOM}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c091_a_sign_in_is_answered_with_the_very_user_data() {
    let broker = boot(settings()).await;
    let texts = [
        r#"{"id":"12345"}"#,
        r#" { "user_info" : {"name":"A \"quoted\" \\ name","x":[1,2.50,null]}, "id":"ab" } "#,
        "{\"id\":\"u\",\"user_info\":\"💩 ä \\u0000\"}",
        r#"{"id":"u-_=@,.;9","extra":{"deep":[[[]]]},"user_info":null,"watchlist":null}"#,
    ];
    for text in texts {
        let mut client = broker.connect().await;
        client.sign_in(text).await;
        client.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c091_the_example_of_the_reference_is_signed_alike() {
    let expected = "278d425bdf160c739803:4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba";
    assert_eq!(SAMPLE.user_auth("1234.1234", r#"{"id":"12345"}"#), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn c091_the_parameters_may_come_as_a_string() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let mut command = client.signing_in(&user("u1"));
    command["data"] = json!(command["data"].to_string());
    client.send(command).await;
    client.expect_signed_in(&user("u1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c092_after_a_bad_signature_a_good_one_works() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.send(sign_in_with(json!({"auth": "app-key:00", "user_data": user("u1")}))).await;
    client.expect_error("Invalid signature").await;
    client.sign_in(&user("u1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c093_user_data_that_names_nobody_is_refused() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    for text in ["{}", r#"{"id":5}"#, "not json", r#"{"user_info":{"id":"u1"}}"#] {
        client.send(client.signing_in(text)).await;
        client.expect_error("Invalid user_data").await;
    }
    assert_eq!(broker.metrics().await.get("fanfare_users{app=\"1\"}"), 0.0);
    client.sign_in(&user("u1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c094_whoever_is_signed_in_stays_who_they_are() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.sign_in(&user("u1")).await;
    client.send(client.signing_in(&user("u2"))).await;
    client.expect_error("another user").await;
    let mut api = broker.api();
    api.publish(&channel_of("u2"), "e", "to the other").await;
    api.publish(&channel_of("u1"), "e", "to the first").await;
    client.expect_event(&channel_of("u1"), "e", "to the first").await;
    client.expect_nothing().await;
    client.sign_in(&user("u1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c095_a_user_may_subscribe_to_its_own_channel_and_to_no_other() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.sign_in(&user("u1")).await;
    client.subscribe(&channel_of("u1")).await;
    for id in ["u2", "u", "u11", "U1"] {
        let command = client.subscription(&channel_of(id));
        client.send(command).await;
        let refused = client.expect_refused(&channel_of(id), "not signed in as that user").await;
        assert_eq!((&refused["type"], &refused["status"]), (&json!("AuthError"), &json!(401)));
    }
    broker.api().publish(&channel_of("u1"), "e", "d").await;
    client.expect_event(&channel_of("u1"), "e", "d").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c096_each_connection_of_a_user_is_told_once_and_nobody_else() {
    let broker = boot(settings()).await;
    let mut stranger = broker.connect().await;
    stranger.sign_in(&user("u2")).await;
    let mut witness = broker.witness().await;
    let mut connections = Vec::new();
    for explicitly in [true, false, true] {
        let mut client = broker.connect().await;
        client.sign_in(&user("u1")).await;
        if explicitly {
            client.subscribe(&channel_of("u1")).await;
        }
        connections.push(client);
    }
    let mut api = broker.api();
    for number in 0..20 {
        api.publish(&channel_of("u1"), "greeting", &number.to_string()).await;
    }
    for client in &mut connections {
        for number in 0..20 {
            client.expect_event(&channel_of("u1"), "greeting", &number.to_string()).await;
        }
        client.expect_nothing().await;
    }
    stranger.expect_nothing().await;
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c096_batches_and_excluded_sockets_work_as_in_any_channel() {
    let broker = boot(settings()).await;
    let (mut a, mut b) = (broker.connect().await, broker.connect().await);
    a.sign_in(&user("u1")).await;
    b.sign_in(&user("u1")).await;
    let channel = channel_of("u1");
    let event = |data: &str| json!({"name": "e", "channel": channel, "data": data});
    let mut excluding = event("1");
    excluding["socket_id"] = json!(a.socket_id);
    let mut api = broker.api();
    api.post("/batch_events", &json!({"batch": [excluding, event("2")]})).await.expect_ok();
    a.expect_event(&channel, "e", "2").await;
    b.expect_event(&channel, "e", "1").await;
    b.expect_event(&channel, "e", "2").await;
    a.expect_nothing().await;
    b.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c096_a_user_of_another_app_is_somebody_else() {
    let broker = boot(settings()).await;
    let mut ours = broker.connect().await;
    ours.sign_in(&user("u1")).await;
    let mut theirs = broker.dial("/app/other-key?protocol=7").await;
    theirs.expect_established().await;
    theirs.send(theirs.signing_in(&user("u1"))).await;
    theirs.expect_error("Invalid key").await;
    theirs.send(theirs.signing_in_at(OTHER, &user("u1"))).await;
    theirs.expect_signed_in(&user("u1")).await;
    broker.api().publish(&channel_of("u1"), "e", "d").await;
    ours.expect_event(&channel_of("u1"), "e", "d").await;
    theirs.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c097_signing_in_needs_no_setting() {
    let off = ["client_events", "subscription_count", "watchlist_events", "authorized_connections"];
    let broker = boot(off.iter().fold(settings(), |settings, name| settings.feature(name, false))).await;
    let mut client = broker.connect().await;
    client.sign_in(&user("u1")).await;
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c053_a_users_channel_is_closed_to_whoever_is_not_signed_in() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let channel = channel_of("x");
    for auth in [String::new(), APP.auth(&client.socket_id, &channel, None)] {
        client.send(subscribe_with(json!({"auth": auth, "channel": channel}))).await;
        client.expect_refused(&channel, "not signed in as that user").await;
    }
    client.send(client.signing_in("broken")).await;
    client.expect_error("Invalid user_data").await;
    let command = client.subscription(&channel);
    client.send(command).await;
    client.expect_refused(&channel, "").await;
    broker.api().publish(&channel, "e", "d").await;
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c066_a_signed_in_user_joins_without_channel_data() {
    let broker = boot(settings()).await;
    let (mut a, mut b) = (broker.connect().await, broker.connect().await);
    a.sign_in(&named("u1", "One")).await;
    ask_to_join_as_user(&mut a).await;
    let here = a.expect_joined(ROOM).await;
    assert_eq!(here, json!({"count": 1, "ids": ["u1"], "hash": {"u1": {"name": "One"}}}));
    b.sign_in(&user("u2")).await;
    ask_to_join_as_user(&mut b).await;
    let here = b.expect_joined(ROOM).await;
    assert_eq!(here["hash"], json!({"u1": {"name": "One"}, "u2": null}));
    let added = common::data_of(&a.expect("pusher_internal:member_added").await);
    assert_eq!(added["user_id"], "u2");
    let users = broker.api().get("/channels/presence-room/users", &[]).await.expect_ok();
    assert_eq!(users["users"].as_array().unwrap().len(), 2, "{users}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c066_a_signed_in_user_keeps_to_the_limits_of_members() {
    let broker = boot(settings()).await;
    for large in [user(&"x".repeat(129)), named("u1", &"x".repeat(2000))] {
        let mut client = broker.connect().await;
        client.sign_in(&large).await;
        ask_to_join_as_user(&mut client).await;
        client.expect_refused(ROOM, "The user signed in cannot be a member").await;
    }
    assert!(broker.api().occupied().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn c067_channel_data_wins_over_the_sign_in() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.sign_in(&named("u1", "One")).await;
    let here = client.join(ROOM, r#"{"user_id":"u2","user_info":{"name":"Two"}}"#).await;
    assert_eq!(here, json!({"count": 1, "ids": ["u2"], "hash": {"u2": {"name": "Two"}}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn c068_whoever_is_nobody_must_sign_in_first() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    ask_to_join_as_user(&mut client).await;
    client.expect_refused(ROOM, "channel_data").await;
    client.send(sign_in_with(json!({"auth": "app-key:00", "user_data": user("u1")}))).await;
    client.expect_error("Invalid signature").await;
    ask_to_join_as_user(&mut client).await;
    client.expect_refused(ROOM, "channel_data").await;
    client.sign_in(&user("u1")).await;
    ask_to_join_as_user(&mut client).await;
    assert_eq!(client.expect_joined(ROOM).await["ids"], json!(["u1"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_sign_in_brings_new_user_info() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.sign_in(&named("u1", "Old")).await;
    client.sign_in(&named("u1", "New")).await;
    client.expect_nothing().await;
    ask_to_join_as_user(&mut client).await;
    assert_eq!(client.expect_joined(ROOM).await["hash"], json!({"u1": {"name": "New"}}));
    assert_eq!(broker.metrics().await.get("fanfare_users{app=\"1\"}"), 1.0);
    client.close().await;
    broker.has_users(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_channels_of_users_are_hidden() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.sign_in(&user("u1")).await;
    client.subscribe(&channel_of("u1")).await;
    client.subscribe("a").await;
    let mut api = broker.api();
    assert_eq!(api.occupied().await, ["a"]);
    for prefix in ["#", "#server-to-user-", "#server-to-user-u1"] {
        let listed = api.get("/channels", &[("filter_by_prefix", prefix)]).await.expect_ok();
        assert_eq!(listed, json!({"channels": {}}), "by {prefix}");
    }
    let metrics = broker.metrics().await;
    assert_eq!(metrics.get("fanfare_channels{app=\"1\"}"), 1.0);
    assert_eq!(metrics.get("fanfare_subscriptions{app=\"1\"}"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_publishes_client_events_to_a_user() {
    let broker = boot(settings().feature("client_events", true)).await;
    let (mut a, mut b) = (broker.connect().await, broker.connect().await);
    a.sign_in(&user("u1")).await;
    b.sign_in(&user("u1")).await;
    a.whisper(&channel_of("u1"), "client-x", Value::Null).await;
    a.expect_error("only supported on private and presence channels").await;
    b.expect_nothing().await;
}
