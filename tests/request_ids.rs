//! What requests of the API go by (protocol.md §6.13).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Broker, Reply, Signed, boot, settings};
use serde_json::json;

async fn asked(broker: &Broker, id: Option<&str>) -> Reply {
    let request = Signed::post("/apps/1/events", &json!({"name": "a", "channel": "b", "data": "c"}));
    broker.api().send(&request.header("X-Request-Id", id)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_has_the_id_of_its_request_if_that_is_a_sane_one() {
    let broker = boot(settings()).await;
    for id in ["a", "8e03978e-40d5-43dd-bc93-6894a57f9324", &"~".repeat(64)] {
        let reply = asked(&broker, Some(id)).await;
        reply.expect_ok();
        assert_eq!(reply.header("x-request-id"), Some(id));
    }
    for id in [None, Some("a b"), Some("ä"), Some(""), Some(&*"x".repeat(65))] {
        let reply = asked(&broker, id).await;
        reply.expect_ok();
        assert_eq!(reply.header("x-request-id"), None, "{id:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_has_one_too() {
    let broker = boot(settings()).await;
    let mut http = broker.http().await;
    for request in [
        "GET /apps/1/channels HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\n\r\n",
        "POST /apps/1/events HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\nContent-Length: 2\r\n\r\n{}",
        "DELETE /apps/none HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\nX-Request-Id: other\r\n\r\n",
    ] {
        http.write(request.as_bytes()).await;
        let reply = http.reply().await.expect("a reply");
        assert!(reply.status >= 400, "{reply:?}");
        assert_eq!(reply.header("x-request-id"), Some("mine"), "{request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_without_one_is_given_one_of_its_own() {
    let broker = boot(settings()).await;
    let mut given = Vec::new();
    for id in [None, Some("a b")] {
        let unknown = Signed::get("/apps/1/nothing").header("X-Request-Id", id);
        let reply = broker.api().send(&unknown).await;
        assert_eq!(reply.status, 404);
        let id = reply.header("x-request-id").expect("a name").to_owned();
        assert!(id.len() == 16 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
        given.push(id);
    }
    assert_ne!(given[0], given[1]);
}
