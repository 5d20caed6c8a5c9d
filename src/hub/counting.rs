//! When the subscribers of a channel are told how many they are. Pure: the caller tells the time.

use std::time::Duration;

use tokio::time::Instant;

/// Above this many subscribers they are not told of each change, since that would cost the square of
/// their number.
const MANY: usize = 100;
/// How often many subscribers are told, at most.
const PERIOD: Duration = Duration::from_secs(5);

/// What a channel's subscribers know of their number.
#[derive(Debug, Default)]
pub(super) struct Counting {
    told: Option<(usize, Instant)>,
    /// The agenda has an entry for this channel.
    scheduled: bool,
}

/// What is to be done about a number.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tell {
    /// Tell it.
    Now,
    /// See then.
    At(Instant),
    /// Nothing.
    Nothing,
}

impl Counting {
    /// There are `count` subscribers now. `has_space`: the channel can take another event.
    pub(super) fn changed(&mut self, count: usize, has_space: bool, now: Instant) -> Tell {
        let next = match self.told {
            Some((_, told_at)) if count > MANY => told_at + PERIOD,
            _ => now,
        };
        if next <= now && has_space {
            self.told = Some((count, now));
            return Tell::Now;
        }
        if std::mem::replace(&mut self.scheduled, true) {
            return Tell::Nothing;
        }
        Tell::At(next.max(now + PERIOD / 5))
    }

    /// The time has come that [`Tell::At`] named.
    pub(super) fn due(&mut self, count: usize, has_space: bool, now: Instant) -> Tell {
        self.scheduled = false;
        match self.told {
            Some((told, _)) if told == count => Tell::Nothing,
            _ => self.changed(count, has_space, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn few_are_told_of_each_change() {
        let (mut counting, now) = (Counting::default(), Instant::now());
        assert!((1..=MANY).all(|count| counting.changed(count, true, now) == Tell::Now));
        assert_eq!(counting.changed(1, true, now), Tell::Now);
    }

    #[test]
    fn many_are_told_once_in_a_period_and_then_the_latest() {
        let (mut counting, now) = (Counting::default(), Instant::now());
        assert_eq!(counting.changed(100, true, now), Tell::Now);
        assert_eq!(counting.changed(101, true, now + MS), Tell::At(now + PERIOD));
        assert!((102..150).all(|count| counting.changed(count, true, now + MS) == Tell::Nothing));
        assert_eq!(counting.due(149, true, now + PERIOD), Tell::Now);
        assert_eq!(counting.changed(150, true, now + PERIOD), Tell::At(now + 2 * PERIOD));
        assert_eq!(counting.due(149, true, now + 2 * PERIOD), Tell::Nothing, "as they know already");
        assert_eq!(counting.changed(148, true, now + 2 * PERIOD + MS), Tell::Now, "long after the last");
    }

    #[test]
    fn a_crowd_that_shrinks_is_told_of_each_change_again() {
        let (mut counting, now) = (Counting::default(), Instant::now());
        assert_eq!(counting.changed(101, true, now), Tell::Now);
        assert_eq!(counting.changed(102, true, now), Tell::At(now + PERIOD));
        assert_eq!(counting.changed(100, true, now), Tell::Now);
        assert_eq!(counting.due(100, true, now + PERIOD), Tell::Nothing);
    }

    #[test]
    fn a_full_channel_is_told_later() {
        let (mut counting, now) = (Counting::default(), Instant::now());
        let soon = now + PERIOD / 5;
        assert_eq!(counting.changed(1, false, now), Tell::At(soon));
        assert_eq!(counting.changed(2, false, now), Tell::Nothing);
        assert_eq!(counting.due(2, false, soon), Tell::At(soon + PERIOD / 5));
        assert_eq!(counting.due(2, true, soon + PERIOD / 5), Tell::Now);
    }
}
