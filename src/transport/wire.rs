//! The connections that a transport runs on, as their own tasks have them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{TLS_BUFFER, TlsStream};
use crate::mailbox::{Mailbox, Wire};

/// A plain connection: its stream is in the mailbox, where everybody writes through.
pub(super) struct Direct(pub(super) Arc<Mailbox>);

impl Direct {
    fn stream(&self) -> io::Result<&TcpStream> {
        self.0.stream().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Wire for Direct {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let stream = self.stream()?;
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return Poll::Ready(other),
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let stream = self.stream()?;
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_write_vectored(buffers) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return Poll::Ready(other),
            }
        }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shut_down(&mut self, _: &mut Context<'_>) -> Poll<()> {
        // A broken connection needs no telling.
        let _ =
            self.stream().map(|stream| socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write));
        Poll::Ready(())
    }
}

/// A connection that is rare, or a part of [`Tls`]. Only its task can write to it.
pub(super) struct Own<I>(pub(super) Box<I>);

impl<I: AsyncRead + AsyncWrite + Unpin + Send + 'static> Wire for Own<I> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut *self.0).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write_vectored(cx, buffers)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shut_down(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A broken connection needs no telling.
        Pin::new(&mut *self.0).poll_shutdown(cx).map(|_| ())
    }
}

/// A TLS connection. Only its task can write to it, and what it has taken may wait in it as ciphertext.
pub(super) struct Tls {
    own: Own<TlsStream>,
    /// Taken since all was with the kernel, up to what can be left of that.
    unflushed: usize,
}

impl Tls {
    pub(super) fn new(stream: TlsStream) -> Self {
        Self { own: Own(Box::new(stream)), unflushed: 0 }
    }
}

impl Wire for Tls {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.own.poll_read(cx, buffer)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = ready!(self.own.poll_write(cx, buffers))?;
        let is_left = self.own.0.get_ref().1.wants_write();
        self.unflushed = if is_left { (self.unflushed + written).min(TLS_BUFFER) } else { 0 };
        Poll::Ready(Ok(written))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.own.poll_flush(cx))?;
        self.unflushed = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_shut_down(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.own.poll_shut_down(cx)
    }

    fn held(&self) -> usize {
        self.unflushed
    }
}
