//! An app: one tenant of the broker, with its keys, features and limits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::secret::Secret;

/// The id that stands in API paths, `/apps/ID/…`.
pub type AppId = Arc<str>;

/// One tenant. Immutable: a reload makes a new one.
#[derive(Debug, Clone, PartialEq)]
pub struct App {
    /// Stands in API paths.
    pub id: AppId,
    /// Active key pairs, the oldest first; never empty.
    pub keys: Vec<KeyPair>,
    /// Off: sockets are refused with 4003 and the API answers 403.
    pub enabled: bool,
    /// What the app may do.
    pub features: Features,
    /// How much of it.
    pub limits: Limits,
    /// Where webhooks go.
    pub webhooks: Vec<Webhook>,
}

impl App {
    /// The pair that goes by `key`, if it is one of this app's.
    pub fn key_pair(&self, key: &str) -> Option<&KeyPair> {
        self.keys.iter().find(|pair| pair.key == key)
    }
}

/// A public key and the secret that signs for it.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyPair {
    /// Public: stands in socket URLs and before the colon of an `auth` string.
    pub key: String,
    /// Signs; never leaves the broker.
    pub secret: Secret,
}

/// Switches of an app (`[apps.features]`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Features {
    /// Sockets may publish `client-` events.
    pub client_events: bool,
    /// Subscribers are told how many they are.
    pub subscription_count: bool,
    /// Signed-in users are told about the users they watch.
    pub watchlist_events: bool,
    /// Sockets that never authorise anything are closed.
    pub authorized_connections: bool,
    /// Sockets without TLS are refused with 4000.
    pub force_tls: bool,
    /// Origins that browsers may connect from; empty: any.
    pub allowed_origins: Vec<String>,
}

/// Limits of an app (`[apps.limits]`). Sizes are in bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Open sockets; 0: no limit.
    pub max_connections: usize,
    /// Channels one socket may be subscribed to at once.
    pub max_channels_per_connection: usize,
    /// Client events per second and socket; 0: no limit.
    pub client_events_per_second: u32,
    /// Other messages per second and socket, in the long run; 0: no limit.
    pub messages_per_second: u32,
    /// Bytes of an event's `data`.
    pub max_event_bytes: usize,
    /// Characters of an event's name.
    pub max_event_name_length: usize,
    /// Characters of a channel's name.
    pub max_channel_name_length: usize,
    /// Channels in one trigger.
    pub max_channels_per_trigger: usize,
    /// Events in one batch.
    pub max_batch_events: usize,
    /// Distinct users in one presence channel.
    pub max_presence_members: usize,
    /// Bytes of a member's `channel_data`.
    pub max_presence_member_bytes: usize,
    /// How long a cache channel keeps its last event.
    pub cache_ttl: Duration,
    /// Silence after which a socket is pinged; also told to clients, in whole seconds.
    pub activity_timeout: Duration,
    /// How long a pinged socket may stay silent before it is closed.
    pub pong_timeout: Duration,
    /// How long webhooks wait for a socket or user to come back.
    pub webhook_delay: Duration,
    /// How long a socket may stay unauthorised, with `authorized_connections`.
    pub authorization_timeout: Duration,
    /// How long a user must be gone before watchers are told.
    pub offline_delay: Duration,
    /// Events that the API may publish per second, each once for every channel; 0: no limit.
    pub api_events_per_second: u32,
    /// Other API requests per second; 0: no limit.
    pub api_reads_per_second: u32,
    /// How long the reply of a request with an `Idempotency-Key` is kept.
    pub idempotency_ttl: Duration,
    /// Bytes of such replies, all of the app together.
    pub max_idempotency_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 0,
            max_channels_per_connection: 1000,
            client_events_per_second: 10,
            messages_per_second: 100,
            max_event_bytes: 10_240,
            max_event_name_length: 200,
            max_channel_name_length: 200,
            max_channels_per_trigger: 100,
            max_batch_events: 10,
            max_presence_members: 100,
            max_presence_member_bytes: 1024,
            cache_ttl: Duration::from_secs(30 * 60),
            activity_timeout: Duration::from_secs(120),
            pong_timeout: Duration::from_secs(30),
            webhook_delay: Duration::from_secs(3),
            authorization_timeout: Duration::from_secs(30),
            offline_delay: Duration::from_secs(2),
            api_events_per_second: 0,
            api_reads_per_second: 0,
            idempotency_ttl: Duration::from_secs(120),
            max_idempotency_bytes: 4 << 20,
        }
    }
}

impl Limits {
    /// Messages that a socket may send at once: a client subscribes to all of its channels together.
    pub fn messages_at_once(&self) -> u32 {
        let channels = u32::try_from(self.max_channels_per_connection).unwrap_or(u32::MAX);
        self.messages_per_second.saturating_mul(10).saturating_add(channels.saturating_mul(2))
    }

    /// Bytes of one incoming socket message: any legal message fits, since JSON can escape a
    /// byte of data as six.
    pub fn max_message_bytes(&self) -> usize {
        let largest = self.max_event_bytes.max(self.max_presence_member_bytes);
        (64 * 1024).max(largest.saturating_mul(6).saturating_add(4 * 1024))
    }

    /// Bytes of one API request body, by the same reckoning for a full batch.
    pub fn max_request_bytes(&self) -> usize {
        let names = (self.max_event_name_length + self.max_channel_name_length) * 6;
        let event = self.max_event_bytes.saturating_mul(6).saturating_add(names + 1024);
        (1024 * 1024).max(event.saturating_mul(self.max_batch_events.max(1)))
    }
}

/// One webhook endpoint (`[[apps.webhooks]]`).
#[derive(Clone, PartialEq)]
pub struct Webhook {
    /// Where it goes. May hold a password.
    pub url: String,
    /// Which notices it is told.
    pub events: Vec<WebhookEvent>,
    /// Of which channels: those whose names begin with this.
    pub channel_prefix: String,
    /// Several events in one request.
    pub batch: bool,
    /// Headers that every request has besides. May hold secrets.
    pub headers: Vec<(String, String)>,
}

impl Webhook {
    /// Whether it is reached by TLS.
    pub fn is_secure(&self) -> bool {
        self.url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"))
    }

    /// `user:password`, decoded, if the URL has them. The colon is always there: it is what servers
    /// look for.
    pub fn credentials(&self) -> Option<String> {
        let (_, rest) = self.url.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let (credentials, _) = authority.rsplit_once('@')?;
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let decoded = |text| percent_encoding::percent_decode_str(text).decode_utf8_lossy();
        Some(format!("{}:{}", decoded(user), decoded(password)))
    }

    /// The URL without name and password, which may change.
    pub fn place(&self) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("", &self.url));
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let host = authority.rsplit('@').next().unwrap_or_default();
        format!("{scheme}://{host}{path}")
    }

    /// The URL without password and query, which may be secret.
    pub fn shown_url(&self) -> String {
        let url = self.url.split(['?', '#']).next().unwrap_or_default();
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = authority.rsplit('@').next().unwrap_or_default();
        format!("{scheme}://{host}{path}")
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("url", &self.shown_url())
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

/// The kinds of webhook event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookEvent {
    /// The first subscriber came.
    ChannelOccupied,
    /// The last subscriber left.
    ChannelVacated,
    /// A user's first socket joined.
    MemberAdded,
    /// A user's last socket left.
    MemberRemoved,
    /// A socket published.
    ClientEvent,
    /// A subscriber found an empty cache.
    CacheMiss,
    /// The number of subscribers changed.
    SubscriptionCount,
}

impl WebhookEvent {
    /// Every kind, with its name in the config and on the wire.
    pub const ALL: [(WebhookEvent, &'static str); 7] = [
        (WebhookEvent::ChannelOccupied, "channel_occupied"),
        (WebhookEvent::ChannelVacated, "channel_vacated"),
        (WebhookEvent::MemberAdded, "member_added"),
        (WebhookEvent::MemberRemoved, "member_removed"),
        (WebhookEvent::ClientEvent, "client_event"),
        (WebhookEvent::CacheMiss, "cache_miss"),
        (WebhookEvent::SubscriptionCount, "subscription_count"),
    ];

    /// Its name in the config and on the wire.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(event, _)| *event == self).map_or("", |(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_decoded_and_have_a_colon() {
        for (url, credentials) in [
            ("http://host/a@b", None),
            ("http://name:pass%2Fword@host/", Some("name:pass/word")),
            ("https://token@host", Some("token:")),
            ("https://:word@host", Some(":word")),
        ] {
            let webhook = Webhook {
                url: url.to_owned(),
                events: Vec::new(),
                channel_prefix: String::new(),
                batch: true,
                headers: Vec::new(),
            };
            assert_eq!(webhook.credentials().as_deref(), credentials, "{url}");
            assert!(!webhook.shown_url().contains("word"), "{url}");
        }
    }
}
