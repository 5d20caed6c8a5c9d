//! What must hold between settings.

use std::collections::HashMap;

use super::listen::{Listen, is_any_port, is_loopback};
use super::reading::Reading;
use super::units::duration_text;
use super::{Config, DEVELOPMENT_SECRET, cluster};

/// Checks what no setting can tell alone; returns warnings. `insecure` allows public credentials
/// on a public address.
pub(super) fn check(config: &Config, reading: &Reading, insecure: bool) -> Vec<String> {
    listeners(config, reading);
    stop(config, reading);
    apps(config, reading);
    cluster::check(&config.cluster, reading);
    if !insecure {
        public_credentials(config, reading);
    }
    let mut warnings = tight(config);
    warnings.extend(cluster::warnings(&config.cluster));
    warnings
}

/// Limits that defeat each other.
fn tight(config: &Config) -> Vec<String> {
    let server = &config.server;
    let mut warnings = Vec::new();
    if (1..server.max_mailbox_bytes).contains(&server.max_mailboxes_bytes) {
        warnings.push("server.max_mailboxes_bytes: less than server.max_mailbox_bytes of one".to_owned());
    }
    for (i, app) in config.apps.iter().enumerate() {
        let event = app.limits.max_event_bytes;
        if server.max_mailbox_bytes < event {
            warnings.push(format!(
                "server.max_mailbox_bytes: less than apps[{i}].limits.max_event_bytes; sockets may be closed by one event"
            ));
        }
        if server.max_queue_bytes < event {
            warnings.push(format!(
                "server.max_queue_bytes: less than apps[{i}].limits.max_event_bytes; such events may never find room"
            ));
        }
    }
    warnings
}

fn listeners(config: &Config, reading: &Reading) {
    let server = &config.server;
    if server.listen.is_empty() && reading.is_clean("server.listen") {
        reading.problem("server.listen", "must not be empty");
    }
    for (i, listen) in server.listen.iter().enumerate() {
        if server.listen.iter().take(i).any(|earlier| collide(earlier, listen)) {
            reading.problem("server.listen", format!("\"{listen}\" is listed twice"));
        }
        if collide(listen, &Listen::Tcp(config.admin.listen.clone())) {
            reading.problem("admin.listen", format!("\"{listen}\" is in server.listen too"));
        }
    }
    let nobody = server.trusted_proxies.is_empty() && reading.is_clean("server.trusted_proxies");
    if server.proxy_protocol && nobody {
        reading.problem(
            "server.proxy_protocol",
            "nobody could connect: name the proxies in server.trusted_proxies",
        );
    }
    let no_token = config.admin.token.is_empty() && reading.is_clean("admin.token");
    if no_token && !is_loopback(&config.admin.listen) {
        reading.problem(
            "admin.token",
            format!("required, since {} is not a loopback address", config.admin.listen),
        );
    }
    let has_tls = server.listen.iter().any(|listen| matches!(listen, Listen::Tls(_)));
    match (&server.tls.cert, &server.tls.key) {
        (Some(_), None) => reading.problem("server.tls.key", "missing: certificate and key go together"),
        (None, Some(_)) => reading.problem("server.tls.cert", "missing: certificate and key go together"),
        (None, None) if has_tls => {
            reading
                .problem("server.tls.cert", "missing: the tls:// listeners need a certificate and its key");
        }
        _ => {}
    }
}

/// All of a stop has to fit into its grace: who has not had a turn by then is cut off.
fn stop(config: &Config, reading: &Reading) {
    let server = &config.server;
    let [delay, window, grace] = [server.drain_delay, server.drain_window, server.shutdown_grace];
    let shown = duration_text(grace);
    if delay > grace {
        reading.problem("server.drain_delay", format!("longer than server.shutdown_grace, which is {shown}"));
    } else if delay + window > grace {
        let what = format!("with server.drain_delay longer than server.shutdown_grace, which is {shown}");
        reading.problem("server.drain_window", what);
    }
}

/// Whether two listeners want the same address. The system gives every `:0` a port of its own.
fn collide(one: &Listen, other: &Listen) -> bool {
    match (one, other) {
        (Listen::Unix(one), Listen::Unix(other)) => one == other,
        (Listen::Tcp(one) | Listen::Tls(one), Listen::Tcp(other) | Listen::Tls(other)) => {
            one == other && !is_any_port(one)
        }
        _ => false,
    }
}

fn apps(config: &Config, reading: &Reading) {
    if config.apps.is_empty() && reading.is_clean("apps") {
        reading.problem("apps", "at least one app is needed: [[apps]] with id, key and secret");
    }
    let mut ids = HashMap::new();
    let mut keys = HashMap::new();
    for (i, app) in config.apps.iter().enumerate() {
        let path = format!("apps[{i}].id");
        if let Some(first) = ids.insert(&*app.id, path.clone()).filter(|_| !app.id.is_empty()) {
            reading.problem(&path, format!("{:?} is the id of {first} too", app.id));
        }
        for (j, pair) in app.keys.iter().enumerate() {
            let path = key_path(i, j, "key");
            if let Some(first) = keys.insert(pair.key.as_str(), path.clone()).filter(|_| !pair.key.is_empty())
            {
                reading.problem(&path, format!("{:?} is {first} too", pair.key));
            }
        }
    }
}

/// The development app's secret is known to everybody, so only this machine may use it.
fn public_credentials(config: &Config, reading: &Reading) {
    let Some(listen) = config.server.listen.iter().find(|listen| !listen.is_loopback()) else { return };
    for (i, app) in config.apps.iter().enumerate().filter(|(_, app)| app.enabled) {
        for (j, _) in
            app.keys.iter().enumerate().filter(|(_, pair)| pair.secret.reveal() == DEVELOPMENT_SECRET)
        {
            let what = format!(
                "the development secret is public: refusing to listen on {listen}; choose a secret, \
                 listen on 127.0.0.1, or pass --insecure-dev-app"
            );
            reading.problem(&key_path(i, j, "secret"), what);
        }
    }
}

/// The path of an app's key pair: the first is its own, the others are in `keys`.
fn key_path(app: usize, pair: usize, key: &str) -> String {
    match pair.checked_sub(1) {
        None => format!("apps[{app}].{key}"),
        Some(further) => format!("apps[{app}].keys[{further}].{key}"),
    }
}
