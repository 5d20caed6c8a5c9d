//! The program whose config is rewritten while it serves.

use serde_json::json;

use super::fallback::{STREAM, Session, draw, is_let_in};
use super::{Api, Client, Credentials, HOME, Node, Nodes, Settings, Signed, settings};

/// Reloads that were done.
pub const RELOADS: &str = "fanfare_config_reloads_total";
/// Those that changed nothing.
pub const REFUSED: &str = "fanfare_config_refused_reloads_total";

/// Only what the tests ask for is read again.
pub fn by_hand() -> Settings {
    settings().cluster("engine", "local").server("reload_on_change", false)
}

/// A broker whose config is rewritten.
pub struct Stage {
    pub nodes: Nodes,
    reloads: f64,
    refused: f64,
}

impl Stage {
    /// It serves this config.
    pub async fn new(settings: Settings) -> Self {
        Self { nodes: Nodes::alone(settings).await, reloads: 0.0, refused: 0.0 }
    }

    /// Its process.
    pub fn node(&self) -> &Node {
        &self.nodes[0]
    }

    /// Goes on with this config.
    pub async fn reload(&mut self, settings: &Settings) {
        self.reload_text(&settings.to_toml()).await;
    }

    /// The same by its text.
    pub async fn reload_text(&mut self, text: &str) {
        self.node().program.rewrite(text);
        self.node().program.hang_up();
        self.reloads += 1.0;
        self.node().becomes(RELOADS, self.reloads).await;
    }

    /// Does not go on with this text. Returns what has been logged until then.
    pub async fn refuses(&mut self, text: &str) -> String {
        self.node().program.rewrite(text);
        self.is_refused().await
    }

    /// The same with a pipe in place of the file.
    pub async fn refuses_a_pipe(&mut self) -> String {
        self.node().program.replace_by_a_pipe();
        self.is_refused().await
    }

    async fn is_refused(&mut self) -> String {
        self.node().program.hang_up();
        self.refused += 1.0;
        self.node().becomes(REFUSED, self.refused).await;
        assert_eq!(self.node().metric(RELOADS).await, self.reloads);
        self.node().program.log()
    }

    /// A client that is established there.
    pub async fn connect(&self, home: &str) -> Client {
        let mut client = self.open(home).await;
        client.expect_established().await;
        client
    }

    /// A client that has not been told anything.
    pub async fn open(&self, home: &str) -> Client {
        Client::open(self.node().address, home, &[]).await.unwrap()
    }

    /// Signed requests.
    pub fn api(&self, by: Credentials) -> Api {
        Api::new(self.node().address, by)
    }

    /// The status that a publication is answered with.
    pub async fn publish(&self, by: Credentials, channel: &str) -> u16 {
        let body = json!({"name": "e", "channel": channel, "data": "x"});
        let path = format!("/apps/{}/events", by.id);
        self.api(by).send(&Signed::new("POST", &path, by, body.to_string().as_bytes())).await.status
    }

    /// Whether a session of the HTTP fallbacks that begins now finds a place.
    pub async fn has_room_for_a_fallback(&self) -> bool {
        let session = Session::new(self.node().address, &draw("app-key"), STREAM);
        is_let_in(&session, "").await
    }
}
