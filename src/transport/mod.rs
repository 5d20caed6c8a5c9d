//! Connections: what carries a protocol's messages. A transport knows sockets and no event names;
//! a protocol knows event names and no sockets. They meet in [`Session`] and in the mailbox.

pub mod fallback;
pub mod liveness;
pub mod pause;
pub mod relief;
pub mod websocket;

mod framing;
mod inbox;
mod wire;

use std::borrow::Cow;
use std::sync::Arc;

use tokio::net::TcpStream;

pub use self::framing::Framing;

use crate::mailbox::Mailbox;
use crate::model::close::CloseReason;

/// A TLS connection, as the server accepts it.
pub type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

/// Bytes of ciphertext that a TLS connection may keep: one record. The kernel has buffers enough.
pub const TLS_BUFFER: usize = 16 * 1024;

/// What a connection is driven with.
pub struct Opened<S> {
    /// The way out.
    pub mailbox: Arc<Mailbox>,
    /// The protocol's end.
    pub session: S,
    /// Bytes of one message, at most.
    pub max_message: usize,
}

/// The protocol's end of one socket. It answers through the socket's mailbox.
pub trait Session: Send + 'static {
    /// The socket is open: the protocol's first frames are due.
    fn opened(&mut self);

    /// A text message came. Says whether it has been taken: a message whose turn has not come is to be
    /// given again when the mailbox [owes no answers](Mailbox::owes_answers), before any other.
    #[must_use]
    fn text(&mut self, message: &str) -> bool;

    /// A binary message came. Says the same.
    #[must_use]
    fn binary(&mut self) -> bool;

    /// Something of the transport itself came that is no message: a ping or pong, which has been answered,
    /// an empty list, or an empty part of a message.
    fn control(&mut self);

    /// The socket is closing. Nothing else will be called but [`Session::farewell`].
    fn closed(&mut self, reason: CloseReason);

    /// The close code and text that the protocol has for a reason; at most 123 bytes are sent.
    fn farewell(&self, reason: CloseReason) -> (u16, Cow<'_, str>);
}
