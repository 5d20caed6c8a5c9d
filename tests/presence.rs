//! Presence: users, not connections, come and go.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::client::subscribe_with;
use common::sign::SAMPLE;
use common::{APP, Client, boot, data_of, settings};
use serde_json::{Value, json};

const ROOM: &str = "presence-room";
const ADDED: &str = "pusher_internal:member_added";
const REMOVED: &str = "pusher_internal:member_removed";

fn user(id: &str) -> String {
    json!({"user_id": id, "user_info": {"name": format!("User {id}")}}).to_string()
}

/// Somebody was added or removed; returns who.
async fn told(client: &mut Client, event: &str) -> Value {
    let frame = client.expect(event).await;
    assert_eq!(frame["channel"], ROOM);
    data_of(&frame)
}

/// Joins a room where nothing but the success may be heard.
async fn joined(client: &mut Client, id: &str) -> Value {
    client.join(ROOM, &user(id)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn c056_the_first_to_join_sees_itself_and_nobody_else() {
    let broker = boot(settings()).await;
    let mut first = broker.connect().await;
    let here = joined(&mut first, "1").await;
    assert_eq!(here, json!({"count": 1, "ids": ["1"], "hash": {"1": {"name": "User 1"}}}));
    broker.api().publish(ROOM, "marker", "").await;
    first.expect_event(ROOM, "marker", "").await;
    first.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c056_the_examples_of_the_reference_are_signed_alike() {
    let vectors = [
        ("Mr. Channels", "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80"),
        ("Mr. Pusher", "afaed3695da2ffd16931f457e338e6c9f2921fa133ce7dac49f529792be6304c"),
    ];
    for (name, signature) in vectors {
        let data = format!(r#"{{"user_id":10,"user_info":{{"name":"{name}"}}}}"#);
        assert!(SAMPLE.auth("1234.1234", "presence-foobar", Some(&data)).ends_with(signature));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c057_a_second_user_is_announced_and_sees_both() {
    let broker = boot(settings()).await;
    let (mut a, mut b) = (broker.connect().await, broker.connect().await);
    joined(&mut a, "a").await;
    let here = joined(&mut b, "b").await;
    assert_eq!(here["count"], 2);
    assert_eq!(here["hash"], json!({"a": {"name": "User a"}, "b": {"name": "User b"}}));
    let mut ids: Vec<_> = here["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["a", "b"]);
    let who = told(&mut a, ADDED).await;
    assert_eq!(who, json!({"user_id": "b", "user_info": {"name": "User b"}}));
    broker.api().publish(ROOM, "marker", "").await;
    b.expect_event(ROOM, "marker", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c058_a_users_second_connection_is_nobody_new() {
    let broker = boot(settings()).await;
    let (mut a, mut b) = (broker.connect().await, broker.connect().await);
    joined(&mut a, "a").await;
    joined(&mut b, "b").await;
    told(&mut a, ADDED).await;
    let mut again = broker.connect().await;
    let changed = json!({"user_id": "a", "user_info": {"name": "Other"}}).to_string();
    let here = again.join(ROOM, &changed).await;
    assert_eq!(here["count"], 2);
    assert_eq!(here["hash"]["a"], json!({"name": "User a"}), "the first info stays");
    let mut api = broker.api();
    api.publish(ROOM, "marker", "").await;
    for client in [&mut a, &mut b, &mut again] {
        client.expect_event(ROOM, "marker", "").await;
    }
    assert_eq!(api.subscribers(ROOM).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn c059_a_user_is_gone_when_its_last_connection_leaves() {
    let broker = boot(settings()).await;
    let mut watcher = broker.connect().await;
    joined(&mut watcher, "w").await;
    let (mut one, mut two) = (broker.connect().await, broker.connect().await);
    joined(&mut one, "a").await;
    joined(&mut two, "a").await;
    assert_eq!(told(&mut watcher, ADDED).await["user_id"], "a");
    one.close().await;
    let mut api = broker.api();
    common::eventually("one connection less", async || api.subscribers(ROOM).await == 2).await;
    api.publish(ROOM, "marker", "1").await;
    watcher.expect_event(ROOM, "marker", "1").await;
    two.close().await;
    assert_eq!(told(&mut watcher, REMOVED).await, json!({"user_id": "a"}));
    api.publish(ROOM, "marker", "2").await;
    watcher.expect_event(ROOM, "marker", "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c060_a_number_becomes_a_string_everywhere() {
    let broker = boot(settings()).await;
    let mut watcher = broker.connect().await;
    joined(&mut watcher, "w").await;
    for (given, wanted) in [("10", "10"), ("9007199254740993", "9007199254740993"), ("-3", "-3")] {
        let mut client = broker.connect().await;
        let here = client.join(ROOM, &format!(r#"{{"user_id":{given}}}"#)).await;
        assert!(here["ids"].as_array().unwrap().contains(&json!(wanted)), "{here}");
        assert!(here["hash"].get(wanted).is_some(), "{here}");
        assert_eq!(told(&mut watcher, ADDED).await["user_id"], wanted);
        let users = broker.api().get(&format!("/channels/{ROOM}/users"), &[]).await.expect_ok();
        assert!(users["users"].as_array().unwrap().contains(&json!({"id": wanted})), "{users}");
        client.close().await;
        assert_eq!(told(&mut watcher, REMOVED).await, json!({"user_id": wanted}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c060_a_number_and_its_string_are_one_user() {
    let broker = boot(settings()).await;
    let (mut number, mut string) = (broker.connect().await, broker.connect().await);
    number.join(ROOM, r#"{"user_id":10}"#).await;
    assert_eq!(string.join(ROOM, r#"{"user_id":"10"}"#).await["count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn c061_small_integers_do_not_turn_the_hash_into_a_list() {
    let broker = boot(settings()).await;
    let mut clients = Vec::new();
    for id in 0..3 {
        let mut client = broker.connect().await;
        let here = client.join(ROOM, &format!(r#"{{"user_id":{id},"user_info":{id}}}"#)).await;
        assert!(here["hash"].is_object(), "{here}");
        assert_eq!(here["count"], id + 1);
        clients.push((client, here));
    }
    assert_eq!(clients[2].1["hash"], json!({"0": 0, "1": 1, "2": 2}));
}

#[tokio::test(flavor = "multi_thread")]
async fn c062_a_user_without_info_is_still_a_key_of_the_hash() {
    let broker = boot(settings()).await;
    let (mut a, mut b) = (broker.connect().await, broker.connect().await);
    joined(&mut a, "a").await;
    let here = b.join(ROOM, r#"{"user_id":"b"}"#).await;
    let info = here["hash"].get("b").expect("a key for every id");
    assert!(info.is_null() || *info == json!({}), "{here}");
    let who = told(&mut a, ADDED).await;
    assert_eq!(who["user_id"], "b");
    assert!(who["user_info"].is_null() || who["user_info"] == json!({}), "{who}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c063_channel_data_that_names_nobody_is_refused() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let bad = [
        "not json",
        "[]",
        "{}",
        r#""text""#,
        "5",
        "null",
        r#"{"user_id":{}}"#,
        r#"{"user_id":""}"#,
        r#"{"user_id":null}"#,
        r#"{"user_id":true}"#,
        r#"{"user_id":["1"]}"#,
        r#"{"user_id":1.5}"#,
        r#"{"user_info":{"user_id":"1"}}"#,
        r#"{"user_id":"1""#,
        r#"{"user_id":"1"} trailing"#,
    ];
    for channel_data in bad {
        client.ask_to_join(ROOM, channel_data).await;
        client.expect_refused(ROOM, "").await;
    }
    assert!(broker.api().occupied().await.is_empty());
    joined(&mut client, "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c063_the_signature_is_looked_at_first() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let data = json!({"channel": ROOM, "auth": "app-key:00", "channel_data": "not json"});
    client.send(subscribe_with(data)).await;
    client.expect_refused(ROOM, "Invalid signature").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c064_long_ids_and_large_users_are_refused() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let large = json!({"user_id": "1", "user_info": "x".repeat(2000)}).to_string();
    for channel_data in [user(&"x".repeat(129)), large] {
        client.ask_to_join(ROOM, &channel_data).await;
        client.expect_refused(ROOM, "").await;
    }
    assert!(broker.api().occupied().await.is_empty());
    let roomy = json!({"user_id": "x".repeat(128), "user_info": "y".repeat(800)}).to_string();
    client.join(ROOM, &roomy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c065_the_room_is_full_for_strangers_only() {
    let broker = boot(settings()).await;
    let mut members = Vec::new();
    for id in 1..=100 {
        let mut client = broker.connect().await;
        assert_eq!(joined(&mut client, &id.to_string()).await["count"], id);
        members.push(client);
    }
    let mut stranger = broker.connect().await;
    stranger.ask_to_join(ROOM, &user("101")).await;
    assert_eq!(stranger.expect_refused(ROOM, "").await["type"], "LimitReached");
    let mut again = broker.connect().await;
    assert_eq!(joined(&mut again, "1").await["count"], 100);
    members.pop().unwrap().close().await;
    assert_eq!(told(&mut again, REMOVED).await, json!({"user_id": "100"}));
    assert_eq!(joined(&mut stranger, "101").await["count"], 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn c068_somebody_who_is_nobody_is_refused() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    for channel_data in [None, Some(Value::Null), Some(json!(""))] {
        let auth = APP.auth(&client.socket_id, ROOM, None);
        let mut data = json!({"channel": ROOM, "auth": auth});
        if let Some(channel_data) = channel_data {
            data["channel_data"] = channel_data;
        }
        client.send(subscribe_with(data)).await;
        client.expect_refused(ROOM, "channel_data").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c069_leaving_and_rejoining_is_news_to_the_others() {
    let broker = boot(settings()).await;
    let (mut a, mut b) = (broker.connect().await, broker.connect().await);
    joined(&mut a, "a").await;
    joined(&mut b, "b").await;
    assert_eq!(told(&mut a, ADDED).await["user_id"], "b");
    b.unsubscribe(ROOM).await;
    assert_eq!(told(&mut a, REMOVED).await["user_id"], "b");
    let renamed = json!({"user_id": "b", "user_info": {"name": "B again"}}).to_string();
    let here = b.join(ROOM, &renamed).await;
    assert_eq!(here["hash"], json!({"a": {"name": "User a"}, "b": {"name": "B again"}}));
    let who = told(&mut a, ADDED).await;
    assert_eq!(who, json!({"user_id": "b", "user_info": {"name": "B again"}}));
    a.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c069_user_info_arrives_as_it_was_given() {
    let broker = boot(settings()).await;
    let (mut a, mut b) = (broker.connect().await, broker.connect().await);
    joined(&mut a, "a").await;
    let info = json!({"emoji": "💩", "nul": "\u{0}", "deep": [[{"x": null}]], "n": 1.5, "quote": "\"\\"});
    let here = b.join("presence-room", &json!({"user_id": "b", "user_info": info}).to_string()).await;
    assert_eq!(here["hash"]["b"], info);
    assert_eq!(told(&mut a, ADDED).await["user_info"], info);
}

#[tokio::test(flavor = "multi_thread")]
async fn c069_a_user_id_may_be_any_text() {
    let broker = boot(settings()).await;
    let mut watcher = broker.connect().await;
    joined(&mut watcher, "w").await;
    for id in ["\"", "\\", "\n\u{0}", "💩", "a b", "__proto__", "{}", "ä".repeat(128).as_str()] {
        let mut client = broker.connect().await;
        let here = joined(&mut client, id).await;
        assert!(here["hash"].get(id).is_some(), "{here}");
        assert_eq!(told(&mut watcher, ADDED).await["user_id"], id);
        client.unsubscribe(ROOM).await;
        assert_eq!(told(&mut watcher, REMOVED).await, json!({"user_id": id}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_of_members_arrives_whole() {
    let broker = boot(settings().server("max_mailbox_bytes", "4KiB")).await;
    let mut members = Vec::new();
    let info = "\"".repeat(400);
    for id in 0..100 {
        let mut client = broker.connect().await;
        let user = json!({"user_id": id.to_string(), "user_info": info}).to_string();
        let here = client.join(ROOM, &user).await;
        assert_eq!(here["ids"].as_array().unwrap().len(), id + 1);
        assert!(here["hash"].as_object().unwrap().values().all(|given| *given == info));
        members.push(client);
        for member in &mut members[..id] {
            assert_eq!(told(member, ADDED).await["user_id"], id.to_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_comes_and_goes_at_once_is_counted_right() {
    let broker = boot(settings()).await;
    let mut watcher = broker.connect().await;
    joined(&mut watcher, "w").await;
    let mut crowd = tokio::task::JoinSet::new();
    for number in 0..40 {
        let mut client = broker.connect().await;
        crowd.spawn(async move {
            for _ in 0..5 {
                client.ask_to_join(ROOM, &user(&format!("u{}", number % 10))).await;
                client.unsubscribe(ROOM).await;
                let heard = client.round().await;
                let success = "pusher_internal:subscription_succeeded";
                assert!(heard.iter().any(|frame| frame["event"] == success), "in {heard:?}");
            }
        });
    }
    while let Some(done) = crowd.join_next().await {
        done.expect("a member of the crowd");
    }
    broker.api().publish(ROOM, "marker", "").await;
    let mut present = std::collections::HashSet::new();
    loop {
        let frame = watcher.frame().await;
        let who = || data_of(&frame)["user_id"].as_str().unwrap().to_owned();
        match frame["event"].as_str().unwrap() {
            ADDED => assert!(present.insert(who()), "added twice: {frame}"),
            REMOVED => assert!(present.remove(&who()), "removed twice: {frame}"),
            _ => break,
        }
    }
    assert!(present.is_empty(), "left over: {present:?}");
    assert_eq!(broker.api().occupied().await, [ROOM]);
}
