//! Who may open a socket (protocol.md §1.1, §1.2, §1.9). A refused client gets its WebSocket all
//! the same, and is told why by a close code: that is all that client libraries can see.

use std::borrow::Cow;
use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use hyper::header::ORIGIN;
use tokio::net::TcpStream;

use super::query::{Plus, Query, decode};
use super::session::PusherSession;
use super::{Pusher, error, frame, json, origin};
use crate::apps::LiveApp;
use crate::http::Reply;
use crate::mailbox::Mailbox;
use crate::model::close::CloseReason;
use crate::model::socket::SocketId;
use crate::model::transport::Transport;
use crate::sockets::{NoPlace, Place};
use crate::transport::{Framing, Opened, Session, websocket};

const SUBPROTOCOL: &str = "pusher-channels-protocol-7";
/// A refused socket may still send a message; nothing is done with it.
const REFUSED_MAX_MESSAGE: usize = 1024;

/// How a request reached the broker.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// By TLS, here or at a trusted proxy.
    pub secure: bool,
}

/// A request to open a socket, looked at: let in, or to be told why not.
pub struct Entry {
    pusher: Arc<Pusher>,
    verdict: Result<Admitted, Refusal>,
}

impl Entry {
    /// Looks at a request for a socket of the app that goes by `key`.
    pub fn new<B>(pusher: &Arc<Pusher>, request: &Request<B>, key: &str, arrival: Arrival) -> Self {
        Self { pusher: Arc::clone(pusher), verdict: admit(pusher, request, key, arrival) }
    }

    /// Refuses a socket on a path where no app is.
    pub fn on_no_path<B>(pusher: &Arc<Pusher>, request: &Request<B>) -> Self {
        let query = request.uri().query().and_then(Query::parse);
        let protocol = query.and_then(|query| query.get("protocol")?.parse().ok());
        let refusal = Refusal::new(CloseReason::PathNotFound, protocol);
        Self { pusher: Arc::clone(pusher), verdict: Err(refusal) }
    }

    /// Refuses who would have been let in: there is no room.
    #[must_use]
    pub fn over_capacity(mut self) -> Self {
        if let Ok(Admitted { protocol, .. }) = self.verdict {
            self.verdict = Err(Refusal::new(CloseReason::OverCapacity, Some(protocol)));
        }
        self
    }

    /// Answers a WebSocket handshake. `alive` is held while the connection is one that a stop waits for,
    /// and `guest` until it has ended.
    pub fn upgrade(
        self,
        request: Request<Incoming>,
        alive: impl Send + 'static,
        guest: impl Send + 'static,
    ) -> Reply {
        let sockets = Arc::clone(&self.pusher.sockets);
        let open = move |stream| self.open(Transport::WebSocket, stream);
        websocket::upgrade(request, SUBPROTOCOL, sockets, (alive, guest), open)
    }

    /// The transport stands: takes a place for the socket, or has its client told why not.
    pub fn open(self, transport: Transport, stream: Option<TcpStream>) -> Opened<Door> {
        open(self.pusher, transport, stream, self.verdict)
    }
}

struct Admitted {
    app: Arc<LiveApp>,
    protocol: u32,
}

/// Why a socket is refused, and how its client learns it.
struct Refusal {
    reason: CloseReason,
    text: Cow<'static, str>,
    /// Old protocols know no close codes and need an error frame first.
    error_frame: bool,
}

impl Refusal {
    fn new(reason: CloseReason, protocol: Option<u32>) -> Self {
        let (_, text) = error::refusal(reason);
        let error_frame = protocol.is_none_or(|protocol| protocol <= 5);
        Self { reason, text: Cow::Borrowed(text), error_frame }
    }
}

fn admit<B>(pusher: &Pusher, request: &Request<B>, key: &str, arrival: Arrival) -> Result<Admitted, Refusal> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let get = |name: &str| query.as_ref().and_then(|query| query.get(name));
    let given = get("protocol");
    let protocol: Option<u32> = given.as_ref().and_then(|given| given.parse().ok());
    let refuse = |reason| Err(Refusal::new(reason, protocol));

    let key = decode(key, Plus::Literal).unwrap_or_default();
    let Some(app) = pusher.apps.by_key(&key) else {
        let shown = json::shown(&key);
        let text = format!("App key {shown} not in this cluster. Did you forget to specify the cluster?");
        return Err(Refusal { text: text.into(), ..Refusal::new(CloseReason::UnknownApp, protocol) });
    };
    let protocol = match (given, protocol) {
        (None, _) => return refuse(CloseReason::MissingProtocol),
        (Some(_), Some(protocol @ 4..=7)) => protocol,
        (Some(_), _) => return refuse(CloseReason::UnsupportedProtocol),
    };
    if get("version").is_some_and(|version| !is_version(&version)) {
        return refuse(CloseReason::InvalidVersion);
    }
    let now = app.now();
    if !now.enabled {
        return refuse(CloseReason::AppDisabled);
    }
    if now.features.force_tls && !arrival.secure {
        return refuse(CloseReason::TlsRequired);
    }
    let origin = request.headers().get(ORIGIN).and_then(|value| value.to_str().ok());
    if !origin::allows(&now.features.allowed_origins, origin) {
        return refuse(CloseReason::OriginRefused);
    }
    drop(now);
    Ok(Admitted { app, protocol })
}

/// Lenient on purpose: libraries call themselves `8.4.0-rc2`, `0.0.0-dev` and the like.
fn is_version(version: &str) -> bool {
    version.starts_with(|c: char| c.is_ascii_alphanumeric())
        && version.bytes().all(|c| c.is_ascii_alphanumeric() || b".+_-".contains(&c))
}

fn open(
    pusher: Arc<Pusher>,
    transport: Transport,
    stream: Option<TcpStream>,
    verdict: Result<Admitted, Refusal>,
) -> Opened<Door> {
    pusher.metrics.opened.add(1);
    let (limit, now_ms) = (pusher.settings.load().max_mailbox_bytes, pusher.sockets.now_ms());
    let all = Arc::clone(&pusher.backlogs);
    let admitted = verdict.and_then(|admitted| Ok((place(&pusher, &admitted)?, admitted)));
    match admitted {
        Ok((place, Admitted { app, protocol })) => {
            let mailbox = Arc::new(Mailbox::new(place.id(), transport, stream, limit, all, now_ms));
            pusher.sockets.take(&place, Arc::clone(&mailbox));
            let max_message = app.now().limits.max_message_bytes();
            let session = PusherSession::new(pusher, app, protocol, Arc::clone(&mailbox), place);
            Opened { mailbox, session: Door(Inner::Admitted(session)), max_message }
        }
        Err(refusal) => {
            let mailbox = Arc::new(Mailbox::new(SocketId::NOBODY, transport, stream, limit, all, now_ms));
            mailbox.close(refusal.reason);
            if refusal.error_frame {
                let (code, _) = error::refusal(refusal.reason);
                mailbox.push_farewell(frame::error(Framing::of(transport), Some(code), &refusal.text));
            }
            let session = Door(Inner::Refused(pusher, refusal));
            Opened { mailbox, session, max_message: REFUSED_MAX_MESSAGE }
        }
    }
}

fn place(pusher: &Pusher, admitted: &Admitted) -> Result<Place, Refusal> {
    let refuse = |reason| Refusal::new(reason, Some(admitted.protocol));
    pusher.sockets.reserve(&admitted.app).map_err(|no_place| match no_place {
        NoPlace::OverQuota => refuse(CloseReason::OverQuota),
        NoPlace::NoId | NoPlace::TooManyWait => refuse(CloseReason::OverCapacity),
        NoPlace::Stopping => refuse(CloseReason::Stopping),
    })
}

/// What is behind a transport: a session, or only the reason why there is none.
pub struct Door(Inner);

enum Inner {
    Admitted(PusherSession),
    Refused(Arc<Pusher>, Refusal),
}

impl Session for Door {
    fn opened(&mut self) {
        if let Inner::Admitted(session) = &mut self.0 {
            session.opened();
        }
    }

    fn text(&mut self, message: &str) -> bool {
        match &mut self.0 {
            Inner::Admitted(session) => session.text(message),
            Inner::Refused(..) => true,
        }
    }

    fn binary(&mut self) -> bool {
        match &mut self.0 {
            Inner::Admitted(session) => session.binary(),
            Inner::Refused(..) => true,
        }
    }

    fn control(&mut self) {
        if let Inner::Admitted(session) = &mut self.0 {
            session.control();
        }
    }

    fn closed(&mut self, reason: CloseReason) {
        match &mut self.0 {
            Inner::Admitted(session) => session.closed(reason),
            Inner::Refused(pusher, refusal) => {
                pusher.metrics.closed(refusal.reason);
                tracing::debug!(reason = refusal.reason.name(), "socket refused");
            }
        }
    }

    fn farewell(&self, reason: CloseReason) -> (u16, Cow<'_, str>) {
        match &self.0 {
            Inner::Admitted(session) => session.farewell(reason),
            Inner::Refused(_, refusal) => (error::refusal(refusal.reason).0, Cow::Borrowed(&refusal.text)),
        }
    }
}
