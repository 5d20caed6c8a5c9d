//! HTTP replies, and request bodies that are bounded in bytes and time.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

/// Bytes of a body above which a reply is its connection's last: a connection keeps the buffer of its
/// largest reply for as long as it lives.
const KEPT_BUFFER: usize = 256 * 1024;

/// Bytes of a stranger's body that are read and thrown away to keep the connection.
const THROWN_AWAY: usize = 16 * 1024;

/// What the broker answers.
pub type Reply = Response<ReplyBody>;

/// The body of a reply: whole, or piece by piece for as long as it lasts.
pub struct ReplyBody(Content);

enum Content {
    Whole(Full<Bytes>),
    Stream(Pin<Box<dyn Pieces>>),
}

/// A body that comes piece by piece.
pub trait Pieces: Body<Data = Bytes, Error = Interrupted> + Send {
    /// Has it drop `end` as soon as it has no more pieces, whether those it had are read or not.
    fn until_its_end(self: Pin<&mut Self>, end: Box<dyn Send>);
}

/// A reply that cannot be finished: its connection is broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reply was broken off")]
pub struct Interrupted;

impl ReplyBody {
    /// A body that comes piece by piece.
    pub fn stream(body: impl Pieces + 'static) -> Self {
        Self(Content::Stream(Box::pin(body)))
    }

    /// Whether it comes piece by piece.
    pub fn is_stream(&self) -> bool {
        matches!(self.0, Content::Stream(_))
    }

    /// The same, with something that is dropped when it has no more pieces.
    #[must_use]
    pub fn until_its_end(mut self, end: impl Send + 'static) -> Self {
        if let Content::Stream(stream) = &mut self.0 {
            stream.as_mut().until_its_end(Box::new(end));
        }
        self
    }

    /// The bytes of a whole body.
    pub fn whole(&self) -> Option<Bytes> {
        match &self.0 {
            Content::Whole(body) => Some(body.clone().into_inner().unwrap_or_default()),
            Content::Stream(_) => None,
        }
    }
}

impl From<Bytes> for ReplyBody {
    fn from(bytes: Bytes) -> Self {
        Self(Content::Whole(Full::new(bytes)))
    }
}

impl Default for ReplyBody {
    fn default() -> Self {
        Self::from(Bytes::new())
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Interrupted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        match &mut self.0 {
            Content::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Content::Stream(stream) => stream.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Whole(body) => body.is_end_stream(),
            Content::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Whole(body) => body.size_hint(),
            Content::Stream(stream) => stream.size_hint(),
        }
    }
}

/// A JSON reply.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    reply(status, HeaderValue::from_static("application/json"), body.into())
}

/// A one-line text reply. Control characters, which a quoted part of the request may hold, become
/// spaces, and the line end is added.
pub fn text(status: StatusCode, line: &str) -> Reply {
    let mut body = String::with_capacity(line.len() + 1);
    body.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }));
    body.push('\n');
    reply(status, HeaderValue::from_static("text/plain; charset=utf-8"), body.into())
}

/// A reply of any content type. A large one ends the connection.
pub fn reply(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Reply {
    let is_large = body.len() > KEPT_BUFFER;
    let mut reply = Response::new(ReplyBody::from(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    if is_large { last(reply) } else { reply }
}

/// Makes `reply` the connection's last: what the client still sends is not worth reading.
pub fn last(mut reply: Reply) -> Reply {
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// Whether it is.
pub fn is_last(reply: &Reply) -> bool {
    reply.headers().get(CONNECTION).is_some_and(|value| value == "close")
}

/// Tells when the request is worth another try.
pub fn retry_after(mut reply: Reply, seconds: u64) -> Reply {
    reply.headers_mut().insert(RETRY_AFTER, seconds.into());
    reply
}

/// Why a request's body could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// It is longer than the limit. The rest was not read.
    TooLong,
    /// It did not come in time.
    TooSlow,
    /// The connection broke.
    Lost,
}

/// Reads a body of at most `limit` bytes within `timeout`.
///
/// # Errors
/// See [`BodyError`]; an announced length over the limit is refused unread.
pub async fn read_body(body: Incoming, limit: usize, timeout: Duration) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLong);
    }
    tokio::time::timeout(timeout, collect(body, limit)).await.unwrap_or(Err(BodyError::TooSlow))
}

/// Reads a body that nobody wants and throws it away, so that its connection can go on. Says whether it
/// can: a body that is long, slow or broken is not read to its end.
pub async fn throw_away(body: Incoming, timeout: Duration) -> bool {
    read_body(body, THROWN_AWAY, timeout).await.is_ok()
}

async fn collect(mut body: Incoming, limit: usize) -> Result<Bytes, BodyError> {
    let mut whole = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(part) = frame.map_err(|_| BodyError::Lost)?.into_data() else { continue };
        if whole.len() + joined.len() + part.len() > limit {
            return Err(BodyError::TooLong);
        }
        // Nearly every body comes as one part and is passed on without a copy.
        if whole.is_empty() && joined.is_empty() {
            whole = part;
        } else {
            joined.extend_from_slice(&std::mem::take(&mut whole));
            joined.extend_from_slice(&part);
        }
    }
    Ok(if joined.is_empty() { whole } else { joined.freeze() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_large_reply_ends_its_connection() {
        for (len, ends) in [(2, false), (KEPT_BUFFER, false), (KEPT_BUFFER + 1, true)] {
            assert_eq!(
                json(StatusCode::OK, vec![b' '; len]).headers().contains_key(CONNECTION),
                ends,
                "{len}"
            );
        }
    }
}
