//! Sign-ins that are refused: each by an error without a code, and nothing else happens.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::sign::SAMPLE;
use common::users::{channel_of, sign_in_with, user};
use common::{APP, Broker, Client, boot, settings};
use serde_json::{Value, json};

/// Sends every command on one socket: each is refused, nobody is signed in, and a good one works.
async fn all_are_refused(broker: &Broker, client: &mut Client, commands: Vec<Value>) {
    let mut witness = broker.witness().await;
    for command in commands {
        client.send(command.clone()).await;
        let frame = client.expect("pusher:error").await;
        assert!(frame["data"]["code"].is_null(), "{frame} to {command}");
        let message = frame["data"]["message"].as_str().unwrap();
        assert!(!message.is_empty() && message.chars().count() < 1000, "{frame} to {command}");
        client.expect_nothing().await;
    }
    assert_eq!(broker.metrics().await.get("fanfare_users{app=\"1\"}"), 0.0);
    witness.still_works().await;
    client.sign_in(&user("good")).await;
    broker.api().publish(&channel_of("good"), "e", "d").await;
    client.expect_event(&channel_of("good"), "e", "d").await;
}

/// Every text is signed as it should be, and refused.
async fn all_user_data_is_refused(texts: impl IntoIterator<Item = String>) {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let commands = texts.into_iter().map(|text| client.signing_in(&text)).collect();
    all_are_refused(&broker, &mut client, commands).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn user_data_must_be_an_object_with_an_id() {
    let texts = [
        "",
        " ",
        "not json",
        "[]",
        r#"["id"]"#,
        r#"[{"id":"u"}]"#,
        "5",
        "null",
        "true",
        r#""u""#,
        r#""{\"id\":\"u\"}""#,
        "{}",
        r#"{"ID":"u"}"#,
        r#"{"user_id":"u"}"#,
        r#"{"id":5}"#,
        r#"{"id":null}"#,
        r#"{"id":true}"#,
        r#"{"id":["u"]}"#,
        r#"{"id":{"id":"u"}}"#,
        r#"{"id":""}"#,
        r#"{"id":"u""#,
        r#"{"id":"u"} trailing"#,
        r#"{"id":"u"}{"id":"v"}"#,
        r#"{"id":"u","id":"v"}"#,
        r#"{"id":"\ud800"}"#,
        "{id:'u'}",
        "\u{0}",
    ];
    all_user_data_is_refused(texts.map(str::to_owned)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_has_no_character_that_a_channel_cannot_have() {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-=@,.;".contains(c);
    let ascii = (0..=127_u8).map(char::from).filter(|c| !allowed(*c));
    let others = "\u{80}\u{85}\u{a0}äßł\u{200b}\u{2028}\u{feff}\u{fffd}日💩\u{10ffff}";
    let ids = ascii.chain(others.chars()).flat_map(|c| [format!("a{c}b"), c.to_string()]);
    all_user_data_is_refused(ids.map(|id| user(&id)).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_no_longer_than_a_channel_can_be_named() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    for length in [185, 186, 1000, 20_000] {
        client.send(client.signing_in(&user(&"x".repeat(length)))).await;
        client.expect_error("at most 184 characters").await;
    }
    let longest = "x".repeat(184);
    client.sign_in(&user(&longest)).await;
    client.subscribe(&channel_of(&longest)).await;
    broker.api().publish(&channel_of(&longest), "e", "d").await;
    client.expect_event(&channel_of(&longest), "e", "d").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn user_data_must_be_there_and_a_string() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let auth = APP.user_auth(&client.socket_id, &user("u1"));
    let mut commands = vec![sign_in_with(json!({"auth": auth})), json!({"event": "pusher:signin"})];
    for user_data in [Value::Null, json!(5), json!(true), json!(["u"]), json!({"id": "u1"})] {
        commands.push(sign_in_with(json!({"auth": auth, "user_data": user_data})));
    }
    for data in [Value::Null, json!(5), json!([]), json!({}), json!(""), json!("[]"), json!("x")] {
        commands.push(sign_in_with(data));
    }
    all_are_refused(&broker, &mut client, commands).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auth_must_be_the_apps_signature_of_this_user_on_this_socket() {
    let broker = boot(settings()).await;
    let (mut client, other) = (broker.connect().await, broker.connect().await);
    let data = user("u1");
    let id = client.socket_id.clone();
    let good = APP.user_auth(&id, &data);
    let signature = good.split_once(':').unwrap().1;
    let auths = [
        Value::Null,
        json!(5),
        json!([good]),
        json!({"auth": good}),
        json!(""),
        json!(":"),
        json!("app-key"),
        json!("app-key:"),
        json!(format!(":{signature}")),
        json!(signature),
        json!(format!("other-key:{signature}")),
        json!(format!("APP-KEY:{signature}")),
        json!(format!("app-key:{}", signature.to_uppercase())),
        json!(format!("app-key:{}", &signature[1..])),
        json!(format!("app-key:{signature}0")),
        json!(format!("app-key:{signature} ")),
        json!(format!(" {good}")),
        json!(SAMPLE.user_auth(&id, &data)),
        json!(APP.user_auth(&other.socket_id, &data)),
        json!(APP.user_auth(&id, &user("u2"))),
        json!(APP.user_auth(&id, &format!("{data} "))),
        json!(APP.auth(&id, &data, None)),
        json!(APP.auth(&id, "presence-a", Some(&data))),
        json!(format!("app-key:{}", "x".repeat(10_000))),
    ];
    let mut commands = vec![sign_in_with(json!({"user_data": data}))];
    commands.extend(auths.map(|auth| sign_in_with(json!({"auth": auth, "user_data": data}))));
    all_are_refused(&broker, &mut client, commands).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_text_that_signs_a_user_names_no_channel() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let id = client.socket_id.clone();
    // So a backend that signs whatever channel it is asked for signs users as well; it must not.
    let auth = APP.auth(&id, ":user::{\"id\":\"u1\"}", None);
    assert_eq!(auth, APP.user_auth(&id, &user("u1")), "the signed texts are the same");
    let subscribe = json!({"auth": auth, "channel": ":user::{\"id\":\"u1\"}"});
    client.send(common::client::subscribe_with(subscribe)).await;
    client.expect_declined("Invalid channel name").await;
    assert_eq!(broker.metrics().await.get("fanfare_users{app=\"1\"}"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_user_data_is_refused_briefly_or_answered_whole() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let large = json!({"id": "u1", "user_info": "x".repeat(60 * 1024)}).to_string();
    for text in [large.clone(), "x".repeat(60 * 1024), "[".repeat(60 * 1024)] {
        client.send(sign_in_with(json!({"auth": "app-key:00", "user_data": text}))).await;
        let frame = client.expect("pusher:error").await;
        assert!(frame["data"]["code"].is_null() && frame.to_string().len() < 2000, "{frame}");
        client.expect_nothing().await;
    }
    for text in ["x".repeat(60 * 1024), "[".repeat(60 * 1024), user(&"ä".repeat(30 * 1024))] {
        client.send(client.signing_in(&text)).await;
        client.expect_error("Invalid user_data").await;
    }
    client.sign_in(&large).await;
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn user_data_longer_than_a_message_ends_that_socket_only() {
    let broker = boot(settings()).await;
    let (mut client, mut witness) = (broker.connect().await, broker.witness().await);
    let too_long = json!({"id": "u1", "user_info": "x".repeat(70 * 1024)}).to_string();
    client.send(client.signing_in(&too_long)).await;
    client.closed_with(1009).await;
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_bad_sign_ins_leave_nothing_behind() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let bad = |number: usize| match number % 3 {
        0 => client.signing_in(&user(&format!("u {number}"))),
        1 => sign_in_with(json!({"auth": "app-key:00", "user_data": user(&format!("u{number}"))})),
        _ => client.signing_in(r#"{"id":5}"#),
    };
    let commands: Vec<_> = (0..1000).map(bad).collect();
    for some in commands.chunks(100) {
        client.send_together(some.to_vec()).await;
        let answers = client.round().await;
        assert_eq!(answers.len(), 100);
        assert!(answers.iter().all(|frame| frame["event"] == "pusher:error"), "in {answers:?}");
    }
    let metrics = broker.metrics().await;
    assert_eq!((metrics.table("users"), metrics.table("channels")), (0.0, 0.0));
}
