//! What the gate costs. `cargo bench -p tidegate-gate` prints two tables: first the figures of
//! `docs/performance.md`, each beside what it is compared with in the same run, then criterion's own.
//!
//! Ratios are medians over rounds in which both sides run one after the other, so that whatever else the machine
//! does falls on both. Read ratios, not nanoseconds.
#![allow(missing_docs, reason = "a program, not an interface")]
#![allow(clippy::print_stdout, reason = "its output is its purpose")]
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

use criterion::Criterion;
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};
use tidegate_gate::{Gate, Keeper, Phase};

/// About 1 ns of work that depends on what came before it: a multiply cannot be skipped or run ahead.
#[inline(always)]
fn nanosecond(x: u64) -> u64 {
    x.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(7)
}

/// One event of `cost` multiplies.
#[inline(always)]
fn event<const COST: usize>(mut x: u64) -> u64 {
    for _ in 0..COST {
        x = nanosecond(x);
    }
    x
}

fn timed(work: impl FnOnce() -> u64) -> f64 {
    let start = Instant::now();
    black_box(work());
    start.elapsed().as_secs_f64()
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Median times of both sides and the median of the rounds' ratios.
fn side_by_side(mut plain: impl FnMut() -> u64, mut gated: impl FnMut() -> u64) -> (f64, f64, f64) {
    let rounds = 301;
    let (mut a, mut b, mut ratio) = (vec![], vec![], vec![]);
    for round in 0..rounds {
        let (p, g) = if round % 2 == 0 {
            let p = timed(&mut plain);
            (p, timed(&mut gated))
        } else {
            let g = timed(&mut gated);
            (timed(&mut plain), g)
        };
        a.push(p);
        b.push(g);
        ratio.push(g / p);
    }
    (median(a), median(b), median(ratio))
}

fn row(what: &str, target: &str, measured: String) {
    println!("| {what} | {target} | {measured} |");
}

const EVENTS: u64 = 1 << 14;

/// An event that does not wait for the one before it, so that every instruction of the gate's is one too many.
#[inline(always)]
fn independent(x: u64, n: u64) -> u64 {
    let z = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ z ^ (z >> 31)
}

fn inlined_loop(what: &str, target: &str, event: impl Fn(u64, u64) -> u64) {
    let (gate, _keeper) = Gate::new("inlined");
    let mut lane = gate.lane();
    let data: Vec<u64> = (0..EVENTS).collect();
    let plain = || {
        let mut x = 1;
        for n in black_box(&data) {
            x = event(x, *n);
        }
        x
    };
    let gated = || {
        let mut x = 1;
        let run = lane.try_enter().unwrap();
        for n in black_box(&data) {
            if run.closing() {
                break;
            }
            x = event(x, *n);
        }
        x
    };
    let (p, g, ratio) = side_by_side(plain, gated);
    let each = |s: f64| s / EVENTS as f64 * 1e9;
    row(
        &format!("exact gate, inlined loop of 1 ns an event, {what}"),
        target,
        format!("{ratio:.3} × ({:.2} → {:.2} ns)", each(p), each(g)),
    );
    let folded = || {
        let run = lane.try_enter().unwrap();
        let (x, left) = run.fold(black_box(&data), 1, |x, n| event(x, *n));
        assert!(left.is_empty());
        x
    };
    let (p, g, ratio) = side_by_side(plain, folded);
    row(
        &format!("the same with `Run::fold`, {what}"),
        target,
        format!("{ratio:.3} × ({:.2} → {:.2} ns)", each(p), each(g)),
    );
}

/// One run per batch, and every event asks, so that the time to pause does not depend on the size of the batch.
fn batches<const COST: usize>(size: u64, target: &str) {
    let (gate, _keeper) = Gate::new("batched");
    let mut lane = gate.lane();
    let data: Vec<u64> = (0..size).collect();
    let plain = || {
        let mut x = black_box(1);
        for _ in 0..EVENTS / size / COST as u64 {
            for e in black_box(&data) {
                x = event::<COST>(x ^ e);
            }
        }
        x
    };
    let gated = || {
        let mut x = black_box(1);
        for _ in 0..EVENTS / size / COST as u64 {
            let run = lane.try_enter().unwrap();
            for e in black_box(&data) {
                if run.closing() {
                    break;
                }
                x = event::<COST>(x ^ e);
            }
        }
        x
    };
    let events = (EVENTS / size / COST as u64 * size) as f64;
    let (p, g, ratio) = side_by_side(plain, gated);
    row(
        &format!(
            "exact gate, batches of {size}, {:.0} ns an event",
            p / events * 1e9
        ),
        target,
        format!(
            "{ratio:.3} × ({:.2} → {:.2} ns)",
            p / events * 1e9,
            g / events * 1e9
        ),
    );
}

const OPS: u64 = 2_000_000;

/// Nanoseconds per operation with `threads` of them at it together; the slowest thread counts.
fn together(threads: usize, operation: impl Fn() + Sync) -> f64 {
    let rounds = 15;
    let mut all = vec![];
    for _ in 0..rounds {
        let start = std::sync::Barrier::new(threads);
        let slowest = std::thread::scope(|s| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    s.spawn(|| {
                        start.wait();
                        timed(|| {
                            for _ in 0..OPS {
                                operation();
                            }
                            OPS
                        })
                    })
                })
                .collect();
            workers.into_iter().map(|w| w.join().unwrap()).fold(0.0, f64::max)
        });
        all.push(slowest / OPS as f64 * 1e9);
    }
    median(all)
}

fn units() {
    let (gate, _keeper) = Gate::new("units");
    let anonymous = || drop(black_box(gate.try_enter().unwrap()));
    let named = || {
        drop(black_box(
            gate.try_enter().unwrap().named("GET /orders", Instant::now()),
        ))
    };
    let shared = AtomicU64::new(0);
    // What a counter does if it is to close as well: count, look at the flag, count down.
    let flag = AtomicBool::new(false);
    let counter = || {
        shared.fetch_add(1, SeqCst);
        black_box(flag.load(SeqCst));
        shared.fetch_sub(1, SeqCst);
    };
    let (a1, a2) = (together(1, anonymous), together(2, anonymous));
    let (c1, c2) = (together(1, counter), together(2, counter));
    row(
        "a unit: enter and leave, 1 / 2 threads",
        "≤ 20 ns, flat",
        format!("{a1:.1} / {a2:.1} ns"),
    );
    row(
        "… beside a shared counter",
        "≥ 4 × better on 2 threads",
        format!("{c1:.1} / {c2:.1} ns: {:.1} × better", c2 / a2),
    );
    let (n1, n2) = (together(1, named), together(2, named));
    row(
        "a unit, named and timed, 1 / 2 threads",
        "≤ 100 ns",
        format!("{n1:.1} / {n2:.1} ns"),
    );
}

/// Lanes of 100 ns events (5 µs where nothing but a flag is asked), and how long from `close` until the gate says that nothing moves. Returns the times and
/// in how many pauses something moved all the same.
fn pauses(lanes: usize, cycles: u64, exact: bool) -> (Vec<f64>, u64) {
    let (gate, mut keeper) = Gate::new("pauses");
    let stop = AtomicBool::new(false);
    let moved: Vec<Padded> = (0..lanes).map(|_| Padded::default()).collect();
    let mut times = Vec::with_capacity(cycles as usize);
    let mut caught = 0;
    std::thread::scope(|s| {
        for mine in &moved {
            s.spawn(|| {
                let mut lane = gate.lane();
                let mut x = 1;
                while !stop.load(Relaxed) {
                    if exact {
                        if let Some(run) = lane.try_enter() {
                            while !run.closing() && !stop.load(Relaxed) {
                                x = event::<100>(black_box(x));
                                mine.0.fetch_add(1, Relaxed);
                            }
                        }
                    } else if !gate.is_closed() {
                        // Longer than it takes to close: where that takes a microsecond, shorter ones are over by then.
                        x = event::<5_000>(black_box(x));
                        mine.0.fetch_add(1, Relaxed);
                    }
                    spin_loop();
                }
                black_box(x);
            });
        }
        let so_far = || moved.iter().map(|m| m.0.load(SeqCst)).sum::<u64>();
        for cycle in 0..cycles {
            let before = so_far();
            while so_far() <= before + cycle % 3 {
                std::thread::yield_now();
            }
            let start = Instant::now();
            keeper.close();
            while gate.sight().phase != Phase::Paused {
                // With as many lanes as cores, the keeper's spinning would keep a lane from its event.
                if lanes > 1 {
                    std::thread::yield_now();
                } else {
                    spin_loop();
                }
            }
            times.push(start.elapsed().as_secs_f64() * 1e6);
            let at_pause = so_far();
            let window = Duration::from_nanos(if exact { 500 } else { 20_000 });
            let since = Instant::now();
            while since.elapsed() < window {
                spin_loop();
            }
            caught += u64::from(so_far() != at_pause);
            keeper.open();
        }
        stop.store(true, Relaxed);
    });
    (times, caught)
}

#[derive(Default)]
#[repr(align(128))]
struct Padded(AtomicU64);

fn to_quiescence() {
    for (lanes, target) in [(1, "p50 ≤ 1 µs"), (2, "p50 ≤ 10 µs")] {
        let (mut times, _) = pauses(lanes, 20_000, true);
        times.sort_by(f64::total_cmp);
        let at = |q: f64| times[(times.len() as f64 * q) as usize];
        row(
            &format!("pause → proven quiescent, 100 ns events, {lanes} lane(s)"),
            target,
            format!("p50 {:.2} µs, p99 {:.1} µs", at(0.5), at(0.99)),
        );
    }
}

fn moved_after_paused() {
    let cycles = 1_000_000;
    let (_, caught) = pauses(1, cycles, true);
    row(
        "pauses in which an event moved after \"paused\"",
        "0 in 10⁶",
        format!("{caught} in {cycles}"),
    );
    let cycles = 50_000;
    let (_, caught) = pauses(1, cycles, false);
    let share = caught as f64 / cycles as f64 * 100.0;
    row(
        "… of a gate that is only a flag",
        "must not be 0",
        format!("{caught} in {cycles} ({share:.1} %)"),
    );
    assert!(caught > 0, "the check cannot see what it is there to see");
}

/// From `open` in one task to the first event in another.
fn to_first_event() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let times = runtime.block_on(async { tokio::spawn(resumes(20_000)).await.unwrap() });
    let p = |q: f64| times[(times.len() as f64 * q) as usize];
    row(
        "resume → first event, inside the runtime",
        "p50 ≤ 2 µs",
        format!("p50 {:.2} µs, p99 {:.1} µs", p(0.5), p(0.99)),
    );
}

async fn resumes(cycles: usize) -> Vec<f64> {
    let (gate, mut keeper): (Gate, Keeper) = Gate::new("resumes");
    let (told, mut first) = tokio::sync::mpsc::unbounded_channel();
    let (tell_closed, mut closed) = tokio::sync::mpsc::unbounded_channel();
    keeper.close();
    let worker = tokio::spawn(async move {
        let mut lane = gate.lane();
        loop {
            let run = lane.enter().await;
            let at = Instant::now();
            drop(run);
            if told.send(at).is_err() {
                return;
            }
            // The next event belongs to the next resume.
            if closed.recv().await.is_none() {
                return;
            }
        }
    });
    let mut times = vec![];
    for _ in 0..cycles {
        // `waiting` comes a moment before the worker's task sleeps and its thread finds nothing else to do.
        while gate.sight().waiting == 0 {
            tokio::task::yield_now().await;
        }
        let asleep = Instant::now();
        while asleep.elapsed() < Duration::from_micros(20) {
            tokio::task::yield_now().await;
        }
        let start = Instant::now();
        keeper.open();
        let at: Instant = first.recv().await.unwrap();
        times.push(at.duration_since(start).as_secs_f64() * 1e6);
        keeper.close();
        tell_closed.send(()).unwrap();
    }
    drop(tell_closed);
    keeper.open();
    worker.await.unwrap();
    times.sort_by(f64::total_cmp);
    times
}

fn absolute(c: &mut Criterion) {
    let (gate, mut keeper) = Gate::new("criterion");
    let mut lane = gate.lane();
    c.bench_function("lane: enter and leave", |b| {
        b.iter(|| drop(black_box(lane.try_enter())))
    });
    c.bench_function("unit: enter and leave", |b| {
        b.iter(|| drop(black_box(gate.try_enter())))
    });
    c.bench_function("unit: named and timed", |b| {
        b.iter(|| {
            drop(black_box(
                gate.try_enter().map(|u| u.named("GET /orders", Instant::now())),
            ))
        })
    });
    c.bench_function("one look at the gate", |b| b.iter(|| black_box(gate.sight())));
    c.bench_function("close and open, nothing in flight", |b| {
        b.iter(|| {
            keeper.close();
            keeper.open();
        })
    });
}

fn main() {
    println!("\n| what | target | measured |\n|---|---|---|");
    inlined_loop("each after the last", "≤ 1.15 ×", |x, n| event::<1>(x ^ n));
    // The worst there is: a loop with a way out is not unrolled, and this one gains by it.
    inlined_loop("none waits for another", "≤ 1.15 ×", independent);
    batches::<8>(256, "≤ 1.03 ×");
    batches::<8>(64, "≤ 1.08 ×");
    units();
    to_quiescence();
    moved_after_paused();
    to_first_event();
    println!();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    absolute(&mut criterion);
    criterion.final_summary();
}
