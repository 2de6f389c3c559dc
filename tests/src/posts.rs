//! An HTTP endpoint that fails at random, what it saw, and the verdict over it.
use anyhow::{Context, Result};
use serde_json::Value;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the endpoint did with one request. Whoever posts sees a failure in all but the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    /// Took the rows, and said so.
    Took,
    /// Took nothing, and answered 500 or 503.
    Refused,
    /// Took nothing, and reset the connection.
    Reset,
    /// Took the rows, and reset the connection before it could say so.
    TookAndReset,
    /// Took the rows, and never answered.
    TookAndHung,
}

impl Did {
    fn took(self) -> bool {
        matches!(self, Did::Took | Did::TookAndReset | Did::TookAndHung)
    }
}

/// One request that arrived whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// Its `Idempotency-Key`.
    pub key: String,
    /// The numbers of its rows.
    pub rows: Vec<usize>,
    /// What became of it.
    pub did: Did,
}

/// A listener that takes NDJSON lines with a number in `row`.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    posts: Arc<Mutex<Vec<Post>>>,
    count: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Endpoint {
    /// Starts on a free port. `failing` in 100 requests fail, as a generator with this seed has it.
    ///
    /// # Errors
    /// If nothing can be listened on.
    pub async fn start(failing: u32, seed: u64) -> Result<Endpoint> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let posts = Arc::new(Mutex::new(Vec::new()));
        let (tell, count) = watch::channel(0);
        let desk = Arc::new(Desk {
            posts: posts.clone(),
            tell,
            dice: Mutex::new(Dice { failing, state: seed }),
        });
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let desk = desk.clone();
                // A connection that breaks is what this is about.
                tokio::spawn(async move { serve(stream, &desk).await.ok() });
            }
        });
        Ok(Endpoint {
            address,
            posts,
            count,
            task,
        })
    }

    /// Where to post.
    pub fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    /// What arrived so far, in order.
    pub fn posts(&self) -> Vec<Post> {
        unpoisoned(&self.posts).clone()
    }

    /// How many requests arrived so far.
    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Waits until so many have arrived.
    ///
    /// # Errors
    /// If they do not within [`crate::PATIENCE`].
    pub async fn reached(&self, count: usize) -> Result<()> {
        let mut arrived = self.count.clone();
        let reached = tokio::time::timeout(crate::PATIENCE, arrived.wait_for(|n| *n >= count)).await;
        reached.with_context(|| format!("waited in vain for request {count}"))??;
        Ok(())
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Desk {
    posts: Arc<Mutex<Vec<Post>>>,
    tell: watch::Sender<usize>,
    dice: Mutex<Dice>,
}

struct Dice {
    failing: u32,
    state: u64,
}

impl Dice {
    /// A linear congruential generator: what fails is the same in each run.
    fn next(&mut self, below: u32) -> u32 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        // The upper half of the product is less than the factor.
        (((self.state >> 33) * u64::from(below)) >> 31) as u32
    }

    fn throw(&mut self) -> Did {
        if self.next(100) >= self.failing {
            return Did::Took;
        }
        match self.next(10) {
            0..4 => Did::Refused,
            4..6 => Did::Reset,
            6..9 => Did::TookAndReset,
            _ => Did::TookAndHung,
        }
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A list and a number are whole whatever happened to whoever held them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(stream: TcpStream, desk: &Desk) -> Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some((key, rows)) = request(&mut stream).await? {
        let did = unpoisoned(&desk.dice).throw();
        let count = {
            let mut posts = unpoisoned(&desk.posts);
            posts.push(Post { key, rows, did });
            posts.len()
        };
        desk.tell.send_modify(|told| *told = count.max(*told));
        match did {
            Did::Took => answer(&mut stream, "200 OK").await?,
            Did::Refused if count % 2 == 0 => answer(&mut stream, "500 Internal Server Error").await?,
            Did::Refused => answer(&mut stream, "503 Service Unavailable").await?,
            Did::Reset | Did::TookAndReset => {
                // Closed with unsent data dropped: a reset, not an end.
                stream.get_ref().set_zero_linger()?;
                return Ok(());
            }
            Did::TookAndHung => {
                // Until whoever posts gives up.
                let mut rest = [0];
                while stream.read(&mut rest).await? > 0 {}
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn request(stream: &mut BufReader<TcpStream>) -> Result<Option<(String, Vec<usize>)>> {
    let (mut length, mut key) = (0, String::new());
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse()?,
            "idempotency-key" => value.trim().clone_into(&mut key),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let rows = body.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let rows: Result<Vec<usize>> = rows
        .map(|line| {
            let event: Value = serde_json::from_slice(line)?;
            let row = event["row"].as_u64().context("an event without a row")?;
            Ok(usize::try_from(row)?)
        })
        .collect();
    Ok(Some((key, rows?)))
}

async fn answer(stream: &mut BufReader<TcpStream>, status: &str) -> Result<()> {
    let text = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    Ok(stream.write_all(text.as_bytes()).await?)
}

/// One pause, as it was seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Still {
    /// How many requests had arrived when `/status` said `paused`.
    pub at_paused: usize,
    /// The same just before the flag was written that ends it.
    pub before_resume: usize,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Requests arrived between `paused` and the resume.
    Moved {
        /// Which pause, counted from 0.
        pause: usize,
        /// How many.
        posts: usize,
    },
    /// No request with this row was answered with success.
    Missing {
        /// Its number.
        row: usize,
    },
    /// The row came again though no attempt with it had failed since.
    Again {
        /// Its number.
        row: usize,
    },
    /// An attempt was repeated under another key.
    Key {
        /// The number of the row that it began with.
        row: usize,
    },
    /// There is no such row.
    Foreign {
        /// Its number.
        row: usize,
    },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Moved { pause, posts } => {
                write!(
                    f,
                    "{posts} requests arrived in pause {pause}, after it was proven"
                )
            }
            Wrong::Missing { row } => write!(f, "row {row} was never taken with success"),
            Wrong::Again { row } => write!(f, "row {row} came again, and no attempt with it had failed"),
            Wrong::Key { row } => write!(f, "the attempt from row {row} was repeated under another key"),
            Wrong::Foreign { row } => write!(f, "there is no row {row}"),
        }
    }
}

impl std::error::Error for Wrong {}

/// What failures brought again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repeats {
    /// Requests that failed.
    pub failed: usize,
    /// Rows that the endpoint took more than once.
    pub rows: usize,
}

/// Judges what arrived: each of `rows` rows at least once, at most once where no attempt with it failed, none in a pause.
///
/// # Errors
/// The first [`Wrong`].
pub fn judge(rows: usize, posts: &[Post], stills: &[Still]) -> Result<Repeats, Wrong> {
    for (pause, still) in stills.iter().enumerate() {
        if still.at_paused != still.before_resume {
            return Err(Wrong::Moved {
                pause,
                posts: still.before_resume.abs_diff(still.at_paused),
            });
        }
    }
    // Of each row: how often it was taken, and whether the last attempt with it succeeded.
    let mut taken = vec![0_usize; rows];
    let mut done = vec![false; rows];
    let mut keys: Vec<Option<&str>> = vec![None; rows];
    let mut repeats = Repeats::default();
    for post in posts {
        repeats.failed += usize::from(post.did != Did::Took);
        for (n, &row) in post.rows.iter().enumerate() {
            if row >= rows {
                return Err(Wrong::Foreign { row });
            }
            if done[row] {
                return Err(Wrong::Again { row });
            }
            if n == 0
                && keys[row]
                    .replace(&post.key)
                    .is_some_and(|before| before != post.key)
            {
                return Err(Wrong::Key { row });
            }
            taken[row] += usize::from(post.did.took());
            done[row] = post.did == Did::Took;
        }
    }
    if let Some(row) = done.iter().position(|done| !done) {
        return Err(Wrong::Missing { row });
    }
    repeats.rows = taken.iter().filter(|taken| **taken > 1).count();
    Ok(repeats)
}
