//! The time in which an HTTP connection has no request to answer, and what comes and goes on it then.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep, sleep_until};

/// The time since a connection last had a request to answer, or since the next one begins to come.
///
/// It costs a request two looks at the clock, where a timer of its own would be made and dropped.
pub struct Pause {
    opened: Instant,
    /// Milliseconds from `opened` to its beginning.
    began_ms: AtomicU64,
    /// Something of a next request has come, or is to come at once, as on a new connection.
    is_due: AtomicBool,
    /// Something is to be written that the peer does not take.
    is_stuck: AtomicBool,
    /// There has been a request: its reply may not be written yet.
    asked: AtomicBool,
    /// The reply is the last one, and what else the peer sends is not wanted.
    is_last: AtomicBool,
    /// The last reply is written.
    lingers: AtomicBool,
}

/// How long it may last.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// While a request comes, or a reply is not read.
    pub header: Duration,
    /// While nothing comes and nothing goes.
    pub idle: Duration,
}

impl Limits {
    /// The same for both.
    pub fn both(limit: Duration) -> Self {
        Self { header: limit, idle: limit }
    }
}

/// How long a peer may take to stop sending once it has had its last reply, and how many bytes of it are thrown
/// away. Closed before that, the connection would be reset, and a peer that is still sending would not read why.
const LINGER: Duration = Duration::from_secs(5);
const THROWN_AWAY: usize = 16 * 1024 * 1024;

/// In place of a beginning: a request is being answered.
const BUSY: u64 = u64::MAX;

impl Pause {
    /// Of a connection that has just been opened: a request is due.
    pub fn begin() -> Self {
        Self {
            opened: Instant::now(),
            began_ms: AtomicU64::new(0),
            is_due: AtomicBool::new(true),
            is_stuck: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            is_last: AtomicBool::new(false),
            lingers: AtomicBool::new(false),
        }
    }

    /// A request has come, whole with its headers.
    pub fn end(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.began_ms.store(BUSY, Ordering::Relaxed);
    }

    /// It has been answered.
    pub fn begin_again(&self) {
        self.is_due.store(false, Ordering::Relaxed);
        self.began_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// The reply is the connection's last, whatever the peer has yet to send.
    pub fn end_after_reply(&self) {
        self.is_last.store(true, Ordering::Relaxed);
    }

    /// Whether there has been a request.
    pub fn has_ended_once(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Bytes have come: of a next request, unless they are of one that is being answered.
    fn heard(&self) {
        let is_idle = !self.is_due.load(Ordering::Relaxed) && self.began_ms.load(Ordering::Relaxed) != BUSY;
        if is_idle {
            self.began_ms.store(self.now_ms(), Ordering::Relaxed);
            self.is_due.store(true, Ordering::Relaxed);
        }
    }

    /// Bytes were to be written.
    fn wrote(&self, is_stuck: bool) {
        if self.is_stuck.load(Ordering::Relaxed) != is_stuck {
            self.is_stuck.store(is_stuck, Ordering::Relaxed);
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(BUSY - 1)
    }

    /// The last reply is written: the peer has a little time from now on.
    fn linger(&self) {
        self.lingers.store(true, Ordering::Relaxed);
        self.begin_again();
    }

    /// When it has lasted for as long as it may; `None` while a request is being answered.
    fn end_by(&self, limits: Limits) -> Option<Instant> {
        let is_idle = !self.is_due.load(Ordering::Relaxed) && !self.is_stuck.load(Ordering::Relaxed);
        let limit = match (self.lingers.load(Ordering::Relaxed), is_idle) {
            (true, _) => LINGER.min(limits.header),
            (false, true) => limits.idle,
            (false, false) => limits.header,
        };
        match self.began_ms.load(Ordering::Relaxed) {
            BUSY => None,
            began => Some(self.opened + Duration::from_millis(began) + limit),
        }
    }

    /// Waits until it lasts at `time`, or begins after that, and has lasted for `limit`.
    pub async fn lasts_at(&self, time: Instant, limit: Duration) {
        sleep_until(time).await;
        self.exceeds(Limits::both(limit)).await;
    }

    /// Waits until it has lasted for as long as it may. To be polled by the task that drives the connection:
    /// the timer is set anew only when its time comes, or when a part of a request has made it earlier.
    pub async fn exceeds(&self, limits: Limits) {
        let mut timer = pin!(sleep(limits.header));
        poll_fn(|cx| {
            loop {
                if let Some(end) = self.end_by(limits).filter(|end| *end < timer.deadline()) {
                    timer.as_mut().reset(end);
                }
                ready!(timer.as_mut().poll(cx));
                let now = Instant::now();
                match self.end_by(limits).unwrap_or(now + limits.header) {
                    end if end <= now => return Poll::Ready(()),
                    end => timer.as_mut().reset(end),
                }
            }
        })
        .await;
    }
}

/// A connection that tells its [`Pause`] what comes and goes.
pub struct Timed<I> {
    io: I,
    pause: Arc<Pause>,
    is_shut: bool,
    thrown_away: usize,
}

impl<I> Timed<I> {
    /// A connection and its pause.
    pub fn new(io: I, pause: Arc<Pause>) -> Self {
        Self { io, pause, is_shut: false, thrown_away: 0 }
    }

    /// The connection itself.
    pub fn into_inner(self) -> I {
        self.io
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Timed<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, pause, .. } = self.get_mut();
        let before = buf.filled().len();
        let read = ready!(Pin::new(io).poll_read(cx, buf));
        if buf.filled().len() > before {
            pause.heard();
        }
        Poll::Ready(read)
    }
}

impl<I: AsyncRead + Unpin> Timed<I> {
    /// Reads what nobody wants, until the peer has ended or has sent enough of it.
    fn poll_throw_away(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut unwanted = [0; 8 * 1024];
        while self.thrown_away < THROWN_AWAY {
            let mut unwanted = ReadBuf::new(&mut unwanted);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut unwanted)) {
                Ok(()) if !unwanted.filled().is_empty() => self.thrown_away += unwanted.filled().len(),
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Timed<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { io, pause, .. } = self.get_mut();
        let written = Pin::new(io).poll_write(cx, bytes);
        pause.wrote(written.is_pending());
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, pause, .. } = self.get_mut();
        let flushed = Pin::new(io).poll_flush(cx);
        pause.wrote(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_shut {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            this.is_shut = true;
            if this.pause.is_last.load(Ordering::Relaxed) {
                this.pause.linger();
            }
        }
        if this.pause.lingers.load(Ordering::Relaxed) {
            ready!(this.poll_throw_away(cx));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LIMITS: Limits = Limits { header: Duration::from_secs(30), idle: Duration::from_secs(75) };

    /// How long a pause may still last from now on, in seconds.
    async fn lasts(pause: &Pause) -> u64 {
        let began = Instant::now();
        pause.exceeds(LIMITS).await;
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_has_begun_has_less_time_than_none() {
        let pause = Arc::new(Pause::begin());
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut ours = Timed::new(ours, Arc::clone(&pause));
        assert_eq!(lasts(&pause).await, 30, "a first request is due");
        pause.end();
        assert!(
            tokio::time::timeout(LIMITS.idle * 9, pause.exceeds(LIMITS)).await.is_err(),
            "it is answered"
        );
        theirs.write_all(b"body").await.unwrap();
        ours.read_exact(&mut [0; 4]).await.unwrap();
        pause.begin_again();
        assert_eq!(lasts(&pause).await, 75, "what came before is of no account");
        pause.begin_again();
        let beginning = async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            theirs.write_all(b"G").await.unwrap();
            ours.read_exact(&mut [0; 1]).await.unwrap();
            // As of the first byte.
            tokio::time::sleep(Duration::from_secs(10)).await;
            theirs.write_all(b"E").await.unwrap();
            ours.read_exact(&mut [0; 1]).await.unwrap();
            std::future::pending().await
        };
        let began = Instant::now();
        tokio::select! {
            () = beginning => {}
            () = pause.exceeds(LIMITS) => {}
        }
        assert_eq!(began.elapsed().as_secs(), 40);
        pause.end();
        pause.begin_again();
        let reply = tokio::time::timeout(Duration::from_secs(1), ours.write_all(b"a reply")).await;
        assert!(reply.is_err(), "it does not fit");
        assert!(lasts(&pause).await <= 30, "it is not read");
    }
}
