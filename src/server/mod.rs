//! The public side of the broker: listeners, connections, and the order in which it all stops.

mod drain;
mod route;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

pub use self::drain::drain;

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

/// Accepts connections until `stop` says so.
pub async fn accept(
    server: Arc<Server>,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
    alive: Alive,
) {
    let for_connections = stop.clone();
    let accepting = accept::each(listener, |stream, peer| {
        tokio::spawn(serve(Arc::clone(&server), stream, peer, for_connections.clone(), alive.clone()));
    });
    tokio::select! {
        () = accepting => {}
        () = stopped(&mut stop) => {}
    }
}

/// Waits until the broker stops, or is no more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stopping| *stopping).await;
}

/// Serves the requests of one connection, until it becomes a WebSocket or ends.
async fn serve(
    server: Arc<Server>,
    stream: TcpStream,
    peer: SocketAddr,
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
            let reply = route::route(&server, request, peer, alive).await;
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
        tracing::debug!(%peer, %error, "HTTP connection ended");
    }
}
