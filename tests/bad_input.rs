//! WebSocket frames nobody should send: each is answered or ends its own connection, and no other.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::raw::{CLOSE, CONTINUATION, End, FIN, PING, TEXT, frame, header, unmasked};
use common::{boot, settings};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test(flavor = "multi_thread")]
async fn c025_what_is_no_json_is_an_error() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let texts =
        ["not json", "", " ", "{", "}", "{\"event\":", "'event'", "\u{feff}{}", "NaN", "{\"event\":\"a\"} x"];
    for text in texts {
        client.send_text(text).await;
        client.expect_error("").await;
    }
    client.send_text("not json").await;
    client.expect_error("Invalid message: expected a JSON object with an event name").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c026_json_of_another_shape_is_an_error() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let texts = [
        "[]",
        "1",
        "{}",
        r#"{"event":5}"#,
        r#"{"event":null}"#,
        r#"{"event":{}}"#,
        r#"{"event":["x"]}"#,
        "null",
        "true",
        r#""pusher:ping""#,
        r#"["pusher:ping"]"#,
        r#"{"Event":"pusher:ping"}"#,
    ];
    for text in texts {
        client.send_text(text).await;
        client.expect_error("Invalid message: expected a JSON object with an event name").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c027_an_unknown_event_is_an_error() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    for name in ["foo", "pusher:foo", "pusher:error", "pusher_internal:subscription_succeeded", "Pusher:ping"]
    {
        client.send(json!({"event": name, "data": {}})).await;
        client.expect_error(&format!("Unsupported event received on socket: {name}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c028_a_binary_message_is_an_error_and_no_command() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let subscribe = client.subscription("a").to_string().into_bytes();
    for payload in [subscribe, vec![0, 159, 146, 150], Vec::new()] {
        client.send_message(Message::binary(payload)).await;
        client.expect_error("").await;
    }
    assert!(broker.api().occupied().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn c029_a_fragmented_message_is_one_message() {
    let broker = boot(settings()).await;
    let mut raw = broker.raw().await;
    raw.frame().await.expect("a greeting");
    let text = r#"{"event":"pusher:subscribe","data":{"channel":"a"}}"#.as_bytes();
    raw.write(&frame(TEXT, &text[..7])).await;
    raw.write(&frame(CONTINUATION, b"")).await;
    // A control frame may come in between.
    raw.write(&frame(FIN | PING, b"between")).await;
    for byte in &text[7..] {
        raw.write(&frame(CONTINUATION, &[*byte])).await;
    }
    raw.write(&frame(FIN | CONTINUATION, b"")).await;
    assert_eq!(raw.frame().await.expect("a pong").payload, b"between");
    let answer = raw.frame().await.expect("an answer").payload;
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["event"], "pusher_internal:subscription_succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn c030_a_message_of_a_mebibyte_is_closed_with_1009() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let whole = frame(FIN | TEXT, &vec![b' '; 1024 * 1024]);
    let mut parts = frame(TEXT, &[b' '; 4096]);
    for _ in 0..256 {
        parts.extend(frame(CONTINUATION, &[b' '; 4096]));
    }
    for bytes in [whole, parts] {
        let mut raw = broker.raw().await;
        raw.frame().await.expect("a greeting");
        let (_, end) = raw.force(&bytes).await;
        assert!(matches!(end, End::Closed(1009, _)), "{end:?}");
        witness.still_works().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c030_a_message_of_64_kibibytes_is_read() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    let padded = format!("{}{}", client.subscription("a"), " ".repeat(64 * 1024 - 200));
    client.send_text(padded).await;
    client.expect_subscribed("a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c031_invalid_utf8_is_closed_with_1007() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    for text in [&b"\xff\xfe"[..], b"{\"event\":\"\xc3\x28\"}", b"\xed\xa0\x80", b"\xf0\x9f\x92"] {
        let mut raw = broker.raw().await;
        raw.write(&frame(FIN | TEXT, text)).await;
        let (_, end) = raw.until_end().await;
        assert!(matches!(end, End::Closed(1007, _)), "{end:?} after {text:?}");
        witness.still_works().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_against_the_protocol_end_their_connection() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let ping = br#"{"event":"pusher:ping"}"#;
    let announced = |length| [&header(FIN | TEXT, 0x80, length)[..], b"mask"].concat();
    let offences = [
        ("an unmasked frame", unmasked(FIN | TEXT, ping)),
        ("a reserved bit", frame(FIN | 0x40 | TEXT, ping)),
        ("a reserved data opcode", frame(FIN | 0x3, ping)),
        ("a reserved control opcode", frame(FIN | 0xb, ping)),
        ("a long ping", frame(FIN | PING, &[b'x'; 126])),
        ("a fragmented ping", frame(PING, b"x")),
        ("a continuation of nothing", frame(FIN | CONTINUATION, ping)),
        ("a message within a message", [frame(TEXT, b"{"), frame(FIN | TEXT, ping)].concat()),
        ("an endless length", announced(u64::MAX)),
        ("a negative length", announced(1 << 63)),
        ("a gibibyte announced", announced(1 << 30)),
    ];
    for (offence, bytes) in offences {
        let mut raw = broker.raw().await;
        raw.write(&bytes).await;
        let (_, end) = raw.until_end().await;
        let fair = matches!(end, End::Dropped | End::Closed(1002 | 1009, _));
        assert!(fair, "{offence} ended with {end:?}");
        witness.still_works().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn close_frames_of_any_kind_end_their_connection() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    for payload in [&b""[..], b"\x03", b"\x03\xe8", b"\x03\xe8bye", b"\x00\x00", b"\xff\xff", b"\x03\xe8\xff"]
    {
        let mut raw = broker.raw().await;
        raw.write(&frame(FIN | CLOSE, payload)).await;
        while raw.frame().await.is_some() {}
        witness.still_works().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_breaks_off_leaves_nothing_behind() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let subscribe = br#"{"event":"pusher:subscribe","data":{"channel":"a"}}"#;
    let whole = frame(FIN | TEXT, subscribe);
    for cut in [1, 2, 5, 6, 20, whole.len() - 1] {
        let mut raw = broker.raw().await;
        raw.write(&whole).await;
        raw.write(&whole[..cut]).await;
    }
    let mut api = broker.api();
    common::eventually("empty channels", async || api.occupied().await == ["witness"]).await;
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_end_their_connection_at_worst() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..100 {
        let mut raw = broker.raw().await;
        let mut bytes = Vec::new();
        for _ in 0..64 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.to_le_bytes());
        }
        // The broker may hang up in the middle.
        drop(raw.writer.write_all(&bytes).await);
        drop(raw.writer.shutdown().await);
        raw.until_end().await;
    }
    witness.still_works().await;
}
