//! Thousands watch, one flip: when has the last of them been told?
//!
//! ```text
//! cargo bench -p e2e --bench watchers
//! ```
//! The control surface is served in this process, with as many places as there are watchers; the watchers live in a second
//! process (this program again), since one process may not have so many sockets. Both share this machine's processors.
#![allow(clippy::print_stdout)] // its output is its purpose
use anyhow::{Context, Result, bail, ensure};
use e2e::spread::Spread;
use futures_util::FutureExt;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidegate_admin::{Admin, ControlOptions, Hooks, Metrics, Options};
use tidegate_gate::{Cause, Clock, Controller, Holds, Kind, Life, Moment, Scope, Wish};
use tidegate_http::{Address, Limits, Listener};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const FLIPS: usize = 11;
const SIZES: [usize; 3] = [100, 1_000, 10_000];
/// Connections that are opened at a time.
const AT_A_TIME: usize = 200;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match args.iter().position(|a| a == "--watch") {
        Some(at) => {
            let (address, count) = (
                args.get(at + 1).context("address")?,
                args.get(at + 2).context("count")?,
            );
            runtime.block_on(watch(address.parse()?, count.parse()?))
        }
        None => runtime.block_on(async {
            for size in SIZES {
                let spread = flips(size).await?;
                println!("{size:6} watchers: the last one told after   {spread}");
            }
            Ok(())
        }),
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

async fn flips(watchers: usize) -> Result<Spread> {
    let holds = Holds::new(Clock::new(|| Moment {
        wall: SystemTime::now(),
        mono: std::time::Instant::now(),
    }));
    let member = holds.register("orders", Kind::Stream)?;
    member.set_life(Life::Up);
    let options = Options {
        control: ControlOptions {
            max_watchers: watchers + 1,
            ..ControlOptions::default()
        },
        ..Options::default()
    };
    let hooks = Hooks {
        poll: Arc::new(|| async {}.boxed()),
        ..Hooks::default()
    };
    let admin = Admin::new(
        holds.clone(),
        Metrics::new(holds.clone(), "bench"),
        options,
        hooks,
    )?;
    let limits = Limits {
        max_connections: watchers + 64,
        ..Limits::default()
    };
    let any: SocketAddr = "127.0.0.1:0".parse()?;
    let listener = Listener::bind(&Address::Tcp(any), None, limits).await?;
    let address = listener.local().to_string();
    let stop = CancellationToken::new();
    tokio::spawn(listener.serve(admin.control(), stop.clone()));
    tokio::spawn({
        let (admin, stop) = (admin.clone(), stop.clone());
        async move { admin.run(stop).await }
    });

    let mut child = Command::new(std::env::current_exe()?)
        .args(["--watch", &address, &watchers.to_string()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut told = BufReader::new(child.stdout.take().context("its output")?).lines();
    let mut next = async || told.next_line().await?.context("the watchers have ended");
    ensure!(next().await? == "ready", "the watchers are not ready");
    let mut spread = Spread::default();
    for _ in 0..FLIPS {
        // Nothing is being gathered any more from the change before.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let began = now();
        holds.place(&Controller::Api, Scope::All, Wish::default())?;
        let last = Duration::from_nanos(next().await?.parse()?);
        spread.add(last.saturating_sub(began));
        holds.release(&Controller::Api, Scope::All, &Cause::default())?;
        ensure!(
            next().await? == "resumed",
            "the watchers were not told of the resume"
        );
    }
    stop.cancel();
    child.kill().await?;
    Ok(spread)
}

/// Watches `count` times and says when the last watcher was told of each pause.
async fn watch(address: SocketAddr, count: usize) -> Result<()> {
    let (tell, mut told) = mpsc::unbounded_channel();
    for one in 0..count {
        tokio::spawn(reader(address, tell.clone()));
        if one % AT_A_TIME == AT_A_TIME - 1 {
            heard(&mut told, AT_A_TIME, Word::Running).await?;
        }
    }
    heard(&mut told, count % AT_A_TIME, Word::Running).await?;
    println!("ready");
    loop {
        let last = heard(&mut told, count, Word::Paused).await?;
        println!("{}", last.as_nanos());
        heard(&mut told, count, Word::Running).await?;
        println!("resumed");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Running,
    Paused,
}

/// When the last of so many watchers was told.
async fn heard(
    told: &mut mpsc::UnboundedReceiver<(Word, Duration)>,
    count: usize,
    word: Word,
) -> Result<Duration> {
    let mut last = Duration::ZERO;
    for _ in 0..count {
        let (heard, at) = told.recv().await.context("every watch has ended")?;
        ensure!(heard == word, "{heard:?} came before {word:?}");
        last = last.max(at);
    }
    Ok(last)
}

async fn reader(address: SocketAddr, tell: mpsc::UnboundedSender<(Word, Duration)>) -> Result<()> {
    let mut socket = TcpStream::connect(address).await?;
    socket
        .write_all(format!("GET /watch HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())
        .await?;
    let (mut piece, mut kept) = (vec![0; 8192], Vec::new());
    let mut last = None;
    loop {
        let n = socket.read(&mut piece).await?;
        let at = now();
        if n == 0 {
            bail!("the watch has ended");
        }
        // Events may be cut anywhere; the state of a stream stands in one of them.
        kept.extend_from_slice(&piece[..n]);
        let find = |word: &[u8]| kept.windows(word.len()).rposition(|w| w == word);
        let (running, paused) = (find(b"\"state\":\"running\""), find(b"\"state\":\"paused\""));
        let word = match (running, paused) {
            (None, None) => continue,
            (running, paused) if running > paused => Word::Running,
            _ => Word::Paused,
        };
        kept.clear();
        if last.replace(word) != Some(word) {
            tell.send((word, at))?;
        }
    }
}
