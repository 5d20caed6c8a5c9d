//! What the service manager is told, where there is one that asks by `NOTIFY_SOCKET`: systemd, for a
//! unit of `Type=notify` or `notify-reload`. Without one nothing is done.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How long it may take to be told something: one that does not read must not hold us up.
const PATIENCE: Duration = Duration::from_secs(1);
/// When to look again at what was not healthy: it may be by now, and the next sign of life too late.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// The shortest pause between two signs of life.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// Whose turn it is to tell it something: there is never more than one thread that does.
static TELLING: Semaphore = Semaphore::const_new(1);

/// The broker serves: after its start, and after each [`reloading`].
pub async fn ready() {
    tell(|| Ok(vec![NotifyState::Ready])).await;
}

/// The broker takes up another configuration; [`ready`] has to follow, whatever becomes of that.
pub async fn reloading() {
    tell(|| Ok(vec![NotifyState::Reloading, NotifyState::monotonic_usec_now()?])).await;
}

/// The broker stops.
pub async fn stopping() {
    tell(|| Ok(vec![NotifyState::Stopping])).await;
}

/// Gives signs of life while `is_healthy`, two in each of the times that the service manager allows
/// without (`WatchdogSec=`). Returns at once when it asks for none; otherwise never.
pub async fn watchdog(is_healthy: impl Fn() -> bool) {
    let Some(allowed) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = interval((allowed / 2).max(SHORTEST_PAUSE));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if is_healthy() {
            tell(|| Ok(vec![NotifyState::Watchdog])).await;
        } else {
            ticks.reset_after(ticks.period().min(LOOK_AGAIN));
        }
    }
}

async fn tell(what: impl FnOnce() -> std::io::Result<Vec<NotifyState<'static>>> + Send + 'static) {
    let telling = async {
        // After what it is being told already. The permit is never refused: nobody closes this.
        let turn = TELLING.acquire().await;
        // Its queue may be full, and then this blocks.
        let telling = spawn_blocking(move || {
            let told = what().and_then(|what| sd_notify::notify(&what));
            drop(turn);
            told
        });
        telling.await
    };
    match timeout(PATIENCE, telling).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(%error, "the service manager cannot be told"),
        Ok(Err(error)) => tracing::warn!(%error, "the service manager cannot be told"),
        Err(_) => tracing::warn!("the service manager does not listen"),
    }
}
