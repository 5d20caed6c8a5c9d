//! What goes wrong in a run: told once in words, and counted.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::net::SocketAddr;

use serde_json::Value;

/// One thing that went wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Nobody listens there, or no connection could be had.
    #[error("no connection to {0}: {1}")]
    Unreachable(SocketAddr, std::io::Error),
    /// The server answered a socket or a subscription with an error.
    #[error("refused by the server: {0}")]
    Refused(String),
    /// The server ended the connection.
    #[error("closed by the server{0}")]
    Closed(String),
    /// The server answered a request with something other than success.
    #[error("HTTP {0}: {1}")]
    Status(u16, String),
    /// Something that was waited for did not happen.
    #[error("not in time: {0}")]
    TimedOut(&'static str),
    /// So many of the events that a pace asked for were given up.
    #[error("{0} of {1} events were not published in time")]
    Late(u64, u64),
    /// The server said something that the protocol does not know.
    #[error("not understood: {0}")]
    Strange(String),
}

impl Failure {
    /// From a `pusher:error` or `pusher:subscription_error` event.
    pub(super) fn from_error_event(frame: &[u8]) -> Self {
        let event: Value = serde_json::from_slice(frame).unwrap_or_default();
        // Some servers send the data of their errors as an object, others as text.
        let data = match &event["data"] {
            Value::String(text) => serde_json::from_str(text).unwrap_or_default(),
            data => data.clone(),
        };
        let code = [&data["code"], &data["status"]].into_iter().find_map(Value::as_u64);
        let text = [&data["message"], &data["error"]].into_iter().find_map(Value::as_str);
        Self::Refused(match (code, text) {
            (Some(code), text) => format!("{code} {}", text.unwrap_or_default()).trim_end().to_owned(),
            _ => String::from_utf8_lossy(frame).into_owned(),
        })
    }

    /// From the payload of a close frame.
    pub(super) fn from_close_frame(payload: &[u8]) -> Self {
        Self::Closed(match payload.split_first_chunk() {
            Some((code, reason)) => {
                format!(" with {} {}", u16::from_be_bytes(*code), String::from_utf8_lossy(reason))
                    .trim_end()
                    .to_owned()
            }
            None => String::new(),
        })
    }
}

/// The failures of a run.
#[derive(Debug, Default)]
pub(super) struct Failures {
    count: Cell<u64>,
    first: RefCell<Option<String>>,
}

impl Failures {
    /// Counts one. The first is kept in words; those that follow are mostly its consequences.
    pub(super) fn add(&self, failure: &dyn Display) {
        self.count.set(self.count.get() + 1);
        self.first.borrow_mut().get_or_insert_with(|| failure.to_string());
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.count.get()
    }

    /// The first of them.
    pub(super) fn first(&self) -> Option<String> {
        self.first.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_in_the_servers_words() {
        for (frame, told) in [
            (r#"{"event":"pusher:error","data":{"code":4001,"message":"No app"}}"#, "4001 No app"),
            (r#"{"event":"pusher:error","data":"{\"code\":4001}"}"#, "4001"),
            (
                r#"{"event":"pusher:subscription_error","data":"{\"type\":\"AuthError\",\"error\":\"No\",\"status\":401}"}"#,
                "401 No",
            ),
            ("pusher:error?", "pusher:error?"),
        ] {
            let told = format!("refused by the server: {told}");
            assert_eq!(Failure::from_error_event(frame.as_bytes()).to_string(), told);
        }
    }

    #[test]
    fn close_frames_have_a_code_or_none() {
        let told = |payload: &[u8]| Failure::from_close_frame(payload).to_string();
        assert_eq!(told(b"\x10\x04slow"), "closed by the server with 4100 slow");
        assert_eq!(told(b"\x03\xe8"), "closed by the server with 1000");
        assert_eq!(told(b""), "closed by the server");
    }

    #[test]
    fn the_first_failure_is_the_one_told() {
        let failures = Failures::default();
        assert_eq!(failures.first(), None);
        failures.add(&"one");
        failures.add(&"two");
        assert_eq!((failures.count(), failures.first().as_deref()), (2, Some("one")));
    }
}
