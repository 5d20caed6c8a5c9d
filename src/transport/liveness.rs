//! Finds dead peers: one sweep over all sockets instead of a timer for each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::websocket::PING;
use crate::mailbox::Silence;
use crate::model::app::Limits;
use crate::model::close::CloseReason;
use crate::sockets::Sockets;

/// Pings sent before other tasks get their turn.
const PINGS_AT_ONCE: usize = 256;

/// Pings sockets that have been silent for their app's `activity_timeout`, and closes those that
/// do not answer within `pong_timeout`. Only what the peer sent counts as a sign of life. Never
/// ends; looks every `period`.
pub async fn sweep(sockets: Arc<Sockets>, period: Duration) {
    let ping = Bytes::from_static(&PING);
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = sockets.now_ms();
        let mut due = Vec::new();
        sockets.each(|app, mailbox| {
            let Limits { activity_timeout, pong_timeout, .. } = app.limits;
            let silence = mailbox.silence(now, millis(activity_timeout), millis(pong_timeout));
            if matches!(silence, Silence::PingDue | Silence::Dead) {
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
    let shortest = limits.map(|limits| limits.activity_timeout.min(limits.pong_timeout)).min();
    shortest
        .map_or(Duration::from_secs(1), |shortest| shortest / 10)
        .clamp(Duration::from_millis(20), Duration::from_secs(1))
}
