//! How each section but the cluster and the apps is read: its keys and their ranges.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use super::listen::{self, Listen};
use super::reading::{Refused, Section, not_one_of};
use super::settings::{Admin, Log, LogFormat, Protection, Server, Tls};
use super::tree::Value;
use crate::model::webhooks::WebhookSettings;

/// Waits must end, and some must not be over before they began.
pub(super) const WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=YEAR;
/// Delays may be left out.
pub(super) const DELAY: RangeInclusive<Duration> = Duration::ZERO..=YEAR;
/// Anything that fits into memory.
pub(super) const BYTES: RangeInclusive<u64> = 1..=1 << 40;

/// Bits in front of an IPv4 address that is written as an IPv6 one, "::ffff:10.0.0.5".
const MAPPED_PREFIX: u8 = 96;

/// As long as it is written "1year": 365.25 days.
const YEAR: Duration = Duration::from_secs(31_557_600);

pub(super) fn server(section: &Section<'_>) -> Server {
    let base = Server::default();
    let tls = section.section("tls");
    let proxies = section.list("trusted_proxies", proxy);
    let trusts_unix = proxies.as_ref().map(|proxies| proxies.iter().any(Option::is_none));
    let networks = proxies.map(|proxies| proxies.into_iter().flatten().collect());
    let sessions = |key, default| section.number(key, default, 0..=100_000_000);
    let shutdown_grace = section.duration("shutdown_grace", base.shutdown_grace, DELAY);
    let drain_delay = section.duration("drain_delay", base.drain_delay, DELAY);
    // Who shortens the grace need not know of the window.
    let window_that_fits = base.drain_window.min(shutdown_grace.saturating_sub(drain_delay) / 2);
    Server {
        listen: section.list("listen", Listen::parse).unwrap_or(base.listen),
        path_prefix: path_prefix(section),
        trusted_proxies: networks.unwrap_or(base.trusted_proxies),
        trusts_unix: trusts_unix.unwrap_or(base.trusts_unix),
        proxy_protocol: section.flag("proxy_protocol", base.proxy_protocol),
        shutdown_grace,
        drain_delay,
        drain_window: section.duration("drain_window", window_that_fits, DELAY),
        header_timeout: section.duration("header_timeout", base.header_timeout, WAIT),
        idle_timeout: section.duration("idle_timeout", base.idle_timeout, WAIT),
        body_timeout: section.duration("body_timeout", base.body_timeout, WAIT),
        max_mailbox_bytes: section.size("max_mailbox_bytes", base.max_mailbox_bytes, BYTES),
        max_mailboxes_bytes: section.size("max_mailboxes_bytes", base.max_mailboxes_bytes, 0..=*BYTES.end()),
        max_queue_bytes: section.size("max_queue_bytes", base.max_queue_bytes, BYTES),
        queue_timeout: section.duration("queue_timeout", base.queue_timeout, WAIT),
        max_cache_bytes: section.size("max_cache_bytes", base.max_cache_bytes, BYTES),
        max_fallback_sessions: sessions("max_fallback_sessions", base.max_fallback_sessions),
        max_fallback_sessions_per_ip: sessions(
            "max_fallback_sessions_per_ip",
            base.max_fallback_sessions_per_ip,
        ),
        protection: protection(section),
        subscription_errors: section.flag("subscription_errors", base.subscription_errors),
        reload_on_change: section.flag("reload_on_change", base.reload_on_change),
        tls: Tls { cert: file(&tls, "cert"), key: file(&tls, "key") },
    }
}

fn protection(section: &Section<'_>) -> Protection {
    let base = Protection::default();
    let count = |key, default| section.number(key, default, 0..=100_000_000);
    Protection {
        max_connections_per_ip: count("max_connections_per_ip", base.max_connections_per_ip),
        connections_per_second_per_ip: count(
            "connections_per_second_per_ip",
            base.connections_per_second_per_ip,
        ),
        max_handshakes: section.number("max_handshakes", base.max_handshakes, 0..=100_000_000),
        max_handshakes_per_ip: count("max_handshakes_per_ip", base.max_handshakes_per_ip),
        max_failed_requests_per_ip: count("max_failed_requests_per_ip", base.max_failed_requests_per_ip),
        failed_requests_window: section.duration("failed_requests_window", base.failed_requests_window, WAIT),
        unlimited_clients: section.list("unlimited_clients", network).unwrap_or(base.unlimited_clients),
    }
}

pub(super) fn admin(section: &Section<'_>) -> Admin {
    let base = Admin::default();
    let address = checked(section, "listen", listen::address);
    let token = checked(section, "token", |token| {
        // It travels in a header.
        let fits = token.bytes().all(|c| c.is_ascii_graphic());
        if fits { Ok(token.to_owned()) } else { Err("must be of visible ASCII characters".to_owned()) }
    });
    Admin { listen: address.unwrap_or(base.listen), token: token.unwrap_or(base.token) }
}

pub(super) fn webhooks(section: &Section<'_>) -> WebhookSettings {
    let base = WebhookSettings::default();
    let count = |key, default| section.number(key, default, 1..=10_000_000_usize);
    WebhookSettings {
        connect_timeout: section.duration("connect_timeout", base.connect_timeout, WAIT),
        timeout: section.duration("timeout", base.timeout, WAIT),
        retry_for: section.duration("retry_for", base.retry_for, DELAY),
        max_queue_events: count("max_queue_events", base.max_queue_events),
        max_queue_bytes: section.size("max_queue_bytes", base.max_queue_bytes, BYTES),
        max_failed_events: count("max_failed_events", base.max_failed_events),
        max_failed_bytes: section.size("max_failed_bytes", base.max_failed_bytes, BYTES),
    }
}

pub(super) fn log(section: &Section<'_>) -> Log {
    let base = Log::default();
    Log {
        level: checked(section, "level", level).unwrap_or(base.level),
        format: section.choice("format", base.format, &LogFormat::ALL),
    }
}

/// Text that `parse` makes something of.
pub(super) fn checked<T>(
    section: &Section<'_>,
    key: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    section.read(key, "text", |value| match value {
        Value::Text(text) | Value::Raw(text) => parse(text).map_err(Refused::Because),
        _ => Err(Refused::Kind),
    })
}

pub(super) fn file(section: &Section<'_>, key: &str) -> Option<PathBuf> {
    let path = section.text(key, "");
    (!path.is_empty()).then(|| PathBuf::from(path))
}

fn path_prefix(section: &Section<'_>) -> String {
    let prefix = checked(section, "path_prefix", |text| {
        let prefix = text.trim_end_matches('/');
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.~".contains(&c);
        let fits = |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain);
        match prefix.strip_prefix('/') {
            None if text.is_empty() || text == "/" => Ok(String::new()),
            None => Err(format!("must begin with \"/\", found {text:?}")),
            Some(parts) if parts.split('/').all(fits) => Ok(prefix.to_owned()),
            Some(_) => {
                Err(format!("must be a path as in \"/x/y\" of letters, digits and \"-_.~\", found {text:?}"))
            }
        }
    });
    prefix.unwrap_or_default()
}

/// A network of proxies; `None` for those that come by a Unix socket.
fn proxy(text: &str) -> Result<Option<IpNet>, String> {
    if text == "unix" {
        return Ok(None);
    }
    network_of(text).map(Some).ok_or_else(|| {
        format!("expected a network such as \"10.0.0.0/8\", an IP address or \"unix\", found {text:?}")
    })
}

fn network(text: &str) -> Result<IpNet, String> {
    network_of(text)
        .ok_or_else(|| format!("expected a network such as \"10.0.0.0/8\" or an IP address, found {text:?}"))
}

/// A network, or one address. IPv4 that is written as IPv6, as dual-stack programs show it, is IPv4.
fn network_of(text: &str) -> Option<IpNet> {
    let network = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    let mapped = network.addr().to_canonical();
    match network.prefix_len().checked_sub(MAPPED_PREFIX) {
        Some(prefix) if network.addr() != mapped => IpNet::new(mapped, prefix).ok(),
        _ => Some(network),
    }
}

/// Checks log directives, and takes out the spaces that the filter would not bear. A lone word must
/// be a level: the filter itself would take a misspelt one for the name of a module.
fn level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let directives: Vec<&str> = text.split(',').map(str::trim).collect();
    for directive in &directives {
        let is_level = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(directive));
        if !is_level && !directive.contains(['=', '[']) {
            return Err(not_one_of(directive, LEVELS.into_iter()));
        }
    }
    let level = directives.join(",");
    match EnvFilter::builder().parse(&level) {
        Ok(_) => Ok(level),
        Err(_) => Err(format!("expected a level such as \"info\" or \"warn,fanfare=debug\", found {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        for good in ["info", "INFO", "off", "warn,fanfare=debug", "trace,fanfare::hub=off"] {
            assert_eq!(level(good), Ok(good.to_owned()));
        }
        assert_eq!(level(" warn, fanfare=debug"), Ok("warn,fanfare=debug".to_owned()));
        assert_eq!(level("inof"), Err("unknown value \"inof\", did you mean \"info\"?".to_owned()));
        for bad in ["", "loud", "fanfare=loud", "info,", "fanfare=debug="] {
            assert!(level(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks() {
        for (text, network) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("::1", "::1/128"),
            // These would fit nobody, since addresses of clients are never written so.
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(proxy(text), Ok(Some(network.parse().expect(network))));
        }
        assert_eq!(proxy("unix"), Ok(None));
        for bad in ["", "10.0.0.0/33", "localhost", "10/8", "unix:", "unix:///run/x.sock"] {
            assert!(proxy(bad).is_err(), "{bad}");
        }
    }
}
