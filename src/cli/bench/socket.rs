//! A socket of ours: opens, subscribes, and reads events without copying them.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use memchr::memmem;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::failure::{Failure, Failures};
use super::target::Target;
use super::wire;

/// How long a connection, an upgrade, a subscription or the writing of a frame may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Longest head of an answer.
const MAX_HEAD: usize = 16 * 1024;
/// Most bytes that wait for a server which does not read.
const MAX_WAITING: usize = 1 << 20;
/// The largest frame that can be read.
const BUFFER: usize = 1 << 20;

/// The one buffer that all sockets read into: each leaves only its last unfinished frame behind.
#[derive(Clone, Debug)]
pub(super) struct SharedBuffer(Rc<RefCell<Box<[u8]>>>);

impl Default for SharedBuffer {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(vec![0; BUFFER].into_boxed_slice())))
    }
}

/// What a reader of events says to one of them.
#[derive(Debug)]
pub(super) enum Seen<T> {
    /// It was waited for, and more will be.
    Expected,
    /// It means nothing to the reader: it may be a ping or an error.
    Other,
    /// It is the last that was waited for.
    Last(T),
}

/// Connects over TCP, from a certain address of this machine when it matters.
pub(super) async fn connect(to: SocketAddr, from: Option<IpAddr>) -> Result<TcpStream, Failure> {
    let connecting = async {
        let stream = match from {
            None => TcpStream::connect(to).await?,
            Some(source) => {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::new(source, 0))?;
                socket.connect(to).await?
            }
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    let connected = timeout(PATIENCE, connecting).await.map_err(|_| Failure::TimedOut("a connection"))?;
    connected.map_err(|error| Failure::Unreachable(to, error))
}

/// A socket that is connected and established.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) id: String,
    pub(super) writer: Rc<Writer>,
    reader: Reader,
}

impl Socket {
    /// Opens a socket.
    ///
    /// # Errors
    /// It did not come to `pusher:connection_established`.
    pub(super) async fn open(
        target: &Target,
        from: Option<IpAddr>,
        buffer: &SharedBuffer,
        failures: &Rc<Failures>,
    ) -> Result<Self, Failure> {
        let mut stream = connect(target.address, from).await?;
        let request = target.handshake();
        let upgrading = timeout(PATIENCE, upgrade(&mut stream, &request));
        let rest = upgrading.await.map_err(|_| Failure::TimedOut("an upgrade"))??;
        let (half, out) = stream.into_split();
        let writer = Rc::new(Writer::new(out, Rc::clone(failures)));
        let (buffer, unread) = (buffer.clone(), !rest.is_empty());
        let reader = Reader { half, unread, rest, buffer, writer: Rc::clone(&writer) };
        let mut socket = Self { id: String::new(), writer, reader };
        socket.id = socket.await_answer("pusher:connection_established", socket_id).await??;
        Ok(socket)
    }

    /// Subscribes, and waits until that has succeeded.
    ///
    /// # Errors
    /// It did not.
    pub(super) async fn subscribe(
        &mut self,
        target: &Target,
        channel: &str,
        channel_data: Option<&str>,
    ) -> Result<(), Failure> {
        self.writer.send(&subscription(target, &self.id, channel, channel_data));
        self.await_answer("subscription_succeeded", |_| Ok(())).await?
    }

    /// Reads events until one is the last that `each` waits for.
    ///
    /// # Errors
    /// The socket ended before.
    pub(super) async fn read<T>(&mut self, mut each: impl FnMut(&[u8]) -> Seen<T>) -> Result<T, Failure> {
        poll_fn(|cx| self.reader.poll(cx, &mut each)).await
    }

    /// Waits for the event of this name, or for an error in its place.
    async fn await_answer<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&[u8]) -> Result<T, Failure>,
    ) -> Result<Result<T, Failure>, Failure> {
        let answer = self.read(|frame| {
            if contains(frame, name) {
                Seen::Last(read(frame))
            } else if is_error(frame) {
                Seen::Last(Err(Failure::from_error_event(frame)))
            } else {
                Seen::Other
            }
        });
        timeout(PATIENCE, answer).await.map_err(|_| Failure::TimedOut(name))?
    }
}

/// The text of a subscription, signed when the channel asks for it.
pub(super) fn subscription(target: &Target, id: &str, channel: &str, channel_data: Option<&str>) -> String {
    let mut data = json!({ "channel": channel });
    if channel.starts_with("private-") || channel.starts_with("presence-") {
        data["auth"] = target.channel_auth(id, channel, channel_data).into();
    }
    if let Some(text) = channel_data {
        data["channel_data"] = text.into();
    }
    json!({ "event": "pusher:subscribe", "data": data }).to_string()
}

/// Whether a text stands anywhere in a frame.
pub(super) fn contains(frame: &[u8], text: &str) -> bool {
    memmem::find(frame, text.as_bytes()).is_some()
}

fn is_error(frame: &[u8]) -> bool {
    contains(frame, "pusher:error") || contains(frame, "pusher:subscription_error")
}

/// The id in a `connection_established`, whichever way its data is written.
fn socket_id(frame: &[u8]) -> Result<String, Failure> {
    let strange = || Failure::Strange(String::from_utf8_lossy(frame).into_owned());
    let after = memmem::find(frame, b"socket_id").ok_or_else(strange)? + "socket_id".len();
    let id: String = frame[after..]
        .iter()
        .map(|byte| char::from(*byte))
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    if id.is_empty() { Err(strange()) } else { Ok(id) }
}

/// Asks for the upgrade; returns what came after the answer's head.
async fn upgrade(stream: &mut TcpStream, request: &str) -> Result<Vec<u8>, Failure> {
    let closed = |error: std::io::Error| Failure::Closed(format!(": {error}"));
    stream.write_all(request.as_bytes()).await.map_err(closed)?;
    let mut head = Vec::with_capacity(512);
    let end = loop {
        if stream.read_buf(&mut head).await.map_err(closed)? == 0 || head.len() > MAX_HEAD {
            return Err(Failure::Closed(" in the middle of an upgrade".to_owned()));
        }
        if let Some(at) = memmem::find(&head, b"\r\n\r\n") {
            break at + 4;
        }
    };
    if !head.starts_with(b"HTTP/1.1 101") {
        let line = String::from_utf8_lossy(&head);
        let status = line.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_default();
        let body = String::from_utf8_lossy(&head[end..]).lines().next().unwrap_or_default().to_owned();
        return Err(Failure::Status(status, if body.is_empty() { "no upgrade".to_owned() } else { body }));
    }
    Ok(head[end..].to_vec())
}

/// The incoming half.
#[derive(Debug)]
struct Reader {
    half: OwnedReadHalf,
    /// An unfinished frame, or whole ones that nobody has looked at yet.
    rest: Vec<u8>,
    /// Whether there are whole ones.
    unread: bool,
    buffer: SharedBuffer,
    writer: Rc<Writer>,
}

impl Reader {
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        each: &mut impl FnMut(&[u8]) -> Seen<T>,
    ) -> Poll<Result<T, Failure>> {
        if std::mem::take(&mut self.unread) {
            let rest = std::mem::take(&mut self.rest);
            if let Some(end) = self.frames(&rest, each) {
                return Poll::Ready(end);
            }
        }
        let shared = self.buffer.clone();
        let mut buffer = shared.0.borrow_mut();
        loop {
            let kept = self.rest.len();
            buffer[..kept].copy_from_slice(&self.rest);
            let mut free = ReadBuf::new(&mut buffer[kept..]);
            // Not `try_read`: only this remembers that a short read has emptied the socket, and
            // saves the second system call that would say so.
            let read = ready!(Pin::new(&mut self.half).poll_read(cx, &mut free));
            let length = free.filled().len();
            if let Err(error) = read {
                return Poll::Ready(Err(Failure::Closed(format!(": {error}"))));
            }
            if length == 0 {
                return Poll::Ready(Err(Failure::Closed(" without a word".to_owned())));
            }
            if let Some(end) = self.frames(&buffer[..kept + length], each) {
                return Poll::Ready(end);
            }
        }
    }

    /// Shows every whole frame to `each`, and keeps what is left.
    fn frames<T>(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(&[u8]) -> Seen<T>,
    ) -> Option<Result<T, Failure>> {
        let mut at = 0;
        let mut end = None;
        while let Some(header) = wire::header(&bytes[at..]) {
            if header.end >= BUFFER {
                return Some(Err(Failure::Strange("a frame of more than 1 MiB".to_owned())));
            }
            let Some(frame) = bytes[at..].get(header.start..header.end) else { break };
            at += header.end;
            match self.frame(header.opcode, frame, each) {
                None => {}
                found => {
                    self.unread = true;
                    end = found;
                    break;
                }
            }
        }
        self.rest.clear();
        self.rest.extend_from_slice(&bytes[at..]);
        end
    }

    fn frame<T>(
        &mut self,
        opcode: u8,
        payload: &[u8],
        each: &mut impl FnMut(&[u8]) -> Seen<T>,
    ) -> Option<Result<T, Failure>> {
        match opcode {
            wire::CLOSE => return Some(Err(Failure::from_close_frame(payload))),
            wire::PING => self.writer.push(wire::PONG, payload),
            wire::PONG => {}
            _ => match each(payload) {
                Seen::Expected => {}
                Seen::Last(value) => return Some(Ok(value)),
                Seen::Other if contains(payload, "\"pusher:ping\"") => {
                    self.writer.send(r#"{"event":"pusher:pong","data":{}}"#);
                }
                Seen::Other if is_error(payload) => {
                    self.writer.failures.add(&Failure::from_error_event(payload));
                }
                Seen::Other => {}
            },
        }
        None
    }
}

/// The outgoing half.
#[derive(Debug)]
pub(super) struct Writer {
    half: OwnedWriteHalf,
    waiting: RefCell<Vec<u8>>,
    mask: Cell<u32>,
    failures: Rc<Failures>,
}

impl Writer {
    fn new(half: OwnedWriteHalf, failures: Rc<Failures>) -> Self {
        Self { half, waiting: RefCell::default(), mask: Cell::new(0x9d3b_71c5), failures }
    }

    /// Sends an event.
    pub(super) fn send(&self, text: &str) {
        self.push(wire::TEXT, text.as_bytes());
    }

    /// Says goodbye; the server ends the connection then.
    pub(super) fn close(&self) {
        self.push(wire::CLOSE, &1000u16.to_be_bytes());
    }

    /// Writes what the kernel takes at once. What it does not take goes out before the next; a
    /// connection that is gone is the reader's to tell of.
    fn push(&self, opcode: u8, payload: &[u8]) {
        self.mask.set(self.mask.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() > MAX_WAITING {
            return;
        }
        wire::encode(&mut waiting, opcode, payload, self.mask.get().to_be_bytes());
        if let Ok(written) = self.half.try_write(&waiting) {
            waiting.drain(..written);
        }
        if waiting.is_empty() {
            *waiting = Vec::new();
        }
    }

    /// Waits until everything has gone out. A server that does not read is a failure, and what
    /// still waits for it is dropped.
    pub(super) async fn flush(&self) {
        self.flush_within(PATIENCE).await;
    }

    async fn flush_within(&self, patience: Duration) {
        if timeout(patience, self.drain()).await.is_err() {
            self.waiting.borrow_mut().clear();
            self.failures.add(&Failure::TimedOut("the writing of a frame"));
        }
    }

    async fn drain(&self) {
        while !self.waiting.borrow().is_empty() && self.half.writable().await.is_ok() {
            let mut waiting = self.waiting.borrow_mut();
            match self.half.try_write(&waiting) {
                Ok(written) => drop(waiting.drain(..written)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => waiting.clear(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_does_not_read_is_not_waited_for_for_ever() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = connect(listener.local_addr().expect("its address"), None).await.expect("a connection");
        let (_silent, _) = listener.accept().await.expect("the same");
        let failures: Rc<Failures> = Rc::default();
        let (_in, out) = stream.into_split();
        let writer = Writer::new(out, Rc::clone(&failures));
        // More than any kernel takes for somebody who does not read.
        for _ in 0..1000 {
            writer.send(&"x".repeat(64 * 1024));
        }
        writer.flush_within(Duration::from_millis(1)).await;
        assert!(writer.waiting.borrow().is_empty());
        assert_eq!(failures.first().as_deref(), Some("not in time: the writing of a frame"));
    }

    #[test]
    fn ids_are_found_however_the_data_is_written() {
        for frame in [
            r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"12.34\",\"activity_timeout\":120}"}"#,
            r#"{"data":{"activity_timeout":30,"socket_id":"12.34"}}"#,
        ] {
            assert_eq!(socket_id(frame.as_bytes()).expect("an id"), "12.34");
        }
        assert!(socket_id(b"{}").is_err());
        assert!(socket_id(br#"{"socket_id":""}"#).is_err());
    }
}
