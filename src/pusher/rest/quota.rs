//! How much an app may do through the API in a second (protocol.md §6.12).

use std::sync::Arc;

use dashmap::DashMap;
use hyper::StatusCode;

use super::{Call, Refusal};
use crate::model::app::{App, AppId, Limits};
use crate::model::rate::TokenBucket;

/// What the apps that have such limits have left. An app without them has no entry.
#[derive(Debug, Default)]
pub struct Quotas {
    apps: DashMap<AppId, Quota>,
}

#[derive(Debug)]
struct Quota {
    events: TokenBucket,
    reads: TokenBucket,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Events,
    Reads,
}

/// Over the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Exceeded {
    kind: Kind,
    rate: u32,
    /// Until it would be allowed.
    wait_ms: u64,
}

impl Kind {
    fn rate(self, limits: &Limits) -> u32 {
        match self {
            Self::Events => limits.api_events_per_second,
            Self::Reads => limits.api_reads_per_second,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Reads => "reads",
        }
    }
}

impl Quota {
    fn full(limits: &Limits, now_ms: u64) -> Self {
        let bucket = |kind: Kind| TokenBucket::full(kind.rate(limits), now_ms);
        Self { events: bucket(Kind::Events), reads: bucket(Kind::Reads) }
    }

    fn bucket(&mut self, kind: Kind) -> &mut TokenBucket {
        match kind {
            Kind::Events => &mut self.events,
            Kind::Reads => &mut self.reads,
        }
    }
}

impl Quotas {
    /// Takes `count` of `kind`, or nothing. An app without this limit pays for one comparison.
    fn take(&self, app: &App, kind: Kind, count: u32, now_ms: impl FnOnce() -> u64) -> Result<(), Exceeded> {
        let rate = kind.rate(&app.limits);
        if rate == 0 {
            return Ok(());
        }
        let now_ms = now_ms();
        let take = |quota: &mut Quota| quota.bucket(kind).take_lot(count, rate, now_ms);
        let known = self.apps.get_mut(&app.id).map(|mut quota| take(&mut quota));
        let taken = known.unwrap_or_else(|| {
            let new = || Quota::full(&app.limits, now_ms);
            take(&mut self.apps.entry(Arc::clone(&app.id)).or_insert_with(new))
        });
        taken.map_err(|wait_ms| Exceeded { kind, rate, wait_ms })
    }
}

/// Events that were allowed. They are given back, unless the charge is settled.
#[derive(Debug)]
#[must_use]
pub(super) struct Charge<'a> {
    quotas: &'a Quotas,
    app: &'a App,
    count: u32,
}

impl<'a> Charge<'a> {
    fn take(
        quotas: &'a Quotas,
        app: &'a App,
        count: u32,
        now_ms: impl FnOnce() -> u64,
    ) -> Result<Self, Exceeded> {
        quotas.take(app, Kind::Events, count, now_ms)?;
        Ok(Self { quotas, app, count })
    }

    /// The events are published.
    pub(super) fn settle(mut self) {
        self.count = 0;
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        let rate = Kind::Events.rate(&self.app.limits);
        if self.count > 0
            && rate > 0
            && let Some(mut quota) = self.quotas.apps.get_mut(&self.app.id)
        {
            quota.events.give_back(self.count, rate);
        }
    }
}

/// Counts the events of a request, before any of them is published. One that publishes nothing is
/// a read.
///
/// # Errors
/// 429 when they are too many; nothing is counted then.
pub(super) fn events<'a>(call: &'a Call<'_>, count: usize) -> Result<Charge<'a>, Refusal> {
    if count == 0 {
        read(call)?;
    }
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let charge = Charge::take(&call.pusher.quotas, call.app, count, || call.pusher.sockets.now_ms());
    charge.map_err(Exceeded::into)
}

/// Counts a request that publishes nothing, before it is answered.
///
/// # Errors
/// 429 when there were too many; nothing is counted then.
pub(super) fn read(call: &Call<'_>) -> Result<(), Refusal> {
    let taken = call.pusher.quotas.take(call.app, Kind::Reads, 1, || call.pusher.sockets.now_ms());
    taken.map_err(Exceeded::into)
}

impl From<Exceeded> for Refusal {
    fn from(Exceeded { kind, rate, wait_ms }: Exceeded) -> Self {
        let text = format!("Rate limit exceeded: at most {rate} {} per second for this app", kind.name());
        let retry_after = Some(wait_ms.div_ceil(1000).max(1));
        Self { retry_after, ..Self::new(StatusCode::TOO_MANY_REQUESTS, text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::app::Features;

    fn app(id: &str, events: u32, reads: u32) -> App {
        let limits =
            Limits { api_events_per_second: events, api_reads_per_second: reads, ..Limits::default() };
        let (keys, features, webhooks) = (Vec::new(), Features::default(), Vec::new());
        App { id: Arc::from(id), keys, enabled: true, features, limits, webhooks }
    }

    fn publish(quotas: &Quotas, app: &App, count: u32, now_ms: u64) -> Result<(), Exceeded> {
        Charge::take(quotas, app, count, || now_ms).map(Charge::settle)
    }

    #[test]
    fn an_app_without_limits_leaves_no_trace_and_is_not_told_the_time() {
        let (quotas, app) = (Quotas::default(), app("1", 0, 0));
        let no_clock = || panic!("asked for the time");
        Charge::take(&quotas, &app, 1_000_000, no_clock).expect("no limit").settle();
        drop(Charge::take(&quotas, &app, 1_000_000, no_clock).expect("no limit"));
        assert_eq!(quotas.take(&app, Kind::Reads, 1, no_clock), Ok(()));
        assert!(quotas.apps.is_empty());
    }

    #[test]
    fn apps_and_kinds_do_not_share() {
        let (quotas, one, two) = (Quotas::default(), app("1", 5, 2), app("2", 5, 2));
        assert_eq!(publish(&quotas, &one, 5, 0), Ok(()));
        let exceeded = Exceeded { kind: Kind::Events, rate: 5, wait_ms: 200 };
        assert_eq!(publish(&quotas, &one, 1, 0), Err(exceeded));
        assert_eq!(publish(&quotas, &two, 5, 0), Ok(()));
        assert_eq!(quotas.take(&one, Kind::Reads, 1, || 0), Ok(()));
        assert_eq!(quotas.take(&one, Kind::Reads, 1, || 0), Ok(()));
        let exceeded = Exceeded { kind: Kind::Reads, rate: 2, wait_ms: 500 };
        assert_eq!(quotas.take(&one, Kind::Reads, 1, || 0), Err(exceeded));
        assert_eq!(publish(&quotas, &one, 1, 200), Ok(()));
    }

    #[test]
    fn what_was_not_published_after_all_is_given_back() {
        let (quotas, app) = (Quotas::default(), app("1", 5, 0));
        drop(Charge::take(&quotas, &app, 40, || 0).expect("a full bucket"));
        assert_eq!(publish(&quotas, &app, 5, 0), Ok(()));
        assert!(publish(&quotas, &app, 1, 0).is_err());
    }

    #[test]
    fn the_wait_is_told_in_whole_seconds() {
        for (wait_ms, seconds) in [(1, 1), (1000, 1), (1001, 2), (99_000, 99)] {
            let refusal = Refusal::from(Exceeded { kind: Kind::Events, rate: 100, wait_ms });
            assert_eq!(refusal.retry_after, Some(seconds));
            assert_eq!(refusal.text, "Rate limit exceeded: at most 100 events per second for this app");
        }
    }
}
