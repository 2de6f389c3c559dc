//! What moves through a stream, and the four traits of those who move it.
use crate::hold::Demand;
use crate::lease::{Outstanding, Terms};
use bytes::Bytes;
use std::collections::VecDeque;
use std::future::Future;
use std::time::{Duration, Instant};
use tidegate_gate::Name;

/// Where an event came from, in the source's own terms. Ordered as the source hands events out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// Which opening of the source handed it out: acknowledgements of an earlier one are ignored.
    pub epoch: u32,
    /// The partition, or for files the generation (it grows when a file is truncated).
    pub partition: u32,
    /// Where in the partition; acknowledging it acknowledges what was before it.
    pub position: u128,
    /// Which output of its event this is, where a stage makes several of one. Sources set 0.
    pub part: u32,
}

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// The content, a slice of what the source read: cloning it copies nothing.
    pub payload: Bytes,
    /// The key, where the source has one.
    pub key: Option<Bytes>,
    /// Where it came from.
    pub token: Token,
}

/// So many events become one batch at most, where they came in several.
const TOGETHER: usize = 1024;

/// Events that cross a boundary together; recycled, so that a steady stream allocates none.
#[derive(Debug, Default)]
pub struct Batch {
    /// The events, oldest first.
    pub events: VecDeque<Event>,
    /// The bytes of all payloads.
    pub bytes: usize,
    /// Events that the source itself found to be no good (a line that is too long), by token: they go to the
    /// dead letter and never meet a stage.
    pub faults: VecDeque<(Token, Poison)>,
    /// All events as the lines that they were read as, in one piece; for sinks that write just these bytes.
    pub(crate) lines: Option<Bytes>,
}

impl Batch {
    /// Adds an event.
    #[inline]
    pub fn push(&mut self, event: Event) {
        self.lines = None;
        self.bytes += event.payload.len();
        self.events.push_back(event);
    }

    /// Adds an event that goes to the dead letter for `why`.
    pub fn push_fault(&mut self, event: Event, why: Name) {
        self.faults.push_back((event.token, Poison::new(why)));
        self.push(event);
    }

    /// Whether another batch may be appended: neither is in one piece, and together they are no larger than an attempt.
    pub(crate) fn takes(&self, next: &Batch) -> bool {
        self.lines.is_none() && next.lines.is_none() && self.events.len() + next.events.len() <= TOGETHER
    }

    /// Moves all of another batch behind what is here, and leaves it empty.
    pub(crate) fn append(&mut self, next: &mut Batch) {
        self.bytes += std::mem::take(&mut next.bytes);
        self.events.append(&mut next.events);
        self.faults.append(&mut next.faults);
    }

    /// Drops the events whose token is not `ours`.
    pub(crate) fn retain(&mut self, ours: impl Fn(&Token) -> bool) {
        self.lines = None;
        self.events.retain(|event| ours(&event.token));
        self.faults.retain(|(token, _)| ours(token));
        self.bytes = self.events.iter().map(|event| event.payload.len()).sum();
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Empties it and keeps the room.
    pub fn clear(&mut self) {
        self.events.clear();
        self.faults.clear();
        self.lines = None;
        self.bytes = 0;
    }
}

/// What a fetch came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// There may be events in the batch; fetch again.
    Events,
    /// There will be no more: the source is at its end, or was told to stop.
    End,
}

/// Why a source gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It broke: what was fetched and not acknowledged is its own again. It is opened again after a while.
    #[error("{0}")]
    Broke(Name),
    /// It broke, but what was fetched is still its own to settle: the link to a broker that keeps leases. It is opened
    /// again after a while, under the same epoch.
    #[error("{0}")]
    Interrupted(Name),
    /// It will not work until a person acts.
    #[error("{0}")]
    Fatal(Name),
}

/// Why an acknowledgement or a return failed.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// Try again; the events stay unacknowledged until then.
    #[error("{0}")]
    Retry(Name),
}

/// Where events come from.
pub trait Source: Send + 'static {
    /// Its other handle.
    type Settle: Settle;

    /// What it is, for people: `file /var/log/orders.jsonl`.
    fn describe(&self) -> Name;

    /// The handle for acknowledgements; one and the same over all openings.
    fn settle(&self) -> Self::Settle;

    /// Whether it can take back what was fetched and not acknowledged. Where it cannot, stopping writes what was
    /// fetched if the gate is open, and counts it as lost if it is closed.
    fn takes_back(&self) -> bool {
        true
    }

    /// Events that were read, were never handed out, and cannot be given back: half a line of a pipe. Asked once, at
    /// the end.
    fn unreturned(&self) -> u64 {
        0
    }

    /// Connects, and goes to the first event that is not acknowledged. May run while the gate is closed, so it
    /// requests no events. The tokens of all events from here on carry `epoch`: the one before after
    /// [`SourceError::Interrupted`], a new one otherwise.
    fn open(&mut self, epoch: u32) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// Fetches some events into `into`, no more than `demand` asks for. Starts a request only under an
    /// [`Ask`](crate::Ask), so that none starts while the gate is closed; what an earlier request still brings,
    /// it brings.
    ///
    /// **Never dropped** while the stream lives: the pump polls it to its end, also while the stream is paused.
    /// When [`Demand::stopping`] resolves it ends as soon as it can without losing what it has asked for.
    fn fetch(
        &mut self,
        demand: &Demand,
        into: &mut Batch,
    ) -> impl Future<Output = Result<Fetched, SourceError>> + Send;

    /// The stream has ended and everything is settled: ends what peers still wait for. Bounds itself in time.
    fn close(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// A source's second handle: it works while a fetch is pending. Calls bound themselves in time.
pub trait Settle: Clone + Send + Sync + 'static {
    /// The sink has these, in this order. Tokens of an epoch that is over are ignored.
    fn ack(&self, done: &[Token]) -> impl Future<Output = Result<(), SettleError>> + Send;

    /// Whether events can cease to be this source's while they are held: a caller that goes away, a lease that runs
    /// out. Then [`Settle::ours`] and [`Settle::claim`] are asked.
    fn may_lose(&self) -> bool {
        false
    }

    /// Whether a held event is still this source's to hand on; asked after [`Demand::lost`]. One that is not is
    /// dropped: whoever has it now hands it on, and doing so too would make it two.
    fn ours(&self, _event: &Token) -> bool {
        true
    }

    /// Asked once per event, past the gate and right before its first stage: [`Settle::ours`], and from a yes on it
    /// is settled by `ack` or `give_back`.
    fn claim(&self, event: &Token) -> bool {
        self.ours(event)
    }

    /// The terms of its leases, for a source whose broker takes events back unless it hears of them; the driver then
    /// keeps them while they are unfinished. `None` where there never are any.
    fn terms(&self) -> Option<Terms> {
        None
    }

    /// What is out under leases. Cheap: asked several times in a lease.
    fn outstanding(&self) -> Option<Outstanding> {
        None
    }

    /// Renews the leases that were last renewed at or before a moment, of what is still this source's and of nothing
    /// else. Answers how many turned out not to be: those [`Settle::ours`] denies from here on.
    fn extend(&self, _before: Instant) -> impl Future<Output = Result<usize, SettleError>> + Send {
        async { Ok(0) }
    }

    /// The leases that were last renewed at or before a moment are over: [`Settle::ours`] denies them from here on,
    /// apart from those past the gate. Answers how many.
    fn expire(&self, _before: Instant) -> usize {
        0
    }

    /// Takes these back, to be handed out again: to the next process, or to another consumer.
    fn give_back(&self, held: &[Token]) -> impl Future<Output = Result<(), SettleError>> + Send;
}

/// An event that a stage cannot digest: it goes to the dead letter.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{why}")]
pub struct Poison {
    /// Why. Shown in status and logs, so it says nothing of the event's content.
    pub why: Name,
    /// What else helps whoever reads the dead letter; may quote the event.
    pub detail: Option<Name>,
}

impl Poison {
    /// Without detail.
    pub fn new(why: impl Into<Name>) -> Poison {
        Poison {
            why: why.into(),
            detail: None,
        }
    }
}

/// One stage of a hosted stream. Whatever it remembers lives on through a pause.
pub trait Stage: Send + 'static {
    /// Turns one event into none, one or several. What `out` holds already is left alone; tokens are set by the
    /// driver. On an error its outputs are dropped.
    ///
    /// # Errors
    /// [`Poison`] sends the event to the dead letter.
    fn on(&mut self, event: &Event, out: &mut Vec<Event>) -> Result<(), Poison>;
}

/// All stages of a stream as one: one event goes through all of them before the next, and between events the
/// driver asks whether the gate is closing. Implement it for a typed pipeline, which is then inlined into the
/// driver; `()` is none, and a `Vec<Box<dyn Stage>>` is a hosted stream's.
pub trait Stages: Send + 'static {
    /// Whether events pass unchanged: the driver then moves whole batches.
    fn pass_through(&self) -> bool {
        false
    }

    /// Turns one event into none, one or several, as [`Stage::on`] does. While it waits, the event is in flight.
    fn on(&mut self, event: &Event, out: &mut Vec<Event>) -> impl Future<Output = Result<(), Poison>> + Send;
}

impl Stages for () {
    fn pass_through(&self) -> bool {
        true
    }

    async fn on(&mut self, event: &Event, out: &mut Vec<Event>) -> Result<(), Poison> {
        out.push(event.clone());
        Ok(())
    }
}

impl Stages for Vec<Box<dyn Stage>> {
    fn pass_through(&self) -> bool {
        self.is_empty()
    }

    async fn on(&mut self, event: &Event, out: &mut Vec<Event>) -> Result<(), Poison> {
        // Stages compute: without this a long batch would keep the other tasks of this thread waiting.
        tokio::task::coop::consume_budget().await;
        through(self, event, out)
    }
}

fn through(stages: &mut [Box<dyn Stage>], event: &Event, out: &mut Vec<Event>) -> Result<(), Poison> {
    match stages {
        [] => out.push(event.clone()),
        [last] => last.on(event, out)?,
        [first, rest @ ..] => {
            let mut between = Vec::new();
            first.on(event, &mut between)?;
            for event in &between {
                through(rest, event, out)?;
            }
        }
    }
    Ok(())
}

/// Why an attempt at a sink failed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SinkError {
    /// Try again, with what was not taken.
    #[error("{why}")]
    Retry {
        /// So many events, from the first, are at the sink for good.
        taken: usize,
        /// The sink asked for this much time.
        after: Option<Duration>,
        /// What happened.
        why: Name,
    },
    /// The event after those that were taken is refused for good: it goes to the dead letter.
    #[error("{why}")]
    Reject {
        /// So many events, from the first, are at the sink for good; the next one is refused.
        taken: usize,
        /// What the sink has against it. Shown in status and logs, so it says nothing of the event's content.
        why: Name,
        /// What else helps whoever reads the dead letter; may quote the event.
        detail: Option<Name>,
    },
    /// The sink will take nothing any more until a person acts.
    #[error("{0}")]
    Fatal(Name),
}

impl SinkError {
    /// Nothing was taken, try again.
    pub fn retry(why: impl Into<Name>) -> SinkError {
        SinkError::Retry {
            taken: 0,
            after: None,
            why: why.into(),
        }
    }
}

/// Where events go.
pub trait Sink: Send + 'static {
    /// What it is, for people: `file /var/lib/orders.jsonl`.
    fn describe(&self) -> Name;

    /// At most so many events in one attempt.
    fn batch(&self) -> usize {
        1024
    }

    /// How long one attempt may take before it is dropped and counts as failed. `None` for a sink whose write
    /// cannot be taken back once it began (a local file): the stream is then `pausing` until it is done, since
    /// anything else would call a stream paused into which the kernel still writes.
    fn timeout(&self) -> Option<Duration> {
        Some(Duration::from_secs(10))
    }

    /// Connects. Called until it succeeds, before the first write; may run while the gate is closed.
    fn open(&mut self) -> impl Future<Output = Result<(), SinkError>> + Send {
        async { Ok(()) }
    }

    /// One attempt: `Ok` once the sink has all of `events`, in order. Retries are the driver's, and never begin
    /// while the gate is closed. After a failed or dropped attempt the next one begins with the first event that
    /// was not taken, except when the source broke and took it back.
    fn write(&mut self, events: &[Event]) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// [`Sink::write`] of events that were read as lines and met no stage. `lines` is their payloads in order, each
    /// followed by a newline and without another in it: a sink of lines need not put them together again. An attempt
    /// that failed may be followed by a `write` of what is left.
    fn write_lines(
        &mut self,
        events: &[Event],
        lines: &Bytes,
    ) -> impl Future<Output = Result<(), SinkError>> + Send {
        let _ = lines;
        self.write(events)
    }
}
