//! The exactness protocol and nothing else: who is in, who is out, and who may say "nothing moves".
//!
//! It works as a JVM's safepoint does. A *lane* publishes `busy` once for a run of events and then pays one
//! plain load per event; work that fans out holds a *unit*, counted in two monotonic counters. One word per
//! gate carries the pause generation and the phase, and every write of it is a read-modify-write.
//!
//! This file is compiled twice: against `std` as part of the crate and, by `#[path]`, against loom in
//! `tests/loom.rs`. The [`Fences`] parameter exists for the broken twins there: each switches one barrier off
//! and must fail its model. It costs nothing, since the constants are known at compile time.
use crate::sync::{Arc, AtomicU32, AtomicU64, LOOM, Mutex, Ordering::*, fence};

pub(crate) const OPEN: u64 = 0;
pub(crate) const PAUSING: u64 = 1;
pub(crate) const PAUSED: u64 = 2;
const PHASE: u64 = 3;
const GENERATION: u64 = 4;

/// Which barriers are in force. Production code uses [`Full`] only.
pub(crate) trait Fences: 'static {
    const ENTER: bool = true;
    const CLOSE: bool = true;
    const EXIT: bool = true;
    /// Sum exits before entries. The other order can miss a hand-over between two counters.
    const EXITS_FIRST: bool = true;
    /// Write `paused` only over the word that was read before summing.
    const SAME_PAUSE: bool = true;
}

/// Every barrier in force.
pub(crate) struct Full;
impl Fences for Full {}

/// What an attempt to pass the gate came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Passed; the caller must exit.
    In,
    /// The gate is closed; nothing was published.
    Shut,
    /// The gate closed while the caller was entering; it left again, and its leaving proved the pause, so the
    /// caller must tell whoever waits for the proof.
    ShutAndProved,
}

/// One lane's flag, alone on its cache lines (two, since x86 prefetches them in pairs).
#[repr(align(128))]
#[derive(Default)]
pub(crate) struct Slot {
    busy: AtomicU32,
}

/// Counters of units; several, so that threads do not meet on one cache line.
#[repr(C, align(128))]
#[derive(Default)]
struct Shard<P> {
    entered: AtomicU64,
    exited: AtomicU64,
    /// Those that exited as events, counted here instead: to know how many there were costs nothing more.
    done: AtomicU64,
    /// What the owner wants to find on the same cache line.
    beside: P,
}

pub(crate) struct Core<F: Fences = Full, P = (), const SHARDS: usize = 1> {
    word: AtomicU64,
    shards: [Shard<P>; SHARDS],
    lanes: Mutex<Vec<Arc<Slot>>>,
    fences: std::marker::PhantomData<fn() -> F>,
}

impl<F: Fences, P: Default, const SHARDS: usize> Core<F, P, SHARDS> {
    pub(crate) fn new() -> Self {
        Core {
            word: AtomicU64::new(OPEN),
            shards: std::array::from_fn(|_| Shard::default()),
            lanes: Mutex::new(Vec::new()),
            fences: std::marker::PhantomData,
        }
    }

    #[inline(always)]
    pub(crate) fn beside(&self, shard: usize) -> &P {
        &self.shards[shard].beside
    }

    pub(crate) fn register(&self) -> Arc<Slot> {
        let slot = Arc::new(Slot::default());
        self.lanes().push(slot.clone());
        slot
    }

    pub(crate) fn unregister(&self, slot: &Arc<Slot>) {
        self.lanes().retain(|s| !Arc::ptr_eq(s, slot));
    }

    fn lanes(&self) -> impl std::ops::DerefMut<Target = Vec<Arc<Slot>>> + '_ {
        // Nothing inside the lock can panic, so a poisoned list is still a whole one.
        self.lanes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    #[inline(always)]
    pub(crate) fn closed(&self) -> bool {
        self.word.load(Relaxed) & PHASE != OPEN
    }

    #[inline(always)]
    pub(crate) fn lane_enter(&self, slot: &Slot) -> Entry {
        // Without this look first, workers that knock on a closed gate keep the sum above zero.
        if self.closed() {
            return Entry::Shut;
        }
        slot.busy.store(1, Relaxed);
        if F::ENTER {
            fence(SeqCst);
        }
        if self.word.load(Acquire) & PHASE != OPEN {
            return if self.lane_exit(slot) {
                Entry::ShutAndProved
            } else {
                Entry::Shut
            };
        }
        Entry::In
    }

    /// True if this exit proved the pause: the caller tells whoever waits.
    #[inline(always)]
    #[must_use]
    pub(crate) fn lane_exit(&self, slot: &Slot) -> bool {
        slot.busy.store(0, Release);
        // Without this fence a lane and the keeper can each miss the other, and the stream pauses for ever.
        if F::EXIT {
            fence(SeqCst);
        }
        self.left()
    }

    #[inline(always)]
    pub(crate) fn unit_enter(&self, shard: usize) -> Entry {
        if self.closed() {
            return Entry::Shut;
        }
        self.unit_admit(shard);
        if F::ENTER && LOOM {
            fence(SeqCst);
        }
        if self.word.load(SeqCst) & PHASE != OPEN {
            return if self.unit_exit(shard) {
                Entry::ShutAndProved
            } else {
                Entry::Shut
            };
        }
        Entry::In
    }

    /// Counts a unit without asking the gate. Two callers only: work that descends from work already admitted,
    /// and a gate that counts but does not stop.
    #[inline(always)]
    pub(crate) fn unit_admit(&self, shard: usize) {
        self.shards[shard].entered.fetch_add(1, SeqCst);
    }

    /// The same on a shard that nobody else enters at the same time, without a lock. It may be seen a little later by
    /// others, but before anything that the caller does after it: whoever sees that the work it descends from has exited
    /// sees it too.
    #[inline(always)]
    pub(crate) fn unit_admit_own(&self, shard: usize) {
        let entered = &self.shards[shard].entered;
        entered.store(entered.load(Relaxed) + 1, Release);
    }

    /// True if this exit proved the pause: the caller tells whoever waits.
    #[inline(always)]
    #[must_use]
    pub(crate) fn unit_exit(&self, shard: usize) -> bool {
        self.exit(&self.shards[shard].exited)
    }

    /// The same for one that is an event, of which the effect is done.
    #[inline(always)]
    #[must_use]
    pub(crate) fn unit_done(&self, shard: usize) -> bool {
        self.exit(&self.shards[shard].done)
    }

    #[inline(always)]
    fn exit(&self, count: &AtomicU64) -> bool {
        count.fetch_add(1, SeqCst);
        if F::EXIT && LOOM {
            fence(SeqCst);
        }
        self.left()
    }

    #[inline(always)]
    fn left(&self) -> bool {
        let word = self.word.load(SeqCst);
        word & PHASE == PAUSING && self.prove(word)
    }

    /// The last one out turns off the light, and only for the generation that was read before summing: a resume
    /// that raced makes the exchange fail, and nothing false is said.
    #[cold]
    fn prove(&self, word: u64) -> bool {
        if self.count() != 0 {
            return false;
        }
        let paused = (word & !PHASE) | PAUSED;
        if F::SAME_PAUSE {
            self.word.compare_exchange(word, paused, SeqCst, SeqCst).is_ok()
        } else {
            self.word.swap(paused, SeqCst) == word
        }
    }

    /// Exits, then lanes, then entries: whatever moves from one to the next while we read is seen at least once,
    /// so the result is never below the truth.
    pub(crate) fn count(&self) -> u64 {
        let sum =
            |of: fn(&Shard<P>) -> &AtomicU64| self.shards.iter().map(|s| of(s).load(SeqCst)).sum::<u64>();
        let exited = || sum(|s| &s.exited) + sum(|s| &s.done);
        let lanes = || {
            self.lanes()
                .iter()
                .map(|s| u64::from(s.busy.load(SeqCst)))
                .sum::<u64>()
        };
        if F::EXITS_FIRST {
            let exited = exited();
            let busy = lanes();
            let entered = sum(|s| &s.entered);
            entered + busy - exited
        } else {
            let entered = sum(|s| &s.entered);
            let busy = lanes();
            let exited = exited();
            (entered + busy).saturating_sub(exited)
        }
    }

    /// How many exited as events.
    pub(crate) fn done(&self) -> u64 {
        self.shards.iter().map(|s| s.done.load(Relaxed)).sum()
    }

    /// Closes an open gate. One caller at a time (the keeper). True if the pause is proven at once.
    #[must_use]
    pub(crate) fn close(&self) -> bool {
        let word = self.word.load(Relaxed);
        if word & PHASE != OPEN {
            return false;
        }
        let closing = ((word & !PHASE) + GENERATION) | PAUSING;
        self.word.swap(closing, SeqCst);
        if F::CLOSE {
            fence(SeqCst);
        }
        self.prove(closing)
    }

    /// Opens a closed gate. One caller at a time (the keeper). True if it was closed.
    pub(crate) fn open(&self) -> bool {
        let word = self.word.load(Relaxed);
        if word & PHASE == OPEN {
            return false;
        }
        self.word.swap((word & !PHASE) + GENERATION, SeqCst);
        true
    }

    /// Phase, generation and count that belong together.
    pub(crate) fn read(&self) -> (u64, u64, u64) {
        loop {
            let word = self.word.load(SeqCst);
            let count = if word & PHASE == PAUSED { 0 } else { self.count() };
            if self.word.load(SeqCst) == word {
                return (word & PHASE, word / GENERATION, count);
            }
        }
    }
}
