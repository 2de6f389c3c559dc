//! Each broker's source → sink rate beside the plain client's own loop in the same run, what holding costs, and what more
//! processes in one group bring.
//!
//! `cargo bench -p tidegate-runtime --features kafka --bench brokers [-- nats|redis|kafka] [rate|held|group]` needs
//! `nats-server`, `redis-server` and `java` on the path, and the jars of Kafka in `TIDEGATE_KAFKA_JARS` or where
//! `tests/peers/run.sh brokers` puts them; they are started on free ports with their data in a temporary folder. The plain
//! loops read batches, send a whole batch, wait for its answers and acknowledge it: what somebody writes who wants both
//! speed and at-least-once. Rounds are interleaved, and a ratio is the median of the rounds' own.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a measurement stops at the first surprise, and prints"
)]
#[cfg(feature = "kafka")]
mod kafka;
mod member;
mod nats;
mod redis;

use serde_json::{Value, json};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidegate_gate::{Clock, Holds, Moment};
use tidegate_runtime::{StreamConfig, Supervisor, build};

const MESSAGES: usize = 100_000;
const ROUNDS: usize = 5;
const BATCH: usize = 1024;

/// A broker's own process; it ends with this.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    _dir: TempDir,
}

pub(crate) fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub(crate) async fn start(program: &str, args: &[&str]) -> Server {
        let port = free_port();
        let mut command = Command::new(program);
        command.args(args).arg(port.to_string());
        Server::run(command, TempDir::new().unwrap(), port).await
    }

    /// Runs it in a folder, until it listens on that port.
    pub(crate) async fn run(mut command: Command, dir: TempDir, port: u16) -> Server {
        let child = command
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Server {
            child,
            port,
            _dir: dir,
        }
    }
}

pub(crate) fn board() -> Arc<Holds> {
    Holds::new(Clock::new(|| Moment {
        wall: std::time::SystemTime::now(),
        mono: Instant::now(),
    }))
}

/// A stream of these two.
pub(crate) fn stream(source: &Value, sink: &Value) -> StreamConfig {
    serde_json::from_value(json!({ "name": "s", "source": source, "sink": sink })).unwrap()
}

/// Events a second from `source` to `sink` by tidegate in this process, until `done` says that all have arrived.
pub(crate) async fn ours(source: Value, sink: Value, mut done: impl AsyncFnMut() -> usize) -> f64 {
    let holds = board();
    let stream = build(&stream(&source, &sink), &holds, None).unwrap();
    let started = Instant::now();
    let supervisor = Supervisor::spawn(holds, vec![stream]);
    while done().await < MESSAGES {
        // Each look is a request to the server that is being measured.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = started.elapsed();
    supervisor.stop(Duration::from_secs(10)).await;
    MESSAGES as f64 / took.as_secs_f64()
}

/// A number, filled up to a size.
pub(crate) fn payload(number: usize, size: usize) -> String {
    let digits = number.to_string();
    "0".repeat(size - digits.len()) + &digits
}

pub(crate) fn median(of: impl IntoIterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = of.into_iter().collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// What one line of the report says: tidegate's rates beside another's.
pub(crate) fn report(what: &str, plain: &[f64], ours: &[f64]) {
    let ratios = || ours.iter().zip(plain).map(|(ours, plain)| ours / plain);
    println!(
        "{what}: {:.0}/s, tidegate {:.0}/s, ratio {:.2} ({:.2} to {:.2} over {ROUNDS} rounds)",
        median(plain.iter().copied()),
        median(ours.iter().copied()),
        median(ratios()),
        ratios().fold(f64::MAX, f64::min),
        ratios().fold(0.0, f64::max),
    );
}

/// What was asked for on the command line.
pub(crate) struct Asked(Vec<String>);

impl Asked {
    pub(crate) fn for_part(&self, part: &str) -> bool {
        let parts = ["rate", "held", "group"];
        !self.0.iter().any(|word| parts.contains(&word.as_str())) || self.0.iter().any(|word| word == part)
    }

    fn for_broker(&self, broker: &str) -> bool {
        let brokers = ["nats", "redis", "kafka"];
        !self.0.iter().any(|word| brokers.contains(&word.as_str()))
            || self.0.iter().any(|word| word == broker)
    }
}

fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [role, config] = &words[..]
        && let Some(role) = member::Role::of(role)
    {
        return runtime.block_on(member::run(role, config));
    }
    let asked = Asked(words.into_iter().filter(|word| !word.starts_with("--")).collect());
    runtime.block_on(async {
        if asked.for_broker("nats") {
            nats::measure(&asked).await;
        }
        if asked.for_broker("redis") {
            redis::measure(&asked).await;
        }
        #[cfg(feature = "kafka")]
        if asked.for_broker("kafka") {
            kafka::measure(&asked).await;
        }
        #[cfg(not(feature = "kafka"))]
        if asked.for_broker("kafka") {
            println!("kafka: NOT RUN: this is built without the feature kafka");
        }
    });
}
