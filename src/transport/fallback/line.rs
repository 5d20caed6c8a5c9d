//! Between a session's mailbox and whichever reply its client reads now. Hands over what the reply
//! has room for; the rest stays in the mailbox, with its bounds.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::HEARTBEAT;
use super::reply::LineReply;
use crate::http::{ReplyBody, UnderWay};
use crate::mailbox::Wire;

/// Bytes that are handed over before the reply has taken them.
const ROOM: usize = 16 * 1024;
/// UTF-16 code units of one streamed reply after which pusher-js begins another request. What is
/// under way then would be lost.
const LONG_REPLY: usize = 256 * 1024;
/// How long a reply that is so long waits for that, for the sake of clients that do not do so.
const REOPEN_WAIT: Duration = Duration::from_secs(2);
/// How long nothing may be sent: proxies end replies that are silent for longer.
const SILENCE: Duration = Duration::from_secs(25);
/// How long a session waits for its client's next request.
const GRACE: Duration = Duration::from_secs(10);

/// One session's way to its client.
pub(super) struct Line {
    state: Mutex<State>,
    /// A reader came or went: the time to look again is another.
    changed: Notify,
}

struct State {
    reader: Option<Reader>,
    /// Of the latest reader: earlier ones are broken off.
    number: u64,
    /// What the reader takes next.
    buffer: Vec<u8>,
    /// The session has ended; this is the last line of whoever reads.
    last_line: Option<Bytes>,
    /// The session's task, which waits for room.
    task: Option<Waker>,
    /// When a reader came or went, or something was handed over.
    since: Instant,
    /// Code units of this reply.
    units: usize,
    /// The reply is long: until then its client may begin another.
    waits_until: Option<Instant>,
}

/// How a reply is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// Piece by piece, for as long as it lasts.
    Stream,
    /// Whole: it ends with the first messages.
    Once,
}

struct Reader {
    reading: Reading,
    waker: Option<Waker>,
    under_way: UnderWay,
}

impl Drop for Reader {
    /// Whatever it has not read by now, its connection does not stay for it.
    fn drop(&mut self) {
        self.under_way.end();
    }
}

impl Line {
    pub(super) fn new() -> Self {
        let state = State {
            reader: None,
            number: 0,
            buffer: Vec::new(),
            last_line: None,
            task: None,
            since: Instant::now(),
            units: 0,
            waits_until: None,
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// Has a new reply read the line, beginning with `first`. A reply that still reads is broken off:
    /// its client may have given it up already.
    pub(super) fn attach(self: &Arc<Self>, reading: Reading, first: Bytes) -> ReplyBody {
        let under_way = UnderWay::default();
        ReplyBody::stream(self.read(reading, first, under_way.clone()), under_way)
    }

    fn read(self: &Arc<Self>, reading: Reading, first: Bytes, under_way: UnderWay) -> LineReply {
        let mut state = self.state.lock();
        state.number += 1;
        state.units = units(&first);
        state.waits_until = None;
        let earlier = state.reader.replace(Reader { reading, waker: None, under_way });
        if let Some(waker) = earlier.and_then(|mut reader| reader.waker.take()) {
            waker.wake();
        }
        state.moved(&self.changed);
        LineReply::new(Arc::clone(self), state.number, first)
    }

    /// For a reply: what it sends next. `Ready(None)` when it has ended.
    pub(super) fn poll_next(
        &self,
        number: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Replaced>>> {
        let mut state = self.state.lock();
        if state.number != number {
            return Poll::Ready(Some(Err(Replaced)));
        }
        let ends = state.reader.as_ref().is_none_or(|reader| reader.reading == Reading::Once);
        if !state.buffer.is_empty() {
            let taken = std::mem::take(&mut state.buffer);
            if ends {
                state.reader = None;
            }
            state.moved(&self.changed);
            return Poll::Ready(Some(Ok(taken.into())));
        }
        let Some(reader) = &mut state.reader else { return Poll::Ready(None) };
        reader.waker = Some(cx.waker().clone());
        match state.last_line.clone() {
            Some(last) => {
                state.reader = None;
                state.moved(&self.changed);
                Poll::Ready(Some(Ok(last)))
            }
            None => Poll::Pending,
        }
    }

    /// A reply is given up before its end. What it has not taken goes to the next.
    pub(super) fn detach(&self, number: u64) {
        let mut state = self.state.lock();
        if state.number == number && state.reader.take().is_some() {
            state.moved(&self.changed);
        }
    }

    /// Waits until a reader has come or gone.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// When to look again.
    pub(super) fn next_look(&self) -> Instant {
        let state = self.state.lock();
        let due = state.since + if state.reader.is_some() { SILENCE } else { GRACE };
        state.waits_until.map_or(due, |until| until.min(due))
    }

    /// Does what time asks for. Says whether the client is gone.
    pub(super) fn look(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        if state.waits_until.is_some_and(|until| until <= now) {
            state.waits_until = None;
            state.units = 0;
            state.wake_task();
        }
        match state.reader {
            None => now >= state.since + GRACE,
            Some(_) if state.waits_until.is_some() || now < state.since + SILENCE => false,
            Some(_) => {
                state.hand_over(HEARTBEAT);
                false
            }
        }
    }

    /// The session has ended. Whoever reads gets what is left, and then `last`.
    pub(super) fn end(&self, last: Bytes) {
        let mut state = self.state.lock();
        state.last_line = Some(last);
        state.wake_reader();
    }

    /// Nobody need read any more: what has not been read by now is given up.
    pub(super) fn give_up(&self) {
        self.state.lock().reader = None;
    }

    /// Whether nobody reads any more.
    pub(super) fn is_idle(&self) -> bool {
        self.state.lock().reader.is_none()
    }

    /// Takes what there is room for.
    fn poll_take(&self, cx: &mut Context<'_>, frames: &[IoSlice<'_>]) -> Poll<usize> {
        let mut state = self.state.lock();
        if state.has_room(&self.changed) {
            let bytes = frames.iter().map(|frame| frame.len()).sum();
            for frame in frames {
                state.hand_over(frame);
            }
            return Poll::Ready(bytes);
        }
        state.task = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl State {
    /// Whether the reader takes more now.
    fn has_room(&mut self, changed: &Notify) -> bool {
        let Some(reader) = &self.reader else { return false };
        if reader.reading == Reading::Stream && self.units > LONG_REPLY {
            if self.waits_until.is_none() {
                self.waits_until = Some(Instant::now() + REOPEN_WAIT);
                changed.notify_one();
            }
            return false;
        }
        self.buffer.len() < ROOM
    }

    fn hand_over(&mut self, frame: &[u8]) {
        self.buffer.extend_from_slice(frame);
        self.units += units(frame);
        self.since = Instant::now();
        self.wake_reader();
    }

    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.as_mut().and_then(|reader| reader.waker.take()) {
            waker.wake();
        }
    }

    fn wake_task(&mut self) {
        if let Some(waker) = self.task.take() {
            waker.wake();
        }
    }

    /// A reader came, went or took something.
    fn moved(&mut self, changed: &Notify) {
        self.since = Instant::now();
        self.wake_task();
        changed.notify_one();
    }
}

/// Another reply reads the line now.
pub(super) struct Replaced;

/// A line as a mailbox writes to it. What comes in has requests of its own.
pub(super) struct ToLine(pub(super) Arc<Line>);

impl Wire for ToLine {
    fn poll_read(&mut self, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, frames: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.0.poll_take(cx, frames).map(Ok)
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shut_down(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// UTF-16 code units of UTF-8 text: what a browser counts a reply in.
fn units(text: &[u8]) -> usize {
    text.iter().map(|&byte| usize::from(byte & 0xc0 != 0x80) + usize::from(byte >= 0xf0)).sum()
}

#[cfg(test)]
mod tests;
