//! Publishing over HTTP, continued: counts in replies, broken bodies, connections, sizes, order.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{APP, Signed, boot, settings};
use serde_json::{Value, json};

fn event_for(channels: Value, info: &str) -> Value {
    json!({"name": "e", "channels": channels, "data": "d", "info": info})
}

#[tokio::test(flavor = "multi_thread")]
async fn c126_an_event_can_ask_who_could_hear_it() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    let body = event_for(json!(["a", "presence-b"]), "user_count,subscription_count");
    let empty = api.post("/events", &body).await.expect_ok();
    let presence = json!({"user_count": 0, "subscription_count": 0});
    assert_eq!(empty, json!({"channels": {"a": {"subscription_count": 0}, "presence-b": presence}}));
    let (mut one, mut two) = (broker.connect().await, broker.connect().await);
    one.subscribe("a").await;
    one.join("presence-b", r#"{"user_id":"1"}"#).await;
    two.join("presence-b", r#"{"user_id":"1"}"#).await;
    let some = api.post("/events", &body).await.expect_ok();
    let presence = json!({"user_count": 1, "subscription_count": 2});
    assert_eq!(some, json!({"channels": {"a": {"subscription_count": 1}, "presence-b": presence}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn c126_only_what_is_asked_for_is_answered() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    let users = api.post("/events", &event_for(json!(["a", "presence-b"]), "user_count")).await.expect_ok();
    assert_eq!(users, json!({"channels": {"a": {}, "presence-b": {"user_count": 0}}}));
    let single = json!({"name": "e", "channel": "a", "data": "d", "info": "subscription_count"});
    let single = api.post("/events", &single).await.expect_ok();
    assert_eq!(single, json!({"channels": {"a": {"subscription_count": 0}}}));
    let none = api.post("/events", &event_for(json!(["a"]), "")).await;
    assert_eq!(none.body, "{}");
    let unknown = api.post("/events", &event_for(json!(["a"]), "colour")).await;
    unknown.expect_error(400, "info should be a comma separated list of attributes");
}

#[tokio::test(flavor = "multi_thread")]
async fn c127_a_batch_answers_for_every_event_or_for_none() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    let plain = json!({"channel": "a", "name": "e", "data": "d"});
    let asking =
        |channel: &str| json!({"channel": channel, "name": "e", "data": "d", "info": "subscription_count"});
    let batch = json!({"batch": [asking("a"), plain, asking("presence-b")]});
    let reply = api.post("/batch_events", &batch).await.expect_ok();
    let count = json!({"subscription_count": 0});
    assert_eq!(reply, json!({"batch": [count, {}, count]}));
    let reply = api.post("/batch_events", &json!({"batch": [plain, plain]})).await;
    assert_eq!((reply.expect_ok(), reply.body.as_str()), (json!({}), "{}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn c133_a_body_that_is_no_json_object_is_refused_once_it_is_signed() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    let bodies: [&[u8]; 9] =
        [b"", b"not json", b"[]", b"null", b"5", b"{", b"{\"name\":\"e\"", b"{} {}", b"\xff\xfe{}"];
    for path in ["/apps/1/events", "/apps/1/batch_events"] {
        for body in bodies {
            let signed = Signed::new("POST", path, APP, body);
            api.send(&signed).await.expect_error(400, "");
            api.send(&signed.sends_query("")).await.expect_error(401, "");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c134_two_requests_share_a_connection() {
    let broker = boot(settings()).await;
    let mut http = broker.http().await;
    for _ in 0..2 {
        http.write(&Signed::get("/apps/1/channels").bytes()).await;
        assert_eq!(http.reply().await.unwrap().expect_ok(), json!({"channels": {}}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c134_pipelined_requests_are_answered_in_order() {
    let broker = boot(settings()).await;
    let mut http = broker.http().await;
    let get = |channel: &str| Signed::get(&format!("/apps/1/channels/{channel}")).bytes();
    let post = Signed::post("/apps/1/events", &json!({"name": "e", "channel": "a", "data": "d"})).bytes();
    let unsigned = Signed::get("/apps/1/channels").sends_query("").bytes();
    http.write(&[get("a"), post, unsigned, get("a")].concat()).await;
    assert_eq!(http.reply().await.unwrap().expect_ok(), json!({"occupied": false}));
    assert_eq!(http.reply().await.unwrap().expect_ok(), json!({}));
    http.reply().await.unwrap().expect_error(401, "");
    assert_eq!(http.reply().await.unwrap().expect_ok(), json!({"occupied": false}));
}

#[tokio::test(flavor = "multi_thread")]
async fn c134_pipelined_heads_get_no_bodies() {
    let broker = boot(settings()).await;
    let mut http = broker.http().await;
    let head = Signed::new("HEAD", "/apps/1/channels", APP, b"").bytes();
    http.write(&[head.clone(), head, Signed::get("/apps/1/channels").bytes()].concat()).await;
    let first = http.reply_to_head().await.unwrap();
    let second = http.reply_to_head().await.unwrap();
    assert_eq!(first.status, second.status);
    assert!(first.status < 500, "{first:?}");
    assert_eq!(http.reply().await.unwrap().expect_ok(), json!({"channels": {}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn c134_a_backend_may_ask_for_the_end_of_the_connection() {
    let broker = boot(settings()).await;
    let mut http = broker.http().await;
    http.write(&Signed::get("/apps/1/channels").header("Connection", Some("close")).bytes()).await;
    let reply = http.reply().await.unwrap();
    assert_eq!(reply.expect_ok(), json!({"channels": {}}));
    assert!(http.rest().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn c134_a_chunked_body_is_a_body() {
    let broker = boot(settings()).await;
    let body = json!({"name": "e", "channel": "a", "data": "d"}).to_string();
    let request = Signed::new("POST", "/apps/1/events", APP, body.as_bytes());
    let head = String::from_utf8(request.head(1)).unwrap();
    let head = head.replace("Content-Length: 1", "Transfer-Encoding: chunked");
    let (left, right) = body.split_at(10);
    let chunks = format!("{:x}\r\n{left}\r\n{:x};ext=1\r\n{right}\r\n0\r\n\r\n", left.len(), right.len());
    let mut http = broker.http().await;
    http.write(head.as_bytes()).await;
    http.write(chunks.as_bytes()).await;
    http.reply().await.unwrap().expect_ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn c135_a_legal_batch_of_a_mebibyte_is_accepted() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    let data = "\u{1}".repeat(10_240);
    let event = json!({"channel": "a", "name": "e", "data": data});
    let mut body = json!({"batch": vec![event; 10]}).to_string().into_bytes();
    assert!(body.len() > 600_000);
    body.resize(1024 * 1024, b' ');
    let reply = broker.api().send(&Signed::new("POST", "/apps/1/batch_events", APP, &body)).await;
    assert_eq!(reply.expect_ok(), json!({}));
    for _ in 0..10 {
        client.expect_event("a", "e", &data).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c136_sequential_events_arrive_in_order() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    let mut api = broker.api();
    let publishing = async {
        for number in 0..1000 {
            api.publish("a", "n", &number.to_string()).await;
        }
    };
    let hearing = async {
        for number in 0..1000 {
            client.expect_event("a", "n", &number.to_string()).await;
        }
    };
    tokio::join!(publishing, hearing);
    client.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c136_events_over_two_connections_arrive_in_the_order_of_their_replies() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    let mut apis = [broker.api(), broker.api()];
    for number in 0..200 {
        apis[number % 2].publish("a", "n", &number.to_string()).await;
    }
    for number in 0..200 {
        client.expect_event("a", "n", &number.to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c137_the_old_way_of_publishing_still_works() {
    let broker = boot(settings()).await;
    let mut client = broker.connect().await;
    client.subscribe("a").await;
    let mut api = broker.api();
    let old = |body: &[u8]| Signed::new("POST", "/apps/1/channels/a/events", APP, body);
    let reply = api.send(&old(br#"{"any": "json"}"#).param("name", "e")).await;
    assert_eq!((reply.status, reply.body.as_str()), (202, ""));
    client.expect_event("a", "e", r#"{"any": "json"}"#).await;
    let excluding = old(b"mine").param("name", "e").param("socket_id", &client.socket_id);
    assert_eq!(api.send(&excluding).await.status, 202);
    api.publish("a", "marker", "").await;
    client.expect_event("a", "marker", "").await;
    api.send(&old(b"unnamed")).await.expect_error(400, "");
    api.send(&old(b"x").param("name", "pusher:e")).await.expect_error(400, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn c138_other_routes_are_not_found() {
    let broker = boot(settings()).await;
    let mut api = broker.api();
    for path in
        ["/apps/1", "/apps/1/", "/apps/1/nothing", "/apps/1/events/more", "/apps/1/channels/a/nothing"]
    {
        api.send(&Signed::get(path)).await.expect_error(404, "");
        api.send(&Signed::post(path, &json!({}))).await.expect_error(404, "");
    }
    for path in ["/", "/apps", "/apps/", "/nothing", "//", "/apps//events"] {
        let reply = api.send(&Signed::get(path)).await;
        assert_eq!(reply.status, 404, "for {path}: {reply:?}");
    }
}
