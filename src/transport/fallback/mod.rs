//! The HTTP fallbacks of client libraries, `xhr_streaming` and `xhr_polling` (protocol.md §8): a
//! socket whose messages go out in replies to requests that the client makes again and again, and
//! come in as requests of their own.
//!
//! In reading order: `table` (which request belongs to which session), `peer` (one session and the
//! task that drives it), `line` (from its mailbox to whichever reply is being read), `reply` (that
//! reply), `cors`.

mod cors;
mod line;
mod path;
mod peer;
mod reply;
mod table;

use bytes::Bytes;

pub use self::path::{Action, Path};
pub use self::table::{Peers, Settings};

use crate::model::quoted::push_escaped;

/// Asks for a sign of life: the client answers by an empty list. Never sent as an answer to one, or
/// the two would go on answering each other.
pub(super) const HEARTBEAT: &[u8] = b"h\n";
/// No message: the answer to an empty list.
const NOTHING: &[u8] = b"a[]\n";
/// The session begins.
const OPENED: &[u8] = b"o\n";

/// A line around the message that `write` appends; `capacity` is a guess of its length in bytes.
pub(super) fn text_frame(capacity: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut message = Vec::with_capacity(capacity);
    write(&mut message);
    let mut line = Vec::with_capacity(message.len() + message.len() / 4 + 8);
    line.extend_from_slice(b"a[\"");
    push_escaped(&mut line, &message);
    line.extend_from_slice(b"\"]\n");
    line.into()
}

/// The last line of a session.
fn close_frame(code: u16, text: &str) -> Bytes {
    let mut line = format!("c[{code},\"").into_bytes();
    push_escaped(&mut line, text.as_bytes());
    line.extend_from_slice(b"\"]\n");
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_hold_json() {
        let frame = text_frame(10, |out| out.extend_from_slice("{\"a\":\"ü\\n\"}".as_bytes()));
        assert_eq!(&*frame, "a[\"{\\\"a\\\":\\\"ü\\\\n\\\"}\"]\n".as_bytes());
        assert_eq!(&*close_frame(4001, "no \"app\""), b"c[4001,\"no \\\"app\\\"\"]\n");
    }
}
