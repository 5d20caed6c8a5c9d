//! Finds dead peers: one sweep over all sockets instead of a timer for each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::websocket::PING;
use crate::model::app::Limits;
use crate::model::close::CloseReason;
use crate::sockets::Sockets;

/// Pings sockets that have been silent for their app's `activity_timeout`, and closes those that
/// stay silent for `pong_timeout` more. Only what the peer sent counts as a sign of life. Never
/// ends; looks every `period`.
pub async fn sweep(sockets: Arc<Sockets>, period: Duration) {
    let ping = Bytes::from_static(&PING);
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = sockets.now_ms();
        sockets.each(|app, mailbox| {
            let silence = Duration::from_millis(mailbox.silent_for(now));
            let Limits { activity_timeout, pong_timeout, .. } = app.limits;
            if silence >= activity_timeout + pong_timeout {
                mailbox.close(CloseReason::NoPong);
            } else if silence >= activity_timeout && mailbox.begin_ping() {
                mailbox.push(&ping);
            }
        });
    }
}

/// How often to sweep so that no timeout is overrun by more than a tenth.
pub fn period<'a>(limits: impl Iterator<Item = &'a Limits>) -> Duration {
    let shortest = limits.map(|limits| limits.activity_timeout.min(limits.pong_timeout)).min();
    shortest
        .map_or(Duration::from_secs(1), |shortest| shortest / 10)
        .clamp(Duration::from_millis(20), Duration::from_secs(1))
}
