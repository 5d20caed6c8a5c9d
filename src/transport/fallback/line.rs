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
use crate::mailbox::Wire;
use crate::model::close::CloseReason;

/// Bytes above which no more lines are handed over before the reply has taken them.
const ROOM: usize = 16 * 1024;
/// UTF-16 code units of one streamed reply after which pusher-js begins another request. What is
/// under way then would be lost.
const LONG_REPLY: usize = 256 * 1024;
/// How long a client may take to have read a reply that is so long and to begin another. Nothing is
/// sent meanwhile, and whoever takes longer is closed: a loss must not go unseen.
const REOPEN_WAIT: Duration = Duration::from_secs(30);
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
    /// The session has ended, as its client did not come back.
    gone: bool,
    /// What the reader takes next.
    buffer: Vec<u8>,
    /// The session has ended; this is the last line of whoever reads.
    last_line: Option<Bytes>,
    /// Somebody has read it.
    told: bool,
    /// The session's task, which waits for room.
    task: Option<Waker>,
    /// When a reader came or went, or something was handed over.
    since: Instant,
    /// Code units of this reply.
    units: usize,
    /// The reply is long: until then its client has to begin another.
    waits_until: Option<Instant>,
    /// The session ends: nothing waits for another reply any more.
    ending: bool,
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
    /// Dropped with it; never under the lock, as it may be anything.
    end: Option<Box<dyn Send>>,
}

impl Line {
    pub(super) fn new() -> Self {
        let state = State {
            reader: None,
            number: 0,
            gone: false,
            buffer: Vec::new(),
            last_line: None,
            told: false,
            task: None,
            since: Instant::now(),
            units: 0,
            waits_until: None,
            ending: false,
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// Has a new reply read the line, beginning with `first`. A reply that still reads is broken off:
    /// its client may have given it up already.
    pub(super) fn attach(self: &Arc<Self>, reading: Reading, first: Bytes) -> LineReply {
        let mut earlier = None;
        let mut state = self.state.lock();
        state.number += 1;
        // What an earlier reply has not taken is this one's.
        state.units = units(&first) + units(&state.buffer);
        state.waits_until = None;
        state.wake_reader();
        std::mem::swap(&mut earlier, &mut state.reader);
        state.reader = Some(Reader { reading, waker: None, end: None });
        state.moved(&self.changed);
        LineReply::new(Arc::clone(self), state.number, first)
    }

    /// For a reply: drops `end` when it reads the line no more.
    pub(super) fn until_the_end_of(&self, number: u64, end: Box<dyn Send>) {
        let mut end = Some(end);
        let mut state = self.state.lock();
        if state.number == number
            && let Some(reader) = &mut state.reader
        {
            std::mem::swap(&mut end, &mut reader.end);
        }
    }

    /// For a reply: what it sends next. `Ready(None)` when it has ended.
    pub(super) fn poll_next(
        &self,
        number: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, Replaced>>> {
        let _ended;
        let mut state = self.state.lock();
        if state.number != number || state.gone {
            return Poll::Ready(Some(Err(Replaced)));
        }
        let ends = state.reader.as_ref().is_none_or(|reader| reader.reading == Reading::Once);
        let Some(reader) = &mut state.reader else { return Poll::Ready(None) };
        reader.waker = Some(cx.waker().clone());
        if state.buffer.is_empty() && state.last_line.is_none() {
            return Poll::Pending;
        }
        let mut taken = std::mem::take(&mut state.buffer);
        if let Some(last) = &state.last_line {
            taken.extend_from_slice(last);
            state.told = true;
        }
        let is_last = ends || state.last_line.is_some();
        if is_last {
            _ended = state.reader.take();
        }
        state.moved(&self.changed);
        Poll::Ready(Some(Ok(Piece { data: taken.into(), is_last })))
    }

    /// A reply is given up before its end. What it has not taken goes to the next.
    pub(super) fn detach(&self, number: u64) {
        let mut ended = None;
        let mut state = self.state.lock();
        if state.number == number && state.reader.is_some() {
            std::mem::swap(&mut ended, &mut state.reader);
            // Nobody is left who would have to begin another.
            state.waits_until = None;
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
        // Until then nothing else is done, due or not.
        let due = state.since + if state.reader.is_some() { SILENCE } else { GRACE };
        state.waits_until.unwrap_or(due)
    }

    /// Does what time asks for. Says why the session has to end, if it has.
    pub(super) fn look(&self, now: Instant) -> Option<CloseReason> {
        let mut state = self.state.lock();
        match (&state.reader, state.waits_until) {
            (None, _) => (now >= state.since + GRACE).then_some(CloseReason::Lost),
            (Some(_), Some(until)) => (now >= until).then_some(CloseReason::SlowConsumer),
            (Some(_), None) => {
                if now >= state.since + SILENCE {
                    state.hand_over(HEARTBEAT);
                }
                None
            }
        }
    }

    /// The session ends: what is left is handed over, however long the reply is.
    pub(super) fn begin_end(&self) {
        let mut state = self.state.lock();
        state.ending = true;
        state.waits_until = None;
        state.wake_task();
    }

    /// The session has ended. Whoever reads gets what is left, and then `last`.
    pub(super) fn end(&self, last: Bytes) {
        let mut state = self.state.lock();
        state.last_line = Some(last);
        state.wake_reader();
    }

    /// The session has ended, as nobody reads it. Whoever comes back at this very moment is broken
    /// off, and may begin another.
    pub(super) fn abandon(&self) {
        self.state.lock().gone = true;
        self.break_off();
    }

    /// Breaks off the reply that reads, if there is one.
    pub(super) fn break_off(&self) {
        let mut ended = None;
        let mut state = self.state.lock();
        state.number += 1;
        state.wake_reader();
        std::mem::swap(&mut ended, &mut state.reader);
    }

    /// Bytes that wait for the reply to take them.
    pub(super) fn held(&self) -> usize {
        self.state.lock().buffer.len()
    }

    /// Whether nobody reads any more.
    pub(super) fn is_idle(&self) -> bool {
        self.state.lock().reader.is_none()
    }

    /// When a reader came or went last, or was handed something.
    pub(super) fn since(&self) -> Instant {
        self.state.lock().since
    }

    /// Waits until the last line has been read.
    pub(super) async fn told(&self) {
        while !self.state.lock().told {
            self.changed().await;
        }
    }

    /// Takes what there is room for.
    fn poll_take(&self, cx: &mut Context<'_>, frames: &[IoSlice<'_>]) -> Poll<usize> {
        let mut state = self.state.lock();
        let mut taken = 0;
        for frame in frames {
            let mut rest: &[u8] = frame;
            // Its client may not read what comes behind the line that makes the reply long.
            while !rest.is_empty() && state.has_room(&self.changed) {
                let (line, behind) = rest.split_at(end_of_line(rest));
                state.hand_over(line);
                taken += line.len();
                rest = behind;
            }
            if !rest.is_empty() {
                break;
            }
        }
        if taken > 0 {
            return Poll::Ready(taken);
        }
        state.task = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl State {
    /// Whether the reader takes more now.
    fn has_room(&mut self, changed: &Notify) -> bool {
        if self.reader.is_none() {
            return false;
        }
        if self.is_long() {
            if self.waits_until.is_none() {
                self.waits_until = Some(Instant::now() + REOPEN_WAIT);
                changed.notify_one();
            }
            return false;
        }
        self.buffer.len() < ROOM
    }

    /// Whether its client may begin another reply now.
    fn is_long(&self) -> bool {
        let is_stream = self.reader.as_ref().is_some_and(|reader| reader.reading == Reading::Stream);
        is_stream && self.units > LONG_REPLY && !self.ending
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

/// What a reply has taken of the line.
pub(super) struct Piece {
    pub(super) data: Bytes,
    /// It reads no more: nobody can break it off.
    pub(super) is_last: bool,
}

/// Another reply reads the line now, or nothing will come by it.
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

    fn held(&self) -> usize {
        self.0.held()
    }
}

/// Where the first line of a frame ends: events that were published together are one frame.
fn end_of_line(frame: &[u8]) -> usize {
    memchr::memchr(b'\n', frame).map_or(frame.len(), |at| at + 1)
}

/// UTF-16 code units of UTF-8 text: what a browser counts a reply in.
fn units(text: &[u8]) -> usize {
    text.iter().map(|&byte| usize::from(byte & 0xc0 != 0x80) + usize::from(byte >= 0xf0)).sum()
}

#[cfg(test)]
mod tests;
