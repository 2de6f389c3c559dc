//! How long to wait after failures: the policy of the `backoff` crate, and nothing else of it.
//!
//! Its own jitter is not used: it is drawn from a global generator, so that no test could repeat it, and it overshoots
//! the cap. This is the only file that knows the crate.
use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use std::time::Duration;

/// Delays that grow from `least` to `most`, both bounds kept after jitter.
pub(crate) struct Backoff {
    policy: ExponentialBackoff,
    least: Duration,
    most: Duration,
    rng: fastrand::Rng,
}

impl Backoff {
    /// `most` below `least` counts as `least`.
    pub(crate) fn new(least: Duration, most: Duration, rng: fastrand::Rng) -> Backoff {
        let most = most.max(least);
        let policy = ExponentialBackoff {
            current_interval: least,
            initial_interval: least,
            max_interval: most,
            multiplier: 2.0,
            randomization_factor: 0.0,
            // The default gives up after 15 minutes; a switch never does.
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Backoff {
            policy,
            least,
            most,
            rng,
        }
    }

    /// The delay after one more failure.
    pub(crate) fn after_failure(&mut self) -> Duration {
        let delay = self.policy.next_backoff().unwrap_or(self.most);
        delay.mul_f64(0.5 + self.rng.f64()).clamp(self.least, self.most)
    }

    /// To be called after success.
    pub(crate) fn reset(&mut self) {
        self.policy.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn delays(seed: u64, count: usize) -> Vec<Duration> {
        let rng = fastrand::Rng::with_seed(seed);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5), rng);
        (0..count).map(|_| backoff.after_failure()).collect()
    }

    #[test]
    fn delays_grow_from_the_interval_to_the_cap() {
        let mean_of = |n: usize| {
            let sum: f64 = (0..200).map(|seed| delays(seed, 6)[n].as_secs_f64()).sum();
            sum / 200.0
        };
        assert!(mean_of(0) < 1.3, "{}", mean_of(0));
        assert!(mean_of(1) > mean_of(0) && mean_of(2) > mean_of(1));
        assert!(mean_of(5) > 4.0, "{}", mean_of(5));
    }

    #[test]
    fn one_seed_gives_one_sequence_and_another_seed_another() {
        assert_eq!(delays(7, 20), delays(7, 20));
        assert_ne!(delays(7, 20), delays(8, 20));
    }

    #[test]
    fn success_starts_again_at_the_interval() {
        let rng = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60), rng);
        for _ in 0..10 {
            backoff.after_failure();
        }
        backoff.reset();
        assert!(backoff.after_failure() <= Duration::from_millis(1500));
    }

    #[test]
    fn it_never_gives_up() {
        let rng = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(2), rng);
        // The crate's default ends after 15 minutes by the clock; without that end the clock is not asked.
        assert_eq!(backoff.policy.max_elapsed_time, None);
        for _ in 0..10_000 {
            assert!(backoff.after_failure() >= Duration::from_secs(1));
        }
    }

    proptest! {
        #[test]
        fn jitter_never_leaves_the_bounds(seed: u64, least in 100u64..600_000, most in 0u64..600_000, n in 1usize..100) {
            let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
            let mut backoff = Backoff::new(least, most, fastrand::Rng::with_seed(seed));
            for _ in 0..n {
                let delay = backoff.after_failure();
                prop_assert!(delay >= least && delay <= most.max(least), "{delay:?}");
            }
        }
    }
}
