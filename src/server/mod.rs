//! The public side of the broker: listeners, connections, and the order in which it all stops.

mod drain;
mod route;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

pub use self::drain::drain;

use crate::pusher::Pusher;

/// What one connection may buffer of a request: its headers, or a piece of its body.
const MAX_HTTP_BUFFER: usize = 64 * 1024;
/// A pause after a failed accept: running out of descriptors would fail at once again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
pub type Guard = mpsc::Sender<Infallible>;

/// Accepts connections until `stop` says so.
pub async fn accept(
    server: Arc<Server>,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
    guard: Guard,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Small frames must not wait for acknowledgements of earlier ones.
                let _ = stream.set_nodelay(true);
                let server = Arc::clone(&server);
                tokio::spawn(serve(server, stream, peer, stop.clone(), guard.clone()));
            }
            Err(error) => pause_after(&error).await,
        }
    }
}

/// Waits until the broker stops, or is no more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stopping| *stopping).await;
}

async fn pause_after(error: &io::Error) {
    let of_one_connection =
        [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset, io::ErrorKind::Interrupted];
    if !of_one_connection.contains(&error.kind()) {
        tracing::error!(%error, "cannot accept connections");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// Serves the requests of one connection, until it becomes a WebSocket or ends.
async fn serve(
    server: Arc<Server>,
    stream: TcpStream,
    peer: SocketAddr,
    mut stop: watch::Receiver<bool>,
    guard: Guard,
) {
    let timeout = server.settings.header_timeout;
    let service = service_fn(move |request| {
        let (server, guard) = (Arc::clone(&server), guard.clone());
        async move { Ok::<_, Infallible>(route::route(&server, request, peer, guard).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(timeout)
        .max_buf_size(MAX_HTTP_BUFFER)
        .pipeline_flush(true);
    let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stopped(&mut stop) => {
            // A request in flight is still answered.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "HTTP connection ended");
    }
}
