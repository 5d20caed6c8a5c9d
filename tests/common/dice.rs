//! Chance that can be had again: a test prints its seed, and takes one from `FANFARE_SEED`.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same rolls for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Rolls that nobody has seen before.
    pub fn drawn() -> Self {
        Self(fresh())
    }

    /// Of a test that prints its seed; that is seen when it fails.
    pub fn printed(test: &str) -> Self {
        let given = std::env::var("FANFARE_SEED").ok();
        let seed = given.map_or_else(fresh, |given| given.parse().expect("FANFARE_SEED is a number"));
        println!("{test}: FANFARE_SEED={seed}");
        Self(seed)
    }

    /// Dice of its own for somebody else.
    pub fn child(&mut self) -> Self {
        Self(self.roll())
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to, and without, `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    /// An index into something of this length.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("an index")
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }
}

/// A number that nobody has seen before.
pub fn fresh() -> u64 {
    getrandom::u64().expect("chance")
}
