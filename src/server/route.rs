//! From a path to the room behind it: the table of contents of the public side.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue};
use hyper::{Request, StatusCode};

use super::{Alive, Origin, Remote, Server};
use crate::addresses::Guest;
use crate::http::{self, Reply};
use crate::model::turned_away::TurnedAway;
use crate::pusher::{Arrival, Entry, rest};
use crate::transport::fallback;
use crate::transport::websocket::is_upgrade;

/// Seconds after which a socket that was not even told of a limit may try again.
const RETRY_S: u64 = 1;

/// Answers one request.
pub(super) async fn route(
    server: &Server,
    request: Request<Incoming>,
    origin: Origin,
    alive: &Alive,
    guest: &Arc<Guest>,
) -> Reply {
    let whole = request.uri().path().to_owned();
    let pusher = &server.pusher;
    let path = whole.strip_prefix(server.path_prefix.as_str()).unwrap_or_default();
    let socket_key = path.strip_prefix("/app/").filter(|key| !key.is_empty() && !key.contains('/'));
    if let Some(key) = socket_key {
        if !is_upgrade(&request) {
            return http::text(StatusCode::UPGRADE_REQUIRED, "This is a WebSocket endpoint");
        }
        let arrival = arrival(server, &request, origin);
        let entry = Entry::new(pusher, &request, key, arrival);
        return match host(server, &request, origin, guest) {
            Ok(guest) => entry.upgrade(request, alive.clone(), guest),
            Err(_) => refuse(server, entry.over_capacity(), request, origin, alive),
        };
    }
    // As one library asks to end a user's connections.
    let is_user = path.starts_with("/users/") && !is_upgrade(&request);
    if path.starts_with("/apps/") || is_user {
        let client = client_address(server, &request, origin.remote);
        return rest::answer(pusher, request, path, client).await;
    }
    if is_upgrade(&request) {
        let entry = Entry::on_no_path(pusher, &request);
        return match host(server, &request, origin, guest) {
            Ok(guest) => entry.upgrade(request, alive.clone(), guest),
            Err(_) => refuse(server, entry, request, origin, alive),
        };
    }
    if let Some(session) = fallback::Path::parse(path) {
        let arrival = arrival(server, &request, origin);
        let open = |request: &Request<()>, transport, has_room| {
            let entry = Entry::new(pusher, request, session.key, arrival);
            let entry = if has_room { entry } else { entry.over_capacity() };
            entry.open(transport, None)
        };
        let client = client_address(server, &request, origin.remote);
        return server.fallback.answer(request, session, client, alive.clone(), open).await;
    }
    if path.starts_with("/timeline/") {
        return statistics();
    }
    http::text(StatusCode::NOT_FOUND, "Not found")
}

/// Tells a socket above a limit of its address why it is closed, or answers in the cheapest way when too
/// many are being told.
fn refuse(server: &Server, entry: Entry, request: Request<Incoming>, origin: Origin, alive: &Alive) -> Reply {
    let client = client_address(server, &request, origin.remote);
    match server.pusher.addresses.refuse(client) {
        Some(refusal) => entry.upgrade(request, alive.clone(), refusal),
        None => http::retry_after(http::text(StatusCode::SERVICE_UNAVAILABLE, "Over capacity"), RETRY_S),
    }
}

/// Clients may be told to report how they connect; nobody wants to know here.
fn statistics() -> Reply {
    let mut reply = http::json(StatusCode::OK, Bytes::from_static(b"{}"));
    reply.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    reply
}

fn is_trusted(server: &Server, remote: Remote) -> bool {
    match remote {
        Remote::Tcp(_) => server.settings.load().trusts(remote.ip()),
        Remote::Nameless(_) => false,
        Remote::Unix => server.settings.load().trusts_unix,
    }
}

fn arrival(server: &Server, request: &Request<Incoming>, origin: Origin) -> Arrival {
    Arrival { secure: origin.tls || proxy_had_tls(server, request, origin.remote) }
}

/// Who is counted for a socket: the connection, unless it is a proxy's; `None` if nobody is.
fn host(
    server: &Server,
    request: &Request<Incoming>,
    origin: Origin,
    connection: &Arc<Guest>,
) -> Result<Option<Arc<Guest>>, TurnedAway> {
    let client = client_address(server, request, origin.remote);
    let guest = if client == origin.remote.ip() {
        Arc::clone(connection)
    } else {
        Arc::new(server.pusher.addresses.visit(client)?)
    };
    Ok(guest.is_counted().then_some(guest))
}

/// Where a client is: behind trusted proxies, the last address that none of them has.
fn client_address(server: &Server, request: &Request<Incoming>, remote: Remote) -> IpAddr {
    let lines = request.headers().get_all("x-forwarded-for").iter().rev();
    // What is no address ends the walk: what stands before it may be the client's own words.
    let lines = lines.map(|value| value.to_str().unwrap_or_default());
    let mut hops = lines.flat_map(|line| line.rsplit(',')).map(forwarded_address);
    let (mut client, mut trusted) = (remote.ip(), is_trusted(server, remote));
    while trusted && let Some(Some(hop)) = hops.next() {
        client = hop.to_canonical();
        trusted = server.settings.load().trusts(client);
    }
    client
}

/// An address as proxies write it: alone, or with a port.
fn forwarded_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let alone = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    alone.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
}

/// By a trusted proxy's word.
fn proxy_had_tls(server: &Server, request: &Request<Incoming>, remote: Remote) -> bool {
    let trusted = is_trusted(server, remote);
    let proto = request.headers().get("x-forwarded-proto").and_then(|value| value.to_str().ok());
    // Of several proxies, the one that the client reached stands first.
    let proto = proto.and_then(|proto| proto.split(',').next()).map(str::trim).unwrap_or_default();
    trusted && (proto.eq_ignore_ascii_case("https") || proto.eq_ignore_ascii_case("wss"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_addresses_are_read_with_and_without_a_port() {
        for (text, address) in [
            ("1.2.3.4", "1.2.3.4"),
            (" 1.2.3.4:55123 ", "1.2.3.4"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("[2001:db8::1]:9", "2001:db8::1"),
        ] {
            assert_eq!(forwarded_address(text), address.parse().ok(), "{text}");
        }
        for text in ["", "unknown", "1.2.3", "1.2.3.4:", "_hidden", "a, b"] {
            assert_eq!(forwarded_address(text), None, "{text}");
        }
    }
}
