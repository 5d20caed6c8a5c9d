//! One session of a fallback, and the task that drives it.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

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
}

/// Half of what a message asks for may have been done: the session does not go on.
struct CloseOnPanic<'a>(&'a Mailbox);

impl Drop for CloseOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close(CloseReason::Lost);
        }
    }
}

impl<S: Session> Peer<S> {
    pub(super) fn new(opened: Opened<S>, sockets: Arc<Sockets>) -> Self {
        let Opened { mailbox, mut session, max_message } = opened;
        session.opened();
        let (session, line) = (Mutex::new(Some(session)), Arc::new(Line::new()));
        Self { mailbox, session, max_message, line, sockets }
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

    /// Takes the client's messages, one after the other. Says whether the session is still there.
    pub(super) fn take(&self, messages: &[String]) -> bool {
        let mut session = self.session.lock();
        let Some(session) = session.as_mut().filter(|_| self.mailbox.closing().is_none()) else {
            return false;
        };
        // As a WebSocket ends with its task.
        let _unwinding = CloseOnPanic(&self.mailbox);
        if messages.is_empty() {
            self.mailbox.push(&bytes::Bytes::from_static(NOTHING));
        }
        for message in messages {
            if self.mailbox.closing().is_some() {
                break;
            }
            if message.len() > self.max_message {
                self.mailbox.close(CloseReason::MessageTooLong);
            } else {
                session.text(message);
            }
        }
        true
    }

    /// Ends the session for a message that is too long to be read.
    pub(super) fn refuse_long(&self) {
        self.mailbox.close(CloseReason::MessageTooLong);
    }

    /// The life of the session: until there is a reason to close, and a little longer.
    pub(super) async fn drive(self: Arc<Self>, alive: impl Send, entered: impl Send) {
        let reason = self.closing().await;
        let last = self.end(reason);
        let Some((code, text)) = last else { return };
        // Whoever does not read them in time goes without them.
        if timeout(LINGER, self.say_goodbye(code, &text)).await.is_err() {
            self.line.break_off();
        }
        drop(alive);
        tokio::time::sleep(REMEMBERED).await;
        drop(entered);
    }

    async fn closing(&self) -> CloseReason {
        let mut wire = ToLine(Arc::clone(&self.line));
        loop {
            tokio::select! {
                reason = poll_fn(|cx| self.mailbox.poll_closing(cx, &mut wire)) => return reason,
                () = self.line.changed() => {}
                () = sleep_until(self.line.next_look()) => {
                    if let Some(reason) = self.line.look(Instant::now()) {
                        self.mailbox.close(reason);
                    }
                }
            }
        }
    }

    /// Ends the session. Returns the code and text that its client is to be told, if it is there.
    fn end(&self, reason: CloseReason) -> Option<(u16, String)> {
        let mut session = self.session.lock().take()?;
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
        // A line cannot break.
        let _ = timeout(LINGER / 2, flushed).await;
        self.line.end(close_frame(code, text));
        while !self.line.is_idle() {
            self.line.changed().await;
        }
    }
}
