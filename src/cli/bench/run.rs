//! What the parts of one run share.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use super::api::Api;
use super::failure::{Failure, Failures};
use super::meter::{Meter, Reading};
use super::progress::Progress;
use super::socket::{SharedBuffer, Socket};
use super::target::Target;
use super::traffic::Clock;

/// What the parts of one run share.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) target: Rc<Target>,
    pub(super) clock: Clock,
    pub(super) buffer: SharedBuffer,
    pub(super) failures: Rc<Failures>,
    pub(super) server: Rc<Meter>,
    pub(super) own: Meter,
    pub(super) progress: Progress,
}

/// What server and bench had used at some moment of a run.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    pub(super) at: u64,
    pub(super) server: Option<Reading>,
    pub(super) own: Option<Reading>,
}

impl Run {
    /// A run of one mode.
    pub(super) fn new(target: &Rc<Target>, server: &Rc<Meter>, mode: &'static str) -> Rc<Self> {
        Rc::new(Self {
            target: Rc::clone(target),
            clock: Clock::start(),
            buffer: SharedBuffer::default(),
            failures: Rc::default(),
            server: Rc::clone(server),
            own: Meter::own(),
            progress: Progress::new(mode),
        })
    }

    /// Tries one socket and, when it will be needed, one request, so that wrong credentials are told
    /// once and before any load.
    ///
    /// # Errors
    /// The server is not there or refuses them.
    pub(super) async fn preflight(&self, api: bool) -> Result<(), Failure> {
        Socket::open(&self.target, None, &self.buffer, &self.failures).await?;
        if api {
            Api::new(&self.target).get("channels").await?;
        }
        Ok(())
    }

    /// Now, and what has been used so far.
    pub(super) fn moment(&self) -> Moment {
        Moment { at: self.clock.now(), server: self.server.read(), own: self.own.read() }
    }

    /// Waits, and shows how long.
    pub(super) async fn pass(&self, what: &'static str, time: Duration) {
        self.progress.passing(what, time);
        sleep(time).await;
    }
}
