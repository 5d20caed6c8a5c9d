//! A token bucket. Pure: the caller tells the time.

/// Allows `rate` things a second, and as many at once. A single lot that is larger than that is
/// allowed when the bucket is full, and leaves a debt: the rate holds in the long run.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    /// Thousandths of a token; less than none is a debt.
    milli_tokens: i64,
    last_ms: u64,
}

impl TokenBucket {
    /// A full bucket.
    pub fn full(rate: u32, now_ms: u64) -> Self {
        Self { milli_tokens: milli(rate), last_ms: now_ms }
    }

    /// Takes a token if there is one. A `rate` of 0 allows everything.
    pub fn take(&mut self, rate: u32, now_ms: u64) -> bool {
        self.take_lot(1, rate, now_ms).is_ok()
    }

    /// Takes `count` tokens at once, or none. A `rate` of 0 allows everything.
    ///
    /// # Errors
    /// How many milliseconds it takes until they are there, unless others are taken meanwhile; at
    /// least 1.
    pub fn take_lot(&mut self, count: u32, rate: u32, now_ms: u64) -> Result<(), u64> {
        if rate == 0 {
            return Ok(());
        }
        self.refill(rate, rate, now_ms);
        // More than a full bucket holds is never there: a full one has to do.
        let needed = milli(count.min(rate));
        if self.milli_tokens < needed {
            let missing = self.milli_tokens.abs_diff(needed);
            return Err(missing.div_ceil(u64::from(rate)));
        }
        self.milli_tokens -= milli(count);
        Ok(())
    }

    /// Gives back tokens that were taken and not used.
    pub fn give_back(&mut self, count: u32, rate: u32) {
        self.milli_tokens = (self.milli_tokens + milli(count)).min(milli(rate));
    }

    /// As [`TokenBucket::take`], where `size` are allowed at once.
    pub fn take_of(&mut self, size: u32, rate: u32, now_ms: u64) -> bool {
        if rate == 0 {
            return true;
        }
        self.refill(size, rate, now_ms);
        let is_there = self.milli_tokens >= milli(1);
        self.milli_tokens -= if is_there { milli(1) } else { 0 };
        is_there
    }

    /// Whether it is as full as it gets, so that a new one would do as well.
    pub fn is_full(&self, rate: u32, now_ms: u64) -> bool {
        let mut later = self.clone();
        later.refill(rate, rate, now_ms);
        later.milli_tokens >= milli(rate)
    }

    fn refill(&mut self, size: u32, rate: u32, now_ms: u64) {
        let earned = now_ms.saturating_sub(self.last_ms).saturating_mul(u64::from(rate));
        let earned = i64::try_from(earned).unwrap_or(i64::MAX);
        self.milli_tokens = self.milli_tokens.saturating_add(earned).min(milli(size));
        // Callers on several cores may look at the clock before they take turns.
        self.last_ms = self.last_ms.max(now_ms);
    }
}

fn milli(tokens: u32) -> i64 {
    i64::from(tokens) * 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allows_the_rate_at_once_and_refills_with_time() {
        let mut bucket = TokenBucket::full(10, 0);
        assert_eq!((0..11).filter(|_| bucket.take(10, 0)).count(), 10);
        assert!(!bucket.take(10, 99));
        assert!(bucket.take(10, 100));
        assert!(!bucket.take(10, 100));
        assert_eq!((0..20).filter(|_| bucket.take(10, 10_000)).count(), 10, "never more than full");
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        let mut bucket = TokenBucket::full(0, 0);
        assert!((0..1000).all(|_| bucket.take(0, 0)));
        assert_eq!(bucket.take_lot(u32::MAX, 0, 0), Ok(()));
    }

    #[test]
    fn a_lot_is_taken_whole_or_not_at_all() {
        let mut bucket = TokenBucket::full(10, 0);
        assert_eq!(bucket.take_lot(7, 10, 0), Ok(()));
        assert_eq!(bucket.take_lot(4, 10, 0), Err(100));
        assert_eq!(bucket.take_lot(4, 10, 0), Err(100), "what is refused costs nothing");
        assert_eq!(bucket.take_lot(3, 10, 0), Ok(()));
        assert_eq!(bucket.take_lot(0, 10, 0), Ok(()));
        assert_eq!(bucket.take_lot(1, 10, 0), Err(100));
    }

    #[test]
    fn a_lot_beyond_the_rate_waits_for_a_full_bucket_and_leaves_a_debt() {
        let mut bucket = TokenBucket::full(10, 0);
        assert!(bucket.take(10, 0));
        assert_eq!(bucket.take_lot(1000, 10, 0), Err(100), "until it is full");
        assert_eq!(bucket.take_lot(1000, 10, 100), Ok(()));
        // 990 are owed, and one more is wanted.
        assert_eq!(bucket.take_lot(1, 10, 100), Err(99_100));
        assert_eq!(bucket.take_lot(1, 10, 99_199), Err(1));
        assert_eq!(bucket.take_lot(1, 10, 99_200), Ok(()));
    }

    #[test]
    fn the_rate_holds_in_the_long_run_whatever_the_lots_are() {
        for lot in [1, 3, 10, 11, 64, 1000] {
            let (mut bucket, mut taken) = (TokenBucket::full(10, 0), 0);
            for now_ms in 0..1_000_000 {
                taken += bucket.take_lot(lot, 10, now_ms).map_or(0, |()| u64::from(lot));
            }
            assert!((10_000 - 1000..=10_000 + 1000).contains(&taken), "{taken} in lots of {lot}");
        }
    }

    #[test]
    fn the_wait_that_is_told_is_the_true_one() {
        for rate in [1_u32, 3, 7, 999, 1001, 1_000_000] {
            for lot in [1, 2, rate, rate.saturating_mul(3), u32::MAX] {
                let mut bucket = TokenBucket::full(rate, 0);
                assert_eq!(bucket.take_lot(lot, rate, 0), Ok(()));
                let Err(wait) = bucket.take_lot(rate, rate, 0) else { panic!("empty") };
                assert_eq!(bucket.take_lot(rate, rate, wait - 1).err(), Some(1), "{lot} at {rate}");
                assert_eq!(bucket.take_lot(rate, rate, wait), Ok(()), "{lot} at {rate}");
            }
        }
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_but_never_more_than_full() {
        let mut bucket = TokenBucket::full(10, 0);
        assert_eq!(bucket.take_lot(25, 10, 0), Ok(()));
        bucket.give_back(25, 10);
        assert_eq!(bucket.take_lot(10, 10, 0), Ok(()));
        bucket.give_back(10, 10);
        bucket.give_back(u32::MAX, 10);
        assert_eq!((0..20).filter(|_| bucket.take(10, 0)).count(), 10);
    }

    #[test]
    fn more_than_the_rate_may_be_allowed_at_once() {
        let mut bucket = TokenBucket::full(30, 0);
        assert_eq!((0..40).filter(|_| bucket.take_of(30, 10, 0)).count(), 30);
        assert!(!bucket.take_of(30, 10, 99) && bucket.take_of(30, 10, 100));
        assert_eq!((0..40).filter(|_| bucket.take_of(30, 10, 60_000)).count(), 30, "never more than full");
        assert!((0..100).all(|_| bucket.take_of(30, 0, 60_000)), "a rate of 0 is no limit");
    }

    #[test]
    fn is_full_when_all_that_was_taken_is_back() {
        let mut bucket = TokenBucket::full(10, 0);
        assert!(bucket.is_full(10, 0) && bucket.take(10, 0));
        assert!(!bucket.is_full(10, 99) && bucket.is_full(10, 100));
    }

    #[test]
    fn a_clock_that_seems_to_go_back_earns_nothing_twice() {
        let mut bucket = TokenBucket::full(10, 1000);
        assert_eq!(bucket.take_lot(10, 10, 1000), Ok(()));
        assert_eq!(bucket.take_lot(1, 10, 0), Err(100));
        assert_eq!(bucket.take_lot(1, 10, 1000), Err(100));
        assert_eq!(bucket.take_lot(1, 10, u64::MAX), Ok(()));
    }

    #[test]
    fn another_rate_takes_over_what_is_there() {
        let mut bucket = TokenBucket::full(0, 0);
        assert_eq!(bucket.take_lot(1, 10, 0), Err(100));
        assert_eq!(bucket.take_lot(10, 10, 1000), Ok(()));
        let mut bucket = TokenBucket::full(1000, 0);
        assert_eq!((0..20).filter(|_| bucket.take(10, 0)).count(), 10);
    }
}
