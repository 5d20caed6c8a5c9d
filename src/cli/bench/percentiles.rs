//! Times in a histogram, and the percentiles that are told of them.

use hdrhistogram::Histogram;

/// Longest time that is told apart from longer ones: ten minutes.
const LONGEST: u64 = 600_000_000_000;

/// Many times, in nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        match Histogram::new_with_bounds(1, LONGEST, 3) {
            Ok(histogram) => Self(histogram),
            Err(_) => unreachable!("the bounds are constant and in order"),
        }
    }
}

impl Times {
    /// Adds one.
    pub(super) fn add(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0.reset();
    }

    /// What is told of them, when there are any.
    pub(super) fn percentiles(&self) -> Option<Percentiles> {
        let at = |quantile| microseconds(self.0.value_at_quantile(quantile));
        (!self.0.is_empty()).then(|| Percentiles {
            mean: self.0.mean() / 1000.0,
            told: [at(0.5), at(0.9), at(0.99), at(0.999), microseconds(self.0.max())],
        })
    }
}

/// What is told of many times, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Percentiles {
    pub(super) mean: f64,
    /// As [`NAMES`] has them.
    pub(super) told: [f64; 5],
}

/// The percentiles that are told.
pub(super) const NAMES: [&str; 5] = ["p50", "p90", "p99", "p99.9", "max"];

fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let mut times = Times::default();
        assert!(times.percentiles().is_none());
        (1..=10_000u64).for_each(|n| times.add(n * 1000));
        let found = times.percentiles().expect("some");
        for (told, exact) in found.told.iter().zip([5000.0, 9000.0, 9900.0, 9990.0, 10_000.0]) {
            assert!((told - exact).abs() <= exact / 1000.0, "{told} is not {exact}");
        }
        assert!((found.mean - 5000.5).abs() < 5.0);
        times.add(u64::MAX);
        times.clear();
        assert!(times.percentiles().is_none());
    }
}
