//! Why a socket ends. One list for the wire, the log, the metrics and the tests.

/// Why a socket ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client said goodbye.
    ClosedByClient,
    /// The connection broke.
    Lost,
    /// The client broke the WebSocket protocol.
    BrokenFraming,
    /// A text message was not UTF-8.
    InvalidUtf8,
    /// A message was longer than the limit.
    MessageTooLong,
    /// A socket without TLS on an app that wants it.
    TlsRequired,
    /// No app goes by this key.
    UnknownApp,
    /// The app is switched off.
    AppDisabled,
    /// The app has all the sockets it may have.
    OverQuota,
    /// An upgrade on a path where no app is.
    PathNotFound,
    /// The client library's version is malformed.
    InvalidVersion,
    /// A protocol version that the broker does not speak.
    UnsupportedProtocol,
    /// No protocol version at all.
    MissingProtocol,
    /// A browser page from an origin that the app does not allow.
    OriginRefused,
    /// Nothing was authorised in time.
    Unauthorized,
    /// The app's backend ended the sockets of the user.
    Terminated,
    /// The broker cannot take another socket now.
    OverCapacity,
    /// The client did not read fast enough.
    SlowConsumer,
    /// The client sent more than it may.
    TooManyMessages,
    /// The client answered no ping.
    NoPong,
    /// The broker stops.
    Stopping,
}

impl CloseReason {
    /// Every reason, for tables and metrics.
    pub const ALL: [CloseReason; 21] = [
        Self::ClosedByClient,
        Self::Lost,
        Self::BrokenFraming,
        Self::InvalidUtf8,
        Self::MessageTooLong,
        Self::TlsRequired,
        Self::UnknownApp,
        Self::AppDisabled,
        Self::OverQuota,
        Self::PathNotFound,
        Self::InvalidVersion,
        Self::UnsupportedProtocol,
        Self::MissingProtocol,
        Self::OriginRefused,
        Self::Unauthorized,
        Self::Terminated,
        Self::OverCapacity,
        Self::SlowConsumer,
        Self::TooManyMessages,
        Self::NoPong,
        Self::Stopping,
    ];

    /// The reason's name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClosedByClient => "closed_by_client",
            Self::Lost => "lost",
            Self::BrokenFraming => "broken_framing",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::MessageTooLong => "message_too_long",
            Self::TlsRequired => "tls_required",
            Self::UnknownApp => "unknown_app",
            Self::AppDisabled => "app_disabled",
            Self::OverQuota => "over_quota",
            Self::PathNotFound => "path_not_found",
            Self::InvalidVersion => "invalid_version",
            Self::UnsupportedProtocol => "unsupported_protocol",
            Self::MissingProtocol => "missing_protocol",
            Self::OriginRefused => "origin_refused",
            Self::Unauthorized => "unauthorized",
            Self::Terminated => "terminated",
            Self::OverCapacity => "over_capacity",
            Self::SlowConsumer => "slow_consumer",
            Self::TooManyMessages => "too_many_messages",
            Self::NoPong => "no_pong",
            Self::Stopping => "stopping",
        }
    }

    /// Whether there is still somebody to say goodbye to.
    pub fn peer_is_gone(self) -> bool {
        matches!(self, Self::ClosedByClient | Self::Lost)
    }
}
