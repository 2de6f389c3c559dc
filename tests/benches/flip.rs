//! How long a flip takes, from the write at the store to the proven state, as it is seen from outside, while events move;
//! and whether the product's own metric says the same.
//!
//! Outside is a watcher, who is told, and then one question to `/status`, which has to agree. Asking `/status` again and
//! again until it changes would keep two processors busy with asking, and its answers would say so.
//!
//! ```text
//! cargo bench -p e2e --bench flip
//! ```
//! Ends non-zero when a target of docs/performance.md is missed.
#![allow(clippy::print_stdout)] // its output is its purpose
use anyhow::{Context, Result, ensure};
use e2e::appender::Appender;
use e2e::rows::Rows;
use e2e::setup::Setup;
use e2e::sidecar::Sidecar;
use e2e::spread::Spread;
use e2e::watcher::Watcher;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

const FLIPS: usize = 50;
const INTERVAL: Duration = Duration::from_millis(100);
/// What a flip may take beside the interval and the round trip.
const REST: Duration = Duration::from_millis(5);
/// How far the metric may be from what is seen outside.
const AGREEMENT: Duration = Duration::from_millis(2);

#[derive(Default)]
struct Flips {
    /// From the write until `/status` says so.
    to_status: Spread,
    /// From the write until a watcher is told.
    to_watcher: Spread,
    /// From the poll's arrival at the store until a watcher is told.
    from_reading: Spread,
    /// The product's own: from the reading to the proven state.
    metric: Spread,
    /// By how much those two differ.
    apart: Spread,
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(measure())
}

async fn measure() -> Result<()> {
    let setup = Setup::new().await?;
    let rows = Arc::new(Rows::made_up(200_000)?);
    let appender = Appender::start(&setup.path("orders.in"), rows, 20_000)?;
    appender.allow(usize::MAX);
    let config = setup.configure(INTERVAL, &setup.plain(), &setup.file_to_file("orders"))?;
    let sidecar = Sidecar::start(Path::new(env!("CARGO_BIN_EXE_e2e-tidegate")), &config)?;
    sidecar.becomes("orders", "running").await?;
    let (control, _) = sidecar.addresses().await?;
    let mut watcher = Watcher::of(&control, "orders").await?;

    let (mut pauses, mut resumes, mut trips) = (Flips::default(), Flips::default(), Spread::default());
    for _ in 0..FLIPS {
        for _ in 0..4 {
            let began = Instant::now();
            setup.flag.read().await?;
            trips.add(began.elapsed());
        }
        flip(&setup, &sidecar, &mut watcher, true, &mut pauses).await?;
        flip(&setup, &sidecar, &mut watcher, false, &mut resumes).await?;
    }
    ensure!(sidecar.stop().await?.success(), "tidegate did not end well");

    println!("interval {INTERVAL:?}, events moving from file to file, {FLIPS} flips each way");
    println!("one round trip to the store                  {trips}");
    let bound = INTERVAL + trips.max() + REST;
    let mut missed = Vec::new();
    for (word, flips) in [("paused ", &pauses), ("running", &resumes)] {
        println!("write at the store -> /status says {word}   {}", flips.to_status);
        println!(
            "write at the store -> a watcher hears it     {}",
            flips.to_watcher
        );
        println!(
            "poll reaches store -> a watcher hears it     {}",
            flips.from_reading
        );
        println!("the metric: reading -> {word}               {}", flips.metric);
        println!("metric and outside differ by                 {}", flips.apart);
        if flips.to_status.max() > bound {
            missed.push(format!("{word}: {:?} is over {bound:?}", flips.to_status.max()));
        }
        if flips.apart.max() > AGREEMENT {
            missed.push(format!(
                "{word}: metric and outside are {:?} apart",
                flips.apart.max()
            ));
        }
    }
    println!(
        "bound: interval + round trip + 5 ms = {:.1} ms",
        bound.as_secs_f64() * 1e3
    );
    ensure!(missed.is_empty(), "missed: {}", missed.join("; "));
    println!("met");
    Ok(())
}

async fn flip(
    setup: &Setup,
    sidecar: &Sidecar,
    watcher: &mut Watcher,
    paused: bool,
    into: &mut Flips,
) -> Result<()> {
    // Anywhere between two polls.
    tokio::time::sleep(INTERVAL.mul_f64(fastrand::f64())).await;
    let state = if paused { "paused" } else { "running" };
    let before = own_latency(sidecar, state).await?;
    let newest = setup.store.requests().seen().last().map_or(0, |r| r.number);

    let began = Instant::now();
    setup.flag.write(paused).await?;
    let heard = watcher.told(state).await?;
    let told = sidecar.stream("orders").await?;
    let seen = Instant::now();
    let heard_wall = SystemTime::now() - heard.elapsed();
    ensure!(
        told["state"] == state,
        "a watcher was told {state}, and then /status said {told}"
    );
    into.to_watcher.add(heard.saturating_duration_since(began));
    into.to_status.add(seen - began);

    let requests = setup.store.requests().seen();
    let mut later = requests
        .iter()
        .filter(|r| r.number > newest && r.path == setup.flag.api_path());
    later
        .find(|r| r.method != "GET")
        .context("the write in the store's log")?;
    let poll = later
        .find(|r| r.method == "GET")
        .context("the poll in the store's log")?;
    let outside = heard_wall
        .duration_since(SystemTime::from(poll.at))
        .context("clocks")?;

    let own = loop {
        let after = own_latency(sidecar, state).await?;
        if after.1 > before.1 {
            ensure!(
                after.1 == before.1 + 1,
                "one flip was counted {} times",
                after.1 - before.1
            );
            break Duration::from_secs_f64((after.0 - before.0).max(0.0));
        }
    };
    into.from_reading.add(outside);
    into.metric.add(own);
    into.apart.add(outside.abs_diff(own));
    Ok(())
}

/// Sum in seconds and count of the product's flip latencies to a state.
async fn own_latency(sidecar: &Sidecar, to: &str) -> Result<(f64, u64)> {
    let text = sidecar.metrics().await?;
    let value = |name: &str| {
        let line = text.lines().find(|l| {
            l.starts_with(&format!("tidegate_flip_latency_seconds_{name}{{"))
                && l.contains(&format!("to=\"{to}\""))
        });
        line.and_then(|l| l.rsplit_once(' ')).map(|(_, value)| value)
    };
    let sum = value("sum").map_or(Ok(0.0), str::parse)?;
    let count = value("count").map_or(Ok(0), str::parse)?;
    Ok((sum, count))
}
