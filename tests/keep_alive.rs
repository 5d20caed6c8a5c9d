//! How long a connection stays that has no request: between two, and in the middle of one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Signed, boot, in_time, settings};
use serde_json::json;

fn post() -> Signed {
    Signed::post("/apps/1/events", &json!({"name": "e", "channel": "a", "data": "d"}))
}

/// Between requests it may be idle for longer than a request may take to come.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_outlives_the_time_that_half_a_request_has() {
    let broker = boot(settings().server("header_timeout", "500ms").server("idle_timeout", "1h")).await;
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
    let broker = boot(settings().server("header_timeout", "1h").server("idle_timeout", "100ms")).await;
    let mut idle = broker.http().await;
    idle.write(&post().bytes()).await;
    idle.reply().await.expect("a reply").expect_ok();
    assert!(in_time("an end", idle.rest()).await.is_empty());
}
