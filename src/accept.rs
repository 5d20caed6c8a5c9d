//! Accepting connections, whoever serves them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// A pause after a failed accept: running out of descriptors would fail at once again.
const PAUSE: Duration = Duration::from_millis(50);

/// Gives every connection of a listener to `serve`, which must not block. Never ends.
pub async fn each(listener: TcpListener, mut serve: impl FnMut(TcpStream, SocketAddr)) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                failing = false;
                // Small frames must not wait for acknowledgements of earlier ones.
                let _ = stream.set_nodelay(true);
                serve(stream, peer);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Said once until it works again: it fails twenty times a second.
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "cannot accept connections, trying on");
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
