//! The signature of API requests: what is checked, in which order, and what is forgiven.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::api::now;
use common::sign::{SAMPLE, md5_hex};
use common::{APP, OTHER, Settings, Signed, boot, settings};
use serde_json::{Value, json};

fn event() -> Value {
    json!({"name": "e", "channel": "a", "data": "d"})
}

fn post() -> Signed {
    Signed::post("/apps/1/events", &event())
}

/// A broker whose first app is the one of the reference's examples.
fn sample() -> Settings {
    settings().app("id", SAMPLE.id).app("key", SAMPLE.key).app("secret", SAMPLE.secret)
}

const SAMPLE_BODY: &[u8] = br#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
const SAMPLE_BATCH: &[u8] = br#"{"batch":[{"channel":"a","name":"e","data":"d"}]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn c105_the_reference_example_is_accepted() {
    let then =
        Signed::new("POST", "/apps/3/events", SAMPLE, SAMPLE_BODY).with("auth_timestamp", "1353088179");
    assert_eq!(then.value("body_md5"), "ec365a775a4cd0599faeb73354201b6f");
    let expected = "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c";
    assert_eq!(then.expected_signature(), expected);
    let broker = boot(sample()).await;
    let mut api = broker.api();
    let today = Signed::new("POST", "/apps/3/events", SAMPLE, SAMPLE_BODY);
    assert_eq!(api.send(&today).await.expect_ok(), json!({}));
    api.send(&then).await.expect_error(401, "Timestamp expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn c105_the_reference_examples_of_reading_are_signed_alike() {
    let vectors = [
        (
            Signed::new("GET", "/apps/3/channels", SAMPLE, b"")
                .param("filter_by_prefix", "presence-")
                .param("info", "user_count"),
            "16819168891cb5dfd72b5c7a5d3d602605b26c6ba1930033b5e2eeeb65010291",
        ),
        (
            Signed::new("GET", "/apps/3/channels/presence-a", SAMPLE, b"")
                .param("info", "user_count,subscription_count"),
            "cb95e8fdce356a7c0822801195ea86a96b35fda672140e65120a4cc3568caf2b",
        ),
        (
            Signed::new("GET", "/apps/3/channels/presence-a/users", SAMPLE, b""),
            "baf2d614368d599454434555e21511d77c16816508aaa9a364a26de9cf7813e5",
        ),
        (
            Signed::new("POST", "/apps/3/batch_events", SAMPLE, SAMPLE_BATCH),
            "99ffe938ce26ffce7cc0df3579f8021e451d3f0703708f4857b6a61a66049acf",
        ),
    ];
    let broker = boot(sample()).await;
    for (request, signature) in vectors {
        let then = request.clone().with("auth_timestamp", "1353088179");
        assert_eq!(then.expected_signature(), signature);
        broker.api().send(&request).await.expect_ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c106_a_request_is_good_for_ten_minutes_either_way() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    for offset in [-601, 601, -100_000, 100_000] {
        let request = post().with("auth_timestamp", &(now() + offset).to_string());
        api.send(&request).await.expect_error(401, "Timestamp expired");
    }
    // One second of room: the clock ticks while the request travels.
    for offset in [-598, 598, -1, 1] {
        api.send(&post().with("auth_timestamp", &(now() + offset).to_string())).await.expect_ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c106_a_timestamp_is_an_integer() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    let ms = (now() * 1000).to_string();
    for text in ["", "soon", "1e9", "12.5", "-1", "99999999999999999999999", "9223372036854775807", &ms] {
        api.send(&post().with("auth_timestamp", text)).await.expect_error(401, "");
    }
    api.send(&post().without("auth_timestamp")).await.expect_error(401, "Timestamp required");
}

#[tokio::test(flavor = "multi_thread")]
async fn c107_the_body_is_the_one_that_was_signed() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    let changed = event().to_string().replace("\"d\"", "\"x\"");
    let (right, wrong) = (md5_hex(event().to_string().as_bytes()), md5_hex(changed.as_bytes()));
    let reply = api.send(&post().sends_body(changed.as_bytes())).await;
    reply.expect_error(401, "body_md5");
    assert!(reply.body.contains(&right) || reply.body.contains(&wrong), "{reply:?}");
    api.send(&post().without("body_md5")).await.expect_error(401, "body_md5");
    api.send(&post().with("body_md5", "")).await.expect_error(401, "body_md5");
    api.send(&post().with("body_md5", &wrong)).await.expect_error(401, "body_md5");
    api.send(&post()).await.expect_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn c107_a_refused_event_is_not_published() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    let mut api = broker.api();
    let changed = event().to_string().replace("\"d\"", "\"x\"");
    api.send(&post().sends_body(changed.as_bytes())).await.expect_error(401, "");
    api.send(&post().signature("00")).await.expect_error(401, "");
    api.publish("a", "marker", "").await;
    client.expect_event("a", "marker", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c108_each_missing_or_wrong_part_is_named() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    let cases = [
        (post().without("auth_key"), "Missing parameter: auth_key"),
        (post().with("auth_key", "nobody"), "auth_key should be a valid app key"),
        (post().without("auth_version"), "Version required"),
        (post().with("auth_version", "2.0"), "Version not supported"),
        (post().signature(&"0".repeat(64)), "Invalid signature"),
        (post().signature(""), "signature"),
        (post().signature("ä"), "Invalid signature"),
        (post().sends_query("auth_key=app-key&auth_version=1.0"), ""),
        (post().sends_query(""), "Missing parameter: auth_key"),
    ];
    for (request, fragment) in cases {
        api.send(&request).await.expect_error(401, fragment);
    }
    let upper = post().expected_signature().to_uppercase();
    api.send(&post().signature(&upper)).await.expect_error(401, "Invalid signature");
}

#[tokio::test(flavor = "multi_thread")]
async fn c108_a_wrong_signature_is_told_what_should_have_been_signed() {
    let broker = boot(settings()).await;
    let request = post().signature("nonsense");
    let reply = broker.api().send(&request).await;
    reply.expect_error(401, "you should have sent HmacSHA256Hex(");
    assert!(reply.body.contains("nonsense"), "{reply:?}");
    assert!(!reply.body.contains(APP.secret), "{reply:?}");
    assert!(!reply.body.contains(&request.expected_signature()), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c108_the_checks_have_an_order() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    let all_wrong = post().signature("00").sends_body(b"other").with("auth_timestamp", "0");
    let all_wrong = all_wrong.with("auth_version", "2.0").with("auth_key", "nobody");
    api.send(&all_wrong).await.expect_error(401, "auth_key should be a valid app key");
    let better = all_wrong.with("auth_key", "app-key");
    api.send(&better).await.expect_error(401, "Version not supported");
    let better = better.with("auth_version", "1.0");
    api.send(&better).await.expect_error(401, "Timestamp expired");
    let better = better.with("auth_timestamp", &now().to_string());
    api.send(&better).await.expect_error(401, "Invalid signature");
    let better = post().sends_body(b"other");
    api.send(&better).await.expect_error(401, "body_md5");
}

#[tokio::test(flavor = "multi_thread")]
async fn c109_a_get_may_carry_the_md5_of_nothing() {
    let broker = boot(settings()).await;
    let request = Signed::get("/apps/1/channels").param("body_md5", "d41d8cd98f00b204e9800998ecf8427e");
    broker.api().send(&request).await.expect_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn c110_a_comma_may_be_raw_or_encoded() {
    let broker = boot(settings()).await;
    let request = Signed::get("/apps/1/channels/presence-a").param("info", "user_count,subscription_count");
    let encoded = request.query();
    assert!(encoded.contains("user%5Fcount%2Csubscription%5Fcount"));
    let raw = encoded.replace("%2C", ",").replace("%5F", "_");
    for query in [encoded, raw] {
        let reply = broker.api().send(&request.clone().sends_query(query)).await;
        assert_eq!(reply.expect_ok(), json!({"occupied": false, "user_count": 0, "subscription_count": 0}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c110_a_plus_is_a_space_or_itself() {
    let broker = boot(settings()).await;
    for signed in ["a b", "a+b"] {
        let request = Signed::get("/apps/1/channels").param("filter_by_prefix", signed);
        let query = request.query().replace("a%20b", "a+b").replace("a%2Bb", "a+b");
        assert!(query.contains("=a+b"));
        broker.api().send(&request.sends_query(query)).await.expect_ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c111_a_key_is_signed_in_lower_case() {
    let broker = boot(settings()).await;
    let request = Signed::get("/apps/1/channels/a").param("Info", "subscription_count");
    assert!(request.query().contains("Info=") && request.signed_text().contains("info="));
    let reply = broker.api().send(&request).await.expect_ok();
    assert_eq!(reply, json!({"occupied": false, "subscription_count": 0}));
    let query = Signed::get("/apps/1/channels").query();
    let query = query.replace("auth%5Fkey", "Auth_Key").replace("auth_signature", "AUTH_SIGNATURE");
    broker.api().send(&Signed::get("/apps/1/channels").sends_query(query)).await.expect_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn c112_the_order_of_parameters_does_not_matter() {
    let broker = boot(settings()).await;
    let request = post();
    let query = request.query();
    let mut parts: Vec<&str> = query.split('&').collect();
    for _ in 0..parts.len() {
        parts.rotate_right(1);
        broker.api().send(&request.clone().sends_query(parts.join("&"))).await.expect_ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c113_a_raw_path_may_be_signed_and_an_encoded_one_sent() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    let unoccupied = json!({"occupied": false});
    for sent in ["/apps/1/channels/a;b", "/apps/1/channels/a%3Bb", "/apps/1/channels/%61%3bb"] {
        let raw = Signed::get("/apps/1/channels/a;b").sends_path(sent);
        assert_eq!(api.send(&raw).await.expect_ok(), unoccupied);
        assert_eq!(api.send(&Signed::get(sent)).await.expect_ok(), unoccupied);
    }
    // A space is no part of a channel's name, but the signature is right.
    let spaced = Signed::get("/apps/1/channels/a b").sends_path("/apps/1/channels/a%20b");
    assert_ne!(api.send(&spaced).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn c114_the_key_of_one_app_opens_no_other() {
    let broker = boot(settings()).await;
    let mut client = broker.dial("/app/other-key?protocol=7").await;
    client.expect_established().await;
    client.subscribe("a").await;
    let mut api = broker.api();
    let intruder = Signed::post("/apps/2/events", &event());
    let reply = api.send(&intruder).await;
    assert!(matches!(reply.status, 401 | 404), "{reply:?}");
    reply.expect_error(reply.status, "");
    api.publish("a", "e", "of the first app").await;
    common::Api::new(broker.address, OTHER).publish("a", "marker", "").await;
    client.expect_event("a", "marker", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c114_an_unknown_app_is_not_found() {
    let broker = boot(settings()).await;
    broker.api().send(&Signed::post("/apps/999/events", &event())).await.expect_error(404, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn c115_array_parameters_are_part_of_the_signature() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    let request = post().param("channels[]", "a").param("channels[]", "b");
    let raw = request.query().replace("%5B%5D", "[]");
    api.send(&request).await.expect_ok();
    api.send(&request.clone().sends_query(raw)).await.expect_ok();
    let fewer = request.query().replace("&channels%5B%5D=b", "");
    api.send(&request.sends_query(fewer)).await.expect_error(401, "Invalid signature");
}

#[tokio::test(flavor = "multi_thread")]
async fn c116_the_content_type_does_not_matter() {
    let broker = boot(settings()).await;
    let types =
        [None, Some("application/json; charset=utf-8"), Some("text/plain"), Some("nonsense"), Some("")];
    for kind in types {
        broker.api().send(&post().header("Content-Type", kind)).await.expect_ok();
    }
    let get = Signed::get("/apps/1/channels").header("Content-Type", Some("application/json"));
    broker.api().send(&get.header("X-Pusher-Library", Some("pusher-http-php 7.2.6"))).await.expect_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_app_is_forbidden_to_those_who_know_its_secret() {
    let broker = boot(settings().app("enabled", false)).await;
    broker.api().send(&post()).await.expect_error(403, "");
    broker.api().send(&post().signature("00")).await.expect_error(401, "");
    common::Api::new(broker.address, OTHER).publish("a", "e", "d").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_auth_parameter_is_refused() {
    let broker = boot(settings()).await;
    for name in ["auth_key", "auth_timestamp", "auth_version"] {
        let request = post();
        let again = request.value(name).to_owned();
        broker.api().send(&request.param(name, &again)).await.expect_error(401, "");
    }
    let query = post().query();
    let twice = format!("{query}&auth_signature={}", post().expected_signature());
    broker.api().send(&post().sends_query(twice)).await.expect_error(401, "");
}
