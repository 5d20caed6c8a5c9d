//! The bounded way out to one peer. Publishers write through it; they never wait for a reader.

mod backlogs;
mod state;
mod wire;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::TcpStream;

pub use self::backlogs::{Backlogs, SMALL_BACKLOG};
pub use self::wire::Wire;

use self::state::{Owed, State, cost};
use crate::model::channel::ChannelName;
use crate::model::close::CloseReason;
use crate::model::socket::SocketId;
use crate::model::transport::Transport;

/// Mailboxes closed before others get their turn.
const CLOSED_AT_ONCE: usize = 256;

/// Names one subscription of a socket to a channel.
pub type SeatId = u64;

/// One socket's way out, shared by its own task and by everybody who writes to it.
///
/// A frame goes straight to the kernel while nothing is queued. What the kernel does not take is
/// queued, up to a limit in bytes, and the socket's task is woken to write the rest. Above the
/// limit the socket is closed as a slow consumer.
pub struct Mailbox {
    socket: SocketId,
    transport: Transport,
    /// Subscribes that nobody has answered yet.
    unanswered: AtomicU32,
    /// Where to write through to, for a plain connection. In one allocation with the lock: whoever
    /// has the lock is about to need it. Other connections are written by their own task alone.
    stream: Option<TcpStream>,
    limit: usize,
    heard_ms: AtomicU64,
    /// When the ping went out that has not been answered; 0 for none.
    pinged_ms: AtomicU64,
    state: Mutex<State>,
}

/// Closes many for one reason, and lets others have their turn meanwhile.
pub async fn close_all(mailboxes: &[Arc<Mailbox>], reason: CloseReason) {
    for chunk in mailboxes.chunks(CLOSED_AT_ONCE) {
        chunk.iter().for_each(|mailbox| mailbox.close(reason));
        tokio::task::yield_now().await;
    }
}

impl Mailbox {
    /// A mailbox that queues at most `limit` bytes, in front of `stream` or of a connection that
    /// only its own task can write to. What it queues is among `all` that is queued.
    pub fn new(
        socket: SocketId,
        transport: Transport,
        stream: Option<TcpStream>,
        limit: usize,
        all: Arc<Backlogs>,
        now_ms: u64,
    ) -> Self {
        Self {
            socket,
            transport,
            unanswered: AtomicU32::new(0),
            stream,
            limit,
            heard_ms: AtomicU64::new(now_ms),
            pinged_ms: AtomicU64::new(0),
            state: Mutex::new(State::new(all)),
        }
    }

    /// Whose mailbox this is.
    pub fn socket(&self) -> SocketId {
        self.socket
    }

    /// What carries its messages.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Writes ready-made frames, or queues them. Does nothing once the socket is closing.
    pub fn push(&self, frames: &Bytes) {
        self.push_locked(&mut self.state.lock(), frames);
    }

    /// The same for a channel's events, unless what this seat is owed has been cancelled.
    pub fn deliver(&self, channel: &ChannelName, seat: SeatId, frames: &Bytes) {
        let mut state = self.state.lock();
        if !state.owed.iter().any(|owed| seat < owed.cancelled_below && owed.channel == *channel) {
            self.push_locked(&mut state, frames);
        }
    }

    /// Notes that an ended subscription is still owed events, until [`Mailbox::settled`].
    pub fn owe(&self, channel: &ChannelName) {
        let mut state = self.state.lock();
        match state.owed.iter_mut().find(|owed| owed.channel == *channel) {
            Some(owed) => owed.seats += 1,
            None => state.owed.push(Owed { channel: channel.clone(), seats: 1, cancelled_below: 0 }),
        }
    }

    /// Cancels what seats before `seat` are owed of a channel: nothing from before may come after
    /// the success of a new subscription.
    pub fn cancel_owed(&self, channel: &ChannelName, seat: SeatId) {
        let mut state = self.state.lock();
        if let Some(owed) = state.owed.iter_mut().find(|owed| owed.channel == *channel) {
            owed.cancelled_below = seat;
        }
    }

    /// An ended subscription to a channel is owed nothing any more.
    pub fn settled(&self, channel: &ChannelName) {
        let mut state = self.state.lock();
        if let Some(at) = state.owed.iter().position(|owed| owed.channel == *channel) {
            state.owed[at].seats -= 1;
            if state.owed[at].seats == 0 {
                state.owed.swap_remove(at);
            }
        }
        if state.owed.is_empty() {
            state.owed = Vec::new();
        }
    }

    /// A subscribe is answered later, see [`Mailbox::answered`].
    pub fn await_answer(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// A subscribe has been answered, or nobody waits for that any more.
    pub fn answered(&self) {
        // The task that looks after this sees what was pushed before.
        if self.unanswered.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.state.lock().wake();
        }
    }

    /// Some subscribe is still to be answered. The socket's task is woken when that is over.
    pub fn owes_answers(&self) -> bool {
        self.unanswered.load(Ordering::Acquire) != 0
    }

    fn push_locked(&self, state: &mut State, frames: &Bytes) {
        if state.closing.is_some() {
            return;
        }
        let written = if state.queue.is_empty() { self.write_through(frames) } else { Ok(0) };
        match written {
            Ok(n) if n == frames.len() => {}
            Ok(n) => state.queue_rest(frames.slice(n..), n > 0, self.limit),
            Err(_) => state.close(CloseReason::Lost),
        }
    }

    fn write_through(&self, frames: &Bytes) -> io::Result<usize> {
        let Some(stream) = &self.stream else { return Ok(0) };
        match stream.try_write(frames) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            other => other,
        }
    }

    /// Begins the end of the socket. The first reason given stands.
    pub fn close(&self, reason: CloseReason) {
        self.state.lock().close(reason);
    }

    /// Gives back what waits, and closes the socket as a slow consumer, unless fewer bytes wait than `least` or
    /// it is closing already. Says whether it did.
    pub fn shed(&self, least: usize) -> bool {
        let mut state = self.state.lock();
        let is_due = state.closing.is_none() && state.backlog.bytes() >= least;
        if is_due {
            state.shed();
        }
        is_due
    }

    /// Why the socket is closing, if it is.
    pub fn closing(&self) -> Option<CloseReason> {
        self.state.lock().closing
    }

    /// Bytes that wait for the peer, here or in its connection.
    pub fn queued(&self) -> usize {
        self.state.lock().backlog.bytes()
    }

    /// The last frame of all, for a mailbox that is closing and takes no others.
    pub fn push_farewell(&self, frame: Bytes) {
        let mut state = self.state.lock();
        if !state.is_cut_off {
            let queued = state.backlog.queued() + cost(&frame);
            state.backlog.set(queued);
            state.queue.push_back(frame);
        }
    }

    /// Gives back what nobody will take any more.
    pub fn discard(&self) {
        let mut state = self.state.lock();
        state.queue = Default::default();
        state.backlog.set(0);
    }

    /// Takes the backlog of a mailbox that no task writes out.
    pub fn take_backlog(&self) -> Vec<u8> {
        let mut state = self.state.lock();
        state.backlog.set(0);
        Vec::from(std::mem::take(&mut state.queue)).concat()
    }

    /// For the socket's task: waits until there is a reason to close, writing the backlog
    /// meanwhile.
    pub fn poll_closing(&self, cx: &mut Context<'_>, wire: &mut impl Wire) -> Poll<CloseReason> {
        let mut state = self.state.lock();
        if let Some(reason) = state.closing {
            return Poll::Ready(reason);
        }
        state.remember(cx);
        match state.poll_write(cx, wire) {
            Poll::Ready(Err(_)) => {
                state.close(CloseReason::Lost);
                Poll::Ready(CloseReason::Lost)
            }
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// For the socket's task: waits until everything queued is on the wire.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn poll_flush(&self, cx: &mut Context<'_>, wire: &mut impl Wire) -> Poll<io::Result<()>> {
        let mut state = self.state.lock();
        state.remember(cx);
        state.poll_write(cx, wire)
    }

    /// Notes how many bytes the connection has that its peer has not. For who drives it no more; see
    /// [`Wire::held`].
    pub fn hold(&self, bytes: usize) {
        self.state.lock().backlog.hold(bytes);
    }

    /// Whether the peer has taken something of its backlog since this was last asked. That is a
    /// sign of life: the kernel takes more only when the peer has acknowledged.
    pub fn has_moved(&self) -> bool {
        std::mem::take(&mut self.state.lock().moved)
    }

    /// The stream that is written through to.
    pub fn stream(&self) -> Option<&TcpStream> {
        self.stream.as_ref()
    }

    /// Notes that the peer sent something: it is alive.
    pub fn heard(&self, now_ms: u64) {
        self.heard_ms.store(now_ms, Ordering::Relaxed);
        if self.pinged_ms.load(Ordering::Relaxed) != 0 {
            self.pinged_ms.store(0, Ordering::Relaxed);
        }
    }

    /// How the peer's silence is to be taken. A ping that is found due is taken as sent now.
    pub fn silence(&self, now_ms: u64, activity_timeout_ms: u64, pong_timeout_ms: u64) -> Silence {
        let silent = now_ms.saturating_sub(self.heard_ms.load(Ordering::Relaxed));
        if silent < activity_timeout_ms {
            return Silence::Short;
        }
        // Not by silence alone: after a standstill of this whole process all would seem dead.
        match self.pinged_ms.load(Ordering::Relaxed) {
            0 => {
                self.pinged_ms.store(now_ms.max(1), Ordering::Relaxed);
                Silence::PingDue
            }
            pinged if now_ms.saturating_sub(pinged) >= pong_timeout_ms => Silence::Dead,
            _ => Silence::Pinged,
        }
    }
}

/// What a peer's silence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// It was heard lately.
    Short,
    /// It has been silent for long: a ping is due.
    PingDue,
    /// It has been pinged and may still answer.
    Pinged,
    /// It has not answered in time.
    Dead,
}

#[cfg(test)]
mod tests;
