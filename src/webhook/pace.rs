//! When an endpoint that fails is tried again.

use std::time::Duration;

use tokio::time::Instant;

/// The pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How the endpoint has been doing.
pub(super) struct Pace {
    failures: u32,
    pub(super) not_before: Instant,
    /// The broker stops, and that was taken into account.
    hurries: bool,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { failures: 0, not_before: Instant::now(), hurries: false }
    }

    /// The broker stops: what a pause was to spare is of no use any more.
    pub(super) fn hurry(&mut self) {
        if !std::mem::replace(&mut self.hurries, true) {
            (self.failures, self.not_before) = (0, Instant::now());
        }
    }
    pub(super) fn delivered(&mut self, now: Instant) {
        (self.failures, self.not_before) = (0, now);
    }

    pub(super) fn failed(&mut self) {
        self.not_before = Instant::now() + pause(self.failures);
        self.failures = self.failures.saturating_add(1);
    }
}

/// The pause after `failures` failures in a row before this one: twice as long each time, and up to a
/// quarter more or less, so that many do not come back at the same moment.
fn pause(failures: u32) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE);
    let random = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    pause.mul_f64(0.75 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        for (failures, seconds) in [(0, 1.0), (1, 2.0), (5, 32.0), (6, 60.0), (1000, 60.0)] {
            let pause = pause(failures).as_secs_f64();
            assert!((seconds * 0.75..=seconds * 1.25).contains(&pause), "{failures}: {pause}");
        }
    }
}
