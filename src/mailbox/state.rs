//! What a mailbox has under its lock: the queue, and why it is closing.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};

use super::backlogs::{Backlog, Backlogs};
use super::{SeatId, Wire};
use crate::model::channel::ChannelName;
use crate::model::close::CloseReason;

/// Buffers joined in one system call when a backlog is written.
const WRITE_AT_ONCE: usize = 32;
/// What a queued buffer costs beside its bytes; without it many tiny ones would slip through.
pub(super) const BUFFER_OVERHEAD: usize = 96;

pub(super) struct State {
    pub(super) queue: VecDeque<Bytes>,
    pub(super) backlog: Backlog,
    /// Some bytes of the first buffer are on the wire, so the rest must follow.
    front_begun: bool,
    pub(super) closing: Option<CloseReason>,
    /// The rest of a frame has been dropped: nothing can be written behind its beginning.
    pub(super) is_cut_off: bool,
    task: Option<Waker>,
    /// The peer has taken something of the backlog since that was last asked.
    pub(super) moved: bool,
    /// Channels whose ended subscriptions are still owed what was published before.
    pub(super) owed: Vec<Owed>,
}

pub(super) struct Owed {
    pub(super) channel: ChannelName,
    pub(super) seats: usize,
    /// The socket is in the channel again: what earlier seats are owed would come too late.
    pub(super) cancelled_below: SeatId,
}

/// What a queued buffer counts against the limit.
pub(super) fn cost(buffer: &Bytes) -> usize {
    buffer.len() + BUFFER_OVERHEAD
}

impl State {
    pub(super) fn new(all: Arc<Backlogs>) -> Self {
        Self {
            queue: VecDeque::new(),
            backlog: Backlog::new(all),
            front_begun: false,
            closing: None,
            is_cut_off: false,
            task: None,
            moved: false,
            owed: Vec::new(),
        }
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, wire: &mut impl Wire) -> Poll<io::Result<()>> {
        if self.is_cut_off {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let written = self.poll_write_queue(cx, wire);
        self.backlog.hold(wire.held());
        written
    }

    fn poll_write_queue(&mut self, cx: &mut Context<'_>, wire: &mut impl Wire) -> Poll<io::Result<()>> {
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_AT_ONCE];
            let count = self.queue.iter().zip(&mut slices).map(|(buf, s)| *s = IoSlice::new(buf)).count();
            let written = ready!(wire.poll_write(cx, &slices[..count]))?;
            self.written(written);
        }
        wire.poll_flush(cx)
    }

    pub(super) fn queue_rest(&mut self, rest: Bytes, begun: bool, limit: usize) {
        // One buffer always fits: a list of members may be longer than the whole limit.
        let (queued, more) = (self.backlog.queued(), cost(&rest));
        if (queued > 0 && queued + more > limit) || !self.backlog.add(more) {
            self.shed();
            return;
        }
        let was_empty = self.queue.is_empty();
        self.front_begun |= was_empty && begun;
        self.queue.push_back(rest);
        if was_empty {
            self.wake();
        }
    }

    pub(super) fn shed(&mut self) {
        self.drop_backlog();
        self.close(CloseReason::SlowConsumer);
    }

    /// Gives the backlog back, but for a buffer whose beginning the peer already has.
    fn drop_backlog(&mut self) {
        self.queue.truncate(usize::from(self.front_begun));
        self.queue.shrink_to_fit();
        self.backlog.set(self.queue.front().map_or(0, cost));
    }

    fn written(&mut self, mut n: usize) {
        let mut queued = self.backlog.queued() - n;
        self.moved |= n > 0;
        self.front_begun |= n > 0;
        while let Some(front) = self.queue.front_mut() {
            if n < front.len() {
                front.advance(n);
                break;
            }
            n -= front.len();
            queued -= BUFFER_OVERHEAD;
            self.queue.pop_front();
            self.front_begun = n > 0;
        }
        self.backlog.set(queued);
        if self.queue.is_empty() {
            self.front_begun = false;
            self.queue = VecDeque::new();
        }
    }

    pub(super) fn close(&mut self, reason: CloseReason) {
        if self.closing.is_none() {
            self.closing = Some(reason);
            self.backlog.close();
            if !self.backlog.may_stay() {
                self.drop_backlog();
            }
            if !self.backlog.may_stay() {
                self.cut_off();
            }
            self.wake();
        }
    }

    /// Drops what has been begun, too: the connection ends without last words.
    fn cut_off(&mut self) {
        self.is_cut_off = true;
        self.queue = VecDeque::new();
        self.backlog.set(0);
    }

    pub(super) fn remember(&mut self, cx: &Context<'_>) {
        match &mut self.task {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.task {
            waker.wake_by_ref();
        }
    }
}
