//! The bounded hold between a source and the gate, and the demand that keeps it bounded.
use crate::event::{Batch, Token};
use crate::pace::Pace;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;
use tidegate_gate::{Held, Member, Unit};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// How much a stream may hold before its gate. One fetch may overshoot the bytes by what it brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Events fetched and not acknowledged.
    pub events: usize,
    /// Bytes of their payloads.
    pub bytes: usize,
    /// How fast they pass for a while after a resume; `None`: as fast as it goes.
    pub pace: Option<Pace>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            events: 8192,
            bytes: 4 << 20,
            pace: None,
        }
    }
}

/// Recycled batches that are kept for the next fetch.
const SPARE: usize = 4;

pub(crate) struct Hold {
    member: Member,
    limits: Limits,
    quit: CancellationToken,
    /// For whoever has to say what was lost when the driver is gone.
    unfinished: Arc<AtomicU64>,
    inner: Mutex<Inner>,
    filled: Notify,
    room: Notify,
    turns: watch::Sender<Turn>,
    caught_up: watch::Sender<u32>,
}

/// What the lane has to look at besides batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Which opening of the source is current.
    pub(crate) epoch: u32,
    /// How often the source has lost events that are held.
    pub(crate) losses: u32,
    /// How often what is held was to be given back.
    pub(crate) parks: u32,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<(Batch, Instant)>,
    events: usize,
    bytes: usize,
    /// What the lane has taken and not finished: it takes room whether it is in flight or held.
    lane_events: usize,
    lane_bytes: usize,
    /// How much of that is held rather than in flight.
    lane_held: usize,
    lane_since: Option<Instant>,
    /// How much of what is held has met a stage: it cannot be given back as it came.
    lane_met: usize,
    lease_ends: Option<Instant>,
    /// The lane was asked to give back what is held, and has not yet.
    parking: bool,
    parked: bool,
    ended: bool,
    spare: Vec<Batch>,
}

impl Hold {
    pub(crate) fn new(
        member: Member,
        limits: Limits,
        quit: CancellationToken,
        unfinished: Arc<AtomicU64>,
    ) -> Hold {
        Hold {
            member,
            limits,
            quit,
            unfinished,
            inner: Mutex::default(),
            filled: Notify::new(),
            room: Notify::new(),
            turns: watch::channel(Turn::default()).0,
            caught_up: watch::channel(0).0,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No critical section below can panic half way.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn member(&self) -> &Member {
        &self.member
    }

    /// How fast events pass for a while after a resume.
    pub(crate) fn pace(&self) -> Option<Pace> {
        self.limits.pace
    }

    // ---- the pump's side

    /// The next opening of the source: everything from before is the source's again.
    pub(crate) fn next_epoch(&self) -> u32 {
        let mut inner = self.inner();
        inner.queue.clear();
        inner.events = 0;
        inner.bytes = 0;
        self.publish(&inner);
        drop(inner);
        self.turns.send_modify(|turn| turn.epoch += 1);
        self.turn().epoch
    }

    /// Resolves when the lane has dropped what came before `epoch`, so that a source that goes back to its last
    /// acknowledgement does not hand out what is just being written.
    pub(crate) async fn lane_caught_up(&self, epoch: u32) {
        let mut seen = self.caught_up.subscribe();
        // The sender lives in self.
        let _ = seen.wait_for(|e| *e >= epoch).await;
    }

    pub(crate) fn spare(&self) -> Batch {
        self.inner().spare.pop().unwrap_or_default()
    }

    pub(crate) fn recycle(&self, mut batch: Batch) {
        batch.clear();
        let mut inner = self.inner();
        if inner.spare.len() < SPARE {
            inner.spare.push(batch);
        }
    }

    pub(crate) fn push(&self, mut batch: Batch) {
        if batch.is_empty() {
            return self.recycle(batch);
        }
        let now = self.member.now().mono;
        let mut inner = self.inner();
        inner.events += batch.events.len();
        inner.bytes += batch.bytes;
        // What arrives in drops while an attempt is under way goes together in the next one: each costs the sink and the
        // source a round trip.
        match inner.queue.back_mut() {
            Some((last, _)) if last.takes(&batch) => {
                last.append(&mut batch);
                if inner.spare.len() < SPARE {
                    inner.spare.push(batch);
                }
            }
            _ => inner.queue.push_back((batch, now)),
        }
        inner.parked = false;
        self.publish(&inner);
        drop(inner);
        self.filled.notify_one();
    }

    /// Held events are not the source's any more: the lane drops those that it denies.
    pub(crate) fn lost(&self) {
        self.turns
            .send_modify(|turn| turn.losses = turn.losses.wrapping_add(1));
    }

    /// Nothing more will be pushed.
    pub(crate) fn end(&self) {
        self.inner().ended = true;
        self.filled.notify_one();
    }

    // ---- the lease keeper's side

    /// When the first lease of what is unfinished ends.
    pub(crate) fn set_lease(&self, ends: Option<Instant>) {
        let mut inner = self.inner();
        if inner.lease_ends != ends {
            inner.lease_ends = ends;
            self.publish(&inner);
        }
    }

    /// Whether something is held that has met no stage.
    pub(crate) fn parkable(&self) -> bool {
        let inner = self.inner();
        !inner.parking && (inner.events > 0 || inner.lane_held > inner.lane_met)
    }

    /// Has the lane give back what is held, once the attempt under way is over. Until then nothing is parkable.
    pub(crate) fn park(&self) {
        self.inner().parking = true;
        self.turns
            .send_modify(|turn| turn.parks = turn.parks.wrapping_add(1));
    }

    /// The gate is open: what was given back is being fetched again.
    pub(crate) fn unpark(&self) {
        let mut inner = self.inner();
        if std::mem::take(&mut inner.parked) {
            self.publish(&inner);
        }
    }

    /// The lane has given back what it was asked to.
    pub(crate) fn has_parked(&self, any: bool) {
        let mut inner = self.inner();
        inner.parking = false;
        inner.parked |= any;
        self.publish(&inner);
        drop(inner);
        self.room.notify_one();
    }

    fn room(&self) -> Option<(usize, usize)> {
        self.room_beside(0, 0)
    }

    fn room_beside(&self, events: usize, bytes: usize) -> Option<(usize, usize)> {
        let (more_events, more_bytes) = (events, bytes);
        let inner = self.inner();
        let events = self
            .limits
            .events
            .saturating_sub(inner.events + inner.lane_events + more_events);
        let bytes = (self.limits.bytes).saturating_sub(inner.bytes + inner.lane_bytes + more_bytes);
        (events > 0 && bytes > 0).then_some((events, bytes))
    }

    // ---- the lane's side

    pub(crate) fn turn(&self) -> Turn {
        *self.turns.borrow()
    }

    pub(crate) fn turns(&self) -> watch::Receiver<Turn> {
        self.turns.subscribe()
    }

    /// Drops what waits and is not the source's any more.
    pub(crate) fn retain(&self, ours: impl Fn(&Token) -> bool) {
        let mut inner = self.inner();
        for (batch, _) in &mut inner.queue {
            batch.retain(&ours);
        }
        inner.queue.retain(|(batch, _)| !batch.is_empty());
        inner.events = inner.queue.iter().map(|(batch, _)| batch.events.len()).sum();
        inner.bytes = inner.queue.iter().map(|(batch, _)| batch.bytes).sum();
        self.publish(&inner);
        drop(inner);
        self.room.notify_one();
    }

    pub(crate) fn catch_up(&self, epoch: u32) {
        self.caught_up.send_replace(epoch);
    }

    /// The oldest batch; nothing when all was taken and no more will come. Cancel-safe.
    pub(crate) async fn take(&self) -> Option<Batch> {
        loop {
            if let Some(batch) = self.try_take() {
                return Some(batch);
            }
            if self.inner().ended {
                return None;
            }
            self.filled.notified().await;
        }
    }

    fn try_take(&self) -> Option<Batch> {
        let mut inner = self.inner();
        let (batch, since) = inner.queue.pop_front()?;
        inner.events -= batch.events.len();
        inner.bytes -= batch.bytes;
        inner.lane_events = batch.events.len();
        inner.lane_bytes = batch.bytes;
        inner.lane_held = batch.events.len();
        inner.lane_met = 0;
        inner.lane_since = Some(since);
        Some(batch)
    }

    /// Says how much of what the lane took is unfinished, how much of that is held rather than in flight, and how much
    /// of what is held has met a stage.
    pub(crate) fn lane_has(&self, unfinished: usize, held: usize, met: usize) {
        let mut inner = self.inner();
        inner.lane_met = met;
        if unfinished == 0 {
            inner.lane_bytes = 0;
        }
        let freed = unfinished < inner.lane_events;
        inner.lane_events = unfinished;
        inner.lane_held = held;
        self.publish(&inner);
        drop(inner);
        if freed {
            self.room.notify_one();
        }
    }

    /// Everything that the lane has not taken, for giving it back.
    pub(crate) fn drain(&self) -> Vec<Batch> {
        let mut inner = self.inner();
        inner.events = 0;
        inner.bytes = 0;
        let all = inner.queue.drain(..).map(|(batch, _)| batch).collect();
        self.publish(&inner);
        all
    }

    fn publish(&self, inner: &Inner) {
        self.unfinished
            .store((inner.events + inner.lane_events) as u64, Relaxed);
        let lane = (inner.lane_held > 0).then_some(inner.lane_since).flatten();
        self.member.meter().set_held(Held {
            events: (inner.events + inner.lane_held) as u64,
            oldest: lane.or_else(|| inner.queue.front().map(|(_, since)| *since)),
            lease_ends: inner.lease_ends,
            parked: inner.parked,
        });
    }
}

/// What a stream wants of its source.
#[derive(Clone)]
pub struct Demand(pub(crate) Arc<Hold>);

/// Leave to start one request. While it lives the stream is not `paused`: start the request, then drop it.
#[derive(Debug)]
pub struct Ask {
    /// Bring no more events than this.
    pub events: usize,
    /// Bring no more bytes than this, or one event.
    pub bytes: usize,
    _unit: Unit,
}

impl Demand {
    /// Waits until the hold has room and the gate is open; nothing once the stream is stopping. Cancel-safe.
    pub async fn wanted(&self) -> Option<Ask> {
        self.wanted_beside(0, 0).await
    }

    /// [`Demand::wanted`], for a source that has asked for so many events and bytes already and not got them yet:
    /// the ask is for what may come besides. Cancel-safe.
    pub async fn wanted_beside(&self, events: usize, bytes: usize) -> Option<Ask> {
        let hold = &*self.0;
        let gate = hold.member.gate();
        loop {
            if hold.quit.is_cancelled() {
                return None;
            }
            self.room_beside(events, bytes).await?;
            let unit = match gate.try_enter() {
                Some(unit) => unit,
                None => tokio::select! {
                    unit = gate.enter() => unit,
                    () = hold.quit.cancelled() => return None,
                },
            };
            if let Some((events, bytes)) = hold.room_beside(events, bytes) {
                return Some(Ask {
                    events,
                    bytes,
                    _unit: unit,
                });
            }
        }
    }

    /// Waits until the hold has room, whatever the gate says: how many events and bytes. For what comes without
    /// having been asked for; nothing once the stream is stopping. Cancel-safe.
    pub async fn room(&self) -> Option<(usize, usize)> {
        self.room_beside(0, 0).await
    }

    async fn room_beside(&self, events: usize, bytes: usize) -> Option<(usize, usize)> {
        let hold = &*self.0;
        loop {
            if hold.quit.is_cancelled() {
                return None;
            }
            if let Some(room) = hold.room_beside(events, bytes) {
                return Some(room);
            }
            tokio::select! {
                () = hold.room.notified() => {}
                () = hold.quit.cancelled() => {}
            }
        }
    }

    /// Says that held events are not the source's any more: those that [`Settle::ours`](crate::Settle::ours)
    /// denies are dropped from the hold.
    pub fn lost(&self) {
        self.0.lost();
    }

    /// Resolves when the gate is closed, for what has to be ended by a pause. Cancel-safe.
    pub async fn closed(&self) {
        self.0.member.gate().closed().await;
    }

    /// Resolves when the gate is open. Cancel-safe.
    pub async fn opened(&self) {
        self.0.member.gate().opened().await;
    }

    /// The stream's own clock: leases are counted by it.
    pub fn clock(&self) -> std::time::Instant {
        self.0.member.now().mono
    }

    /// How many events are wanted right now: none while the gate is closed. For a consumer that has to go on
    /// polling whatever it may take.
    pub fn now(&self) -> usize {
        let hold = &*self.0;
        if hold.quit.is_cancelled() || hold.member.gate().is_closed() {
            return 0;
        }
        hold.room().map_or(0, |(events, _)| events)
    }

    /// Resolves when the stream is stopping. Cancel-safe.
    pub async fn stopping(&self) {
        self.0.quit.cancelled().await;
    }
}

impl std::fmt::Debug for Demand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Demand").field(&self.now()).finish()
    }
}
