//! One reply that a session's client reads.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame};

use super::line::{Line, Piece};
use crate::http::{Interrupted, Pieces};

/// A reply that reads a session's line, for as long as no other does.
pub(super) struct LineReply {
    line: Arc<Line>,
    number: u64,
    /// What it begins with.
    first: Bytes,
    ended: bool,
}

impl LineReply {
    pub(super) fn new(line: Arc<Line>, number: u64, first: Bytes) -> Self {
        Self { line, number, first, ended: false }
    }
}

impl Body for LineReply {
    type Data = Bytes;
    type Error = Interrupted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.first)))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let next = ready!(self.line.poll_next(self.number, cx));
        self.ended = !matches!(next, Some(Ok(Piece { is_last: false, .. })));
        // To end it as if it were whole would tell its client that the session is over.
        Poll::Ready(next.map(|next| next.map(|piece| Frame::data(piece.data)).map_err(|_| Interrupted)))
    }

    /// Known with the last piece: whoever replaces it afterwards must not have its connection broken off
    /// before that is sent.
    fn is_end_stream(&self) -> bool {
        self.ended && self.first.is_empty()
    }
}

impl Pieces for LineReply {
    fn until_its_end(self: Pin<&mut Self>, end: Box<dyn Send>) {
        self.line.until_the_end_of(self.number, end);
    }
}

impl Drop for LineReply {
    fn drop(&mut self) {
        if !self.ended {
            self.line.detach(self.number);
        }
    }
}
