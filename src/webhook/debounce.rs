//! Who leaves and comes back within the delay has never been away. Pure: the caller tells the time.
//!
//! Only departures are remembered, each until it is told or taken back. Somebody who comes while
//! their departure waits takes it back, and neither is told. So what is told of a channel, or of a
//! user in a channel, alternates strictly, whatever the churn.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::channel::ChannelName;
use crate::model::member::UserId;

/// Departures that may wait; above that the earliest are told before their time.
const MAX_WAITING: usize = 100_000;
/// Channels of which is remembered that a cache miss was told; above that the earliest are forgotten,
/// and told again.
const MAX_MISSES: usize = 100_000;

/// Who leaves: a channel's last subscriber, or a member.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Leaver {
    pub(super) channel: ChannelName,
    /// `None`: the channel's subscribers all together.
    pub(super) user_id: Option<UserId>,
}

/// The departures of one app that wait to be told.
#[derive(Debug)]
pub(super) struct Debounce {
    delay: Duration,
    next: u64,
    waiting: HashMap<Leaver, u64>,
    /// In their order; those whose number is not in `waiting` any more were taken back.
    order: VecDeque<(Instant, u64, Leaver)>,
    misses: HashMap<ChannelName, u64>,
    /// In their order; those whose number is not in `misses` any more have been filled since.
    missed: VecDeque<(u64, ChannelName)>,
}

impl Debounce {
    pub(super) fn new(delay: Duration) -> Self {
        Self {
            delay,
            next: 0,
            waiting: HashMap::new(),
            order: VecDeque::new(),
            misses: HashMap::new(),
            missed: VecDeque::new(),
        }
    }

    /// Somebody comes. Says whether that is news.
    pub(super) fn come(&mut self, leaver: &Leaver) -> bool {
        self.waiting.remove(leaver).is_none()
    }

    /// Somebody leaves. Returns who must be told of now, because too many wait.
    pub(super) fn leave(&mut self, leaver: Leaver, now: Instant) -> Option<Leaver> {
        let number = self.number();
        self.waiting.insert(leaver.clone(), number);
        self.order.push_back((now + self.delay, number, leaver));
        if self.order.len() > 2 * MAX_WAITING {
            let waiting = &self.waiting;
            self.order.retain(|(_, number, leaver)| waiting.get(leaver) == Some(number));
        }
        if self.waiting.len() > MAX_WAITING { self.give_up() } else { None }
    }

    /// Who has stayed away: the next of those whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Option<Leaver> {
        while self.order.front().is_some_and(|(due, ..)| *due <= now) {
            let told = self.pop();
            if told.is_some() {
                return told;
            }
        }
        self.shrink();
        None
    }

    /// Whoever waits next, whether its time has come or not.
    pub(super) fn give_up(&mut self) -> Option<Leaver> {
        while !self.order.is_empty() {
            let told = self.pop();
            if told.is_some() {
                return told;
            }
        }
        None
    }

    /// When to look again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.order.front().map(|(due, ..)| *due)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn pop(&mut self) -> Option<Leaver> {
        let (_, number, leaver) = self.order.pop_front()?;
        if self.waiting.get(&leaver) != Some(&number) {
            return None;
        }
        self.waiting.remove(&leaver);
        Some(leaver)
    }

    /// Gives back what a crowd that left together took.
    fn shrink(&mut self) {
        if self.order.is_empty() && self.order.capacity() > 1024 {
            self.order = VecDeque::new();
            self.waiting = HashMap::new();
        }
    }

    /// A subscriber found an empty cache. Says whether that is news.
    pub(super) fn miss(&mut self, channel: &ChannelName) -> bool {
        if self.misses.contains_key(channel) {
            return false;
        }
        let number = self.number();
        self.misses.insert(channel.clone(), number);
        self.missed.push_back((number, channel.clone()));
        if self.missed.len() > 2 * MAX_MISSES {
            let misses = &self.misses;
            self.missed.retain(|(number, channel)| misses.get(channel) == Some(number));
        }
        while self.misses.len() > MAX_MISSES
            && let Some((number, oldest)) = self.missed.pop_front()
        {
            if self.misses.get(&oldest) == Some(&number) {
                self.misses.remove(&oldest);
            }
        }
        true
    }

    /// The cache has something: the next miss is news.
    pub(super) fn fill(&mut self, channel: &ChannelName) {
        self.misses.remove(channel);
        if self.misses.is_empty() {
            self.missed.clear();
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(3);

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name, 200).expect("a name")
    }

    fn member(user: usize) -> Leaver {
        Leaver { channel: channel("presence-a"), user_id: Some(user.to_string().into()) }
    }

    #[test]
    fn who_comes_back_in_time_was_never_away() {
        let (mut debounce, now) = (Debounce::new(DELAY), Instant::now());
        assert!(debounce.come(&member(1)), "nobody knew of it");
        assert_eq!(debounce.leave(member(1), now), None);
        assert!(!debounce.come(&member(1)));
        assert_eq!(debounce.due(now + DELAY), None);
        debounce.leave(member(1), now);
        assert_eq!(debounce.due(now + DELAY / 2), None);
        assert_eq!(debounce.due(now + DELAY), Some(member(1)));
        assert!(debounce.come(&member(1)));
        assert_eq!((debounce.len(), debounce.next_due()), (0, None));
    }

    #[test]
    fn each_departure_has_the_whole_delay() {
        let (mut debounce, now) = (Debounce::new(DELAY), Instant::now());
        debounce.leave(member(1), now);
        debounce.come(&member(1));
        debounce.leave(member(1), now + DELAY / 2);
        assert_eq!(debounce.due(now + DELAY), None, "the first departure was taken back");
        assert_eq!(debounce.due(now + DELAY + DELAY / 2), Some(member(1)));
    }

    #[test]
    fn departures_are_told_in_their_order() {
        let (mut debounce, now) = (Debounce::new(DELAY), Instant::now());
        let all = Leaver { channel: channel("presence-a"), user_id: None };
        debounce.leave(member(1), now);
        debounce.leave(all.clone(), now);
        debounce.leave(member(2), now);
        let told: Vec<_> = std::iter::from_fn(|| debounce.due(now + DELAY)).collect();
        assert_eq!(told, [member(1), all, member(2)]);
        debounce.leave(member(3), now);
        assert_eq!((debounce.give_up(), debounce.give_up()), (Some(member(3)), None));
    }

    #[test]
    fn too_many_departures_are_told_early() {
        let (mut debounce, now) = (Debounce::new(DELAY), Instant::now());
        assert!((0..MAX_WAITING).all(|user| debounce.leave(member(user), now).is_none()));
        assert_eq!(debounce.leave(member(MAX_WAITING), now), Some(member(0)));
        assert!(debounce.come(&member(0)), "it was told, so its return is news");
        assert_eq!(debounce.len(), MAX_WAITING);
    }

    /// One user who came and went all the time once had others told early, and caches missed twice.
    #[test]
    fn what_was_taken_back_takes_nobodys_place() {
        let (mut debounce, now) = (Debounce::new(DELAY), Instant::now());
        let (cache, other) = (channel("cache-a"), channel("cache-b"));
        debounce.leave(member(1), now);
        debounce.miss(&cache);
        for _ in 0..MAX_WAITING * 5 {
            assert_eq!(debounce.leave(member(2), now), None);
            assert!(!debounce.come(&member(2)) && debounce.miss(&other));
            debounce.fill(&other);
        }
        assert!(debounce.order.len() <= 2 * MAX_WAITING && debounce.missed.len() <= 2 * MAX_MISSES);
        assert!(!debounce.come(&member(1)) && !debounce.miss(&cache));
    }

    #[test]
    fn an_empty_cache_is_news_once_until_it_is_filled() {
        let mut debounce = Debounce::new(DELAY);
        let cache = channel("cache-a");
        assert_eq!([debounce.miss(&cache), debounce.miss(&cache)], [true, false]);
        debounce.fill(&cache);
        assert!(debounce.miss(&cache));
        assert!((0..MAX_MISSES).all(|i| debounce.miss(&channel(&format!("cache-{i}")))));
        assert!(debounce.misses.len() <= MAX_MISSES && debounce.miss(&cache), "forgotten, so told again");
    }
}
