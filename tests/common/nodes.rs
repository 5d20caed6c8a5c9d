//! Several nodes: processes of the real program, joined by one Redis under a prefix of their own.

use std::net::SocketAddr;
use std::ops::{Index, IndexMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::settings::fresh_prefix;
use super::{APP, Api, Client, HOME, Listener, Metrics, Program, Reply, Settings, eventually_within, http};

/// How long things may take that several processes have to do, on a machine with other work.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Every deadline for a dead node is as short as on a busy machine it may be: the living, too, stand still there.
pub fn mortal(settings: Settings) -> Settings {
    settings.cluster("lease", "6s").cluster("timeout", "3s")
}

/// For those to whom the engine is lost by a cut, if at all: a machine that only stands still loses nobody.
pub fn patient(settings: Settings) -> Settings {
    settings.cluster("lease", "10s").cluster("timeout", "5s")
}

/// Bytes of events from other nodes.
pub const RECEIVED_BYTES: &str = "fanfare_engine_received_bytes_total";
/// Topics on which events of other nodes may have been missed.
pub const GAPS: &str = "fanfare_engine_gaps_total";
/// Events that other nodes were not told.
pub const UNSENT: &str = "fanfare_engine_unsent_events_total";
/// Times that the engine was lost.
pub const LOSSES: &str = "fanfare_engine_losses_total";
/// Shares of dead nodes that this one has withdrawn.
pub const WITHDRAWN: &str = "fanfare_engine_withdrawn_shares_total";

/// A process.
pub struct Node {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub program: Program,
}

/// All of them. Those that were killed keep their places.
pub struct Nodes {
    settings: Settings,
    prefix: String,
    nodes: Vec<Node>,
}

impl Nodes {
    /// So many, joined by this Redis and ready.
    pub async fn start(count: usize, url: &str, settings: Settings) -> Self {
        let mut nodes = Self::none(settings);
        for _ in 0..count {
            nodes.add(url).await;
        }
        nodes.ready().await;
        nodes
    }

    /// None yet.
    pub fn none(settings: Settings) -> Self {
        Self { settings, prefix: fresh_prefix(), nodes: Vec::new() }
    }

    /// One by itself, with the local engine.
    pub async fn alone(settings: Settings) -> Self {
        let mut nodes = Self::none(settings);
        let settings = nodes.settings.clone().cluster("engine", "local");
        nodes.nodes.push(Node::start(&settings).await);
        nodes.ready().await;
        nodes
    }

    /// One more, reached by this URL or not; it need not be ready yet.
    pub async fn add(&mut self, url: &str) -> &Node {
        let settings = self.settings.clone().cluster("engine", "redis").cluster("url", url);
        let settings = settings.cluster("prefix", self.prefix.as_str());
        self.nodes.push(Node::start(&settings).await);
        self.nodes.last().expect("a node")
    }

    /// Those that are added from here on are others.
    pub fn changed(&mut self, change: impl FnOnce(Settings) -> Settings) {
        self.settings = change(std::mem::take(&mut self.settings));
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Takes the last one away, to be stopped.
    pub fn pop(&mut self) -> Node {
        self.nodes.pop().expect("a node")
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Node> {
        self.nodes.iter()
    }

    /// Waits until all of them are.
    pub async fn ready(&self) {
        for node in &self.nodes {
            node.ready().await;
        }
    }
}

impl Index<usize> for Nodes {
    type Output = Node;

    fn index(&self, index: usize) -> &Node {
        &self.nodes[index]
    }
}

impl IndexMut<usize> for Nodes {
    fn index_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }
}

impl Node {
    async fn start(settings: &Settings) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("node-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let program = Program::start(&name, settings, "").await;
        Self { address: program.address, admin: program.admin, program }
    }

    /// A client of the first app, connected and established.
    pub async fn connect(&self) -> Client {
        let mut client = Client::open(self.address, HOME, &[]).await.expect("the upgrade is completed");
        client.expect_established().await;
        client
    }

    /// As [`Node::connect`], with somebody who listens all the time.
    pub async fn listener(&self) -> Listener {
        Listener::new(self.connect().await)
    }

    /// Signed requests of the first app over one kept-alive connection.
    pub fn api(&self) -> Api {
        Api::new(self.address, APP)
    }

    /// What the private listener says about readiness.
    pub async fn readiness(&self) -> Reply {
        http::ask(self.admin, "GET", "/readyz").await
    }

    pub async fn is_ready(&self) -> bool {
        self.readiness().await.status == 200
    }

    /// Waits until it is.
    pub async fn ready(&self) {
        eventually_within(PATIENCE, "a node that is ready", async || self.is_ready().await).await;
    }

    /// Waits until it is not, and returns what it says about that.
    pub async fn unready(&self) -> String {
        // It says so before it has tried, too, but not why.
        let tried = async || {
            let reply = self.readiness().await;
            reply.status == 503 && !reply.body.contains("not been reached yet")
        };
        eventually_within(PATIENCE, "a node that says why it is not ready", tried).await;
        self.readiness().await.body
    }

    pub async fn metrics(&self) -> Metrics {
        Metrics::of(&http::ask(self.admin, "GET", "/metrics").await)
    }

    /// The value of a sample, which has to be there.
    pub async fn metric(&self, sample: &str) -> f64 {
        let metrics = self.metrics().await;
        metrics.0.get(sample).copied().unwrap_or_else(|| panic!("no {sample} in {metrics:?}"))
    }

    /// Waits until a sample has this value.
    pub async fn becomes(&self, sample: &str, value: f64) {
        let what = format!("{sample} is {value}");
        eventually_within(PATIENCE, &what, async || self.metrics().await.get(sample) == value).await;
    }

    /// Waits until the cluster, as this node knows it, has these users in a channel.
    pub async fn lists_users(&self, channel: &str, wanted: &[String]) {
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        let mut api = self.api();
        let what = format!("{} users in {channel}", wanted.len());
        eventually_within(PATIENCE, &what, async || api.users(channel).await == wanted).await;
    }

    /// Waits until the cluster, as this node knows it, has so many sockets in a channel.
    pub async fn counts(&self, channel: &str, wanted: u64) {
        let mut api = self.api();
        let what = format!("{wanted} subscribers of {channel}");
        eventually_within(PATIENCE, &what, async || api.subscribers(channel).await == wanted).await;
    }

    /// Waits until the occupied channels of the cluster are these.
    pub async fn lists(&self, wanted: &[&str]) {
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        let mut api = self.api();
        let what = format!("channels {wanted:?}");
        eventually_within(PATIENCE, &what, async || api.occupied().await == wanted).await;
    }
}

impl Api {
    /// The users of a presence channel, sorted.
    pub async fn users(&mut self, channel: &str) -> Vec<String> {
        let reply = self.get(&format!("/channels/{channel}/users"), &[]).await.expect_ok();
        let users = reply["users"].as_array().expect("a list of users").iter();
        let mut ids: Vec<_> = users.map(|user| user["id"].as_str().expect("an id").to_owned()).collect();
        ids.sort_unstable();
        ids
    }
}
