//! A panic in what serves one connection ends that connection, and no other: it unwinds, so the profile
//! must not abort.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::borrow::Cow;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use common::{Client, Heard, eventually};
use fanfare::apps::LiveApp;
use fanfare::config::Config;
use fanfare::mailbox::{Backlogs, Mailbox};
use fanfare::model::close::CloseReason;
use fanfare::model::transport::Transport;
use fanfare::sockets::{Place, Sockets};
use fanfare::transport::pause::{Pause, Timed};
use fanfare::transport::{Opened, Session, websocket};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

const MAX: usize = 1 << 16;

/// Answers what it is told, and panics at one word.
struct Fragile {
    mailbox: Arc<Mailbox>,
    /// Given back also by a panic.
    _place: Place,
}

impl Session for Fragile {
    fn opened(&mut self) {}

    fn text(&mut self, message: &str) -> bool {
        assert!(!message.contains("break"), "a panic, as this test wants it");
        let mut frame = vec![0x81, u8::try_from(message.len()).unwrap()];
        frame.extend(message.as_bytes());
        self.mailbox.push(&frame.into());
        true
    }

    fn binary(&mut self) -> bool {
        true
    }

    fn control(&mut self) {}

    fn closed(&mut self, _: CloseReason) {}

    fn farewell(&self, _: CloseReason) -> (u16, Cow<'_, str>) {
        (1000, Cow::Borrowed(""))
    }
}

fn open(sockets: &Sockets, app: &Arc<LiveApp>, stream: Option<TcpStream>) -> Opened<Fragile> {
    let place = sockets.reserve(app).unwrap();
    let mailbox = Arc::new(Mailbox::new(
        place.id(),
        Transport::WebSocket,
        stream,
        MAX,
        Arc::new(Backlogs::new(0)),
        sockets.now_ms(),
    ));
    sockets.take(&place, Arc::clone(&mailbox));
    let session = Fragile { mailbox: Arc::clone(&mailbox), _place: place };
    Opened { mailbox, session, max_message: MAX }
}

async fn serve(sockets: Arc<Sockets>) -> SocketAddr {
    let config = Config::parse("[[apps]]\nid = \"1\"\nkey = \"k\"\nsecret = \"s\"").unwrap();
    let app = Arc::new(LiveApp::new(config.apps[0].clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (sockets, app) = (Arc::clone(&sockets), Arc::clone(&app));
            let service = service_fn(move |request| {
                let (sockets, app) = (Arc::clone(&sockets), Arc::clone(&app));
                let table = Arc::clone(&sockets);
                let open = move |stream| open(&table, &app, stream);
                async move { Ok::<_, Infallible>(websocket::upgrade(request, "", sockets, ((), ()), open)) }
            });
            let stream = Timed::new(stream, Arc::new(Pause::begin()));
            let http = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(http.with_upgrades());
        }
    });
    address
}

async fn echoes(client: &mut Client) {
    client.send(json!({"event": "echo", "data": "x"})).await;
    client.expect("echo").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_its_own_connection_only() {
    let sockets = Arc::new(Sockets::default());
    let address = serve(Arc::clone(&sockets)).await;
    let mut others = Vec::new();
    for _ in 0..10 {
        others.push(Client::open(address, "/", &[]).await.unwrap());
    }
    let mut breaking = Client::open(address, "/", &[]).await.unwrap();
    echoes(&mut breaking).await;
    breaking.send(json!({"event": "break"})).await;
    assert!(matches!(breaking.hear().await, Heard::Gone), "cut off, without a word");
    for other in &mut others {
        echoes(other).await;
    }
    eventually("its place is given back", async || sockets.count() == others.len()).await;
    let mut next = Client::open(address, "/", &[]).await.unwrap();
    echoes(&mut next).await;
}

/// The release profile is what runs in production.
#[test]
fn no_profile_aborts() {
    let manifest: toml::Table = include_str!("../Cargo.toml").parse().unwrap();
    for (name, profile) in manifest["profile"].as_table().unwrap() {
        let panic = profile.get("panic").and_then(|panic| panic.as_str());
        assert_ne!(panic, Some("abort"), "{name}");
    }
}
