//! The whole, put together: from a config to a running broker.

mod listeners;
mod live;
mod reload;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use self::listeners::Listeners;
pub use self::reload::{Control, NotReloaded, Reloaded};

use crate::addresses::Addresses;
use crate::admin::{self, Admin, Scrapes};
use crate::apps::Apps;
use crate::certificates::Certificates;
use crate::cluster::{Engine, Local, Redis, Site};
use crate::config::{Config, Listen};
use crate::hub::{self, Format, FormatId, Hub};
use crate::idempotency::Idempotency;
use crate::mailbox::Backlogs;
use crate::metrics::Metrics;
use crate::model::cluster::EngineKind;
use crate::model::secret::Secret;
use crate::model::webhooks::WebhookSettings;
use crate::notify;
use crate::pusher::{Pusher, PusherFormat, PusherWebhooks, rest};
use crate::server::{self, Listener, Server};
use crate::tasks::forever;
use crate::transport::fallback::Peers;
use crate::transport::{Framing, liveness, relief};
use crate::watchdog::Watchdog;
use crate::webhook::Webhooks;

/// How often cached events, kept replies and addresses are looked at whose time may be over.
const EXPIRY_SWEEP: Duration = Duration::from_secs(1);
/// How much of a stop is kept for telling the other nodes that this one leaves, at most.
const LEAVE: Duration = Duration::from_secs(2);
/// The place of the first [`PusherFormat`] among the hub's wire forms.
const FIRST_FORMAT: FormatId = FormatId(0);

/// A broker with its listeners bound. It serves nobody until it is run.
pub struct Broker {
    server: Arc<Server>,
    admin: Arc<Admin>,
    webhooks: Arc<Webhooks>,
    certificates: Option<Arc<Certificates>>,
    listeners: Vec<Listener>,
    admin_listener: StdTcpListener,
    watchdog: Arc<Watchdog>,
    public_addrs: Vec<SocketAddr>,
    admin_addr: SocketAddr,
    control: Arc<Control>,
    engine_timeout: Duration,
}

impl Broker {
    /// Binds every listener of a config. A socket that this process was [handed](Handed) takes the place
    /// of the listener that it is for.
    ///
    /// # Errors
    /// When an address cannot be bound, by its name; when a handed socket is not what the config has a
    /// place for; or when the system has no randomness.
    pub async fn bind(config: Config) -> io::Result<Self> {
        let certificates = certificates(&config)?;
        let Listeners { public, admin: admin_listener } =
            Listeners::bind(&config, certificates.as_ref()).await?;
        let (listeners, admin_listener) = (public, admin_listener.into_std()?);
        let public_addrs = listeners
            .iter()
            .filter_map(|listener| listener.local_addr().transpose())
            .collect::<io::Result<_>>()?;
        let admin_addr = admin_listener.local_addr()?;
        let pusher = Arc::new(pusher(&config, engine(&config)?)?);
        let webhooks = Arc::new(webhooks(&config.webhooks, &pusher)?);
        let watchdog = Arc::<Watchdog>::default();
        let admin = admin(&config, &pusher, &webhooks, certificates.clone(), &watchdog);
        let server = Arc::new(server(&config, pusher));
        let engine_timeout = config.cluster.timeout;
        let control = Arc::new(Control::new(config, &server, &webhooks, certificates.clone()));
        Ok(Self {
            admin: Arc::new(admin),
            watchdog,
            server,
            webhooks,
            certificates,
            listeners,
            admin_listener,
            public_addrs,
            admin_addr,
            control,
            engine_timeout,
        })
    }

    /// Where the public listeners are, in the order of the config; those on Unix sockets left out.
    pub fn public_addrs(&self) -> &[SocketAddr] {
        &self.public_addrs
    }

    /// The certificate of the `tls://` listeners, if there are any.
    pub fn certificates(&self) -> Option<Arc<Certificates>> {
        self.certificates.clone()
    }

    /// Where the private listener is.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// What a running broker is told to become another by.
    pub fn control(&self) -> Arc<Control> {
        Arc::clone(&self.control)
    }

    /// What knows whether the runtime that the broker runs on still runs its tasks. Any thread may ask.
    pub fn watchdog(&self) -> Arc<Watchdog> {
        Arc::clone(&self.watchdog)
    }

    /// Serves until `stop` is ready, then drains within the configured grace.
    ///
    /// # Errors
    /// When the system gives no thread for the private listener or the watchdog, or when sockets or requests
    /// were still under way at the end of the grace.
    pub async fn run(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let (stopping, stopped) = watch::channel(false);
        let (alive, ended) = mpsc::channel::<Infallible>(1);
        // Dropped, and so ended, when this function returns.
        let mut tasks = JoinSet::new();
        let private = admin::serve(self.admin, self.admin_listener).await?;
        let watchdog = self.watchdog;
        let _watching = watchdog.watch()?;
        work(&mut tasks, &self.server.pusher, &watchdog);
        tasks.spawn(forever("watchdog", move || Arc::clone(&watchdog).stamp()));
        tasks.spawn(Arc::clone(&self.webhooks).run());
        let mut stop = pin!(stop);
        if !joined(&self.server.pusher, self.engine_timeout, stop.as_mut()).await {
            tracing::info!("stopped before it served");
            private.stop().await;
            return Ok(());
        }
        for listener in self.listeners {
            tasks.spawn(server::accept(Arc::clone(&self.server), listener, stopped.clone(), alive.clone()));
        }
        // First: a reload that begins as soon as it is ready has to be told.
        self.control.serves(true);
        notify::ready().await;
        stop.await;
        self.control.serves(false);
        let (grace, pace) = self.control.pace();
        let deadline = Instant::now() + grace;
        let gone = deadline - leave_time(&self.server.pusher, grace);
        tokio::join!(notify::stopping(), server::announce(&self.server, &pace, gone));
        self.webhooks.hurry();
        let clean = server::drain(&self.server, &stopping, alive, ended, &pace, gone).await;
        // Now that nobody is here, the other nodes are told so. Half of what is left is for webhooks.
        let left = deadline.saturating_duration_since(Instant::now());
        let _ = timeout(left / 2, self.server.pusher.hub.engine().leave()).await;
        // Only now is all told: sockets that end have something to tell.
        let webhook_events = self.webhooks.drain(deadline).await;
        let ended = tell_end(clean, self.server.pusher.sockets.count(), webhook_events, deadline);
        private.stop().await;
        ended
    }
}

/// Waits until the engine is joined: whoever is let in earlier finds nobody of other nodes. Not for long, since
/// a node alone is better than none. Says no when `stop` is ready before.
async fn joined(pusher: &Pusher, patience: Duration, stop: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        _ = timeout(patience, pusher.hub.engine().joined()) => true,
        () = stop => false,
    }
}

/// Logs how the stop went.
fn tell_end(clean: bool, sockets: usize, webhook_events: usize, deadline: Instant) -> io::Result<()> {
    if clean && webhook_events == 0 {
        tracing::info!("stopped");
    } else if clean && Instant::now() < deadline {
        tracing::warn!(webhook_events, "stopped; not all webhooks were taken");
    } else {
        tracing::warn!(sockets, webhook_events, "stopped at the end of the grace; the rest is lost");
    }
    let late = || io::Error::new(io::ErrorKind::TimedOut, "sockets were still open at the end of the grace");
    if clean { Ok(()) } else { Err(late()) }
}

/// How much of the grace is kept for telling the other nodes that this one leaves.
fn leave_time(pusher: &Pusher, grace: Duration) -> Duration {
    if pusher.hub.engine().is_shared() { (grace / 4).min(LEAVE) } else { Duration::ZERO }
}

/// What is done besides serving.
fn work(tasks: &mut JoinSet<()>, pusher: &Arc<Pusher>, watchdog: &Arc<Watchdog>) {
    let living = Arc::clone(pusher);
    tasks.spawn(forever("liveness", move || {
        let pusher = Arc::clone(&living);
        liveness::sweep(Arc::clone(&living.sockets), move || liveness::period(&pusher.apps))
    }));
    let (sockets, backlogs) = (Arc::clone(&pusher.sockets), Arc::clone(&pusher.backlogs));
    tasks.spawn(forever("relief", move || relief::relieve(Arc::clone(&sockets), Arc::clone(&backlogs))));
    let healthy = Arc::clone(watchdog);
    tasks.spawn(forever("signs of life", move || {
        let watchdog = Arc::clone(&healthy);
        notify::watchdog(move || watchdog.is_healthy())
    }));
    let expiring = Arc::clone(pusher);
    tasks.spawn(forever("expiry", move || expire(Arc::clone(&expiring))));
    let hub = Arc::clone(&pusher.hub);
    tasks.spawn(forever("agenda", move || hub::keep_agenda(Arc::clone(&hub))));
    let hub = Arc::clone(&pusher.hub);
    tasks.spawn(forever("engine", move || {
        let site: Arc<dyn Site> = Arc::clone(&hub) as _;
        Arc::clone(hub.engine()).run(site)
    }));
}

fn server(config: &Config, pusher: Arc<Pusher>) -> Server {
    let server = &config.server;
    let fallback = Arc::new(Peers::new(Arc::clone(&pusher.sockets), live::fallback(server)));
    Server {
        pusher,
        fallback,
        path_prefix: server.path_prefix.clone(),
        proxy_protocol: server.proxy_protocol,
        settings: ArcSwap::from_pointee(live::connections(server)),
    }
}

fn admin(
    config: &Config,
    pusher: &Pusher,
    webhooks: &Arc<Webhooks>,
    certificates: Option<Arc<Certificates>>,
    watchdog: &Arc<Watchdog>,
) -> Admin {
    Admin {
        hub: Arc::clone(&pusher.hub),
        sockets: Arc::clone(&pusher.sockets),
        idempotency: Arc::clone(&pusher.idempotency),
        addresses: Arc::clone(&pusher.addresses),
        backlogs: Arc::clone(&pusher.backlogs),
        engine: Arc::clone(pusher.hub.engine()),
        webhooks: Arc::clone(webhooks),
        certificates,
        metrics: Arc::clone(&pusher.metrics),
        watchdog: Arc::clone(watchdog),
        runtime: Handle::current(),
        scrapes: Scrapes::default(),
        token: Some(&config.admin.token).filter(|token| !token.is_empty()).map(Secret::new),
    }
}

/// The webhooks of the apps, told what happens in the hub.
fn webhooks(settings: &WebhookSettings, pusher: &Pusher) -> io::Result<Webhooks> {
    let webhooks = Webhooks::new(&pusher.apps.all(), settings, Arc::new(PusherWebhooks))?;
    observe(pusher, &webhooks);
    Ok(webhooks)
}

/// Has the webhooks told what becomes true, also those of apps that had none before.
fn observe(pusher: &Pusher, webhooks: &Webhooks) {
    for (app, observer) in webhooks.observers() {
        pusher.hub.observe(&app, observer);
    }
}

fn pusher(config: &Config, engine: Arc<dyn Engine>) -> io::Result<Pusher> {
    let metrics = Arc::new(Metrics::default());
    let settings = live::hub(config);
    let formats: Arc<[Box<dyn Format>]> =
        Framing::ALL.into_iter().map(|framing| Box::new(PusherFormat(framing)) as Box<dyn Format>).collect();
    let hub = Hub::new(settings, formats, Arc::clone(&metrics), engine).map_err(io::Error::other)?;
    Ok(Pusher {
        addresses: Arc::new(Addresses::new(live::addresses(&config.server), Arc::clone(&metrics))),
        apps: Apps::new(config.apps.iter().cloned()),
        hub: Arc::new(hub),
        sockets: Arc::default(),
        backlogs: Arc::new(Backlogs::new(config.server.max_mailboxes_bytes)),
        quotas: rest::Quotas::default(),
        idempotency: Arc::new(Idempotency::new(config.server.queue_timeout)),
        metrics,
        settings: ArcSwap::from_pointee(live::sockets(&config.server)),
        first_format: FIRST_FORMAT,
    })
}

/// What joins this node to others.
fn engine(config: &Config) -> io::Result<Arc<dyn Engine>> {
    Ok(match config.cluster.engine {
        EngineKind::Local => Arc::new(Local),
        EngineKind::Redis => Arc::new(Redis::new(&config.cluster)?),
    })
}

/// The certificate of the `tls://` listeners, if there are any.
fn certificates(config: &Config) -> io::Result<Option<Arc<Certificates>>> {
    let wanted = config.server.listen.iter().any(|listen| matches!(listen, Listen::Tls(_)));
    match (&config.server.tls.cert, &config.server.tls.key) {
        (Some(cert), Some(key)) if wanted => {
            let unusable = |problem| io::Error::new(io::ErrorKind::InvalidInput, problem);
            Ok(Some(Arc::new(Certificates::load(cert, key).map_err(unusable)?)))
        }
        _ => Ok(None),
    }
}

async fn expire(pusher: Arc<Pusher>) {
    let mut ticks = tokio::time::interval(EXPIRY_SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        pusher.hub.expire_cache();
        pusher.idempotency.expire();
        pusher.addresses.forget();
    }
}
