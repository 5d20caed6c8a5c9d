//! From a path to the room behind it: the table of contents of the public side.

use std::net::IpAddr;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};

use super::{Alive, Origin, Server};
use crate::http::{self, Reply};
use crate::pusher::{self, Arrival, rest};
use crate::transport::websocket::is_upgrade;

/// Answers one request.
pub(super) async fn route(
    server: &Server,
    request: Request<Incoming>,
    origin: Origin,
    alive: &Alive,
) -> Reply {
    let whole = request.uri().path().to_owned();
    let prefix = &server.pusher.settings.path_prefix;
    let path = whole.strip_prefix(prefix.as_str()).unwrap_or_default();
    let socket_key = path.strip_prefix("/app/").filter(|key| !key.is_empty() && !key.contains('/'));
    match socket_key {
        Some(key) if is_upgrade(&request) => {
            let arrival = Arrival { secure: origin.tls || proxy_had_tls(server, &request, origin.peer.ip()) };
            pusher::connect(&server.pusher, request, key, arrival, alive.clone())
        }
        Some(_) => http::text(StatusCode::UPGRADE_REQUIRED, "This is a WebSocket endpoint"),
        None if path.starts_with("/apps/") => rest::answer(&server.pusher, request, path).await,
        // As one library asks to end a user's connections.
        None if path.starts_with("/users/") && !is_upgrade(&request) => {
            rest::answer(&server.pusher, request, path).await
        }
        None if is_upgrade(&request) => pusher::refuse_path(&server.pusher, request, alive.clone()),
        None => http::text(StatusCode::NOT_FOUND, "Not found"),
    }
}

/// By a trusted proxy's word.
fn proxy_had_tls(server: &Server, request: &Request<Incoming>, peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    let trusted = server.settings.trusted_proxies.iter().any(|network| network.contains(&peer));
    let proto = request.headers().get("x-forwarded-proto").and_then(|value| value.to_str().ok());
    // Of several proxies, the one that the client reached stands first.
    let proto = proto.and_then(|proto| proto.split(',').next()).map(str::trim).unwrap_or_default();
    trusted && (proto.eq_ignore_ascii_case("https") || proto.eq_ignore_ascii_case("wss"))
}
