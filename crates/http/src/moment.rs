//! When a request began, as exactly as status lists it.
use rustix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::time::Instant;

/// Now, or up to a tick of the kernel's before it (1 to 10 ms). The exact clock is read once a tick: reading it for each
/// request costs as much as all the rest that counting one does.
#[inline(always)]
pub(crate) fn now() -> Instant {
    thread_local!(static LAST: Cell<Option<(i64, Instant)>> = const { Cell::new(None) });
    let tick = clock_gettime(ClockId::MonotonicCoarse);
    let tick = tick.tv_sec * 1_000_000_000 + tick.tv_nsec;
    match LAST.get() {
        Some((last, now)) if last == tick => now,
        _ => {
            let now = Instant::now();
            LAST.set(Some((tick, now)));
            now
        }
    }
}
