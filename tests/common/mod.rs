//! A broker of our own on port 0, and the people who talk to it.
// Every test binary includes this module whole and uses its own share of it.
#![allow(dead_code, unreachable_pub, unused_imports)]

pub mod api;
pub mod certificates;
pub mod churn;
pub mod client;
pub mod dice;
pub mod ear;
pub mod fallback;
pub mod http;
pub mod listener;
pub mod metrics;
pub mod nodes;
pub mod program;
pub mod proxy;
pub mod raw;
pub mod receiver;
pub mod redis;
pub mod redis_groups;
pub mod resp;
pub mod settings;
pub mod sign;
pub mod site;
pub mod stage;
pub mod tls;
pub mod told;
pub mod topics;
pub mod users;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare::certificates::Certificates;
use serde_json::{Value, json};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

pub use api::{Api, Signed};
pub use client::{Client, Heard};
pub use dice::Dice;
pub use http::{Http, Reply};
pub use listener::Listener;
pub use metrics::Metrics;
pub use nodes::{Node, Nodes};
pub use program::Program;
pub use proxy::Proxy;
pub use raw::Raw;
pub use receiver::{Answer, Receiver};
pub use redis::Redis;
pub use settings::{Settings, settings};
pub use sign::{APP, Credentials, OTHER};

/// How long a test waits for anything before it calls it missing. Long, as the machine may have other work; but
/// a broker whose limits are not set waits for half a minute at least, and that is to be told from it.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Where a well-behaved client of the first app connects.
pub const HOME: &str = "/app/app-key?protocol=7&client=js&version=8.6.0&flash=false";

/// Waits for something that must happen, and says what was missing when it does not.
pub async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    within(DEADLINE, what, work).await
}

/// As [`in_time`], for the few things that may take longer.
pub async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, work).await {
        Ok(value) => value,
        Err(_) => panic!("not within {limit:?}: {what}"),
    }
}

/// Asks again and again, one round trip each, until the answer is yes.
pub async fn eventually(what: &str, asked: impl AsyncFnMut() -> bool) {
    eventually_within(DEADLINE, what, asked).await;
}

/// As [`eventually`], for the few things that may take longer.
pub async fn eventually_within(limit: Duration, what: &str, mut asked: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !asked().await {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::task::yield_now().await;
    }
}

/// Sends these bytes again and again, until the broker takes none for a second or hangs up.
pub async fn until_ignored(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    let patience = Duration::from_secs(1);
    let sending =
        async { while let Ok(Ok(())) = tokio::time::timeout(patience, writer.write_all(bytes)).await {} };
    within(DEADLINE, "an end to the broker's attention", sending).await;
}

/// A running broker; it drains when the test stops it or lets it go.
pub struct Broker {
    pub address: SocketAddr,
    /// Every public listener, that one first.
    pub addresses: Vec<SocketAddr>,
    /// The private listener.
    pub admin: SocketAddr,
    /// What its TLS listeners show.
    pub certificates: Option<Arc<Certificates>>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<bool>,
}

/// Starts a broker in this process on ports of its own.
pub async fn boot(settings: Settings) -> Broker {
    let config = match fanfare::config::Config::parse(&settings.to_toml()) {
        Ok(config) => config,
        Err(problems) => panic!("the test's config is refused: {problems}"),
    };
    let broker = fanfare::Broker::bind(config).await.expect("the listeners bind");
    let addresses = broker.public_addrs().to_vec();
    let (address, admin) = (addresses[0], broker.admin_addr());
    let certificates = broker.certificates();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(async move {
        let stopped = async move {
            let _ = stopped.await;
        };
        broker.run(stopped).await.is_ok()
    });
    Broker { address, addresses, admin, certificates, stop: Some(stop), running }
}

impl Broker {
    /// A client of the first app, connected and established.
    pub async fn connect(&self) -> Client {
        let mut client = self.dial(HOME).await;
        client.expect_established().await;
        client
    }

    /// Clients subscribed to `flood`.
    pub async fn listeners(&self, count: usize) -> Vec<Client> {
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = self.connect().await;
            client.subscribe("flood").await;
            clients.push(client);
        }
        clients
    }

    /// A WebSocket to this path, upgraded but not yet told anything.
    pub async fn dial(&self, path: &str) -> Client {
        self.dial_with(path, &[]).await
    }

    /// As [`Broker::dial`], with headers of its own.
    pub async fn dial_with(&self, path: &str, headers: &[(&str, &str)]) -> Client {
        Client::open(self.address, path, headers).await.expect("the upgrade is completed")
    }

    /// Signed requests of the first app over one kept-alive connection.
    pub fn api(&self) -> Api {
        Api::new(self.address, APP)
    }

    /// A client of the second app, connected and established.
    pub async fn neighbour(&self) -> Client {
        let mut client = self.dial("/app/other-key?protocol=7").await;
        client.expect_established().await;
        client
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let metrics = self.metrics().await;
        metrics.0.get(name).copied().unwrap_or_else(|| panic!("no {name} in {metrics:?}"))
    }

    /// A request to the private listener.
    pub async fn private(&self, method: &str, path: &str) -> Reply {
        http::ask(self.admin, method, path).await
    }

    /// A bare HTTP connection.
    pub async fn http(&self) -> Http {
        Http::over(self.tcp().await)
    }

    /// A bare TCP connection.
    pub async fn tcp(&self) -> TcpStream {
        in_time("a TCP connection", TcpStream::connect(self.address)).await.expect("the port is open")
    }

    /// A bare TCP connection from 127.0.0.`host`.
    pub async fn tcp_from(&self, host: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, host], 0).into()).expect("an address of this machine");
        in_time("a TCP connection", socket.connect(self.address)).await.expect("the port is open")
    }

    /// As [`Broker::connect`], from 127.0.0.`host`.
    pub async fn connect_from(&self, host: u8) -> Client {
        let stream = self.tcp_from(host).await;
        let opened = Client::over(stream, self.address, HOME, &[]).await;
        let mut client = opened.expect("the upgrade is completed");
        client.expect_established().await;
        client
    }

    /// A subscriber that reads its success and then nothing more.
    pub async fn stuck_in(&self, channel: &str) -> Raw {
        let mut raw = Raw::open(self.narrow_tcp().await, HOME).await;
        raw.text(&json!({"event": "pusher:subscribe", "data": {"channel": channel}}).to_string()).await;
        for expected in ["pusher:connection_established", "pusher_internal:subscription_succeeded"] {
            let frame: Value = serde_json::from_slice(&raw.frame().await.expect("a frame").payload).unwrap();
            assert_eq!(frame["event"], expected);
        }
        raw
    }

    /// A TCP connection whose kernel buffers are as small as they get.
    pub async fn narrow_tcp(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small receive buffer");
        socket.set_send_buffer_size(4096).expect("a small send buffer");
        in_time("a TCP connection", socket.connect(self.address)).await.expect("the port is open")
    }

    /// A WebSocket of which every byte is ours to choose.
    pub async fn raw(&self) -> Raw {
        Raw::open(self.tcp().await, HOME).await
    }

    /// Resolves the stop future: from here on the broker drains.
    pub fn begin_stop(&mut self) {
        let stop = self.stop.take().expect("stopped once");
        stop.send(()).expect("the broker still runs");
    }

    /// Waits for `run` to return after everything under way has ended.
    pub async fn ended(self, limit: Duration) {
        assert!(self.returned(limit).await, "the broker gave up on something");
    }

    /// Waits for `run` to return, and says whether everything under way had ended by then.
    pub async fn returned(self, limit: Duration) -> bool {
        within(limit, "the broker's end", self.running).await.expect("the broker did not panic")
    }

    /// An innocent client in a channel of its own.
    pub async fn witness(&self) -> Witness {
        let mut client = self.connect().await;
        client.subscribe("witness").await;
        Witness { client, address: self.address, seen: 0 }
    }
}

/// A port that is ours as long as the socket is there, and where nobody listens but who is told to.
pub fn nobody() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    // So that whoever is told to may share it.
    socket.set_reuseaddr(true).expect("an option");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

/// Those of a rush who were let in; the others were told that there is no place.
pub async fn let_in(mut rush: JoinSet<(Client, Heard)>) -> Vec<Client> {
    let mut let_in = Vec::new();
    while let Some(arrived) = rush.join_next().await {
        match arrived.expect("an arrival") {
            (client, Heard::Frame(_)) => let_in.push(client),
            (_, Heard::Closed { code, .. }) => assert_eq!(code, 4004),
            (_, other) => panic!("heard {other:?}"),
        }
    }
    let_in
}

/// Somebody who minds their own business while others misbehave.
pub struct Witness {
    client: Client,
    address: SocketAddr,
    seen: u32,
}

impl Witness {
    /// Events, the API and pings all still work, and nothing strange ever arrived.
    pub async fn still_works(&mut self) {
        self.seen += 1;
        let count = self.seen.to_string();
        Api::new(self.address, APP).publish("witness", "seen", &count).await;
        self.client.expect_event("witness", "seen", &count).await;
        self.client.expect_nothing().await;
    }
}

/// The JSON inside a frame's `data` string.
pub fn data_of(frame: &Value) -> Value {
    let text = frame["data"].as_str().unwrap_or_else(|| panic!("data is a string in {frame}"));
    serde_json::from_str(text).unwrap_or_else(|_| panic!("data is JSON in {frame}"))
}
