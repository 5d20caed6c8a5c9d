//! Sockets carried by HTTP: what they begin with, what they hear and say, and what is not lost when
//! one reply gives way to the next.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::fallback::{Line, POLL, QUERY, STREAM, Session, post};
use common::users::{channel_of, sign_in_with, user};
use common::{APP, Api, boot, data_of, eventually, eventually_within, settings};
use serde_json::json;

const BOTH: [&str; 2] = [STREAM, POLL];
/// Longer than a session waits for its client.
const GONE: Duration = Duration::from_secs(30);
/// What pusher-js reads of one reply before it begins another.
const LONG: usize = 256 * 1024;

/// A number, followed by enough to fill replies soon.
fn large(number: usize) -> String {
    format!("{number:08} ü {}", "x".repeat(9_900))
}

async fn publish_large(api: &mut Api, count: usize) {
    for number in 0..count {
        api.publish("a", "n", &large(number)).await;
    }
}

async fn expect_large(session: &mut Session, number: usize) {
    session.expect_event("a", "n", &large(number)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_with_the_prelude_and_o_and_is_established() {
    let broker = boot(settings()).await;
    let mut session = broker.session(STREAM);
    session.ask().await;
    assert_eq!(session.line().await, Line::Prelude);
    assert_eq!(session.line().await, Line::Opened);
    let data = session.expect_established().await;
    assert_eq!(data["activity_timeout"], 120);
    session.expect_nothing().await;
    broker.carries([0, 1, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_begins_with_o_alone_and_the_next_one_has_the_rest_at_once() {
    let broker = boot(settings()).await;
    let mut session = broker.session(POLL);
    session.ask().await;
    assert_eq!(session.reply.as_mut().unwrap().lines().await, [Line::Opened, Line::End]);
    session.send(json!({"event": "pusher:subscribe", "data": {"channel": "a"}})).await;
    session.send(json!({"event": "pusher:ping", "data": {}})).await;
    session.ask().await;
    let lines = session.reply.as_mut().unwrap().lines().await;
    let events = ["connection_established", "subscription_succeeded", "pusher:pong"];
    assert_eq!(lines.len(), 4, "{lines:?}");
    for (line, event) in lines.iter().zip(events) {
        let Line::Messages(texts) = line else { panic!("{line:?}") };
        assert!(texts.len() == 1 && texts[0].contains(event), "{texts:?}");
    }
    assert_eq!(lines[3], Line::End);
    // With nothing there it is held, and what comes then is passed on.
    session.ask().await;
    broker.api().publish("a", "e", "later").await;
    session.expect_event("a", "e", "later").await;
    assert_eq!(session.line().await, Line::End);
    broker.carries([0, 0, 1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_and_events_of_every_kind_go_both_ways() {
    for reading in BOTH {
        let broker = boot(settings().feature("client_events", true)).await;
        let mut session = broker.carry(reading).await;
        let mut socket = broker.connect().await;
        let mut api = broker.api();
        for channel in ["a", "private-a"] {
            session.subscribe(channel).await;
            socket.subscribe(channel).await;
            api.publish(channel, "e", channel).await;
            session.expect_event(channel, "e", channel).await;
            socket.expect_event(channel, "e", channel).await;
        }
        let whisper = |data| json!({"event": "client-w", "channel": "private-a", "data": data});
        session.send(whisper(json!({"from": "session"}))).await;
        socket.expect_event("private-a", "client-w", r#"{"from":"session"}"#).await;
        socket.send(whisper(json!("back"))).await;
        session.expect_event("private-a", "client-w", "back").await;
        socket.join("presence-a", r#"{"user_id":"socket"}"#).await;
        let presence = session.join("presence-a", r#"{"user_id":"session"}"#).await;
        assert_eq!(presence["count"], 2);
        let added = data_of(&socket.expect("pusher_internal:member_added").await);
        assert_eq!(added["user_id"], "session");
        socket.close().await;
        let removed = data_of(&session.expect("pusher_internal:member_removed").await);
        assert_eq!(removed["user_id"], "socket");
        session.send(json!({"event": "pusher:unsubscribe", "data": {"channel": "a"}})).await;
        eventually("an empty channel", async || api.subscribers("a").await == 0).await;
        api.publish("a", "e", "unheard").await;
        session.expect_nothing().await;
        assert_eq!(api.subscribers("private-a").await, 1);
        session.send(json!({"event": "pusher:unsubscribe", "data": {"channel": "private-a"}})).await;
        session.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_every_kind_arrives_as_it_was() {
    let broker = boot(settings()).await;
    let all_ascii: String = (0..128_u8).map(char::from).collect();
    let texts = ["\"", "\\", "\\\"", "\n\r\t", "ü€😀", "\u{2028}\u{feff}\u{ffff}", "]\n", "c[4001,\"\"]", ""];
    for reading in BOTH {
        let mut session = broker.carry(reading).await;
        session.subscribe("a").await;
        let mut api = broker.api();
        for text in texts.into_iter().chain([all_ascii.as_str()]) {
            api.publish("a", "e", text).await;
            session.expect_event("a", "e", text).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_messages_of_one_list_are_taken_in_their_order() {
    let broker = boot(settings()).await;
    let mut session = broker.carry(STREAM).await;
    let subscribe = |n: usize| json!({"event": "pusher:subscribe", "data": {"channel": n.to_string()}});
    let list: Vec<_> = (0..100).map(|n| subscribe(n).to_string()).collect();
    session.say(json!(list).to_string().as_bytes()).await;
    for n in 0..100 {
        let frame = session.expect("pusher_internal:subscription_succeeded").await;
        assert_eq!(frame["channel"], n.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_signs_in_is_reached_and_shown_out() {
    let broker = boot(settings()).await;
    for (reading, id) in [(STREAM, "u1"), (POLL, "u2")] {
        let mut session = broker.carry(reading).await;
        let auth = APP.user_auth(&session.socket_id, &user(id));
        session.send(sign_in_with(json!({"auth": auth, "user_data": user(id)}))).await;
        session.expect("pusher:signin_success").await;
        let mut api = broker.api();
        api.publish(&channel_of(id), "e", "d").await;
        session.expect_event(&channel_of(id), "e", "d").await;
        api.terminate(id).await;
        assert_eq!(session.closed_with(4009).await, "You got disconnected by the app.");
        broker.has_users(0).await;
        // Whoever has not heard of it is told again, and is not taken for somebody new.
        for reading in BOTH {
            session.reading = reading;
            let lines = session.receiving(QUERY, "").await.lines().await;
            let [.., Line::Closed(4009, _), Line::End] = &lines[..] else { panic!("{lines:?}") };
            assert!(!lines.contains(&Line::Opened), "{lines:?}");
        }
        assert_eq!(session.sends(b"[]").await.status, 404);
    }
    broker.has_sockets(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c151_an_empty_list_is_answered_by_one_line_that_asks_for_nothing() {
    let broker = boot(settings()).await;
    for reading in BOTH {
        let mut session = broker.carry(reading).await;
        for _ in 0..3 {
            if reading == POLL {
                session.ask().await;
            }
            session.say(b"[]").await;
            assert_eq!(session.line().await, Line::Messages(vec![]));
        }
        // It is all that came: the next line answers a ping.
        session.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c156_a_sign_of_life_asked_for_is_given_once_and_keeps_the_session() {
    let timeouts = settings().limit("activity_timeout", "1s").limit("pong_timeout", "1s");
    let broker = boot(timeouts).await;
    for reading in BOTH {
        let mut session = broker.carry(reading).await;
        if reading == POLL {
            session.ask().await;
        }
        // Longer than a client lives that says nothing.
        for _ in 0..4 {
            assert_eq!(session.line().await, Line::Beat);
            session.say(b"[]").await;
            if reading == POLL {
                assert_eq!(session.line().await, Line::End);
                session.ask().await;
            }
            assert_eq!(session.line().await, Line::Messages(vec![]), "and no other beat");
            if reading == POLL {
                session.ask().await;
            }
        }
        session.expect_nothing().await;
    }
}

/// pusher-js begins another request as soon as it has read so much, whatever is still on its way.
/// Once as many lines as were ready were sent in one go, and those behind the border were lost.
#[tokio::test(flavor = "multi_thread")]
async fn c150_nothing_is_lost_by_a_client_that_begins_anew_after_256_ki_characters() {
    let broker = boot(settings()).await;
    let mut session = broker.carry(STREAM).await;
    session.subscribe("a").await;
    for _ in 0..3 {
        session.abort();
        // More than one reply's worth waits.
        publish_large(&mut broker.api(), 60).await;
        session.ask().await;
        let mut number = 0;
        while number < 60 {
            if session.reply.as_ref().unwrap().units > LONG {
                session.ask().await;
            }
            match session.line().await {
                Line::Messages(texts) => {
                    let frame: serde_json::Value = serde_json::from_str(&texts[0]).unwrap();
                    assert_eq!(frame["data"], large(number));
                    number += texts.len();
                }
                line => assert_eq!(line, Line::Prelude, "after {number}"),
            }
        }
        session.expect_nothing().await;
    }
    broker.has_sockets(1).await;
}

/// What was sent behind the mark after a pause was once lost by a client that read slowly.
#[tokio::test(flavor = "multi_thread")]
async fn c150_nothing_is_lost_however_late_a_client_begins_anew() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let mut session = broker.carry(STREAM).await;
    session.subscribe("a").await;
    publish_large(&mut broker.api(), 70).await;
    let mut number = 0;
    while session.reply.as_ref().unwrap().units <= LONG {
        expect_large(&mut session, number).await;
        number += 1;
    }
    assert!(number < 70);
    for _ in 0..200 {
        witness.still_works().await;
    }
    session.ask().await;
    assert_eq!(session.line().await, Line::Prelude);
    for number in number..70 {
        if session.reply.as_ref().unwrap().units > LONG {
            session.ask().await;
            assert_eq!(session.line().await, Line::Prelude);
        }
        expect_large(&mut session, number).await;
    }
    session.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_backlog_is_polled_in_order() {
    let broker = boot(settings()).await;
    let mut session = broker.carry(POLL).await;
    session.subscribe("a").await;
    publish_large(&mut broker.api(), 60).await;
    for number in 0..60 {
        expect_large(&mut session, number).await;
    }
    session.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_receiver_takes_over_and_the_first_is_broken_off() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    for first in BOTH {
        for second in BOTH {
            let mut session = broker.carry(STREAM).await;
            session.subscribe("a").await;
            session.reading = first;
            session.ask().await;
            let mut earlier = session.reply.take().unwrap();
            session.reading = second;
            session.ask().await;
            let lines = earlier.lines().await;
            assert!(matches!(lines[..], [Line::Broken] | [Line::Prelude, Line::Broken]), "{lines:?}");
            api.publish("a", "e", "d").await;
            session.expect_event("a", "e", "d").await;
            session.expect_nothing().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_is_streamed_and_polled_by_turns() {
    let broker = boot(settings()).await;
    let mut session = broker.carry(POLL).await;
    session.subscribe("a").await;
    let mut api = broker.api();
    for number in 0..20 {
        session.reading = BOTH[number % 2];
        session.abort();
        api.publish("a", "n", &number.to_string()).await;
        session.expect_event("a", "n", &number.to_string()).await;
    }
    broker.carries([0, 0, 1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_nobody_reads_is_had_by_the_next_reply() {
    let broker = boot(settings()).await;
    for reading in BOTH {
        let mut session = broker.carry(reading).await;
        session.subscribe("a").await;
        let mut api = broker.api();
        for round in 0..3 {
            session.abort();
            for number in 0..20 {
                api.publish("a", "n", &format!("{round} {number}")).await;
            }
            for number in 0..20 {
                // A second `o` would be taken for a lost session.
                session.expect_event("a", "n", &format!("{round} {number}")).await;
            }
        }
        session.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c154_whoever_does_not_come_back_has_left_everything() {
    let broker = boot(settings()).await;
    let mut watcher = broker.connect().await;
    watcher.join("presence-a", r#"{"user_id":"watcher"}"#).await;
    let mut sessions = Vec::new();
    for (reading, id) in [(STREAM, "s"), (POLL, "p")] {
        let mut session = broker.carry(reading).await;
        session.subscribe("a").await;
        session.join("presence-a", &json!({"user_id": id}).to_string()).await;
        watcher.expect("pusher_internal:member_added").await;
        sessions.push(session);
    }
    sessions.iter_mut().for_each(Session::abort);
    let mut api = broker.api();
    eventually_within(GONE, "departures", async || api.occupied().await == ["presence-a"]).await;
    let mut left = Vec::new();
    while left.len() < 2 {
        let removed = watcher.expect("pusher_internal:member_removed").await;
        left.push(data_of(&removed)["user_id"].as_str().unwrap().to_owned());
    }
    left.sort();
    assert_eq!(left, ["p", "s"]);
    watcher.close().await;
    broker.carries([0, 0, 0]).await;
    broker.has_sockets(0).await;
    let metrics = broker.metrics().await;
    let gauges = ["fanfare_table_entries", "fanfare_channels", "fanfare_subscriptions", "fanfare_members"];
    assert_eq!(metrics.left_over(&gauges), []);
    for session in &mut sessions {
        assert_eq!(session.sends(b"[]").await.status, 404);
        // Whoever comes back too late is somebody new, and sees that.
        session.begin().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_the_timeouts_that_end_idle_connections() {
    let broker = boot(settings().server("header_timeout", "1s").server("idle_timeout", "1s")).await;
    let mut session = broker.carry(STREAM).await;
    // It is time that is tested. Without a pause the answers would soon be more than one reply may have.
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        session.expect_nothing().await;
    }
    let mut http = broker.http().await;
    http.write(&post(&format!("{}/xhr_send", session.path), "", b"[]")).await;
    assert_eq!(http.reply().await.unwrap().status, 204);
    http.rest().await;
    // The same after a polled reply that was held for longer than that.
    let mut polling = broker.carry(POLL).await;
    polling.ask().await;
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        session.expect_nothing().await;
    }
    polling.say(b"[]").await;
    assert_eq!(polling.reply.as_mut().unwrap().lines().await, [Line::Messages(vec![]), Line::End]);
    assert!(polling.reply.unwrap().http.rest().await.is_empty());
}
