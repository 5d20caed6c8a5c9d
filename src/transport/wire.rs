//! The connections that a transport runs on, as their own tasks have them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

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

/// A connection with state of its own, or a rare one: TLS, a Unix socket. Only its task can write to it.
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
