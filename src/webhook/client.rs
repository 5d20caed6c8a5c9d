//! The HTTP client of all webhooks: connections are kept, redirects are not followed, and nothing
//! takes longer than it may.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use hyper::{Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

/// Bytes of an answer that are read, so that its connection can be used again; one that says more
/// loses it.
const MAX_ANSWER: usize = 16 * 1024;
/// What an answer's headers may take.
const MAX_HEADERS: usize = 16 * 1024;
/// How long a connection is kept for the next request.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Connections that are kept to one server.
const KEPT_CONNECTIONS: usize = 2;

/// Sends requests.
pub(super) struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
    is_secure: bool,
    connect_timeout: Duration,
    timeout: Duration,
}

/// Why a request was not delivered. Names no URL: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub(super) enum Undelivered {
    /// The answer is another than 2xx.
    #[error("answered {0}")]
    Status(StatusCode),
    /// There was no answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The connection could not be made, or broke.
    #[error("{0}")]
    Connection(String),
}

impl Client {
    /// A client that trusts the certificates that the system trusts.
    ///
    /// # Errors
    /// When `secure` is asked for and the system trusts none.
    pub(super) fn new(secure: bool, connect_timeout: Duration, timeout: Duration) -> io::Result<Self> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(connect_timeout));
        connector.set_nodelay(true);
        let builder = HttpsConnectorBuilder::new();
        let builder = if secure { builder.with_native_roots()? } else { builder.with_tls_config(no_roots()) };
        let connector = builder.https_or_http().enable_http1().wrap_connector(connector);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEEP_ALIVE)
            .pool_max_idle_per_host(KEPT_CONNECTIONS)
            .http1_max_buf_size(MAX_HEADERS)
            .build(connector);
        Ok(Self { pool, is_secure: secure, connect_timeout, timeout })
    }

    /// One that can ask by TLS, if this one cannot.
    ///
    /// # Errors
    /// When the system trusts no certificates.
    pub(super) fn secured(&self) -> io::Result<Option<Self>> {
        if self.is_secure { Ok(None) } else { Self::new(true, self.connect_timeout, self.timeout).map(Some) }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// When it was not answered 2xx in time.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Result<(), Undelivered> {
        let answer = async { self.pool.request(request).await.map_err(|error| broken(&error)) };
        answered(answer, self.timeout).await
    }
}

/// Waits for the header of an answer. What follows is read for a while, so that the connection can be
/// used again.
async fn answered<B: Body>(
    answer: impl Future<Output = Result<Response<B>, Undelivered>>,
    patience: Duration,
) -> Result<(), Undelivered>
where
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let answer = timeout(patience, answer).await.unwrap_or(Err(Undelivered::Timeout(patience)))?;
    let status = answer.status();
    if !status.is_success() {
        return Err(Undelivered::Status(status));
    }
    // The status is all that matters; whatever becomes of the rest, it was delivered.
    let _ = timeout(patience / 4, Limited::new(answer.into_body(), MAX_ANSWER).collect()).await;
    Ok(())
}

fn no_roots() -> rustls::ClientConfig {
    rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

/// The innermost cause says what is wrong.
fn broken(error: &hyper_util::client::legacy::Error) -> Undelivered {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let what = if error.is_connect() { "cannot connect" } else { "the connection broke" };
    Undelivered::Connection(format!("{what}: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::Frame;
    use tokio::time::sleep;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// A body that never ends.
    struct Endless;

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    async fn header_after(wait: Duration, status: u16) -> Result<(), Undelivered> {
        let answer = async {
            sleep(wait).await;
            let status = StatusCode::from_u16(status).expect("a status");
            let mut answer = Response::new(Endless);
            *answer.status_mut() = status;
            Ok(answer)
        };
        answered(answer, PATIENCE).await
    }

    /// The wait for its body once made a failure of it, and had it sent twice.
    #[tokio::test(start_paused = true)]
    async fn a_late_success_without_an_end_is_one() {
        assert!(header_after(PATIENCE - Duration::from_millis(1), 200).await.is_ok());
        let late = header_after(PATIENCE + Duration::from_millis(1), 200).await;
        assert!(matches!(late, Err(Undelivered::Timeout(PATIENCE))), "{late:?}");
        let moved = header_after(Duration::ZERO, 302).await;
        assert!(matches!(moved, Err(Undelivered::Status(StatusCode::FOUND))), "{moved:?}");
    }
}
