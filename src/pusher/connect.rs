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
use crate::http::Reply;
use crate::mailbox::Mailbox;
use crate::model::app::App;
use crate::model::close::CloseReason;
use crate::model::socket::SocketId;
use crate::sockets::{NoPlace, Place};
use crate::transport::Session;
use crate::transport::websocket::{self, Opened};

const SUBPROTOCOL: &str = "pusher-channels-protocol-7";
/// A refused socket may still send a message; nothing is done with it.
const REFUSED_MAX_MESSAGE: usize = 1024;

/// How a request reached the broker.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// By TLS, here or at a trusted proxy.
    pub secure: bool,
}

/// Opens a socket for `/app/KEY`, or refuses it.
pub fn connect<G: Send + 'static>(
    pusher: &Arc<Pusher>,
    request: Request<Incoming>,
    key: &str,
    arrival: Arrival,
    alive: G,
) -> Reply {
    let verdict = admit(pusher, &request, key, arrival);
    let pusher_for_socket = Arc::clone(pusher);
    let open = move |stream| open(pusher_for_socket, stream, verdict);
    websocket::upgrade(request, SUBPROTOCOL, Arc::clone(&pusher.sockets), alive, open)
}

/// Refuses a socket on a path where no app is.
pub fn refuse_path<G: Send + 'static>(pusher: &Arc<Pusher>, request: Request<Incoming>, alive: G) -> Reply {
    let protocol =
        request.uri().query().and_then(Query::parse).and_then(|query| query.get("protocol")?.parse().ok());
    let verdict = Err(Refusal::new(CloseReason::PathNotFound, protocol));
    let pusher_for_socket = Arc::clone(pusher);
    let open = move |stream| open(pusher_for_socket, stream, verdict);
    websocket::upgrade(request, SUBPROTOCOL, Arc::clone(&pusher.sockets), alive, open)
}

struct Admitted {
    app: Arc<App>,
    protocol: u32,
}

/// Why a socket is refused, and how its client learns it.
pub(super) struct Refusal {
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

fn admit(
    pusher: &Pusher,
    request: &Request<Incoming>,
    key: &str,
    arrival: Arrival,
) -> Result<Admitted, Refusal> {
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
    if !app.enabled {
        return refuse(CloseReason::AppDisabled);
    }
    if app.features.force_tls && !arrival.secure {
        return refuse(CloseReason::TlsRequired);
    }
    let origin = request.headers().get(ORIGIN).and_then(|value| value.to_str().ok());
    if !origin::allows(&app.features.allowed_origins, origin) {
        return refuse(CloseReason::OriginRefused);
    }
    Ok(Admitted { app: Arc::clone(app), protocol })
}

/// Lenient on purpose: libraries call themselves `8.4.0-rc2`, `0.0.0-dev` and the like.
fn is_version(version: &str) -> bool {
    version.starts_with(|c: char| c.is_ascii_alphanumeric())
        && version.bytes().all(|c| c.is_ascii_alphanumeric() || b".+_-".contains(&c))
}

/// The WebSocket stands: takes a place for it, or tells the client why not.
fn open(pusher: Arc<Pusher>, stream: Option<TcpStream>, verdict: Result<Admitted, Refusal>) -> Opened<Door> {
    pusher.metrics.opened.add(1);
    let (limit, now_ms) = (pusher.settings.max_mailbox_bytes, pusher.sockets.now_ms());
    let admitted = verdict.and_then(|admitted| Ok((place(&pusher, &admitted)?, admitted)));
    match admitted {
        Ok((place, Admitted { app, protocol })) => {
            let mailbox = Arc::new(Mailbox::new(place.id(), stream, limit, now_ms));
            pusher.sockets.take(&place, Arc::clone(&mailbox));
            let max_message = app.limits.max_message_bytes();
            let session =
                Door::Admitted(PusherSession::new(pusher, app, protocol, Arc::clone(&mailbox), place));
            Opened { mailbox, session, max_message }
        }
        Err(refusal) => {
            let mailbox = Arc::new(Mailbox::new(SocketId::NOBODY, stream, limit, now_ms));
            mailbox.close(refusal.reason);
            if refusal.error_frame {
                let (code, _) = error::refusal(refusal.reason);
                mailbox.push_farewell(frame::error(Some(code), &refusal.text));
            }
            Opened { mailbox, session: Door::Refused(pusher, refusal), max_message: REFUSED_MAX_MESSAGE }
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

/// What is behind a WebSocket: a session, or only the reason why there is none.
pub(super) enum Door {
    Admitted(PusherSession),
    Refused(Arc<Pusher>, Refusal),
}

impl Session for Door {
    fn opened(&mut self) {
        if let Self::Admitted(session) = self {
            session.opened();
        }
    }

    fn text(&mut self, message: &str) {
        if let Self::Admitted(session) = self {
            session.text(message);
        }
    }

    fn binary(&mut self) {
        if let Self::Admitted(session) = self {
            session.binary();
        }
    }

    fn closed(&mut self, reason: CloseReason) {
        match self {
            Self::Admitted(session) => session.closed(reason),
            Self::Refused(pusher, refusal) => pusher.metrics.closed(refusal.reason),
        }
    }

    fn farewell(&self, reason: CloseReason) -> (u16, Cow<'_, str>) {
        match self {
            Self::Admitted(session) => session.farewell(reason),
            Self::Refused(_, refusal) => (error::refusal(refusal.reason).0, Cow::Borrowed(&refusal.text)),
        }
    }
}
