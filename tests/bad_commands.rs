//! Commands of the wrong shape, depth, number or content: an error each, and nothing worse.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::client::subscribe_with;
use common::{APP, Broker, Client, boot, eventually, settings};
use serde_json::{Value, json};

/// Values that are wrong wherever something particular is expected.
fn wrong_values() -> Vec<Value> {
    vec![
        json!(null),
        json!(true),
        json!(5),
        json!(-1.5),
        json!(""),
        json!("x y"),
        json!([]),
        json!({}),
        json!([[]]),
        json!(["a"]),
        json!({"a": 1}),
        json!("[]"),
        json!("{}"),
        json!("\u{0}"),
        json!(u64::MAX),
    ]
}

/// Commands that are refused as they are, and the fields of each.
fn commands() -> Vec<(Value, &'static [&'static str])> {
    let subscribe = json!({"channel": "presence-a", "auth": "app-key:00", "channel_data": "{\"user_id\":1}"});
    let signin = json!({"auth": "app-key:00", "user_data": "{\"id\":\"1\"}"});
    let client_event = json!({"event": "client-x", "channel": "private-a", "data": "d"});
    vec![
        (
            json!({"event": "pusher:subscribe", "data": subscribe}),
            &["/event", "/data", "/data/channel", "/data/auth", "/data/channel_data"],
        ),
        (
            json!({"event": "pusher:unsubscribe", "data": {"channel": "a"}}),
            &["/event", "/data", "/data/channel"],
        ),
        (
            json!({"event": "pusher:signin", "data": signin}),
            &["/event", "/data", "/data/auth", "/data/user_data"],
        ),
        (client_event, &["/event", "/channel", "/data"]),
    ]
}

/// The answer consists of errors without a code, and there is one.
async fn expect_errors(client: &mut Client, sent: &str) {
    let answer = client.round().await;
    let is_error = |frame: &Value| frame["event"] == "pusher:error" && frame["data"]["code"].is_null();
    let expected = |frame: &Value| is_error(frame) || frame["event"] == "pusher:subscription_error";
    assert!(answer.iter().all(expected), "{sent:.200} was answered by {answer:?}");
    assert!(answer.iter().any(is_error), "{sent:.200} was answered by {answer:?}");
}

async fn talkative() -> Broker {
    boot(settings().feature("client_events", true)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_every_command_may_be_of_the_wrong_shape() {
    let broker = talkative().await;
    let mut witness = broker.witness().await;
    let mut client = broker.connect().await;
    for (command, fields) in commands() {
        client.send(command.clone()).await;
        expect_errors(&mut client, &command.to_string()).await;
        for field in fields {
            for wrong in wrong_values() {
                let mut command = command.clone();
                *command.pointer_mut(field).expect("a field of the command") = wrong;
                client.send(command.clone()).await;
                expect_errors(&mut client, &command.to_string()).await;
            }
        }
    }
    assert_eq!(broker.api().occupied().await, ["witness"]);
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_every_command_may_be_missing() {
    let broker = talkative().await;
    let mut client = broker.connect().await;
    for (command, fields) in commands() {
        for field in fields {
            let mut command = command.clone();
            let (parent, name) = field.rsplit_once('/').unwrap();
            command.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
            client.send(command.clone()).await;
            expect_errors(&mut client, &command.to_string()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_and_pongs_may_carry_anything() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    for value in wrong_values() {
        client.send(json!({"event": "pusher:ping", "data": value, "channel": value, "more": value})).await;
        client.expect("pusher:pong").await;
        client.send(json!({"event": "pusher:pong", "data": value, "channel": value})).await;
        client.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_ten_thousand_deep_is_an_error() {
    let broker = talkative().await;
    let mut witness = broker.witness().await;
    let mut client = broker.connect().await;
    client.subscribe("private-a").await;
    let lists = "[".repeat(10_000) + &"]".repeat(10_000);
    let objects = "{\"a\":".repeat(10_000) + "1" + &"}".repeat(10_000);
    let open = "[".repeat(60_000);
    for deep in [&lists, &objects, &open] {
        for (before, after) in [
            ("", ""),
            (r#"{"event":"#, "}"),
            (r#"{"event":"pusher:subscribe","data":"#, "}"),
            (r#"{"event":"pusher:subscribe","data":{"channel":"#, "}}"),
            (r#"{"event":"client-x","channel":"private-a","data":"#, "}"),
        ] {
            let text = format!("{before}{deep}{after}");
            client.send_text(text.clone()).await;
            expect_errors(&mut client, &text).await;
        }
    }
    for deep in [&lists, &open] {
        client.send(subscribe_with(json!(deep))).await;
        expect_errors(&mut client, "a deep string").await;
        client.ask_to_join("presence-a", deep).await;
        expect_errors(&mut client, "deep channel data").await;
    }
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_data_is_relayed_whole_or_refused() {
    let broker = talkative().await;
    let (mut a, mut b) = (broker.connect().await, broker.connect().await);
    a.subscribe("private-a").await;
    b.subscribe("private-a").await;
    let deep = "[".repeat(2_000) + &"]".repeat(2_000);
    a.send_text(format!(r#"{{"event":"client-x","channel":"private-a","data":{deep}}}"#)).await;
    let refused = !a.round().await.is_empty();
    broker.api().publish("private-a", "deep", &deep).await;
    if !refused {
        b.expect_event("private-a", "client-x", &deep).await;
    }
    b.expect_event("private-a", "deep", &deep).await;
    let info = "[".repeat(300) + &"]".repeat(300);
    let channel_data = format!(r#"{{"user_id":"1","user_info":{info}}}"#);
    a.ask_to_join("presence-a", &channel_data).await;
    a.round().await;
    b.subscribe("still-here").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_characters_are_errors_where_they_matter() {
    let broker = talkative().await;
    let mut witness = broker.witness().await;
    let mut client = broker.connect().await;
    for code in (0..0x20).chain([0x7f, 0x80, 0x2028, 0xfffd]) {
        let character = char::from_u32(code).unwrap();
        for name in [format!("a{character}b"), format!("private-{character}"), character.to_string()] {
            client.send(subscribe_with(json!({"channel": name, "auth": ""}))).await;
            client.expect_refused(&name, "Invalid channel name").await;
        }
        client.send(json!({"event": format!("pusher:{character}"), "data": {}})).await;
        client.expect_error("Unsupported event").await;
        if code < 0x20 {
            client.send_text(format!("{{\"event\":\"a{character}b\"}}")).await;
            client.expect_error("").await;
        }
    }
    for text in
        [r#"{"event":"\ud800"}"#, r#"{"event":"\u00"}"#, r#"{"event":"\x"}"#, "{\"event\":\"a\"}\u{0}"]
    {
        client.send_text(text).await;
        client.expect_error("").await;
    }
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extreme_numbers_and_repeated_keys_do_no_harm() {
    let broker = talkative().await;
    let mut witness = broker.witness().await;
    let mut client = broker.connect().await;
    client.subscribe("private-a").await;
    for number in ["1e999", "-1e999", "1e-999", &"9".repeat(9_000), "0.1e1", "-0", "01", "+1", "1."] {
        client.send_text(format!(r#"{{"event":"client-x","channel":"private-a","data":{number}}}"#)).await;
        client.round().await;
    }
    for text in [
        r#"{"event":"foo","event":"bar"}"#,
        r#"{"event":"pusher:unsubscribe","data":{"channel":"x","channel":"y"}}"#,
    ] {
        client.send_text(text).await;
        expect_errors(&mut client, text).await;
    }
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_names_and_signatures_are_refused() {
    let broker = talkative().await;
    let mut witness = broker.witness().await;
    let mut client = broker.connect().await;
    let long = "x".repeat(60_000);
    let commands = [
        subscribe_with(json!({"channel": long})),
        subscribe_with(json!({"channel": "private-a", "auth": long})),
        subscribe_with(json!({"channel": "private-a", "auth": format!("{long}:00")})),
        subscribe_with(json!({"channel": "private-a", "auth": format!("app-key:{long}")})),
        json!({"event": long}),
        json!({"event": format!("client-{long}"), "channel": "private-a", "data": ""}),
        json!({"event": "pusher:unsubscribe", "data": {"channel": long}}),
        json!({"event": "client-x", "channel": long, "data": ""}),
    ];
    for command in commands {
        client.send(command.clone()).await;
        expect_errors(&mut client, &command.to_string()).await;
    }
    client.join("presence-a", &json!({"user_id": "1"}).to_string()).await;
    let auth = APP.auth(&client.socket_id, "private-a", Some(&long));
    let command = subscribe_with(json!({"channel": "private-a", "auth": auth, "channel_data": long}));
    client.send(command).await;
    client.round().await;
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_subscribes_fill_a_thousand_channels() {
    const STRETCH: usize = 500;
    let broker = boot(settings().limit("messages_per_second", 0)).await;
    let mut witness = broker.witness().await;
    let mut client = broker.connect().await;
    let mut succeeded = 0;
    for stretch in 0..200 {
        let names = (0..STRETCH).map(|n| format!("c{}", stretch * STRETCH + n));
        client.send_together(names.map(|name| subscribe_with(json!({"channel": name})))).await;
        let answers = client.round().await;
        let of = |event: &str| answers.iter().filter(|frame| frame["event"] == event).count();
        let accepted = of("pusher_internal:subscription_succeeded");
        assert_eq!(accepted + of("pusher:error"), STRETCH);
        assert_eq!(of("pusher:subscription_error"), of("pusher:error"));
        succeeded += accepted;
        if stretch % 50 == 0 {
            witness.still_works().await;
        }
    }
    assert_eq!(succeeded, 1000);
    let mut api = broker.api();
    assert_eq!(api.occupied().await.len(), 1001);
    client.send(subscribe_with(json!({"channel": "one-more"}))).await;
    client.expect_refused("one-more", "1000").await;
    api.publish("c999", "e", "d").await;
    client.expect_event("c999", "e", "d").await;
    client.unsubscribe("c0").await;
    client.subscribe("one-more").await;
    client.close().await;
    eventually("empty channels", async || api.occupied().await == ["witness"]).await;
    witness.still_works().await;
}
