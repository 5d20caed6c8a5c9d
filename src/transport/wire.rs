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

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio_rustls::{TlsAcceptor, TlsConnector, client};

    async fn pair() -> (Tls, client::TlsStream<TcpStream>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let (cert, key) = (made.cert.der().clone(), made.signing_key.serialize_der());
        let provider = Arc::new(ring::default_provider());
        let far =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let key = PrivateKeyDer::try_from(key).expect("a key");
        let far = far.expect("versions").with_no_client_auth().with_single_cert(vec![cert.clone()], key);
        let acceptor = TlsAcceptor::from(Arc::new(far.expect("a config")));
        let mut roots = RootCertStore::empty();
        roots.add(cert).expect("a root");
        let near = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let near = near.expect("versions").with_root_certificates(roots).with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let near_tcp = TcpStream::connect(listener.local_addr().expect("addr")).await.expect("connect");
        let far_tcp = listener.accept().await.expect("accept").0;
        let name = ServerName::try_from("localhost").expect("a name");
        let (far, near) = tokio::join!(
            acceptor.accept_with(far_tcp, |connection| connection.set_buffer_limit(Some(TLS_BUFFER))),
            TlsConnector::from(Arc::new(near)).connect(name, near_tcp),
        );
        (Tls::new(far.expect("TLS")), near.expect("TLS"))
    }

    #[tokio::test]
    async fn what_tls_keeps_of_a_peer_that_does_not_read_is_bounded_and_told() {
        let (mut tls, _peer) = pair().await;
        let block = vec![b'x'; 1 << 20];
        let mut taken = 0;
        poll_fn(|cx| {
            while let Poll::Ready(n) = tls.poll_write(cx, &[IoSlice::new(&block)]) {
                taken += n.expect("an open connection");
                assert!(taken < 256 << 20, "the kernel takes everything");
            }
            Poll::Ready(())
        })
        .await;
        assert!((1..=TLS_BUFFER).contains(&tls.held()), "{}", tls.held());
        let kept = tls.own.0.get_mut().1;
        let (mut left, mut dropped) = (0, Vec::new());
        while kept.wants_write() {
            left += kept.write_tls(&mut dropped).expect("ciphertext");
        }
        assert!(left > 0 && left <= 2 * TLS_BUFFER, "{left} bytes of ciphertext are kept");
    }

    #[tokio::test]
    async fn what_the_kernel_has_taken_is_held_no_more() {
        let (mut tls, mut peer) = pair().await;
        let block = vec![b'x'; 100_000];
        let writing = async {
            let mut taken = 0;
            while taken < block.len() {
                let rest = &block[taken..];
                taken += poll_fn(|cx| tls.poll_write(cx, &[IoSlice::new(rest)]))
                    .await
                    .expect("an open connection");
            }
            poll_fn(|cx| tls.poll_flush(cx)).await.expect("an open connection");
            assert_eq!(tls.held(), 0);
        };
        let mut come = vec![0; block.len()];
        let (read, ()) = tokio::join!(peer.read_exact(&mut come), writing);
        read.expect("all of it");
    }
}
