//! How the broker stops: no new connections, goodbye to every socket, and an end within the grace.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::{Guard, Server};
use crate::model::close::CloseReason;

/// Stops accepting, closes every socket, and waits until all that was under way has ended, for at
/// most `grace`. Says whether it has.
pub async fn drain(
    server: &Server,
    stop: &watch::Sender<bool>,
    guard: Guard,
    mut ended: mpsc::Receiver<Infallible>,
    grace: Duration,
) -> bool {
    let pusher = &server.pusher;
    // First the flag, then the sockets: one that comes in between sees the flag.
    pusher.stopping.store(true, Ordering::SeqCst);
    stop.send_replace(true);
    tracing::info!(sockets = pusher.sockets.count(), "stopping");
    pusher.sockets.close_all(CloseReason::Stopping);
    drop(guard);
    let clean = tokio::time::timeout(grace, ended.recv()).await.is_ok();
    if clean {
        tracing::info!("stopped");
    } else {
        tracing::warn!(sockets = pusher.sockets.count(), "stopped at the end of the grace");
    }
    clean
}
