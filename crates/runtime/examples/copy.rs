//! Copies lines from a file or standard input to a file or standard output, with a pause button: SIGUSR1 pauses,
//! SIGUSR2 resumes, SIGTERM stops.
//!
//! ```text
//! cargo run --example copy -- FROM TO [STATE_DIR]      "-" is standard input or output; +FROM follows the file
//! ```
//! Each change of the state is a line on standard error. Exit 75: something was read and not written.
#![allow(clippy::print_stderr)] // a program for people
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use tidegate_gate::{Cause, Clock, Controller, Holds, Moment, Scope, Wish};
use tidegate_runtime::{Outcome, StateDir, StreamConfig, Supervisor, build, herald};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (from, to) = (
        args.next().ok_or("FROM is missing")?,
        args.next().ok_or("TO is missing")?,
    );
    let state = args.next().map(StateDir::open).transpose()?;
    let source = match (from.as_str(), from.strip_prefix('+')) {
        ("-", _) => serde_json::json!({"type": "stdin"}),
        (_, Some(path)) => serde_json::json!({"type": "file", "path": path, "follow": true}),
        (path, None) => serde_json::json!({"type": "file", "path": path}),
    };
    let sink = match to.as_str() {
        "-" => serde_json::json!({"type": "stdout"}),
        path => serde_json::json!({"type": "file", "path": path}),
    };
    let config: StreamConfig =
        serde_json::from_value(serde_json::json!({"name": "copy", "source": source, "sink": sink}))?;

    let holds = Holds::new(Clock::new(|| Moment {
        wall: SystemTime::now(),
        mono: std::time::Instant::now(),
    }));
    let stream = build(&config, &holds, state.as_ref())?;
    let (mut pause, mut resume, mut term) = (
        signal(SignalKind::user_defined1())?,
        signal(SignalKind::user_defined2())?,
        signal(SignalKind::terminate())?,
    );
    tokio::spawn(herald(holds.clone(), CancellationToken::new()));
    let mut changes = holds.watch();
    let supervisor = Supervisor::spawn(holds.clone(), vec![stream]);
    let mut last = None;
    loop {
        tokio::select! {
            _ = pause.recv() => { holds.place(&Controller::Api, Scope::All, Wish::default())?; }
            _ = resume.recv() => { holds.release(&Controller::Api, Scope::All, &Cause::default())?; }
            _ = term.recv() => break,
            () = supervisor.all_ended() => break,
            _ = changes.changed() => {
                let state = changes.borrow_and_update().streams[0].state;
                if last.replace(state) != Some(state) {
                    eprintln!("{}", state.word());
                }
            }
        }
    }
    let reports = supervisor.stop(Duration::from_secs(25)).await;
    let unreturned: u64 = reports.iter().map(|r| r.unreturned).sum();
    for report in &reports {
        eprintln!(
            "{:?}, {} given back, {} lost",
            report.outcome, report.given_back, report.unreturned
        );
    }
    let failed = reports
        .iter()
        .any(|r| matches!(r.outcome, Outcome::Failed(_) | Outcome::CutShort));
    Ok(match (unreturned, failed) {
        (0, false) => ExitCode::SUCCESS,
        (0, true) => ExitCode::FAILURE,
        (_, _) => ExitCode::from(75),
    })
}
