//! Who may ask on the private listener.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Broker, Http, boot, eventually, settings};

async fn asks(broker: &Broker, request: &str) -> u16 {
    let mut http = Http::to(broker.admin).await;
    http.write(request.as_bytes()).await;
    http.reply().await.expect("a reply").status
}

/// Any page that was open in a browser on the same machine could once have webhooks sent again, or, by
/// a name of its own that leads to 127.0.0.1, read them.
#[tokio::test(flavor = "multi_thread")]
async fn web_pages_may_not_ask_where_no_token_is_wanted() {
    let broker = boot(settings()).await;
    let host = broker.admin;
    for (request, status) in [
        (format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n"), 200),
        ("GET /healthz HTTP/1.0\r\n\r\n".to_owned(), 200),
        ("POST /webhooks/replay HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".to_owned(), 200),
        (format!("POST /webhooks/replay HTTP/1.1\r\nHost: {host}\r\nOrigin: http://evil.test\r\n\r\n"), 403),
        (format!("GET /webhooks/failed HTTP/1.1\r\nHost: {host}\r\nSec-Fetch-Site: cross-site\r\n\r\n"), 403),
        ("GET /webhooks/failed HTTP/1.1\r\nHost: evil.test:9601\r\n\r\n".to_owned(), 403),
    ] {
        assert_eq!(asks(&broker, &request).await, status, "{request}");
    }
}

/// Probes of orchestrators cannot show a token.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_token_one_learns_whether_and_not_why() {
    let broker = boot(settings().admin("token", "s3cret")).await;
    let probe = "GET /readyz HTTP/1.1\r\nHost: node7\r\n\r\n";
    eventually("it is ready", async || asks(&broker, probe).await == 200).await;
    for (path, token, status, body) in [
        ("/healthz", "", 200, "yes"),
        ("/readyz", "", 200, "yes"),
        ("/readyz", "Authorization: Bearer s3cret\r\n", 200, "ready"),
        ("/readyz", "Authorization: Bearer s3cre\r\n", 200, "yes"),
        ("/metrics", "", 401, "Send the token as: Authorization: Bearer TOKEN"),
        ("/metrics", "Authorization: Bearer S3cret\r\n", 401, "Send the token"),
        ("/metrics", "Authorization: Bearer s3cret\r\n", 200, "fanfare_"),
        ("/webhooks/failed", "", 401, "Send the token"),
    ] {
        let mut http = Http::to(broker.admin).await;
        http.write(format!("GET {path} HTTP/1.1\r\nHost: node7\r\n{token}\r\n").as_bytes()).await;
        let reply = http.reply().await.expect("a reply");
        assert_eq!(reply.status, status, "{path} {token}");
        assert!(reply.body.contains(body), "{path} {token}: {}", reply.body);
    }
    let request = "POST /readyz HTTP/1.1\r\nHost: node7\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(asks(&broker, request).await, 401);
}
