//! Whether memory stays where it is: paused for minutes with a firehose behind the gate, and over 10 million events.
//!
//! ```text
//! cargo bench -p e2e --bench memory -- --minutes 10 --millions 30
//! ```
//! Prints resident memory over time and ends non-zero when it grows.
#![allow(clippy::print_stdout)] // its output is its purpose
use anyhow::{Context, Result, ensure};
use e2e::flatness::{growth_kib, is_flat};
use e2e::proc::resident_kib;
use e2e::rows::Rows;
use e2e::setup::Setup;
use e2e::sidecar::Sidecar;
use std::fs::File;
use std::io::{PipeWriter, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::process::Command;

/// What is appended with one write to the file behind the gate, and how often.
const LINE: usize = 512;
const EVERY: Duration = Duration::from_micros(500);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: f64| -> Result<f64> {
        let Some(at) = args.iter().position(|a| a == name) else {
            return Ok(default);
        };
        let given = args
            .get(at + 1)
            .with_context(|| format!("{name} needs a number"))?;
        Ok(given.parse()?)
    };
    let (minutes, millions) = (number("--minutes", 0.5)?, number("--millions", 10.0)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let flat = runtime.block_on(async {
        let moving = moving((millions * 1e6) as u64).await?;
        anyhow::Ok(paused(Duration::from_secs_f64(minutes * 60.0)).await? && moving)
    });
    // A writer that stands before a full pipe never comes back.
    runtime.shutdown_background();
    ensure!(flat?, "memory grows");
    Ok(())
}

/// Standard input as fast as it can be written, and a file that is appended to two thousand times a second.
async fn paused(long: Duration) -> Result<bool> {
    let setup = Setup::new().await?;
    let streams = format!(
        "{}[[stream]]\nname = \"pipe\"\nsource = {{ type = \"stdin\" }}\nsink = {{ type = \"file\", path = \"{}\" }}\n",
        setup.file_to_file("orders"),
        setup.path("pipe.out").display()
    );
    let config = setup.configure(Duration::from_secs(1), &setup.plain(), &streams)?;
    let mut file = File::create(setup.path("orders.in"))?;
    let (stdin, firehose) = std::io::pipe()?;
    let sidecar = start(&config, stdin, Stdio::null())?;
    let offered = Arc::new(AtomicU64::new(0));
    open(firehose, u64::MAX, offered.clone())?;
    sidecar.becomes("pipe", "running").await?;
    e2e::until("the firehose flows", || offered.load(Relaxed) > 1 << 20).await?;
    setup.flag.write(true).await?;
    for stream in ["pipe", "orders"] {
        sidecar.becomes(stream, "paused").await?;
    }

    let appending = tokio::task::spawn_blocking(move || -> Result<u64> {
        let line = [&[b'x'; LINE - 1][..], b"\n"].concat();
        let (began, mut lines) = (Instant::now(), 0_u64);
        while began.elapsed() < long {
            file.write_all(&line)?;
            lines += 1;
            if let Some(early) = EVERY
                .saturating_mul(lines.try_into()?)
                .checked_sub(began.elapsed())
            {
                std::thread::park_timeout(early);
            }
        }
        Ok(lines)
    });
    let accepted = offered.load(Relaxed);
    let samples = sampled(&sidecar, Duration::from_secs(1).min(long / 30), "paused", || {
        appending.is_finished()
    })
    .await?;
    let lines = appending.await??;
    for stream in ["pipe", "orders"] {
        let told = sidecar.stream(stream).await?;
        ensure!(told["state"] == "paused", "{told}");
        println!("{stream}: {} events held", told["held"]);
    }
    println!(
        "paused for {:.0} s; {lines} lines came into the file behind the gate ({} MB), {} bytes more into the pipe",
        long.as_secs_f64(),
        lines * LINE as u64 / 1_000_000,
        offered.load(Relaxed) - accepted
    );
    Ok(verdict("paused", &samples))
}

/// Events from standard input to standard output.
async fn moving(events: u64) -> Result<bool> {
    let setup = Setup::new().await?;
    let stream = "[[stream]]\nname = \"pipe\"\nsource = { type = \"stdin\" }\nsink = { type = \"stdout\" }\n";
    let config = setup.configure(Duration::from_secs(1), &setup.plain(), stream)?;
    let (stdin, firehose) = std::io::pipe()?;
    let (mut from, stdout) = std::io::pipe()?;
    let sidecar = start(&config, stdin, stdout)?;
    let offered = Arc::new(AtomicU64::new(0));
    open(firehose, events, offered.clone())?;
    let draining = tokio::task::spawn_blocking(move || -> Result<u64> {
        let (mut piece, mut lines) = (vec![0; 1 << 18], 0);
        loop {
            match from.read(&mut piece)? {
                0 => return Ok(lines),
                n => lines += piece[..n].iter().filter(|b| **b == b'\n').count() as u64,
            }
        }
    });
    let began = Instant::now();
    let done = || offered.load(Relaxed) == u64::MAX;
    let samples = sampled(&sidecar, Duration::from_millis(50), "moving", done).await?;
    let lines = draining.await??;
    ensure!(lines == events, "{lines} of {events} events arrived");
    println!("{events} events in {:.1} s", began.elapsed().as_secs_f64());
    Ok(verdict("moving", &samples))
}

fn start(config: &Path, stdin: impl Into<Stdio>, stdout: impl Into<Stdio>) -> Result<Sidecar> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_e2e-tidegate"));
    command
        .arg("run")
        .arg("--config")
        .arg(config)
        .stdin(stdin)
        .stdout(stdout);
    Sidecar::from(command)
}

/// Writes rows into a pipe until there were so many, as fast as it takes them. `offered` counts bytes, and says
/// `u64::MAX` at the end.
fn open(mut firehose: PipeWriter, events: u64, offered: Arc<AtomicU64>) -> Result<()> {
    let rows = Rows::made_up(10_000)?;
    std::thread::spawn(move || {
        let mut left = events;
        while left > 0 {
            // The pipe closes with the process.
            if firehose.write_all(rows.text()).is_err() {
                return;
            }
            offered.fetch_add(rows.text().len() as u64, Relaxed);
            left -= (rows.len() as u64).min(left);
        }
        offered.store(u64::MAX, Relaxed);
    });
    Ok(())
}

/// Resident memory, every so often until the end.
async fn sampled(
    sidecar: &Sidecar,
    every: Duration,
    what: &str,
    over: impl Fn() -> bool,
) -> Result<Vec<u64>> {
    let pid = sidecar.pid()?;
    let mut samples = Vec::new();
    let mut ticks = tokio::time::interval(every);
    let began = Instant::now();
    let mut shown = Duration::ZERO;
    while !over() {
        ticks.tick().await;
        let Ok(kib) = resident_kib(pid) else { break };
        samples.push(kib);
        if began.elapsed() >= shown {
            println!(
                "{what} {:6.1} s  resident {kib} KiB",
                began.elapsed().as_secs_f64()
            );
            shown = began.elapsed() + every * 30;
        }
    }
    Ok(samples)
}

fn verdict(what: &str, samples: &[u64]) -> bool {
    let (least, most) = (samples.iter().min(), samples.iter().max());
    let flat = is_flat(samples);
    println!(
        "{what}: {} samples, {} to {} KiB, grown by {} KiB: {}",
        samples.len(),
        least.copied().unwrap_or_default(),
        most.copied().unwrap_or_default(),
        growth_kib(samples),
        if flat { "flat" } else { "GROWS" }
    );
    flat
}
