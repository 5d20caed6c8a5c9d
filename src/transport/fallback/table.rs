//! The table of sessions: which request belongs to which of them, and how many there may be.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use tokio::sync::watch;

use super::cors::Cors;
use super::line::Reading;
use super::peer::Peer;
use super::{Action, OPENED, Path, close_frame};
use crate::http::{self, Reply, ReplyBody};
use crate::model::close::CloseReason;
use crate::model::network::network_of;
use crate::model::transport::Transport;
use crate::sockets::Sockets;
use crate::transport::{Opened, Session};

/// What every streamed reply begins with: some browsers pass nothing on before.
const PRELUDE: [u8; 2049] = {
    let mut prelude = [b'h'; 2049];
    prelude[2048] = b'\n';
    prelude
};
/// Bytes of the body of a request that has none to have.
const NO_BODY: usize = 1024;
/// Bytes around a list of messages, each of which may be escaped.
const AROUND: usize = 1024;

/// Messages in one list: they are worked off without a pause.
const MAX_MESSAGES: usize = 256;

/// What bounds the sessions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Sessions at once.
    pub max_sessions: usize,
    /// Sessions of one address.
    pub max_per_address: usize,
    /// How long a request's body may take.
    pub body_timeout: Duration,
}

/// Every session of the fallbacks.
pub struct Peers<S> {
    table: DashMap<Arc<str>, Arc<Peer<S>>>,
    /// How many each network has; see [`network_of`].
    addresses: DashMap<IpAddr, usize>,
    count: AtomicUsize,
    /// How many clients have not heard of their session's end.
    untold: watch::Sender<usize>,
    sockets: Arc<Sockets>,
    settings: ArcSwap<Settings>,
}

/// A session's place in the table. Dropping it gives it back.
struct Place<S> {
    peers: Arc<Peers<S>>,
    address: IpAddr,
    key: Arc<str>,
}

impl<S> Drop for Place<S> {
    fn drop(&mut self) {
        self.peers.table.remove(&self.key);
        self.peers.leave(self.address);
    }
}

/// A session whose client has not heard of its end.
struct Untold<S>(Arc<Peers<S>>);

impl<S> Untold<S> {
    fn new(peers: &Arc<Peers<S>>) -> Self {
        peers.untold.send_modify(|count| *count += 1);
        Self(Arc::clone(peers))
    }
}

impl<S> Drop for Untold<S> {
    fn drop(&mut self) {
        self.0.untold.send_modify(|count| *count -= 1);
    }
}

impl<S> Peers<S> {
    /// An empty table; its sessions are among `sockets`.
    pub fn new(sockets: Arc<Sockets>, settings: Settings) -> Self {
        let (table, addresses, count) = (DashMap::new(), DashMap::new(), AtomicUsize::new(0));
        Self {
            table,
            addresses,
            count,
            untold: watch::Sender::new(0),
            sockets,
            settings: ArcSwap::from_pointee(settings),
        }
    }

    /// From now on these bound them. Sessions that are there stay.
    pub fn change(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Waits until there is no session but such as have ended, and whose clients have heard of it or have
    /// not asked in time.
    pub async fn all_told(&self) {
        let _ = self.untold.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Takes a place, if there is one left.
    fn enter(&self, address: IpAddr) -> bool {
        let below = |limit: usize| move |count: usize| (count < limit).then_some(count + 1);
        let max = self.settings.load().max_sessions;
        if self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, below(max)).is_err() {
            return false;
        }
        let mut of_address = self.addresses.entry(address).or_insert(0);
        *of_address += 1;
        let is_below = *of_address <= self.settings.load().max_per_address;
        drop(of_address);
        if !is_below {
            self.leave(address);
        }
        is_below
    }

    fn leave(&self, address: IpAddr) {
        self.count.fetch_sub(1, Ordering::AcqRel);
        if let Some(mut of_address) = self.addresses.get_mut(&address) {
            *of_address -= 1;
        }
        self.addresses.remove_if(&address, |_, count| *count == 0);
    }
}

impl<S: Session> Peers<S> {
    /// Answers a request to a session. `open` opens the socket of a new one, or refuses it where there
    /// is no room; `alive` is held until it has ended.
    pub async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        path: Path<'_>,
        address: IpAddr,
        alive: impl Send + 'static,
        open: impl FnOnce(&Request<()>, Transport, bool) -> Opened<S>,
    ) -> Reply {
        let (parts, body) = request.into_parts();
        let cors = Cors::of(&parts.headers);
        if parts.method == Method::OPTIONS {
            // Were it left unread, hyper would answer the next request too, and so on, and keep all replies.
            let goes_on = http::throw_away(body, self.settings.load().body_timeout).await;
            return if goes_on { cors.preflight() } else { http::last(cors.preflight()) };
        }
        if parts.method != Method::POST {
            return cors.refuse_method();
        }
        let key: Arc<str> = format!("{}/{}", path.key, path.session).into();
        let (reading, transport) = match path.action {
            Action::Send => return cors.allow(self.take(&key, body).await),
            Action::Stream => (Reading::Stream, Transport::XhrStreaming),
            Action::Poll => (Reading::Once, Transport::XhrPolling),
        };
        if http::read_body(body, NO_BODY, self.settings.load().body_timeout).await.is_err() {
            return cors.allow(http::last(http::text(StatusCode::BAD_REQUEST, "No body is expected here")));
        }
        let request = Request::from_parts(parts, ());
        let open = |has_room| open(&request, transport, has_room);
        cors.allow_messages(self.read(key, reading, network_of(address), alive, open))
    }

    /// The client's messages.
    async fn take(&self, key: &str, body: Incoming) -> Reply {
        let no_session = || http::text(StatusCode::NOT_FOUND, "Unknown session");
        let Some(peer) = self.table.get(key).map(|peer| Arc::clone(&peer)) else {
            // A stranger's body is thrown away, if it is small, for the sake of the connection.
            let goes_on = http::throw_away(body, self.settings.load().body_timeout).await;
            return if goes_on { no_session() } else { http::last(no_session()) };
        };
        let limit = peer.max_message().saturating_mul(6).saturating_add(AROUND);
        let body = match http::read_body(body, limit, self.settings.load().body_timeout).await {
            Ok(body) => body,
            Err(http::BodyError::TooLong) => {
                peer.refuse_long();
                return http::last(http::text(StatusCode::PAYLOAD_TOO_LARGE, "Message too long"));
            }
            Err(_) => return http::last(http::text(StatusCode::REQUEST_TIMEOUT, "The body did not come")),
        };
        peer.heard();
        if body.is_empty() {
            return http::text(StatusCode::INTERNAL_SERVER_ERROR, "Payload expected.");
        }
        let Ok(messages) = serde_json::from_slice::<Vec<String>>(&body) else {
            return http::text(StatusCode::INTERNAL_SERVER_ERROR, "Broken JSON encoding.");
        };
        if messages.len() > MAX_MESSAGES {
            return http::text(StatusCode::PAYLOAD_TOO_LARGE, "Too many messages");
        }
        if !peer.take(&messages).await {
            return no_session();
        }
        let mut reply = Reply::default();
        *reply.status_mut() = StatusCode::NO_CONTENT;
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
        reply
    }

    /// Messages for the client: of its session, or of a new one.
    fn read(
        self: &Arc<Self>,
        key: Arc<str>,
        reading: Reading,
        address: IpAddr,
        alive: impl Send + 'static,
        open: impl FnOnce(bool) -> Opened<S>,
    ) -> Reply {
        if let Some(peer) = self.table.get(&key).map(|peer| Arc::clone(&peer)) {
            return again(&peer, reading);
        }
        if !self.enter(address) {
            return refused(reading, open(false));
        }
        let peer = match self.table.entry(Arc::clone(&key)) {
            // Another request of the same client came in between.
            Entry::Occupied(there) => {
                let peer = Arc::clone(there.get());
                drop(there);
                self.leave(address);
                return again(&peer, reading);
            }
            Entry::Vacant(free) => {
                let opened = open(true);
                if opened.mailbox.closing().is_some() {
                    drop(free);
                    self.leave(address);
                    return refused(reading, opened);
                }
                Arc::clone(&free.insert(Arc::new(Peer::new(opened, Arc::clone(&self.sockets)))))
            }
        };
        let place = Place { peers: Arc::clone(self), address, key };
        let reply = begun(&peer, reading);
        tokio::spawn(peer.drive(alive, Untold::new(self), place));
        reply
    }
}

/// The first reply of a session. A client that polls is told of nothing else by it.
fn begun<S: Session>(peer: &Peer<S>, reading: Reading) -> Reply {
    match reading {
        Reading::Once => Reply::new(ReplyBody::from(Bytes::from_static(OPENED))),
        Reading::Stream => {
            let first = [&PRELUDE, OPENED].concat();
            Reply::new(ReplyBody::stream(peer.line().attach(reading, first.into())))
        }
    }
}

/// A further reply of a session.
fn again<S: Session>(peer: &Peer<S>, reading: Reading) -> Reply {
    peer.heard();
    Reply::new(ReplyBody::stream(peer.line().attach(reading, prelude(reading))))
}

fn prelude(reading: Reading) -> Bytes {
    match reading {
        Reading::Once => Bytes::new(),
        Reading::Stream => Bytes::from_static(&PRELUDE),
    }
}

/// The only reply of a session that is refused.
fn refused<S: Session>(reading: Reading, opened: Opened<S>) -> Reply {
    let Opened { mailbox, mut session, .. } = opened;
    let reason = mailbox.closing().unwrap_or(CloseReason::OverCapacity);
    session.closed(reason);
    let (code, text) = session.farewell(reason);
    let body = [&prelude(reading), OPENED, &mailbox.take_backlog(), &close_frame(code, &text)].concat();
    Reply::new(ReplyBody::from(Bytes::from(body)))
}
