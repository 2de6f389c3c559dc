//! What moves: rows that are appended, events that are posted, requests, and the app behind the gate.
use anyhow::{Context, Result, bail};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

const TICK: Duration = Duration::from_millis(50);
/// Requests on one connection before the next is opened.
const PER_CONNECTION: usize = 10;

/// Counts of one kind of work.
#[derive(Clone, Default)]
pub(crate) struct Done(Arc<AtomicU64>);

impl Done {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(SeqCst)
    }

    fn add(&self, n: u64) {
        self.0.fetch_add(n, SeqCst);
    }
}

/// Appends so many rows to each file with every tick; counts those that each of them has. Number `gap` is left out.
pub(crate) fn append(paths: Vec<PathBuf>, per_tick: u64, gap: Option<u64>) -> Result<Done> {
    let open = |path: &PathBuf| OpenOptions::new().create(true).append(true).open(path);
    let mut files = paths.iter().map(open).collect::<std::io::Result<Vec<_>>>()?;
    let written = Done::default();
    let count = written.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let from = count.get();
            let rows: String = (from..from + per_tick)
                .filter(|n| Some(*n) != gap)
                .map(row)
                .collect();
            for file in &mut files {
                // A few hundred bytes into the page cache. The folder goes when the soak ends, and this with it.
                if file.write_all(rows.as_bytes()).is_err() {
                    return;
                }
            }
            count.add(per_tick);
        }
    });
    Ok(written)
}

fn row(n: u64) -> String {
    format!(
        "{{\"n\":{n},\"at\":\"2013-01-01T05:17:00\",\"carrier\":\"UA\",\"from\":\"EWR\",\"to\":\"IAH\"}}\n"
    )
}

/// Posts `{"n":0}`, `{"n":1}`, … to a socket: each until it is answered 200, then the next. Counts those.
pub(crate) fn post(socket: PathBuf) -> Done {
    let stored = Done::default();
    let count = stored.clone();
    tokio::spawn(async move {
        let mut caller = Caller::new(socket);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let body = format!("{{\"n\":{}}}", count.get());
            let request = format!(
                "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            // Before it listens and after it has gone nobody answers.
            if let Ok(200) = caller.ask(&request).await {
                count.add(1);
            }
        }
    });
    stored
}

/// Sends requests through a gate, one after the other. Counts those that were answered 200.
pub(crate) fn request(socket: PathBuf) -> Done {
    let served = Done::default();
    let count = served.clone();
    tokio::spawn(async move {
        let mut caller = Caller::new(socket);
        let mut ticks = tokio::time::interval(TICK * 2);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let asked = caller
                .ask("GET /orders HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .await;
            if let Ok(200) = asked {
                count.add(1);
            }
        }
    });
    served
}

/// The app behind the gate; counts the requests that reach it.
pub(crate) async fn app() -> Result<(String, Done)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let reached = Done::default();
    let count = reached.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let (mut kept, mut piece) = (Vec::new(), [0; 4096]);
                while let Ok(read @ 1..) = socket.read(&mut piece).await {
                    kept.extend_from_slice(&piece[..read]);
                    while let Some(end) = end_of_head(&kept) {
                        kept.drain(..end);
                        count.add(1);
                        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                        if socket.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    Ok((url, reached))
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

/// One who asks over a socket of the file system, a few times per connection.
struct Caller {
    socket: PathBuf,
    open: Option<(UnixStream, usize)>,
}

impl Caller {
    fn new(socket: PathBuf) -> Caller {
        Caller { socket, open: None }
    }

    /// The status of the answer.
    async fn ask(&mut self, request: &str) -> Result<u16> {
        let (mut stream, asked) = match self.open.take() {
            Some(open) => open,
            None => (connect(&self.socket).await?, 0),
        };
        stream.write_all(request.as_bytes()).await?;
        let (mut kept, mut piece) = (Vec::new(), [0; 4096]);
        let head = loop {
            if let Some(end) = end_of_head(&kept) {
                break end;
            }
            match stream.read(&mut piece).await? {
                0 => bail!("no answer"),
                read => kept.extend_from_slice(&piece[..read]),
            }
        };
        let text = String::from_utf8_lossy(&kept[..head]).to_ascii_lowercase();
        let status = text.split(' ').nth(1).context("a status")?.parse()?;
        let length: usize = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .map_or(Ok(0), |length| length.trim().parse())?;
        while kept.len() < head + length {
            match stream.read(&mut piece).await? {
                0 => bail!("half an answer"),
                read => kept.extend_from_slice(&piece[..read]),
            }
        }
        if asked + 1 < PER_CONNECTION && !text.contains("connection: close") {
            self.open = Some((stream, asked + 1));
        }
        Ok(status)
    }
}

async fn connect(socket: &Path) -> Result<UnixStream> {
    Ok(UnixStream::connect(socket).await?)
}
