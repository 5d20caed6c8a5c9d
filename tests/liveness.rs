//! Pings and pongs: who is alive, who is not, and who may find out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::{Duration, Instant};

use common::client::Heard;
use common::raw::{End, FIN, PING, frame};
use common::{Settings, boot, settings};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

/// Silence is noticed after a second, and called death a second later.
fn impatient() -> Settings {
    settings().limit("activity_timeout", "1s").limit("pong_timeout", "1s")
}

#[tokio::test(flavor = "multi_thread")]
async fn c019_a_ping_of_any_form_is_answered_by_a_pong() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let pings = [
        r#"{"event":"pusher:ping","data":{}}"#,
        r#"{"event":"pusher:ping"}"#,
        r#"{"event":"pusher:ping","data":"{}"}"#,
        r#"{"event":"pusher:ping","data":""}"#,
        r#"{"data":null,"event":"pusher:ping"}"#,
    ];
    for ping in pings {
        client.send_text(ping).await;
        let pong = client.frame().await;
        assert_eq!(pong, json!({"event": "pusher:pong", "data": "{}"}), "after {ping}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c020_a_ping_frame_is_answered_with_its_own_payload() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    for payload in [&b""[..], b"now", &[0, 255, 10], &[b'x'; 125]] {
        client.send_message(Message::Ping(payload.to_vec().into())).await;
        match client.hear().await {
            Heard::Pong(answer) => assert_eq!(&answer[..], payload),
            other => panic!("expected a pong, heard {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c021_many_ping_frames_are_no_offence() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    for count in 0..60_u8 {
        client.send_message(Message::Ping(vec![count].into())).await;
        match client.hear().await {
            Heard::Pong(answer) => assert_eq!(&answer[..], [count]),
            other => panic!("expected a pong, heard {other:?}"),
        }
    }
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c022_a_client_that_answers_no_ping_is_closed_with_4201() {
    let broker = boot(impatient()).await;
    let started = Instant::now();
    let mut mute = broker.raw().await;
    let mut pinged = false;
    while !pinged {
        let frame = mute.frame().await.expect("a ping before the end");
        pinged = frame.opcode == PING || frame.payload.starts_with(br#"{"event":"pusher:ping""#);
    }
    assert!(started.elapsed() >= Duration::from_millis(900), "pinged after {:?}", started.elapsed());
    let (_, end) = mute.until_end().await;
    assert_eq!(end, End::Closed(4201, "Pong reply not received in time".to_owned()));
    assert!(started.elapsed() >= Duration::from_millis(1900), "closed after {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn c022_what_the_broker_sends_is_no_sign_of_life() {
    let broker = boot(impatient()).await;
    let mut mute = broker.raw().await;
    mute.text(r#"{"event":"pusher:subscribe","data":{"channel":"busy"}}"#).await;
    let flood = tokio::spawn({
        let mut api = broker.api();
        async move {
            loop {
                api.publish("busy", "e", "d").await;
            }
        }
    });
    let (texts, end) = mute.until_end().await;
    flood.abort();
    assert!(texts.len() > 2, "the channel was busy");
    assert!(matches!(end, End::Closed(4201, _)), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c023_a_busy_receiver_that_only_pongs_stays_open() {
    let broker = boot(impatient()).await;
    // The client answers ping frames by itself and says nothing else.
    let mut receiver = broker.connect().await;
    receiver.subscribe("busy").await;
    let mut api = broker.api();
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(3500) {
        api.publish("busy", "e", "d").await;
        receiver.expect_event("busy", "e", "d").await;
    }
    receiver.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c023_a_silent_client_that_pongs_stays_open() {
    let broker = boot(impatient()).await;
    let mut silent = broker.raw().await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(3500) {
        let heard = silent.frame().await.expect("an open connection");
        match heard.opcode {
            PING => silent.write(&frame(FIN | 0xa, &heard.payload)).await,
            _ if heard.payload.starts_with(br#"{"event":"pusher:ping""#) => {
                silent.text(r#"{"event":"pusher:pong","data":{}}"#).await;
            }
            opcode => assert_eq!(opcode, common::raw::TEXT, "only pings and frames"),
        }
    }
    silent.text(r#"{"event":"pusher:ping"}"#).await;
    while silent.frame().await.expect("an open connection").opcode != common::raw::TEXT {}
}

#[tokio::test(flavor = "multi_thread")]
async fn c024_an_unasked_pong_is_answered_by_nothing() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.send(json!({"event": "pusher:pong", "data": {}})).await;
    client.send(json!({"event": "pusher:pong"})).await;
    client.send_message(Message::Pong(b"unasked".to_vec().into())).await;
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c070_a_client_that_died_silently_leaves_its_presence_channel() {
    let broker = boot(impatient()).await;
    let mut dead = broker.raw().await;
    let greeting = dead.frame().await.expect("a greeting");
    let greeting = serde_json::from_slice(&greeting.payload).unwrap();
    let socket_id = common::data_of(&greeting)["socket_id"].as_str().unwrap().to_owned();
    let mut watcher = broker.connect().await;
    watcher.join("presence-a", r#"{"user_id":"watcher"}"#).await;
    let channel_data = r#"{"user_id":"dead"}"#;
    let auth = common::APP.auth(&socket_id, "presence-a", Some(channel_data));
    let data = json!({"auth": auth, "channel": "presence-a", "channel_data": channel_data});
    dead.text(&common::client::subscribe_with(data).to_string()).await;
    let added = watcher.expect("pusher_internal:member_added").await;
    assert_eq!(common::data_of(&added)["user_id"], "dead");
    let removed = watcher.expect("pusher_internal:member_removed").await;
    assert_eq!(removed["channel"], "presence-a");
    assert_eq!(common::data_of(&removed), json!({"user_id": "dead"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn c070_a_client_whose_connection_breaks_leaves_at_once() {
    let broker = boot(settings()).await;
    let mut watcher = broker.connect().await;
    watcher.join("presence-a", r#"{"user_id":"watcher"}"#).await;
    let mut broken = broker.connect().await;
    broken.join("presence-a", r#"{"user_id":"broken"}"#).await;
    watcher.expect("pusher_internal:member_added").await;
    drop(broken);
    let removed = watcher.expect("pusher_internal:member_removed").await;
    assert_eq!(common::data_of(&removed), json!({"user_id": "broken"}));
}
