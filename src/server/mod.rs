//! The public side of the broker: listeners, connections, and the order in which it all stops.

mod drain;
mod route;
mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

pub use self::drain::drain;
pub use self::tls::acceptor;

use crate::accept;
use crate::pusher::Pusher;

/// What one connection may buffer of a request: its headers, or a piece of its body.
const MAX_HTTP_BUFFER: usize = 64 * 1024;

/// How long a stopping broker waits for the request of an open connection.
const LATE_REQUEST: Duration = Duration::from_millis(500);

/// How connections are served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Peers whose `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How long a request's headers may take, idle keep-alive included.
    pub header_timeout: Duration,
}

/// What every connection is served with.
pub struct Server {
    /// The protocol behind the public paths.
    pub pusher: Arc<Pusher>,
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

/// Serves the requests of one connection, until it becomes a WebSocket or ends.
async fn serve<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    server: Arc<Server>,
    stream: I,
    origin: Origin,
    mut stop: watch::Receiver<bool>,
    alive: Alive,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(server.settings.header_timeout)
        .max_buf_size(MAX_HTTP_BUFFER);
    let busy = Arc::new(AtomicBool::new(false));
    let answering = Arc::clone(&busy);
    let service = service_fn(move |request| {
        let (server, alive, busy) = (Arc::clone(&server), alive.clone(), Arc::clone(&answering));
        async move {
            busy.store(true, Ordering::Relaxed);
            let reply = route::route(&server, request, origin, alive).await;
            busy.store(false, Ordering::Relaxed);
            Ok::<_, Infallible>(reply)
        }
    });
    let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        () = stopped(&mut stop) => {
            // A request in flight is still answered; one that has not come by now is not waited for.
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(LATE_REQUEST, &mut connection).await {
                Err(_) if busy.load(Ordering::Relaxed) => Some(connection.await),
                ended => ended.ok(),
            }
        }
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(peer = %origin.peer, %error, "HTTP connection ended");
    }
}
