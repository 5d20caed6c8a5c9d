//! Of which channels it was told that their cache is empty. Pure.

use std::collections::{HashMap, VecDeque};

use crate::model::channel::ChannelName;

/// Channels that are remembered; above that the earliest are forgotten, and told again.
const MAX_MISSES: usize = 100_000;
/// What is given back only when all are forgotten.
const SPARE: usize = 1024;

/// The cache misses of one app that were told.
#[derive(Debug, Default)]
pub(super) struct Misses {
    next: u64,
    told: HashMap<ChannelName, u64>,
    /// In their order; those whose number is not in `told` any more were forgotten since.
    order: VecDeque<(u64, ChannelName)>,
}

impl Misses {
    /// A subscriber found an empty cache. Says whether that is news.
    pub(super) fn miss(&mut self, channel: &ChannelName) -> bool {
        if self.told.contains_key(channel) {
            return false;
        }
        self.next += 1;
        self.told.insert(channel.clone(), self.next);
        self.order.push_back((self.next, channel.clone()));
        if self.order.len() > 2 * MAX_MISSES {
            let told = &self.told;
            self.order.retain(|(number, channel)| told.get(channel) == Some(number));
        }
        while self.told.len() > MAX_MISSES
            && let Some((number, oldest)) = self.order.pop_front()
        {
            if self.told.get(&oldest) == Some(&number) {
                self.told.remove(&oldest);
            }
        }
        true
    }

    /// The next miss is news: the cache has something, or nobody was told of the last.
    pub(super) fn forget(&mut self, channel: &ChannelName) {
        self.told.remove(channel);
        if self.told.is_empty() {
            self.order.clear();
            self.order.shrink_to(SPARE);
            self.told.shrink_to(SPARE);
        }
    }

    /// Every next miss is news.
    pub(super) fn forget_all(&mut self) {
        *self = Self::default();
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.told.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name, 200).expect("a name")
    }

    #[test]
    fn an_empty_cache_is_news_once_until_it_is_filled() {
        let (mut misses, cache) = (Misses::default(), channel("cache-a"));
        assert_eq!([misses.miss(&cache), misses.miss(&cache)], [true, false]);
        misses.forget(&cache);
        assert!(misses.miss(&cache));
        assert!((0..MAX_MISSES).all(|i| misses.miss(&channel(&format!("cache-{i}")))));
        assert!(misses.len() <= MAX_MISSES && misses.miss(&cache), "forgotten, so told again");
    }

    /// One channel that was filled all the time once had others told twice.
    #[test]
    fn what_was_filled_takes_nobodys_place() {
        let mut misses = Misses::default();
        let (cache, other) = (channel("cache-a"), channel("cache-b"));
        misses.miss(&cache);
        for _ in 0..MAX_MISSES * 5 {
            assert!(misses.miss(&other));
            misses.forget(&other);
        }
        assert!(misses.order.len() <= 2 * MAX_MISSES);
        assert!(!misses.miss(&cache));
        misses.forget(&cache);
        assert!(misses.order.capacity() <= SPARE, "the memory of many is given back");
    }
}
