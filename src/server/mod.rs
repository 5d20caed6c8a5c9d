//! The public side of the broker: listeners, connections, and the order in which it all stops.

mod connection;
mod drain;
mod route;
mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

pub use self::drain::{Pace, announce, drain};
pub use self::tls::acceptor;

use self::connection::serve;
use crate::accept;
use crate::pusher::{Door, Pusher};
use crate::transport::fallback::Sessions;

/// How connections are served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What stands before every public path, without a slash at its end.
    pub path_prefix: String,
    /// Peers whose `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<IpNet>,
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
pub struct Listener {
    /// Accepts connections.
    pub tcp: TcpListener,
    /// Makes TLS connections of them.
    pub tls: Option<TlsAcceptor>,
}

/// Accepts connections until `stop` says so.
pub async fn accept(server: Arc<Server>, listener: Listener, mut stop: watch::Receiver<bool>, alive: Alive) {
    let for_connections = stop.clone();
    let accepting = accept::each(listener.tcp, |stream, peer| {
        let (server, stop, alive) = (Arc::clone(&server), for_connections.clone(), alive.clone());
        match listener.tls.clone() {
            None => drop(tokio::spawn(serve(server, stream, Origin { peer, tls: false }, stop, alive))),
            Some(tls) => drop(tokio::spawn(serve_tls(server, tls, stream, peer, stop, alive))),
        }
    });
    tokio::select! {
        () = accepting => {}
        () = stopped(&mut stop) => {}
    }
}

async fn serve_tls(
    server: Arc<Server>,
    tls: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
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
    peer: SocketAddr,
    tls: bool,
}

/// Waits until the broker stops, or is no more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stopping| *stopping).await;
}
