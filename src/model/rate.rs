//! A token bucket. Pure: the caller tells the time.

/// Allows `rate` things a second, and as many at once.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    /// Thousandths of a token.
    milli_tokens: u64,
    last_ms: u64,
}

impl TokenBucket {
    /// A full bucket.
    pub fn full(rate: u32, now_ms: u64) -> Self {
        Self { milli_tokens: u64::from(rate) * 1000, last_ms: now_ms }
    }

    /// Takes a token if there is one. A `rate` of 0 allows everything.
    pub fn take(&mut self, rate: u32, now_ms: u64) -> bool {
        if rate == 0 {
            return true;
        }
        let earned = now_ms.saturating_sub(self.last_ms).saturating_mul(u64::from(rate));
        self.milli_tokens = self.milli_tokens.saturating_add(earned).min(u64::from(rate) * 1000);
        self.last_ms = now_ms;
        let granted = self.milli_tokens >= 1000;
        if granted {
            self.milli_tokens -= 1000;
        }
        granted
    }
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
    }
}
