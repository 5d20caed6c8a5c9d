//! WebSockets by TLS.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::in_time;

pub type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// Trusts this certificate, and what it has signed.
pub fn trusting(root: &CertificateDer<'static>) -> TlsConnector {
    offering(root, &[])
}

/// As [`trusting`], and offers to speak these protocols.
pub fn offering(root: &CertificateDer<'static>, protocols: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).expect("a root");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

/// A handshake with a broker of this machine.
pub async fn shake(connector: &TlsConnector, port: u16) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    shake_over(connector, tcp).await
}

async fn shake_over(connector: &TlsConnector, tcp: TcpStream) -> TlsStream<TcpStream> {
    let name = ServerName::try_from("localhost").expect("a name");
    in_time("a TLS handshake", connector.connect(name, tcp)).await.expect("TLS")
}

/// A client of the first app, not yet told anything.
pub async fn connect(connector: &TlsConnector, port: u16) -> Socket {
    upgrade(shake(connector, port).await).await
}

/// The same over a connection that is open already.
pub async fn connect_over(connector: &TlsConnector, tcp: TcpStream) -> Socket {
    upgrade(shake_over(connector, tcp).await).await
}

async fn upgrade(tls: TlsStream<TcpStream>) -> Socket {
    let url = "wss://localhost/app/app-key?protocol=7";
    in_time("a WebSocket", tokio_tungstenite::client_async(url, tls)).await.expect("a WebSocket").0
}

pub async fn next(socket: &mut Socket) -> Value {
    match in_time("a frame", socket.next()).await.expect("open").expect("a message") {
        Message::Text(text) => serde_json::from_str(&text).expect("JSON"),
        other => panic!("{other:?} came"),
    }
}

pub async fn send(socket: &mut Socket, command: Value) {
    socket.send(Message::text(command.to_string())).await.expect("sent");
}

/// Waits for the greeting, and subscribes.
pub async fn subscribe(socket: &mut Socket, channel: &str) {
    assert_eq!(next(socket).await["event"], "pusher:connection_established");
    send(socket, json!({"event": "pusher:subscribe", "data": {"channel": channel}})).await;
    assert_eq!(next(socket).await["event"], "pusher_internal:subscription_succeeded");
}
