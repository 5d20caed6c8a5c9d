//! The private listener: health, readiness, metrics, and webhooks that failed.

mod cluster;
mod metrics;
mod origin;
mod webhooks;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::accept;
use crate::certificates::Certificates;
use crate::cluster::Engine;
use crate::http::{self, Reply};
use crate::hub::Hub;
use crate::idempotency::Idempotency;
use crate::metrics::Metrics;
use crate::model::secret::Secret;
use crate::sockets::Sockets;
use crate::webhook::Webhooks;

const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HTTP_BUFFER: usize = 16 * 1024;

/// What the private listener tells.
pub struct Admin {
    /// Channels.
    pub hub: Arc<Hub>,
    /// Open sockets.
    pub sockets: Arc<Sockets>,
    /// Requests that are not carried out twice.
    pub idempotency: Arc<Idempotency>,
    /// What joins this node to others.
    pub engine: Arc<dyn Engine>,
    /// Webhooks.
    pub webhooks: Arc<Webhooks>,
    /// The certificate of the public side, if it has one.
    pub certificates: Option<Arc<Certificates>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What callers must show as `Authorization: Bearer TOKEN`; `None`: nothing.
    pub token: Option<Secret>,
}

/// Serves the private listener. Never ends; it is up until the broker has stopped.
pub async fn serve(admin: Arc<Admin>, listener: TcpListener) {
    accept::each(listener, |stream, _| {
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let admin = Arc::clone(&admin);
                async move { Ok::<_, Infallible>(answer(&admin, &request)) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HTTP_BUFFER);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "private connection ended");
            }
        });
    })
    .await;
}

fn answer(admin: &Arc<Admin>, request: &Request<Incoming>) -> Reply {
    match &admin.token {
        Some(token) if !shows(token, request) => {
            return http::text(StatusCode::UNAUTHORIZED, "Send the token as: Authorization: Bearer TOKEN");
        }
        None if !origin::is_local(request.headers()) => {
            return http::text(StatusCode::FORBIDDEN, "Not for web pages, nor by other names than localhost");
        }
        _ => {}
    }
    let query = request.uri().query().unwrap_or_default();
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz") => http::text(StatusCode::OK, "ok"),
        (&Method::GET, "/readyz") => cluster::readiness(admin.sockets.are_stopping(), admin.engine.as_ref()),
        (&Method::GET, "/metrics") => match metrics::exposition(admin) {
            Ok(text) => http::reply(
                StatusCode::OK,
                HeaderValue::from_static(metrics::CONTENT_TYPE),
                Bytes::from(text),
            ),
            Err(_) => http::text(StatusCode::INTERNAL_SERVER_ERROR, "The metrics cannot be written"),
        },
        (&Method::GET, "/webhooks/failed") => webhooks::failed(&admin.webhooks, query),
        (&Method::POST, "/webhooks/replay") => webhooks::replay(&admin.webhooks, query),
        _ => http::text(StatusCode::NOT_FOUND, "Not found"),
    }
}

fn shows(token: &Secret, request: &Request<Incoming>) -> bool {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    given.and_then(|given| given.strip_prefix("Bearer ")).is_some_and(|given| token.is(given))
}
