//! Asking over HTTP what is going on in channels.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Signed, boot, settings};
use serde_json::json;

const USER_COUNT_OF_PRESENCE_ONLY: &str =
    "Cannot retrieve the user count unless the channel is a presence channel";
const PREFIX_NEEDED: &str = "user_count may only be requested for presence channels - please supply \
                             filter_by_prefix begining with presence-";
const UNKNOWN_ATTRIBUTE: &str = "info should be a comma separated list of attributes";

#[tokio::test(flavor = "multi_thread")]
async fn c128_only_occupied_channels_are_listed() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    let nothing = api.get("/channels", &[]).await;
    assert_eq!(nothing.body, r#"{"channels":{}}"#);
    api.publish("unoccupied", "e", "d").await;
    let mut client = broker.connect().await;
    for channel in ["a", "private-b", "private-encrypted-d", "cache-c"] {
        client.subscribe(channel).await;
    }
    client.expect("pusher:cache_miss").await;
    client.join("presence-e", r#"{"user_id":"1"}"#).await;
    let all = ["a", "cache-c", "presence-e", "private-b", "private-encrypted-d"];
    assert_eq!(api.occupied().await, all);
    client.unsubscribe("private-b").await;
    client.round().await;
    assert_eq!(api.occupied().await, ["a", "cache-c", "presence-e", "private-encrypted-d"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn c128_a_prefix_filters() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    for channel in ["a", "ab", "private-a", "private-encrypted-a", "x-private-a"] {
        client.subscribe(channel).await;
    }
    let cases: [(&str, &[&str]); 5] = [
        ("private-", &["private-a", "private-encrypted-a"]),
        ("a", &["a", "ab"]),
        ("A", &[]),
        ("nothing", &[]),
        ("", &["a", "ab", "private-a", "private-encrypted-a", "x-private-a"]),
    ];
    for (prefix, wanted) in cases {
        let listed = broker.api().get("/channels", &[("filter_by_prefix", prefix)]).await.expect_ok();
        let names: Vec<_> = listed["channels"].as_object().unwrap().keys().collect();
        assert_eq!(names, wanted, "with the prefix “{prefix}”");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c128_an_app_sees_its_own_channels_only() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    let mut stranger = common::Api::new(broker.address, common::OTHER);
    assert!(stranger.occupied().await.is_empty());
    assert_eq!(stranger.get("/channels/a", &[]).await.expect_ok(), json!({"occupied": false}));
}

#[tokio::test(flavor = "multi_thread")]
async fn c129_users_are_counted_where_there_are_users() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    api.get("/channels", &[("info", "user_count")]).await.expect_error(400, PREFIX_NEEDED);
    let wrong = [("info", "user_count"), ("filter_by_prefix", "private-")];
    api.get("/channels", &wrong).await.expect_error(400, PREFIX_NEEDED);
    let (mut one, mut two) = (broker.connect().await, broker.connect().await);
    one.subscribe("a").await;
    for channel in ["presence-a", "presence-b"] {
        one.join(channel, r#"{"user_id":"1"}"#).await;
    }
    two.join("presence-a", r#"{"user_id":1}"#).await;
    let right = [("info", "user_count"), ("filter_by_prefix", "presence-")];
    let listed = api.get("/channels", &right).await.expect_ok();
    assert_eq!(
        listed,
        json!({"channels": {"presence-a": {"user_count": 1}, "presence-b": {"user_count": 1}}})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn c129_subscriptions_are_counted_everywhere() {
    let broker = boot(settings()).await;
    let (mut one, mut two) = (broker.connect().await, broker.connect().await);
    one.subscribe("a").await;
    two.subscribe("a").await;
    two.subscribe("b").await;
    let mut api = broker.api();
    let listed = api.get("/channels", &[("info", "subscription_count")]).await.expect_ok();
    let wanted = json!({"a": {"subscription_count": 2}, "b": {"subscription_count": 1}});
    assert_eq!(listed["channels"], wanted);
    api.get("/channels", &[("info", "colour")]).await.expect_error(400, UNKNOWN_ATTRIBUTE);
    let empty = api.get("/channels", &[("info", "")]).await.expect_ok();
    assert_eq!(empty, json!({"channels": {"a": {}, "b": {}}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn c130_an_unknown_channel_is_merely_unoccupied() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    let reply = api.get("/channels/never-seen", &[]).await;
    assert_eq!((reply.expect_ok(), reply.status), (json!({"occupied": false}), 200));
    let counts = [("info", "user_count,subscription_count")];
    let wanted = json!({"occupied": false, "user_count": 0, "subscription_count": 0});
    assert_eq!(api.get("/channels/presence-never", &counts).await.expect_ok(), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn c130_an_occupied_channel_tells_what_is_asked() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    client.join("presence-a", r#"{"user_id":"1"}"#).await;
    let mut api = broker.api();
    assert_eq!(api.get("/channels/a", &[]).await.expect_ok(), json!({"occupied": true}));
    let counts = [("info", "user_count,subscription_count")];
    let wanted = json!({"occupied": true, "user_count": 1, "subscription_count": 1});
    assert_eq!(api.get("/channels/presence-a", &counts).await.expect_ok(), wanted);
    let wanted = json!({"occupied": true, "subscription_count": 1});
    assert_eq!(api.get("/channels/a", &[("info", "subscription_count")]).await.expect_ok(), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn c131_an_attribute_a_channel_does_not_have_is_refused() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    for channel in ["a", "private-a", "cache-a"] {
        let reply = api.get(&format!("/channels/{channel}"), &[("info", "user_count")]).await;
        reply.expect_error(400, USER_COUNT_OF_PRESENCE_ONLY);
    }
    for info in ["colour", "user_count,colour", "occupied", "User_Count"] {
        let reply = api.get("/channels/presence-a", &[("info", info)]).await;
        reply.expect_error(400, UNKNOWN_ATTRIBUTE);
    }
    api.get("/channels/a", &[("info", "cache")]).await.expect_error(400, "");
    api.get("/channels/a%20b", &[]).await.expect_error(400, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn c131_a_cache_is_an_object_or_null() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    for channel in ["cache-a", "private-cache-a", "presence-cache-a", "private-encrypted-cache-a"] {
        let path = format!("/channels/{channel}");
        let empty = api.get(&path, &[("info", "cache")]).await.expect_ok();
        assert_eq!(empty, json!({"occupied": false, "cache": null}));
        api.publish(channel, "e", r#"{"some":"data"}"#).await;
        let full = api.get(&path, &[("info", "cache")]).await.expect_ok();
        assert_eq!(
            (&full["occupied"], &full["cache"]["data"]),
            (&json!(false), &json!(r#"{"some":"data"}"#))
        );
        let ttl = full["cache"]["ttl"].as_u64().expect("whole seconds");
        assert!((1790..=1800).contains(&ttl), "{full}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c132_the_users_of_a_presence_channel_are_distinct_strings() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    let empty = api.get("/channels/presence-a/users", &[]).await;
    assert_eq!(empty.body, r#"{"users":[]}"#);
    let mut clients = Vec::new();
    for id in ["1", r#""1""#, "2", r#""x""#] {
        let mut client = broker.connect().await;
        client.join("presence-a", &format!(r#"{{"user_id":{id}}}"#)).await;
        clients.push(client);
    }
    let users = api.get("/channels/presence-a/users", &[]).await.expect_ok();
    let mut ids: Vec<_> =
        users["users"].as_array().unwrap().iter().map(|user| user["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["1", "2", "x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn c132_other_channels_have_no_users() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    for channel in ["a", "private-a", "cache-a"] {
        let reply = api.get(&format!("/channels/{channel}/users"), &[]).await;
        reply.expect_error(400, "Users can only be retrieved for presence channels");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_channel_stats_still_answer() {
    let broker = boot(settings()).await;
    let (mut one, mut two) = (broker.connect().await, broker.connect().await);
    one.join("presence-a", r#"{"user_id":"1"}"#).await;
    two.join("presence-a", r#"{"user_id":"1"}"#).await;
    let stats = broker.api().send(&Signed::get("/apps/1/channels/presence-a/stats")).await.expect_ok();
    assert_eq!(stats, json!({"occupied": true, "user_count": 1, "connection_count": 2}));
}
