//! The table of open sockets, by app. Quotas, liveness, drain and metrics all read this one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use dashmap::DashMap;

use crate::mailbox::Mailbox;
use crate::model::app::{App, AppId};
use crate::model::close::CloseReason;
use crate::model::socket::SocketId;

/// Every open socket of the broker.
pub struct Sockets {
    apps: DashMap<AppId, Arc<AppSockets>>,
    started: Instant,
    stopping: AtomicBool,
}

struct AppSockets {
    app: Arc<App>,
    taken: AtomicUsize,
    open: DashMap<SocketId, Arc<Mailbox>>,
}

/// A place in the table. Dropping it gives the place back.
pub struct Place {
    app: Arc<AppSockets>,
    id: SocketId,
}

impl Place {
    /// The id of the socket whose place this is.
    pub fn id(&self) -> SocketId {
        self.id
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.app.open.remove(&self.id);
        self.app.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Why a socket gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// The app has all the sockets it may have.
    OverQuota,
    /// The system has no randomness for an id.
    NoId,
    /// The broker stops.
    Stopping,
}

impl Default for Sockets {
    fn default() -> Self {
        Self { apps: DashMap::new(), started: Instant::now(), stopping: AtomicBool::new(false) }
    }
}

impl Sockets {
    /// Milliseconds since the table was made: the clock of [`Mailbox::heard`].
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes a place for a socket of `app`.
    ///
    /// # Errors
    /// When the app's quota is used up, or the broker stops.
    pub fn reserve(&self, app: &Arc<App>) -> Result<Place, NoPlace> {
        if self.are_stopping() {
            return Err(NoPlace::Stopping);
        }
        let table = self.table(app);
        let quota = app.limits.max_connections;
        let free = |taken: usize| (quota == 0 || taken < quota).then_some(taken + 1);
        if table.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, free).is_err() {
            return Err(NoPlace::OverQuota);
        }
        // From here on dropping it gives the place back, whatever happens.
        let mut place = Place { app: table, id: SocketId::NOBODY };
        while place.id == SocketId::NOBODY || place.app.open.contains_key(&place.id) {
            place.id = SocketId::draw().map_err(|_| NoPlace::NoId)?;
        }
        Ok(place)
    }

    fn table(&self, app: &Arc<App>) -> Arc<AppSockets> {
        if let Some(table) = self.apps.get(&app.id) {
            return Arc::clone(&table);
        }
        let new = || {
            Arc::new(AppSockets { app: Arc::clone(app), taken: AtomicUsize::new(0), open: DashMap::new() })
        };
        Arc::clone(&self.apps.entry(Arc::clone(&app.id)).or_insert_with(new))
    }

    /// Visits every open socket with its app.
    pub fn each(&self, mut visit: impl FnMut(&App, &Arc<Mailbox>)) {
        let tables: Vec<_> = self.apps.iter().map(|entry| Arc::clone(&entry)).collect();
        for table in tables {
            for socket in &table.open {
                visit(&table.app, &socket);
            }
        }
    }

    /// Enters the socket of a place in the table.
    pub fn take(&self, place: &Place, mailbox: Arc<Mailbox>) {
        place.app.open.insert(place.id, Arc::clone(&mailbox));
        // One that came while all others were being closed must not be missed.
        if self.are_stopping() {
            mailbox.close(CloseReason::Stopping);
        }
    }

    /// Gives no places any more, and begins the end of every open socket.
    pub fn stop(&self) {
        // First the flag, then the sockets: one that comes in between sees the flag.
        self.stopping.store(true, Ordering::SeqCst);
        self.each(|_, mailbox| mailbox.close(CloseReason::Stopping));
    }

    /// Whether all sockets are being closed for good.
    pub fn are_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// How many sockets each app has open.
    pub fn counts(&self) -> Vec<(AppId, usize)> {
        let count = |table: &AppSockets| table.taken.load(Ordering::Acquire);
        self.apps.iter().map(|entry| (Arc::clone(entry.key()), count(&entry))).collect()
    }

    /// How many sockets are open.
    pub fn count(&self) -> usize {
        self.counts().iter().map(|(_, count)| count).sum()
    }
}
