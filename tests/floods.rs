//! Clients that send, or leave unread, more than they may, and others that notice nothing (config/operation.md,
//! Protection).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::raw::{BINARY, CONTINUATION, End, FIN, PING, PONG, TEXT, frame};
use common::{Broker, DEADLINE, Settings, Signed, boot, eventually, eventually_within, fallback, settings};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// At once 10 + 2 × 5 messages.
fn few() -> Settings {
    settings().limit("messages_per_second", 1).limit("max_channels_per_connection", 5)
}
const AT_ONCE: usize = 20;

/// Sends all of these at once; returns how many texts were answered before the end.
async fn flood(broker: &Broker, frames: Vec<Vec<u8>>) -> usize {
    let mut raw = broker.raw().await;
    let (texts, end) = raw.force(&frames.concat()).await;
    match end {
        End::Dropped => {}
        End::Closed(code, reason) => assert_eq!((code, reason.as_str()), (4100, "Too many messages")),
    }
    texts.len()
}

async fn closed(broker: &Broker, reason: &str) -> f64 {
    broker.metrics().await.get(&format!("fanfare_closed_connections_total{{reason=\"{reason}\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_too_much_of_anything_is_closed_and_comes_back_later() {
    let broker = boot(few()).await;
    let mut witness = broker.witness().await;
    let texts = [
        r#"{"event":"pusher:ping","data":{}}"#,
        r#"{"event":"pusher:pong","data":{}}"#,
        r#"{"event":"pusher:subscribe","data":{"channel":"news"}}"#,
        r#"{"event":"pusher:unsubscribe","data":{"channel":"news"}}"#,
        r#"{"event":"pusher:signin","data":{}}"#,
        r#"{"event":"client-x","channel":"private-x","data":{}}"#,
        "nonsense",
    ];
    let texts = texts.into_iter().map(|text| frame(FIN | TEXT, text.as_bytes()));
    let others = [FIN | PING, FIN | PONG, FIN | BINARY].map(|first| frame(first, b""));
    let mut ends = 0.0;
    for flood_of in texts.chain(others) {
        // A close frame may come late behind what was pushed on; the metric does not.
        flood(&broker, vec![flood_of; 500]).await;
        ends += 1.0;
        eventually("the end of the flood", async || closed(&broker, "too_many_messages").await == ends).await;
        witness.still_works().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_messages_as_are_allowed_at_once_are_answered() {
    let broker = boot(few()).await;
    let mut client = broker.connect().await;
    for _ in 0..AT_ONCE {
        client.send(json!({"event": "pusher:ping", "data": {}})).await;
    }
    for _ in 0..AT_ONCE {
        client.expect("pusher:pong").await;
    }
    client.send_together(vec![json!({"event": "pusher:ping", "data": {}}); 3 * AT_ONCE]).await;
    let reason = loop {
        match client.hear().await {
            common::Heard::Frame(frame) => assert_eq!(frame["event"], "pusher:pong"),
            common::Heard::Closed { code, reason } => break (code, reason),
            other => panic!("heard {other:?}"),
        }
    };
    assert_eq!(reason, (4100, "Too many messages".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn client_events_that_are_let_through_have_only_their_own_limit() {
    let talkative = few().feature("client_events", true).limit("client_events_per_second", 0);
    let broker = boot(talkative).await;
    let (mut client, mut friend) = (broker.connect().await, broker.connect().await);
    for each in [&mut client, &mut friend] {
        each.subscribe("private-room").await;
    }
    for number in 0..10 * AT_ONCE {
        client.whisper("private-room", "client-x", json!(number)).await;
        friend.expect("client-x").await;
    }
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_limit_a_client_may_send_as_it_likes() {
    let broker = boot(few().limit("messages_per_second", 0)).await;
    let mut client = broker.connect().await;
    for _ in 0..10 * AT_ONCE {
        client.send_message(Message::Ping("x".into())).await;
        assert!(matches!(client.hear().await, common::Heard::Pong(_)));
    }
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_the_fallbacks_are_closed_too() {
    let broker = boot(few()).await;
    let mut session = broker.carry(fallback::STREAM).await;
    let ping = r#"{"event":"pusher:ping","data":{}}"#;
    let reply = session.sends(json!(vec![ping; 3 * AT_ONCE]).to_string().as_bytes()).await;
    assert!(matches!(reply.status, 204 | 404), "{reply:?}");
    for _ in 0..=AT_ONCE {
        session.expect("pusher:pong").await;
    }
    session.closed_with(4100).await;
}

/// Each of these was answered before its body had been read, and the replies, which nobody read, were kept:
/// as many as a client cared to send, by one connection and without a key.
#[tokio::test(flavor = "multi_thread")]
async fn preflights_with_bodies_are_not_answered_without_end() {
    const MUCH: usize = 64 * 1024 * 1024;
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let mut deaf = broker.narrow_tcp().await;
    let request = format!(
        "OPTIONS /pusher/app/x/0/a/xhr HTTP/1.1\r\nHost: x\r\nAccess-Control-Request-Headers: {}\r\n\
         Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        "h".repeat(30_000)
    );
    let mut sent = 0;
    while sent < MUCH
        && let Ok(Ok(())) = timeout(Duration::from_secs(1), deaf.write_all(request.as_bytes())).await
    {
        sent += request.len();
    }
    assert!(sent < MUCH, "it is still listened to");
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_all_is_bounded_and_those_with_most_of_it_pay() {
    const BUDGET: f64 = 1_048_576.0;
    let tight = settings().server("max_mailbox_bytes", "100MiB").server("max_mailboxes_bytes", "1MiB");
    let broker = boot(tight).await;
    let mut witness = broker.witness().await;
    let mut crowd = Vec::new();
    for _ in 0..4 {
        crowd.push(broker.stuck_in("flood").await);
    }
    let mut http = broker.http().await;
    let event = json!({"name": "n", "channel": "flood", "data": "x".repeat(10_000)});
    let request = Signed::post("/apps/1/events", &event).bytes();
    eventually_within(DEADLINE * 2, "the end of all who read nothing", async || {
        http.write(&request).await;
        http.reply().await.expect("a reply").expect_ok();
        let metrics = broker.metrics().await;
        let waiting = metrics.get("fanfare_mailbox_bytes");
        assert!(waiting <= 2.0 * BUDGET + 4.0 * 11_000.0, "{waiting}");
        metrics.get("fanfare_closed_connections_total{reason=\"slow_consumer\"}") == 4.0
    })
    .await;
    witness.still_works().await;
    drop(crowd);
    broker.nothing_waits().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_message_that_hold_nothing_count_as_messages() {
    let broker = boot(few()).await;
    let mut witness = broker.witness().await;
    let (begins, goes_on) = (frame(TEXT, b""), frame(CONTINUATION, b""));
    // A few are as good as none.
    let mut raw = broker.raw().await;
    let ends = frame(FIN | CONTINUATION, br#"{"event":"pusher:ping","data":{}}"#);
    raw.write(&[&begins[..], &goes_on, &goes_on, &ends].concat()).await;
    assert_eq!(raw.frame().await.expect("the greeting").opcode, TEXT);
    let answer = String::from_utf8(raw.frame().await.expect("an answer").payload).unwrap();
    assert!(answer.contains("pusher:pong"), "{answer}");

    flood(&broker, [vec![begins], vec![goes_on; 500]].concat()).await;
    eventually("the end of the flood", async || closed(&broker, "too_many_messages").await == 1.0).await;
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_lists_of_the_fallbacks_count_as_messages() {
    let broker = boot(few()).await;
    let session = broker.carry(fallback::STREAM).await;
    for _ in 0..AT_ONCE / 2 {
        assert_eq!(session.sends(b"[]").await.status, 204);
    }
    eventually("the end of the flood", async || {
        session.sends(b"[]").await;
        closed(&broker, "too_many_messages").await == 1.0
    })
    .await;
}
