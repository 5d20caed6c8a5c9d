//! Lines of the log that clients can cause at will: one in a while, with how many were left out since.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::model::clock::millis;

/// How often a line may be logged.
const INTERVAL: Duration = Duration::from_secs(10);

/// One line of the program that is not logged each time. It can be a `static`, and costs an atomic or
/// two each time.
#[derive(Debug, Default)]
pub struct Repeats {
    began: OnceLock<Instant>,
    /// Milliseconds from `began` until it may be logged again.
    next_ms: AtomicU64,
    left_out: AtomicU64,
}

impl Repeats {
    /// One that has not been logged yet.
    pub const fn new() -> Self {
        Self { began: OnceLock::new(), next_ms: AtomicU64::new(0), left_out: AtomicU64::new(0) }
    }

    /// Whether the line is to be logged now: with how many were left out since it was logged last. It
    /// counts as left out otherwise.
    pub fn due(&self) -> Option<u64> {
        let now = Instant::now();
        self.due_at(millis(now.saturating_duration_since(*self.began.get_or_init(|| now))))
    }

    fn due_at(&self, now_ms: u64) -> Option<u64> {
        let next = self.next_ms.load(Ordering::Relaxed);
        let then = now_ms.saturating_add(millis(INTERVAL));
        // Of several at once one logs.
        let is_due = now_ms >= next
            && self.next_ms.compare_exchange(next, then, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_due {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_logged_at_once_and_then_with_what_was_left_out() {
        let (repeats, interval) = (Repeats::new(), millis(INTERVAL));
        assert_eq!(repeats.due_at(5), Some(0));
        assert_eq!(repeats.due_at(6), None);
        assert_eq!(repeats.due_at(4 + interval), None);
        assert_eq!(repeats.due_at(5 + interval), Some(2));
        assert_eq!(repeats.due_at(6 + interval), None);
        assert_eq!(repeats.due_at(5 + 9 * interval), Some(1));
        assert_eq!(repeats.due_at(5 + 99 * interval), Some(0));
    }

    #[test]
    fn of_many_at_once_one_is_logged_and_all_others_are_counted() {
        let repeats = Repeats::new();
        let logged: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..100).filter_map(|_| repeats.due_at(5)).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(logged.len(), 1);
        assert_eq!(logged[0] + repeats.left_out.load(Ordering::Relaxed), 799);
    }
}
