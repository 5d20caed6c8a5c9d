//! Listening, and accepting connections, whoever serves them.

mod unix;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};

use crate::repeats::Repeats;

pub use self::unix::UnixListener;

/// Connections that may wait to be accepted, at most: when a crowd comes back all at once, the rest has to
/// try again. The system may allow fewer (`net.core.somaxconn`).
pub const BACKLOG: u32 = 4096;
/// A pause after a failed accept: running out of descriptors would fail at once again.
const PAUSE: Duration = Duration::from_millis(50);

/// What connections come to.
pub trait Accept {
    /// A connection.
    type Stream;
    /// Where it comes from.
    type Peer;

    /// Waits for the next connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;
    type Peer = SocketAddr;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.accept().await?;
        // Small frames must not wait for acknowledgements of earlier ones.
        let _ = stream.set_nodelay(true);
        Ok((stream, peer))
    }
}

/// Whom an IPv6 address that is every address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// IPv4, too.
    Both,
    /// IPv4 has a listener of its own.
    OnlyV6,
}

/// Listens on `host:port`, on the first address of the host that can be had.
///
/// # Errors
/// Naming the address, when none can.
pub async fn bind_tcp(address: &str, reach: Reach) -> io::Result<TcpListener> {
    let mut failed = None;
    let named = |error: io::Error| cannot_listen(address, error.kind(), &error);
    for resolved in lookup_host(address).await.map_err(named)? {
        match bind_one(resolved, reach) {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = Some(error),
        }
    }
    Err(named(failed.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host has no address"))))
}

fn bind_one(address: SocketAddr, reach: Reach) -> io::Result<TcpListener> {
    let socket = socket_for(address, reach)?;
    // Connections of a broker that was here before, on their way out, are no reason to wait.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn socket_for(address: SocketAddr, reach: Reach) -> io::Result<TcpSocket> {
    if address.is_ipv4() {
        return TcpSocket::new_v4();
    }
    let socket = TcpSocket::new_v6()?;
    // Whatever the system would do by itself.
    SockRef::from(&socket).set_only_v6(reach == Reach::OnlyV6)?;
    Ok(socket)
}

fn cannot_listen(place: &str, kind: io::ErrorKind, why: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(kind, format!("cannot listen on {place}: {why}"))
}

/// Gives every connection of a listener to `serve`, which must not block. Never ends.
pub async fn each<L: Accept>(listener: L, mut serve: impl FnMut(L::Stream, L::Peer)) {
    let failures = Repeats::new();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => serve(stream, peer),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // It fails twenty times a second.
                if let Some(left_out) = failures.due() {
                    tracing::error!(%error, left_out, "cannot accept connections, trying on");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionAborted | Kind::ConnectionReset | Kind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[::]` took IPv4 as well, and a listener on `0.0.0.0` beside it found its port in use.
    #[tokio::test]
    async fn an_ipv6_listener_leaves_ipv4_to_another_where_there_is_one() {
        for (reach, only_v6) in [(Reach::Both, false), (Reach::OnlyV6, true)] {
            let socket = socket_for("[::]:0".parse().unwrap(), reach).unwrap();
            assert_eq!(SockRef::from(&socket).only_v6().unwrap(), only_v6);
        }
    }
}
