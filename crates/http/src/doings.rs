//! What a connection is doing, and which of them the listener ends.
use crate::listener::Limits;
use http::Version;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

/// Whoever asks next when it was says that it is now: most heads come whole and most bodies go whole before anybody asks,
/// and reading the clock for each costs as much as counting it.
const JUST: u64 = u64::MAX;

/// What one connection is doing, as seen by its own task, its response bodies and the accept loop.
#[derive(Debug)]
pub(crate) struct Doings {
    pub(crate) accepted: Instant,
    in_flight: AtomicU32,
    served: AtomicBool,
    http2: AtomicBool,
    /// No longer the listener's to close: evicted already, or upgraded.
    gone: AtomicBool,
    /// The listener takes no more, and this connection is to end with what it has in progress.
    stopping: AtomicBool,
    /// Milliseconds since `accepted`.
    idle_since: AtomicU64,
    /// When the first byte of the next request's head came; 0 for not yet, [`JUST`] for a moment ago.
    head_since: AtomicU64,
    /// Response bodies whose last frame was taken and that were not asked for more: the peer reads slowly.
    unread: AtomicU32,
    /// When a response body last moved, or [`JUST`].
    moved: AtomicU64,
    call: Notify,
}

impl Doings {
    pub(crate) fn new() -> Doings {
        Doings {
            accepted: Instant::now(),
            in_flight: AtomicU32::new(0),
            served: AtomicBool::new(false),
            http2: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            unread: AtomicU32::new(0),
            moved: AtomicU64::new(0),
            call: Notify::new(),
        }
    }

    fn now(&self) -> u64 {
        // 584 million years.
        self.accepted.elapsed().as_millis() as u64
    }

    fn at(&self, millis: u64) -> Instant {
        self.accepted + Duration::from_millis(millis)
    }

    /// When something was that was noted as it happened. The connection asks after each time that it has been driven, so
    /// what was a moment ago then is now.
    fn when(&self, noted: &AtomicU64) -> u64 {
        match noted.load(Relaxed) {
            JUST => {
                let now = self.now().max(1);
                noted.store(now, Relaxed);
                now
            }
            then => then,
        }
    }

    /// Bytes came.
    pub(crate) fn heard(&self) {
        if self.in_flight.load(Relaxed) == 0 && self.head_since.load(Relaxed) == 0 {
            self.head_since.store(JUST, Relaxed);
        }
    }

    /// A response's body waits for its peer to read, or has been read.
    pub(crate) fn set_unread(&self, unread: bool) {
        if unread {
            self.moved.store(JUST, Relaxed);
            self.unread.fetch_add(1, Relaxed);
        } else {
            self.unread.fetch_sub(1, Relaxed);
        }
    }

    /// Resolves when the listener wants this connection's place, or stops.
    pub(crate) async fn called(&self) {
        self.call.notified().await;
    }

    /// True before `called` resolves. Asked with each request, where a lock would cost what counting it costs.
    pub(crate) fn is_called(&self) -> bool {
        self.is_gone() || self.stopping.load(Relaxed)
    }

    /// No longer the listener's to close.
    pub(crate) fn leave(&self) {
        self.gone.store(true, Relaxed);
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }

    /// The accept loop's question: since when has nothing been asked of it?
    fn idle(&self) -> Option<Instant> {
        (self.in_flight.load(Relaxed) == 0 && !self.gone.load(Relaxed))
            .then(|| self.at(self.idle_since.load(Relaxed)))
    }

    /// By when something has to happen, and what it is called if it does not.
    pub(crate) fn due(&self, limits: &Limits) -> Option<(Instant, Due)> {
        if self.in_flight.load(Relaxed) > 0 {
            return (self.unread.load(Relaxed) > 0)
                .then(|| (self.at(self.when(&self.moved)) + limits.write_timeout, Due::Write));
        }
        if !self.served.load(Relaxed) {
            return Some((self.accepted + limits.header_timeout, Due::Head));
        }
        match self.head_since.load(Relaxed) {
            // HTTP/2 has frames of its own between requests; keep-alive bounds them.
            since if since > 0 && !self.http2.load(Relaxed) => Some((
                self.at(self.when(&self.head_since)) + limits.header_timeout,
                Due::Head,
            )),
            _ => Some((
                self.at(self.idle_since.load(Relaxed)) + limits.keep_alive,
                Due::KeepAlive,
            )),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Head,
    KeepAlive,
    Write,
}

/// A request from its head to the end of its answer's body.
pub(crate) struct Work(pub(crate) Arc<Doings>);

impl Work {
    pub(crate) fn start(doings: &Arc<Doings>, version: Version) -> Work {
        doings.in_flight.fetch_add(1, Relaxed);
        doings.head_since.store(0, Relaxed);
        doings.served.store(true, Relaxed);
        if version == Version::HTTP_2 {
            doings.http2.store(true, Relaxed);
        }
        Work(doings.clone())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Relaxed);
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// The connections of one listener.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Doings>>>,
}

impl Connections {
    pub(crate) fn add(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> (Place, Arc<Doings>) {
        let id = self.next.fetch_add(1, Relaxed);
        let doings = Arc::new(Doings::new());
        self.open().insert(id, doings.clone());
        let place = Place {
            connections: self.clone(),
            id,
            _permit: permit,
        };
        (place, doings)
    }

    /// Ends the connection that has been idle longest, and for at least `grace`.
    pub(crate) fn evict_one(&self, grace: Duration) {
        let longest = self
            .open()
            .values()
            .filter_map(|c| Some((c.idle()?, c.clone())))
            .min_by_key(|(since, _)| *since);
        if let Some((_, doings)) = longest.filter(|(since, _)| since.elapsed() >= grace) {
            doings.leave();
            doings.call.notify_one();
        }
    }

    /// Has every connection end with what it has in progress.
    pub(crate) fn stop(&self) {
        for doings in self.open().values() {
            doings.stopping.store(true, Relaxed);
            doings.call.notify_one();
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Doings>>> {
        // Nothing inside the lock can panic half way.
        self.open.lock().unwrap_or_else(|p| p.into_inner())
    }
}

/// A connection's place among the listener's; it lives as long as the socket, upgraded or not.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Arc<Connections>,
    id: u64,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open().remove(&self.id);
    }
}
