//! What webhooks say, and when: the conformance cases 139 to 143, 145 and 146, and every body.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::sign::OTHER;
use common::told::{told, told_of, told_to};
use common::{APP, Client, Credentials, Receiver, boot, settings};
use serde_json::{Value, json};

const ROOM: &str = "presence-room";

fn user(id: &str) -> String {
    json!({"user_id": id}).to_string()
}

/// Leaves, and knows that the broker has taken notice.
async fn leave(client: &mut Client, channel: &str) {
    client.unsubscribe(channel).await;
    client.round().await;
}

// The reference's V7, and the request that the broker makes of the same event.
#[test]
fn the_example_of_the_reference_is_signed_alike() {
    let body = r#"{"time_ms":1403175510755,"events":[{"channel":"test_channel","name":"channel_vacated"}]}"#;
    let signature = "c17257e92037cd7de407ebc1ed174ceb7b2e518db127f44411b9ffc4f5b28cc5";
    assert_eq!(Credentials { secret: "tofu", ..APP }.sign(body), signature);
    let config =
        fanfare::config::Config::parse(&settings().app("secret", "tofu").to_toml()).expect("a config");
    let event = r#"{"channel":"test_channel","name":"channel_vacated"}"#.into();
    let format: &dyn fanfare::hub::NoticeFormat = &fanfare::pusher::PusherWebhooks;
    let request = format.request(&config.apps[0], 1_403_175_510_755, &[event]);
    assert_eq!(request.body, body);
    assert!(request.headers.contains(&("x-pusher-signature", signature.to_owned())), "{request:?}");
}

// Case 139.
#[tokio::test(flavor = "multi_thread")]
async fn c139_a_channel_is_occupied_by_its_first_subscriber_and_vacated_by_its_last() {
    let mut receiver = Receiver::new().await;
    let broker = boot(told_to(&receiver, "0s")).await;
    let (mut a, mut b) = (broker.connect().await, broker.connect().await);
    for client in [&mut a, &mut b] {
        client.subscribe("news").await;
    }
    leave(&mut a, "news").await;
    a.subscribe("between").await;
    b.close().await;
    let events = [
        told("channel_occupied", "news"),
        told("channel_occupied", "between"),
        told("channel_vacated", "news"),
    ];
    receiver.expect(events).await;
    a.subscribe("news").await;
    receiver.expect([told("channel_occupied", "news")]).await;
}

// Case 140.
#[tokio::test(flavor = "multi_thread")]
async fn c140_who_is_back_within_the_delay_has_never_been_away() {
    if common::settings::is_joined() {
        // Redis tells of different channels in no order.
        return;
    }
    let mut receiver = Receiver::new().await;
    let broker = boot(told_to(&receiver, "5s")).await;
    let mut client = broker.connect().await;
    client.subscribe("news").await;
    client.join(ROOM, &user("ada")).await;
    receiver.expect([told("channel_occupied", "news"), told("channel_occupied", ROOM)]).await;
    receiver.expect([told_of("member_added", ROOM, "ada")]).await;
    leave(&mut client, "news").await;
    client.subscribe("news").await;
    client.close().await;
    let mut client = broker.connect().await;
    client.subscribe("news").await;
    client.join(ROOM, &user("ada")).await;
    // What leaves later is told later: whatever the others had to tell has been told by then.
    client.subscribe("last").await;
    leave(&mut client, "last").await;
    receiver.expect([told("channel_occupied", "last"), told("channel_vacated", "last")]).await;
    leave(&mut client, "news").await;
    client.close().await;
    receiver.expect([told("channel_vacated", "news"), told_of("member_removed", ROOM, "ada")]).await;
    receiver.expect([told("channel_vacated", ROOM)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_another_takes_over_within_the_delay_is_not_vacated() {
    let mut receiver = Receiver::new().await;
    let broker = boot(told_to(&receiver, "5s")).await;
    let (mut ada, mut bob) = (broker.connect().await, broker.connect().await);
    ada.join(ROOM, &user("ada")).await;
    leave(&mut ada, ROOM).await;
    bob.join(ROOM, &user("bob")).await;
    receiver.expect([told("channel_occupied", ROOM), told_of("member_added", ROOM, "ada")]).await;
    receiver.expect([told_of("member_added", ROOM, "bob"), told_of("member_removed", ROOM, "ada")]).await;
    leave(&mut bob, ROOM).await;
    receiver.expect([told_of("member_removed", ROOM, "bob"), told("channel_vacated", ROOM)]).await;
}

// Case 141.
#[tokio::test(flavor = "multi_thread")]
async fn c141_a_user_with_two_tabs_comes_once_and_goes_once() {
    let mut receiver = Receiver::new().await;
    let broker = boot(told_to(&receiver, "0s")).await;
    let (mut one, mut two) = (broker.connect().await, broker.connect().await);
    one.join(ROOM, &user("ada")).await;
    two.join(ROOM, &user("ada")).await;
    receiver.expect([told("channel_occupied", ROOM), told_of("member_added", ROOM, "ada")]).await;
    leave(&mut one, ROOM).await;
    one.subscribe("between").await;
    leave(&mut two, ROOM).await;
    receiver.expect([told("channel_occupied", "between"), told_of("member_removed", ROOM, "ada")]).await;
    receiver.expect([told("channel_vacated", ROOM)]).await;
}

// Case 142.
#[tokio::test(flavor = "multi_thread")]
async fn c142_a_client_event_is_told_with_its_data_as_a_string() {
    let mut receiver = Receiver::new().await;
    let settings = told_to(&receiver, "0s").of_hook("events", vec!["client_event"]);
    let broker = boot(settings).await;
    let mut client = broker.connect().await;
    client.subscribe("private-room").await;
    client.join(ROOM, &user("ada")).await;
    let said = |channel: &str, data: &str| {
        json!({"name": "client_event", "channel": channel,
        "event": "client-said", "data": data, "socket_id": client.socket_id})
    };
    let mut expected = vec![
        said("private-room", "plain \"text\" 🎺"),
        said("private-room", r#"{"a":[1,null]}"#),
        said("private-room", "1.50"),
        said(ROOM, "x"),
    ];
    expected[3]["user_id"] = json!("ada");
    client.whisper("private-room", "client-said", json!("plain \"text\" 🎺")).await;
    client.whisper("private-room", "client-said", json!({"a": [1, null]})).await;
    // Neither of these is accepted, so neither is told.
    client.whisper("public", "client-said", json!("x")).await;
    client.whisper("private-other", "client-said", json!("x")).await;
    client.send_text(r#"{"event":"client-said","channel":"private-room","data":1.50}"#).await;
    client.whisper(ROOM, "client-said", json!("x")).await;
    receiver.expect(expected).await;
}

/// Validators refuse a body with them: one client could once stall an endpoint.
#[tokio::test(flavor = "multi_thread")]
async fn a_lone_surrogate_of_a_client_is_replaced() {
    let mut receiver = Receiver::new().await;
    let broker = boot(told_to(&receiver, "0s").of_hook("events", vec!["client_event"])).await;
    let mut client = broker.connect().await;
    client.subscribe("private-room").await;
    let said = r#"{"event":"client-e","channel":"private-room","data":"\udfffa\ud83d\ude00"}"#;
    client.send_text(said).await;
    assert_eq!(
        receiver.event().await,
        json!({"name": "client_event", "channel": "private-room",
        "event": "client-e", "data": "\u{fffd}a😀", "socket_id": client.socket_id})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_backends_publish_is_no_client_event() {
    let mut receiver = Receiver::new().await;
    let broker = boot(told_to(&receiver, "0s").of_hook("events", vec!["client_event"])).await;
    let mut client = broker.connect().await;
    client.subscribe("private-room").await;
    let mut api = broker.api();
    let from = json!({"name": "client-said", "channel": "private-room", "data": "1",
        "socket_id": client.socket_id});
    api.post("/events", &from).await.expect_ok();
    api.publish("private-room", "client-said", "2").await;
    client.whisper("private-room", "client-said", json!("3")).await;
    assert_eq!(receiver.event().await["data"], "3");
}

// Case 143.
#[tokio::test(flavor = "multi_thread")]
async fn c143_an_empty_cache_is_missed_once() {
    let mut receiver = Receiver::new().await;
    let broker = boot(told_to(&receiver, "0s").of_hook("events", vec!["cache_miss", "client_event"])).await;
    let (mut a, mut b) = (broker.connect().await, broker.connect().await);
    for client in [&mut a, &mut b] {
        client.send(client.subscription("cache-a")).await;
    }
    a.round().await;
    b.round().await;
    leave(&mut b, "cache-a").await;
    broker.api().publish("cache-a", "e", "d").await;
    b.send(b.subscription("cache-a")).await;
    b.send(b.subscription("private-cache-b")).await;
    receiver.expect([told("cache_miss", "cache-a"), told("cache_miss", "private-cache-b")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_empty_again_is_missed_again() {
    let mut receiver = Receiver::new().await;
    let settings = told_to(&receiver, "0s").limit("cache_ttl", "50ms").of_hook("events", vec!["cache_miss"]);
    let broker = boot(settings).await;
    let mut client = broker.connect().await;
    let mut api = broker.api();
    for _ in 0..3 {
        client.send(client.subscription("cache-a")).await;
        receiver.expect([told("cache_miss", "cache-a")]).await;
        api.publish("cache-a", "e", "d").await;
        common::eventually("an empty cache", async || api.cached("cache-a").await.is_none()).await;
        leave(&mut client, "cache-a").await;
    }
}

// Case 145.
#[tokio::test(flavor = "multi_thread")]
async fn c145_with_batching_a_request_has_several_events_of_one_app() {
    let mut own = Receiver::new().await;
    let mut neighbours = Receiver::new().await.owned_by(OTHER);
    let settings = told_to(&own, "0s").of_hook("batch", true).neighbours_hook(&neighbours.url());
    let broker = boot(settings).await;
    let (mut a, mut b) = (broker.connect().await, broker.neighbour().await);
    let channels = ["a", "b", "c"];
    // All within the second that the first waits for more.
    for client in [&mut a, &mut b] {
        let commands = channels.map(|channel| client.subscription(channel));
        client.send_together(commands).await;
    }
    for (receiver, owner) in [(&mut own, APP), (&mut neighbours, OTHER)] {
        let mut events = receiver.request().await.events(owner);
        if common::settings::is_joined() {
            // Redis tells of different channels in no order.
            events.sort_by_key(|event| event["channel"].to_string());
        }
        assert_eq!(events, channels.map(|channel| told("channel_occupied", channel)));
    }
}

// Case 145.
#[tokio::test(flavor = "multi_thread")]
async fn c145_without_batching_every_event_has_a_request_of_its_own() {
    if common::settings::is_joined() {
        // Redis tells of different channels in no order.
        return;
    }
    let mut receiver = Receiver::new().await;
    let broker = boot(told_to(&receiver, "0s")).await;
    let mut client = broker.connect().await;
    let channels: Vec<String> = (0..20).map(|number| format!("channel-{number}")).collect();
    let commands: Vec<Value> = channels.iter().map(|channel| client.subscription(channel)).collect();
    client.send_together(commands).await;
    for channel in &channels {
        assert_eq!(receiver.request().await.events(APP), [told("channel_occupied", channel)]);
    }
}

// Case 146.
#[tokio::test(flavor = "multi_thread")]
async fn c146_an_endpoint_gets_only_the_events_and_channels_that_it_selects() {
    let (mut all, mut chosen) = (Receiver::new().await, Receiver::new().await);
    let settings = told_to(&all, "0s")
        .hook(&chosen.url())
        .of_hook("events", vec!["member_added", "channel_vacated"])
        .of_hook("channel_prefix", "presence-a");
    let broker = boot(settings).await;
    let mut client = broker.connect().await;
    for channel in ["presence-b", "presence-a", "presence-ab"] {
        client.join(channel, &user("ada")).await;
        leave(&mut client, channel).await;
        receive_visit(&mut all, channel).await;
    }
    for channel in ["presence-a", "presence-ab"] {
        chosen.expect([told_of("member_added", channel, "ada"), told("channel_vacated", channel)]).await;
    }
    assert!(chosen.come().is_empty());
}

async fn receive_visit(receiver: &mut Receiver, channel: &str) {
    receiver.expect([told("channel_occupied", channel), told_of("member_added", channel, "ada")]).await;
    receiver.expect([told_of("member_removed", channel, "ada"), told("channel_vacated", channel)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_of_users_tell_nothing() {
    let mut receiver = Receiver::new().await;
    let broker = boot(told_to(&receiver, "0s")).await;
    let mut client = broker.connect().await;
    let data = r#"{"id":"ada"}"#;
    let auth = APP.user_auth(&client.socket_id, data);
    client.send(json!({"event": "pusher:signin", "data": {"auth": auth, "user_data": data}})).await;
    client.expect("pusher:signin_success").await;
    client.send(client.subscription("#server-to-user-ada")).await;
    client.round().await;
    broker.api().publish("#server-to-user-ada", "e", "d").await;
    client.round().await;
    client.close().await;
    let mut last = broker.connect().await;
    last.subscribe("last").await;
    receiver.expect([told("channel_occupied", "last")]).await;
}

/// Every body to the byte but for the time.
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_has_exactly_this_body() {
    if common::settings::is_joined() {
        // A node tells client events itself, and what it hears of Redis a moment later.
        return;
    }
    let mut receiver = Receiver::new().await;
    let broker = boot(told_to(&receiver, "0s").feature("subscription_count", true)).await;
    let mut client = broker.connect().await;
    client.join(ROOM, r#"{"user_id":"a\"d\\é"}"#).await;
    client.whisper(ROOM, "client-\"e", json!({"k": "é\n"})).await;
    leave(&mut client, ROOM).await;
    client.send(client.subscription("cache-a")).await;
    client.round().await;
    leave(&mut client, "cache-a").await;
    let said = r#""event":"client-\"e","data":"{\"k\":\"é\\n\"}","socket_id":"#;
    let user = r#""user_id":"a\"d\\é""#;
    for event in [
        r#"{"name":"channel_occupied","channel":"presence-room"}"#.to_owned(),
        format!(r#"{{"name":"member_added","channel":"presence-room",{user}}}"#),
        format!(r#"{{"name":"client_event","channel":"presence-room",{said}"{}",{user}}}"#, client.socket_id),
        format!(r#"{{"name":"member_removed","channel":"presence-room",{user}}}"#),
        r#"{"name":"channel_vacated","channel":"presence-room"}"#.to_owned(),
        r#"{"name":"channel_occupied","channel":"cache-a"}"#.to_owned(),
        r#"{"name":"cache_miss","channel":"cache-a"}"#.to_owned(),
        r#"{"name":"subscription_count","channel":"cache-a","subscription_count":1}"#.to_owned(),
        r#"{"name":"subscription_count","channel":"cache-a","subscription_count":0}"#.to_owned(),
        r#"{"name":"channel_vacated","channel":"cache-a"}"#.to_owned(),
    ] {
        let request = receiver.request().await;
        let time = request.validate(APP)["time_ms"].clone();
        assert_eq!(request.body, format!(r#"{{"time_ms":{time},"events":[{event}]}}"#));
        assert_eq!(request.line, "POST /hook HTTP/1.1");
    }
}
