//! WebSocket: the handshake, frames, and the loop of one connection (protocol.md §1).

use std::borrow::Cow;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use super::Session;
use super::inbox::Inbox;
use crate::http::{self, Reply};
use crate::mailbox::Mailbox;
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

/// What a connection is driven with.
pub struct Opened<S> {
    /// The way out.
    pub mailbox: Arc<Mailbox>,
    /// The protocol's end.
    pub session: S,
    /// Bytes of one message, at most.
    pub max_message: usize,
}

/// Whether a request asks for a WebSocket.
pub fn is_upgrade(request: &Request<Incoming>) -> bool {
    let upgrade = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|value| value.split(',').any(|name| name.trim().eq_ignore_ascii_case("websocket")))
}

/// Answers a handshake, and drives the connection once it is a WebSocket. `offered` is echoed when
/// the client offers it as a subprotocol. `alive` is held until the connection has ended.
pub fn upgrade<S: Session>(
    mut request: Request<Incoming>,
    offered: &'static str,
    sockets: Arc<Sockets>,
    alive: impl Send + 'static,
    open: impl FnOnce(TcpStream) -> Opened<S> + Send + 'static,
) -> Reply {
    let mut response: Response<Full<Bytes>> = match create_response_with_body(&request, Full::default) {
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
        let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
        let opened = open(parts.io.into_inner());
        // A task of its own: this one keeps the size of hyper's connection for ever.
        tokio::spawn(drive(opened, sockets, parts.read_buf, alive));
    });
    response
}

/// The life of one connection, from its first frame to its last.
async fn drive<S: Session>(opened: Opened<S>, sockets: Arc<Sockets>, early: Bytes, alive: impl Send) {
    let Opened { mailbox, mut session, max_message } = opened;
    let mut inbox = Inbox::new(max_message);
    session.opened();
    if let Err(reason) = inbox.feed(&early, &mailbox, &mut session) {
        mailbox.close(reason);
    }
    drop(early);
    let reason = poll_fn(|cx| poll_connection(cx, &mailbox, &mut inbox, &mut session, &sockets)).await;
    drop(inbox);
    session.closed(reason);
    if !reason.peer_is_gone() {
        let (code, text) = session.farewell(reason);
        mailbox.push_farewell(close_frame(code, &text));
    }
    drop(session);
    let (linger, alive) = match reason {
        CloseReason::Lost => return,
        // A broker that stops does not wait for these.
        CloseReason::SlowConsumer => {
            drop(alive);
            (SLOW_LINGER, None)
        }
        _ => (LINGER, Some(alive)),
    };
    // Whoever does not read our last words in time goes without them.
    let _ = tokio::time::timeout(linger, poll_fn(|cx| poll_linger(cx, &mailbox))).await;
    drop(alive);
}

fn poll_connection(
    cx: &mut Context<'_>,
    mailbox: &Mailbox,
    inbox: &mut Inbox,
    session: &mut impl Session,
    sockets: &Sockets,
) -> Poll<CloseReason> {
    let mut buffer = [0; READ_BUFFER];
    for _ in 0..READS_AT_ONCE {
        if let Poll::Ready(reason) = mailbox.poll_closing(cx) {
            return Poll::Ready(reason);
        }
        if mailbox.queued() > READ_PAUSE {
            return Poll::Pending;
        }
        let read = match ready!(mailbox.poll_read(cx, &mut buffer)) {
            Ok(0) | Err(_) => Err(CloseReason::Lost),
            Ok(n) => {
                mailbox.heard(sockets.now_ms());
                inbox.feed(&buffer[..n], mailbox, session)
            }
        };
        if let Err(reason) = read {
            mailbox.close(reason);
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Writes what is queued, says that nothing more will come, and reads until the peer says so
/// too: closing with unread bytes would reset the connection and take our last words with it.
fn poll_linger(cx: &mut Context<'_>, mailbox: &Mailbox) -> Poll<()> {
    if ready!(mailbox.poll_flush(cx)).is_err() {
        return Poll::Ready(());
    }
    mailbox.shut_down();
    let mut buffer = [0; READ_BUFFER];
    loop {
        match ready!(mailbox.poll_read(cx, &mut buffer)) {
            Ok(0) | Err(_) => return Poll::Ready(()),
            Ok(_) => {}
        }
    }
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
