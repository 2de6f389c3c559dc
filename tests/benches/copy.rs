//! A hosted stream from a file to standard output without stages, against `cat` into the same pipe, run by run in turns.
//!
//! ```text
//! cargo bench -p e2e --bench copy
//! ```
#![allow(clippy::print_stdout)] // its output is its purpose
use anyhow::{Context, Result, ensure};
use e2e::rows::Rows;
use e2e::setup::Setup;
use e2e::spread::Spread;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 7;
const COPIES: usize = 8;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let (setup, config) = runtime.block_on(async {
        let setup = Setup::new().await?;
        let stream = format!(
            "[[stream]]\nname = \"orders\"\nsource = {{ type = \"file\", path = \"{}\" }}\nsink = {{ type = \"stdout\" }}\n",
            setup.path("rows").display()
        );
        let config = setup.configure(Duration::from_secs(1), &setup.plain(), &stream)?;
        anyhow::Ok((setup, config))
    })?;
    let rows = Rows::made_up(1_000_000)?;
    let mut file = File::create(setup.path("rows"))?;
    for _ in 0..COPIES {
        file.write_all(rows.text())?;
    }
    let (bytes, events) = (rows.text().len() * COPIES, rows.len() * COPIES);

    let mut tidegate = Command::new(Path::new(env!("CARGO_BIN_EXE_e2e-tidegate")));
    tidegate
        .arg("run")
        .arg("--config")
        .arg(&config)
        .stderr(Stdio::null());
    let mut cat = Command::new("cat");
    cat.arg(setup.path("rows"));
    let (mut ours, mut theirs) = (Spread::default(), Spread::default());
    for _ in 0..RUNS {
        theirs.add(drained(&mut cat, bytes)?);
        ours.add(drained(&mut tidegate, bytes)?);
    }
    println!(
        "{events} events, {bytes} bytes, from the first byte in the pipe to the last, {RUNS} runs in turns"
    );
    for (name, spread) in [("cat", &theirs), ("tidegate", &ours)] {
        let rate = bytes as f64 / spread.median().as_secs_f64() / 1e6;
        println!("{name:9} {spread}   {rate:6.0} MB/s");
    }
    println!(
        "tidegate / cat = {:.2} of its rate; {:.0} ns an event",
        theirs.median().as_secs_f64() / ours.median().as_secs_f64(),
        ours.median().as_nanos() as f64 / events as f64
    );
    Ok(())
}

/// Runs a command, reads all that it writes, and says how long that took from the first byte on.
fn drained(command: &mut Command, bytes: usize) -> Result<Duration> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut from = child.stdout.take().context("its standard output")?;
    let mut piece = vec![0; 1 << 20];
    let mut seen = from.read(&mut piece)?;
    let began = Instant::now();
    loop {
        match from.read(&mut piece)? {
            0 => break,
            n => seen += n,
        }
    }
    let took = began.elapsed();
    ensure!(child.wait()?.success(), "{command:?} failed");
    ensure!(seen == bytes, "{command:?} wrote {seen} of {bytes} bytes");
    Ok(took)
}
