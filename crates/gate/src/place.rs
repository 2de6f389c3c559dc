//! A place for one name: written by whoever took it, read by anybody at any moment, without a lock.
//!
//! A place is taken by one exchange of its state, or, where only one thread ever takes it, by finding it free; it is given
//! back by one store. In between nobody else writes it. A reader copies it and looks at the state again: the same state means
//! that what it copied belongs together. The state counts uses, so a place that was given back and taken again meanwhile is
//! not mistaken for the old one.
//!
//! As `protocol.rs`, this file is compiled a second time against loom, and [`Barriers`] is for the broken twins there.
use crate::sync::{AtomicU64, Ordering::*, fence};

const FREE: u64 = 0;
const TAKEN: u64 = 1;
const RUNS: u64 = 2;
const PHASE: u64 = 3;
const LENGTH: u32 = 2;
const LENGTHS: u64 = 15;
const USES: u32 = 6;

/// Longer names are cut: what is named after a request is as long as its sender likes.
const WORDS: usize = 14;

/// Which barriers are in force. Production code uses [`Full`] only.
pub(crate) trait Barriers: 'static {
    const WRITE: bool = true;
    const READ: bool = true;
    /// Count uses. Without it, a place that was used anew looks as it did before.
    const USES: bool = true;
}

/// Every barrier in force.
pub(crate) struct Full;
impl Barriers for Full {}

/// In this order, so that a short name is on the cache line of the state.
#[repr(C)]
pub(crate) struct Place<B: Barriers = Full> {
    state: AtomicU64,
    since: AtomicU64,
    text: [AtomicU64; WORDS],
    barriers: std::marker::PhantomData<fn() -> B>,
}

impl<B: Barriers> Default for Place<B> {
    fn default() -> Self {
        Place {
            state: AtomicU64::new(FREE),
            since: AtomicU64::new(0),
            text: std::array::from_fn(|_| AtomicU64::new(0)),
            barriers: std::marker::PhantomData,
        }
    }
}

impl<B: Barriers> Place<B> {
    pub(crate) fn is_free(&self) -> bool {
        self.state.load(Relaxed) & PHASE == FREE
    }

    /// True if it was free: now it is the caller's, to say what runs and to end it.
    #[inline(always)]
    #[must_use]
    pub(crate) fn take(&self) -> bool {
        let state = self.state.load(Relaxed);
        let taken = state | TAKEN;
        state & PHASE == FREE
            && self
                .state
                .compare_exchange(state, taken, Acquire, Relaxed)
                .is_ok()
    }

    /// Says what runs here and since when. Once, by whoever took it.
    #[inline(always)]
    pub(crate) fn run(&self, parts: &[&str], since: u64) {
        let state = self.state.load(Relaxed);
        if B::WRITE {
            // Who reads any of what follows sees, when it looks again, that the place was taken.
            fence(Release);
        }
        self.since.store(since, Relaxed);
        let words = self.write(parts);
        let state = state & !PHASE | words << LENGTH | RUNS;
        self.state.store(state, Release);
    }

    /// Each part begins a word, and zeros fill its last: what is known of a part to the compiler is then known of whole
    /// words, and nothing has to be put together. How many words were written.
    #[inline(always)]
    fn write(&self, parts: &[&str]) -> u64 {
        let mut end = 0;
        let mut put = |word: u64| {
            if let Some(at) = self.text.get(end) {
                at.store(word, Relaxed);
                end += 1;
            }
            end < WORDS
        };
        for part in parts {
            let (part, mut rest) = (part.as_bytes(), part.as_bytes());
            // With two ways out, so that no compiler unrolls it: names are short, and the code is cold when it is come to.
            while let Some((whole, after)) = rest.split_first_chunk()
                && put(u64::from_le_bytes(*whole))
            {
                rest = after;
            }
            if (1..8).contains(&rest.len()) {
                put(match part.last_chunk() {
                    Some(last) => u64::from_le_bytes(*last) >> (64 - 8 * rest.len()),
                    None => rest.iter().rfold(0, |word, byte| word << 8 | u64::from(*byte)),
                });
            }
        }
        end as u64
    }

    /// Gives it back.
    #[inline(always)]
    pub(crate) fn end(&self) {
        let uses = self.state.load(Relaxed) >> USES;
        let uses = if B::USES { uses.wrapping_add(1) } else { uses };
        self.state.store(uses << USES | FREE, Release);
    }

    /// What runs here, and since when; nothing if nothing does, or no longer.
    pub(crate) fn read(&self) -> Option<(String, u64)> {
        let state = self.state.load(Acquire);
        if state & PHASE != RUNS {
            return None;
        }
        let words = (state >> LENGTH & LENGTHS) as usize;
        let since = self.since.load(Relaxed);
        let mut text: Vec<u8> = self.text[..words]
            .iter()
            .flat_map(|word| word.load(Relaxed).to_le_bytes())
            .collect();
        if B::READ {
            fence(Acquire);
        }
        if self.state.load(Relaxed) != state {
            return None;
        }
        text.retain(|byte| *byte != 0);
        // A cut may have gone through a character.
        let whole = text.utf8_chunks().next().map_or(0, |chunk| chunk.valid().len());
        text.truncate(whole);
        Some((String::from_utf8_lossy(&text).into_owned(), since))
    }
}
