//! The table of open sockets, by app. Quotas, authorisation in time, liveness, drain and metrics all
//! read this one.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::apps::LiveApp;
use crate::mailbox::{Mailbox, close_all};
use crate::model::app::{App, AppId};
use crate::model::clock::millis;
use crate::model::close::CloseReason;
use crate::model::socket::SocketId;
use crate::model::transport::Transport;

/// Where sockets do not count before they are authorised, as many may wait for that as there may be
/// in all, but at least this many.
const MIN_WAITING: usize = 1000;

/// Every open socket of the broker.
pub struct Sockets {
    apps: DashMap<AppId, Arc<AppSockets>>,
    started: Instant,
    stopping: AtomicBool,
    /// By when the last words of a stop are read, or are not waited for.
    last_words: watch::Sender<Option<Instant>>,
    /// Sockets that have ended, with peers that have yet to read so.
    lingering: watch::Sender<usize>,
}

struct AppSockets {
    app: Arc<LiveApp>,
    /// Those that count against the quota.
    taken: AtomicUsize,
    open: DashMap<SocketId, Arc<Mailbox>>,
    /// Those that have to authorise something, by when.
    unauthorized: Mutex<BTreeMap<(u64, SocketId), Arc<Mailbox>>>,
}

/// A place in the table. Dropping it gives the place back.
pub struct Place {
    app: Arc<AppSockets>,
    id: SocketId,
    standing: Standing,
}

/// A socket that has ended, while its peer is given time to read so.
pub struct Lingering(Arc<Sockets>);

impl Drop for Lingering {
    fn drop(&mut self) {
        self.0.lingering.send_modify(|count| *count -= 1);
    }
}

/// What a place is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// One of the sockets that the app may have.
    Taken,
    /// Not yet; something has to be authorised by this time.
    Until(u64),
}

impl Place {
    /// The id of the socket whose place this is.
    pub fn id(&self) -> SocketId {
        self.id
    }

    /// The socket has been authorised for something: from now on it counts against the quota, and
    /// has all the time in the world.
    ///
    /// # Errors
    /// When the app's quota is used up.
    pub fn authorize(&mut self) -> Result<(), NoPlace> {
        let Standing::Until(deadline) = self.standing else { return Ok(()) };
        self.app.take_quota()?;
        self.standing = Standing::Taken;
        self.app.unauthorized.lock().remove(&(deadline, self.id));
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.app.open.remove(&self.id);
        match self.standing {
            Standing::Taken => {
                self.app.taken.fetch_sub(1, Ordering::AcqRel);
            }
            Standing::Until(deadline) => {
                self.app.unauthorized.lock().remove(&(deadline, self.id));
            }
        }
    }
}

impl AppSockets {
    fn new(app: &Arc<LiveApp>) -> Self {
        Self {
            app: Arc::clone(app),
            taken: AtomicUsize::new(0),
            open: DashMap::new(),
            unauthorized: Mutex::default(),
        }
    }

    fn take_quota(&self) -> Result<(), NoPlace> {
        let quota = self.app.now().limits.max_connections;
        let free = |taken: usize| (quota == 0 || taken < quota).then_some(taken + 1);
        let taken = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, free);
        taken.map(drop).map_err(|_| NoPlace::OverQuota)
    }

    /// A socket that has to authorise something does not count before it has; but where no other
    /// could be counted, it need not try.
    fn stand(&self, now_ms: u64) -> Result<Standing, NoPlace> {
        let app = self.app.now();
        let App { features, limits, .. } = &**app;
        if !features.authorized_connections {
            return self.take_quota().map(|()| Standing::Taken);
        }
        let quota = limits.max_connections;
        if quota > 0 && self.taken.load(Ordering::Acquire) >= quota {
            return Err(NoPlace::OverQuota);
        }
        if quota > 0 && self.unauthorized.lock().len() >= quota.max(MIN_WAITING) {
            return Err(NoPlace::TooManyWait);
        }
        let timeout = millis(limits.authorization_timeout);
        Ok(Standing::Until(now_ms.saturating_add(timeout)))
    }
}

/// How all open sockets are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// How many each transport carries.
    pub transports: [(Transport, usize); Transport::ALL.len()],
    /// Bytes that wait in mailboxes.
    pub queued_bytes: usize,
    /// Sockets for which something waits.
    pub lagging: usize,
}

/// Why a socket gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// The app has all the sockets it may have.
    OverQuota,
    /// Too many sockets of the app have yet to authorise something.
    TooManyWait,
    /// The system has no randomness for an id.
    NoId,
    /// The broker stops.
    Stopping,
}

impl Default for Sockets {
    fn default() -> Self {
        let (started, stopping) = (Instant::now(), AtomicBool::new(false));
        let (last_words, lingering) = (watch::Sender::new(None), watch::Sender::new(0));
        Self { apps: DashMap::new(), started, stopping, last_words, lingering }
    }
}

impl Sockets {
    /// Milliseconds since the table was made: the clock of [`Mailbox::heard`].
    pub fn now_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }

    /// Takes a place for a socket of `app`.
    ///
    /// # Errors
    /// When the app's quota is used up, or the broker stops.
    pub fn reserve(&self, app: &Arc<LiveApp>) -> Result<Place, NoPlace> {
        if self.are_stopping() {
            return Err(NoPlace::Stopping);
        }
        let table = self.table(app);
        let standing = table.stand(self.now_ms())?;
        // From here on dropping it gives the place back, whatever happens.
        let mut place = Place { app: table, id: SocketId::NOBODY, standing };
        while place.id == SocketId::NOBODY || place.app.open.contains_key(&place.id) {
            place.id = SocketId::draw().map_err(|_| NoPlace::NoId)?;
        }
        Ok(place)
    }

    fn table(&self, app: &Arc<LiveApp>) -> Arc<AppSockets> {
        if let Some(table) = self.apps.get(app.id()) {
            return Arc::clone(&table);
        }
        let new = || Arc::new(AppSockets::new(app));
        Arc::clone(&self.apps.entry(Arc::clone(app.id())).or_insert_with(new))
    }

    /// A socket has ended, and all that may still come of it is that its peer reads so.
    pub fn linger(self: &Arc<Self>) -> Lingering {
        self.lingering.send_modify(|count| *count += 1);
        Lingering(Arc::clone(self))
    }

    /// Waits until there are no such sockets.
    pub async fn all_gone(&self) {
        let _ = self.lingering.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Sockets that have ended, with peers that have not read so.
    pub fn lingering(&self) -> usize {
        *self.lingering.borrow()
    }

    /// Nobody is given more time than this to read last words. Said once.
    pub fn set_last_words(&self, by: Instant) {
        self.last_words.send_replace(Some(by));
    }

    /// By when somebody who may take `patience` has to have read them.
    pub fn last_words(&self, patience: Duration) -> Instant {
        let by = Instant::now() + patience;
        self.last_words.borrow().map_or(by, |last| by.min(last))
    }

    /// Waits for as long as somebody who may take `patience` has time to read them, who has less of it when
    /// the broker stops meanwhile.
    pub async fn outlast_last_words(&self, patience: Duration) {
        let mut last_words = self.last_words.subscribe();
        let changed = last_words.wait_for(Option::is_some);
        let _ = tokio::time::timeout(patience, async {
            drop(changed.await);
            tokio::time::sleep_until(self.last_words(patience).into()).await;
        })
        .await;
    }

    /// Visits every open socket with its app.
    pub fn each(&self, mut visit: impl FnMut(&App, &Arc<Mailbox>)) {
        let tables: Vec<_> = self.apps.iter().map(|entry| Arc::clone(&entry)).collect();
        for table in tables {
            let app = table.app.now();
            for socket in &table.open {
                visit(&app, &socket);
            }
        }
    }

    /// Enters the socket of a place in the table.
    pub fn take(&self, place: &Place, mailbox: Arc<Mailbox>) {
        place.app.open.insert(place.id, Arc::clone(&mailbox));
        if let Standing::Until(deadline) = place.standing {
            place.app.unauthorized.lock().insert((deadline, place.id), Arc::clone(&mailbox));
        }
        // One that came after all others had been listed for their end must not be missed.
        if self.are_stopping() {
            mailbox.close(CloseReason::Stopping);
        } else if let Some(reason) = place.app.app.end() {
            mailbox.close(reason);
        }
    }

    /// Begins the end of the sockets of apps that are not served any more.
    pub async fn close_ended(&self) {
        let tables: Vec<_> = self.apps.iter().map(|entry| Arc::clone(&entry)).collect();
        for (table, reason) in tables.iter().filter_map(|table| Some((table, table.app.end()?))) {
            let open: Vec<_> = table.open.iter().map(|socket| Arc::clone(&socket)).collect();
            close_all(&open, reason).await;
        }
    }

    /// The sockets that have authorised nothing in time, for the caller to close.
    pub fn take_unauthorized(&self) -> Vec<Arc<Mailbox>> {
        let now = self.now_ms();
        let tables: Vec<_> = self.apps.iter().map(|entry| Arc::clone(&entry)).collect();
        let mut overdue = Vec::new();
        // Those of an app that asks for it no more are left as they are.
        for table in tables.iter().filter(|table| table.app.now().features.authorized_connections) {
            let mut unauthorized = table.unauthorized.lock();
            while let Some(first) = unauthorized.first_entry().filter(|first| first.key().0 <= now) {
                overdue.push(first.remove());
            }
        }
        overdue
    }

    /// How many open sockets have still to authorise something.
    pub fn unauthorized(&self) -> usize {
        self.apps.iter().map(|table| table.unauthorized.lock().len()).sum()
    }

    /// Gives no places any more. Open sockets stay as they are.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Every open socket, in no order. They are not held on to: those that end do so in full.
    pub fn shuffled(&self) -> Vec<Weak<Mailbox>> {
        let order = RandomState::new();
        let mut sockets = Vec::new();
        self.each(|_, mailbox| sockets.push((order.hash_one(mailbox.socket()), Arc::downgrade(mailbox))));
        sockets.sort_unstable_by_key(|(place, _)| *place);
        sockets.into_iter().map(|(_, mailbox)| mailbox).collect()
    }

    /// Whether the broker stops.
    pub fn are_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Looks at every open socket. That takes a moment of each, and some time in all: not for a thread
    /// that serves clients.
    pub fn survey(&self) -> Survey {
        let transports = Transport::ALL.map(|transport| (transport, 0));
        let mut survey = Survey { transports, queued_bytes: 0, lagging: 0 };
        self.each(|_, mailbox| {
            let queued = mailbox.queued();
            survey.transports[mailbox.transport() as usize].1 += 1;
            survey.queued_bytes += queued;
            survey.lagging += usize::from(queued > 0);
        });
        survey
    }

    /// How many sockets each app has open.
    pub fn counts(&self) -> Vec<(AppId, usize)> {
        self.apps.iter().map(|entry| (Arc::clone(entry.key()), entry.open.len())).collect()
    }

    /// How many sockets are open.
    pub fn count(&self) -> usize {
        self.counts().iter().map(|(_, count)| count).sum()
    }
}
