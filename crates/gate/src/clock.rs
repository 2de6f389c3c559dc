//! Time as an argument: this crate owns no clock, it is handed one.
use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What people see, and what `until` is compared with. May jump.
    pub wall: SystemTime,
    /// What latencies and ages are measured with. Never jumps.
    pub mono: Instant,
}

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
