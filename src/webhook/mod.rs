//! Webhooks (protocol.md §7): from the hub's notices to signed requests.
//!
//! In reading order: this file (all of them, and what becomes of them when the config changes) → `app`
//! (which notice becomes an event, and for whom) → `debounce` (who comes back in time has never left),
//! `misses` → `queue` → `endpoint` (delivery, one request after the other) →
//! `pace`, `client`; `failed` keeps what could not be delivered.

mod app;
mod client;
mod debounce;
mod endpoint;
mod failed;
mod misses;
mod pace;
mod place;
mod queue;
#[cfg(test)]
mod tests;
mod trouble;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

pub use self::endpoint::{Endpoint, Stats};
pub use self::failed::Selection;

use self::app::AppWebhooks;
use self::client::Client;
use self::endpoint::Sender;
use self::failed::Failed;
use self::queue::Bounds;
use crate::apps::LiveApp;
use crate::hub::{Observer, SharedNoticeFormat};
use crate::model::app::{AppId, Webhook};
use crate::model::webhooks::WebhookSettings;
use crate::tasks::forever;

/// How often is looked whether there is trouble to be logged.
const LOG_CHECK: Duration = Duration::from_secs(1);

/// The webhooks of all apps.
pub struct Webhooks {
    /// Those that have or had any.
    apps: RwLock<Vec<Arc<AppWebhooks>>>,
    bounds: Bounds,
    sender: Arc<Sender>,
    /// What has yet to begin its work.
    begun: Mutex<Vec<Begun>>,
    has_begun: Notify,
    /// How many events had been lost when the stop began.
    lost_before: AtomicU64,
}

/// What has work to do.
enum Begun {
    App(Arc<AppWebhooks>),
    Endpoint(Arc<Endpoint>),
}

impl Webhooks {
    /// The webhooks of those `apps` that have any.
    ///
    /// # Errors
    /// When an endpoint is asked for by https and the system trusts no certificates.
    pub fn new(
        apps: &[Arc<LiveApp>],
        settings: &WebhookSettings,
        format: SharedNoticeFormat,
    ) -> io::Result<Self> {
        let client = Client::new(false, settings.connect_timeout, settings.timeout)?;
        let sender = Sender {
            client: ArcSwap::from_pointee(client),
            format,
            failed: Failed::new(settings.max_failed_events, settings.max_failed_bytes),
            retry_for: settings.retry_for,
            hurry: watch::Sender::new(false),
            progress: Notify::new(),
        };
        let webhooks = Self {
            apps: RwLock::default(),
            bounds: Bounds { events: settings.max_queue_events, bytes: settings.max_queue_bytes },
            sender: Arc::new(sender),
            begun: Mutex::default(),
            has_begun: Notify::new(),
            lost_before: AtomicU64::new(0),
        };
        webhooks.prepare(apps.iter().map(|app| app.now()).flat_map(|app| app.webhooks.clone()))?;
        webhooks.replace(apps);
        Ok(webhooks)
    }

    /// Makes ready to ask these endpoints.
    ///
    /// # Errors
    /// When one is asked for by https and the system trusts no certificates; nothing has changed then.
    pub fn prepare(&self, webhooks: impl IntoIterator<Item = Webhook>) -> io::Result<()> {
        if webhooks.into_iter().any(|webhook| webhook.is_secure()) {
            let client = self.sender.client.load().secured().map_err(|error| {
                let what = format!("webhooks need the system's root certificates: {error}");
                io::Error::new(error.kind(), what)
            })?;
            client.into_iter().for_each(|client| self.sender.client.store(Arc::new(client)));
        }
        Ok(())
    }

    /// From now on the webhooks are those of these apps. Apps that have their first ones have to be
    /// observed, see [`Webhooks::observers`].
    pub fn replace(&self, apps: &[Arc<LiveApp>]) {
        let mut known = self.apps.write();
        let mut begun = self.begun.lock();
        let mut places: HashMap<_, _> =
            known.iter().enumerate().map(|(at, known)| (Arc::as_ptr(&known.app), at)).collect();
        for app in apps {
            let webhooks = &app.now().webhooks;
            let known_as = places.remove(&Arc::as_ptr(app));
            if known_as.is_none() && webhooks.is_empty() {
                continue;
            }
            let at = known_as.unwrap_or_else(|| {
                let new = Arc::new(AppWebhooks::new(app, self.bounds, &self.sender.format));
                begun.push(Begun::App(Arc::clone(&new)));
                known.push(new);
                known.len() - 1
            });
            begun.extend(known[at].replace(webhooks).into_iter().map(Begun::Endpoint));
        }
        // What is left is of apps that have gone.
        for at in places.into_values() {
            known[at].replace(&[]);
        }
        self.has_begun.notify_one();
    }

    /// Who has to be told the facts of which app.
    pub fn observers(&self) -> Vec<(AppId, Arc<dyn Observer>)> {
        let observer =
            |app: &Arc<AppWebhooks>| (Arc::clone(app.app.id()), Arc::clone(app) as Arc<dyn Observer>);
        self.apps.read().iter().map(observer).collect()
    }

    /// Every endpoint of every app.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.apps.read().iter().flat_map(|app| app.endpoints().to_vec()).collect()
    }

    /// Delivers, until it is dropped.
    pub async fn run(self: Arc<Self>) {
        let mut tasks = JoinSet::new();
        let webhooks = Arc::clone(&self);
        tasks.spawn(forever("troubles", move || Arc::clone(&webhooks).log()));
        loop {
            let begun = std::mem::take(&mut *self.begun.lock());
            begun.into_iter().for_each(|begun| self.begin(&mut tasks, begun));
            tokio::select! {
                () = self.has_begun.notified() => {}
                // An endpoint that was removed.
                _ = tasks.join_next() => {}
            }
        }
    }

    fn begin(&self, tasks: &mut JoinSet<()>, begun: Begun) {
        let sender = Arc::clone(&self.sender);
        match begun {
            Begun::App(app) => tasks
                .spawn(forever("departures", move || Arc::clone(&app).tell_departures(Arc::clone(&sender)))),
            Begun::Endpoint(endpoint) => {
                tasks.spawn(forever("endpoint", move || Arc::clone(&endpoint).run(Arc::clone(&sender))))
            }
        };
    }

    /// Logs trouble, for ever. Not where it comes from: locks are held there.
    async fn log(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOG_CHECK).await;
            self.endpoints().iter().for_each(|endpoint| endpoint.log_troubles());
        }
    }

    /// The broker stops: from now on departures are told at once, and nothing waits for more.
    pub fn hurry(&self) {
        self.lost_before.store(self.lost(), Ordering::Release);
        self.apps.read().iter().for_each(|app| app.hurry());
        self.sender.hurry.send_replace(true);
    }

    /// Waits until everything has been delivered or given up, at most until `deadline`. Returns how
    /// many events are left, or were lost since the stop began.
    pub async fn drain(&self, deadline: Instant) -> usize {
        loop {
            let progress = self.sender.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if self.left() == 0 || timeout_at(deadline, progress).await.is_err() {
                break;
            }
        }
        self.endpoints().iter().for_each(|endpoint| endpoint.log_troubles());
        let lost = self.lost().saturating_sub(self.lost_before.load(Ordering::Acquire));
        self.left() + usize::try_from(lost).unwrap_or(usize::MAX)
    }

    /// Events that may still be delivered. Departures first: what is told meanwhile is then unsent.
    fn left(&self) -> usize {
        self.departures() + self.endpoints().iter().map(|endpoint| endpoint.unsent()).sum::<usize>()
    }

    /// Events that were forgotten or given up.
    fn lost(&self) -> u64 {
        self.endpoints().iter().map(|endpoint| endpoint.lost()).sum()
    }

    /// Departures that wait to be told.
    pub fn departures(&self) -> usize {
        self.apps.read().iter().map(|app| app.debounce.lock().len()).sum()
    }

    /// Channels of which is remembered that a cache miss was told.
    pub fn misses(&self) -> usize {
        self.apps.read().iter().map(|app| app.misses.lock().len()).sum()
    }

    /// How many failed events are kept.
    pub fn failed_len(&self) -> usize {
        self.sender.failed.len()
    }

    /// The failed events that are selected, as a JSON object.
    pub fn failed(&self, selection: &Selection) -> String {
        self.sender.failed.list(selection)
    }

    /// Queues the selected failed events again, as if they had just happened, as far as there is room;
    /// the rest stay where they are. Returns how many.
    pub fn replay(&self, selection: &Selection) -> usize {
        // What comes after an event that had no room must not overtake it.
        let mut full = HashSet::new();
        let endpoints = self.endpoints();
        self.sender.failed.release(selection, |failed| {
            // Its endpoint, or one that has come for it since.
            let is_its = |e: &&Arc<Endpoint>| {
                let gone = failed.endpoint.index().is_none();
                let same = e.app() == &*failed.app && *e.shown() == failed.url;
                Arc::ptr_eq(e.place(), &failed.endpoint) || (gone && same)
            };
            let Some(endpoint) = endpoints.iter().find(is_its) else { return false };
            let place = Arc::as_ptr(endpoint);
            let takes = !full.contains(&place) && endpoint.offer(&failed.event);
            if !takes {
                full.insert(place);
            }
            takes
        })
    }
}
