//! Sockets carried by HTTP: who is let in, how replies look to browsers and proxies, and how sessions
//! end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io;

use common::fallback::{Line, POLL, QUERY, Receiving, STREAM, Session, draw, narrow, post, post_to};
use common::{Broker, DEADLINE, Http, Reply, Settings, boot, eventually, in_time, settings};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const BOTH: [&str; 2] = [STREAM, POLL];
/// More than all kernel buffers take.
const HUGE: usize = 8 << 20;
const NOT_CACHED: &str = "no-store, no-cache, no-transform, must-revalidate, max-age=0";

/// A request of any method without a body.
async fn ask(broker: &Broker, method: &str, path: &str, headers: &str) -> Reply {
    let mut http = broker.http().await;
    http.write(format!("{method} {path} HTTP/1.1\r\nHost: b\r\n{headers}\r\n").as_bytes()).await;
    let reply = if method == "HEAD" { http.reply_to_head().await } else { http.reply().await };
    reply.expect("a reply")
}

/// The first reply of a session is all of it: `o` and this close, and before it what old protocols
/// are told.
async fn refused(session: &Session, query: &str, headers: &str, code: u16) -> Vec<String> {
    let lines = session.receiving(query, headers).await.lines().await;
    let lines = lines.strip_prefix(&[Line::Prelude][..]).unwrap_or(&lines);
    let [Line::Opened, before @ .., Line::Closed(given, text), Line::End] = lines else {
        panic!("{lines:?}")
    };
    assert_eq!((*given, text.is_empty()), (code, false), "{text}");
    let texts = before.iter().map(|line| match line {
        Line::Messages(texts) => texts[0].clone(),
        line => panic!("{line:?}"),
    });
    texts.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn c155_an_unknown_key_is_told_by_o_and_c() {
    let broker = boot(settings()).await;
    for reading in BOTH {
        let session = Session::new(broker.address, &draw("nobody"), reading);
        for _ in 0..2 {
            assert_eq!(refused(&session, QUERY, "", 4001).await, [""; 0]);
            assert_eq!(session.sends(b"[]").await.status, 404);
        }
        let told = refused(&session, "?protocol=5", "", 4001).await;
        assert!(told.len() == 1 && told[0].contains("pusher:error") && told[0].contains("4001"), "{told:?}");
        let key = "k".repeat(2000);
        refused(&Session::new(broker.address, &draw(&key), reading), QUERY, "", 4001).await;
    }
    broker.carries([0, 0, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_query_is_looked_at_as_that_of_a_websocket() {
    let broker = boot(settings()).await;
    for reading in BOTH {
        let session = broker.session(reading);
        refused(&session, "", "", 4008).await;
        refused(&session, "?protocol=3", "", 4007).await;
        refused(&session, "?protocol=7&version=!", "", 4006).await;
        // Nothing is left of it: the same session may begin.
        let mut session = session;
        session.begin().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_refuse_whom_they_refuse_by_websocket() {
    let origins = boot(settings().feature("allowed_origins", vec!["https://shop.test"])).await;
    let disabled = boot(settings().app("enabled", false)).await;
    let tls = settings().feature("force_tls", true).server("trusted_proxies", vec!["127.0.0.0/8"]);
    let tls = boot(tls).await;
    let full = boot(settings().limit("max_connections", 1)).await;
    let _first = full.carry(STREAM).await;
    for reading in BOTH {
        let session = origins.session(reading);
        refused(&session, QUERY, "Origin: https://evil.test\r\n", 4009).await;
        session.receiving(QUERY, "Origin: https://shop.test\r\n").await;
        refused(&disabled.session(reading), QUERY, "", 4003).await;
        let session = tls.session(reading);
        refused(&session, QUERY, "X-Forwarded-Proto: http\r\n", 4000).await;
        session.receiving(QUERY, "X-Forwarded-Proto: https\r\n").await;
        refused(&full.session(reading), QUERY, "", 4004).await;
    }
    full.carries([0, 1, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c153_replies_are_for_browsers_of_any_origin_and_for_no_cache() {
    let broker = boot(settings()).await;
    let origin = "Origin: https://page.test\r\n";
    for (headers, allowed) in [(origin, "https://page.test"), ("", "*")] {
        for reading in BOTH {
            let session = broker.session(reading);
            let head = session.receiving(QUERY, headers).await.head;
            assert_eq!(head.header("content-type"), Some("application/javascript; charset=UTF-8"));
            assert_eq!(head.header("cache-control"), Some(NOT_CACHED));
            assert_eq!(head.header("x-accel-buffering"), Some("no"));
            let send = format!("{}/xhr_send", session.path);
            let mut replies = vec![head];
            for (path, body, status) in [
                (&send, &b"[]"[..], 204),
                (&send, b"", 500),
                (&send, b"[", 500),
                (&format!("{}/xhr_send", draw("app-key")), b"[]", 404),
                (&format!("{}/{reading}", session.path), &[b'x'; 2000], 400),
            ] {
                let mut http = broker.http().await;
                http.write(&post(path, headers, body)).await;
                let reply = http.reply().await.expect("a reply");
                assert_eq!(reply.status, status, "{path} {reply:?}");
                replies.push(reply);
            }
            assert_eq!(replies[1].header("content-type"), Some("text/plain; charset=UTF-8"));
            replies.push(ask(&broker, "GET", &send, headers).await);
            assert_eq!(replies.last().unwrap().status, 405);
            replies.push(ask(&broker, "GET", "/timeline/v2/xhr/1", "").await);
            replies.last_mut().unwrap().expect_ok();
            for reply in &replies[..replies.len() - 1] {
                assert_eq!(reply.header("access-control-allow-origin"), Some(allowed), "{reply:?}");
                let credentials = (allowed != "*").then_some("true");
                assert_eq!(reply.header("access-control-allow-credentials"), credentials, "{reply:?}");
            }
            assert_eq!(replies.last().unwrap().header("access-control-allow-origin"), Some("*"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c153_a_preflight_is_answered_with_what_browsers_ask_for() {
    let broker = boot(settings()).await;
    let asks = "Origin: https://page.test\r\nAccess-Control-Request-Method: POST\r\n\
                Access-Control-Request-Headers: content-type\r\n";
    for action in [STREAM, POLL, "xhr_send"] {
        let path = format!("{}/{action}", draw("app-key"));
        let reply = ask(&broker, "OPTIONS", &path, asks).await;
        assert_eq!(reply.status, 204);
        for (name, value) in [
            ("access-control-allow-origin", "https://page.test"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "OPTIONS, POST"),
            ("access-control-allow-headers", "content-type"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{reply:?}");
        }
        let age: u32 = reply.header("access-control-max-age").unwrap().parse().unwrap();
        assert!(age >= 86_400);
        for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH"] {
            assert_eq!(ask(&broker, method, &path, "").await.status, 405, "{method}");
        }
    }
    broker.carries([0, 0, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_below_the_prefix_with_or_without_pusher() {
    for prefix in ["", "/live"] {
        let broker = boot(settings().server("path_prefix", prefix)).await;
        for path in ["/app/app-key/0/a", "/pusher/app/app-key/999/b", "/app/app%2Dkey/x/c"] {
            for reading in BOTH {
                let path = format!("{prefix}{path}{reading}");
                Session::new(broker.address, &path, reading).begin().await;
            }
        }
        for other in ["/pusher/info", "/pusher/iframe.html", "/pusher", "/pusher/app/app-key/0/a/eventsource"]
        {
            assert_eq!(ask(&broker, "GET", &format!("{prefix}{other}"), "").await.status, 404, "{other}");
            assert_eq!(
                post_to(broker.address, &format!("{prefix}{other}"), b"").await.status,
                404,
                "{other}"
            );
        }
    }
    let broker = boot(settings().server("path_prefix", "/live")).await;
    assert_eq!(post_to(broker.address, &format!("{}/xhr{QUERY}", draw("app-key")), b"").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_on_after_a_polled_reply() {
    let broker = boot(settings()).await;
    let mut session = broker.carry(POLL).await;
    session.subscribe("a").await;
    let mut http = broker.http().await;
    let path = format!("{}/{POLL}{QUERY}", session.path);
    for number in 0..5 {
        let mut receiving = Receiving::over(http, &path, "").await;
        broker.api().publish("a", "n", &number.to_string()).await;
        let lines = receiving.lines().await;
        assert!(matches!(&lines[..], [Line::Messages(_), Line::End]), "{lines:?}");
        http = receiving.http;
    }
    // Sent together, answered one after the other.
    let send = format!("{}/xhr_send", session.path);
    let together = [post(&send, "", b"[]"), post(&path, "", b""), post(&send, "", b"[\"{}\"]")].concat();
    http.write(&together).await;
    assert_eq!(http.reply().await.unwrap().status, 204);
    assert_eq!(http.reply().await.unwrap().body, "a[]\n");
    assert_eq!(http.reply().await.unwrap().status, 204);
    session.expect("pusher:error").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_says_4200_and_takes_nobody_new() {
    let mut broker = boot(settings().server("shutdown_grace", "60s")).await;
    let (mut streaming, mut polling) = (broker.carry(STREAM).await, broker.carry(POLL).await);
    polling.ask().await;
    // Between two polls, and gone without a word.
    let (between, mut lost) = (broker.carry(POLL).await, broker.carry(STREAM).await);
    lost.abort();
    // A connection that is open already.
    let mut http = broker.http().await;
    http.write(&post(&format!("{}/xhr_send", between.path), "", b"[]")).await;
    assert_eq!(http.reply().await.unwrap().status, 204);
    broker.begin_stop();
    streaming.closed_with(4200).await;
    polling.closed_with(4200).await;
    let path = format!("{}/{POLL}{QUERY}", draw("app-key"));
    http.write(&post(&path, "", b"")).await;
    if let Some(mut receiving) = Receiving::head(http).await {
        let lines = receiving.lines().await;
        assert!(matches!(lines[..], [Line::Opened, Line::Closed(4100, _), Line::End]), "{lines:?}");
    }
    broker.ended(DEADLINE).await;
}

/// A stream in `flood` of which nothing is read but that, and a junk byte that waits unread: so its
/// end, if the server makes one, is felt here at once.
async fn stuck(broker: &Broker, session: &mut Session) -> TcpStream {
    session.begin().await;
    session.subscribe("flood").await;
    let stream = narrow(broker, &format!("{}/{STREAM}{QUERY}", session.path)).await;
    session.reply.as_mut().unwrap().lines().await;
    let mut api = broker.api();
    api.publish("flood", "e", &"x".repeat(HUGE)).await;
    eventually("the end of the slow session", async || {
        api.publish("flood", "e", &"x".repeat(10_000)).await;
        api.subscribers("flood").await == 0
    })
    .await;
    stream
}

fn has_ended(stream: &TcpStream) -> bool {
    let failed = |kind| !matches!(kind, io::ErrorKind::WouldBlock);
    stream.take_error().is_ok_and(|error| error.is_some())
        || stream.try_write(b"x").is_err_and(|error| failed(error.kind()))
}

/// Little patience with whoever does not read, and events that show it at once.
fn strict() -> Settings {
    settings().server("max_mailbox_bytes", "64KiB").limit("max_event_bytes", "8MiB")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_read_ends_and_disturbs_nobody() {
    let broker = boot(strict()).await;
    let mut witness = broker.witness().await;
    let mut session = broker.session(STREAM);
    let stream = stuck(&broker, &mut session).await;
    witness.still_works().await;
    broker.carries([1, 0, 0]).await;
    // Its client reads at last: what was on its way, and then the end.
    let mut receiving = Receiving::head(Http::over(stream)).await.expect("a reply");
    let lines = receiving.lines().await;
    match &lines[lines.len() - 2..] {
        [Line::Closed(4100, text), Line::End] => assert!(text.contains("Slow consumer"), "{text}"),
        [_, Line::Broken] => (),
        rest => panic!("{rest:?}"),
    }
    session.abort();
    session.closed_with(4100).await;
    witness.still_works().await;
}

/// Such a connection once stayed for as long as its client liked, with its session long gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_stream_is_never_read_is_ended() {
    let broker = boot(strict().server("header_timeout", "1s")).await;
    let stream = stuck(&broker, &mut broker.session(STREAM)).await;
    eventually("the connection's end", async || has_ended(&stream)).await;
    // One that is replaced goes as well.
    let mut session = broker.carry(STREAM).await;
    session.subscribe("a").await;
    let mut replaced = narrow(&broker, &format!("{}/{STREAM}{QUERY}", session.path)).await;
    session.reply.as_mut().unwrap().lines().await;
    broker.api().publish("a", "e", &"x".repeat(HUGE)).await;
    // It has begun to come, and so is on its way.
    let mut come = Vec::new();
    while !come.ends_with(b"xxx") {
        in_time("its beginning", replaced.read_buf(&mut come)).await.expect("some of it");
    }
    session.ask().await;
    eventually("the connection's end", async || has_ended(&replaced)).await;
    session.expect_nothing().await;
}

/// It once kept the whole broker from stopping.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_read_does_not_hold_up_the_stop() {
    let mut broker = boot(strict().server("shutdown_grace", "60s")).await;
    let _stream = stuck(&broker, &mut broker.session(STREAM)).await;
    broker.begin_stop();
    broker.ended(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_read_does_not_spoil_a_stop_with_a_short_grace() {
    let mut broker = boot(strict().server("shutdown_grace", "4900ms")).await;
    let _stream = stuck(&broker, &mut broker.session(STREAM)).await;
    broker.begin_stop();
    broker.ended(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_and_never_says_anything_is_closed_with_4201() {
    let broker = boot(settings().limit("activity_timeout", "1s").limit("pong_timeout", "1s")).await;
    let mut session = broker.carry(STREAM).await;
    session.subscribe("a").await;
    let busy = tokio::spawn({
        let mut api = broker.api();
        async move {
            loop {
                api.publish("a", "e", "what is sent is no sign of life").await;
            }
        }
    });
    let mut beats = 0;
    let end = async {
        loop {
            match session.line().await {
                Line::Beat => beats += 1,
                Line::Messages(_) => (),
                line => return line,
            }
        }
    };
    let end = in_time("an end", end).await;
    busy.abort();
    assert!(matches!(end, Line::Closed(4201, _)), "{end:?}");
    assert_eq!(beats, 1, "it was asked first");
    assert_eq!(session.line().await, Line::End);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_know_a_session_begins_it_anew() {
    let (before, after) = (boot(settings()).await, boot(settings()).await);
    let mut session = before.carry(STREAM).await;
    session.address = after.address;
    assert_eq!(session.sends(b"[]").await.status, 404);
    session.abort();
    session.begin().await;
    session.send(json!({"event": "pusher:ping", "data": {}})).await;
    session.expect("pusher:pong").await;
}
