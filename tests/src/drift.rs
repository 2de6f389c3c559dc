//! Whether what should stay where it is does: one quantity, sampled again and again for hours.
use std::time::Duration;

/// One quantity over time: memory, descriptors, the median of a latency.
#[derive(Clone, Debug)]
pub struct Gauge {
    /// What it is.
    pub name: &'static str,
    /// What it is counted in.
    pub unit: &'static str,
    /// By how much it may have grown.
    slack: f64,
    /// Until when samples do not count: a process that has just begun takes what it needs.
    warm: Duration,
    /// Of how many samples both medians are.
    window: usize,
    samples: Vec<f64>,
}

impl Gauge {
    /// A quantity without samples. `slack` is in its unit, however long the run is: a longer run is the stricter one.
    pub fn new(name: &'static str, unit: &'static str, slack: f64, warm: Duration, window: usize) -> Gauge {
        Gauge {
            name,
            unit,
            slack,
            warm,
            window: window.max(1),
            samples: Vec::new(),
        }
    }

    /// One more sample, so long after the start.
    pub fn add(&mut self, at: Duration, value: f64) {
        if at >= self.warm {
            self.samples.push(value);
        }
    }

    /// The last sample that counts.
    pub fn last(&self) -> Option<f64> {
        self.samples.last().copied()
    }

    /// The median of the first samples that count, once there are enough.
    pub fn baseline(&self) -> Option<f64> {
        self.samples.get(..self.window).map(median)
    }

    /// The most that is no breach.
    pub fn bound(&self) -> Option<f64> {
        self.baseline().map(|base| base + self.slack)
    }

    /// By how much the median of the last samples is over that of the first; nothing until these are different samples.
    pub fn drift(&self) -> Option<f64> {
        let last = self.samples.len().checked_sub(self.window)?;
        (last >= self.window).then(|| median(&self.samples[last..]) - median(&self.samples[..self.window]))
    }

    /// What is wrong, if it has grown by more than it may.
    pub fn breach(&self) -> Option<String> {
        let drift = self.drift().filter(|drift| *drift > self.slack)?;
        Some(format!(
            "{} has grown by {drift:.1} {unit} over {:.1} {unit}, and may by {:.1}",
            self.name,
            self.baseline()?,
            self.slack,
            unit = self.unit,
        ))
    }
}

fn median(of: &[f64]) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;

    /// A minute of warming up, then a sample every ten seconds.
    fn sampled(values: impl Iterator<Item = f64>) -> Gauge {
        let mut gauge = Gauge::new("memory", "KiB", 100.0, Duration::from_secs(60), 5);
        for (n, value) in values.enumerate() {
            gauge.add(Duration::from_secs(n as u64 * 10), value);
        }
        gauge
    }

    #[test]
    fn a_level_with_spikes_is_no_drift_and_what_a_start_takes_does_not_count() {
        let spiky = sampled((0..100).map(|n| match n {
            0..6 => 5.0,
            n if n % 7 == 0 => 9_000.0,
            n => 1_000.0 + f64::from(n % 3),
        }));
        assert_eq!(spiky.breach(), None);
        assert!(spiky.drift().unwrap() <= 2.0);
    }

    #[test]
    fn twin_a_slow_leak_is_found_however_slow_if_the_run_is_long() {
        let leak = |samples: i32| sampled((0..samples).map(|n| 1_000.0 + f64::from(n)));
        assert_eq!(leak(60).breach(), None);
        let told = leak(200).breach().unwrap();
        assert!(
            told.contains("memory has grown by 189.0 KiB over 1008.0 KiB"),
            "{told}"
        );
    }

    #[test]
    fn too_few_samples_say_nothing() {
        assert_eq!(sampled((0..15).map(f64::from)).drift(), None);
        assert!(sampled((0..16).map(f64::from)).drift().is_some());
    }
}
