//! The public side of the broker: listeners, connections, and the order in which it all stops.

mod connection;
mod drain;
mod proxied;
mod route;
mod tls;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

pub use self::drain::{Pace, announce, drain};
pub use self::tls::acceptor;

use self::connection::serve;
use self::proxied::{Proxied, read_header};
use crate::accept::{self, UnixListener};
use crate::addresses::Guest;
use crate::model::turned_away::TurnedAway;
use crate::pusher::{Door, Pusher};
use crate::transport::TLS_BUFFER;
use crate::transport::fallback::Peers;
use crate::transport::pause::Limits;

/// How connections are served, which may change while they are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Peers whose `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Those of whoever comes by a Unix socket are, too.
    pub trusts_unix: bool,
    /// How long a connection may be without a request that has come whole with its headers: while one
    /// comes or a reply is not read, and while there is nothing.
    pub limits: Limits,
}

impl Settings {
    /// Whether `peer` is a proxy that is believed.
    fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }
}

/// What every connection is served with.
pub struct Server {
    /// The protocol behind the public paths.
    pub pusher: Arc<Pusher>,
    /// The sockets that HTTP carries.
    pub fallback: Arc<Peers<Door>>,
    /// What stands before every public path, without a slash at its end.
    pub path_prefix: String,
    /// Every connection comes from a trusted proxy and begins with a PROXY header.
    pub proxy_protocol: bool,
    /// How connections are served, as it is now.
    pub settings: ArcSwap<Settings>,
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
                accept::each(tcp, |stream, peer| arrivals.tcp(None, stream, peer)).await;
            }
            Listener::Tls(tcp, tls) => {
                accept::each(tcp, |stream, peer| arrivals.tcp(Some(tls.clone()), stream, peer)).await;
            }
            Listener::Unix(unix) => {
                accept::each(unix, |stream, ()| arrivals.unix(stream)).await;
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
    /// Whoever is turned away is hung up on: nothing costs less.
    fn tcp(&self, tls: Option<TlsAcceptor>, stream: TcpStream, peer: SocketAddr) {
        let (server, ip) = (&self.server, peer.ip());
        let Some(arrived) = self.arrived(Remote::Tcp(peer)) else { return };
        if !server.proxy_protocol {
            go_on(tls, stream, arrived);
        } else if server.settings.load().trusts(ip) {
            tokio::spawn(serve_proxied(tls, stream, peer, arrived));
        } else {
            server.pusher.addresses.turn_away(TurnedAway::NoProxy, ip);
        }
    }

    /// Programs of this machine send no PROXY header.
    fn unix(&self, stream: UnixStream) {
        if let Some(mut arrived) = self.arrived(Remote::Unix)
            && arrived.guest.comes_from(Remote::Unix.ip()).is_ok()
        {
            tokio::spawn(serve(stream, arrived));
        }
    }

    fn arrived(&self, remote: Remote) -> Option<Arrived> {
        let guest = self.server.pusher.addresses.knock(remote.ip()).ok()?;
        let (server, stop, alive) = (Arc::clone(&self.server), self.stop.clone(), self.alive.clone());
        Some(Arrived { server, origin: Origin { remote, tls: false }, guest, stop, alive })
    }
}

/// A connection that has been let in.
struct Arrived {
    server: Arc<Server>,
    origin: Origin,
    guest: Guest,
    stop: watch::Receiver<bool>,
    alive: Alive,
}

/// Serves a connection of which it is known where it comes from, unless that is above a limit.
fn go_on(tls: Option<TlsAcceptor>, stream: TcpStream, mut arrived: Arrived) {
    if arrived.guest.comes_from(arrived.origin.remote.ip()).is_err() {
        return;
    }
    match tls {
        None => drop(tokio::spawn(serve(stream, arrived))),
        Some(tls) => drop(tokio::spawn(serve_tls(tls, stream, arrived))),
    }
}

async fn serve_proxied(
    tls: Option<TlsAcceptor>,
    mut stream: TcpStream,
    peer: SocketAddr,
    mut arrived: Arrived,
) {
    let header = read_header(&mut stream);
    let header = tokio::time::timeout(arrived.server.settings.load().limits.header, header);
    let header = tokio::select! {
        header = header => header,
        () = stopped(&mut arrived.stop) => return,
    };
    let why = match header {
        Ok(Ok(None)) => return,
        Ok(Ok(Some(Proxied { client, tls: by_tls }))) => {
            let remote = client.map_or(Remote::Nameless(peer), Remote::Tcp);
            arrived.origin = Origin { remote, tls: by_tls };
            return go_on(tls, stream, arrived);
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it did not come in time".to_owned(),
    };
    tracing::debug!(%peer, why, "no PROXY header");
    arrived.server.pusher.addresses.turn_away(TurnedAway::NoProxyHeader, peer.ip());
}

async fn serve_tls(tls: TlsAcceptor, stream: TcpStream, mut arrived: Arrived) {
    let handshake = tls.accept_with(stream, |connection| connection.set_buffer_limit(Some(TLS_BUFFER)));
    let handshake = tokio::time::timeout(arrived.server.settings.load().limits.header, handshake);
    let shaken = tokio::select! {
        shaken = handshake => shaken,
        () = stopped(&mut arrived.stop) => return,
    };
    arrived.origin.tls = true;
    let remote = arrived.origin.remote;
    match shaken {
        // In a task of its own: this one keeps the size of the handshake for ever.
        Ok(Ok(stream)) => drop(tokio::spawn(serve(stream, arrived))),
        Ok(Err(error)) => tracing::debug!(%remote, %error, "no TLS handshake"),
        Err(_) => tracing::debug!(%remote, "no TLS handshake in time"),
    }
}

/// Where a connection comes from, by a PROXY header if it has one.
#[derive(Debug, Clone, Copy)]
struct Origin {
    remote: Remote,
    /// The client came by TLS.
    tls: bool,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy)]
enum Remote {
    Tcp(SocketAddr),
    /// A trusted proxy whose PROXY header names no client. What it passes on may be anybody's words.
    Nameless(SocketAddr),
    /// Some program of this machine.
    Unix,
}

impl Remote {
    /// Its address; all of a Unix socket are one, which nobody else can have.
    fn ip(self) -> IpAddr {
        match self {
            Self::Tcp(address) | Self::Nameless(address) => address.ip().to_canonical(),
            Self::Unix => Ipv4Addr::UNSPECIFIED.into(),
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) | Self::Nameless(address) => address.fmt(f),
            Self::Unix => f.write_str("unix:"),
        }
    }
}

/// Waits until the broker stops, or is no more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stopping| *stopping).await;
}
