//! How long a connection stays that has no request: between two, and in the middle of one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::http::Http;
use common::{Signed, boot, in_time, settings};
use serde_json::json;

/// Bytes of a body, fewer than a proxy is told to pass on.
const FAR_TOO_MUCH: usize = 12 * 1024 * 1024;

fn post() -> Signed {
    Signed::post("/apps/1/events", &json!({"name": "e", "channel": "a", "data": "d"}))
}

/// Between requests it may be idle for longer than a request may take to come.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_outlives_the_time_that_half_a_request_has() {
    let broker = boot(settings().server("header_timeout", "2s").server("idle_timeout", "1h")).await;
    let mut idle = broker.http().await;
    idle.write(&post().bytes()).await;
    idle.reply().await.expect("a reply").expect_ok();
    // One has begun a second request, another a first one: when both have ended, the first would have, too.
    let mut halved = broker.http().await;
    halved.write(&post().bytes()).await;
    halved.reply().await.expect("a reply").expect_ok();
    halved.write(b"POST /apps/1/events HTTP/1.1\r\nHost:").await;
    assert!(in_time("an end", halved.rest()).await.is_empty());
    let mut first = broker.http().await;
    first.write(b"POST /apps/1/events HTTP/1.1\r\nHost:").await;
    assert!(in_time("an end", first.rest()).await.is_empty());
    idle.write(&post().bytes()).await;
    idle.reply().await.expect("a reply").expect_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_in_the_end() {
    let broker = boot(settings().server("header_timeout", "1h").server("idle_timeout", "1s")).await;
    let mut idle = broker.http().await;
    idle.write(&post().bytes()).await;
    idle.reply().await.expect("a reply").expect_ok();
    assert!(in_time("an end", idle.rest()).await.is_empty());
}

/// The connection was reset at once, and the reply with it where the request was not all sent: proxies took that
/// for a server that has gone, and gave it nothing more to do.
#[tokio::test(flavor = "multi_thread")]
async fn who_sends_far_too_much_reads_why() {
    let broker = boot(settings()).await;
    let stranger = post().with("auth_key", "nobody");
    for _ in 0..5 {
        for (request, status) in [(post(), 413), (stranger.clone(), 401)] {
            let mut http = Http::to(broker.address).await;
            http.write(&request.head(FAR_TOO_MUCH as u64)).await;
            http.write(&[b'x'; FAR_TOO_MUCH]).await;
            http.reply().await.expect("a reply").expect_error(status, "");
            assert!(in_time("an end", http.rest()).await.is_empty());
        }
    }
}

/// It is not listened to for ever, nor waited for.
#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_with_what_nobody_wants_is_hung_up_on() {
    let broker = boot(settings().server("unlimited_clients", Vec::<String>::new())).await;
    let (mut loud, mut quiet) = (Http::to(broker.address).await, Http::to(broker.address).await);
    for http in [&mut loud, &mut quiet] {
        http.write(&post().head(8 * FAR_TOO_MUCH as u64)).await;
        http.reply().await.expect("a reply").expect_error(413, "The request body is too large");
    }
    common::until_ignored(&mut loud.writer, &[b'x'; 64 * 1024]).await;
    // Neither has closed its end.
    broker.becomes("fanfare_table_entries{table=\"addresses\"}", 0.0).await;
    drop((loud, quiet));
}
