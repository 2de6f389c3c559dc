//! Figures of a measurement: sorted, and said in one line.
use std::fmt;
use std::time::Duration;

/// Durations of one kind.
#[derive(Clone, Debug, Default)]
pub struct Spread(Vec<Duration>);

impl Spread {
    /// One more.
    pub fn add(&mut self, one: Duration) {
        let at = self.0.partition_point(|d| *d <= one);
        self.0.insert(at, one);
    }

    /// The smallest that is not below `share` of all; zero without any.
    pub fn at(&self, share: f64) -> Duration {
        // Far below 2^52 of them.
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// The middle one.
    pub fn median(&self) -> Duration {
        self.at(0.5)
    }

    /// The largest.
    pub fn max(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |d: Duration| d.as_secs_f64() * 1e3;
        write!(
            f,
            "p50 {:8.3} ms   p99 {:8.3} ms   max {:8.3} ms   ({} times)",
            millis(self.median()),
            millis(self.at(0.99)),
            millis(self.max()),
            self.0.len()
        )
    }
}
