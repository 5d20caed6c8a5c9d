//! Finds dead peers: one sweep over all sockets instead of a timer for each.

use std::sync::Arc;
use std::time::Duration;

use super::Framing;
use crate::apps::{Apps, LiveApp};
use crate::mailbox::Silence;
use crate::model::app::{App, Limits};
use crate::model::clock::millis;
use crate::model::close::CloseReason;
use crate::sockets::Sockets;

/// Periods without a sweep that say that this process stood still.
const STANDSTILL_PERIODS: u64 = 5;
/// Pings sent before other tasks get their turn.
const PINGS_AT_ONCE: usize = 256;

/// What a socket is due.
enum Due {
    Ping,
    Dead,
    Unauthorized,
}

/// Pings sockets that have been silent for their app's `activity_timeout`, and closes those that
/// do not answer within `pong_timeout`; closes those that have authorised nothing in time. Only what the
/// peer sent counts as a sign of life. Never ends; `period` is asked each time when to look again.
pub async fn sweep(sockets: Arc<Sockets>, period: impl Fn() -> Duration) {
    let mut last = sockets.now_ms();
    loop {
        let period = period();
        tokio::time::sleep(period).await;
        let now = sockets.now_ms();
        // After a standstill of this process the answers may lie unread: they get another period.
        let stood_still = now.saturating_sub(last) > STANDSTILL_PERIODS * millis(period);
        last = now;
        let mut due = Vec::new();
        if !stood_still {
            let unauthorized = sockets.take_unauthorized().into_iter();
            due.extend(unauthorized.map(|mailbox| (Due::Unauthorized, mailbox)));
        }
        sockets.each(|app, mailbox| {
            let Limits { activity_timeout, pong_timeout, .. } = app.limits;
            let silence = mailbox.silence(now, millis(activity_timeout), millis(pong_timeout));
            match silence {
                Silence::PingDue => due.push((Due::Ping, Arc::clone(mailbox))),
                Silence::Dead if !stood_still => due.push((Due::Dead, Arc::clone(mailbox))),
                _ => {}
            }
        });
        // Not under the table's locks: a ping is a system call.
        for (i, (what, mailbox)) in due.into_iter().enumerate() {
            match what {
                Due::Ping => mailbox.push(&Framing::of(mailbox.transport()).ping()),
                Due::Dead => mailbox.close(CloseReason::NoPong),
                Due::Unauthorized => mailbox.close(CloseReason::Unauthorized),
            }
            if i % PINGS_AT_ONCE == PINGS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// How often to sweep so that no timeout is overrun by more than a tenth.
pub fn period(apps: &Apps) -> Duration {
    let timeouts = |app: Arc<LiveApp>| {
        let app = app.now();
        let App { features, limits, .. } = &**app;
        let shortest = limits.activity_timeout.min(limits.pong_timeout);
        if features.authorized_connections { shortest.min(limits.authorization_timeout) } else { shortest }
    };
    let shortest = apps.all().into_iter().map(timeouts).min();
    shortest
        .map_or(Duration::from_secs(1), |shortest| shortest / 10)
        .clamp(Duration::from_millis(20), Duration::from_secs(1))
}
