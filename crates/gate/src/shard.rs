//! Which shard of every gate a thread enters.
use crate::owner::{Kept, give_back, take};
use crate::sync::AtomicU32;
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::*};

/// Shards with one thread each: what nobody else writes is counted without a lock, which costs a cold server more than all
/// that is counted by it.
pub(crate) const OWN: usize = 8;
/// Shards for the threads that come after those.
const COMMON: usize = 4;
/// Enough that threads rarely meet, few enough that summing them stays cheap.
pub(crate) const SHARDS: usize = OWN + COMMON;

const UNKNOWN: usize = usize::MAX;

thread_local! {
    static MINE: Cell<usize> = const { Cell::new(UNKNOWN) };
    static OWNED: Owned = Owned::take();
}

/// The calling thread's shard. Below [`OWN`], no other living thread has it.
#[inline(always)]
pub(crate) fn shard() -> usize {
    match MINE.get() {
        UNKNOWN => choose(),
        mine => mine,
    }
}

#[cold]
fn choose() -> usize {
    // An error at the thread's end, when it has given back what it had.
    let own = OWNED.try_with(|owned| owned.0).ok().flatten();
    let mine = own.unwrap_or_else(common);
    MINE.set(mine);
    mine
}

fn common() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    OWN + NEXT.fetch_add(1, Relaxed) % COMMON
}

/// The shards that living threads have to themselves.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// The shard that a thread has to itself until it ends.
struct Owned(Option<usize>);

impl Owned {
    fn take() -> Owned {
        Owned(take::<Kept>(&TAKEN, OWN))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // What else the thread drops at its end may be counted too.
        MINE.set(common());
        if let Some(own) = self.0 {
            give_back::<Kept>(&TAKEN, own);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::{Arc, Barrier};

    fn of_threads(count: usize) -> Vec<usize> {
        let all_there = Arc::new(Barrier::new(count));
        let threads: Vec<_> = (0..count)
            .map(|_| {
                let all_there = all_there.clone();
                std::thread::spawn(move || {
                    let mine = shard();
                    all_there.wait();
                    assert_eq!(shard(), mine, "a thread keeps its shard");
                    mine
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    }

    #[test]
    fn no_two_living_threads_own_one_shard_and_what_a_thread_owned_is_free_after_it() {
        for _ in 0..100 {
            let shards = of_threads(3 * OWN);
            let own: Vec<_> = shards.iter().filter(|shard| **shard < OWN).collect();
            let different: HashSet<_> = own.iter().collect();
            assert_eq!(different.len(), own.len(), "{shards:?}");
            // Threads of other tests own the others; here is but one such thread.
            assert!(own.len() >= OWN - 1, "{shards:?}");
            assert!(shards.iter().all(|shard| *shard < SHARDS), "{shards:?}");
        }
    }

    #[test]
    fn a_thread_that_ends_owns_nothing_while_it_drops_the_rest() {
        struct Last(std::sync::mpsc::Sender<usize>);
        impl Drop for Last {
            fn drop(&mut self) {
                self.0.send(shard()).unwrap();
            }
        }
        thread_local!(static LAST: Cell<Option<Last>> = const { Cell::new(None) });
        let (send, seen) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // Made before the thread owns a shard, so dropped after it.
            LAST.set(Some(Last(send)));
            shard();
        })
        .join()
        .unwrap();
        assert!(seen.recv().unwrap() >= OWN);
    }
}
