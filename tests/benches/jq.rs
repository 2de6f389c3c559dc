//! A hosted stream from a file through one jq stage to standard output, against the `jq` program over the same rows with the
//! same expression, run by run in turns. Both write the same bytes, or it fails.
//!
//! ```text
//! cargo bench -p e2e --bench jq
//! ```
#![allow(clippy::print_stdout)] // its output is its purpose
use anyhow::{Context, Result, ensure};
use e2e::rows::Rows;
use e2e::setup::Setup;
use e2e::spread::Spread;
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 5;
const EVENTS: usize = 200_000;
const JQ: &str = "{n, carrier: (.line | split(\",\") | .[6]), late: (.n % 7 > 3)}";

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let (setup, config) = runtime.block_on(async {
        let setup = Setup::new().await?;
        let stream = format!(
            "[[stream]]\nname = \"orders\"\nsource = {{ type = \"file\", path = \"{}\" }}\nsink = {{ type = \"stdout\" }}\n\
             [[stream.stage]]\ntype = \"map\"\njq = '{JQ}'\n",
            setup.path("rows").display()
        );
        let config = setup.configure(Duration::from_secs(1), &setup.plain(), &stream)?;
        anyhow::Ok((setup, config))
    })?;
    let rows = Rows::made_up(EVENTS)?;
    let mut text = String::new();
    for n in 0..rows.len() {
        let line = String::from_utf8_lossy(rows.row(n));
        writeln!(text, "{}", serde_json::json!({ "n": n, "line": line }))?;
    }
    std::fs::write(setup.path("rows"), &text)?;

    let mut tidegate = Command::new(Path::new(env!("CARGO_BIN_EXE_e2e-tidegate")));
    tidegate
        .arg("run")
        .arg("--config")
        .arg(&config)
        .stderr(Stdio::null());
    let mut jq = Command::new("jq");
    jq.arg("-c").arg(JQ).arg(setup.path("rows"));
    let (mut ours, mut theirs) = (Spread::default(), Spread::default());
    for _ in 0..RUNS {
        let (took, bytes) = drained(&mut jq).context("the jq program: install it to compare")?;
        theirs.add(took);
        let (took, of_ours) = drained(&mut tidegate)?;
        ours.add(took);
        ensure!(bytes == of_ours, "tidegate and jq do not write the same bytes");
    }
    println!(
        "{EVENTS} events, {} bytes, from the first byte out to the last, {RUNS} runs in turns",
        text.len()
    );
    for (name, spread) in [("jq", &theirs), ("tidegate", &ours)] {
        let rate = EVENTS as f64 / spread.median().as_secs_f64();
        println!("{name:9} {spread}   {rate:8.0} events/s");
    }
    println!(
        "tidegate / jq = {:.2} of its rate; {:.1} us an event",
        theirs.median().as_secs_f64() / ours.median().as_secs_f64(),
        ours.median().as_secs_f64() * 1e6 / EVENTS as f64
    );
    Ok(())
}

/// Runs a command and reads all that it writes; how long that took from the first byte on.
fn drained(command: &mut Command) -> Result<(Duration, Vec<u8>)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut from = child.stdout.take().context("its standard output")?;
    let mut bytes = vec![0];
    from.read_exact(&mut bytes)?;
    let began = Instant::now();
    from.read_to_end(&mut bytes)?;
    let took = began.elapsed();
    ensure!(child.wait()?.success(), "{command:?} failed");
    Ok((took, bytes))
}
