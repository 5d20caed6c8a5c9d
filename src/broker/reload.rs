//! What becomes of a running broker when its config is another: apps with their keys, features, limits
//! and webhooks are replaced; everything else waits for a restart, and says so.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::observe;
use crate::certificates::Certificates;
use crate::config::{Config, Problems, Protection};
use crate::notify;
use crate::pusher::Pusher;
use crate::webhook::Webhooks;

/// A running broker, to be told that its config is another.
pub struct Control {
    /// What it runs with.
    config: Mutex<Config>,
    pusher: Arc<Pusher>,
    webhooks: Arc<Webhooks>,
    certificates: Option<Arc<Certificates>>,
    /// Between its start and its stop, of which the service manager is told otherwise.
    serves: AtomicBool,
}

/// What a reload has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Ids of apps that are served from now on.
    pub added: Vec<String>,
    /// Ids of apps that are another than before.
    pub changed: Vec<String>,
    /// Ids of apps that are not served any more.
    pub removed: Vec<String>,
    /// What is to be logged from now on.
    pub log_level: String,
    /// What is allowed but may not be meant, one line each.
    pub warnings: Vec<String>,
}

/// Why a reload has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum NotReloaded {
    /// There are mistakes in it.
    #[error("{0}")]
    Wrong(#[from] Problems),
    /// These settings are another, and hold until a restart.
    #[error("{}: cannot change while the broker runs, restart it", .0.join(", "))]
    Fixed(Vec<&'static str>),
    /// What the new config needs is not there.
    #[error("{0}")]
    Unavailable(#[from] io::Error),
    /// The broker stops.
    #[error("the broker stops")]
    Stopping,
}

impl Control {
    pub(super) fn new(
        config: Config,
        pusher: &Arc<Pusher>,
        webhooks: &Arc<Webhooks>,
        certificates: Option<Arc<Certificates>>,
    ) -> Self {
        let (pusher, webhooks) = (Arc::clone(pusher), Arc::clone(webhooks));
        Self { config: Mutex::new(config), pusher, webhooks, certificates, serves: AtomicBool::new(false) }
    }

    /// From now on the broker serves, or no longer.
    pub(super) fn serves(&self, serves: bool) {
        self.serves.store(serves, Ordering::Release);
    }

    /// Goes on with the certificate that is in its files now, and with the config that `load` gives; a
    /// bad one of the two is no reason to refuse the other. Sockets of apps that are disabled or removed
    /// end.
    ///
    /// # Errors
    /// When it cannot go on with that config; then nothing of it holds.
    pub async fn reload(
        &self,
        load: impl FnOnce() -> Result<Config, Problems>,
    ) -> Result<Reloaded, NotReloaded> {
        let serves = self.serves.load(Ordering::Acquire);
        if serves {
            notify::reloading().await;
        }
        self.reload_certificate().await;
        let reloaded = load().map_err(NotReloaded::from).and_then(|config| self.replace(config));
        let metrics = &self.pusher.metrics;
        match &reloaded {
            Ok(_) => metrics.reloads.add(1),
            Err(_) => metrics.reloads_refused.add(1),
        }
        self.pusher.sockets.close_ended().await;
        if serves {
            notify::ready().await;
        }
        reloaded
    }

    async fn reload_certificate(&self) {
        if let Some(certificates) = self.certificates.clone() {
            // Files are read. It logs and counts what becomes of it; only a panic is left to fail.
            let _ = tokio::task::spawn_blocking(move || certificates.reload()).await;
        }
    }

    fn replace(&self, config: Config) -> Result<Reloaded, NotReloaded> {
        // Held to the end: of two reloads the later one wins as a whole.
        let mut known = self.config.lock();
        if self.pusher.sockets.are_stopping() {
            return Err(NotReloaded::Stopping);
        }
        let fixed = fixed(&known, &config);
        if !fixed.is_empty() {
            return Err(NotReloaded::Fixed(fixed));
        }
        self.webhooks.prepare(config.apps.iter().flat_map(|app| app.webhooks.clone()))?;
        let reloaded = compare(&known, &config);
        self.pusher.apps.replace(config.apps.iter().cloned(), |apps| {
            self.webhooks.replace(apps);
            observe(&self.pusher, &self.webhooks);
        });
        *known = config;
        Ok(reloaded)
    }
}

fn compare(old: &Config, new: &Config) -> Reloaded {
    let of = |config: &Config, id: &str| config.apps.iter().find(|app| *app.id == *id).cloned();
    let (log_level, warnings) = (new.log.level.clone(), new.warnings.clone());
    let mut reloaded = Reloaded { log_level, warnings, ..Reloaded::default() };
    for app in &new.apps {
        match of(old, &app.id) {
            None => reloaded.added.push(app.id.to_string()),
            Some(before) if before != *app => reloaded.changed.push(app.id.to_string()),
            Some(_) => {}
        }
    }
    let gone = old.apps.iter().filter(|app| of(new, &app.id).is_none());
    reloaded.removed.extend(gone.map(|app| app.id.to_string()));
    reloaded
}

/// The settings in which the two differ and that hold until a restart.
fn fixed(old: &Config, new: &Config) -> Vec<&'static str> {
    let (server, new_server) = (&old.server, &new.server);
    let differs = [
        ("server.listen", server.listen != new_server.listen),
        ("server.path_prefix", server.path_prefix != new_server.path_prefix),
        (
            "server.trusted_proxies",
            (&server.trusted_proxies, server.trusts_unix)
                != (&new_server.trusted_proxies, new_server.trusts_unix),
        ),
        ("server.proxy_protocol", server.proxy_protocol != new_server.proxy_protocol),
        ("server.shutdown_grace", server.shutdown_grace != new_server.shutdown_grace),
        ("server.drain_delay", server.drain_delay != new_server.drain_delay),
        ("server.drain_window", server.drain_window != new_server.drain_window),
        ("server.header_timeout", server.header_timeout != new_server.header_timeout),
        ("server.body_timeout", server.body_timeout != new_server.body_timeout),
        ("server.max_mailbox_bytes", server.max_mailbox_bytes != new_server.max_mailbox_bytes),
        ("server.max_mailboxes_bytes", server.max_mailboxes_bytes != new_server.max_mailboxes_bytes),
        ("server.max_queue_bytes", server.max_queue_bytes != new_server.max_queue_bytes),
        ("server.queue_timeout", server.queue_timeout != new_server.queue_timeout),
        ("server.max_cache_bytes", server.max_cache_bytes != new_server.max_cache_bytes),
        ("server.max_fallback_sessions", server.max_fallback_sessions != new_server.max_fallback_sessions),
        (
            "server.max_fallback_sessions_per_ip",
            server.max_fallback_sessions_per_ip != new_server.max_fallback_sessions_per_ip,
        ),
        ("server.subscription_errors", server.subscription_errors != new_server.subscription_errors),
        ("server.reload_on_change", server.reload_on_change != new_server.reload_on_change),
        ("server.tls", server.tls != new_server.tls),
        ("admin", old.admin != new.admin),
        ("log.format", old.log.format != new.log.format),
        ("cluster", old.cluster != new.cluster),
        ("webhooks", old.webhooks != new.webhooks),
    ];
    let differs = differs.into_iter().chain(fixed_protection(&server.protection, &new_server.protection));
    let mut fixed: Vec<_> = differs.filter(|(_, differs)| *differs).map(|(key, _)| key).collect();
    if fixed.is_empty() && server != new_server {
        // A setting that is missing above must not be taken for live.
        fixed.push("server");
    }
    fixed
}

/// The same of what protects against floods.
fn fixed_protection(old: &Protection, new: &Protection) -> [(&'static str, bool); 7] {
    [
        ("server.max_connections_per_ip", old.max_connections_per_ip != new.max_connections_per_ip),
        (
            "server.connections_per_second_per_ip",
            old.connections_per_second_per_ip != new.connections_per_second_per_ip,
        ),
        ("server.max_handshakes", old.max_handshakes != new.max_handshakes),
        ("server.max_handshakes_per_ip", old.max_handshakes_per_ip != new.max_handshakes_per_ip),
        (
            "server.max_failed_requests_per_ip",
            old.max_failed_requests_per_ip != new.max_failed_requests_per_ip,
        ),
        ("server.failed_requests_window", old.failed_requests_window != new.failed_requests_window),
        ("server.unlimited_clients", old.unlimited_clients != new.unlimited_clients),
    ]
}
