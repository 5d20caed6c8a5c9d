//! The config of a test: what every test shares, and what one test changes.

use toml::{Table, Value};

use super::dice;
use super::sign::{APP, Credentials, OTHER};

/// The URL of a Redis: every broker that does not say what joins it to others is joined by that one,
/// to nobody. So all tests can be had with its engine.
pub const ENGINE_VARIABLE: &str = "FANFARE_TEST_REDIS";

/// Two apps on one broker; the changes concern the first.
#[derive(Clone, Default)]
pub struct Settings {
    admin: Table,
    cluster: Table,
    server: Table,
    app: Table,
    features: Table,
    limits: Table,
    webhooks: Table,
    hooks: Vec<Table>,
    neighbours_hooks: Vec<Table>,
}

/// The defaults, untouched.
pub fn settings() -> Settings {
    Settings::default()
}

impl Settings {
    /// Sets a key of `[server]`.
    pub fn server(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.server.insert(key.into(), value.into());
        self
    }

    /// Sets a key of `[admin]`.
    pub fn admin(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.admin.insert(key.into(), value.into());
        self
    }

    /// Sets a key of `[cluster]`.
    pub fn cluster(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.cluster.insert(key.into(), value.into());
        self
    }

    /// Sets a key of the first app itself.
    pub fn app(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.app.insert(key.into(), value.into());
        self
    }

    /// Sets a key of the first app's `features`.
    pub fn feature(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.features.insert(key.into(), value.into());
        self
    }

    /// Sets a key of the first app's `limits`.
    pub fn limit(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.limits.insert(key.into(), value.into());
        self
    }

    /// Sets a key of `[webhooks]`.
    pub fn webhooks(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.webhooks.insert(key.into(), value.into());
        self
    }

    /// Gives the first app a further webhook endpoint.
    pub fn hook(mut self, url: &str) -> Self {
        self.hooks.push(Table::from_iter([("url".to_owned(), url.into())]));
        self
    }

    /// Sets a key of the endpoint added last by [`Settings::hook`].
    pub fn of_hook(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.hooks.last_mut().expect("an endpoint").insert(key.into(), value.into());
        self
    }

    /// Gives the second app a webhook endpoint.
    pub fn neighbours_hook(mut self, url: &str) -> Self {
        self.neighbours_hooks.push(Table::from_iter([("url".to_owned(), url.into())]));
        self
    }

    /// The whole as the text of a config file.
    pub fn to_toml(&self) -> String {
        let mut server = self.server.clone();
        server.entry("listen").or_insert_with(|| vec!["127.0.0.1:0"].into());
        let mut admin = self.admin.clone();
        admin.entry("listen").or_insert_with(|| "127.0.0.1:0".into());
        let mut first = app_table(APP);
        first.extend(self.app.clone());
        first.insert("features".into(), self.features.clone().into());
        first.insert("limits".into(), self.limits.clone().into());
        first.insert("webhooks".into(), self.hooks.clone().into());
        let mut second = app_table(OTHER);
        second.insert("webhooks".into(), self.neighbours_hooks.clone().into());
        let mut whole = Table::new();
        whole.insert("webhooks".into(), self.webhooks.clone().into());
        whole.insert("server".into(), server.into());
        if let Some(cluster) = self.cluster_table() {
            whole.insert("cluster".into(), cluster.into());
        }
        whole.insert("admin".into(), admin.into());
        whole.insert("apps".into(), vec![first, second].into());
        toml::to_string(&whole).expect("a table is TOML")
    }

    /// As the test says; otherwise by [`ENGINE_VARIABLE`], under a prefix that nobody else has.
    fn cluster_table(&self) -> Option<Table> {
        if !self.cluster.is_empty() {
            return Some(self.cluster.clone());
        }
        let url = engine_url()?;
        let mut table = Table::new();
        table.insert("engine".into(), "redis".into());
        table.insert("url".into(), url.into());
        table.insert("prefix".into(), fresh_prefix().into());
        // A Redis that only stands still for a moment is not lost.
        table.insert("timeout".into(), "5s".into());
        Some(table)
    }
}

fn engine_url() -> Option<String> {
    std::env::var(ENGINE_VARIABLE).ok().filter(|url| !url.is_empty())
}

/// Whether brokers are joined by a Redis that the test has not asked for. Then it cannot hold them to what
/// only a node by itself promises.
pub fn is_joined() -> bool {
    engine_url().is_some()
}

/// A prefix that no other broker has.
pub fn fresh_prefix() -> String {
    format!("test-{:016x}", dice::fresh())
}

fn app_table(credentials: Credentials) -> Table {
    let mut table = Table::new();
    table.insert("id".into(), credentials.id.into());
    table.insert("key".into(), credentials.key.into());
    table.insert("secret".into(), credentials.secret.into());
    table
}
