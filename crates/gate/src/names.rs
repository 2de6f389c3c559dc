//! What runs under a name, without a lock. Naming a unit must stay cheaper than the request it names, and a server comes
//! back from the kernel with cold caches: each cache line that is touched for a name costs more than all instructions.
use crate::clock::Since;
use crate::gate::Running;
use crate::place::Place;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

/// Where a unit runs by its shard's names: a number of [`More`], or one of these.
pub(crate) type At = u32;
/// It has no name.
pub(crate) const NOWHERE: At = u32::MAX;
/// The first place.
const FIRST: At = 0;

/// Whose the first place of a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// The calling thread's alone: it need only look whether the place is free.
    Own,
    /// Any thread's.
    Common,
    /// Another thread's alone.
    Not,
}

/// The named units of one shard, in the order of use.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Names {
    /// On the cache line of the shard's counters, where a unit is anyway.
    first: Place,
    /// For when the first is taken.
    more: OnceLock<Box<More>>,
}

impl Names {
    /// Says what runs that was without a name or had another; its place from now on.
    #[inline(always)]
    pub(crate) fn run(&self, before: At, takes: Takes, parts: &[&str], since: Since) -> At {
        let since = since.nanoseconds();
        let first = match takes {
            Takes::Own => self.first.is_free(),
            Takes::Common => self.first.take(),
            Takes::Not => false,
        };
        let at = if first {
            self.first.run(parts, since);
            FIRST
        } else {
            self.run_more(parts, since)
        };
        self.end(before);
        at
    }

    #[cold]
    fn run_more(&self, parts: &[&str], since: u64) -> At {
        let Some((at, place)) = self.more.get_or_init(Default::default).take() else {
            return NOWHERE;
        };
        place.run(parts, since);
        at
    }

    /// What runs at this place runs no longer.
    #[inline(always)]
    pub(crate) fn end(&self, at: At) {
        match at {
            FIRST => self.first.end(),
            NOWHERE => {}
            _ => self.end_more(at),
        }
    }

    #[cold]
    fn end_more(&self, at: At) {
        if let Some(more) = self.more.get() {
            more.end(at);
        }
    }

    /// In no order.
    pub(crate) fn running(&self) -> impl Iterator<Item = Running> {
        let more = self.more.get().into_iter().flat_map(|more| more.places());
        let all = std::iter::once(&self.first).chain(more);
        all.filter_map(Place::read).map(|(name, since)| Running {
            name: name.into(),
            since: Since::monotonic(since).instant(),
        })
    }
}

/// Places of the first block; each further one has twice as many as the one before it.
const BLOCK: u32 = 8;
/// More places than memory has room for.
const BLOCKS: usize = 24;

/// Places in blocks that are never moved or freed, as the gate is not.
#[derive(Default)]
struct More {
    /// The place that was given back last, most likely still free and in the cache.
    spare: AtomicU32,
    blocks: [OnceLock<Box<[Place]>>; BLOCKS],
    /// Places that were free when somebody looked. They may have been taken as spare since.
    free: Mutex<Vec<At>>,
}

impl More {
    fn take(&self) -> Option<(At, &Place)> {
        let spare = self.spare.load(Relaxed);
        self.taken(spare).or_else(|| self.find())
    }

    fn end(&self, at: At) {
        if let Some(place) = self.at(at) {
            place.end();
            self.spare.store(at, Relaxed);
        }
    }

    fn taken(&self, at: At) -> Option<(At, &Place)> {
        self.at(at).filter(|place| place.take()).map(|place| (at, place))
    }

    /// Their numbers begin with 1.
    fn at(&self, at: At) -> Option<&Place> {
        let nth = at.checked_sub(1)?;
        let block = (nth / BLOCK + 1).ilog2();
        let before = BLOCK * ((1 << block) - 1);
        self.blocks
            .get(block as usize)?
            .get()?
            .get((nth - before) as usize)
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.blocks.iter().map_while(OnceLock::get).flatten()
    }

    #[cold]
    fn find(&self) -> Option<(At, &Place)> {
        // Nothing inside the lock can panic half way, so a poisoned list is still a whole one.
        let mut free = self.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        loop {
            let Some(at) = free.pop() else {
                self.make_room(&mut free)?;
                continue;
            };
            let taken = self.taken(at);
            if taken.is_some() {
                return taken;
            }
        }
    }

    /// Looks for places that were given back, and makes more where those are few: else many that run long would be looked
    /// through for each that does not.
    fn make_room(&self, free: &mut Vec<u32>) -> Option<()> {
        free.extend(
            (1..)
                .zip(self.places())
                .filter(|(_, p)| p.is_free())
                .map(|(at, _)| at),
        );
        let all = self.places().count() as u32;
        if free.len() as u32 <= all / 8 {
            let block = self.blocks.iter().find(|block| block.get().is_none())?;
            let more = all + BLOCK;
            // Under the lock, so nobody else makes the same.
            block.get_or_init(|| (0..more).map(|_| Place::default()).collect());
            free.extend(all + 1..=all + more);
        }
        Some(())
    }
}
