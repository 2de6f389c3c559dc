//! Who has what only one at a time may have: a bit for each.
//!
//! As `protocol.rs`, this file is compiled a second time against loom, and [`Rules`] is for the broken twins there.
use crate::sync::{AtomicU32, Ordering::*};

/// Which rules are kept. Production code uses [`Kept`] only.
pub(crate) trait Rules: 'static {
    /// Look and take in one step.
    const AT_ONCE: bool = true;
    /// What the last owner did is before what the next one does.
    const IN_ORDER: bool = true;
}

/// Every rule kept.
pub(crate) struct Kept;
impl Rules for Kept {}

/// The first of so many that nobody has; the caller's until it is given back.
pub(crate) fn take<R: Rules>(taken: &AtomicU32, of: usize) -> Option<usize> {
    (0..of).find(|one| {
        let bit = 1 << one;
        let before = if R::AT_ONCE {
            taken.fetch_or(bit, Acquire)
        } else {
            let before = taken.load(Acquire);
            taken.store(before | bit, Relaxed);
            before
        };
        before & bit == 0
    })
}

pub(crate) fn give_back<R: Rules>(taken: &AtomicU32, one: usize) {
    taken.fetch_and(!(1 << one), if R::IN_ORDER { Release } else { Relaxed });
}
