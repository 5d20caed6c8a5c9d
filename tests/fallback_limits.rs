//! Sockets carried by HTTP, by clients that are broken, hostile, or too many.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::fallback::{Line, POLL, QUERY, Receiving, STREAM, Session, draw, is_let_in, post, post_to};
use common::{Http, boot, data_of, eventually, eventually_within, settings};
use serde_json::json;
use tokio::task::JoinSet;

const BOTH: [&str; 2] = [STREAM, POLL];
/// Longer than a session waits for its client, or is remembered.
const GONE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn c152_what_is_no_list_of_texts_is_refused_and_the_session_goes_on() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let deep = "[".repeat(100_000);
    let many = format!("[{}1]", "1,".repeat(50_000));
    let broken: [&[u8]; 16] = [
        b"{}",
        b"[1]",
        b"[[\"a\"]]",
        b"[null]",
        b"null",
        b"\"a\"",
        b"[\"a\"",
        b"[\"a\",]",
        b"[\"\\ud800\"]",
        b"[\"\xff\"]",
        b"\xff\xfe",
        b"\0",
        b"[] []",
        b"[\"a\nb\"]",
        deep.as_bytes(),
        many.as_bytes(),
    ];
    for reading in BOTH {
        let mut session = broker.carry(reading).await;
        for body in broken {
            let reply = session.sends(body).await;
            reply.expect_error(500, "Broken JSON encoding.");
        }
        session.sends(b"").await.expect_error(500, "Payload expected.");
        session.expect_nothing().await;
        // A list that is well-formed is taken, and what is in it is answered as by WebSocket.
        session.say(b"[\"\", \"{}\", \"[1]\", \"\\u0000\", \"nonsense\"]").await;
        for _ in 0..5 {
            session.expect("pusher:error").await;
        }
        session.expect_nothing().await;
    }
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_above_the_limit_end_the_session_with_1009() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    for (length, status) in [(90_000, 204), (1 << 20, 413)] {
        for reading in BOTH {
            let mut session = broker.carry(reading).await;
            let reply = session.sends(json!(["x".repeat(length)]).to_string().as_bytes()).await;
            assert_eq!(reply.status, status, "{reply:?}");
            session.closed_with(1009).await;
            assert_eq!(session.sends(b"[]").await.status, 404);
        }
    }
    // Escaped as long as can be, a message is no longer than it is.
    let mut session = broker.carry(STREAM).await;
    let escaped = "\\u0061".repeat(60_000);
    session.say(format!("[\"{escaped}\"]").as_bytes()).await;
    session.expect("pusher:error").await;
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_come_are_not_waited_for() {
    let broker = boot(settings().server("body_timeout", "1s")).await;
    let mut witness = broker.witness().await;
    let mut session = broker.carry(STREAM).await;
    let head = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: b\r\nContent-Length: 10\r\n\r\n[");
    let receiving = format!("{}/{POLL}{QUERY}", draw("app-key"));
    let send = format!("{}/xhr_send", session.path);
    let unknown = format!("{}/xhr_send", draw("app-key"));
    for (path, status) in [(send, 408), (receiving, 400), (unknown, 404)] {
        let mut http = broker.http().await;
        http.write(head(&path).as_bytes()).await;
        let reply = http.reply().await.expect("a reply");
        assert!(reply.status == status && reply.closes(), "{reply:?}");
        http.rest().await;
    }
    // One that is given up half-way does nothing.
    let mut http = broker.http().await;
    http.write(head(&format!("{}/xhr_send", session.path)).as_bytes()).await;
    drop(http);
    session.expect_nothing().await;
    broker.carries([1, 1, 0]).await;
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_no_names_have_no_session() {
    let broker = boot(settings()).await;
    let mut witness = broker.witness().await;
    let long = "x".repeat(65);
    let huge = "x".repeat(20_000);
    for name in [
        "0/..", "0/.", "../a", "0/a.b", "0/a%2fb", "0%2fa", "0/a/b", "0//", "/a", "0/%00", "0/ü", &long,
        &huge,
    ] {
        for action in [STREAM, POLL, "xhr_send"] {
            let name = name.replace('ü', "%C3%BC");
            let path = format!("/pusher/app/app-key/{name}/{action}{QUERY}");
            let reply = post_to(broker.address, &path, b"").await;
            assert_eq!(reply.status, 404, "{path}");
        }
    }
    let longest = format!("/pusher/app/app-key/{}/{}", &long[1..], &long[1..]);
    Session::new(broker.address, &longest, POLL).begin().await;
    witness.still_works().await;
    broker.carries([1, 0, 1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_with_the_same_name_is_another_session() {
    let broker = boot(settings()).await;
    for reading in BOTH {
        let mut session = broker.carry(reading).await;
        session.subscribe("private-a").await;
        let stolen = |key: &str| session.path.replace("app-key", key);
        assert_eq!(
            post_to(broker.address, &format!("{}/xhr_send", stolen("other-key")), b"[]").await.status,
            404
        );
        let mut thief = Session::new(broker.address, &stolen("other-key"), reading);
        thief.begin().await;
        let nobody = Session::new(broker.address, &stolen("nobody"), reading);
        let lines = nobody.receiving(QUERY, "").await.lines().await;
        assert!(matches!(lines[lines.len() - 2], Line::Closed(4001, _)), "{lines:?}");
        broker.api().publish("private-a", "e", "secret").await;
        session.expect_event("private-a", "e", "secret").await;
        thief.expect_nothing().await;
        thief.send(json!({"event": "pusher:unsubscribe", "data": {"channel": "private-a"}})).await;
        thief.expect("pusher:error").await;
        assert_eq!(broker.api().subscribers("private-a").await, 1);
        session.send(json!({"event": "pusher:unsubscribe", "data": {"channel": "private-a"}})).await;
        session.expect_nothing().await;
    }
}

/// How often a reply opens a session and establishes it, up to its first messages; and the reply, unless it has
/// ended before.
async fn beginning(address: SocketAddr, path: String) -> (usize, usize, Option<Receiving>) {
    let mut http = Http::to(address).await;
    http.write(&post(&path, "", b"")).await;
    let Some(mut receiving) = Receiving::head(http).await else { return (0, 0, None) };
    let mut opened = 0;
    loop {
        match receiving.line().await {
            Line::Opened => opened += 1,
            Line::Prelude => (),
            Line::Messages(texts) => {
                let established = usize::from(texts[0].contains("connection_established"));
                return (opened, established, Some(receiving));
            }
            Line::End | Line::Broken => return (opened, 0, None),
            line => panic!("{line:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_requests_at_once_begin_one_session() {
    let broker = boot(settings()).await;
    for reading in BOTH {
        let path = draw("app-key");
        let mut rush = JoinSet::new();
        for _ in 0..50 {
            rush.spawn(beginning(broker.address, format!("{path}/{reading}{QUERY}")));
        }
        let mut ended = Vec::new();
        while rush.len() > 1 {
            ended.extend(rush.join_next().await);
        }
        // All but the latest end by themselves. What it could say may have been said before it came, or be said
        // to another that it is about to replace: so it is asked for again and again.
        let ping = json!([json!({"event": "pusher:ping", "data": {}}).to_string()]).to_string();
        while !rush.is_empty() {
            let sent = post_to(broker.address, &format!("{path}/xhr_send"), ping.as_bytes()).await;
            assert_eq!(sent.status, 204, "{sent:?}");
            ended.extend(rush.try_join_next());
        }
        let (mut opened, mut established, mut kept) = (0, 0, Vec::new());
        for one in ended {
            let (o, e, receiving) = one.unwrap();
            (opened, established) = (opened + o, established + e);
            kept.push(receiving);
        }
        assert!(opened <= 1 && established <= 1, "{reading}: {opened} {established}");
        // A stream that is replaced at once may be broken off before it has said anything.
        assert!(opened == 1 && established == 1 || reading == STREAM, "{reading}: {opened} {established}");
        broker.carries(if reading == STREAM { [0, 1, 0] } else { [0, 0, 1] }).await;
        drop(kept);
        broker.carries([0, 0, 0]).await;
    }
    assert_eq!(broker.metric("fanfare_opened_connections_total").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_sessions_are_bounded_for_an_address_and_give_their_places_back() {
    // So few that they come faster than those that began first are missed, on any machine.
    let limits = settings().server("max_fallback_sessions_per_ip", 100).server("max_fallback_sessions", 1000);
    let broker = boot(limits).await;
    let mut witness = broker.witness().await;
    let mut let_in = 0;
    for number in 0..1_000 {
        let session = broker.session(BOTH[number % 2]);
        let_in += usize::from(is_let_in(&session, "").await);
        if number == 250 {
            witness.still_works().await;
        }
    }
    assert!((100..1_000).contains(&let_in), "{let_in}; those that began first may have ended since");
    assert!(broker.metrics().await.table("sockets") <= 101.0);
    witness.still_works().await;
    broker.connect().await.close().await;
    broker.carries([1, 0, 0]).await;
    let mut places = Vec::new();
    eventually_within(GONE, "a place for somebody new", async || {
        let session = broker.session(STREAM);
        places.push(session.receiving(QUERY, "").await);
        let receiving = places.last_mut().unwrap();
        let lines = [receiving.line().await, receiving.line().await, receiving.line().await];
        matches!(lines[2], Line::Messages(_))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_bounded_in_all_and_by_the_addresses_that_trusted_proxies_tell() {
    let limits = || settings().server("max_fallback_sessions_per_ip", 2).server("max_fallback_sessions", 5);
    let broker = boot(limits().server("trusted_proxies", vec!["127.0.0.0/8", "10.0.0.0/8"])).await;
    let mut witness = broker.witness().await;
    // Three clients behind two proxies; what a client says of itself is nobody's word.
    let from = |client: &str| format!("X-Forwarded-For: 6.6.6.6, {client}, 10.0.0.1\r\n");
    let mut let_in = Vec::new();
    for client in ["1.1.1.1", "1.1.1.1", "1.1.1.1", "2.2.2.2", "2.2.2.2", "2001:db8::1", "3.3.3.3"] {
        let_in.push(is_let_in(&broker.session(POLL), &from(client)).await);
    }
    assert_eq!(let_in, [true, true, false, true, true, true, false]);
    witness.still_works().await;
    let broker = boot(limits()).await;
    let mut let_in = Vec::new();
    for client in ["1.1.1.1", "2.2.2.2", "3.3.3.3"] {
        let_in.push(is_let_in(&broker.session(POLL), &from(client)).await);
    }
    assert_eq!(let_in, [true, true, false], "only who is trusted is believed");
    // A session that stands is not refused for want of a place.
    let mut session = broker.session(STREAM);
    eventually_within(GONE, "a place", async || is_let_in(&session, "").await).await;
    session.send(json!({"event": "pusher:ping", "data": {}})).await;
    session.expect("pusher:pong").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_lists_that_nobody_reads_the_answers_of_is_bounded() {
    let broker = boot(settings().server("max_mailbox_bytes", "64KiB")).await;
    let mut witness = broker.witness().await;
    let mut session = broker.carry(POLL).await;
    let list = |count: usize| json!(vec![""; count]).to_string();
    assert_eq!(session.sends(list(257).as_bytes()).await.status, 413);
    let most = list(256);
    let ended = async || session.sends(most.as_bytes()).await.status == 404;
    eventually("the end of the session", ended).await;
    witness.still_works().await;
    session.closed_with(4100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_know_what_carries_each_socket() {
    const EACH: usize = 10;
    let broker = boot(settings()).await;
    let (mut socket, mut kept) = (broker.connect().await, Vec::new());
    for number in 0..2 * EACH {
        // Those that poll come last: they are soon missed when they do not.
        let mut session = broker.carry(BOTH[number / EACH]).await;
        session.join("presence-a", &json!({"user_id": number.to_string()}).to_string()).await;
        kept.push(session);
    }
    broker.carries([1, EACH, EACH]).await;
    // Half of the streams are given up, and nobody polls.
    kept.iter_mut().step_by(2).for_each(Session::abort);
    broker.carries([1, EACH / 2, 0]).await;
    let count = socket.join("presence-a", r#"{"user_id":"socket"}"#).await["count"].clone();
    assert_eq!(count, EACH / 2 + 1);
    kept.clear();
    broker.carries([1, 0, 0]).await;
    let mut left = 0;
    while left < EACH / 2 {
        let removed = data_of(&socket.expect("pusher_internal:member_removed").await);
        left += usize::from(removed["user_id"].is_string());
    }
    socket.close().await;
    broker.has_sockets(0).await;

    assert_eq!(broker.metrics().await.left_over(&["fanfare_table_entries", "fanfare_members"]), []);
}
