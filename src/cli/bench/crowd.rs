//! Many sockets: opened a few at a time, then each read by a task of its own until it ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::failure::Failure;
use super::percentiles::Times;
use super::run::Run;
use super::socket::{Seen, Socket, Writer};

/// How long all of them may take to open.
const OPENING: Duration = Duration::from_secs(180);
/// How long all of them may take to leave.
const LEAVING: Duration = Duration::from_secs(30);
/// So many that fail are enough to know.
const MAX_FAILED: u64 = 1000;
/// How often it is looked whether something has come to its end.
pub(super) const GLANCE: Duration = Duration::from_millis(2);

/// Who is shown what arrives at a socket.
type Inbox = Box<dyn FnMut(&[u8]) -> Seen<()>>;

/// What a socket of the crowd does once it is open.
pub(super) struct Seat {
    /// The channel it subscribes to at once.
    pub(super) channel: Option<String>,
    pub(super) inbox: Inbox,
}

impl Seat {
    /// A seat in a channel in which nothing is waited for.
    pub(super) fn quiet(channel: Option<String>) -> Self {
        Self { channel, inbox: Box::new(|_| Seen::Other) }
    }
}

/// A socket that is open.
#[derive(Clone, Debug)]
pub(super) struct Attendee {
    pub(super) id: String,
    pub(super) writer: Rc<Writer>,
}

/// Many sockets.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    attendees: RefCell<Vec<Option<Attendee>>>,
    opened: Cell<u64>,
    failed: Cell<u64>,
    gone: Cell<u64>,
    leaving: Cell<bool>,
    setup: RefCell<Times>,
    took: Cell<Duration>,
}

impl Crowd {
    /// Opens `size` sockets, `window` at a time, and waits until all are open or have failed.
    pub(super) async fn gather(
        run: &Rc<Run>,
        size: u32,
        window: u32,
        seat: impl Fn(usize) -> Seat,
    ) -> Rc<Self> {
        let crowd = Rc::new(Self::default());
        *crowd.attendees.borrow_mut() = vec![None; size as usize];
        let started = Instant::now();
        run.progress.begin("connecting", u64::from(size));
        let places = Arc::new(Semaphore::new(window as usize));
        let opening = timeout(OPENING, async {
            for n in 0..size as usize {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
                if crowd.failed.get() >= MAX_FAILED {
                    break;
                }
                tokio::task::spawn_local(Rc::clone(&crowd).attend(Rc::clone(run), n, seat(n), place));
                run.progress.at(crowd.opened.get());
            }
            // All places are free again when nobody is on the way any more.
            let _ = places.acquire_many(window).await;
        });
        if opening.await.is_err() {
            run.failures.add(&Failure::TimedOut("the opening of all sockets"));
        }
        crowd.took.set(started.elapsed());
        crowd
    }

    async fn attend(self: Rc<Self>, run: Rc<Run>, n: usize, mut seat: Seat, place: OwnedSemaphorePermit) {
        let started = Instant::now();
        let mut socket = match enter(&run, n, seat.channel.as_deref()).await {
            Ok(socket) => socket,
            Err(failure) => {
                self.failed.set(self.failed.get() + 1);
                return run.failures.add(&failure);
            }
        };
        self.setup.borrow_mut().add(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
        self.opened.set(self.opened.get() + 1);
        let attendee = Attendee { id: socket.id.clone(), writer: Rc::clone(&socket.writer) };
        self.attendees.borrow_mut()[n] = Some(attendee);
        drop(place);
        let end = socket.read(&mut seat.inbox).await;
        self.gone.set(self.gone.get() + 1);
        // The connection is closed when its last half goes.
        self.attendees.borrow_mut()[n] = None;
        if let (Err(failure), false) = (end, self.leaving.get()) {
            run.failures.add(&failure);
        }
    }

    /// Says goodbye for all, and waits until the server has let them go.
    pub(super) async fn leave(&self, run: &Run) {
        self.leaving.set(true);
        run.progress.begin("leaving", self.opened.get());
        let started = Instant::now();
        let all: Vec<Attendee> = self.attendees.borrow().iter().flatten().cloned().collect();
        for attendee in all {
            attendee.writer.close();
            // Each may wait its time for a server that does not read, but not all of them.
            if started.elapsed() < LEAVING {
                attendee.writer.flush().await;
            }
        }
        while self.present() > 0 && started.elapsed() < LEAVING {
            run.progress.at(self.gone.get());
            sleep(GLANCE).await;
        }
        if self.present() > 0 {
            run.failures.add(&Failure::TimedOut("the closing of all sockets"));
        }
    }

    /// The `n`th, as long as it is open.
    pub(super) fn attendee(&self, n: usize) -> Option<Attendee> {
        self.attendees.borrow().get(n).cloned().flatten()
    }

    /// How many are open.
    pub(super) fn present(&self) -> u64 {
        self.opened.get() - self.gone.get()
    }

    /// How many were opened.
    pub(super) fn opened(&self) -> u64 {
        self.opened.get()
    }

    /// How long the opening of all took.
    pub(super) fn took(&self) -> Duration {
        self.took.get()
    }

    /// From the connection attempt to the last thing waited for, for each.
    pub(super) fn setup(&self) -> Times {
        self.setup.borrow().clone()
    }
}

async fn enter(run: &Run, n: usize, channel: Option<&str>) -> Result<Socket, Failure> {
    let source = run.target.source(n);
    let mut socket = Socket::open(&run.target, source, &run.buffer, &run.failures).await?;
    if let Some(channel) = channel {
        socket.subscribe(&run.target, channel, None).await?;
    }
    Ok(socket)
}
