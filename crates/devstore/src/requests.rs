//! What was asked of the store: so that a test can say "one request per poll", and wait for one instead of sleeping.
use http::Method;
use jiff::Timestamp;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// The last requests are kept in full, this many; the counters go on.
const KEPT: usize = 10_000;

/// More different paths than this are counted together, under `…`: the log never grows without bound.
const COUNTED_PATHS: usize = 10_000;
const THE_REST: &str = "…";

/// Which listener was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The Vault listener.
    Vault,
    /// The Key Vault listener, with the authority.
    KeyVault,
    /// The listener of managed identities.
    ManagedIdentity,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Vault => "Vault",
            Side::KeyVault => "Key Vault",
            Side::ManagedIdentity => "managed identity",
        })
    }
}

/// One request. No header, no token and no body is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Counts up from 1 over both stores, and goes on over [`Requests::clear`].
    pub number: u64,
    /// When it had been read, by the store's clock.
    pub at: Timestamp,
    /// Whom it asked.
    pub side: Side,
    /// GET, LIST, …
    pub method: Method,
    /// The decoded path.
    pub path: String,
    /// The query as sent, empty when there was none.
    pub query: String,
    /// Whose token was presented, when there is such a token: in Vault its accessor, in Key Vault the client id. Both name
    /// somebody and open nothing.
    pub accessor: Option<String>,
    /// `X-Vault-Namespace`.
    pub namespace: Option<String>,
    /// What was answered; `None` while it is being handled, and for good when the connection was broken instead.
    pub status: Option<u16>,
    /// The faults that it met.
    pub faults: Vec<&'static str>,
}

/// The log of requests. Clones share it.
#[derive(Clone)]
pub struct Requests(Arc<Shared>);

struct Shared {
    log: Mutex<Log>,
    total: watch::Sender<u64>,
}

#[derive(Default)]
struct Log {
    numbers: u64,
    last: VecDeque<Seen>,
    by_path: HashMap<String, u64>,
}

impl Requests {
    pub(crate) fn new() -> Requests {
        Requests(Arc::new(Shared {
            log: Mutex::default(),
            total: watch::Sender::new(0),
        }))
    }

    /// All requests since the start, or since [`clear`](Requests::clear).
    pub fn total(&self) -> u64 {
        self.log().by_path.values().sum()
    }

    /// Requests for exactly this path, whatever the method and the query.
    pub fn count(&self, path: &str) -> u64 {
        self.log().by_path.get(path).copied().unwrap_or(0)
    }

    /// Requests for paths that start with this.
    pub fn count_under(&self, prefix: &str) -> u64 {
        self.log()
            .by_path
            .iter()
            .filter(|(path, _)| path.starts_with(prefix))
            .map(|(_, count)| count)
            .sum()
    }

    /// The last 10,000 requests, oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        self.log().last.iter().cloned().collect()
    }

    /// Returns once this path has been asked for at least so often (see [`count`](Requests::count)); at once when it has.
    /// Cancel safe. It waits for ever when nobody asks: put a timeout around it.
    pub async fn reached(&self, path: &str, count: u64) {
        let mut total = self.0.total.subscribe();
        while self.count(path) < count {
            // The sender lives in self: it cannot close while this waits.
            if total.changed().await.is_err() {
                return;
            }
        }
    }

    /// Forgets what was seen and sets the counters to zero; the numbers go on.
    pub fn clear(&self) {
        let mut log = self.log();
        log.last.clear();
        log.by_path.clear();
    }

    pub(crate) fn arrived(&self, mut seen: Seen) -> u64 {
        let mut log = self.log();
        log.numbers += 1;
        seen.number = log.numbers;
        let number = seen.number;
        let known = log.by_path.contains_key(&seen.path);
        let key = if known || log.by_path.len() < COUNTED_PATHS {
            seen.path.clone()
        } else {
            THE_REST.to_owned()
        };
        *log.by_path.entry(key).or_default() += 1;
        if log.last.len() == KEPT {
            log.last.pop_front();
        }
        log.last.push_back(seen);
        drop(log);
        // After the counters: a waiter that this wakes finds them right.
        self.0.total.send_modify(|total| *total += 1);
        number
    }

    pub(crate) fn answered(&self, number: u64, status: u16, accessor: Option<String>) {
        let mut log = self.log();
        if let Some(seen) = log.last.iter_mut().rev().find(|seen| seen.number == number) {
            seen.status = Some(status);
            seen.accessor = accessor;
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // The log is consistent between any two statements: a panic elsewhere does not make it wrong.
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Requests({})", self.total())
    }
}
