//! Events in memory: for embedders that feed a stream by hand, and for tests.
use crate::event::{Batch, Event, Fetched, Settle, SettleError, Sink, SinkError, Source, SourceError, Token};
use crate::hold::Demand;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use tidegate_gate::Name;
use tokio::sync::watch;

/// Events of one fetch.
const FETCH: usize = 1024;

/// The hand that feeds a [`MemorySource`]. Cloned hands feed the same one; when the last is dropped, the source
/// ends after what it has.
#[derive(Clone, Debug)]
pub struct Feeder {
    shared: Arc<Shared>,
    open: Arc<watch::Sender<bool>>,
}

/// A source of events that were put into it. Unbounded before [`Feeder::send`] is; what was not acknowledged comes
/// again when it is opened anew, and what is given back comes first.
#[derive(Debug)]
pub struct MemorySource {
    shared: Arc<Shared>,
    fed: watch::Receiver<bool>,
    settle: MemorySettle,
}

/// The other handle of a [`MemorySource`].
#[derive(Clone, Debug)]
pub struct MemorySettle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    capacity: usize,
    inner: Mutex<Inner>,
    acked: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    epoch: u32,
    /// Unacknowledged events, oldest first; the first `out` of them are handed out.
    events: VecDeque<Bytes>,
    out: usize,
    /// The position of the first of `events`.
    first: u64,
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No critical section below can panic half way.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A memory source that takes `capacity` events that nobody has acknowledged, and its feeder.
pub fn memory(capacity: usize) -> (Feeder, MemorySource) {
    let shared = Arc::new(Shared {
        capacity: capacity.max(1),
        inner: Mutex::default(),
        acked: watch::channel(0).0,
    });
    let (open, fed) = watch::channel(true);
    let feeder = Feeder {
        shared: shared.clone(),
        open: Arc::new(open),
    };
    let settle = MemorySettle(shared.clone());
    (feeder, MemorySource { shared, fed, settle })
}

impl Feeder {
    /// Puts an event in, waiting while as many as fit are unacknowledged. Cancel-safe.
    pub async fn send(&self, payload: impl Into<Bytes>) {
        let mut payload = Some(payload.into());
        let mut acked = self.shared.acked.subscribe();
        loop {
            {
                let mut inner = self.shared.inner();
                if inner.events.len() < self.shared.capacity {
                    inner.events.extend(payload.take());
                    break;
                }
            }
            // The sender lives in self.
            let _ = acked.changed().await;
        }
        self.open.send_modify(|_| {});
    }

    /// How many events were acknowledged so far, and a wake-up whenever it grows.
    pub fn acked(&self) -> watch::Receiver<u64> {
        self.shared.acked.subscribe()
    }
}

impl Source for MemorySource {
    type Settle = MemorySettle;

    fn describe(&self) -> Name {
        "memory".into()
    }

    fn settle(&self) -> MemorySettle {
        self.settle.clone()
    }

    async fn open(&mut self, epoch: u32) -> Result<(), SourceError> {
        let mut inner = self.shared.inner();
        inner.epoch = epoch;
        inner.out = 0;
        Ok(())
    }

    async fn fetch(&mut self, demand: &Demand, into: &mut Batch) -> Result<Fetched, SourceError> {
        loop {
            let Some(ask) = demand.wanted().await else {
                return Ok(Fetched::End);
            };
            // Marked as seen before the look: what is fed between the two wakes us.
            let fed = self.fed.has_changed();
            self.fed.mark_unchanged();
            {
                let mut inner = self.shared.inner();
                let (epoch, first) = (inner.epoch, inner.first);
                let from = inner.out;
                let most = inner.events.len().min(from + ask.events.min(FETCH));
                let mut to = from;
                while to < most && into.bytes < ask.bytes {
                    into.push(Event {
                        payload: inner.events[to].clone(),
                        key: None,
                        token: Token {
                            epoch,
                            partition: 0,
                            position: u128::from(first) + to as u128,
                            part: 0,
                        },
                    });
                    to += 1;
                }
                inner.out = to;
            }
            drop(ask);
            if !into.is_empty() {
                return Ok(Fetched::Events);
            }
            if fed.is_err() {
                return Ok(Fetched::End);
            }
            tokio::select! {
                _ = self.fed.changed() => {}
                () = demand.stopping() => return Ok(Fetched::End),
            }
        }
    }
}

impl Settle for MemorySettle {
    async fn ack(&self, done: &[Token]) -> Result<(), SettleError> {
        let mut inner = self.0.inner();
        let Some(last) = done.iter().rev().find(|t| t.epoch == inner.epoch) else {
            return Ok(());
        };
        let after = u64::try_from(last.position).unwrap_or(u64::MAX).saturating_add(1);
        while inner.first < after && inner.out > 0 {
            inner.events.pop_front();
            inner.first += 1;
            inner.out -= 1;
        }
        let acked = inner.first;
        drop(inner);
        self.0.acked.send_replace(acked);
        Ok(())
    }

    async fn give_back(&self, held: &[Token]) -> Result<(), SettleError> {
        let mut inner = self.0.inner();
        if let Some(oldest) = held
            .iter()
            .filter(|t| t.epoch == inner.epoch)
            .map(|t| t.position)
            .min()
        {
            let keep = u64::try_from(oldest)
                .unwrap_or(u64::MAX)
                .saturating_sub(inner.first);
            inner.out = inner.out.min(usize::try_from(keep).unwrap_or(usize::MAX));
        }
        Ok(())
    }
}

/// A sink that remembers everything. Clones share what they remember; unbounded, so for tests and short lives.
#[derive(Clone, Debug, Default)]
pub struct MemorySink {
    seen: Arc<Mutex<Vec<Event>>>,
    count: Arc<watch::Sender<usize>>,
}

impl MemorySink {
    /// An empty one.
    pub fn new() -> MemorySink {
        MemorySink::default()
    }

    /// Everything so far, in order.
    pub fn events(&self) -> Vec<Event> {
        self.seen().clone()
    }

    /// How many events so far, and a wake-up whenever it grows.
    pub fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Event>> {
        // Extending a vector leaves it whole at each step.
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Sink for MemorySink {
    fn describe(&self) -> Name {
        "memory".into()
    }

    async fn write(&mut self, events: &[Event]) -> Result<(), SinkError> {
        let count = {
            let mut seen = self.seen();
            seen.extend_from_slice(events);
            seen.len()
        };
        self.count.send_replace(count);
        Ok(())
    }
}
