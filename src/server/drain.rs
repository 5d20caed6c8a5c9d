//! How the broker stops: nobody new is let in, every socket is said goodbye to in its turn, and what is
//! under way ends, all within the grace.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout, timeout_at};

use super::{Alive, Server};
use crate::model::close::CloseReason;
use crate::sockets::Sockets;

/// How often some of the sockets are closed.
const TICK: Duration = Duration::from_millis(50);
/// The time that a socket's turn takes at most: few sockets do not take the whole window.
const LONGEST_TURN: Duration = Duration::from_millis(10);
/// Sockets closed before other tasks get their turn.
const CLOSES_AT_ONCE: usize = 256;

/// When what is done in a stop.
#[derive(Debug, Clone)]
pub struct Pace {
    /// How long nothing changes but that nobody new is let in.
    pub delay: Duration,
    /// How long closing all sockets takes.
    pub window: Duration,
}

/// Lets no new socket in from now on, and waits until that may have become known, at most until
/// `deadline`.
pub async fn announce(server: &Server, pace: &Pace, deadline: Instant) {
    let sockets = &server.pusher.sockets;
    sockets.stop();
    tracing::info!(sockets = sockets.count(), "stopping");
    sleep_until(deadline.min(Instant::now() + pace.delay)).await;
}

/// Stops accepting, closes every socket, and waits until all that was under way has ended, at most until
/// `deadline`. Says whether it has. Peers that do not read that they have been closed are waited for a
/// little less, and are no reason to say no: it may be that they are dead.
///
/// Clients of the fallbacks hear of their end only when they ask: they can until the last of them has.
pub async fn drain(
    server: &Server,
    stop: &watch::Sender<bool>,
    alive: Alive,
    mut ended: mpsc::Receiver<Infallible>,
    pace: &Pace,
    deadline: Instant,
) -> bool {
    drop(alive);
    let sockets = &server.pusher.sockets;
    let left = deadline.saturating_duration_since(Instant::now());
    // The last of them need time to go.
    let longest = left - left / 5;
    let last_words = deadline - left / 10;
    sockets.set_last_words(last_words.into());
    let accepting = async {
        let _ = timeout(longest, server.fallback.all_told()).await;
        stop.send_replace(true);
    };
    let all = async {
        tokio::join!(send_away(sockets, pace.window.min(longest)), accepting);
        let _ = ended.recv().await;
    };
    let is_done = timeout_at(deadline, all).await.is_ok();
    if timeout_at(last_words, sockets.all_gone()).await.is_err() {
        tracing::warn!(sockets = sockets.lingering(), "not read: that they are closed");
    }
    is_done
}

/// Closes every socket, evenly over `window`. Those that have gone by themselves are left out, and cost
/// no time.
async fn send_away(sockets: &Sockets, window: Duration) {
    let mut open = sockets.shuffled();
    let turns = Turns::new(open.len(), window);
    let began = Instant::now();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut closed = 0;
    while !open.is_empty() {
        ticks.tick().await;
        let due = turns.due(began.elapsed());
        while closed < due {
            let Some(socket) = open.pop() else { break };
            let Some(socket) = socket.upgrade() else { continue };
            socket.close(CloseReason::Stopping);
            closed += 1;
            if closed % CLOSES_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// When how many sockets have had their turn.
struct Turns {
    sockets: usize,
    window: Duration,
}

impl Turns {
    fn new(sockets: usize, window: Duration) -> Self {
        let unhurried = LONGEST_TURN.saturating_mul(u32::try_from(sockets).unwrap_or(u32::MAX));
        Self { sockets, window: window.min(unhurried) }
    }

    /// How many have had theirs, this long after the first.
    fn due(&self, elapsed: Duration) -> usize {
        if elapsed >= self.window {
            return self.sockets;
        }
        let part = elapsed.as_secs_f64() / self.window.as_secs_f64();
        self.sockets.min(1 + (self.sockets as f64 * part) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(5);

    #[test]
    fn a_crowd_is_spread_evenly_over_the_window() {
        let turns = Turns::new(10_000, WINDOW);
        let mut before = 0;
        for tick in 1..=100 {
            let due = turns.due(TICK * tick);
            assert!((99..=101).contains(&(due - before)), "{} at tick {tick}", due - before);
            before = due;
        }
        assert_eq!(before, 10_000);
    }

    #[test]
    fn few_do_not_take_the_whole_window() {
        for (sockets, whole) in [(1, 10), (20, 200), (500, 5000), (501, 5000)] {
            let turns = Turns::new(sockets, WINDOW);
            let whole = Duration::from_millis(whole);
            assert_eq!(turns.due(whole), sockets);
            assert_eq!(turns.due(Duration::ZERO), 1);
            assert!(sockets == 1 || turns.due(whole / 2) < sockets);
        }
    }

    #[test]
    fn without_a_window_all_are_due_at_once() {
        assert_eq!(Turns::new(10_000, Duration::ZERO).due(Duration::ZERO), 10_000);
        assert_eq!(Turns::new(0, WINDOW).due(Duration::ZERO), 0);
    }
}
