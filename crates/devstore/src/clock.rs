//! The store's own time, which a test can move.
use jiff::{SignedDuration, Timestamp};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Where every creation time, lifetime and expiry of the store comes from. Clones share one clock.
#[derive(Clone)]
pub struct Clock {
    base: Base,
    /// Nanoseconds added to the base: 292 years either way.
    offset: Arc<AtomicI64>,
}

#[derive(Clone)]
enum Base {
    System,
    Tokio {
        wall: Timestamp,
        started: tokio::time::Instant,
    },
}

impl Clock {
    /// The machine's wall clock, steps included.
    pub fn system() -> Clock {
        Clock {
            base: Base::System,
            offset: Arc::new(AtomicI64::new(0)),
        }
    }

    /// The wall clock at this moment, and from then on tokio's: under a paused runtime the lifetimes of tokens pass with
    /// the test's time. Read it inside the runtime whose time it follows.
    pub fn tokio() -> Clock {
        Clock {
            base: Base::Tokio {
                wall: Timestamp::now(),
                started: tokio::time::Instant::now(),
            },
            offset: Arc::new(AtomicI64::new(0)),
        }
    }

    /// Now, by this clock.
    pub fn now(&self) -> Timestamp {
        let base = match &self.base {
            Base::System => Timestamp::now(),
            Base::Tokio { wall, started } => later(*wall, started.elapsed()),
        };
        let offset = SignedDuration::from_nanos(self.offset.load(Ordering::SeqCst));
        base.checked_add(offset).unwrap_or(base)
    }

    /// Moves the clock forward: what has a lifetime gets older by this much.
    pub fn advance(&self, by: Duration) {
        self.shift(nanos(by));
    }

    /// Moves the clock back, as a wall clock that is corrected does.
    pub fn set_back(&self, by: Duration) {
        self.shift(-nanos(by));
    }

    fn shift(&self, by: i64) {
        // fetch_update cannot fail: the closure always answers.
        let _ = self
            .offset
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
                Some(now.saturating_add(by))
            });
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// `from` plus a duration; the end of time when that is past it.
pub(crate) fn later(from: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| from.checked_add(by).ok())
        .unwrap_or(Timestamp::MAX)
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_one_clock_and_both_directions_work() {
        let clock = Clock::system();
        let other = clock.clone();
        let before = clock.now();
        other.advance(Duration::from_secs(3600));
        assert!(clock.now() >= later(before, Duration::from_secs(3600)));
        other.set_back(Duration::from_secs(7200));
        assert!(clock.now() < before);
    }

    #[tokio::test(start_paused = true)]
    async fn the_tokio_clock_follows_paused_time() {
        let clock = Clock::tokio();
        let before = clock.now();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(clock.now(), later(before, Duration::from_secs(60)));
    }

    #[test]
    fn an_absurd_shift_never_panics() {
        let clock = Clock::system();
        clock.advance(Duration::MAX);
        clock.advance(Duration::MAX);
        let _ = clock.now();
        clock.set_back(Duration::MAX);
        clock.set_back(Duration::MAX);
        let _ = clock.now();
    }
}
