//! A line between a node and its Redis that can be cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the line does with bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Line {
    Whole,
    /// At most so many bytes a second, each way of each connection.
    Slow(u32),
    Stalled,
    Cut,
}

/// Listens on a port of its own and passes everything on.
pub struct Proxy {
    pub address: SocketAddr,
    line: watch::Sender<Line>,
    counts: Arc<Counts>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    there: AtomicU64,
    back: AtomicU64,
    connections: AtomicU64,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

impl Proxy {
    /// A line to this address.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("an address");
        let (line, state) = watch::channel(Line::Whole);
        let counts = Arc::<Counts>::default();
        let accepting = tokio::spawn(accept(listener, to, state, Arc::clone(&counts)));
        Self { address, line, counts, accepting }
    }

    /// How nodes reach the Redis behind it.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Closes all connections, and every new one at once.
    pub fn cut(&self) {
        self.line.send_replace(Line::Cut);
    }

    /// Passes nothing more on, and keeps the connections.
    pub fn stall(&self) {
        self.line.send_replace(Line::Stalled);
    }

    /// Passes on no more than so many bytes a second, each way of each connection.
    pub fn slow(&self, bytes_per_second: u32) {
        self.line.send_replace(Line::Slow(bytes_per_second));
    }

    /// Passes everything on again.
    pub fn resume(&self) {
        self.line.send_replace(Line::Whole);
    }

    /// Bytes passed on to Redis.
    pub fn there(&self) -> u64 {
        self.counts.there.load(Ordering::Relaxed)
    }

    /// Bytes passed on to the node.
    pub fn back(&self) -> u64 {
        self.counts.back.load(Ordering::Relaxed)
    }

    /// Connections that were made so far.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, state: watch::Receiver<Line>, counts: Arc<Counts>) {
    while let Ok((near, _)) = listener.accept().await {
        counts.connections.fetch_add(1, Ordering::Relaxed);
        let (mut state, counts) = (state.clone(), Arc::clone(&counts));
        tokio::spawn(async move {
            if *state.borrow() == Line::Cut {
                return;
            }
            let Ok(far) = TcpStream::connect(to).await else { return };
            let _ = near.set_nodelay(true);
            let _ = far.set_nodelay(true);
            let (mut up, mut down) = (state.clone(), state.clone());
            let ((near_reader, near_writer), (far_reader, far_writer)) =
                (near.into_split(), far.into_split());
            tokio::select! {
                () = pass(near_reader, far_writer, &mut up, &counts.there) => {}
                () = pass(far_reader, near_writer, &mut down, &counts.back) => {}
                _ = state.wait_for(|line| *line == Line::Cut) => {}
            }
        });
    }
}

/// Ends when either side does.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &mut watch::Receiver<Line>,
    count: &AtomicU64,
) {
    let mut bytes = vec![0; 16 << 10];
    loop {
        // What is read has to be passed on, so nothing is while the line stands still.
        if state.wait_for(|line| *line != Line::Stalled).await.is_err() {
            return;
        }
        let read = tokio::select! {
            read = from.read(&mut bytes) => read,
            _ = state.changed() => continue,
        };
        let Ok(length @ 1..) = read else { return };
        let pace = *state.borrow();
        if let Line::Slow(rate) = pace {
            tokio::time::sleep(Duration::from_secs_f64(length as f64 / f64::from(rate))).await;
        }
        if state.wait_for(|line| *line != Line::Stalled).await.is_err() {
            return;
        }
        // Before anybody can have them.
        count.fetch_add(length as u64, Ordering::Relaxed);
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
