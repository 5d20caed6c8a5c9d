//! WebSocket: the handshake, frames, and the loop of one connection (protocol.md §1).

use std::borrow::Cow;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::body::Incoming;
use hyper::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use super::inbox::{Boundary, Inbox};
use super::pause::Timed;
use super::wire::{Direct, Own, Tls};
use super::{Opened, Session, TlsStream};
use crate::http::{self, Reply, ReplyBody};
use crate::mailbox::{Mailbox, Wire};
use crate::model::close::CloseReason;
use crate::sockets::Sockets;

/// A ping frame without payload.
pub const PING: [u8; 2] = [0x89, 0];
/// How long a closing connection may take to read our last words.
const LINGER: Duration = Duration::from_secs(5);
/// The same for one that is closed because it does not read: it has much to read before them.
const SLOW_LINGER: Duration = Duration::from_secs(30);
/// Bytes of a close reason: what fits a control frame beside the code.
const MAX_CLOSE_REASON: usize = 123;
/// Bytes read at once, on the stack: a silent connection holds no buffer.
const READ_BUFFER: usize = 4096;
/// Reads before other connections get their turn.
const READS_AT_ONCE: usize = 2;
/// Queued bytes above which nothing more is read from a client: it shall first read its answers.
const READ_PAUSE: usize = 64 * 1024;
/// The longest frame header that a server writes.
const MAX_HEADER: usize = 10;

/// Whether a request asks for a WebSocket.
pub fn is_upgrade(request: &Request<Incoming>) -> bool {
    let upgrade = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|value| value.split(',').any(|name| name.trim().eq_ignore_ascii_case("websocket")))
}

/// Answers a handshake, and drives the connection once it is a WebSocket. `offered` is echoed when
/// the client offers it as a subprotocol. The connection has to be a [`Timed`] one. The first of `held` is
/// held while a stop has to wait for the connection, the other until it has ended.
pub fn upgrade<S: Session>(
    mut request: Request<Incoming>,
    offered: &'static str,
    sockets: Arc<Sockets>,
    held: (impl Send + 'static, impl Send + 'static),
    open: impl FnOnce(Option<TcpStream>) -> Opened<S> + Send + 'static,
) -> Reply {
    let mut response: Reply = match create_response_with_body(&request, ReplyBody::default) {
        Ok(response) => response,
        Err(e) => return http::text(StatusCode::BAD_REQUEST, &format!("Not a WebSocket handshake: {e}")),
    };
    let offers = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let mut offers = offers.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    if offers.any(|name| name.trim() == offered) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offered));
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        // Tasks of their own: this one keeps the size of hyper's connection for ever.
        let upgraded = match upgraded.downcast::<TokioIo<Timed<TcpStream>>>() {
            Ok(parts) => {
                let opened = open(Some(parts.io.into_inner().into_inner()));
                let wire = Direct(Arc::clone(&opened.mailbox));
                tokio::spawn(drive(opened, wire, sockets, parts.read_buf, held));
                return;
            }
            Err(upgraded) => upgraded,
        };
        match upgraded.downcast::<TokioIo<Timed<TlsStream>>>() {
            Ok(parts) => {
                let wire = Tls::new(parts.io.into_inner().into_inner());
                tokio::spawn(drive(open(None), wire, sockets, parts.read_buf, held));
            }
            Err(upgraded) => {
                let Ok(parts) = upgraded.downcast::<TokioIo<Timed<UnixStream>>>() else { return };
                let wire = Own(Box::new(parts.io.into_inner().into_inner()));
                tokio::spawn(drive(open(None), wire, sockets, parts.read_buf, held));
            }
        }
    });
    response
}

/// One connection, as its own task has it.
struct Connection<S, W> {
    mailbox: Arc<Mailbox>,
    wire: W,
    inbox: Inbox,
    session: S,
    sockets: Arc<Sockets>,
}

/// The life of one connection, from its first frame to its last.
///
/// Its future is what an idle connection costs most, so it holds the connection once, and what
/// only a closing one needs is in a box of its own: 0.4 KiB less than the plain way to write it.
fn drive<S: Session, W: Wire>(
    opened: Opened<S>,
    wire: W,
    sockets: Arc<Sockets>,
    early: Bytes,
    held: (impl Send + 'static, impl Send + 'static),
) -> impl Future<Output = ()> + Send + 'static {
    let Opened { mailbox, session, max_message } = opened;
    let mut connection = Connection { mailbox, wire, inbox: Inbox::new(max_message), session, sockets };
    connection.open(&early);
    drop(early);
    async move {
        let reason = poll_fn(|cx| connection.poll_closing(cx)).await;
        Box::pin(connection.end(reason, held)).await;
    }
}

impl<S: Session, W: Wire> Connection<S, W> {
    /// `early` is what the client sent right behind its handshake.
    fn open(&mut self, early: &[u8]) {
        self.session.opened();
        self.feed(early);
    }

    fn feed(&mut self, bytes: &[u8]) {
        if let Err(reason) = self.inbox.feed(bytes, &self.mailbox, &mut self.session) {
            self.mailbox.close(reason);
        }
    }

    /// Goes on with what has waited, if its turn has come. Says whether nothing more is to be read yet.
    fn holds(&mut self) -> bool {
        if self.mailbox.owes_answers() {
            return self.inbox.is_full();
        }
        // What its peer sent meanwhile may lie unread.
        self.mailbox.heard(self.sockets.now_ms());
        if let Err(reason) = self.inbox.resume(&self.mailbox, &mut self.session) {
            self.mailbox.close(reason);
        }
        self.inbox.is_full() || self.mailbox.closing().is_some()
    }

    /// Reads and writes until there is a reason to close.
    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let mut buffer = [0; READ_BUFFER];
        for _ in 0..READS_AT_ONCE {
            if let Poll::Ready(reason) = self.mailbox.poll_closing(cx, &mut self.wire) {
                return Poll::Ready(reason);
            }
            if self.mailbox.queued() > READ_PAUSE {
                // Its pongs are not read now, so what it takes stands for them.
                if self.mailbox.has_moved() {
                    self.mailbox.heard(self.sockets.now_ms());
                }
                return Poll::Pending;
            }
            if self.inbox.is_held() && self.holds() {
                return Poll::Pending;
            }
            match ready!(self.wire.poll_read(cx, &mut buffer)) {
                Ok(0) | Err(_) => self.mailbox.close(CloseReason::Lost),
                Ok(n) => {
                    self.mailbox.heard(self.sockets.now_ms());
                    self.feed(&buffer[..n]);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ends the session, and gives the peer time to read our last words. Then nothing is under way any more:
    /// a stop waits for those who read, and takes no harm from those who do not.
    async fn end(mut self, reason: CloseReason, (alive, _guest): (impl Send, impl Send)) {
        self.session.closed(reason);
        if !reason.peer_is_gone() {
            let (code, text) = self.session.farewell(reason);
            self.mailbox.push_farewell(close_frame(code, &text));
        }
        let mut heard = Heard::new(reason, &self.inbox);
        let Self { mailbox, mut wire, session, sockets, .. } = self;
        drop(session);
        let (linger, _lingering) = match reason {
            CloseReason::Lost => return,
            // A broker that stops does not wait for these.
            CloseReason::SlowConsumer => (SLOW_LINGER, None),
            _ => (LINGER, Some(sockets.linger())),
        };
        drop(alive);
        // Whoever does not read them in time goes without them.
        let lingering = poll_fn(|cx| poll_linger(cx, &mailbox, &mut wire, &mut heard));
        let _ = tokio::time::timeout(linger, lingering).await;
    }
}

/// What has been heard of the peer's goodbye.
enum Heard {
    /// Its close frame: nothing comes after that, so there is nothing to wait for.
    Goodbye,
    /// Not yet; its bytes have come to here.
    UpTo(Boundary),
}

impl Heard {
    fn new(reason: CloseReason, inbox: &Inbox) -> Self {
        if reason == CloseReason::ClosedByClient { Self::Goodbye } else { Self::UpTo(inbox.boundary()) }
    }

    fn is_goodbye(&self) -> bool {
        match self {
            Self::Goodbye => true,
            Self::UpTo(boundary) => boundary.is_closed(),
        }
    }
}

/// Writes what is queued, says that nothing more will come, and reads until the peer says so
/// too: closing with unread bytes would reset the connection and take our last words with it.
fn poll_linger(cx: &mut Context<'_>, mailbox: &Mailbox, wire: &mut impl Wire, heard: &mut Heard) -> Poll<()> {
    if ready!(mailbox.poll_flush(cx, wire)).is_err() {
        return Poll::Ready(());
    }
    ready!(wire.poll_shut_down(cx));
    let mut buffer = [0; READ_BUFFER];
    while !heard.is_goodbye() {
        match ready!(wire.poll_read(cx, &mut buffer)) {
            Ok(0) | Err(_) => return Poll::Ready(()),
            Ok(n) => {
                if let Heard::UpTo(boundary) = heard {
                    boundary.follow(&buffer[..n]);
                }
            }
        }
    }
    Poll::Ready(())
}

/// A text frame around what `write` appends; `capacity` is a guess of its length in bytes.
pub fn text_frame(capacity: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut buffer = Vec::with_capacity(MAX_HEADER + capacity);
    buffer.resize(MAX_HEADER, 0);
    write(&mut buffer);
    // The header's length is known last, so it is written right before the payload.
    let payload = buffer.len() - MAX_HEADER;
    let mut header = [0; MAX_HEADER];
    header[0] = 0x81;
    let used = match payload {
        0..=125 => {
            header[1] = payload as u8;
            2
        }
        126..=0xffff => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&(payload as u64).to_be_bytes());
            10
        }
    };
    let start = MAX_HEADER - used;
    buffer[start..MAX_HEADER].copy_from_slice(&header[..used]);
    let mut frame = Bytes::from(buffer);
    frame.advance(start);
    frame
}

/// A close frame; the text is cut to what fits, at a character.
fn close_frame(code: u16, text: &str) -> Bytes {
    let text = cut(text, MAX_CLOSE_REASON);
    let mut frame = vec![0x88, 2 + text.len() as u8];
    frame.extend(code.to_be_bytes());
    frame.extend_from_slice(text.as_bytes());
    frame.into()
}

fn cut(text: &str, max: usize) -> Cow<'_, str> {
    let end = (0..=max.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    Cow::Borrowed(&text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_class_have_their_header() {
        for len in [0usize, 1, 125, 126, 65_535, 65_536] {
            let frame = text_frame(len, |out| out.resize(MAX_HEADER + len, b'x'));
            let header: Vec<u8> = match len {
                0..=125 => vec![0x81, len as u8],
                126..=65_535 => [&[0x81, 126][..], &(len as u16).to_be_bytes()].concat(),
                _ => [&[0x81, 127][..], &(len as u64).to_be_bytes()].concat(),
            };
            assert_eq!(frame.len(), header.len() + len);
            assert_eq!(&frame[..header.len()], header);
            assert!(frame[header.len()..].iter().all(|&b| b == b'x'));
        }
    }

    #[test]
    fn close_reasons_are_cut_at_a_character() {
        let text = "ä".repeat(100);
        let frame = close_frame(4001, &text);
        assert_eq!(frame.len(), 4 + 122);
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }
}
