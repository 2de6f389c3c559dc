//! The exactness protocol under every interleaving and every reordering that loom can make: the file that ships,
//! `src/protocol.rs`, compiled here against loom's primitives, and beside it `src/place.rs`, where names are, and
//! `src/owner.rs`, by which a thread has a shard to itself.
//!
//! Plain `cargo test` runs it. A `--cfg loom` would switch the dependencies over too, and event-listener does not
//! build that way.
//!
//! Each model has a broken twin, in which one barrier is missing, and the twin must fail for the reason that is
//! named beside it: a model that cannot fail proves nothing.
#![allow(dead_code, reason = "the models need only a part of the protocol's file")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
    pub(crate) use loom::sync::{Arc, Mutex};
    pub(crate) const LOOM: bool = true;
}
#[path = "../src/owner.rs"]
mod owner;
#[path = "../src/place.rs"]
mod place;
#[path = "../src/protocol.rs"]
mod protocol;

use loom::cell::Cell;
use loom::thread;
use owner::{Kept, Rules, give_back, take};
use place::{Barriers, Place};
use protocol::{Core, Entry, Fences, Full, OPEN, PAUSED};
use std::panic::{AssertUnwindSafe, catch_unwind};
use sync::{Arc, AtomicU32};

struct NoEnter;
impl Fences for NoEnter {
    const ENTER: bool = false;
}
struct NoClose;
impl Fences for NoClose {
    const CLOSE: bool = false;
}
struct NoExit;
impl Fences for NoExit {
    const EXIT: bool = false;
}
struct EntriesFirst;
impl Fences for EntriesFirst {
    const EXITS_FIRST: bool = false;
}
struct AnyPause;
impl Fences for AnyPause {
    const SAME_PAUSE: bool = false;
}

struct NoWrite;
impl Barriers for NoWrite {
    const WRITE: bool = false;
}
struct NoRead;
impl Barriers for NoRead {
    const READ: bool = false;
}
struct NoUses;
impl Barriers for NoUses {
    const USES: bool = false;
}

struct LookThenTake;
impl Rules for LookThenTake {
    const AT_ONCE: bool = false;
}
struct NoOrder;
impl Rules for NoOrder {
    const IN_ORDER: bool = false;
}

/// What loom says when two threads touch a [`Moved`] without an order between them.
const RACE: &str = "Causality violation";
const FOREVER: &str = "pausing for ever";
const TOLD: &str = "proofs told";
const LOST: &str = "units lost from the count";
const STALE: &str = "a stale paused";
const SHARED: &str = "two owners of one shard";
const MIXED: &str = "parts of two names";

/// What a stream moves. Loom fails the model when a touch is not ordered before or after every other: that is what
/// "nothing moves while paused" means to whoever has seen `paused`.
#[derive(Default)]
struct Moved(Cell<u64>);
impl Moved {
    fn touch(&self) {
        self.0.set(self.0.get() + 1);
    }
}

fn explore(model: impl Fn() + Sync + Send + 'static) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(model);
    }))
    .map_err(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().unwrap_or(&"no text").to_string(),
    })
}

#[track_caller]
fn holds(model: impl Fn() + Sync + Send + 'static) {
    if let Err(why) = explore(model) {
        panic!("the model failed: {why}");
    }
}

#[track_caller]
fn fails(model: impl Fn() + Sync + Send + 'static, reason: &str) {
    match explore(model) {
        Ok(()) => panic!("the twin passed: the model cannot see what is broken in it"),
        Err(why) => assert!(
            why.contains(reason),
            "the twin failed, but not by \"{reason}\": {why}"
        ),
    }
}

fn phase<F: Fences, const SHARDS: usize>(core: &Core<F, (), SHARDS>) -> u64 {
    core.read().0
}

/// A lane runs while the keeper closes. Whoever proves the pause may touch what moves: nobody else does any more.
fn lane_against_close<F: Fences>() {
    let core = Arc::new(Core::<F, (), 1>::new());
    let moved = Arc::new(Moved::default());
    let slot = core.register();
    let lane = thread::spawn({
        let (core, moved) = (core.clone(), moved.clone());
        move || {
            if core.lane_enter(&slot) == Entry::In {
                moved.touch();
                if core.lane_exit(&slot) {
                    moved.touch();
                }
            }
        }
    });
    if core.close() {
        moved.touch();
    }
    lane.join().unwrap();
}

/// The same for a unit.
fn unit_against_close<F: Fences>() {
    let core = Arc::new(Core::<F, (), 1>::new());
    let moved = Arc::new(Moved::default());
    let unit = thread::spawn({
        let (core, moved) = (core.clone(), moved.clone());
        move || {
            if core.unit_enter(0) == Entry::In {
                moved.touch();
                if core.unit_exit(0) {
                    moved.touch();
                }
            }
        }
    });
    if core.close() {
        moved.touch();
    }
    unit.join().unwrap();
}

/// Somebody who only looks sees `paused`: nothing moves from there on.
fn paused_as_a_reader_sees_it<F: Fences>() {
    let core = Arc::new(Core::<F, (), 1>::new());
    let moved = Arc::new(Moved::default());
    let slot = core.register();
    let lane = thread::spawn({
        let (core, moved) = (core.clone(), moved.clone());
        move || {
            if core.lane_enter(&slot) == Entry::In {
                moved.touch();
                let _ = core.lane_exit(&slot);
            }
        }
    });
    let keeper = thread::spawn({
        let core = core.clone();
        move || {
            let _ = core.close();
        }
    });
    let (phase, _, in_flight) = core.read();
    if phase == PAUSED {
        assert_eq!(in_flight, 0);
        moved.touch();
    }
    lane.join().unwrap();
    keeper.join().unwrap();
}

/// A lane that was running when the keeper closed: one of the two must find that nothing runs any more.
fn lane_leaves_a_closing_gate<F: Fences>() {
    let core = Arc::new(Core::<F, (), 1>::new());
    let slot = core.register();
    assert_eq!(core.lane_enter(&slot), Entry::In);
    let lane = thread::spawn({
        let core = core.clone();
        move || core.lane_exit(&slot)
    });
    let at_once = core.close();
    let by_lane = lane.join().unwrap();
    assert_eq!(phase(&core), PAUSED, "{FOREVER}");
    assert!(at_once ^ by_lane, "{TOLD}: {at_once} {by_lane}");
}

/// Two units on two shards: the last of them must see that it is the last.
fn units_leave_a_closing_gate<F: Fences>() {
    let core = Arc::new(Core::<F, (), 2>::new());
    assert_eq!(core.unit_enter(0), Entry::In);
    assert_eq!(core.unit_enter(1), Entry::In);
    assert!(!core.close());
    let first = thread::spawn({
        let core = core.clone();
        move || core.unit_exit(0)
    });
    let second = core.unit_exit(1);
    let first = first.join().unwrap();
    assert_eq!(phase(&core), PAUSED, "{FOREVER}");
    assert!(first ^ second, "{TOLD}: {first} {second}");
}

/// A lane of which the gate is being closed while it enters. `heeds` is false in the twin that forgets to tell of
/// the proof when its entry was turned away.
fn proof_while_entering(heeds: bool, enter: fn(&Core, &protocol::Slot) -> Entry, exit: Exit) {
    let core = Arc::new(Core::<Full, (), 1>::new());
    let slot = core.register();
    let entering = thread::spawn({
        let core = core.clone();
        move || match enter(&core, &slot) {
            Entry::In => exit(&core, &slot),
            Entry::ShutAndProved => heeds,
            Entry::Shut => false,
        }
    });
    let at_once = core.close();
    let by_other = entering.join().unwrap();
    assert_eq!(phase(&core), PAUSED, "{FOREVER}");
    assert!(at_once ^ by_other, "{TOLD}: {at_once} {by_other}");
}
type Exit = fn(&Core, &protocol::Slot) -> bool;
const LANE: (fn(&Core, &protocol::Slot) -> Entry, Exit) = (|c, s| c.lane_enter(s), |c, s| c.lane_exit(s));
const UNIT: (fn(&Core, &protocol::Slot) -> Entry, Exit) = (|c, _| c.unit_enter(0), |c, _| c.unit_exit(0));

/// Work goes from a lane to a unit, and from that to its child on another shard, while the keeper sums.
fn hand_over<F: Fences>(admit: fn(&Core<F, (), 2>, usize)) {
    let core = Arc::new(Core::<F, (), 2>::new());
    let moved = Arc::new(Moved::default());
    let slot = core.register();
    assert_eq!(core.lane_enter(&slot), Entry::In);
    let worker = thread::spawn({
        let (core, moved) = (core.clone(), moved.clone());
        move || {
            admit(&core, 0);
            let _ = core.lane_exit(&slot);
            moved.touch();
            admit(&core, 1);
            let _ = core.unit_exit(0);
            moved.touch();
            let _ = core.unit_done(1);
        }
    });
    if core.close() {
        moved.touch();
    }
    worker.join().unwrap();
    assert_eq!(phase(&core), PAUSED, "{FOREVER}");
}

/// A lane's worker goes away, and its slot with it, while the keeper sums. The twin takes the slot away while its
/// run goes on, which a `Run` that borrows its `Lane` makes impossible.
fn lane_goes_away<const IN_ORDER: bool>() {
    let core = Arc::new(Core::<Full, (), 1>::new());
    let moved = Arc::new(Moved::default());
    let slot = core.register();
    assert_eq!(core.lane_enter(&slot), Entry::In);
    let worker = thread::spawn({
        let (core, moved) = (core.clone(), moved.clone());
        move || {
            if !IN_ORDER {
                core.unregister(&slot);
            }
            moved.touch();
            let _ = core.lane_exit(&slot);
            if IN_ORDER {
                core.unregister(&slot);
            }
        }
    });
    if core.close() {
        moved.touch();
    }
    worker.join().unwrap();
    assert_eq!(phase(&core), PAUSED, "{FOREVER}");
}

/// Two threads count on one shard. `enter` without a lock is for one of them only.
fn two_on_one_shard(enter: fn(&Core, usize)) {
    let core = Arc::new(Core::<Full, (), 1>::new());
    let other = thread::spawn({
        let core = core.clone();
        move || enter(&core, 0)
    });
    enter(&core, 0);
    other.join().unwrap();
    assert_eq!(core.count(), 2, "{LOST}");
}

/// A thread counts on its own shard, what it counted exits elsewhere, and the next thread owns the shard.
fn a_shard_changes_hands() {
    let core = Arc::new(Core::<Full, (), 1>::new());
    core.unit_admit_own(0);
    let elsewhere = thread::spawn({
        let core = core.clone();
        move || {
            let _ = core.unit_exit(0);
        }
    });
    core.unit_admit_own(0);
    let next = thread::spawn({
        let core = core.clone();
        move || {
            core.unit_admit_own(0);
            let _ = core.unit_done(0);
        }
    });
    elsewhere.join().unwrap();
    next.join().unwrap();
    assert_eq!((core.count(), core.done()), (1, 1), "{LOST}");
}

/// Two threads take a shard each.
fn two_owners<R: Rules>() {
    let taken = Arc::new(AtomicU32::new(0));
    let other = thread::spawn({
        let taken = taken.clone();
        move || take::<R>(&taken, 2)
    });
    let mine = take::<R>(&taken, 2);
    assert_ne!(mine, other.join().unwrap(), "{SHARED}");
}

/// A thread counts on a shard and gives it back; another, which may find it free, goes on there.
fn one_owner_after_another<R: Rules>() {
    let core = Arc::new(Core::<Full, (), 1>::new());
    let taken = Arc::new(AtomicU32::new(0));
    let count = {
        let (core, taken) = (core.clone(), taken.clone());
        move || {
            let mine = take::<R>(&taken, 1);
            if let Some(mine) = mine {
                core.unit_admit_own(mine);
                give_back::<R>(&taken, mine);
            }
            u64::from(mine.is_some())
        }
    };
    let other = thread::spawn(count.clone());
    let counted = count() + other.join().unwrap();
    assert_eq!(core.count(), counted, "{LOST}");
}

/// The pause is lifted while the last one out is about to prove it.
fn resume_against_proof<F: Fences>() {
    let core = Arc::new(Core::<F, (), 1>::new());
    let slot = core.register();
    assert_eq!(core.lane_enter(&slot), Entry::In);
    let lane = thread::spawn({
        let core = core.clone();
        move || {
            let _ = core.lane_exit(&slot);
        }
    });
    let _ = core.close();
    assert!(core.open());
    assert_eq!(phase(&core), OPEN, "{STALE}");
    lane.join().unwrap();
    assert_eq!(phase(&core), OPEN, "{STALE}");
}

/// The pause is lifted, other work passes, and the next pause begins: the proof of the first, late, must not be
/// taken for the second's.
fn second_pause_against_proof_of_the_first<F: Fences>() {
    let core = Arc::new(Core::<F, (), 2>::new());
    assert_eq!(core.unit_enter(0), Entry::In);
    let first = thread::spawn({
        let core = core.clone();
        move || {
            let _ = core.unit_exit(0);
        }
    });
    let _ = core.close();
    core.open();
    assert_eq!(core.unit_enter(1), Entry::In);
    let _ = core.close();
    first.join().unwrap();
    assert_ne!(phase(&core), PAUSED, "{STALE}");
    let _ = core.unit_exit(1);
    assert_eq!(phase(&core), PAUSED, "{FOREVER}");
}

/// A place is used a second time while somebody reads it.
fn names_against_a_reader<B: Barriers>() {
    let place = Arc::new(Place::<B>::default());
    assert!(place.take());
    place.run(&["first"], 1);
    let writer = thread::spawn({
        let place = place.clone();
        move || {
            place.end();
            assert!(place.take());
            place.run(&["other"], 2);
        }
    });
    read_whole(&place);
    writer.join().unwrap();
    assert_eq!(place.read(), Some(("other".into(), 2)));
}

/// The same with a place that only one thread takes, which need but find it free, while another gives it back.
fn names_of_one_thread_against_a_reader<B: Barriers>() {
    let place = Arc::new(Place::<B>::default());
    assert!(place.is_free());
    place.run(&["first"], 1);
    let writer = thread::spawn({
        let place = place.clone();
        move || {
            if place.is_free() {
                place.run(&["other"], 2);
            }
        }
    });
    let elsewhere = thread::spawn({
        let place = place.clone();
        move || place.end()
    });
    read_whole(&place);
    writer.join().unwrap();
    elsewhere.join().unwrap();
}

fn read_whole<B: Barriers>(place: &Place<B>) {
    if let Some((name, since)) = place.read() {
        assert_eq!(name == "first", since == 1, "{MIXED}: {name} {since}");
    }
}

#[test]
fn a_name_is_read_whole_or_not_at_all() {
    holds(names_against_a_reader::<place::Full>);
    fails(names_against_a_reader::<NoWrite>, MIXED);
    fails(names_against_a_reader::<NoRead>, MIXED);
    fails(names_against_a_reader::<NoUses>, MIXED);
    holds(names_of_one_thread_against_a_reader::<place::Full>);
    fails(names_of_one_thread_against_a_reader::<NoWrite>, MIXED);
    fails(names_of_one_thread_against_a_reader::<NoRead>, MIXED);
    fails(names_of_one_thread_against_a_reader::<NoUses>, MIXED);
}

#[test]
fn what_a_thread_counts_on_its_own_shard_is_not_lost() {
    holds(|| two_on_one_shard(Core::unit_admit));
    fails(|| two_on_one_shard(Core::unit_admit_own), LOST);
    holds(a_shard_changes_hands);
}

#[test]
fn a_shard_has_one_owner_at_a_time_who_goes_on_from_the_last() {
    holds(two_owners::<Kept>);
    fails(two_owners::<LookThenTake>, SHARED);
    holds(one_owner_after_another::<Kept>);
    fails(one_owner_after_another::<NoOrder>, LOST);
}

#[test]
fn no_lane_moves_while_paused() {
    holds(lane_against_close::<Full>);
    fails(lane_against_close::<NoEnter>, RACE);
    fails(lane_against_close::<NoClose>, RACE);
}

#[test]
fn no_unit_moves_while_paused() {
    holds(unit_against_close::<Full>);
    fails(unit_against_close::<NoEnter>, RACE);
    fails(unit_against_close::<NoClose>, RACE);
}

#[test]
fn who_reads_paused_sees_nothing_move() {
    holds(paused_as_a_reader_sees_it::<Full>);
    fails(paused_as_a_reader_sees_it::<NoEnter>, RACE);
}

#[test]
fn a_lane_that_leaves_a_closing_gate_is_never_missed() {
    holds(lane_leaves_a_closing_gate::<Full>);
    fails(lane_leaves_a_closing_gate::<NoExit>, FOREVER);
}

#[test]
fn the_last_of_two_units_proves_the_pause() {
    holds(units_leave_a_closing_gate::<Full>);
    fails(units_leave_a_closing_gate::<NoExit>, FOREVER);
}

#[test]
fn a_proof_by_one_who_was_turned_away_is_told_once() {
    for (enter, exit) in [LANE, UNIT] {
        holds(move || proof_while_entering(true, enter, exit));
        fails(move || proof_while_entering(false, enter, exit), TOLD);
    }
}

#[test]
fn a_hand_over_is_never_missed() {
    holds(|| hand_over::<Full>(Core::unit_admit));
    holds(|| hand_over::<Full>(Core::unit_admit_own));
    fails(|| hand_over::<EntriesFirst>(Core::unit_admit), RACE);
    fails(|| hand_over::<EntriesFirst>(Core::unit_admit_own), RACE);
}

#[test]
fn a_lane_that_goes_away_takes_no_count_with_it() {
    holds(lane_goes_away::<true>);
    fails(lane_goes_away::<false>, RACE);
}

#[test]
fn a_resume_that_races_the_proof_leaves_no_stale_paused() {
    holds(resume_against_proof::<Full>);
    fails(resume_against_proof::<AnyPause>, STALE);
}

#[test]
fn a_proof_counts_for_its_own_pause_only() {
    holds(second_pause_against_proof_of_the_first::<Full>);
    fails(second_pause_against_proof_of_the_first::<AnyPause>, STALE);
}
