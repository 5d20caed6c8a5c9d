//! How apps, and the defaults for what they do not say, are read.

use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};

use super::reading::{Section, not_one_of};
use super::sections::{BYTES, DELAY, WAIT};
use crate::model::app::{App, Features, KeyPair, Limits, Webhook, WebhookEvent};
use crate::model::secret::Secret;

/// Nobody who is gone for longer has merely reloaded a page.
const HOUR: Duration = Duration::from_secs(3600);
const COUNT: usize = 1_000_000_000;
const ITEMS: usize = 100_000;
/// Names are part of every frame and of the names of metrics, so they stay short.
const LENGTH: usize = 10_000;
const EVENT_BYTES: u64 = 1 << 30;

pub(super) fn apps(top: &Section<'_>) -> Vec<App> {
    let defaults = top.section("defaults");
    let base_features = features(&defaults.section("features"), &Features::default());
    let base_limits = limits(&defaults.section("limits"), &Limits::default());
    top.sections("apps").iter().map(|section| app(section, &base_features, &base_limits)).collect()
}

fn app(section: &Section<'_>, base_features: &Features, base_limits: &Limits) -> App {
    let id = section.required("id");
    if !id.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-".contains(&c)) {
        section.problem("id", format!("must be of letters, digits, \"_\" and \"-\", found {id:?}"));
    }
    let further = section.sections("keys");
    App {
        id: Arc::from(id),
        keys: std::iter::once(section).chain(&further).map(key_pair).collect(),
        enabled: section.flag("enabled", true),
        features: features(&section.section("features"), base_features),
        limits: limits(&section.section("limits"), base_limits),
        webhooks: section.sections("webhooks").iter().map(webhook).collect(),
    }
}

fn key_pair(section: &Section<'_>) -> KeyPair {
    let key = section.required("key");
    // It stands in paths, in queries, and before the colon of an auth string.
    if !key.bytes().all(|c| c.is_ascii_graphic() && !b"/?#%&:".contains(&c)) {
        section.problem("key", "must be of visible ASCII characters other than \"/?#%&:\"");
    }
    let secret = section.required("secret");
    if secret.trim() != secret {
        section.problem("secret", "must not begin or end with white space");
    }
    KeyPair { key, secret: Secret::new(secret) }
}

fn features(section: &Section<'_>, base: &Features) -> Features {
    let origin =
        |text: &str| if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) };
    Features {
        client_events: section.flag("client_events", base.client_events),
        subscription_count: section.flag("subscription_count", base.subscription_count),
        watchlist_events: section.flag("watchlist_events", base.watchlist_events),
        authorized_connections: section.flag("authorized_connections", base.authorized_connections),
        force_tls: section.flag("force_tls", base.force_tls),
        allowed_origins: section
            .list("allowed_origins", origin)
            .unwrap_or_else(|| base.allowed_origins.clone()),
    }
}

fn limits(section: &Section<'_>, base: &Limits) -> Limits {
    let count = |key, default| section.number(key, default, 1..=COUNT);
    let items = |key, default| section.number(key, default, 1..=ITEMS);
    let length = |key, default| section.number(key, default, 1..=LENGTH);
    let rate = |key, default| section.number(key, default, 0..=1_000_000);
    let bytes = |key, default| section.size(key, default, *BYTES.start()..=EVENT_BYTES);
    // Clients are told whole seconds; 0 would have them ping without end.
    let activity = Duration::from_secs(1)..=*WAIT.end();
    Limits {
        max_connections: section.number("max_connections", base.max_connections, 0..=COUNT),
        max_channels_per_connection: count("max_channels_per_connection", base.max_channels_per_connection),
        client_events_per_second: rate("client_events_per_second", base.client_events_per_second),
        max_event_bytes: bytes("max_event_bytes", base.max_event_bytes),
        max_event_name_length: length("max_event_name_length", base.max_event_name_length),
        max_channel_name_length: length("max_channel_name_length", base.max_channel_name_length),
        max_channels_per_trigger: items("max_channels_per_trigger", base.max_channels_per_trigger),
        max_batch_events: items("max_batch_events", base.max_batch_events),
        max_presence_members: count("max_presence_members", base.max_presence_members),
        max_presence_member_bytes: bytes("max_presence_member_bytes", base.max_presence_member_bytes),
        cache_ttl: section.duration("cache_ttl", base.cache_ttl, WAIT),
        activity_timeout: section.duration("activity_timeout", base.activity_timeout, activity),
        pong_timeout: section.duration("pong_timeout", base.pong_timeout, WAIT),
        webhook_delay: section.duration("webhook_delay", base.webhook_delay, DELAY),
        authorization_timeout: section.duration("authorization_timeout", base.authorization_timeout, WAIT),
        offline_delay: section.duration("offline_delay", base.offline_delay, Duration::ZERO..=HOUR),
        api_events_per_second: rate("api_events_per_second", base.api_events_per_second),
        messages_per_second: rate("messages_per_second", base.messages_per_second),
        api_reads_per_second: rate("api_reads_per_second", base.api_reads_per_second),
        idempotency_ttl: section.duration("idempotency_ttl", base.idempotency_ttl, WAIT),
        max_idempotency_bytes: bytes("max_idempotency_bytes", base.max_idempotency_bytes),
    }
}

fn webhook(section: &Section<'_>) -> Webhook {
    let url = section.required("url");
    if let Some(problem) = Some(&url).filter(|url| !url.is_empty()).and_then(|url| web_problem(url)) {
        // Not shown: it may hold a password.
        section.problem("url", problem);
    }
    let names = WebhookEvent::ALL.map(|(_, name)| name);
    let event = |text: &str| {
        let known = WebhookEvent::ALL.into_iter().find(|(_, name)| *name == text);
        known.map(|(event, _)| event).ok_or_else(|| not_one_of(text, names.into_iter()))
    };
    let events = section.list("events", event);
    let headers = section.list("headers", header).unwrap_or_default();
    let is_again = |(i, (name, _)): &(usize, &(String, String))| headers[..*i].iter().any(|(n, _)| n == name);
    for (_, (name, _)) in headers.iter().enumerate().filter(is_again) {
        section.problem("headers", format!("{name:?} stands there twice"));
    }
    Webhook {
        url,
        events: events.unwrap_or_else(|| WebhookEvent::ALL.map(|(event, _)| event).to_vec()),
        channel_prefix: section.text("channel_prefix", ""),
        headers,
        batch: section.flag("batch", true),
    }
}

/// Of a request's headers, those that are not for the configuration to choose: they are about the
/// connection, or the broker's own. So is all that begins with `proxy-`.
const OWN_HEADERS: [&str; 13] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-pusher-key",
    "x-pusher-signature",
];

/// `Name: value`. Refusals do not show the value: it may be secret.
fn header(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(':').ok_or("expected \"Name: value\"")?;
    let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Err(format!("{name:?} is no name of a header"));
    }
    if HeaderValue::from_str(value).is_err() {
        return Err(format!("the value of {name:?} has characters that a header cannot have"));
    }
    if OWN_HEADERS.contains(&name.as_str()) || name.starts_with("proxy-") {
        return Err(format!("{name:?} is set by the broker"));
    }
    Ok((name, value.to_owned()))
}

/// What is wrong with the URL of an endpoint. Parsers disagree about a name or password with reserved
/// characters, and would take a part of it for the host or show it.
fn web_problem(url: &str) -> Option<&'static str> {
    let expected = Some("expected a URL that begins with http:// or https://");
    let Ok(uri) = url.parse::<Uri>() else { return expected };
    let host = uri.host().filter(|host| !host.is_empty());
    let (Some("http" | "https"), Some(host), Some((_, rest))) =
        (uri.scheme_str(), host, url.split_once("://"))
    else {
        return expected;
    };
    let (authority, after) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    if after.contains('@') {
        return Some(
            "an \"@\" after the host, or a \"/\", \"?\" or \"#\" before it, must be percent-encoded",
        );
    }
    let port = place.strip_prefix(host).map(|port| port.strip_prefix(':').ok_or(port));
    match port {
        Some(Err("")) => None,
        Some(Ok(port)) if port.parse().is_ok_and(|port: u16| port > 0) => None,
        _ => Some("after the host only a port from 1 to 65535 may stand"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn web_addresses() {
        for good in [
            "http://x",
            "https://user:pw@x.test:8443/hook?a=b",
            "http://[::1]:80/",
            "http://u%40:p%2F@x?a",
            "http://x#a",
        ] {
            assert_eq!(web_problem(good), None, "{good}");
        }
        for bad in ["", "x.test/hook", "ftp://x", "http://", "http:///path", "https://x y/", "//x"] {
            assert!(web_problem(bad).is_some_and(|what| what.contains("http://")), "{bad}");
        }
    }

    /// The host of these was once taken to be "user", and the password shown with the path.
    #[test]
    fn passwords_with_reserved_characters_are_refused() {
        for bad in [
            "https://user:sec/ret@host/",
            "https://user:80/ret@host/",
            "https://user:se?cret@host",
            "http://user:se#cret@host",
            "http://user/cret@host",
        ] {
            assert!(web_problem(bad).is_some_and(|what| what.contains("percent-encoded")), "{bad}");
        }
        for bad in
            ["http://host:99999/", "http://host:0", "http://host:", "http://[::1]x/", "http://host:8a/"]
        {
            assert!(web_problem(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn headers_of_the_connection_are_not_for_the_configuration() {
        for name in ["Host", "TE", "Proxy-Authorization", "Proxy-Connection", "upgrade", "Expect", "Trailer"]
        {
            let refused = header(&format!("{name}: secret")).expect_err(name);
            assert!(refused.contains("set by the broker") && !refused.contains("secret"), "{refused}");
        }
        assert_eq!(header("X-Token: a:b"), Ok(("x-token".to_owned(), "a:b".to_owned())));
    }
}
