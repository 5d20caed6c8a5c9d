//! How sockets end on the wire: one table from reasons to close codes and texts (protocol.md
//! §1.9). Clients decide by the code's range whether they come back, and when.

use crate::model::close::CloseReason;

/// The close code and text of a reason.
pub(super) fn close(reason: CloseReason) -> (u16, &'static str) {
    use CloseReason as R;
    match reason {
        R::ClosedByClient | R::Lost => (1000, ""),
        R::BrokenFraming => (1002, "Invalid WebSocket frame"),
        R::InvalidUtf8 => (1007, "Text messages must be UTF-8"),
        R::MessageTooLong => (1009, "Message too long"),
        R::TlsRequired => (4000, "Application only accepts SSL connections, reconnect using wss://"),
        R::UnknownApp => (4001, "App key not in this cluster. Did you forget to specify the cluster?"),
        R::AppDisabled => (4003, "Application disabled"),
        R::OverQuota => (4004, "Application is over connection quota"),
        R::PathNotFound => (4005, "Path not found"),
        R::InvalidVersion => (4006, "Invalid version string format"),
        R::UnsupportedProtocol => (4007, "Unsupported protocol version"),
        R::MissingProtocol => (4008, "No protocol version supplied"),
        R::OriginRefused => (4009, "Origin not allowed"),
        R::Unauthorized => (4009, "Connection not authorized within timeout"),
        R::Terminated => (4009, "You got disconnected by the app."),
        R::OverCapacity => (4100, "Over capacity"),
        R::SlowConsumer => (4100, "Slow consumer: the connection did not read fast enough"),
        // Neither 4301, after which clients stay away, nor 42xx, after which they are back at once.
        R::TooManyMessages => (4100, "Too many messages"),
        R::NoPong => (4201, "Pong reply not received in time"),
        R::Stopping => (4200, "Server stopping, please reconnect"),
    }
}

/// The same for a socket that is refused at the handshake, where a code of the 42xx range would
/// make clients return without a pause.
pub(super) fn refusal(reason: CloseReason) -> (u16, &'static str) {
    match reason {
        CloseReason::Stopping => (4100, "Server stopping, please reconnect later"),
        other => close(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_text_that_fits() {
        for reason in CloseReason::ALL {
            let (code, text) = close(reason);
            assert!((1000..=4300).contains(&code) && text.len() <= 123, "{reason:?}");
            assert_eq!(text.is_empty(), reason.peer_is_gone(), "{reason:?}");
            let (code, _) = refusal(reason);
            assert!(!(4200..4300).contains(&code) || reason == CloseReason::NoPong, "{reason:?}");
        }
    }
}
