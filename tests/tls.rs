//! TLS listeners: the same broker, with write-through replaced by the connection's own task.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::tls::{Socket, next, send, subscribe, trusting};
use common::{DEADLINE, Settings, boot, in_time, settings, tls};
use futures_util::StreamExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;

/// A certificate for `localhost` in files of its own, gone with the test.
struct Certificate {
    files: std::path::PathBuf,
    connector: TlsConnector,
}

impl Certificate {
    fn new(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let files = std::env::temp_dir().join(format!("fanfare-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&files).expect("a folder");
        std::fs::write(files.join("cert.pem"), made.cert.pem()).expect("written");
        std::fs::write(files.join("key.pem"), made.signing_key.serialize_pem()).expect("written");
        Self { files, connector: trusting(made.cert.der()) }
    }

    fn file(&self, name: &str) -> String {
        self.files.join(name).display().to_string()
    }

    fn settings(&self) -> Settings {
        let (cert, key) = (self.file("cert.pem"), self.file("key.pem"));
        settings().server("listen", vec!["127.0.0.1:0", "tls://127.0.0.1:0"]).server("tls", files(cert, key))
    }

    async fn connect(&self, port: u16) -> Socket {
        tls::connect(&self.connector, port).await
    }
}

/// The section `[server.tls]`.
fn files(cert: String, key: String) -> toml::Table {
    toml::Table::from_iter([("cert".to_owned(), cert.into()), ("key".to_owned(), key.into())])
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.files);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c013_an_app_that_wants_tls_is_served_by_tls_and_refuses_the_rest_with_4000() {
    let certificate = Certificate::new("force");
    let broker = boot(certificate.settings().feature("force_tls", true)).await;
    broker.dial(common::HOME).await.closed_with(4000).await;
    let mut socket = certificate.connect(broker.addresses[1].port()).await;
    assert_eq!(next(&mut socket).await["event"], "pusher:connection_established");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_in_order_and_large_ones_whole() {
    let certificate = Certificate::new("events");
    let mut broker = boot(certificate.settings()).await;
    let mut socket = certificate.connect(broker.addresses[1].port()).await;
    subscribe(&mut socket, "a").await;
    let mut api = broker.api();
    let data = |number: usize| format!("{number:05} {}", "x".repeat(10_000));
    for number in 0..100 {
        api.publish("a", "n", &data(number)).await;
    }
    for number in 0..100 {
        assert_eq!(next(&mut socket).await["data"], data(number));
    }
    send(&mut socket, json!({"event": "pusher:ping", "data": {}})).await;
    assert_eq!(next(&mut socket).await["event"], "pusher:pong");
    broker.begin_stop();
    match in_time("the close", socket.next()).await.expect("open").expect("a message") {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 4200),
        other => panic!("{other:?} came"),
    }
    drop(socket);
    broker.ended(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_header_may_stand_before_tls() {
    let certificate = Certificate::new("proxied");
    let proxied = certificate.settings().server("trusted_proxies", vec!["127.0.0.1"]);
    let broker = boot(proxied.server("proxy_protocol", true)).await;
    let mut tcp = TcpStream::connect(broker.addresses[1]).await.expect("a connection");
    tcp.write_all(b"PROXY TCP4 198.51.100.1 127.0.0.1 5000 443\r\n").await.expect("sent");
    let mut socket = tls::connect_over(&certificate.connector, tcp).await;
    assert_eq!(next(&mut socket).await["event"], "pusher:connection_established");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_no_tls_is_let_go_and_harms_nobody() {
    let certificate = Certificate::new("plain");
    let broker = boot(certificate.settings().server("header_timeout", "1s")).await;
    let mut witness = broker.witness().await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 1000], &[0x16, 3, 1, 0xff, 0xff], b""] {
        let mut tcp = TcpStream::connect(broker.addresses[1]).await.expect("a connection");
        let _ = tcp.write_all(bytes).await;
        let mut rest = Vec::new();
        let _ = in_time("the end", tcp.read_to_end(&mut rest)).await;
        assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    }
    witness.still_works().await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named_before_anything_is_served() {
    let (certificate, other) = (Certificate::new("bad"), Certificate::new("other"));
    std::fs::write(certificate.files.join("no.pem"), "not PEM").expect("written");
    for (cert, key, text) in [
        (certificate.file("none.pem"), certificate.file("key.pem"), "none.pem"),
        (certificate.file("no.pem"), certificate.file("key.pem"), "no.pem"),
        (certificate.file("cert.pem"), certificate.file("no.pem"), "no.pem"),
        (certificate.file("cert.pem"), other.file("key.pem"), "cert.pem"),
    ] {
        let settings = certificate.settings().server("tls", files(cert, key));
        let config = fanfare::config::Config::parse(&settings.to_toml()).expect("a config");
        let error = fanfare::Broker::bind(config).await.err().expect("refused");
        assert!(error.to_string().contains(text), "{error}");
    }
}
