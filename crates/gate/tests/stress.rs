//! The gate on real hardware: what moves in every way that a stream can move, closed and opened as fast as it goes.
//!
//! `TIDEGATE_STRESS_CYCLES` sets how often (the default takes a few seconds; 1000000 with `--release` is the figure
//! that `docs/reliability.md` reports). Every check is also put to a gate that is a flag and nothing more, and must
//! catch it moving.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tidegate_gate::{Gate, GatedExt, Keeper, Phase, Unit};
use tokio::task::{AbortHandle, yield_now};

const DEFAULT_CYCLES: u64 = 3_000;

/// So many pauses a twin gets to be caught in.
const MOST: u64 = 100_000;

fn cycles() -> u64 {
    match std::env::var("TIDEGATE_STRESS_CYCLES") {
        Ok(text) => text
            .parse()
            .expect("TIDEGATE_STRESS_CYCLES is a number of cycles"),
        Err(_) => DEFAULT_CYCLES,
    }
}

/// Counts effects. An effect that is seen after `paused` is the one thing that must not happen.
#[derive(Clone, Default)]
struct Moved(Arc<AtomicU64>);
impl Moved {
    fn step(&self) {
        self.0.fetch_add(1, SeqCst);
    }
    fn so_far(&self) -> u64 {
        self.0.load(SeqCst)
    }
}

/// What is stressed: the gate, or the flag that must be caught.
trait Barrier: Clone + Send + Sync + 'static {
    type Pass: Send + 'static;
    fn enter(&self) -> BoxFuture<'static, Self::Pass>;
    fn child(&self, of: &Self::Pass) -> Self::Pass;
    fn is_closed(&self) -> bool;
    /// One serial worker: runs of events with a stage that waits, and every few runs a unit that outlives its run.
    fn lane(&self, moved: Moved) -> BoxFuture<'static, ()>;
    /// A gated stream, consumed eight at a time.
    fn buffered(&self, moved: Moved) -> BoxFuture<'static, ()>;
    /// Attempts at a sink that fails: one serial worker that tries each event until one attempt succeeds.
    fn failing(&self, moved: Moved) -> BoxFuture<'static, ()>;
    /// Closes and waits until it says that nothing moves.
    fn pause(&mut self) -> impl Future<Output = ()> + Send;
    fn resume(&mut self);
    /// Panics if it no longer says so.
    fn still_says_paused(&self);
}

/// The effect of one event: it moves before and after a stage that waits.
async fn effect(moved: &Moved) {
    moved.step();
    yield_now().await;
    moved.step();
}

/// What becomes of an attempt at a sink.
#[derive(Clone, Copy)]
enum Fate {
    Succeeds,
    /// The sink has a part of it, and says so or not.
    FailsHalfWay,
    /// It is given up at its timeout, in the middle.
    TimesOut,
    /// What makes it is aborted with it.
    Dies,
}
impl Fate {
    fn of(n: u64) -> Fate {
        [Fate::Succeeds, Fate::FailsHalfWay, Fate::TimesOut, Fate::Dies][scattered(n) % 4]
    }
}

/// An attempt that ends here; true if the sink has the event.
async fn attempt(moved: &Moved, fate: Fate) -> bool {
    match fate {
        Fate::Succeeds => effect(moved).await,
        Fate::FailsHalfWay => {
            moved.step();
            yield_now().await;
        }
        Fate::TimesOut | Fate::Dies => drop(effect(moved).now_or_never()),
    }
    matches!(fate, Fate::Succeeds)
}

#[derive(Clone)]
struct Exact {
    gate: Gate,
    keeper: Arc<std::sync::Mutex<Keeper>>,
}
impl Exact {
    fn new() -> Exact {
        let (gate, keeper) = Gate::new("stressed");
        Exact {
            gate,
            keeper: Arc::new(std::sync::Mutex::new(keeper)),
        }
    }
}
impl Barrier for Exact {
    type Pass = Unit;
    fn enter(&self) -> BoxFuture<'static, Unit> {
        self.gate.enter().boxed()
    }
    fn child(&self, of: &Unit) -> Unit {
        of.child()
    }
    fn is_closed(&self) -> bool {
        self.gate.is_closed()
    }
    fn lane(&self, moved: Moved) -> BoxFuture<'static, ()> {
        let gate = self.gate;
        async move {
            let mut lane = gate.lane();
            for turn in 0u64.. {
                let run = lane.enter().await;
                for _ in 0..64 {
                    if run.closing() {
                        break;
                    }
                    effect(&moved).await;
                }
                if turn % 4 == 0 {
                    let unit = run.hand_off();
                    let moved = moved.clone();
                    tokio::spawn(async move {
                        effect(&moved).await;
                        drop(unit);
                    });
                }
                drop(run);
                yield_now().await;
            }
        }
        .boxed()
    }
    fn buffered(&self, moved: Moved) -> BoxFuture<'static, ()> {
        stream::repeat(())
            .gated(self.gate)
            .map(move |admitted| {
                let moved = moved.clone();
                async move {
                    effect(&moved).await;
                    drop(admitted);
                }
            })
            .buffer_unordered(8)
            .for_each(|()| yield_now())
            .boxed()
    }
    fn failing(&self, moved: Moved) -> BoxFuture<'static, ()> {
        let gate = self.gate;
        async move {
            let mut lane = gate.lane();
            for n in 0u64.. {
                // Whatever failed is held, like what never began: it asks the gate again.
                let run = lane.enter().await;
                match Fate::of(n) {
                    Fate::Dies => {
                        let (unit, moved) = (run.hand_off(), moved.clone());
                        let made = tokio::spawn(async move {
                            effect(&moved).await;
                            drop(unit);
                        });
                        drop(run);
                        yield_now().await;
                        made.abort();
                    }
                    fate => {
                        attempt(&moved, fate).await;
                        drop(run);
                    }
                }
                // The wait before the next attempt is not in flight.
                yield_now().await;
            }
        }
        .boxed()
    }
    async fn pause(&mut self) {
        let generation = self.keeper.lock().unwrap().close();
        assert!(
            self.gate.quiesced(generation).await,
            "nobody lifted this pause, so it must be proven"
        );
    }
    fn resume(&mut self) {
        self.keeper.lock().unwrap().open();
    }
    fn still_says_paused(&self) {
        let sight = self.gate.sight();
        assert_eq!((sight.phase, sight.in_flight), (Phase::Paused, 0));
    }
}

/// A flag, as a pause switch is often made: closed is taken for paused.
#[derive(Clone, Default)]
struct FlagOnly(Arc<AtomicBool>);
impl FlagOnly {
    async fn opened(self) {
        while self.is_closed() {
            yield_now().await;
        }
    }
}
impl Barrier for FlagOnly {
    type Pass = ();
    fn enter(&self) -> BoxFuture<'static, ()> {
        self.clone().opened().boxed()
    }
    fn child(&self, (): &()) {}
    fn is_closed(&self) -> bool {
        self.0.load(SeqCst)
    }
    fn lane(&self, moved: Moved) -> BoxFuture<'static, ()> {
        let me = self.clone();
        async move {
            loop {
                me.clone().opened().await;
                while !me.is_closed() {
                    effect(&moved).await;
                }
            }
        }
        .boxed()
    }
    fn buffered(&self, moved: Moved) -> BoxFuture<'static, ()> {
        let me = self.clone();
        stream::repeat(())
            .then(move |()| me.clone().opened())
            .map(move |()| {
                let moved = moved.clone();
                async move { effect(&moved).await }
            })
            .buffer_unordered(8)
            .for_each(|()| yield_now())
            .boxed()
    }
    fn failing(&self, moved: Moved) -> BoxFuture<'static, ()> {
        let me = self.clone();
        async move {
            for n in 0u64.. {
                me.clone().opened().await;
                attempt(&moved, Fate::of(n)).await;
                yield_now().await;
            }
        }
        .boxed()
    }
    async fn pause(&mut self) {
        self.0.store(true, SeqCst);
    }
    fn resume(&mut self) {
        self.0.store(false, SeqCst);
    }
    fn still_says_paused(&self) {}
}

/// The exact gate, and a sink's client that does not know of it: what failed is tried again, whatever the gate says.
#[derive(Clone)]
struct RetriesInside(Exact);
impl Barrier for RetriesInside {
    type Pass = Unit;
    fn enter(&self) -> BoxFuture<'static, Unit> {
        self.0.enter()
    }
    fn child(&self, of: &Unit) -> Unit {
        self.0.child(of)
    }
    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
    fn lane(&self, moved: Moved) -> BoxFuture<'static, ()> {
        self.0.lane(moved)
    }
    fn buffered(&self, moved: Moved) -> BoxFuture<'static, ()> {
        self.0.buffered(moved)
    }
    fn failing(&self, moved: Moved) -> BoxFuture<'static, ()> {
        let gate = self.0.gate;
        async move {
            let mut lane = gate.lane();
            for n in 0u64.. {
                let run = lane.enter().await;
                let mut done = attempt(&moved, Fate::of(n)).await;
                drop(run);
                for again in n.. {
                    yield_now().await;
                    if done {
                        break;
                    }
                    done = attempt(&moved, Fate::of(again.wrapping_mul(31))).await;
                }
            }
        }
        .boxed()
    }
    fn pause(&mut self) -> impl Future<Output = ()> + Send {
        self.0.pause()
    }
    fn resume(&mut self) {
        self.0.resume();
    }
    fn still_says_paused(&self) {
        self.0.still_says_paused();
    }
}

/// Units that travel: each effect runs in a task of its own, and starts another.
async fn fan_out<B: Barrier>(barrier: B, moved: Moved) {
    loop {
        let unit = barrier.enter().await;
        let (child, theirs) = (barrier.child(&unit), moved.clone());
        tokio::spawn(async move {
            effect(&theirs).await;
            drop(child);
        });
        effect(&moved).await;
        drop(unit);
        yield_now().await;
    }
}

/// Runs all movers against `cycles` pauses and returns in how many of them something moved after `paused`; no more pauses
/// than it takes to see `enough` of those.
async fn moved_while_paused<B: Barrier>(mut barrier: B, cycles: u64, enough: u64) -> u64 {
    let moved = Moved::default();
    let spawn = {
        let (barrier, moved) = (barrier.clone(), moved.clone());
        move |kind: usize| -> AbortHandle {
            let driver = match kind {
                0 | 1 => barrier.lane(moved.clone()),
                2 => barrier.buffered(moved.clone()),
                3 => fan_out(barrier.clone(), moved.clone()).boxed(),
                _ => barrier.failing(moved.clone()),
            };
            tokio::spawn(driver).abort_handle()
        }
    };
    let mut drivers: Vec<AbortHandle> = (0..6).map(&spawn).collect();
    let mut caught = 0;
    for cycle in 0..cycles {
        // Open long enough that something moves, closed at every phase of what moves.
        let before = moved.so_far();
        let mut turns = 0u64;
        while moved.so_far() < before + cycle % 97 || turns < cycle % 7 {
            yield_now().await;
            turns += 1;
        }
        if cycle % 16 == 0 {
            // A driver that dies in the middle of an event takes its count with it.
            let victim = scattered(cycle) % drivers.len();
            drivers[victim].abort();
            drivers[victim] = spawn(victim);
        }
        barrier.pause().await;
        let at_pause = moved.so_far();
        for _ in 0..20 {
            yield_now().await;
            std::hint::spin_loop();
        }
        if cycle % 64 == 0 {
            // On a busy machine no mover may have had a processor in so short a time.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        barrier.still_says_paused();
        caught += u64::from(moved.so_far() != at_pause);
        barrier.resume();
        if caught == enough {
            break;
        }
    }
    for driver in drivers {
        driver.abort();
    }
    caught
}

/// Which driver dies is the same in every run.
fn scattered(n: u64) -> usize {
    (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as usize
}

fn on_two_workers<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

#[test]
fn nothing_moves_between_paused_and_the_resume() {
    let caught = on_two_workers(moved_while_paused(Exact::new(), cycles(), 1));
    assert_eq!(caught, 0, "of {} cycles", cycles());
}

#[test]
fn a_gate_that_is_only_a_flag_is_caught_moving() {
    let caught = on_two_workers(moved_while_paused(FlagOnly::default(), MOST, 1));
    assert!(caught > 0, "the check cannot see what it is there to see");
}

#[test]
fn retries_that_do_not_ask_the_gate_are_caught_moving() {
    let caught = on_two_workers(moved_while_paused(RetriesInside(Exact::new()), MOST, 1));
    assert!(caught > 0, "the check cannot see what a failing sink does");
}

/// Threads without a runtime, spinning: the shortest distances in time that there are.
fn moved_while_paused_on_threads(exact: bool, cycles: u64) -> u64 {
    let (gate, mut keeper) = Gate::new("spun");
    let moved = Moved::default();
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..3)
        .map(|kind| {
            let (moved, stop) = (moved.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut lane = gate.lane();
                while !stop.load(SeqCst) {
                    match (exact, kind) {
                        (true, 0 | 1) => {
                            if let Some(run) = lane.try_enter() {
                                while !run.closing() && !stop.load(SeqCst) {
                                    moved.step();
                                }
                                moved.step();
                            }
                        }
                        (true, _) => {
                            if let Some(unit) = gate.try_enter() {
                                moved.step();
                                let child = unit.child();
                                drop(unit);
                                moved.step();
                                drop(child);
                            }
                        }
                        (false, _) => {
                            // Something always lies between asking and doing. With nothing there the window is a
                            // few nanoseconds, and a busy machine may never schedule a pause into it.
                            if !gate.is_closed() {
                                std::thread::yield_now();
                                moved.step();
                            }
                        }
                    }
                    std::thread::yield_now();
                }
            })
        })
        .collect();
    let mut caught = 0;
    for _ in 0..cycles {
        let before = moved.so_far();
        while moved.so_far() == before {
            std::thread::yield_now();
        }
        keeper.close();
        while gate.sight().phase != Phase::Paused {
            std::thread::yield_now();
        }
        let at_pause = moved.so_far();
        for _ in 0..4 {
            std::thread::yield_now();
        }
        caught += u64::from(moved.so_far() != at_pause);
        keeper.open();
    }
    stop.store(true, SeqCst);
    for worker in workers {
        worker.join().unwrap();
    }
    caught
}

#[test]
fn no_thread_moves_between_paused_and_the_resume() {
    assert_eq!(moved_while_paused_on_threads(true, cycles()), 0);
}

#[test]
fn threads_behind_a_flag_are_caught_moving() {
    let mut caught = 0;
    // On a machine with one core the flag may get away with it for a while; not for long.
    for _ in 0..100 {
        caught += moved_while_paused_on_threads(false, 1_000);
        if caught > 0 {
            return;
        }
    }
    panic!("the check cannot see what it is there to see");
}
