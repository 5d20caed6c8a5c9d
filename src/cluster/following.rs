//! Following a topic: a snapshot, and from there one numbered change after the other. Pure.

use super::Version;

/// Changes that are kept until the snapshot comes that they follow, at most. Above it they are forgotten,
/// and another snapshot is needed.
const MAX_EARLY: usize = 1024;

/// How far a node is in following a topic. `T` is a change.
#[derive(Debug)]
pub struct Following<T> {
    /// Everything up to `version` has been applied. Otherwise a snapshot is needed.
    live: bool,
    version: Version,
    early: Vec<(Version, T)>,
    /// So many came early that some were forgotten.
    overflown: bool,
}

/// What is to be done about a change that has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// Apply it.
    Apply(T),
    /// Nothing: it is old, or its turn comes.
    Nothing,
    /// Some change before it was missed: a snapshot is needed.
    Lost,
}

impl<T> Default for Following<T> {
    fn default() -> Self {
        Self { live: false, version: Version::default(), early: Vec::new(), overflown: false }
    }
}

impl<T> Following<T> {
    /// Whether what is known is up to date, as far as changes have come.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Whether everything up to `version` has been applied.
    pub fn has(&self, version: Version) -> bool {
        self.live && self.version.world == version.world && self.version.number >= version.number
    }

    /// A change that leads to `version` has come.
    pub fn next(&mut self, version: Version, change: T) -> Next<T> {
        if !self.live {
            self.keep(version, change);
            return Next::Nothing;
        }
        let same_world = version.world == self.version.world;
        if same_world && version.number <= self.version.number {
            return Next::Nothing;
        }
        if same_world && version.number == self.version.number + 1 {
            self.version = version;
            return Next::Apply(change);
        }
        self.live = false;
        self.keep(version, change);
        Next::Lost
    }

    fn keep(&mut self, version: Version, change: T) {
        if self.early.len() < MAX_EARLY {
            self.early.push((version, change));
        } else {
            self.early = Vec::new();
            self.overflown = true;
        }
    }

    /// A snapshot of `version` has been applied. Returns the changes to be applied after it, in their
    /// order. If it is not live then, another snapshot is needed.
    pub fn begin(&mut self, version: Version) -> Vec<T> {
        self.version = version;
        self.live = !std::mem::take(&mut self.overflown);
        let mut after = Vec::new();
        for (version, change) in std::mem::take(&mut self.early) {
            if version.world != self.version.world {
                // Of a world that is gone, or of the next, which will want a snapshot by itself.
                continue;
            }
            if !self.live {
                self.keep(version, change);
            } else if let Next::Apply(change) = self.next(version, change) {
                after.push(change);
            }
        }
        after
    }

    /// Forgets what came early: nothing follows it any more.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u64) -> Version {
        Version { world: 7, number }
    }

    fn live_at(number: u64) -> Following<u64> {
        let mut following = Following::default();
        assert!(following.begin(at(number)).is_empty());
        following
    }

    #[test]
    fn changes_are_applied_one_after_the_other_and_once() {
        let mut following = live_at(3);
        assert_eq!(following.next(at(3), 3), Next::Nothing, "the snapshot has it");
        assert_eq!(following.next(at(4), 4), Next::Apply(4));
        assert_eq!(following.next(at(4), 4), Next::Nothing, "doubled");
        assert!(following.has(at(4)) && !following.has(at(5)));
        assert!(!following.has(Version { world: 8, number: 1 }), "of another world");
    }

    #[test]
    fn what_comes_before_the_snapshot_waits_for_it() {
        let mut following = Following::default();
        for number in 2..=5 {
            assert_eq!(following.next(at(number), number), Next::Nothing);
        }
        assert_eq!(following.begin(at(3)), [4, 5]);
        assert!(following.has(at(5)));
    }

    #[test]
    fn a_gap_asks_for_a_snapshot_and_loses_nothing() {
        let mut following = live_at(1);
        assert_eq!(following.next(at(3), 3), Next::Lost);
        assert_eq!(following.next(at(4), 4), Next::Nothing);
        assert!(!following.is_live());
        assert_eq!(following.begin(at(2)), [3, 4]);
        assert!(following.has(at(4)));
    }

    #[test]
    fn a_gap_behind_the_snapshot_asks_for_another() {
        let mut following = Following::default();
        following.next(at(5), 5);
        assert_eq!(following.begin(at(3)), [] as [u64; 0]);
        assert!(!following.is_live());
        assert_eq!(following.begin(at(4)), [5]);
        assert!(following.is_live());
    }

    #[test]
    fn another_world_is_a_gap_too() {
        let mut following = live_at(9);
        let other = Version { world: 8, number: 10 };
        assert_eq!(following.next(other, 10), Next::Lost);
        assert!(following.begin(other).is_empty());
        assert!(following.has(other));
    }

    #[test]
    fn what_comes_early_is_bounded() {
        let mut following = Following::default();
        for number in 1..=2 * MAX_EARLY as u64 {
            following.next(at(number), number);
        }
        assert!(following.early.len() <= MAX_EARLY);
        following.begin(at(1));
        assert!(!following.is_live(), "some were forgotten");
        following.begin(at(2 * MAX_EARLY as u64));
        assert!(following.is_live());
    }
}
