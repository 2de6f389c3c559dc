//! Thousands of seeds, and the twins that they must find.
#![allow(
    clippy::print_stdout,
    reason = "the seeds that failed, and what was simulated, are for whoever reads the run"
)]
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
use simulation::{Failure, Trace, Twin, run};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Runs seeds on two threads until one fails.
fn runs(seeds: u64, twin: Option<Twin>) -> Result<Trace, Failure> {
    let next = AtomicU64::new(0);
    let one = || {
        let mut sum = Trace::default();
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= seeds {
                return Ok(sum);
            }
            let trace = run(seed, twin)?;
            sum.moves += trace.moves;
            sum.restarts += trace.restarts;
            sum.polls += trace.polls;
            sum.events += trace.events;
            sum.repeated += trace.repeated;
            sum.compared[0] += trace.compared[0];
            sum.compared[1] += trace.compared[1];
            sum.jumps[0] += trace.jumps[0];
            sum.jumps[1] += trace.jumps[1];
        }
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(one), scope.spawn(one)];
        let mut sum = Trace::default();
        for thread in threads {
            let trace = thread.join().unwrap()?;
            sum.moves += trace.moves;
            sum.restarts += trace.restarts;
            sum.polls += trace.polls;
            sum.events += trace.events;
            sum.repeated += trace.repeated;
            sum.compared[0] += trace.compared[0];
            sum.compared[1] += trace.compared[1];
            sum.jumps[0] += trace.jumps[0];
            sum.jumps[1] += trace.jumps[1];
        }
        Ok(sum)
    })
}

#[test]
fn a_stream_stands_still_exactly_when_it_should_whatever_happens() {
    if let Some(seed) = number("TIDEGATE_SIM_SEED") {
        let trace = run(seed, None).unwrap_or_else(|failure| panic!("{failure}"));
        println!("seed {seed}: {trace:?}");
        return;
    }
    let seeds = number("TIDEGATE_SIM_SEEDS").unwrap_or(400);
    let sum = runs(seeds, None).unwrap_or_else(|failure| panic!("{failure}"));
    println!("{seeds} seeds: {sum:?}");
    // Both answers, restarts and repeats have to be in it, else it shows nothing.
    assert!(sum.compared[0] > seeds && sum.compared[1] > seeds, "{sum:?}");
    assert!(sum.jumps[0] > seeds / 2 && sum.jumps[1] > seeds / 2, "{sum:?}");
    assert!(sum.restarts > seeds / 2 && sum.events > seeds * 100, "{sum:?}");
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..20 {
        let (once, again) = (run(seed, None).unwrap(), run(seed, None).unwrap());
        assert_eq!(once, again, "seed {seed}");
    }
}

#[test]
fn each_broken_twin_is_found_and_its_seed_shows_it_again() {
    for twin in [
        Twin::ResumesOnMissing,
        Twin::ResumesOnOutage,
        Twin::ForgetsOperators,
        Twin::AgesByTheWall,
        Twin::SleepsThroughAJump,
    ] {
        let failure = runs(400, Some(twin)).expect_err("the twin is not found");
        let again = run(failure.seed, Some(twin)).expect_err("its seed does not show it again");
        // The model's own moments are those of the machine's clock.
        let what = |failure: &Failure| failure.what.split("; the model").next().map(str::to_owned);
        assert_eq!((again.at, what(&again)), (failure.at, what(&failure)), "{twin:?}");
    }
}
