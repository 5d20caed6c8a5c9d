//! The HTTP API (protocol.md §6): the list of its routes, and the guard that every request has to
//! pass first. One file for each endpoint.

mod batch_events;
mod channel;
mod channels;
mod deprecated;
mod events;
mod guard;
mod info;
mod once;
mod publication;
mod quota;
mod request_id;
mod terminate;
mod users;

pub use self::quota::Quotas;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::EXPECT;
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};

use self::once::Endpoint;
use super::query::{Plus, Query, decode};
use super::{Pusher, json};
use crate::http::{self, BodyError, Reply};
use crate::hub::AppHub;
use crate::metrics::{ApiEndpoint, Cause, Unproven};
use crate::model::app::App;

/// What an endpoint works with: a request that has passed the guard.
struct Call<'a> {
    app: &'a App,
    hub: Arc<AppHub>,
    query: Query<'a>,
    pusher: &'a Pusher,
    /// Something has been published; what is left is only to answer.
    published: AtomicBool,
}

/// An answer other than success.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Refusal {
    status: StatusCode,
    text: String,
    /// The rest of the request is not worth reading.
    hang_up: bool,
    /// Seconds after which it is worth another try.
    retry_after: Option<u64>,
    /// Why the request is not believed to come from the app's backend; `None` if it is, or nobody asked.
    unproven: Option<Cause>,
}

impl Refusal {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), hang_up: false, retry_after: None, unproven: None }
    }

    fn unproven(cause: Cause, text: impl Into<String>) -> Self {
        Self { unproven: Some(cause), ..Self::new(StatusCode::UNAUTHORIZED, text) }
    }

    fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    fn reply(&self) -> Reply {
        let reply = http::text(self.status, &self.text);
        let reply = match self.retry_after {
            Some(seconds) => http::retry_after(reply, seconds),
            None => reply,
        };
        if self.hang_up { http::last(reply) } else { reply }
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        let (status, text) = match error {
            BodyError::TooLong => (StatusCode::PAYLOAD_TOO_LARGE, "The request body is too large"),
            BodyError::TooSlow => (StatusCode::REQUEST_TIMEOUT, "The request body did not arrive in time"),
            BodyError::Lost => (StatusCode::BAD_REQUEST, "The request body is incomplete"),
        };
        Self { hang_up: true, ..Self::new(status, text) }
    }
}

/// Answers a request for `/apps/…`, or for `/users/…` as some libraries ask it. `path` is the path without
/// the configured prefix, still encoded; `client` is where the request comes from.
pub async fn answer(pusher: &Pusher, request: Request<Incoming>, path: &str, client: IpAddr) -> Reply {
    let endpoint = endpoint(request.method(), path);
    let mut id = request_id::of(request.headers());
    let answered = route(pusher, request, path, client).await;
    if id.is_none() && (answered.is_err() || tracing::enabled!(tracing::Level::DEBUG)) {
        id = request_id::made();
    }
    let shown = id.as_ref().and_then(|id| id.to_str().ok());
    let mut reply = match answered {
        Ok(reply) => {
            tracing::debug!(id = shown, path, status = reply.status().as_u16(), "API request");
            reply
        }
        Err(refusal) => {
            if let Some(cause) = refusal.unproven {
                pusher.metrics.auth_failures.add(Unproven::ApiRequest, cause);
            }
            let (status, text) = (refusal.status.as_u16(), &refusal.text);
            tracing::debug!(id = shown, path, status, text, "API request refused");
            refusal.reply()
        }
    };
    pusher.metrics.api_requests.answered(endpoint, reply.status().as_u16());
    if let Some(id) = id {
        reply.headers_mut().insert(request_id::HEADER, id);
    }
    reply
}

/// What a request asks, for metrics. It may still be refused for anything.
fn endpoint(method: &Method, path: &str) -> ApiEndpoint {
    let mut segments = segments_of(path);
    let segments = [(); 4].map(|()| segments.next());
    match (method, segments) {
        (&Method::POST, [Some("events"), None, ..]) => ApiEndpoint::Events,
        (&Method::POST, [Some("batch_events"), None, ..]) => ApiEndpoint::BatchEvents,
        (&Method::GET, [Some("channels"), None, ..]) => ApiEndpoint::Channels,
        (&Method::GET, [Some("channels"), Some(_), None, _]) => ApiEndpoint::Channel,
        (&Method::GET, [Some("channels"), Some(_), Some("users"), None]) => ApiEndpoint::ChannelUsers,
        (&Method::GET, [Some("channels"), Some(_), Some("stats"), None]) => ApiEndpoint::ChannelStats,
        (&Method::POST, [Some("channels"), Some(_), Some("events"), None]) => ApiEndpoint::ChannelEvents,
        (&Method::POST, [Some("users"), Some(_), Some("terminate_connections"), None]) => {
            ApiEndpoint::TerminateConnections
        }
        _ => ApiEndpoint::Unknown,
    }
}

async fn route(
    pusher: &Pusher,
    request: Request<Incoming>,
    path: &str,
    client: IpAddr,
) -> Result<Reply, Refusal> {
    let (parts, body) = request.into_parts();
    let timeout = pusher.settings.load().body_timeout;
    // The signature covers the body by its MD5, so a stranger's body is never taken in.
    let (app, query, signed) = match guard::admit_from(client, pusher, &parts, path) {
        Ok(admitted) => admitted,
        Err(refusal) => return Err(unread(refusal, &parts, body, timeout).await),
    };
    let body = http::read_body(body, app.limits.max_request_bytes(), timeout).await?;
    guard::check_body(&signed, &body)?;
    pusher.metrics.api_bytes.add(body.len());

    let call =
        Call { app: &app, hub: pusher.hub.app(&app.id), query, pusher, published: AtomicBool::new(false) };
    // What is not UTF-8 stays as it is, and so names nothing that there is.
    let decoded = |segment| decode(segment, Plus::Literal).unwrap_or(Cow::Borrowed(segment));
    let rest: Vec<_> = segments_of(path).map(decoded).collect();
    let rest: Vec<&str> = rest.iter().map(AsRef::as_ref).collect();
    match (&parts.method, rest.as_slice()) {
        (&Method::POST, ["events"]) => once::publish(&call, &parts.headers, Endpoint::Events, body).await,
        (&Method::POST, ["batch_events"]) => {
            once::publish(&call, &parts.headers, Endpoint::BatchEvents, body).await
        }
        (&Method::GET, ["channels"]) => channels::list(&call).await,
        (&Method::GET, ["channels", name]) => channel::show(&call, name).await,
        (&Method::GET, ["channels", name, "users"]) => users::list(&call, name).await,
        (&Method::POST, ["users", id, "terminate_connections"]) if !id.is_empty() => {
            terminate::terminate(&call, id).await
        }
        (&Method::POST, ["channels", name, "events"]) => deprecated::trigger(&call, name, body).await,
        (&Method::GET, ["channels", name, "stats"]) => deprecated::stats(&call, name).await,
        _ => Err(Refusal::new(StatusCode::NOT_FOUND, "Not found")),
    }
}

/// Refuses a request whose body is not wanted. A small one is thrown away, for the sake of the connection;
/// but who asks first is not told to send it.
async fn unread(refusal: Refusal, parts: &Parts, body: Incoming, timeout: Duration) -> Refusal {
    let asks = parts.headers.contains_key(EXPECT);
    let hang_up = asks || !http::throw_away(body, timeout).await;
    Refusal { hang_up, ..refusal }
}

/// What stands in a path behind the app's id, still encoded; in a path without an app, all of it.
fn segments_of(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').skip(if path.starts_with("/apps/") { 3 } else { 1 })
}

/// Reads a JSON object from a body.
fn parse<'a, T: serde::Deserialize<'a>>(body: &'a Bytes) -> Result<T, Refusal> {
    json::object(body).ok_or_else(|| Refusal::bad_request("Invalid JSON provided: expected an object"))
}

/// What every successful trigger without `info` answers.
fn empty_object() -> Reply {
    http::json(StatusCode::OK, Bytes::from_static(b"{}"))
}
