//! The `pusher` crate against the HTTP API.

use std::collections::HashMap;

use fanfare_rust_clients::{APP_ID, Fanfare, KEY, SECRET, Watcher};
use pusher::{Member, PusherBuilder};
use serde_json::{Value, json};

/// The library under test, talking to `server`.
macro_rules! library {
    ($server:expr) => {
        PusherBuilder::new(APP_ID, KEY, SECRET).host(&$server.address).finalize()
    };
}

fn info(attributes: &str) -> Vec<(String, String)> {
    vec![("info".to_string(), attributes.to_string())]
}

fn member<'a>(user_id: &'a str, name: &'a str) -> Member<'a> {
    Member { user_id, user_info: Some(HashMap::from([("name", name)])) }
}

#[tokio::test]
async fn trigger_reaches_subscribers() {
    let server = Fanfare::start().await;
    let library = library!(server);
    let mut watcher = Watcher::connect(&server).await;
    assert_eq!(watcher.subscribe("news", "{}").await, json!({}));

    library.trigger("news", "flash", &json!({ "text": "für 🎺" })).await.unwrap();
    let event = watcher.expect("flash").await;
    assert_eq!(event["channel"], "news");
    let data: Value = serde_json::from_str(event["data"].as_str().unwrap()).unwrap();
    assert_eq!(data, json!({ "text": "für 🎺" }));

    library.trigger("news", "flash", "plain").await.unwrap();
    assert_eq!(watcher.expect("flash").await["data"], "\"plain\"");
    drop(watcher);
    server.stop().await;
}

#[tokio::test]
async fn trigger_on_several_channels() {
    let server = Fanfare::start().await;
    let mut watcher = Watcher::connect(&server).await;
    watcher.subscribe("one", "{}").await;
    watcher.subscribe("two", "{}").await;
    library!(server).trigger_multi(&["one", "two"], "tick", 1).await.unwrap();
    let mut channels = vec![
        watcher.expect("tick").await["channel"].clone(),
        watcher.expect("tick").await["channel"].clone(),
    ];
    channels.sort_by_key(|channel| channel.to_string());
    assert_eq!(channels, ["one", "two"]);
    drop(watcher);
    server.stop().await;
}

#[tokio::test]
async fn trigger_exclusive_spares_the_sender() {
    let server = Fanfare::start().await;
    let library = library!(server);
    let mut sender = Watcher::connect(&server).await;
    let mut other = Watcher::connect(&server).await;
    sender.subscribe("others", "{}").await;
    other.subscribe("others", "{}").await;
    library.trigger_exclusive("others", "said", "hi", &sender.socket_id).await.unwrap();
    library.trigger_multi_exclusive(&["others"], "said", "again", &sender.socket_id).await.unwrap();
    library.trigger("others", "end", "").await.unwrap();
    sender.expect("end").await;
    other.expect("said").await;
    other.expect("said").await;
    other.expect("end").await;
    drop((sender, other));
    server.stop().await;
}

#[tokio::test]
async fn what_may_not_be_published_is_refused() {
    let server = Fanfare::start().await;
    let library = library!(server);
    let malformed = library.trigger_exclusive("others", "said", "hi", "12").await.unwrap_err();
    assert!(malformed.starts_with("Error: 400"), "{malformed}");
    let reserved = library.trigger("others", "pusher:error", "hi").await.unwrap_err();
    assert!(reserved.starts_with("Error: 400"), "{reserved}");
    assert!(library.trigger("not a channel", "said", "hi").await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn channels_are_listed_and_counted() {
    let server = Fanfare::start().await;
    let library = library!(server);
    assert!(library.channels().await.unwrap().channels.is_empty());

    let mut watchers = Vec::new();
    for (user, name) in [("1", "Ada"), ("1", "Ada"), ("2", "Bob")] {
        let mut watcher = Watcher::connect(&server).await;
        let answer = library
            .authenticate_presence_channel("presence-room", &watcher.socket_id, &member(user, name))
            .unwrap();
        watcher.subscribe("presence-room", &answer).await;
        watchers.push(watcher);
    }
    watchers[2].subscribe("open", "{}").await;

    let all = library.channels().await.unwrap().channels;
    assert_eq!(all.len(), 2);
    assert_eq!(all["open"].user_count, None);

    let mut question = vec![("filter_by_prefix".to_string(), "presence-".to_string())];
    question.extend(info("user_count"));
    let counted = library.channels_with_options(question).await.unwrap().channels;
    assert_eq!(counted.len(), 1);
    assert_eq!(counted["presence-room"].user_count, Some(2));

    let one = library.channel("presence-room").await.unwrap();
    assert_eq!((one.occupied, one.user_count, one.subscription_count), (Some(true), None, None));
    let one =
        library.channel_with_options("presence-room", info("user_count,subscription_count")).await.unwrap();
    assert_eq!((one.occupied, one.user_count, one.subscription_count), (Some(true), Some(2), Some(3)));
    assert_eq!(library.channel("nobody").await.unwrap().occupied, Some(false));

    let mut users: Vec<String> =
        library.channel_users("presence-room").await.unwrap().users.into_iter().map(|user| user.id).collect();
    users.sort();
    assert_eq!(users, ["1", "2"]);
    drop(watchers);
    server.stop().await;
}

#[tokio::test]
async fn questions_a_channel_cannot_answer_are_refused() {
    let server = Fanfare::start().await;
    let library = library!(server);
    for refused in [
        library.channel_with_options("open", info("user_count")).await.map(drop),
        library.channels_with_options(info("user_count")).await.map(drop),
        library.channel_users("open").await.map(drop),
    ] {
        let text = refused.unwrap_err();
        assert!(text.starts_with("Error: 400 Bad Request. "), "{text}");
    }
    server.stop().await;
}

#[tokio::test]
async fn wrong_credentials_are_refused() {
    let server = Fanfare::start().await;
    for (key, secret) in [(KEY, "guessed"), ("nobody", SECRET)] {
        let stranger = PusherBuilder::new(APP_ID, key, secret).host(&server.address).finalize();
        for refused in
            [stranger.trigger("open", "said", "hi").await.map(drop), stranger.channels().await.map(drop)]
        {
            let text = refused.unwrap_err();
            assert!(text.starts_with("Error: 401"), "{text}");
        }
    }
    let elsewhere = PusherBuilder::new("999", KEY, SECRET).host(&server.address).finalize();
    let text = elsewhere.channels().await.unwrap_err();
    assert!(text.starts_with("Error: 404"), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn its_channel_authorisations_are_accepted() {
    let server = Fanfare::start().await;
    let library = library!(server);
    let mut watcher = Watcher::connect(&server).await;

    let answer = library.authenticate_private_channel("private-room", &watcher.socket_id).unwrap();
    assert_eq!(watcher.subscribe("private-room", &answer).await, json!({}));

    let answer = library
        .authenticate_presence_channel("presence-room", &watcher.socket_id, &member("1", "Zoë 🎺"))
        .unwrap();
    assert_eq!(
        watcher.subscribe("presence-room", &answer).await,
        json!({ "presence": { "count": 1, "ids": ["1"], "hash": { "1": { "name": "Zoë 🎺" } } } })
    );

    // This library writes `"user_info":null` when there is none.
    let nobody = Member { user_id: "2", user_info: None };
    let mut second = Watcher::connect(&server).await;
    let answer = library.authenticate_presence_channel("presence-room", &second.socket_id, &nobody).unwrap();
    assert_eq!(second.subscribe("presence-room", &answer).await["presence"]["count"], 2);
    assert_eq!(watcher.expect("pusher_internal:member_added").await["channel"], "presence-room");
    drop((watcher, second));
    server.stop().await;
}

#[tokio::test]
async fn an_authorisation_for_somebody_else_is_refused() {
    let server = Fanfare::start().await;
    let library = library!(server);
    let mut watcher = Watcher::connect(&server).await;
    let answers = [
        library.authenticate_private_channel("private-room", "1.1").unwrap(),
        library.authenticate_private_channel("private-other", &watcher.socket_id).unwrap(),
    ];
    for answer in answers {
        watcher.ask_for("private-room", &answer).await;
        let error = watcher.expect("pusher:error").await;
        assert_eq!(error["data"]["code"], Value::Null);
        assert_eq!(watcher.expect("pusher:subscription_error").await["channel"], "private-room");
    }
    drop(watcher);
    server.stop().await;
}

#[test]
fn signatures_are_those_of_the_documentation() {
    let library = PusherBuilder::new("id", "278d425bdf160c739803", "7ad3773142a6692b25b8").finalize();
    let private: Value =
        serde_json::from_str(&library.authenticate_private_channel("private-foobar", "1234.1234").unwrap())
            .unwrap();
    assert_eq!(
        private,
        json!({ "auth": "278d425bdf160c739803:58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4" })
    );
    let presence: Value = serde_json::from_str(
        &library
            .authenticate_presence_channel("presence-foobar", "1234.1234", &member("10", "Mr. Pusher"))
            .unwrap(),
    )
    .unwrap();
    assert_eq!(
        presence,
        json!({
            "auth": "278d425bdf160c739803:48dac51d2d7569e1e9c0f48c227d4b26f238fa68e5c0bb04222c966909c4f7c4",
            "channel_data": "{\"user_id\":\"10\",\"user_info\":{\"name\":\"Mr. Pusher\"}}",
        })
    );
    assert!(library.authenticate_private_channel("private-foobar", "12341234").is_err());
}
