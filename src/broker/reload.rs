//! What becomes of a running broker when its config is another: apps with their keys, features, limits
//! and webhooks are replaced, and so are limits of the server; everything else waits for a restart, and
//! says so.

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::{live, observe};
use crate::certificates::Certificates;
use crate::config::{Config, Problems, Server as ServerConfig};
use crate::model::app::App;
use crate::notify;
use crate::server::{Pace, Server};
use crate::webhook::Webhooks;

/// How long files may be read before the log says that they are.
const LONG_READING: Duration = Duration::from_secs(10);

/// A running broker, to be told that its config is another.
pub struct Control {
    /// What it runs with.
    config: Mutex<Config>,
    server: Arc<Server>,
    webhooks: Arc<Webhooks>,
    certificates: Option<Arc<Certificates>>,
    /// Who reloads has it.
    turn: Arc<Semaphore>,
    /// Who reads the certificate's files has it, which may be on a disk that does not answer.
    certificate_turn: Arc<Semaphore>,
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
        server: &Arc<Server>,
        webhooks: &Arc<Webhooks>,
        certificates: Option<Arc<Certificates>>,
    ) -> Self {
        let (server, webhooks) = (Arc::clone(server), Arc::clone(webhooks));
        let [turn, certificate_turn] = [(); 2].map(|()| Arc::new(Semaphore::new(1)));
        let (config, serves) = (Mutex::new(config), AtomicBool::new(false));
        Self { config, server, webhooks, certificates, turn, certificate_turn, serves }
    }

    /// From now on the broker serves, or no longer.
    pub(super) fn serves(&self, serves: bool) {
        self.serves.store(serves, Ordering::Release);
    }

    /// Whether its files are to be read again when they change.
    pub fn reload_on_change(&self) -> bool {
        self.config.lock().server.reload_on_change
    }

    /// How long a stop may take that begins now, and its pace.
    pub(super) fn pace(&self) -> (Duration, Pace) {
        let server = &self.config.lock().server;
        (server.shutdown_grace, Pace { delay: server.drain_delay, window: server.drain_window })
    }

    /// Goes on with the certificate that is in its files now, and with the config that `load` gives; a
    /// bad one of the two is no reason to refuse the other. Sockets of apps that are disabled or removed
    /// end. `load` may block; of several reloads one is done after the other.
    ///
    /// # Errors
    /// When it cannot go on with that config; then nothing of it holds.
    pub async fn reload(
        &self,
        load: impl FnOnce() -> Result<Config, Problems> + Send + 'static,
    ) -> Result<Reloaded, NotReloaded> {
        // To the end: the next one begins with what this one leaves.
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(io::Error::other)?;
        let serves = self.serves.load(Ordering::Acquire);
        if serves {
            notify::reloading().await;
        }
        let config = async {
            let (loaded, turn) = read(load, turn).await;
            let reloaded = loaded.and_then(|config| self.replace(config));
            self.server.pusher.sockets.close_ended().await;
            (reloaded, turn)
        };
        let config = self.wait_for(config, serves);
        let ((reloaded, _turn), ()) = tokio::join!(config, self.reload_certificate());
        let metrics = &self.server.pusher.metrics;
        match &reloaded {
            Ok(_) => metrics.reloads.add(1),
            Err(_) => metrics.reloads_refused.add(1),
        }
        self.tell_ready(serves).await;
        reloaded
    }

    /// Waits for the configuration, and has nobody else do so where its files do not answer.
    async fn wait_for<T>(&self, reading: impl Future<Output = T>, serves: bool) -> T {
        let mut reading = pin!(reading);
        if let Ok(read) = timeout(LONG_READING, &mut reading).await {
            return read;
        }
        tracing::warn!("the configuration's files are being read, and do not answer");
        self.tell_ready(serves).await;
        reading.await
    }

    /// Tells the service manager that the reload is over, if it was told of it and not of a stop since.
    async fn tell_ready(&self, was_told: bool) {
        if was_told && self.serves.load(Ordering::Acquire) {
            notify::ready().await;
        }
    }

    async fn reload_certificate(&self) {
        let Some(certificates) = self.certificates.clone() else { return };
        let read = Arc::clone(&self.certificate_turn).try_acquire_owned().map(|turn| {
            // Files are read. It logs and counts what becomes of it; only a panic is left to fail.
            let reading = tokio::task::spawn_blocking(move || (certificates.reload(), turn));
            timeout(LONG_READING, reading)
        });
        let in_time = match read {
            Ok(reading) => reading.await.is_ok(),
            Err(_) => false,
        };
        if !in_time {
            tracing::warn!("the certificate's files do not answer; the one before is still served");
        }
    }

    fn replace(&self, config: Config) -> Result<Reloaded, NotReloaded> {
        // Held to the end: of two reloads the later one wins as a whole.
        let mut known = self.config.lock();
        if self.server.pusher.sockets.are_stopping() {
            return Err(NotReloaded::Stopping);
        }
        let fixed = fixed(&known, &config);
        if !fixed.is_empty() {
            return Err(NotReloaded::Fixed(fixed));
        }
        self.webhooks.prepare(config.apps.iter().flat_map(|app| app.webhooks.clone()))?;
        let reloaded = compare(&known, &config);
        // First: a proxy that is trusted from now on may be what an app's new features ask for.
        live::apply(&config, &self.server);
        self.server.pusher.apps.replace(config.apps.iter().cloned(), |apps| {
            self.webhooks.replace(apps);
            observe(&self.server.pusher, &self.webhooks);
        });
        *known = config;
        Ok(reloaded)
    }
}

/// Has `load` read what it needs, where it may take its time. It keeps the turn until then, even if nobody
/// waits for it any more.
async fn read(
    load: impl FnOnce() -> Result<Config, Problems> + Send + 'static,
    turn: OwnedSemaphorePermit,
) -> (Result<Config, NotReloaded>, Option<OwnedSemaphorePermit>) {
    match tokio::task::spawn_blocking(move || (load(), turn)).await {
        Ok((loaded, turn)) => (loaded.map_err(NotReloaded::from), Some(turn)),
        Err(panic) => (Err(io::Error::other(panic).into()), None),
    }
}

fn by_id(config: &Config) -> HashMap<&str, &App> {
    config.apps.iter().map(|app| (&*app.id, app)).collect()
}

fn compare(old: &Config, new: &Config) -> Reloaded {
    let (log_level, warnings) = (new.log.level.clone(), new.warnings.clone());
    let mut reloaded = Reloaded { log_level, warnings, ..Reloaded::default() };
    let (before, after) = (by_id(old), by_id(new));
    for app in &new.apps {
        match before.get(&*app.id) {
            None => reloaded.added.push(app.id.to_string()),
            Some(before) if *before != app => reloaded.changed.push(app.id.to_string()),
            Some(_) => {}
        }
    }
    let gone = old.apps.iter().filter(|app| !after.contains_key(&*app.id));
    reloaded.removed.extend(gone.map(|app| app.id.to_string()));
    reloaded
}

/// The fields in which two values differ, each behind the name of its section.
macro_rules! differing {
    ($section:literal, $old:expr, $new:expr, $($field:ident),* $(,)?) => {
        [$((concat!($section, stringify!($field)), $old.$field != $new.$field)),*]
    };
}

/// One value with some fields of another.
macro_rules! with_fields_of {
    ($old:expr, $new:expr, $($field:ident),* $(,)?) => {{
        let mut with = $old.clone();
        $(with.$field = $new.$field.clone();)*
        with
    }};
}

/// The settings in which the two differ and that hold until a restart.
fn fixed(old: &Config, new: &Config) -> Vec<&'static str> {
    let (server, new_server) = (&old.server, &new.server);
    let of_server = differing!("server.", server, new_server, listen, path_prefix, proxy_protocol, tls);
    let of_others = differing!("", old, new, admin, cluster, webhooks);
    let of_log = differing!("log.", old.log, new.log, format);
    let all = of_server.into_iter().chain(of_others).chain(of_log);
    let mut fixed: Vec<_> = all.filter(|(_, differs)| *differs).map(|(key, _)| key).collect();
    if fixed.is_empty() && with_live_of(server, new_server) != *new_server {
        // A setting that is named neither above nor below must not be taken for live.
        fixed.push("server");
    }
    fixed
}

/// What `live::apply` makes of a server when its config becomes `new`, and what is read from the config
/// itself when its time has come.
fn with_live_of(old: &ServerConfig, new: &ServerConfig) -> ServerConfig {
    #[rustfmt::skip]
    let protection = with_fields_of!(
        old.protection, new.protection,
        max_connections_per_ip, connections_per_second_per_ip, max_handshakes, max_handshakes_per_ip,
        max_failed_requests_per_ip, failed_requests_window, unlimited_clients,
    );
    #[rustfmt::skip]
    let with = with_fields_of!(
        old, new,
        trusted_proxies, trusts_unix, header_timeout, idle_timeout, body_timeout, max_mailbox_bytes, max_mailboxes_bytes,
        max_queue_bytes, queue_timeout, max_cache_bytes, max_fallback_sessions, max_fallback_sessions_per_ip,
        subscription_errors, shutdown_grace, drain_delay, drain_window, reload_on_change,
    );
    ServerConfig { protection, ..with }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(changes: &str) -> Config {
        let apps = "[[apps]]\nid = \"1\"\nkey = \"k\"\nsecret = \"s\"\n";
        Config::parse(&format!("{changes}\n{apps}")).expect("a config")
    }

    #[test]
    fn every_setting_is_live_or_is_named() {
        let old = config("");
        for (changes, named) in [
            ("[server]\nheader_timeout = \"1s\"\nunlimited_clients = []", &[][..]),
            ("[server]\ntrusted_proxies = [\"unix\"]", &[]),
            ("[server]\npath_prefix = \"/x\"\nheader_timeout = \"1s\"", &["server.path_prefix"]),
            (
                "[server]\nlisten = [\"127.0.0.1:7\"]\nproxy_protocol = true\ntrusted_proxies = [\"::1\"]\n\
                 tls = { cert = \"a\", key = \"b\" }\n[admin]\ntoken = \"t\"\n[log]\nformat = \"json\"\n\
                 level = \"warn\"\n[cluster]\nprefix = \"x\"\n[webhooks]\ntimeout = \"1s\"",
                &[
                    "server.listen",
                    "server.proxy_protocol",
                    "server.tls",
                    "admin",
                    "cluster",
                    "webhooks",
                    "log.format",
                ],
            ),
        ] {
            assert_eq!(fixed(&old, &config(changes)), named, "{changes}");
        }
    }
}
