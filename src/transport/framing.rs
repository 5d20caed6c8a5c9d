//! How a transport wraps the text messages of a protocol.

use bytes::Bytes;

use super::{fallback, websocket};
use crate::model::transport::Transport;

/// One way to wrap text messages. Both xhr transports share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// As WebSocket frames.
    WebSocket,
    /// As lines of the HTTP fallbacks.
    Fallback,
}

impl Framing {
    /// Every framing; each has its place here.
    pub const ALL: [Self; 2] = [Self::WebSocket, Self::Fallback];

    /// The framing of a transport.
    pub fn of(transport: Transport) -> Self {
        match transport {
            Transport::WebSocket => Self::WebSocket,
            Transport::XhrStreaming | Transport::XhrPolling => Self::Fallback,
        }
    }

    /// A frame around the message that `write` appends; `capacity` is a guess of its length in bytes.
    pub fn text(self, capacity: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        match self {
            Self::WebSocket => websocket::text_frame(capacity, write),
            Self::Fallback => fallback::text_frame(capacity, write),
        }
    }

    /// What asks the peer for a sign of life.
    pub fn ping(self) -> Bytes {
        Bytes::from_static(match self {
            Self::WebSocket => &websocket::PING,
            Self::Fallback => fallback::HEARTBEAT,
        })
    }
}
