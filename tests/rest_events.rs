//! Publishing over HTTP: what is accepted, what is answered, and what arrives.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Api, Broker, Client, Signed, boot, settings};
use serde_json::{Value, json};

/// A subscriber of `a` and somebody to publish.
async fn audience(broker: &Broker) -> (Client, Api) {
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    (client, broker.api())
}

/// Nothing else came before this event.
async fn expect_marker(client: &mut Client, api: &mut Api) {
    api.publish("a", "marker", "").await;
    client.expect_event("a", "marker", "").await;
}

/// A good event, changed by these members; `null` takes a member away.
fn event_with(changes: Value) -> Value {
    let mut event = json!({"name": "e", "channels": ["a"], "data": "d"});
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(event.as_object_mut().unwrap().remove(key)),
            value => event[key] = value.clone(),
        }
    }
    event
}

/// Every one of these events is refused with 400, and nothing arrives.
async fn all_refused(events: Vec<(Value, &str)>) {
    let broker = boot(settings()).await;
    let (mut client, mut api) = audience(&broker).await;
    for (event, fragment) in events {
        let reply = api.post("/events", &event).await;
        assert_eq!(reply.status, 400, "for {event:.200}: {reply:?}");
        reply.expect_error(400, fragment);
    }
    expect_marker(&mut client, &mut api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c117_an_event_reaches_its_channel() {
    let broker = boot(settings()).await;
    let (mut client, mut api) = audience(&broker).await;
    for body in [event_with(json!({})), event_with(json!({"channels": null, "channel": "a"}))] {
        let reply = api.post("/events", &body).await;
        assert_eq!((reply.expect_ok(), reply.body.as_str()), (json!({}), "{}"));
        client.expect_event("a", "e", "d").await;
    }
    expect_marker(&mut client, &mut api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c117_an_event_reaches_a_hundred_channels_but_not_more() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let channels: Vec<String> = (0..101).map(|n| format!("c{n}")).collect();
    for channel in &channels {
        client.subscribe(channel).await;
    }
    let mut api = broker.api();
    api.post("/events", &event_with(json!({"channels": channels}))).await.expect_error(400, "");
    let hundred = event_with(json!({"channels": channels[..100]}));
    assert_eq!(api.post("/events", &hundred).await.expect_ok(), json!({}));
    let mut reached = Vec::new();
    for _ in 0..100 {
        let frame = client.expect("e").await;
        reached.push(frame["channel"].as_str().unwrap().to_owned());
    }
    reached.sort_by_key(|name| name[1..].parse::<u32>().unwrap());
    assert_eq!(reached, channels[..100]);
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c117_a_channel_named_twice_hears_it_once() {
    let broker = boot(settings()).await;
    let (mut client, mut api) = audience(&broker).await;
    api.post("/events", &event_with(json!({"channels": ["a", "b", "a"]}))).await.expect_ok();
    client.expect_event("a", "e", "d").await;
    expect_marker(&mut client, &mut api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c117_channels_win_over_channel() {
    let broker = boot(settings()).await;
    let (mut client, mut api) = audience(&broker).await;
    client.subscribe("b").await;
    api.post("/events", &event_with(json!({"channels": ["b"], "channel": "a"}))).await.expect_ok();
    client.expect_event("b", "e", "d").await;
    expect_marker(&mut client, &mut api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c117_private_and_presence_channels_need_no_further_right() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.subscribe("private-a").await;
    client.join("presence-a", r#"{"user_id":"1"}"#).await;
    let mut api = broker.api();
    for channel in ["private-a", "presence-a"] {
        api.publish(channel, "e", "d").await;
        client.expect_event(channel, "e", "d").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c118_a_batch_of_ten_is_accepted_and_eleven_are_not() {
    let broker = boot(settings()).await;
    let (mut client, mut api) = audience(&broker).await;
    let batch = |count: usize| -> Value {
        let events = (0..count).map(|n| json!({"channel": "a", "name": "n", "data": n.to_string()}));
        json!({"batch": events.collect::<Vec<_>>()})
    };
    api.post("/batch_events", &batch(11)).await.expect_error(400, "Batch too large (11 > 10)");
    let reply = api.post("/batch_events", &batch(10)).await;
    assert_eq!((reply.expect_ok(), reply.body.as_str()), (json!({}), "{}"));
    for number in 0..10 {
        client.expect_event("a", "n", &number.to_string()).await;
    }
    expect_marker(&mut client, &mut api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c119_a_batch_with_one_bad_event_is_not_published_at_all() {
    let broker = boot(settings()).await;
    let (mut client, mut api) = audience(&broker).await;
    let good = json!({"channel": "a", "name": "e", "data": "d"});
    let bad = [
        json!({"channel": "a", "name": "e"}),
        json!({"channel": "a b", "name": "e", "data": "d"}),
        json!({"name": "e", "data": "d"}),
        json!({"channel": "a", "data": "d"}),
        json!({"channel": "a", "name": "e", "data": {}}),
        json!({"channel": "a", "name": "pusher:e", "data": "d"}),
        json!({"channel": "a", "name": "e", "data": "d", "socket_id": "x"}),
        json!("text"),
        json!(null),
    ];
    for bad in bad {
        let reply = api.post("/batch_events", &json!({"batch": [good, bad, good]})).await;
        assert_eq!(reply.status, 400, "for {bad}: {reply:?}");
    }
    let large = json!({"channel": "a", "name": "e", "data": "x".repeat(10_241)});
    let reply = api.post("/batch_events", &json!({"batch": [good, large]})).await;
    reply.expect_error(413, "content of this event");
    expect_marker(&mut client, &mut api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c119_a_batch_is_a_list() {
    let broker = boot(settings()).await;
    for body in [json!({}), json!({"batch": {}}), json!({"batch": null}), json!({"batch": "x"}), json!([])] {
        broker.api().post("/batch_events", &body).await.expect_error(400, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c120_data_of_10240_bytes_is_the_most() {
    let broker = boot(settings()).await;
    let (mut client, mut api) = audience(&broker).await;
    for data in ["x".repeat(10_240), "ä".repeat(5_120), "💩".repeat(2_560), "\"".repeat(10_240)] {
        api.publish("a", "e", &data).await;
        client.expect_event("a", "e", &data).await;
    }
    for data in ["x".repeat(10_241), "ä".repeat(5_121), "💩".repeat(2_561)] {
        let reply = api.post("/events", &event_with(json!({"data": data}))).await;
        reply.expect_error(413, "content of this event exceeds the allowed maximum (10240 bytes)");
    }
    expect_marker(&mut client, &mut api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c121_data_may_be_empty_but_not_missing() {
    let broker = boot(settings()).await;
    let (mut client, mut api) = audience(&broker).await;
    api.publish("a", "e", "").await;
    client.expect_event("a", "e", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c121_data_is_a_string() {
    let text = "data";
    let mut events = vec![(event_with(json!({"data": null})), text)];
    for data in [json!({"a": 1}), json!([1]), json!(5), json!(true)] {
        events.push((event_with(json!({"data": data})), text));
    }
    let mut null = event_with(json!({}));
    null["data"] = Value::Null;
    events.push((null, text));
    all_refused(events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c122_a_name_is_a_string_of_up_to_200_characters_outside_the_reserved_ones() {
    let reserved = "The 'pusher' namespace is reserved for internal usage";
    all_refused(vec![
        (event_with(json!({"name": null})), "name"),
        (event_with(json!({"name": 5})), "Expected name parameter to be a string"),
        (event_with(json!({"name": {}})), "Expected name parameter to be a string"),
        (event_with(json!({"name": "x".repeat(201)})), ""),
        (event_with(json!({"name": "pusher:x"})), reserved),
        (event_with(json!({"name": "pusher_internal:subscription_succeeded"})), reserved),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c122_a_reserved_name_is_recognised_in_any_spelling() {
    let broker = boot(settings()).await;
    let (mut client, mut api) = audience(&broker).await;
    for name in [r"\u0070usher:error", r"pusher\u003aerror", r"\u0070\u0075sher_internal:x"] {
        let body = format!(r#"{{"name":"{name}","channel":"a","data":"d"}}"#);
        let request = Signed::new("POST", "/apps/1/events", common::APP, body.as_bytes());
        api.send(&request).await.expect_error(400, "namespace is reserved");
    }
    expect_marker(&mut client, &mut api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c122_a_name_has_no_further_rules() {
    let broker = boot(settings()).await;
    let (mut client, mut api) = audience(&broker).await;
    let long = "x".repeat(200);
    for name in [r"App\Events\X", ".foo", "client-x", "with space", "ä💩", "\u{0}\n\"", &long] {
        api.publish("a", name, "d").await;
        client.expect_event("a", name, "d").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c123_an_event_goes_somewhere() {
    let missing = "Missing required parameter: channel";
    let mut events = vec![
        (event_with(json!({"channels": null})), missing),
        (event_with(json!({"channels": []})), ""),
        (event_with(json!({"channels": "a"})), ""),
        (event_with(json!({"channels": [5]})), ""),
        (event_with(json!({"channels": {"a": 1}})), ""),
        (event_with(json!({"channels": null, "channel": 5})), ""),
        (event_with(json!({"channels": null, "channel": ["a"]})), ""),
    ];
    let long = "x".repeat(201);
    for name in ["a b", "", "ä", "a/b", "#a", &long] {
        events.push((event_with(json!({"channels": ["a", name]})), "nvalid channel"));
        events.push((event_with(json!({"channels": null, "channel": name})), ""));
    }
    all_refused(events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c124_the_excluded_socket_hears_nothing_on_any_channel() {
    let broker = boot(settings()).await;
    let (mut sender, mut api) = audience(&broker).await;
    let mut other = broker.connect().await;
    for channel in ["a", "b"] {
        other.subscribe(channel).await;
    }
    sender.subscribe("b").await;
    let body = event_with(json!({"channels": ["a", "b"], "socket_id": sender.socket_id}));
    assert_eq!(api.post("/events", &body).await.expect_ok(), json!({}));
    let mut heard = vec![other.frame().await, other.frame().await];
    heard.sort_by_key(|frame| frame["channel"].to_string());
    let event = |channel: &str| json!({"event": "e", "channel": channel, "data": "d"});
    assert_eq!(heard, [event("a"), event("b")]);
    for channel in ["a", "b"] {
        api.publish(channel, "marker", "").await;
        sender.expect_event(channel, "marker", "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c124_an_absent_socket_excludes_nobody() {
    let broker = boot(settings()).await;
    let (mut client, mut api) = audience(&broker).await;
    let mut null = event_with(json!({}));
    null["socket_id"] = Value::Null;
    let ids = ["1.1", "0.0", "007.1", "4294967296.1", "99999999999999999999.99999999999999999999"];
    let unknown = ids.map(|id| event_with(json!({"socket_id": id})));
    for body in unknown.into_iter().chain([null]) {
        api.post("/events", &body).await.expect_ok();
        client.expect_event("a", "e", "d").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c124_a_malformed_socket_id_is_refused() {
    let ids = ["x", "1", "1.", ".1", "1.1.1", "1.1\n", " 1.1", "-1.1", "1.a", "1,1", "١.١"];
    let mut events: Vec<_> = ids.map(|id| (event_with(json!({"socket_id": id})), "socket_id")).into();
    events.push((event_with(json!({"socket_id": 1.1})), "socket_id"));
    all_refused(events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c125_data_arrives_verbatim() {
    let broker = boot(settings()).await;
    let (mut client, mut api) = audience(&broker).await;
    let datas = [
        "plain text",
        "ünïcödé ł €",
        "💩👨‍👩‍👧",
        "\u{0}",
        "\u{1}\u{1f}\u{7f}\u{2028}",
        r#"{"a": [1,  2]}"#,
        r#""quoted""#,
        r"back\slash",
        "\\u0000",
        "</script>",
        "null",
        "123",
        "\u{fffd}",
        "\r\n\t",
    ];
    for data in datas {
        api.publish("a", "e", data).await;
        client.expect_event("a", "e", data).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c125_text_that_is_no_text_is_refused() {
    let broker = boot(settings()).await;
    let (mut client, mut api) = audience(&broker).await;
    let broken: [&[u8]; 5] = [br"\u00", br"\x41", b"\x00", b"\n", b"\xff"];
    for text in broken {
        for (before, after) in [
            (&br#"{"name":"e","channel":"a","data":""#[..], &br#""}"#[..]),
            (br#"{"data":"d","channel":"a","name":""#, br#""}"#),
        ] {
            let body = [before, text, after].concat();
            let request = Signed::new("POST", "/apps/1/events", common::APP, &body);
            api.send(&request).await.expect_error(400, "");
        }
    }
    expect_marker(&mut client, &mut api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c125_half_a_character_is_passed_on_as_it_came() {
    let broker = boot(settings()).await;
    let mut raw = broker.raw().await;
    raw.text(r#"{"event":"pusher:subscribe","data":{"channel":"a"}}"#).await;
    for _ in 0..2 {
        raw.frame().await.expect("a greeting and a success");
    }
    // JavaScript can hold such text, and writes it so.
    let body = br#"{"name":"e","channel":"a","data":"\ud800"}"#;
    broker.api().send(&Signed::new("POST", "/apps/1/events", common::APP, body)).await.expect_ok();
    let text = String::from_utf8(raw.frame().await.expect("the event").payload).unwrap();
    assert!(text.contains(r#""data":"\ud800""#), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c125_escapes_of_the_publisher_mean_the_same_on_arrival() {
    let broker = boot(settings()).await;
    let (mut client, mut api) = audience(&broker).await;
    let body = br#"{ "name":"\u0065","data":"\ud83d\ude00\/\u00E4\u0000" , "channel":"\u0061","more":[] }"#;
    api.send(&Signed::new("POST", "/apps/1/events", common::APP, body)).await.expect_ok();
    client.expect_event("a", "e", "😀/ä\0").await;
}
