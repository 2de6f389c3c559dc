//! Hours of everything at once, and whether anything drifts.
//!
//! ```text
//! cargo bench -p e2e --profile release --bench soak -- --minutes 60      (just soak 60)
//! ```
//! Two real `tidegate run` processes watch one secret of a dev store. The *steady* one is never restarted: a followed file,
//! a webhook and an HTTP gate, all under load. The *mortal* one copies a file and is ended in every round, by kill -9 and by
//! SIGTERM in turns. Every round flips the secret, breaks the store in one of many ways, flips it meanwhile, calls the
//! control API, and has people watch who read and people who do not.
//!
//! It ends non-zero at the first breach: something moved while paused, came twice, was lost or out of order; a state that a
//! fault changed; a flip that took too long; memory, descriptors, tasks, threads, files of state or latencies that have
//! grown. `--plant watchers | memory | latency | moves | loss` breaks one of these on purpose, and `--twins` asks that each
//! of the five is found. `--seed N` repeats the order of faults.
#![allow(clippy::print_stdout)] // its output is its purpose
mod ledger;
mod load;
mod round;
mod subject;

use anyhow::{Context, Result, bail, ensure};
use e2e::drift::Gauge;
use e2e::spread::Spread;
use round::{Round, Told};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use subject::Subject;

/// From one round to the next, if a round does not take longer.
const PACE: Duration = Duration::from_secs(5);
/// The slowest that one flip may be, on a machine that does other things too. A flip takes an interval (200 ms) at most;
/// after a fault, `retry_max` and `timeout` besides.
const SLOWEST: Duration = Duration::from_secs(20);

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    /// Some who watch never leave.
    Watchers,
    /// A stage that keeps what it has seen: a count by a key that never comes twice.
    Memory,
    /// The store becomes slower.
    Latency,
    /// Something else writes to the sink while its stream is paused.
    Moves,
    /// A row is never written to the source.
    Loss,
}

impl Plant {
    const ALL: [(&'static str, Plant, &'static str); 5] = [
        ("watchers", Plant::Watchers, "descriptors"),
        ("memory", Plant::Memory, "memory"),
        ("latency", Plant::Latency, "its flips has grown"),
        ("moves", Plant::Moves, "while it was paused"),
        ("loss", Plant::Loss, "is missing"),
    ];
}

struct Args {
    minutes: f64,
    seed: u64,
    plant: Option<Plant>,
    twins: bool,
}

fn main() -> Result<()> {
    let args = args()?;
    if args.twins {
        return twins();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(soak(&args))
}

fn args() -> Result<Args> {
    let mut args = Args {
        minutes: 1.0,
        seed: fastrand::u64(..),
        plant: None,
        twins: false,
    };
    let mut given = std::env::args().skip(1);
    while let Some(one) = given.next() {
        let mut value = || given.next().with_context(|| format!("{one} needs a value"));
        match one.as_str() {
            "--minutes" => args.minutes = value()?.parse()?,
            "--seed" => args.seed = value()?.parse()?,
            "--plant" => {
                let name = value()?;
                let found = Plant::ALL.iter().find(|(known, ..)| *known == name);
                args.plant = Some(found.with_context(|| format!("nothing is called {name}"))?.1);
            }
            "--twins" => args.twins = true,
            // What cargo passes.
            "--bench" => {}
            other => bail!("unknown argument {other}"),
        }
    }
    Ok(args)
}

/// Every twin must be found, and for the right reason. All at once: they do little but wait.
fn twins() -> Result<()> {
    let start = |(name, _, found_as)| -> Result<_> {
        let child = Command::new(std::env::current_exe()?)
            .args(["--minutes", "4", "--plant", name])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok((name, found_as, child))
    };
    let all = Plant::ALL.map(start).into_iter().collect::<Result<Vec<_>>>()?;
    for (name, found_as, child) in all {
        let out = child.wait_with_output()?;
        let told = String::from_utf8_lossy(&out.stderr);
        ensure!(
            !out.status.success(),
            "the soak does not find a planted fault: {name}"
        );
        let line = told.lines().find(|line| line.contains(found_as));
        let line = line.with_context(|| format!("{name} was found as something else: {told}"))?;
        println!("found: {name}: {}", line.trim());
    }
    println!("the soak finds {} planted faults", Plant::ALL.len());
    Ok(())
}

/// What is watched for drift.
struct Gauges {
    memory: Gauge,
    descriptors: Gauge,
    tasks: Gauge,
    threads: Gauge,
    state: Gauge,
    flips: Gauge,
    reborn: Gauge,
}

impl Gauges {
    fn new(length: Duration, planted: bool) -> Gauges {
        // Until its journal of 4,096 records is full, the steady process still has a reason to grow.
        let most = if planted {
            Duration::from_secs(15)
        } else {
            Duration::from_secs(600)
        };
        let warm = (length / 5).min(most);
        let window = if length >= Duration::from_secs(1200) {
            15
        } else {
            3
        };
        let gauge = |name, unit, slack| Gauge::new(name, unit, slack, warm, window);
        Gauges {
            memory: gauge("the steady process's memory", "KiB", 3072.0),
            descriptors: gauge("its number of descriptors", "", 6.0),
            tasks: gauge("its number of tasks", "", 6.0),
            threads: gauge("its number of threads", "", 4.0),
            state: gauge("its state_dir", "KiB", 1024.0),
            flips: gauge("the median of its flips", "ms", 1000.0),
            reborn: gauge("the memory of the process that is restarted", "KiB", 3072.0),
        }
    }

    fn all(&self) -> [&Gauge; 7] {
        [
            &self.memory,
            &self.descriptors,
            &self.tasks,
            &self.threads,
            &self.state,
            &self.flips,
            &self.reborn,
        ]
    }
}

async fn soak(args: &Args) -> Result<()> {
    let length = Duration::from_secs_f64(args.minutes * 60.0);
    let every = (length / 60).max(Duration::from_secs(10));
    println!("{} minutes, seed {}", args.minutes, args.seed);
    let mut subject = Subject::start(args.plant).await?;
    let mut gauges = Gauges::new(length, args.plant.is_some());
    let mut random = fastrand::Rng::with_seed(args.seed);
    let (mut flips, mut recoveries) = (Spread::default(), Spread::default());
    let (mut shown, mut number) = (Duration::ZERO, 0_u64);
    let began = Instant::now();
    while began.elapsed() < length {
        let round_began = Instant::now();
        let told = Round::new(&mut subject, &mut random, number, args.plant)
            .run()
            .await;
        let told = told.with_context(|| format!("round {number}, seed {}", args.seed))?;
        number += 1;
        sample(&mut gauges, &subject, &told, began.elapsed()).await?;
        for took in &told.flips {
            flips.add(*took);
        }
        recoveries.add(told.recovery);
        let slowest = told.flips.iter().chain([&told.recovery]).max();
        ensure!(
            slowest.is_none_or(|took| *took <= SLOWEST),
            "round {number}: a flip took {slowest:?}, and may take {SLOWEST:?}"
        );
        if began.elapsed() >= shown {
            show(&gauges, &subject, &told, began.elapsed(), number);
            shown = began.elapsed() + every;
        }
        for gauge in gauges.all() {
            if let Some(breach) = gauge.breach() {
                bail!("round {number}: {breach}");
            }
        }
        tokio::time::sleep(PACE.saturating_sub(round_began.elapsed())).await;
    }
    let counts = subject.finish().await?;
    println!(
        "\n{number} rounds in {:.1} minutes",
        began.elapsed().as_secs_f64() / 60.0
    );
    println!("flips, write at the store -> all streams proven   {flips}");
    println!("fault over -> the flip made meanwhile is applied  {recoveries}");
    println!("{counts}");
    for gauge in gauges.all() {
        let (base, drift) = (gauge.baseline(), gauge.drift());
        println!(
            "drift of {:45} {:+8.1} {} over {:.1}",
            gauge.name,
            drift.context("too short a run to tell of drift")?,
            gauge.unit,
            base.unwrap_or_default(),
        );
    }
    println!("no breach");
    Ok(())
}

async fn sample(gauges: &mut Gauges, subject: &Subject, told: &Told, at: Duration) -> Result<()> {
    let steady = &subject.steady;
    // What the round opened is closed by now, and the other side may need a moment to see it.
    let within = |gauge: &Gauge, now: f64| gauge.bound().is_none_or(|bound| now <= bound);
    let mut seen = subject.look().await?;
    for _ in 0..100 {
        if within(&gauges.descriptors, seen.descriptors) && within(&gauges.tasks, seen.tasks) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        seen = subject.look().await?;
    }
    gauges
        .memory
        .add(at, e2e::proc::anonymous_kib(steady.pid()?)? as f64);
    gauges.descriptors.add(at, seen.descriptors);
    gauges.tasks.add(at, seen.tasks);
    gauges.threads.add(at, e2e::proc::threads(steady.pid()?)? as f64);
    gauges.state.add(at, subject.state_kib()?);
    gauges.reborn.add(at, told.reborn_kib as f64);
    let mut flips = Spread::default();
    told.flips.iter().for_each(|took| flips.add(*took));
    gauges.flips.add(at, flips.median().as_secs_f64() * 1e3);
    Ok(())
}

fn show(gauges: &Gauges, subject: &Subject, told: &Told, at: Duration, number: u64) {
    let mut line = format!("{:6.1} min, round {number:4}", at.as_secs_f64() / 60.0);
    let short = ["memory", "fds", "tasks", "threads", "state", "flips", "reborn"];
    for (name, gauge) in short.iter().zip(gauges.all()) {
        match (gauge.last(), gauge.drift()) {
            (Some(last), Some(drift)) => line += &format!("  {name} {last:.0} ({drift:+.0})"),
            (Some(last), None) => line += &format!("  {name} {last:.0}"),
            _ => line += &format!("  {name} -"),
        }
    }
    println!(
        "{line}  fault {} {:.0?}  {}",
        told.fault,
        told.recovery,
        subject.counts()
    );
}
