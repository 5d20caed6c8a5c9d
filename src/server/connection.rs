//! One HTTP connection: its requests one after the other, its time limit, and its end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout_at;

use super::{Alive, Arrived, Origin, Server, route, stopped};
use crate::addresses::Guest;
use crate::http::{self, Reply};
use crate::transport::pause::{Limits, Pause, Timed};

/// What one connection may buffer of a request: its headers, or a piece of its body.
const MAX_HTTP_BUFFER: usize = 64 * 1024;

/// How long a stopping broker waits for the request of an open connection.
const LATE_REQUEST: Duration = Duration::from_millis(500);

/// How long it waits for a client to read the reply to its last request.
const LAST_REPLY: Duration = Duration::from_secs(5);

/// How long it still waits for that at the end of its grace.
const LAST_LOOK: Duration = Duration::from_millis(20);

/// Longer than any grace.
const ANY_GRACE: Duration = Duration::from_secs(366 * 24 * 3600);

/// Serves the requests of one connection, until it becomes a WebSocket or ends.
pub(super) async fn serve<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: I, arrived: Arrived) {
    let Arrived { server, origin, guest, mut stop, alive } = arrived;
    let limits = server.settings.load().limits;
    let pause = Arc::new(Pause::begin());
    let stream = Timed::new(stream, Arc::clone(&pause));
    let context = Context { server, origin, guest: Arc::new(guest), alive, pause: Arc::clone(&pause) };
    let context = Arc::new(context);
    let answering = Arc::clone(&context);
    let service = service_fn(move |request| answer(Arc::clone(&answering), request));
    let connection = builder().serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = &mut connection => Some(ended),
        () = stopped(&mut stop) => {
            // A request in flight is still answered; one that has not come by now is not waited for.
            connection.as_mut().graceful_shutdown();
            let sockets = &context.server.pusher.sockets;
            match timeout_at(sockets.last_words(LATE_REQUEST).into(), &mut connection).await {
                Err(_) if pause.has_ended_once() => tokio::select! {
                    ended = &mut connection => Some(ended),
                    () = pause.exceeds(Limits::both(LAST_REPLY)) => None,
                    () = pause.lasts_at(sockets.last_words(ANY_GRACE).into(), LAST_LOOK) => None,
                },
                ended => ended.ok(),
            }
        }
        () = pause.exceeds(limits) => {
            tracing::debug!(remote = %origin.remote, "no request in time");
            None
        }
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(remote = %origin.remote, %error, "HTTP connection ended");
    }
}

fn builder() -> http1::Builder {
    let mut http = http1::Builder::new();
    // hyper's own timer is made and dropped for every request; see `Pause`.
    http.header_read_timeout(None)
        .max_buf_size(MAX_HTTP_BUFFER)
        // Replies are small: to copy one behind its headers costs less than a vectored write.
        .writev(false);
    http
}

/// What the requests of one connection are answered with.
///
/// One for each connection: cores that count references to what all connections share take the
/// counters from each other, at every request.
struct Context {
    server: Arc<Server>,
    origin: Origin,
    guest: Arc<Guest>,
    alive: Alive,
    pause: Arc<Pause>,
}

async fn answer(context: Arc<Context>, request: Request<Incoming>) -> Result<Reply, Infallible> {
    context.pause.end();
    context.guest.has_asked();
    let Context { server, origin, guest, alive, .. } = &*context;
    let reply = route::route(server, request, *origin, alive, guest).await;
    if http::is_last(&reply) {
        context.pause.end_after_reply();
    }
    if reply.body().is_stream() {
        // Under way for as long as there may be more of it.
        return Ok(reply.map(|body| body.until_its_end(UnderWay(context))));
    }
    context.pause.begin_again();
    Ok(reply)
}

/// A request whose reply may have more pieces yet.
struct UnderWay(Arc<Context>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.pause.begin_again();
    }
}
