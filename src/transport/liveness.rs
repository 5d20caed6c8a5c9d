//! Finds dead peers: one sweep over all sockets instead of a timer for each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::websocket::PING;
use crate::mailbox::Silence;
use crate::model::app::Limits;
use crate::model::close::CloseReason;
use crate::sockets::Sockets;

/// Periods without a sweep that say that this process stood still.
const STANDSTILL_PERIODS: u64 = 5;
/// Pings sent before other tasks get their turn.
const PINGS_AT_ONCE: usize = 256;

/// Pings sockets that have been silent for their app's `activity_timeout`, and closes those that
/// do not answer within `pong_timeout`; closes those that have authorised nothing in time. Only what the peer sent counts as a sign of life. Never
/// ends; looks every `period`.
pub async fn sweep(sockets: Arc<Sockets>, period: Duration) {
    let ping = Bytes::from_static(&PING);
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = sockets.now_ms();
    loop {
        ticks.tick().await;
        sockets.close_unauthorized();
        let now = sockets.now_ms();
        // After a standstill of this process the answers may lie unread: they get another period.
        let stood_still = now.saturating_sub(last) > STANDSTILL_PERIODS * millis(period);
        last = now;
        let mut due = Vec::new();
        sockets.each(|app, mailbox| {
            let Limits { activity_timeout, pong_timeout, .. } = app.limits;
            let silence = mailbox.silence(now, millis(activity_timeout), millis(pong_timeout));
            if silence == Silence::PingDue || silence == Silence::Dead && !stood_still {
                due.push((silence, Arc::clone(mailbox)));
            }
        });
        // Not under the table's locks: a ping is a system call.
        for (i, (silence, mailbox)) in due.into_iter().enumerate() {
            match silence {
                Silence::Dead => mailbox.close(CloseReason::NoPong),
                _ => mailbox.push(&ping),
            }
            if i % PINGS_AT_ONCE == PINGS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How often to sweep so that no timeout is overrun by more than a tenth.
pub fn period<'a>(limits: impl Iterator<Item = &'a Limits>) -> Duration {
    let timeouts = |l: &Limits| l.activity_timeout.min(l.pong_timeout).min(l.authorization_timeout);
    let shortest = limits.map(timeouts).min();
    shortest
        .map_or(Duration::from_secs(1), |shortest| shortest / 10)
        .clamp(Duration::from_millis(20), Duration::from_secs(1))
}
