//! From the bytes of a WebSocket connection to messages.
//!
//! tungstenite reads frames, but its context owns buffers that an idle connection should not pay
//! for. So a context lives only while a message is incomplete: this module follows the frame
//! boundaries, and when the bytes end on one, the context is dropped. That takes an idle
//! connection from several KiB to nothing.

use std::io::{self, Cursor, Read, Write};

use bytes::Bytes;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error};
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

use super::Session;
use crate::mailbox::Mailbox;
use crate::model::close::CloseReason;

/// Read buffer of a context that waits for the rest of a message.
const READ_BUFFER: usize = 4096;

/// The reading half of one connection.
pub(super) struct Inbox {
    max_message: usize,
    incomplete: Option<Box<Incomplete>>,
}

struct Incomplete {
    context: WebSocketContext,
    /// Where the bytes that the context has been given have come to.
    boundary: Boundary,
    /// A message whose turn has not come.
    held: Option<Message>,
    /// What has come behind it.
    unread: Vec<u8>,
}

impl Inbox {
    pub(super) fn new(max_message: usize) -> Self {
        Self { max_message, incomplete: None }
    }

    /// Gives the messages in `bytes` to the session, and the answers that WebSocket itself asks
    /// for (pong, close) to the mailbox. Behind a message whose turn has not come everything waits.
    ///
    /// # Errors
    /// The reason why the connection must end.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        mailbox: &Mailbox,
        session: &mut impl Session,
    ) -> Result<(), CloseReason> {
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(holding) = self.incomplete.as_mut().filter(|it| it.held.is_some()) {
            holding.unread.extend_from_slice(bytes);
            return Ok(());
        }
        let mut incomplete = self.incomplete.take();
        let mut boundary = incomplete.as_ref().map_or_else(Boundary::default, |begun| begun.boundary);
        let mut wire = Wire { unread: bytes, mailbox };
        let held = match &mut incomplete {
            Some(begun) => {
                let held = read_all(&mut begun.context, &mut wire, session)?;
                boundary.follow(&bytes[..bytes.len() - wire.unread.len()]);
                held
            }
            None => {
                boundary.follow(bytes);
                let mut context = self.context(&mut wire, boundary.is_clear());
                let held = read_all(&mut context, &mut wire, session)?;
                if !boundary.is_clear() || held.is_some() {
                    incomplete =
                        Some(Box::new(Incomplete { context, boundary, held: None, unread: Vec::new() }));
                }
                held
            }
        };
        // They add nothing to the length of a message, so no other limit ends them.
        for _ in 0..std::mem::take(&mut boundary.empty_parts) {
            session.control();
        }
        self.incomplete = incomplete.filter(|_| !boundary.is_clear() || held.is_some());
        if let Some(begun) = &mut self.incomplete {
            (begun.boundary, begun.held) = (boundary, held);
            begun.unread.extend_from_slice(wire.unread);
        }
        Ok(())
    }

    /// A message waits for its turn.
    pub(super) fn is_held(&self) -> bool {
        self.incomplete.as_ref().is_some_and(|begun| begun.held.is_some())
    }

    /// So much waits behind it that no more is to be read.
    pub(super) fn is_full(&self) -> bool {
        self.incomplete.as_ref().is_some_and(|begun| begun.unread.len() >= READ_BUFFER)
    }

    /// Gives the session what has waited.
    ///
    /// # Errors
    /// The same as those of [`Inbox::feed`].
    pub(super) fn resume(
        &mut self,
        mailbox: &Mailbox,
        session: &mut impl Session,
    ) -> Result<(), CloseReason> {
        let Some(begun) = &mut self.incomplete else { return Ok(()) };
        begun.held = begun.held.take().filter(|message| !give(session, message));
        if begun.held.is_none() {
            begun.held = read_all(&mut begun.context, &mut Wire { unread: &[], mailbox }, session)?;
        }
        if begun.held.is_some() {
            return Ok(());
        }
        let unread = std::mem::take(&mut begun.unread);
        if begun.boundary.is_clear() {
            self.incomplete = None;
        }
        self.feed(&unread, mailbox, session)
    }

    /// Where the connection's bytes have come to, for who follows them to the peer's close frame.
    pub(super) fn boundary(&self) -> Boundary {
        let Some(begun) = &self.incomplete else { return Boundary::default() };
        let mut boundary = begun.boundary;
        boundary.follow(&begun.unread);
        boundary
    }

    /// A context that has read all of `wire` already, so that it needs no buffer beside it.
    fn context(&self, wire: &mut Wire<'_>, whole: bool) -> WebSocketContext {
        let config = WebSocketConfig::default()
            .read_buffer_size(if whole { 0 } else { READ_BUFFER })
            .write_buffer_size(0)
            .max_message_size(Some(self.max_message))
            .max_frame_size(Some(self.max_message));
        let read = std::mem::take(&mut wire.unread).to_vec();
        WebSocketContext::from_partially_read(read, Role::Server, Some(config))
    }
}

/// Whether the session has taken the message.
fn give(session: &mut impl Session, message: &Message) -> bool {
    match message {
        Message::Text(text) => session.text(text),
        Message::Binary(_) => session.binary(),
        _ => {
            session.control();
            true
        }
    }
}

/// Returns the message whose turn has not come, if there is one.
fn read_all(
    context: &mut WebSocketContext,
    wire: &mut Wire<'_>,
    session: &mut impl Session,
) -> Result<Option<Message>, CloseReason> {
    loop {
        if wire.mailbox.closing().is_some() {
            return Ok(None);
        }
        match context.read(wire) {
            Ok(Message::Close(_)) => {
                // Writes the answering close frame; tungstenite then says that all is over.
                let _ = context.flush(wire);
                return Err(CloseReason::ClosedByClient);
            }
            Ok(message) if give(session, &message) => {}
            Ok(message) => return Ok(Some(message)),
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(reason(&e)),
        }
    }
}

fn reason(error: &Error) -> CloseReason {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => CloseReason::MessageTooLong,
        Error::Utf8(_) => CloseReason::InvalidUtf8,
        Error::ConnectionClosed | Error::AlreadyClosed => CloseReason::ClosedByClient,
        Error::Io(_) => CloseReason::Lost,
        _ => CloseReason::BrokenFraming,
    }
}

/// What a context reads from and writes to: bytes that have come, and the mailbox.
struct Wire<'a> {
    unread: &'a [u8],
    mailbox: &'a Mailbox,
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.unread.read(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        self.mailbox.push(&Bytes::copy_from_slice(frame));
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where in the frames of a connection its bytes have come to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Boundary {
    header: [u8; 14],
    header_len: usize,
    payload_left: u64,
    /// A fragmented message waits for its next part.
    fragmented: bool,
    /// Parts without payload, behind which their message goes on, that have not been counted.
    empty_parts: u32,
    /// The peer's close frame has come.
    closed: bool,
    /// Not WebSocket: tungstenite will say so too.
    broken: bool,
}

impl Boundary {
    /// No frame and no message is incomplete.
    fn is_clear(&self) -> bool {
        self.header_len == 0 && self.payload_left == 0 && !self.fragmented && !self.closed && !self.broken
    }

    /// The peer has sent all of its close frame, and so its last.
    pub(super) fn is_closed(&self) -> bool {
        self.closed && self.header_len == 0 && self.payload_left == 0
    }

    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.broken {
            if self.payload_left > 0 {
                let skipped = self.payload_left.min(bytes.len() as u64);
                self.payload_left -= skipped;
                bytes = &bytes[skipped as usize..];
            } else {
                bytes = self.follow_header(bytes);
            }
        }
    }

    fn follow_header<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let had = self.header_len;
        let taken = bytes.len().min(self.header.len() - had);
        self.header[had..had + taken].copy_from_slice(&bytes[..taken]);
        let mut cursor = Cursor::new(&self.header[..had + taken]);
        match FrameHeader::parse(&mut cursor) {
            Ok(Some((header, payload))) => {
                let used = (cursor.position() as usize).saturating_sub(had);
                match header.opcode {
                    OpCode::Data(Data::Text | Data::Binary | Data::Continue) => {
                        self.fragmented = !header.is_final;
                        self.empty_parts += u32::from(!header.is_final && payload == 0);
                    }
                    OpCode::Control(Control::Close) => self.closed = true,
                    _ => {}
                }
                (self.header_len, self.payload_left) = (0, payload);
                &bytes[used..]
            }
            Ok(None) => {
                self.header_len = had + taken;
                &bytes[taken..]
            }
            Err(_) => {
                self.broken = true;
                &[]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            n @ 0..126 => frame.push(0x80 | n as u8),
            n => {
                frame.push(0x80 | 126);
                frame.extend((n as u16).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        frame
    }

    fn boundary_after(bytes: &[u8], step: usize) -> Boundary {
        let mut boundary = Boundary::default();
        bytes.chunks(step).for_each(|chunk| boundary.follow(chunk));
        boundary
    }

    #[test]
    fn is_clear_exactly_between_messages_however_the_bytes_come() {
        let whole = [frame(0x81, b"hello"), frame(0x81, &[b'x'; 300]), frame(0x89, b"")].concat();
        for step in 1..20 {
            assert!(boundary_after(&whole, step).is_clear(), "{step}");
            assert!(!boundary_after(&whole[..whole.len() - 1], step).is_clear(), "{step}");
            assert!(!boundary_after(&whole[..1], step).is_clear());
        }
    }

    #[test]
    fn a_fragmented_message_is_not_clear_until_its_last_part() {
        let first = frame(0x01, b"he");
        let with_ping = [first.clone(), frame(0x89, b"")].concat();
        let done = [with_ping.clone(), frame(0x80, b"llo")].concat();
        assert!(!boundary_after(&first, 3).is_clear());
        assert!(!boundary_after(&with_ping, 3).is_clear(), "a ping between parts changes nothing");
        assert!(boundary_after(&done, 3).is_clear());
    }

    #[test]
    fn the_end_of_a_close_frame_is_seen_however_the_bytes_come() {
        let whole = [frame(0x01, b"he"), frame(0x88, &[0x0f, 0xa9, b'x'])].concat();
        for step in 1..20 {
            assert!(boundary_after(&whole, step).is_closed(), "{step}");
            assert!(!boundary_after(&whole[..whole.len() - 1], step).is_closed(), "{step}");
        }
        assert!(!boundary_after(&frame(0x81, &[0x88, 0x80, 0, 0, 0, 0]), 3).is_closed(), "inside a message");
    }

    #[test]
    fn bytes_that_are_no_frames_are_never_clear() {
        assert!(
            !boundary_after(&[0x83, 0x80, 0, 0, 0, 0], 6).is_clear()
                || !boundary_after(b"GET / HTTP", 4).is_clear()
        );
    }
}
