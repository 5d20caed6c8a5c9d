//! What goes wrong is logged once in a while, each kind for itself, with all that has come since.
//! Pure: the caller tells the time.

use std::time::Duration;

use tokio::time::Instant;

/// How often the same kind of trouble is logged.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// One kind of trouble, counted elsewhere.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    logged_at: Option<Instant>,
    logged: u64,
}

impl Trouble {
    /// Of `total` so far, how many are to be logged now.
    pub(super) fn news(&mut self, total: u64, now: Instant) -> Option<u64> {
        let news = total - self.logged;
        if news == 0 || self.logged_at.is_some_and(|at| now < at + LOG_PERIOD) {
            return None;
        }
        (self.logged_at, self.logged) = (Some(now), total);
        Some(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_logged_at_once_and_then_in_sums() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        assert_eq!(trouble.news(0, now), None);
        assert_eq!(trouble.news(3, now), Some(3));
        assert_eq!(trouble.news(10, now + LOG_PERIOD / 2), None);
        assert_eq!(trouble.news(12, now + LOG_PERIOD), Some(9));
        assert_eq!(trouble.news(12, now + 3 * LOG_PERIOD), None);
    }
}
