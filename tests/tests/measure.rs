//! The short version of what `tests/benches/memory.rs` measures, and the checks that the measurements rely on.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
use e2e::flatness::{SLACK_KIB, growth_kib, is_flat};
use e2e::rows::Rows;
use e2e::setup::Setup;
use e2e::sidecar::Sidecar;
use e2e::spread::Spread;
use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tidegate_runtime::Limits;
use tokio::process::Command;

/// What stands in the pipe, in one read and in half a line, beside what is held.
const UNDER_WAY: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_stays_bounded_however_much_stands_behind_the_gate() {
    let most = Limits::default();
    let (events, bytes) = (most.events as u64, most.bytes as u64 + UNDER_WAY);
    let setup = Setup::new().await.unwrap();
    let out = setup.path("pipe.out");
    let stream = format!(
        "[[stream]]\nname = \"pipe\"\nsource = {{ type = \"stdin\" }}\nsink = {{ type = \"file\", path = \"{}\" }}\n",
        out.display()
    );
    let config = setup
        .configure(Duration::from_millis(100), &setup.plain(), &stream)
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_e2e-tidegate"));
    let (reader, mut pipe) = std::io::pipe().unwrap();
    command
        .arg("run")
        .arg("--config")
        .arg(&config)
        .stdin(reader)
        .stdout(Stdio::null());
    let sidecar = Sidecar::from(command).unwrap();

    // More than anybody may hold, in pieces, so that the count is close to what the pipe has taken.
    let offered = Arc::new(AtomicU64::new(0));
    let rows = Rows::made_up(10_000).unwrap();
    let counter = offered.clone();
    std::thread::spawn(move || {
        for piece in std::iter::repeat(rows.text()).flat_map(|text| text.chunks(4096)) {
            // The pipe closes with the process.
            if pipe.write_all(piece).is_err() {
                return;
            }
            counter.fetch_add(piece.len() as u64, Relaxed);
        }
    });

    let written = || std::fs::metadata(&out).map_or(0, |m| m.len());
    let polls = async |more| {
        let path = setup.flag.api_path();
        let seen = setup.store.requests().count(path);
        let reached = setup.store.requests().reached(path, seen + more);
        tokio::time::timeout(e2e::PATIENCE, reached).await.unwrap();
    };
    for _ in 0..3 {
        let moving = written();
        e2e::until("events move", || written() > moving + bytes)
            .await
            .unwrap();
        setup.flag.write(true).await.unwrap();
        sidecar.becomes("pipe", "paused").await.unwrap();
        polls(3).await;
        let told = sidecar.stream("pipe").await.unwrap();
        assert_eq!(told["state"], "paused");
        assert_eq!(told["in_flight"], 0);
        assert!(told["held"].as_u64().unwrap() <= events, "{told}");
        let taken = offered.load(Relaxed) - written();
        assert!(taken <= bytes, "{taken} bytes were taken and not written");
        setup.flag.write(false).await.unwrap();
        sidecar.becomes("pipe", "running").await.unwrap();
    }
}

#[test]
fn memory_that_grows_is_told_from_memory_that_is_flat() {
    let noise = |n: u64| n * 7919 % 300;
    let flat: Vec<u64> = (0..600).map(|n| 9000 + noise(n)).collect();
    let settles: Vec<u64> = (0..600).map(|n| 9000 + 40 * n.min(100)).collect();
    // Ten bytes for each of two thousand events a second, over ten minutes.
    let leaks: Vec<u64> = (0..600).map(|n| 9000 + noise(n) + n * 20_000 / 1024).collect();
    assert!(is_flat(&flat), "{}", growth_kib(&flat));
    assert!(is_flat(&settles), "{}", growth_kib(&settles));
    assert!(!is_flat(&leaks), "{}", growth_kib(&leaks));
    assert!(growth_kib(&leaks) > SLACK_KIB);
}

#[test]
fn a_spread_knows_its_middle_and_its_end() {
    let mut spread = Spread::default();
    for n in (1..=100).rev() {
        spread.add(Duration::from_millis(n));
    }
    assert_eq!(spread.median(), Duration::from_millis(50));
    assert_eq!(spread.at(0.99), Duration::from_millis(99));
    assert_eq!(spread.max(), Duration::from_millis(100));
    assert_eq!(Spread::default().median(), Duration::ZERO);
}
