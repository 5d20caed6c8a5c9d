//! One session of a fallback, and the task that drives it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::line::{Line, ToLine};
use super::{NOTHING, close_frame};
use crate::mailbox::Mailbox;
use crate::model::close::CloseReason;
use crate::sockets::Sockets;
use crate::transport::{Opened, Session};

/// How long the client may take to read our last words.
const LINGER: Duration = Duration::from_secs(5);
/// How long a session that has ended is remembered, for a client that has not heard of it.
const REMEMBERED: Duration = Duration::from_secs(10);

/// The transport's end of one session.
pub(super) struct Peer<S> {
    mailbox: Arc<Mailbox>,
    /// `None` once it has ended.
    session: Mutex<Option<S>>,
    max_message: usize,
    line: Arc<Line>,
    sockets: Arc<Sockets>,
    /// Requests give their messages one after the other.
    turn: Semaphore,
    /// No answer is owed any more, or the session has ended.
    answered: Notify,
}

/// Closes a session of which a request has not been done to its end: by a panic, or as the client has hung
/// up while its messages waited. Half of what they ask for would go unseen.
struct Unfinished<'a>(&'a Mailbox);

impl Unfinished<'_> {
    fn finish(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.close(CloseReason::Lost);
    }
}

impl<S: Session> Peer<S> {
    pub(super) fn new(opened: Opened<S>, sockets: Arc<Sockets>) -> Self {
        let Opened { mailbox, mut session, max_message } = opened;
        session.opened();
        let (session, line) = (Mutex::new(Some(session)), Arc::new(Line::new()));
        let (turn, answered) = (Semaphore::new(1), Notify::new());
        Self { mailbox, session, max_message, line, sockets, turn, answered }
    }

    pub(super) fn line(&self) -> &Arc<Line> {
        &self.line
    }

    pub(super) fn max_message(&self) -> usize {
        self.max_message
    }

    /// The client was heard.
    pub(super) fn heard(&self) {
        self.mailbox.heard(self.sockets.now_ms());
    }

    /// Takes the client's messages, one after the other and each in its turn. Says whether the session was
    /// still there.
    pub(super) async fn take(&self, messages: &[String]) -> bool {
        let unfinished = Unfinished(&self.mailbox);
        // It is never closed.
        let _turn = self.turn.acquire().await;
        let was_there = self.mailbox.closing().is_none();
        if was_there && messages.is_empty() {
            // Counts as a ping does.
            if let Some(session) = self.session.lock().as_mut() {
                session.control();
            }
            self.mailbox.push(&bytes::Bytes::from_static(NOTHING));
        }
        let mut left = messages;
        loop {
            // Before the look, so that nothing is missed after it.
            let answered = self.answered.notified();
            left = self.take_due(left);
            if left.is_empty() {
                break;
            }
            answered.await;
        }
        unfinished.finish();
        was_there
    }

    /// Takes the messages whose turn has come. Returns the others, unless the session has ended.
    fn take_due<'a>(&self, messages: &'a [String]) -> &'a [String] {
        let mut session = self.session.lock();
        let Some(session) = session.as_mut() else { return &[] };
        for (i, message) in messages.iter().enumerate() {
            if self.mailbox.closing().is_some() {
                break;
            }
            if message.len() > self.max_message {
                self.mailbox.close(CloseReason::MessageTooLong);
            } else if !session.text(message) {
                return &messages[i..];
            }
        }
        &[]
    }

    /// Ends the session for a message that is too long to be read.
    pub(super) fn refuse_long(&self) {
        self.mailbox.close(CloseReason::MessageTooLong);
    }

    /// The life of the session: until there is a reason to close, and a little longer. `untold` is held
    /// until its client knows.
    pub(super) async fn drive(self: Arc<Self>, alive: impl Send, untold: impl Send, entered: impl Send) {
        let reason = self.closing().await;
        let last = self.end(reason);
        let Some((code, text)) = last else {
            // A request that is still being read may hold this for a while.
            return self.mailbox.discard();
        };
        // Whoever does not read them in time goes without them.
        tokio::select! {
            () = self.say_goodbye(code, &text) => {}
            () = self.sockets.outlast_last_words(LINGER) => self.line.break_off(),
        }
        // Nobody takes from it any more.
        self.mailbox.discard();
        drop(alive);
        // Between two requests it hears of it by the next, which most make at once.
        let _ = timeout_at(self.line.since() + LINGER, self.line.told()).await;
        self.mailbox.hold(self.line.held());
        drop(untold);
        tokio::time::sleep(REMEMBERED).await;
        drop(entered);
    }

    async fn closing(&self) -> CloseReason {
        let mut wire = ToLine(Arc::clone(&self.line));
        loop {
            tokio::select! {
                reason = poll_fn(|cx| self.poll_closing(cx, &mut wire)) => return reason,
                () = self.line.changed() => {}
                () = sleep_until(self.line.next_look()) => {
                    if let Some(reason) = self.line.look(Instant::now()) {
                        self.mailbox.close(reason);
                    }
                }
            }
        }
    }

    fn poll_closing(&self, cx: &mut Context<'_>, wire: &mut ToLine) -> Poll<CloseReason> {
        let closing = self.mailbox.poll_closing(cx, wire);
        if closing.is_pending() && !self.mailbox.owes_answers() {
            self.answered.notify_waiters();
        }
        closing
    }

    /// Ends the session. Returns the code and text that its client is to be told, if it is there.
    fn end(&self, reason: CloseReason) -> Option<(u16, String)> {
        let ended = self.session.lock().take();
        self.answered.notify_waiters();
        let mut session = ended?;
        session.closed(reason);
        let (code, text) = session.farewell(reason);
        if reason.peer_is_gone() {
            self.line.abandon();
            return None;
        }
        Some((code, text.into_owned()))
    }

    async fn say_goodbye(&self, code: u16, text: &str) {
        self.line.begin_end();
        let mut wire = ToLine(Arc::clone(&self.line));
        let flushed = poll_fn(|cx| self.mailbox.poll_flush(cx, &mut wire));
        // What has not fitted by then is lost, as is what follows a frame that was cut off.
        let _ = timeout(LINGER / 2, flushed).await;
        self.line.end(close_frame(code, text));
        while !self.line.is_idle() {
            self.line.changed().await;
        }
    }
}
