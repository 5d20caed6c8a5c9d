//! When the subscribers of a channel are told how many they are. Pure: the caller tells the time.

use std::time::Duration;

use tokio::time::Instant;

/// Above this many subscribers they are not told of each change, since that would cost the square of
/// their number.
const MANY: usize = 100;
/// How often many subscribers are told, at most.
const PERIOD: Duration = Duration::from_secs(5);
/// How often few are told in a second, at most: somebody who comes and goes without end must not have
/// the others told without end.
const PER_SECOND: u32 = 250;
/// How soon a channel without space is looked at again.
const AGAIN: Duration = Duration::from_secs(1);

/// What a channel's subscribers know of their number.
#[derive(Debug, Default)]
pub(super) struct Counting {
    told_at: Option<Instant>,
    /// The number that was told last.
    told: usize,
    /// When this second began, and how often they have been told in it.
    second: Option<(Instant, u32)>,
    /// Somebody has come or gone since. Whoever has come knows no number, even if it is the same.
    outdated: bool,
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
        if count == 0 {
            return self.deserted();
        }
        let next = match self.told_at {
            Some(told_at) if count > MANY => told_at + PERIOD,
            _ => self.next_in_turn(now),
        };
        self.outdated = next > now || !has_space;
        if !self.outdated {
            self.tell(count, now);
            return Tell::Now;
        }
        if std::mem::replace(&mut self.scheduled, true) {
            return Tell::Nothing;
        }
        Tell::At(if next > now { next } else { now + AGAIN })
    }

    fn next_in_turn(&self, now: Instant) -> Instant {
        match self.second {
            Some((began, times)) if times >= PER_SECOND => (began + Duration::from_secs(1)).max(now),
            _ => now,
        }
    }

    /// The last has gone. No subscriber is to be told, so nothing holds it back; and whoever is told
    /// of the channel from outside would take the number before for true as long as it is deserted.
    fn deserted(&mut self) -> Tell {
        self.outdated = false;
        if std::mem::take(&mut self.told) == 0 { Tell::Nothing } else { Tell::Now }
    }

    fn tell(&mut self, count: usize, now: Instant) {
        self.told = count;
        self.told_at = Some(now);
        let second = self.second.filter(|(began, _)| now < *began + Duration::from_secs(1));
        let (began, times) = second.unwrap_or((now, 0));
        self.second = Some((began, times + 1));
    }

    /// The time has come that [`Tell::At`] named.
    pub(super) fn due(&mut self, count: usize, has_space: bool, now: Instant) -> Tell {
        self.scheduled = false;
        if self.outdated { self.changed(count, has_space, now) } else { Tell::Nothing }
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
        let later = now + Duration::from_secs(1);
        assert!((1..=MANY).all(|count| counting.changed(count, true, later) == Tell::Now));
    }

    #[test]
    fn whoever_comes_and_goes_without_end_has_the_others_told_at_a_bounded_rate() {
        let (mut counting, now) = (Counting::default(), Instant::now());
        let told = (0..1000).filter(|i| counting.changed(1 + i % 2, true, now) == Tell::Now).count();
        assert_eq!(told, PER_SECOND as usize);
        assert_eq!(counting.due(2, true, now + Duration::from_secs(1)), Tell::Now, "and then the latest");
    }

    #[test]
    fn many_are_told_once_in_a_period_and_then_the_latest() {
        let (mut counting, now) = (Counting::default(), Instant::now());
        assert_eq!(counting.changed(100, true, now), Tell::Now);
        assert_eq!(counting.changed(101, true, now + MS), Tell::At(now + PERIOD));
        assert!((102..150).all(|count| counting.changed(count, true, now + MS) == Tell::Nothing));
        assert_eq!(counting.due(149, true, now + PERIOD), Tell::Now);
        assert_eq!(counting.changed(148, true, now + 2 * PERIOD + MS), Tell::Now, "long after the last");
    }

    /// The last number of a channel was once 1 for ever.
    #[test]
    fn that_the_last_has_gone_is_told_at_once_and_once() {
        let (mut counting, now) = (Counting::default(), Instant::now());
        assert!((0..PER_SECOND).all(|_| counting.changed(1, true, now) == Tell::Now));
        assert!(matches!(counting.changed(2, true, now), Tell::At(_)));
        assert_eq!(counting.changed(1, true, now), Tell::Nothing);
        assert_eq!(counting.changed(0, false, now), Tell::Now);
        assert_eq!(counting.due(0, true, now + Duration::from_secs(1)), Tell::Nothing, "already told");
        assert_eq!(counting.changed(1, true, now), Tell::At(now + Duration::from_secs(1)));
        assert_eq!(counting.changed(0, true, now), Tell::Nothing, "nobody heard of the 1");
    }

    #[test]
    fn a_newcomer_is_told_though_the_number_is_the_same_again() {
        let (mut counting, now) = (Counting::default(), Instant::now());
        assert_eq!(counting.changed(150, true, now), Tell::Now);
        assert_eq!(counting.changed(149, true, now + MS), Tell::At(now + PERIOD));
        assert_eq!(counting.changed(150, true, now + MS), Tell::Nothing);
        assert_eq!(counting.due(150, true, now + PERIOD), Tell::Now);
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
        let soon = now + AGAIN;
        assert_eq!(counting.changed(1, false, now), Tell::At(soon));
        assert_eq!(counting.changed(2, false, now), Tell::Nothing);
        assert_eq!(counting.due(2, false, soon), Tell::At(soon + AGAIN));
        assert_eq!(counting.due(2, true, soon + AGAIN), Tell::Now);
    }
}
