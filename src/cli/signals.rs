//! What the process is told by signals.

use std::io;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Signals so soon after the first are taken for the same one: some programs send it to the process and
/// to its group.
const ONE_SIGNAL: Duration = Duration::from_millis(200);

/// Those that ask it to end.
pub(crate) struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Stops {
    /// From now on they do not end the process by themselves.
    ///
    /// # Errors
    /// When the system refuses it.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Tells of the first, and waits for a second one.
    pub(crate) async fn twice(mut self, told: oneshot::Sender<()>) {
        self.next().await;
        let _ = told.send(());
        let first = Instant::now();
        while first.elapsed() < ONE_SIGNAL {
            self.next().await;
        }
    }

    /// Waits for one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What asks it to read its configuration again.
///
/// # Errors
/// When the system refuses it.
pub(crate) fn hangup() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}
