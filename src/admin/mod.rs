//! The private listener: health, readiness, metrics, and webhooks that failed.
//!
//! It has a thread and a runtime of its own, so that it answers also when the broker's own runtime does
//! not run any task; and however often it is asked, that costs others one core at most.

mod cluster;
mod metrics;
mod origin;
mod webhooks;

use std::convert::Infallible;
use std::io;
use std::net::TcpListener as StdTcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, AUTHORIZATION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{self, Handle};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

pub use self::metrics::Scrapes;

use crate::accept;
use crate::addresses::Addresses;
use crate::certificates::Certificates;
use crate::cluster::Engine;
use crate::http::{self, Reply};
use crate::hub::Hub;
use crate::idempotency::Idempotency;
use crate::mailbox::Backlogs;
use crate::metrics::Metrics;
use crate::model::secret::Secret;
use crate::sockets::Sockets;
use crate::watchdog::Watchdog;
use crate::webhook::Webhooks;

const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the stop waits for a reply that is being made.
const LAST_REPLY: Duration = Duration::from_secs(1);
const MAX_HTTP_BUFFER: usize = 16 * 1024;
/// Connections at once: they share the process's open files with clients.
const MAX_CONNECTIONS: usize = 512;

/// What the private listener tells.
pub struct Admin {
    /// Channels.
    pub hub: Arc<Hub>,
    /// Open sockets.
    pub sockets: Arc<Sockets>,
    /// Requests that are not carried out twice.
    pub idempotency: Arc<Idempotency>,
    /// Who has how many connections.
    pub addresses: Arc<Addresses>,
    /// What waits for all sockets together.
    pub backlogs: Arc<Backlogs>,
    /// What joins this node to others.
    pub engine: Arc<dyn Engine>,
    /// Webhooks.
    pub webhooks: Arc<Webhooks>,
    /// The certificate of the public side, if it has one.
    pub certificates: Option<Arc<Certificates>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Whether the broker's runtime runs.
    pub watchdog: Arc<Watchdog>,
    /// The broker's runtime.
    pub runtime: Handle,
    /// Scrapes under way.
    pub scrapes: Scrapes,
    /// What callers must show as `Authorization: Bearer TOKEN`; `None`: nothing.
    pub token: Option<Secret>,
}

/// The private listener, being served. It ends when this is dropped.
pub struct Serving {
    stop: oneshot::Sender<Infallible>,
    ended: oneshot::Receiver<Infallible>,
}

impl Serving {
    /// Ends it, and waits until nobody can reach it any more, but not for long.
    pub async fn stop(self) {
        drop(self.stop);
        let _ = timeout(LAST_REPLY, self.ended).await;
    }
}

/// Serves the private listener.
///
/// # Errors
/// When the system gives no thread, or nothing to wait for connections with.
pub async fn serve(admin: Arc<Admin>, listener: StdTcpListener) -> io::Result<Serving> {
    let (stop, stopped) = oneshot::channel::<Infallible>();
    let (end, ended) = oneshot::channel();
    let (begin, begun) = oneshot::channel();
    thread::Builder::new().name("admin".to_owned()).spawn(move || {
        let _end = end;
        match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(serve_here(admin, listener, begin, stopped)),
            Err(error) => drop(begin.send(Err(error))),
        }
    })?;
    begun.await.unwrap_or_else(|_| Err(io::Error::other("the private listener's thread ended")))?;
    Ok(Serving { stop, ended })
}

async fn serve_here(
    admin: Arc<Admin>,
    listener: StdTcpListener,
    begin: oneshot::Sender<io::Result<()>>,
    stopped: oneshot::Receiver<Infallible>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return drop(begin.send(Err(error))),
    };
    let _ = begin.send(Ok(()));
    let rooms = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tokio::select! {
        () = accept::each(listener, |stream, _| {
            // Whoever comes above that is hung up on.
            let Ok(room) = Arc::clone(&rooms).try_acquire_owned() else { return };
            let admin = Arc::clone(&admin);
            tokio::spawn(async move {
                connection(admin, stream).await;
                drop(room);
            });
        }) => {}
        _ = stopped => {}
    }
}

async fn connection(admin: Arc<Admin>, stream: TcpStream) {
    let service = service_fn(move |request| {
        let admin = Arc::clone(&admin);
        async move { Ok::<_, Infallible>(answer(&admin, &request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HTTP_BUFFER);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "private connection ended");
    }
}

async fn answer(admin: &Arc<Admin>, request: &Request<Incoming>) -> Reply {
    match &admin.token {
        Some(token) if !shows(token, request) => return to_a_stranger(admin, request),
        None if !origin::is_local(request.headers()) => {
            return http::text(StatusCode::FORBIDDEN, "Not for web pages, nor by other names than localhost");
        }
        _ => {}
    }
    let query = request.uri().query().unwrap_or_default();
    let asked = match *request.method() {
        Method::GET | Method::HEAD => "GET",
        Method::POST => "POST",
        _ => "",
    };
    match (asked, request.uri().path()) {
        ("GET", "/healthz") => health(&admin.watchdog),
        ("GET", "/readyz") => cluster::readiness(admin.sockets.are_stopping(), admin.engine.as_ref()),
        ("GET", "/metrics") => metrics::scrape(admin, request.headers()).await,
        ("GET", "/webhooks/failed") => webhooks::failed(&admin.webhooks, query),
        ("POST", "/webhooks/replay") => webhooks::replay(&admin.webhooks, query),
        (_, "/healthz" | "/readyz" | "/metrics" | "/webhooks/failed") => not_allowed("GET, HEAD"),
        (_, "/webhooks/replay") => not_allowed("POST"),
        _ => http::text(StatusCode::NOT_FOUND, "Not found"),
    }
}

/// What callers get who show no token. Balancers and orchestrators, whose probes cannot, are told yes or
/// no, and not why.
fn to_a_stranger(admin: &Admin, request: &Request<Incoming>) -> Reply {
    let is_probe = matches!(*request.method(), Method::GET | Method::HEAD);
    let status = match request.uri().path() {
        "/healthz" if is_probe => health(&admin.watchdog).status(),
        "/readyz" if is_probe => {
            cluster::readiness(admin.sockets.are_stopping(), admin.engine.as_ref()).status()
        }
        _ => {
            return http::text(StatusCode::UNAUTHORIZED, "Send the token as: Authorization: Bearer TOKEN");
        }
    };
    http::text(status, if status.is_success() { "yes" } else { "no" })
}

fn not_allowed(methods: &'static str) -> Reply {
    let mut reply = http::text(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed");
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    reply
}

/// `GET /healthz`: whether this process should go on, or be started again.
fn health(watchdog: &Watchdog) -> Reply {
    if watchdog.is_healthy() {
        return http::text(StatusCode::OK, "ok");
    }
    let seconds = watchdog.stalled().as_secs();
    http::text(StatusCode::SERVICE_UNAVAILABLE, &format!("stalled: no task has run for {seconds} s"))
}

fn shows(token: &Secret, request: &Request<Incoming>) -> bool {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    given.and_then(|given| given.strip_prefix("Bearer ")).is_some_and(|given| token.is(given))
}
