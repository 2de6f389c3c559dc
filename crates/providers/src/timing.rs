//! When to poll next: pure arithmetic on the time since a loop started.
use std::time::Duration;

/// No switch is polled more often than this, nudges included.
pub const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// A store that asks for a longer silence is asked again after this: a typing error in a proxy's configuration must
/// not switch the button off for a day.
pub const MOST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// How one loop is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    /// Between the starts of two polls.
    pub(crate) interval: Duration,
    /// Less than `interval`; moves this loop's ticks, so that a fleet that starts together does not poll in step.
    pub(crate) phase: Duration,
}

/// How a poll ended, as far as the next one depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The store answered.
    Answered,
    /// It was of no help.
    Failed {
        /// What the backoff says.
        delay: Duration,
        /// What the store says.
        retry_after: Option<Duration>,
    },
}

/// When to poll next, after a poll that ran from `began` to `now`; all three since the loop started.
///
/// After an answer: the next tick, and never within [`LEAST_INTERVAL`] of the last start. After a failure: a delay of
/// at least the interval, counted from the failure, since a store that hangs until the timeout should not be asked
/// again at once.
pub(crate) fn next_poll(t: &Timing, began: Duration, now: Duration, ended: Ended) -> Duration {
    match ended {
        Ended::Answered => tick_after(t, now).max(began + LEAST_INTERVAL),
        Ended::Failed { delay, retry_after } => {
            let asked = retry_after.unwrap_or_default().min(MOST_RETRY_AFTER);
            now + delay.max(t.interval).max(asked)
        }
    }
}

fn tick_after(t: &Timing, now: Duration) -> Duration {
    let Some(since_first) = now.checked_sub(t.phase) else {
        return t.phase;
    };
    let into = since_first.as_nanos() % t.interval.as_nanos().max(1);
    // Fits: it is less than the interval.
    let into = Duration::from_nanos(u64::try_from(into).unwrap_or(u64::MAX));
    now + (t.interval - into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_next_poll_is_where_the_table_says() {
        let failed = |delay, retry_after: Option<u64>| Ended::Failed {
            delay: ms(delay),
            retry_after: retry_after.map(ms),
        };
        let answered = Ended::Answered;
        // interval, phase, began, now, ended, expected
        let table = [
            (1000, 300, 0, 5, answered, 300),        // the first tick is the phase
            (1000, 50, 0, 5, answered, 100),         // and never within 100 ms of the read at start
            (1000, 300, 300, 310, answered, 1300),   // then an interval each
            (1000, 300, 301, 302, answered, 1300),   // on the grid, however late the timer was
            (1000, 300, 300, 1900, answered, 2300),  // a read that overruns its tick skips it
            (1000, 300, 1250, 1260, answered, 1350), // after a nudge, 100 ms at least
            (1000, 300, 300, 1300, answered, 2300),
            (100, 0, 0, 1, answered, 100),
            (1000, 300, 300, 310, failed(1000, None), 1310),
            (1000, 300, 300, 2300, failed(4000, None), 6300), // counted from the end of a timeout
            (1000, 300, 300, 310, failed(10, None), 1310),    // errors are never faster than the interval
            (1000, 300, 300, 310, failed(1000, Some(5000)), 5310),
            (1000, 300, 300, 310, failed(5000, Some(1000)), 5310),
            (1000, 300, 300, 310, failed(1000, Some(3_600_000)), 60_310), // up to 60 s
        ];
        for (interval, phase, began, now, ended, expected) in table {
            let t = Timing {
                interval: ms(interval),
                phase: ms(phase),
            };
            assert_eq!(
                next_poll(&t, ms(began), ms(now), ended),
                ms(expected),
                "{t:?} {began} {now} {ended:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_next_poll_is_never_past_never_early_and_never_too_late(
            interval in 100u64..600_000, phase in 0.0f64..1.0, began in 0u64..10_000_000, took in 0u64..60_000,
            delay in 0u64..600_000, asked in proptest::option::of(0u64..10_000_000), failed: bool,
        ) {
            let t = Timing { interval: ms(interval), phase: ms(interval).mul_f64(phase) };
            let (began, now) = (ms(began), ms(began + took));
            let ended = if failed {
                Ended::Failed { delay: ms(delay), retry_after: asked.map(ms) }
            } else {
                Ended::Answered
            };
            let next = next_poll(&t, began, now, ended);
            prop_assert!(next > now || next >= began + LEAST_INTERVAL);
            prop_assert!(next >= began + LEAST_INTERVAL);
            if failed {
                prop_assert!(next >= now + t.interval, "faster than the interval");
                prop_assert!(next <= now + t.interval.max(ms(delay)).max(MOST_RETRY_AFTER));
            } else {
                prop_assert!(next <= now + t.interval.max(LEAST_INTERVAL), "a flip would be seen too late");
            }
        }
    }
}
