//! The PROXY protocol: who the client is, by the word of a trusted proxy (config/operation.md, Protection).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::{Broker, Client, HOME, Heard, Settings, boot, eventually_within, in_time, settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// From here proxies come.
const PROXY: u8 = 1;
/// And from here somebody who is none.
const STRANGER: u8 = 2;
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn proxied() -> Settings {
    settings()
        .server("trusted_proxies", vec!["127.0.0.1"])
        .server("proxy_protocol", true)
        .server("max_connections_per_ip", 2)
        .server("unlimited_clients", Vec::<String>::new())
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    [V2, &[command, family], &u16::try_from(rest.len()).unwrap().to_be_bytes(), rest].concat()
}

/// A connection that begins with these bytes.
async fn begins(broker: &Broker, host: u8, bytes: &[u8]) -> TcpStream {
    let mut stream = broker.tcp_from(host).await;
    // Who is hung up on may find it out here.
    let _ = in_time("sent bytes", stream.write_all(bytes)).await;
    stream
}

/// The beginning of a socket that comes this way; none when it is hung up on.
async fn comes(broker: &Broker, header: &[u8]) -> Option<Client> {
    let stream = begins(broker, PROXY, header).await;
    let mut client = Client::over(stream, broker.address, HOME, &[]).await.ok()?;
    client.expect_established().await;
    Some(client)
}

/// Hung up on, whatever it sends.
async fn is_refused(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let _ = stream.write_all(b"GET /apps/1/channels HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let _ = in_time("the end", stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{rest:?}");
}

async fn turned_away(broker: &Broker, reason: &str) -> f64 {
    broker.metrics().await.get(&format!("fanfare_turned_away_total{{reason=\"{reason}\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_limited_by_the_addresses_that_the_headers_say() {
    let broker = boot(proxied()).await;
    let mut six = [0; 36];
    six[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    let mut neighbour = six;
    neighbour[15] = 9;
    let pairs = [
        (
            b"PROXY TCP4 198.51.100.1 127.0.0.1 5000 80\r\n".to_vec(),
            v2(0x21, 0x11, &[198, 51, 100, 1, 127, 0, 0, 1, 0, 9, 0, 80]),
        ),
        (b"PROXY TCP6 2001:db8::1 ::1 5000 80\r\n".to_vec(), v2(0x21, 0x21, &neighbour)),
    ];
    let mut crowd = Vec::new();
    for (one, same) in &pairs {
        crowd.push(comes(&broker, one).await.expect("the first of an address"));
        crowd.push(comes(&broker, same).await.expect("the second"));
    }
    for (one, same) in &pairs {
        assert!(comes(&broker, one).await.is_none());
        assert!(comes(&broker, same).await.is_none());
    }
    crowd.push(comes(&broker, b"PROXY TCP4 198.51.100.2 127.0.0.1 1 80\r\n").await.expect("somebody else"));
    // What the proxy does by itself is not limited.
    for own in [&b"PROXY UNKNOWN\r\n"[..], &v2(0x20, 0, b"")].iter().cycle().take(6) {
        crowd.push(comes(&broker, own).await.expect("the proxy itself"));
    }
    assert_eq!(turned_away(&broker, "connections_per_ip").await, 4.0);
    drop(crowd);
    for table in ["addresses", "handshakes"] {
        eventually_within(Duration::from_secs(20), table, async || {
            broker.metrics().await.table(table) == 0.0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn not_a_byte_behind_the_header_is_lost_however_it_comes() {
    let broker = boot(proxied().server("max_connections_per_ip", 0)).await;
    let request = format!(
        "GET {HOME} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n\r\n"
    );
    let mut tlvs = vec![198, 51, 100, 1, 127, 0, 0, 1, 0, 9, 0, 80, 4, 15, 0];
    tlvs.resize(12 + 3 + 3840, 0);
    for header in [b"PROXY TCP4 198.51.100.1 127.0.0.1 5000 80\r\n".to_vec(), v2(0x21, 0x11, &tlvs)] {
        let whole = [&header[..], request.as_bytes()].concat();
        for cut in [whole.len(), header.len(), header.len() + 5, header.len() - 1, 20, 13, 12, 1] {
            let mut stream = begins(&broker, PROXY, &whole[..cut]).await;
            tokio::task::yield_now().await;
            let _ = stream.write_all(&whole[cut..]).await;
            let head = in_time("the upgrade", read_head(&mut stream)).await;
            assert!(head.starts_with("HTTP/1.1 101 "), "cut at {cut}: {head}");
        }
    }
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_with_anything_else_is_hung_up_on() {
    let broker = boot(proxied()).await;
    let mut refused = 0.0;
    for wrong in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0; 64],
        b"PROXY TCP4 198.51.100.1 127.0.0.1 5000\r\n".to_vec(),
        b"PROXY TCP4 nobody 127.0.0.1 5000 80\r\n".to_vec(),
        [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat(),
        v2(0x21, 0x11, &[0; 3]),
        v2(0x31, 0x11, &[0; 12]),
        [V2, &[0x21, 0x11, 0xff, 0xff]].concat(),
    ] {
        is_refused(begins(&broker, PROXY, &wrong).await).await;
        refused += 1.0;
        assert_eq!(turned_away(&broker, "no_proxy_header").await, refused, "{wrong:?}");
    }
    let client = comes(&broker, b"PROXY TCP4 198.51.100.1 127.0.0.1 1 80\r\n").await;
    assert!(client.is_some(), "somebody else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_does_not_come_or_is_cut_off_ends_the_connection() {
    let broker = boot(proxied().server("header_timeout", "1s")).await;
    for slow in
        [&b""[..], b"PROXY", b"PROXY TCP4 198.51.100.1", &V2[..11], V2, &v2(0x21, 0x11, &[0; 12])[..20]]
    {
        let mut waits = begins(&broker, PROXY, slow).await;
        assert_eq!(in_time("the end", waits.read(&mut [0; 1])).await.unwrap_or(0), 0);
        drop(begins(&broker, PROXY, slow).await);
    }
    // So some balancers end it.
    let looks = begins(&broker, PROXY, b"").await;
    socket2::SockRef::from(&looks).set_linger(Some(Duration::ZERO)).expect("a reset");
    drop(looks);
    eventually_within(Duration::from_secs(20), "all are counted and gone", async || {
        broker.metrics().await.table("handshakes") == 0.0
            // But for those who hung up before their first byte: so balancers look whether it is there.
            && turned_away(&broker, "no_proxy_header").await == 11.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_trusted_proxy_is_hung_up_on_whatever_it_says() {
    let broker = boot(proxied()).await;
    let header = b"PROXY TCP4 198.51.100.1 127.0.0.1 5000 80\r\n";
    is_refused(begins(&broker, STRANGER, header).await).await;
    is_refused(begins(&broker, STRANGER, b"").await).await;
    assert_eq!(turned_away(&broker, "not_a_trusted_proxy").await, 2.0);
    assert!(comes(&broker, header).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_says_whether_the_client_came_by_tls_and_the_client_does_not() {
    let broker = boot(proxied().feature("force_tls", true)).await;
    let with =
        |ssl: u8| v2(0x21, 0x11, &[198, 51, 100, 1, 127, 0, 0, 1, 0, 9, 0, 80, 0x20, 0, 5, ssl, 0, 0, 0, 0]);
    assert!(comes(&broker, &with(1)).await.is_some());
    let stream = begins(&broker, PROXY, &with(0)).await;
    let says = [("X-Forwarded-Proto", "https"), ("X-Forwarded-For", "198.51.100.9")];
    let mut client = Client::over(stream, broker.address, HOME, &says).await.unwrap();
    assert!(matches!(client.hear().await, Heard::Closed { code: 4000, .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_header_that_names_nobody_nobody_is_believed() {
    let broker = boot(proxied()).await;
    let strict = boot(proxied().feature("force_tls", true)).await;
    let says = [("X-Forwarded-For", "198.51.100.9"), ("X-Forwarded-Proto", "https")];
    for nameless in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0x20, 0, b"")] {
        // More than the address that is made up may have.
        let mut crowd = Vec::new();
        for _ in 0..4 {
            let stream = begins(&broker, PROXY, &nameless).await;
            let mut client = Client::over(stream, broker.address, HOME, &says).await.unwrap();
            client.expect_established().await;
            crowd.push(client);
        }
        let stream = begins(&strict, PROXY, &nameless).await;
        let mut client = Client::over(stream, strict.address, HOME, &says).await.unwrap();
        assert!(matches!(client.hear().await, Heard::Closed { code: 4000, .. }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_behind_another_is_believed() {
    let chain = proxied().server("trusted_proxies", vec!["127.0.0.1", "192.0.2.0/24"]);
    let broker = boot(chain.feature("force_tls", true)).await;
    let says = [("X-Forwarded-For", "198.51.100.9"), ("X-Forwarded-Proto", "https")];
    let mut crowd = Vec::new();
    for number in 0..3 {
        let stream = begins(&broker, PROXY, b"PROXY TCP4 192.0.2.1 127.0.0.1 5000 80\r\n").await;
        let mut client = Client::over(stream, broker.address, HOME, &says).await.unwrap();
        match (number, client.hear().await) {
            (0 | 1, Heard::Frame(frame)) => assert_eq!(frame["event"], "pusher:connection_established"),
            (2, Heard::Closed { code: 4100, .. }) => {}
            (number, other) => panic!("{number} heard {other:?}"),
        }
        crowd.push(client);
    }
}
