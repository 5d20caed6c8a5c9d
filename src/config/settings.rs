//! The settings as the rest of the broker uses them. The defaults stand here and nowhere else.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::listen::Listen;

/// The public side (`[server]`).
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Where it listens; never empty.
    pub listen: Vec<Listen>,
    /// What stands before every public path: empty, or `/x/y` without a slash at the end.
    pub path_prefix: String,
    /// Peers whose `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Those of whoever comes by a Unix socket are, too: `"unix"` among them.
    pub trusts_unix: bool,
    /// Connections come only from them, and begin with a PROXY header.
    pub proxy_protocol: bool,
    /// How long a drained stop waits for sockets to close; 0: not at all.
    pub shutdown_grace: Duration,
    /// How long a stop only lets nobody new in, before it closes sockets.
    pub drain_delay: Duration,
    /// How long closing all sockets takes; 0: they are closed at once.
    pub drain_window: Duration,
    /// How long a client may take to send a request's headers, and to read a reply.
    pub header_timeout: Duration,
    /// How long a connection may be idle between requests.
    pub idle_timeout: Duration,
    /// How long a client may take to send a request's body.
    pub body_timeout: Duration,
    /// Bytes queued towards one socket; above it the socket is closed as a slow consumer.
    pub max_mailbox_bytes: usize,
    /// Bytes queued towards all sockets together; 0: no limit.
    pub max_mailboxes_bytes: usize,
    /// Bytes of events queued in one channel before publishers wait.
    pub max_queue_bytes: usize,
    /// How long a publisher waits for room in a queue before it is answered 503.
    pub queue_timeout: Duration,
    /// Bytes of cached events, all cache channels together.
    pub max_cache_bytes: usize,
    /// Sessions of the HTTP fallbacks at once.
    pub max_fallback_sessions: usize,
    /// The same of one client address.
    pub max_fallback_sessions_per_ip: usize,
    /// What protects against floods.
    pub protection: Protection,
    /// A refused subscribe is answered with `pusher:subscription_error` besides `pusher:error`.
    pub subscription_errors: bool,
    /// The config and the certificate are read again when their files change, as on SIGHUP.
    pub reload_on_change: bool,
    /// The certificate of the `tls://` listeners.
    pub tls: Tls,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec![Listen::Tcp("127.0.0.1:6001".to_owned())],
            path_prefix: String::new(),
            trusted_proxies: Vec::new(),
            trusts_unix: false,
            proxy_protocol: false,
            shutdown_grace: Duration::from_secs(15),
            drain_delay: Duration::ZERO,
            drain_window: Duration::from_secs(5),
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            max_mailbox_bytes: 1 << 20,
            max_mailboxes_bytes: 512 << 20,
            max_queue_bytes: 1 << 20,
            queue_timeout: Duration::from_secs(5),
            max_cache_bytes: 64 << 20,
            max_fallback_sessions: 100_000,
            max_fallback_sessions_per_ip: 1000,
            protection: Protection::default(),
            subscription_errors: true,
            reload_on_change: true,
            tls: Tls::default(),
        }
    }
}

/// What one client address may have of the broker; also in `[server]`. 0 is no limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Protection {
    /// Connections at once.
    pub max_connections_per_ip: u32,
    /// New connections in a second.
    pub connections_per_second_per_ip: u32,
    /// Connections without a whole first request, of all addresses together.
    pub max_handshakes: usize,
    /// The same of one address.
    pub max_handshakes_per_ip: u32,
    /// API requests with a wrong signature, in a window.
    pub max_failed_requests_per_ip: u32,
    /// How long that window is.
    pub failed_requests_window: Duration,
    /// Clients whose addresses are not limited.
    pub unlimited_clients: Vec<IpNet>,
}

impl Default for Protection {
    fn default() -> Self {
        let loopback = [IpAddr::from([127, 0, 0, 0]), IpAddr::from(Ipv6Addr::LOCALHOST)];
        let networks = loopback.into_iter().zip([8, 128]);
        Self {
            max_connections_per_ip: 10_000,
            connections_per_second_per_ip: 500,
            max_handshakes: 10_000,
            max_handshakes_per_ip: 1000,
            max_failed_requests_per_ip: 1000,
            failed_requests_window: Duration::from_secs(60),
            unlimited_clients: networks.map(|(address, length)| IpNet::new_assert(address, length)).collect(),
        }
    }
}

/// The certificate of the `tls://` listeners (`[server.tls]`): both files or none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tls {
    /// PEM file of the certificate chain.
    pub cert: Option<PathBuf>,
    /// PEM file of the private key.
    pub key: Option<PathBuf>,
}

/// The private side: health, metrics, console (`[admin]`).
#[derive(Clone, PartialEq)]
pub struct Admin {
    /// Where it listens, `host:port`, resolved when bound.
    pub listen: String,
    /// What its callers must show; empty: nothing, which only a loopback listener may have. Secret.
    pub token: String,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9601".to_owned(), token: String::new() }
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("listen", &self.listen).field("token", &masked(&self.token)).finish()
    }
}

/// What is logged, and how (`[log]`).
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// A level, or directives as `tracing_subscriber::EnvFilter` reads them.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// Every format with its name in the config.
    pub const ALL: [(Self, &'static str); 2] = [(Self::Text, "text"), (Self::Json, "json")];
}

fn masked(secret: &str) -> &'static str {
    if secret.is_empty() { "" } else { "***" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cluster::ClusterSettings;

    #[test]
    fn secrets_are_not_printed() {
        let admin = Admin { token: "s3cret".to_owned(), ..Admin::default() };
        let cluster = ClusterSettings { url: "redis://:s3cret@host".to_owned(), ..Default::default() };
        assert!(!format!("{admin:?}{cluster:?}").contains("s3cret"));
    }
}
