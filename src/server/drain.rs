//! How the broker stops: no new connections, goodbye to every socket, and an end within the grace.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::{Alive, Server};

/// Stops accepting, closes every socket, and waits until all that was under way has ended, for at
/// most `grace`. Says whether it has.
pub async fn drain(
    server: &Server,
    stop: &watch::Sender<bool>,
    alive: Alive,
    mut ended: mpsc::Receiver<Infallible>,
    grace: Duration,
) -> bool {
    let pusher = &server.pusher;
    tracing::info!(sockets = pusher.sockets.count(), "stopping");
    stop.send_replace(true);
    pusher.sockets.stop();
    drop(alive);
    tokio::time::timeout(grace, ended.recv()).await.is_ok()
}
