//! The config of a test: what every test shares, and what one test changes.

use toml::{Table, Value};

use super::sign::{APP, Credentials, OTHER};

/// Two apps on one broker; the changes concern the first.
#[derive(Default)]
pub struct Settings {
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
        let mut admin = Table::new();
        admin.insert("listen".into(), "127.0.0.1:0".into());
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
        whole.insert("admin".into(), admin.into());
        whole.insert("apps".into(), vec![first, second].into());
        toml::to_string(&whole).expect("a table is TOML")
    }
}

fn app_table(credentials: Credentials) -> Table {
    let mut table = Table::new();
    table.insert("id".into(), credentials.id.into());
    table.insert("key".into(), credentials.key.into());
    table.insert("secret".into(), credentials.secret.into());
    table
}
