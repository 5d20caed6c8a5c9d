//! How nodes are joined.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How this node is joined to others (`[cluster]`). Sizes are in bytes.
#[derive(Clone, PartialEq)]
pub struct ClusterSettings {
    /// What joins nodes.
    pub engine: EngineKind,
    /// Where the engine is. May hold a password.
    pub url: String,
    /// Stands before everything that is kept in the engine: brokers with different ones never meet.
    pub prefix: String,
    /// PEM file of the certificates that the engine's may be signed by; the system's otherwise.
    pub ca: Option<PathBuf>,
    /// How long the engine keeps what a node holds that does not answer any more.
    pub lease: Duration,
    /// How long the engine may take to answer.
    pub timeout: Duration,
    /// Bytes of events that wait to be given to the engine; above it publishers wait.
    pub max_queue_bytes: usize,
    /// What publishers are told while the engine is away.
    pub on_engine_loss: OnEngineLoss,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            engine: EngineKind::Local,
            url: String::new(),
            prefix: "fanfare".to_owned(),
            ca: None,
            lease: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            max_queue_bytes: 16 << 20,
            on_engine_loss: OnEngineLoss::Serve,
        }
    }
}

impl fmt::Debug for ClusterSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterSettings")
            .field("engine", &self.engine)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// What joins nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// Nothing: one node by itself.
    Local,
    /// Redis 7 or later, or Valkey.
    Redis,
}

impl EngineKind {
    /// Every engine with its name in the config.
    pub const ALL: [(Self, &'static str); 2] = [(Self::Local, "local"), (Self::Redis, "redis")];
}

/// What publishers are told while the engine is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnEngineLoss {
    /// That it is done: it is, for the subscribers of this node.
    Serve,
    /// That it is not.
    Refuse,
}

impl OnEngineLoss {
    /// Every choice with its name in the config.
    pub const ALL: [(Self, &'static str); 2] = [(Self::Serve, "serve"), (Self::Refuse, "refuse")];
}
