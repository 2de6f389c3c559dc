//! Streams in processes of their own: this program again, with a role and a stream to run.
use crate::{board, stream};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_gate::{Cause, Controller, Scope, Wish};
use tidegate_runtime::{StreamConfig, Supervisor, build};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// What such a process is for.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    /// It runs the stream until its standard input ends.
    Member,
    /// The same, but nothing passes before a line has come there.
    Waiter,
    /// It runs the stream for a while, and says how much it holds and how far its resident memory has grown.
    Holder,
}

impl Role {
    pub(crate) fn of(word: &str) -> Option<Role> {
        match word {
            "member" => Some(Role::Member),
            "waiter" => Some(Role::Waiter),
            "holder" => Some(Role::Holder),
            _ => None,
        }
    }
}

pub(crate) async fn run(role: Role, config: &str) {
    let config: StreamConfig = serde_json::from_str(config).unwrap();
    let holds = board();
    let stream = build(&config, &holds, None).unwrap();
    let before = resident_kib();
    if matches!(role, Role::Waiter) {
        holds
            .place(&Controller::Api, Scope::All, Wish::default())
            .unwrap();
    }
    let supervisor = Supervisor::spawn(holds.clone(), vec![stream]);
    match role {
        Role::Member | Role::Waiter => {
            if matches!(role, Role::Waiter) {
                let line = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
                let _ = line.await;
                holds
                    .release(&Controller::Api, Scope::All, &Cause::default())
                    .unwrap();
            }
            let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
            let _ = ended.await;
        }
        Role::Holder => {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let held = holds.snapshot().streams[0].held.events;
            println!(
                "{held} held, resident memory grew by {} KiB",
                resident_kib() - before
            );
        }
    }
    supervisor.stop(Duration::from_secs(10)).await;
}

fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

fn spawn(role: &str, source: &Value, sink: &Value) -> Child {
    // As a configuration, not as what it was read into: that cannot be written again.
    let _ = stream(source, sink);
    let config = json!({ "name": "s", "source": source, "sink": sink }).to_string();
    Command::new(std::env::current_exe().unwrap())
        .args([role, &config])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a stream holds whose sink never answers, and what that costs.
pub(crate) async fn held(what: &str, source: Value) {
    let endpoint = endpoint(Duration::MAX).await;
    let sink = json!({ "type": "http", "url": endpoint, "timeout": "1h" });
    let child = spawn("holder", &source, &sink);
    let said = tokio::task::spawn_blocking(|| child.wait_with_output())
        .await
        .unwrap();
    println!(
        "{what}: {}",
        String::from_utf8(said.unwrap().stdout).unwrap().trim()
    );
}

/// How many events a second go through so many processes of one group, until `done` says that all `n` have arrived.
pub(crate) async fn rate(
    processes: usize,
    n: usize,
    source: &Value,
    sink: &Value,
    done: impl AsyncFnMut() -> usize,
) -> f64 {
    let started = Instant::now();
    let members = (0..processes).map(|_| spawn("member", source, sink)).collect();
    until(members, n, started, done).await
}

/// The same where a group shares first: counted from when `shared` says that it has.
#[cfg(feature = "kafka")]
pub(crate) async fn rate_once_shared(
    processes: usize,
    n: usize,
    source: &Value,
    sink: &Value,
    mut shared: impl AsyncFnMut() -> bool,
    done: impl AsyncFnMut() -> usize,
) -> f64 {
    let mut members: Vec<Child> = (0..processes).map(|_| spawn("waiter", source, sink)).collect();
    while !shared().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let started = Instant::now();
    for member in &mut members {
        member.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }
    until(members, n, started, done).await
}

async fn until(
    mut members: Vec<Child>,
    n: usize,
    started: Instant,
    mut done: impl AsyncFnMut() -> usize,
) -> f64 {
    while done().await < n {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = started.elapsed();
    for member in &mut members {
        let _ = member.stdin.take().unwrap().flush();
    }
    for mut member in members {
        let _ = member.wait();
    }
    n as f64 / took.as_secs_f64()
}

/// An HTTP endpoint that answers each request after a while; or never, having read it.
pub(crate) async fn endpoint(delay: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                loop {
                    let mut length = 0;
                    let mut line = String::new();
                    while stream.read_line(&mut line).await.unwrap_or(0) > 2 {
                        let lower = line.to_ascii_lowercase();
                        if let Some(n) = lower.strip_prefix("content-length:") {
                            length = n.trim().parse().unwrap();
                        }
                        line.clear();
                    }
                    if line.is_empty() || stream.read_exact(&mut vec![0; length]).await.is_err() {
                        return;
                    }
                    if delay == Duration::MAX {
                        return std::future::pending().await;
                    }
                    tokio::time::sleep(delay).await;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}
