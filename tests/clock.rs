//! The clock of the machine jumps by an hour, and back: only signatures, which bear a time, notice.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::PathBuf;

use common::api::now;
use common::certificates::Folder;
use common::{APP, Api, Client, HOME, Program, Reply, Signed, settings};
use serde_json::json;

const HOUR: i64 = 3600;

/// What shows a program another clock; its monotonic one stays as it is, as the kernel's does in a jump.
fn faketime() -> PathBuf {
    let found = std::fs::read_dir("/usr/lib").expect("a folder").filter_map(|entry| {
        let library = entry.ok()?.path().join("faketime/libfaketime.so.1");
        library.exists().then_some(library)
    });
    found.last().expect("libfaketime is not installed (Debian: libfaketime): run scripts/test tools")
}

/// Publishes an event, signed at a time.
async fn publish(api: &mut Api, data: &str, time: i64) -> Reply {
    let body = json!({"name": "e", "channel": "cache-a", "data": data}).to_string();
    let request = Signed::new("POST", "/apps/1/events", APP, body.as_bytes());
    api.send(&request.with("auth_timestamp", &time.to_string())).await
}

async fn connect(program: &Program) -> Client {
    let mut client = Client::open(program.address, HOME, &[]).await.unwrap();
    client.expect_established().await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_by_an_hour_disturbs_nobody() {
    let folder = Folder::new("clock");
    let clock = folder.write("offset", "+0");
    let library = faketime().display().to_string();
    let env = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", clock.as_str()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    // Shorter than the jump, all of them.
    let settings = settings().limit("activity_timeout", "60s").limit("cache_ttl", "10m");
    let program = Program::start_with("clock", &settings, "", &env).await;
    let mut api = Api::new(program.address, APP);
    let mut sitting = connect(&program).await;
    sitting.subscribe("cache-a").await;
    sitting.expect("pusher:cache_miss").await;
    publish(&mut api, "first", now()).await.expect_ok();
    sitting.expect_event("cache-a", "e", "first").await;
    for (offset, data) in [(HOUR, "later"), (-HOUR, "earlier"), (0, "now")] {
        folder.write("offset", &format!("{offset:+}"));
        let refused = publish(&mut api, "no", now() + if offset == 0 { HOUR } else { 0 }).await;
        refused.expect_error(401, "Timestamp expired");
        // Nobody was pinged or closed for it, and the event is still kept.
        sitting.expect_nothing().await;
        let mut coming = connect(&program).await;
        coming.subscribe("cache-a").await;
        let kept = coming.expect("e").await;
        assert_ne!(kept["data"], "no");
        publish(&mut api, data, now() + offset).await.expect_ok();
        sitting.expect_event("cache-a", "e", data).await;
        coming.expect_event("cache-a", "e", data).await;
    }
    drop(sitting);
    let ended = program.stop(common::DEADLINE).await;
    assert_eq!(ended.code, Some(0), "{}", ended.log);
}
