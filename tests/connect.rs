//! Opening a connection: who is let in, who is not, and what either is told.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::HashSet;

use common::client::Heard;
use common::{Broker, Client, HOME, boot, eventually, in_time, settings};
use serde_json::json;

/// Whether a text is digits, one dot, digits.
fn is_socket_id(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('.').is_some_and(|(left, right)| digits(left) && digits(right))
}

/// The upgrade is completed and then refused with this code; old protocols are told in a frame first.
async fn refused(broker: &Broker, path: &str, code: u16) -> String {
    refused_client(broker.dial(path).await, code).await
}

async fn refused_client(mut client: Client, code: u16) -> String {
    match client.hear().await {
        Heard::Frame(frame) => {
            assert_eq!(frame["event"], "pusher:error");
            assert_eq!(frame["data"]["code"], code);
            client.closed_with(code).await
        }
        Heard::Closed { code: given, reason } => {
            assert_eq!(given, code, "closed because “{reason}”");
            assert!(!reason.is_empty() && reason.len() <= 123);
            reason
        }
        other => panic!("expected a refusal with {code}, heard {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c001_the_first_frame_establishes_the_connection() {
    let broker = boot(settings()).await;
    let mut client = broker.dial(HOME).await;
    let frame = client.expect("pusher:connection_established").await;
    assert!(frame.get("channel").is_none());
    let data = common::data_of(&frame);
    assert!(is_socket_id(data["socket_id"].as_str().unwrap()), "{data}");
    assert_eq!(data["activity_timeout"], 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn c001_the_activity_timeout_is_the_configured_one() {
    let broker = boot(settings().limit("activity_timeout", "7s")).await;
    let mut client = broker.dial(HOME).await;
    assert_eq!(client.expect_established().await["activity_timeout"], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn c002_protocol_5_is_established_with_an_activity_timeout() {
    let broker = boot(settings()).await;
    let mut client = broker.dial("/app/app-key?client=java-client&protocol=5&version=2.4.0").await;
    let data = client.expect_established().await;
    assert!(is_socket_id(&client.socket_id));
    assert_eq!(data["activity_timeout"], 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn c003_protocols_4_and_6_are_established() {
    let broker = boot(settings()).await;
    for protocol in [4, 6] {
        let mut client = broker.dial(&format!("/app/app-key?protocol={protocol}")).await;
        client.expect_established().await;
        client.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c004_protocols_1_to_3_are_closed_with_4007() {
    let broker = boot(settings()).await;
    for protocol in 1..=3 {
        refused(&broker, &format!("/app/app-key?protocol={protocol}"), 4007).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c005_unknown_protocols_are_closed_with_4007() {
    let broker = boot(settings()).await;
    for protocol in ["8", "0", "-7", "70", "7.0", "abc", "7x", "99999999999999999999", "%00"] {
        refused(&broker, &format!("/app/app-key?protocol={protocol}"), 4007).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c006_a_missing_protocol_is_closed_with_4008() {
    let broker = boot(settings()).await;
    refused(&broker, "/app/app-key", 4008).await;
    refused(&broker, "/app/app-key?client=js&version=8.6.0", 4008).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c007_a_malformed_version_is_closed_with_4006() {
    let broker = boot(settings()).await;
    for version in ["!!", "%21%21", ".1", "1%202"] {
        refused(&broker, &format!("/app/app-key?protocol=7&version={version}"), 4006).await;
    }
    for version in ["8.6.0", "x-SNAPSHOT", "0.0.0-dev", "1_0"] {
        let mut client = broker.dial(&format!("/app/app-key?protocol=7&version={version}")).await;
        client.expect_established().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c008_an_unknown_key_is_closed_with_4001_and_nothing_before() {
    let broker = boot(settings()).await;
    let mut client = broker.dial("/app/nobody?protocol=7").await;
    let reason = client.closed_with(4001).await;
    assert!(reason.contains("nobody not in this cluster"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c009_a_long_unknown_key_is_cut_to_a_readable_reason() {
    let broker = boot(settings()).await;
    let keys = ["k".repeat(500), "%C3%A4".repeat(250), format!("x{}", "%F0%9F%92%A9".repeat(120))];
    for key in keys {
        // The client itself refuses a reason that is not UTF-8.
        broker.dial(&format!("/app/{key}?protocol=7")).await.closed_with(4001).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c010_a_disabled_app_is_closed_with_4003() {
    let broker = boot(settings().app("enabled", false)).await;
    broker.dial(HOME).await.closed_with(4003).await;
    broker.dial("/app/other-key?protocol=7").await.expect_established().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c011_one_connection_too_many_is_closed_with_4004_until_one_leaves() {
    let broker = boot(settings().limit("max_connections", 2)).await;
    let (first, mut second) = (broker.connect().await, broker.connect().await);
    broker.dial(HOME).await.closed_with(4004).await;
    broker.dial("/app/other-key?protocol=7").await.expect_established().await;
    second.expect_nothing().await;
    first.close().await;
    eventually("room for a new connection", async || {
        matches!(broker.dial(HOME).await.hear().await, Heard::Frame(_))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c011_a_rush_fills_exactly_the_places_there_are() {
    let broker = boot(settings().limit("max_connections", 10)).await;
    let mut rush = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let address = broker.address;
        rush.spawn(async move {
            let mut client = Client::open(address, HOME, &[]).await.expect("the upgrade is completed");
            let heard = client.hear().await;
            (client, heard)
        });
    }
    assert_eq!(common::let_in(rush).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn c012_an_upgrade_on_another_path_is_closed_with_4005() {
    let broker = boot(settings()).await;
    for path in ["/foo", "/", "/app/app-key/more", "/apple/app-key", "/users/x"] {
        refused(&broker, &format!("{path}?protocol=7"), 4005).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c013_a_tls_only_app_closes_plain_sockets_with_4000() {
    let broker = boot(settings().feature("force_tls", true)).await;
    broker.dial(HOME).await.closed_with(4000).await;
    broker.dial_with(HOME, &[("X-Forwarded-Proto", "https")]).await.closed_with(4000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c013_a_tls_only_app_believes_a_trusted_proxy() {
    let settings = settings().feature("force_tls", true).server("trusted_proxies", vec!["127.0.0.0/8"]);
    let broker = boot(settings).await;
    let mut client = broker.dial_with(HOME, &[("X-Forwarded-Proto", "https")]).await;
    client.expect_established().await;
    broker.dial_with(HOME, &[("X-Forwarded-Proto", "http")]).await.closed_with(4000).await;
    broker.dial(HOME).await.closed_with(4000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c014_protocol_5_hears_the_error_before_the_close() {
    let broker = boot(settings()).await;
    let mut client = broker.dial("/app/nobody?protocol=5").await;
    client.expect_error_frame(&json!(4001), "nobody").await;
    client.closed_with(4001).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c014_protocol_6_hears_the_close_only() {
    let broker = boot(settings()).await;
    broker.dial("/app/nobody?protocol=6").await.closed_with(4001).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c015_the_subprotocol_is_echoed_when_offered() {
    let broker = boot(settings()).await;
    let offer = [("Sec-WebSocket-Protocol", "pusher-channels-protocol-7")];
    let mut client = broker.dial_with(HOME, &offer).await;
    assert_eq!(client.header("sec-websocket-protocol"), Some("pusher-channels-protocol-7"));
    client.expect_established().await;
    assert_eq!(broker.dial(HOME).await.header("sec-websocket-protocol"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn c016_parameters_come_in_any_order_with_any_company() {
    let broker = boot(settings()).await;
    let queries = [
        "client=swift&version=10.1.0&protocol=7",
        "protocol=7&client=pusher-dotnet-client&version=2.1.0&x=%00&y=&z",
        "unknown=1&flash=true&protocol=7&protocols=1&version=8.6.0&client=%F0%9F%92%A9",
    ];
    for query in queries {
        broker.dial(&format!("/app/app-key?{query}")).await.expect_established().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c017_a_path_prefix_leads_to_sockets_and_api() {
    let broker = boot(settings().server("path_prefix", "/live")).await;
    let mut client = broker.dial(&format!("/live{HOME}")).await;
    client.expect_established().await;
    client.subscribe("a").await;
    let body = json!({"name": "e", "channel": "a", "data": "d"});
    let request = common::Signed::post("/apps/1/events", &body).sends_path("/live/apps/1/events");
    broker.api().send(&request).await.expect_ok();
    client.expect_event("a", "e", "d").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c018_every_connection_has_a_socket_id_of_its_own() {
    let broker = boot(settings()).await;
    let mut ids = HashSet::new();
    let mut clients = Vec::new();
    for _ in 0..50 {
        let client = broker.connect().await;
        assert!(ids.insert(client.socket_id.clone()), "{} came twice", client.socket_id);
        clients.push(client);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_origin_is_closed_with_4009_where_origins_are_listed() {
    let settings = settings().feature("allowed_origins", vec!["https://shop.test", "http://localhost:8080"]);
    let broker = boot(settings).await;
    for origin in ["https://evil.test", "https://shop.test.evil.test", "http://localhost:8081", "null"] {
        broker.dial_with(HOME, &[("Origin", origin)]).await.closed_with(4009).await;
    }
    for origin in ["https://shop.test", "http://localhost:8080"] {
        broker.dial_with(HOME, &[("Origin", origin)]).await.expect_established().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_origin_will_do_where_none_is_listed() {
    let broker = boot(settings()).await;
    broker.dial_with(HOME, &[("Origin", "https://anywhere.test")]).await.expect_established().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_get_of_a_socket_path_is_told_to_upgrade() {
    let broker = boot(settings()).await;
    let mut http = broker.http().await;
    http.write(format!("GET {HOME} HTTP/1.1\r\nHost: broker.test\r\n\r\n").as_bytes()).await;
    assert_eq!(http.reply().await.expect("a reply").status, 426);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_may_be_one_of_several_connection_options() {
    let broker = boot(settings()).await;
    let mut http = broker.http().await;
    let options = "CONNECTION: keep-alive, Upgrade\r\nupgrade: WebSocket\r\nSec-WebSocket-Extensions: x";
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    http.write(format!("GET {HOME} HTTP/1.1\r\nHost: b\r\n{options}\r\n{key}\r\n\r\n").as_bytes()).await;
    let reply = http.reply().await.expect("a reply");
    assert_eq!(reply.status, 101);
    assert_eq!(reply.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(reply.header("sec-websocket-extensions"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_says_nothing_at_all_keeps_nobody_waiting() {
    let broker = boot(settings().server("header_timeout", "1s")).await;
    let mut silent = broker.http().await;
    broker.connect().await.expect_nothing().await;
    in_time("the silent peer's end", silent.rest()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_established_socket_outlives_the_header_timeout() {
    let broker = boot(settings().server("header_timeout", "1s").server("idle_timeout", "1s")).await;
    let mut client = broker.connect().await;
    // Two that come later have had their time by then.
    for _ in 0..2 {
        in_time("a silent peer's end", broker.http().await.rest()).await;
    }
    client.expect_nothing().await;
}
