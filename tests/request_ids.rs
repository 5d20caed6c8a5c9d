//! What requests of the API go by (protocol.md §6.13).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;

use common::{Broker, Reply, Signed, boot, settings};
use serde_json::json;

async fn asked(broker: &Broker, id: Option<&str>) -> Reply {
    let request = Signed::post("/apps/1/events", &json!({"name": "a", "channel": "b", "data": "c"}));
    broker.api().send(&request.header("X-Request-Id", id)).await
}

fn is_new(id: &str) -> bool {
    id.len() == 16 && id.bytes().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_has_the_id_of_its_request_or_a_new_one() {
    let broker = boot(settings()).await;
    for id in ["a", "8e03978e-40d5-43dd-bc93-6894a57f9324", &"~".repeat(64)] {
        let reply = asked(&broker, Some(id)).await;
        reply.expect_ok();
        assert_eq!(reply.header("x-request-id"), Some(id));
    }
    let mut seen = BTreeSet::new();
    for id in [None, None, Some("a b"), Some("ä"), Some(""), Some(&*"x".repeat(65))] {
        let reply = asked(&broker, id).await;
        reply.expect_ok();
        let given = reply.header("x-request-id").expect("an id").to_owned();
        assert!(is_new(&given), "{given} for {id:?}");
        assert!(seen.insert(given));
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
