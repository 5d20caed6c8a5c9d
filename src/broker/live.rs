//! What of `[server]` changes while the broker runs: which rooms keep to which of its keys.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use crate::addresses;
use crate::config::{self, Config};
use crate::hub;
use crate::model::cluster::OnEngineLoss;
use crate::pusher;
use crate::server::{self, Server};
use crate::transport::fallback;
use crate::transport::pause::Limits;

/// The address that programs of this machine count by, who come by a Unix socket.
const UNIX_PEERS: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 32));

/// Every room keeps to this config from now on.
pub(super) fn apply(config: &Config, to: &Server) {
    let (server, pusher) = (&config.server, &to.pusher);
    to.settings.store(Arc::new(connections(server)));
    to.fallback.change(fallback(server));
    pusher.settings.store(Arc::new(sockets(server)));
    pusher.addresses.change(addresses(server));
    pusher.backlogs.set_limit(server.max_mailboxes_bytes);
    pusher.idempotency.set_patience(server.queue_timeout);
    pusher.hub.change(&hub(config));
}

pub(super) fn connections(server: &config::Server) -> server::Settings {
    server::Settings {
        trusted_proxies: server.trusted_proxies.clone(),
        trusts_unix: server.trusts_unix,
        limits: Limits { header: server.header_timeout, idle: server.idle_timeout },
    }
}

pub(super) fn fallback(server: &config::Server) -> fallback::Settings {
    fallback::Settings {
        max_sessions: server.max_fallback_sessions,
        max_per_address: server.max_fallback_sessions_per_ip,
        body_timeout: server.body_timeout,
    }
}

pub(super) fn sockets(server: &config::Server) -> pusher::Settings {
    pusher::Settings {
        max_mailbox_bytes: server.max_mailbox_bytes,
        body_timeout: server.body_timeout,
        subscription_errors: server.subscription_errors,
    }
}

/// Proxies are not limited: their clients are.
pub(super) fn addresses(server: &config::Server) -> addresses::Settings {
    let protection = &server.protection;
    addresses::Settings {
        max_connections: protection.max_connections_per_ip,
        connections_per_second: protection.connections_per_second_per_ip,
        max_handshakes: protection.max_handshakes,
        max_handshakes_per_address: protection.max_handshakes_per_ip,
        max_failures: protection.max_failed_requests_per_ip,
        failure_window: protection.failed_requests_window,
        unlimited: [&server.trusted_proxies[..], &protection.unlimited_clients, &[UNIX_PEERS]].concat(),
    }
}

pub(super) fn hub(config: &Config) -> hub::Settings {
    hub::Settings {
        max_queue_bytes: config.server.max_queue_bytes,
        queue_timeout: config.server.queue_timeout,
        max_cache_bytes: config.server.max_cache_bytes,
        refuse_when_away: config.cluster.on_engine_loss == OnEngineLoss::Refuse,
    }
}
