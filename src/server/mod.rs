//! The public side of the broker: listeners, connections, and the order in which it all stops.

mod connection;
mod drain;
mod route;
mod tls;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

pub use self::drain::{Pace, announce, drain};
pub use self::tls::acceptor;

use self::connection::serve;
use crate::accept::{self, UnixListener};
use crate::pusher::{Door, Pusher};
use crate::transport::fallback::Sessions;

/// How connections are served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What stands before every public path, without a slash at its end.
    pub path_prefix: String,
    /// Peers whose `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Those of whoever comes by a Unix socket are, too.
    pub trusts_unix: bool,
    /// How long a connection may be without a request that has come whole with its headers, idle
    /// keep-alive and the writing of the last reply included.
    pub header_timeout: Duration,
}

/// What every connection is served with.
pub struct Server {
    /// The protocol behind the public paths.
    pub pusher: Arc<Pusher>,
    /// The sockets that HTTP carries.
    pub fallback: Arc<Sessions<Door>>,
    /// How connections are served.
    pub settings: Settings,
}

/// Held by whatever must end before the broker does; a drain waits until all are gone.
pub type Alive = mpsc::Sender<Infallible>;

/// One public listener.
pub enum Listener {
    /// Plain TCP.
    Tcp(TcpListener),
    /// TLS.
    Tls(TcpListener, TlsAcceptor),
    /// A Unix socket.
    Unix(UnixListener),
}

impl Listener {
    /// Its address, if it is of a kind that has one.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Tcp(tcp) | Self::Tls(tcp, _) => tcp.local_addr().map(Some),
            Self::Unix(_) => Ok(None),
        }
    }
}

/// Accepts connections until `stop` says so.
pub async fn accept(server: Arc<Server>, listener: Listener, mut stop: watch::Receiver<bool>, alive: Alive) {
    let arrivals = Arrivals { server, stop: stop.clone(), alive };
    let accepting = async {
        match listener {
            Listener::Tcp(tcp) => {
                accept::each(tcp, |stream, peer| arrivals.plain(stream, Peer::Tcp(peer))).await;
            }
            Listener::Tls(tcp, tls) => {
                accept::each(tcp, |stream, peer| arrivals.tls(tls.clone(), stream, peer)).await;
            }
            Listener::Unix(unix) => {
                accept::each(unix, |stream, ()| arrivals.plain(stream, Peer::Unix)).await;
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stopped(&mut stop) => {}
    }
}

/// What every connection of a listener is served with.
struct Arrivals {
    server: Arc<Server>,
    stop: watch::Receiver<bool>,
    alive: Alive,
}

impl Arrivals {
    fn plain<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: I, peer: Peer) {
        let (server, stop, alive) = (Arc::clone(&self.server), self.stop.clone(), self.alive.clone());
        tokio::spawn(serve(server, stream, Origin { peer, tls: false }, stop, alive));
    }

    fn tls(&self, tls: TlsAcceptor, stream: TcpStream, peer: SocketAddr) {
        let (server, stop, alive) = (Arc::clone(&self.server), self.stop.clone(), self.alive.clone());
        tokio::spawn(serve_tls(server, tls, stream, Peer::Tcp(peer), stop, alive));
    }
}

async fn serve_tls(
    server: Arc<Server>,
    tls: TlsAcceptor,
    stream: TcpStream,
    peer: Peer,
    mut stop: watch::Receiver<bool>,
    alive: Alive,
) {
    let handshake = tokio::time::timeout(server.settings.header_timeout, tls.accept(stream));
    let shaken = tokio::select! {
        shaken = handshake => shaken,
        () = stopped(&mut stop) => return,
    };
    match shaken {
        // In a task of its own: this one keeps the size of the handshake for ever.
        Ok(Ok(stream)) => drop(tokio::spawn(serve(server, stream, Origin { peer, tls: true }, stop, alive))),
        Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS handshake"),
        Err(_) => tracing::debug!(%peer, "no TLS handshake in time"),
    }
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
struct Origin {
    peer: Peer,
    tls: bool,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy)]
enum Peer {
    Tcp(SocketAddr),
    /// Some program of this machine.
    Unix,
}

impl Peer {
    /// Its address; all of a Unix socket are one, which nobody else can have.
    fn ip(self) -> IpAddr {
        match self {
            Self::Tcp(address) => address.ip().to_canonical(),
            Self::Unix => Ipv4Addr::UNSPECIFIED.into(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix:"),
        }
    }
}

/// Waits until the broker stops, or is no more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stopping| *stopping).await;
}
