//! The configuration: gathered from a file, the environment and flags, checked as a whole.
//!
//! In reading order: `settings` (what comes out), `tree` and `file` (what was given, and where),
//! `env` and `expand` (what the environment says), `reading` (typed settings out of the tree),
//! `sections`, `cluster` and `apps` (every key), `unknown` (the keys that are none), `rules` (what must hold
//! between settings), `certificate` (what must hold of the files that they name).

mod apps;
mod certificate;
mod cluster;
mod env;
mod expand;
mod file;
mod listen;
mod problem;
mod reading;
mod rules;
mod sections;
mod settings;
mod tree;
mod units;
mod unknown;

use std::io;
use std::path::Path;

pub use env::Env;
pub use listen::Listen;
pub use problem::{Place, Problem, Problems};
pub use settings::{Admin, Log, LogFormat, Protection, Server, Tls};

use crate::model::app::App;
use crate::model::cluster::ClusterSettings;
use crate::model::webhooks::WebhookSettings;
use reading::Reading;
use tree::{Node, Value};

/// Everything that was configured, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The public side.
    pub server: Server,
    /// The private side.
    pub admin: Admin,
    /// Logging.
    pub log: Log,
    /// How this node is joined to others.
    pub cluster: ClusterSettings,
    /// How webhooks are delivered.
    pub webhooks: WebhookSettings,
    /// The tenants; at least one, with ids and keys of their own.
    pub apps: Vec<App>,
    /// What is allowed but may not be meant, one line each.
    pub warnings: Vec<String>,
}

/// What is served when there is no file. Everybody knows its secret.
const DEVELOPMENT: &str = r#"
[[apps]]
id = "1"
key = "app-key"
secret = "app-secret"
features.client_events = true
"#;
const DEVELOPMENT_SECRET: &str = "app-secret";

/// The development app's credentials can be replaced by these.
const DEVELOPMENT_VARIABLES: [(&str, &str); 3] =
    [("PUSHER_APP_ID", "id"), ("PUSHER_APP_KEY", "key"), ("PUSHER_APP_SECRET", "secret")];

/// What is configured from, apart from the environment.
#[derive(Debug, Clone, Default)]
pub struct Source {
    file: Option<(String, String)>,
    listen: Vec<String>,
    insecure_dev_app: bool,
}

impl Source {
    /// No file: one development app on 127.0.0.1.
    pub fn development() -> Self {
        Self::default()
    }

    /// The text of a file, and its name for messages.
    pub fn text(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { file: Some((name.into(), text.into())), ..Self::default() }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is not UTF-8.
    pub fn read(path: &Path) -> Result<Self, Problems> {
        Self::from_file(path, std::fs::read_to_string(path))
    }

    /// Reads a file that has been read before.
    ///
    /// # Errors
    /// As [`Source::read`]; also when it is no regular file. A pipe could keep the reader for ever, and cannot
    /// be read again.
    pub fn read_again(path: &Path) -> Result<Self, Problems> {
        let text = std::fs::metadata(path).and_then(|meta| {
            if meta.is_file() {
                std::fs::read_to_string(path)
            } else {
                Err(io::Error::other("it is not a regular file"))
            }
        });
        Self::from_file(path, text)
    }

    fn from_file(path: &Path, text: io::Result<String>) -> Result<Self, Problems> {
        let name = path.display().to_string();
        match text {
            Ok(text) => Ok(Self::text(name, text)),
            Err(error) => Err(Problems::with_file(&name, format!("cannot be read: {error}"))),
        }
    }

    /// Replaces `server.listen` by these addresses, if there are any (`--listen`).
    pub fn listen(mut self, addresses: Vec<String>) -> Self {
        self.listen = addresses;
        self
    }

    /// Allows public credentials on public addresses (`--insecure-dev-app`).
    pub fn insecure_dev_app(mut self, allowed: bool) -> Self {
        self.insecure_dev_app = allowed;
        self
    }
}

impl Config {
    /// Gathers and checks a configuration: flags over environment over file over defaults. Depends
    /// on nothing but its arguments.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn load(source: Source, env: &Env) -> Result<Self, Problems> {
        Self::load_checked(source, env, |_, _| Vec::new())
    }

    /// `further` reports what else is wrong, and returns warnings.
    fn load_checked(
        source: Source,
        env: &Env,
        further: impl FnOnce(&Self, &Reading) -> Vec<String>,
    ) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let root = lay(&source, env, &mut problems)?;
        let reading = Reading::new(root, problems);
        let mut config = gather(&reading);
        unknown::report(&reading);
        config.warnings = rules::check(&config, &reading, source.insecure_dev_app);
        let further = further(&config, &reading);
        config.warnings.extend(further);
        let problems = reading.finish();
        if problems.is_empty() { Ok(config) } else { Err(Problems::new(problems)) }
    }

    /// As [`Config::load`], and looks into the files of the certificate too, if there are `tls://` listeners.
    ///
    /// # Errors
    /// Everything that is wrong with it and with them, at once.
    pub fn load_with_certificate(source: Source, env: &Env) -> Result<Self, Problems> {
        Self::load_checked(source, env, certificate::check)
    }

    /// Loads a text with an empty environment.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn parse(toml: &str) -> Result<Self, Problems> {
        Self::load(Source::text("config.toml", toml), &Env::default())
    }
}

/// Lays file, environment and flags over each other.
fn lay(source: &Source, env: &Env, problems: &mut Vec<Problem>) -> Result<Node, Problems> {
    let mut root = match &source.file {
        Some((name, text)) => file::read(Some(name), text, env, problems)?,
        None => {
            let mut root = file::read(None, DEVELOPMENT, env, problems)?;
            for (name, key) in DEVELOPMENT_VARIABLES {
                env::set(&mut root, &["apps", "0", key], name, env, problems);
            }
            root
        }
    };
    env::overlay(&mut root, env, problems);
    if !source.listen.is_empty() {
        let place = Place::Flag("--listen");
        let node = |text: &String| Node { place: place.clone(), value: Value::Text(text.clone()) };
        let list = Value::List(source.listen.iter().map(node).collect());
        if let Err(what) = root.set(&["server", "listen"], list, &place) {
            problems.push(Problem { place, key: "server.listen".to_owned(), what });
        }
    }
    Ok(root)
}

fn gather(reading: &Reading) -> Config {
    let top = reading.top();
    Config {
        server: sections::server(&top.section("server")),
        admin: sections::admin(&top.section("admin")),
        log: sections::log(&top.section("log")),
        cluster: cluster::cluster(&top.section("cluster")),
        webhooks: sections::webhooks(&top.section("webhooks")),
        apps: apps::apps(&top),
        warnings: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
