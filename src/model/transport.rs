//! What carries a socket's messages.

/// What carries a socket's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// One WebSocket connection.
    WebSocket,
    /// A long reply that is read piece by piece, and requests for what the client says.
    XhrStreaming,
    /// A request for each batch of messages, and requests for what the client says.
    XhrPolling,
}

impl Transport {
    /// Every transport, for metrics.
    pub const ALL: [Self; 3] = [Self::WebSocket, Self::XhrStreaming, Self::XhrPolling];

    /// Its name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::XhrStreaming => "xhr_streaming",
            Self::XhrPolling => "xhr_polling",
        }
    }
}
