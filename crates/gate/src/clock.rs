//! Time as an argument: this crate owns no clock, it is handed one. It asks the system's once, for where that began.
use rustix::time::{ClockId, clock_gettime};
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What people see, and what `until` is compared with. May jump.
    pub wall: SystemTime,
    /// What latencies and ages are measured with. Never jumps.
    pub mono: Instant,
}

/// When a unit of work began, in one word: nanoseconds of the system's `CLOCK_MONOTONIC`, which [`Instant`]s are readings of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Since(u64);

impl Since {
    /// From what `clock_gettime` says of `CLOCK_MONOTONIC`, or of `CLOCK_MONOTONIC_COARSE`: that costs a fraction, and is
    /// behind by up to a tick of the kernel (1 to 10 ms).
    #[inline(always)]
    pub const fn monotonic(nanoseconds: u64) -> Since {
        Since(nanoseconds)
    }

    #[inline(always)]
    pub(crate) fn nanoseconds(self) -> u64 {
        self.0
    }

    pub(crate) fn instant(self) -> Instant {
        *BOOT + Duration::from_nanos(self.0)
    }
}

impl From<Instant> for Since {
    #[inline]
    fn from(instant: Instant) -> Since {
        let up = instant.saturating_duration_since(*BOOT);
        // 584 years.
        Since(up.as_secs() * 1_000_000_000 + u64::from(up.subsec_nanos()))
    }
}

/// The `Instant` at which the clock said nothing yet, which std keeps to itself.
static BOOT: LazyLock<Instant> = LazyLock::new(|| {
    // In this order: between the two a moment passes, and by it what is listed is early instead of still to come.
    let now = Instant::now();
    let up = clock_gettime(ClockId::Monotonic);
    now - (Duration::from_secs(up.tv_sec as u64) + Duration::from_nanos(up.tv_nsec as u64))
});

/// Where moments come from. The sidecar hands in tokio's clock, so that tests can pause it; tests of the wall
/// clock hand in their own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Moment + Send + Sync>);

impl Clock {
    /// A clock that asks `now`.
    pub fn new(now: impl Fn() -> Moment + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now))
    }

    /// The current moment.
    pub fn now(&self) -> Moment {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
