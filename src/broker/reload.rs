//! What becomes of a running broker when its config is another: apps with their keys, features, limits
//! and webhooks are replaced; everything else waits for a restart, and says so.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::observe;
use crate::certificates::Certificates;
use crate::config::{Config, Problems};
use crate::model::app::App;
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

fn app_of<'a>(config: &'a Config, id: &str) -> Option<&'a App> {
    config.apps.iter().find(|app| *app.id == *id)
}

fn compare(old: &Config, new: &Config) -> Reloaded {
    let (log_level, warnings) = (new.log.level.clone(), new.warnings.clone());
    let mut reloaded = Reloaded { log_level, warnings, ..Reloaded::default() };
    for app in &new.apps {
        match app_of(old, &app.id) {
            None => reloaded.added.push(app.id.to_string()),
            Some(before) if before != app => reloaded.changed.push(app.id.to_string()),
            Some(_) => {}
        }
    }
    let gone = old.apps.iter().filter(|app| app_of(new, &app.id).is_none());
    reloaded.removed.extend(gone.map(|app| app.id.to_string()));
    reloaded
}

/// The fields in which two values differ, each behind the name of its section.
macro_rules! differing {
    ($section:literal, $old:expr, $new:expr, $($field:ident),* $(,)?) => {
        [$((concat!($section, stringify!($field)), $old.$field != $new.$field)),*]
    };
}

/// The settings in which the two differ and that hold until a restart.
fn fixed(old: &Config, new: &Config) -> Vec<&'static str> {
    let (server, new_server) = (&old.server, &new.server);
    #[rustfmt::skip]
    let of_server = differing!(
        "server.", server, new_server,
        listen, path_prefix, trusted_proxies, proxy_protocol, shutdown_grace, drain_delay, drain_window,
        header_timeout, body_timeout, max_mailbox_bytes, max_mailboxes_bytes, max_queue_bytes, queue_timeout,
        max_cache_bytes, max_fallback_sessions, max_fallback_sessions_per_ip, subscription_errors,
        reload_on_change, tls,
    );
    // "unix" among the proxies is a flag of its own.
    let only_unix =
        server.trusts_unix != new_server.trusts_unix && server.trusted_proxies == new_server.trusted_proxies;
    let of_proxies = [("server.trusted_proxies", only_unix)];
    let of_others = differing!("", old, new, admin, cluster, webhooks);
    let of_log = differing!("log.", old.log, new.log, format);
    #[rustfmt::skip]
    let of_protection = differing!(
        "server.", server.protection, new_server.protection,
        max_connections_per_ip, connections_per_second_per_ip, max_handshakes, max_handshakes_per_ip,
        max_failed_requests_per_ip, failed_requests_window, unlimited_clients,
    );
    let all = of_server.into_iter().chain(of_proxies).chain(of_protection).chain(of_others).chain(of_log);
    let mut fixed: Vec<_> = all.filter(|(_, differs)| *differs).map(|(key, _)| key).collect();
    if fixed.is_empty() && server != new_server {
        // A setting that is missing above must not be taken for live.
        fixed.push("server");
    }
    fixed
}
