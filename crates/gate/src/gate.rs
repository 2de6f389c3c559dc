//! Gates, and the three ways past one: a [`Lane`] for a worker's loop, a [`Unit`] for work that travels, and
//! [`GatedExt::gated`](crate::GatedExt::gated) for streams.
use crate::clock::Since;
use crate::names::{At, NOWHERE, Names, Takes};
use crate::protocol::{Core, Entry, Full, OPEN, PAUSING, Slot};
use crate::shard::{OWN, SHARDS, shard};
use event_listener::Event;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Whether work may pass, and whether that is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Work passes.
    Open,
    /// Closed; some work that had passed before is still running.
    Pausing,
    /// Closed, and nothing that passed is running.
    Paused,
}

/// One consistent look at a gate.
///
/// `phase == Paused` implies `in_flight == 0`; otherwise `in_flight` is never below the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The phase at the moment of the look.
    pub phase: Phase,
    /// Counts closings and openings. A pause is named by the generation that its closing returned.
    pub generation: u64,
    /// Units of work that passed the gate and have not finished.
    pub in_flight: u64,
    /// Callers of [`Gate::enter`] that stand before the closed gate.
    pub waiting: u64,
}

/// A named unit of work that is still running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// What it is, in the words of whoever admitted it (a route, a handler, "write to sink").
    pub name: Cow<'static, str>,
    /// When it passed the gate.
    pub since: Instant,
}

/// What every event of a stream must pass.
///
/// `Copy` and `'static`: a gate is leaked when it is made, since a guard that clones an `Arc` per request makes
/// every request meet on one counter. Make gates once per stream, not per request.
#[derive(Clone, Copy)]
pub struct Gate(&'static Inner);

struct Inner {
    core: Core<Full, Names, SHARDS>,
    name: Arc<str>,
    opened: Event,
    closed: Event,
    proved: Event,
    waiting: AtomicU64,
    /// Wakes whoever turns proofs into status, shared by all gates of one [`Holds`](crate::Holds).
    herald: Arc<Event>,
}

/// The only hand that opens and closes a gate. Not `Clone`: two hands could each believe their own state.
#[derive(Debug)]
pub struct Keeper(Gate);

impl Gate {
    /// A new, open gate and its keeper. The memory is never freed.
    pub fn new(name: impl Into<Arc<str>>) -> (Gate, Keeper) {
        Gate::heralded(name.into(), Arc::new(Event::new()))
    }

    pub(crate) fn heralded(name: Arc<str>, herald: Arc<Event>) -> (Gate, Keeper) {
        let gate = Gate(Box::leak(Box::new(Inner {
            core: Core::new(),
            name,
            opened: Event::new(),
            closed: Event::new(),
            proved: Event::new(),
            waiting: AtomicU64::new(0),
            herald,
        })));
        (gate, Keeper(gate))
    }

    /// The name it was made with.
    pub fn name(self) -> &'static str {
        &self.0.name
    }

    /// One consistent look. Costs a handful of loads and takes a short lock; not for the path of an event.
    pub fn sight(self) -> Sight {
        let (phase, generation, in_flight) = self.0.core.read();
        let phase = match phase {
            OPEN => Phase::Open,
            PAUSING => Phase::Pausing,
            _ => Phase::Paused,
        };
        Sight {
            phase,
            generation,
            in_flight,
            waiting: self.0.waiting.load(Relaxed),
        }
    }

    /// Whether the gate is closed: one relaxed load, for the path of an event.
    #[inline(always)]
    pub fn is_closed(self) -> bool {
        self.0.core.closed()
    }

    /// A lane for one worker's serial loop.
    pub fn lane(self) -> Lane {
        Lane {
            gate: self,
            slot: self.0.core.register(),
        }
    }

    /// Passes the gate if it is open.
    #[inline]
    pub fn try_enter(self) -> Option<Unit> {
        let shard = shard();
        self.passed(self.0.core.unit_enter(shard))
            .then(|| Unit::of(self, shard))
    }

    /// Passes the gate, waiting while it is closed. Those who wait are counted as `waiting`, not in flight.
    ///
    /// Cancel-safe: dropping the future leaves nothing behind. There is no order among those who wait.
    pub async fn enter(self) -> Unit {
        loop {
            if let Some(unit) = self.try_enter() {
                return unit;
            }
            self.opened().await;
        }
    }

    /// Counts work without asking whether the gate is open: for a gate that only counts, as Hiatus does, and
    /// serves on while held ([`Kind::Gate`](crate::Kind) with `serves`). Such work delays the proof of a pause like
    /// any other, but nothing keeps it from beginning after the proof: at a gate that closes, enter.
    #[inline]
    pub fn admit(self) -> Unit {
        let shard = shard();
        let core = &self.0.core;
        match shard < OWN {
            true => core.unit_admit_own(shard),
            false => core.unit_admit(shard),
        }
        Unit::of(self, shard)
    }

    /// Resolves when the gate is open. It may have closed again by the time the caller runs: enter to be sure.
    ///
    /// Cancel-safe.
    pub async fn opened(self) {
        // The listener is made before the second look: an opening between the two would be lost otherwise.
        let mut waiting = None;
        while self.is_closed() {
            let listener = self.0.opened.listen();
            if !self.is_closed() {
                return;
            }
            waiting.get_or_insert_with(|| Waiting::new(self));
            listener.await;
        }
    }

    /// Resolves when the gate is closed, for what has no end of its own and has to be ended by a pause. It may have
    /// opened again by the time the caller runs.
    ///
    /// Cancel-safe.
    pub async fn closed(self) {
        while !self.is_closed() {
            let listener = self.0.closed.listen();
            if self.is_closed() {
                return;
            }
            listener.await;
        }
    }

    /// Waits for the end of the pause that [`Keeper::close`] named: true when nothing that passed the gate runs
    /// any more, false if the pause was lifted first.
    ///
    /// Cancel-safe.
    pub async fn quiesced(self, generation: u64) -> bool {
        loop {
            let listener = self.0.proved.listen();
            let sight = self.sight();
            if sight.generation != generation || sight.phase == Phase::Open {
                return false;
            }
            if sight.phase == Phase::Paused {
                return true;
            }
            listener.await;
        }
    }

    /// Units that have ended as events ([`Unit::as_event`]), since the gate was made.
    pub fn events(self) -> u64 {
        self.0.core.done()
    }

    /// The named units that are still running, oldest first.
    pub fn running(self) -> Vec<Running> {
        let mut all: Vec<Running> = (0..SHARDS)
            .flat_map(|shard| self.0.core.beside(shard).running())
            .collect();
        all.sort_by_key(|r| r.since);
        all
    }

    #[inline(always)]
    fn passed(self, entry: Entry) -> bool {
        if entry == Entry::ShutAndProved {
            self.tell_proof();
        }
        entry == Entry::In
    }

    #[cold]
    fn tell_proof(self) {
        self.0.proved.notify(usize::MAX);
        self.0.herald.notify(usize::MAX);
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("name", &self.name())
            .field("sight", &self.sight())
            .finish()
    }
}

struct Waiting(Gate);
impl Waiting {
    fn new(gate: Gate) -> Self {
        gate.0.waiting.fetch_add(1, Relaxed);
        Waiting(gate)
    }
}
impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.waiting.fetch_sub(1, Relaxed);
    }
}

impl Keeper {
    /// The gate it keeps.
    pub fn gate(&self) -> Gate {
        self.0
    }

    /// Closes the gate; the pause's generation, to be given to [`Gate::quiesced`]. Closing a closed gate changes
    /// nothing and returns the generation of the pause that stands.
    pub fn close(&mut self) -> u64 {
        if self.0.0.core.close() {
            self.0.tell_proof();
        }
        self.0.0.closed.notify(usize::MAX);
        self.0.0.core.read().1
    }

    /// Opens the gate and wakes all who wait. Call it from a task of the runtime that hosts them: from an
    /// outside thread the first event moves some 30 µs later.
    pub fn open(&mut self) {
        if self.0.0.core.open() {
            self.0.0.opened.notify(usize::MAX);
            // Whoever waits for the proof of the pause that this lifted must learn that it never comes.
            self.0.tell_proof();
        }
    }
}

/// One worker's way through the gate: one flag for a whole run of events instead of a counter per event.
#[derive(Debug)]
pub struct Lane {
    gate: Gate,
    slot: Arc<Slot>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

impl Lane {
    /// The gate that this lane passes.
    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// Starts a run if the gate is open.
    #[inline]
    pub fn try_enter(&mut self) -> Option<Run<'_>> {
        let entry = self.gate.0.core.lane_enter(&self.slot);
        if self.gate.passed(entry) {
            Some(Run::of(self))
        } else {
            None
        }
    }

    /// Starts a run, waiting while the gate is closed.
    ///
    /// Cancel-safe: nothing is published until it returns. Never wait for a source inside a run: the stream
    /// would be `pausing` until the source speaks.
    pub async fn enter(&mut self) -> Run<'_> {
        loop {
            let entry = self.gate.0.core.lane_enter(&self.slot);
            if self.gate.passed(entry) {
                return Run::of(self);
            }
            self.gate.opened().await;
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.gate.0.core.unregister(&self.slot);
    }
}

/// A run of events that passed the gate; dropping it ends the run, and the last one out proves the pause.
#[must_use = "dropping it ends the run at once"]
pub struct Run<'l> {
    lane: &'l mut Lane,
    /// The lane's gate. Through the lane it would be loaded anew for every event: to the compiler an atomic load may
    /// change what any reference shows.
    gate: Gate,
}

impl<'l> Run<'l> {
    #[inline(always)]
    fn of(lane: &'l mut Lane) -> Run<'l> {
        Run {
            gate: lane.gate,
            lane,
        }
    }

    /// Whether the gate has closed: one relaxed load. Ask between events, finish the one in hand, then drop the
    /// run.
    ///
    /// In a loop of a few instructions an event, [`Run::fold`] asks as often and costs less.
    #[inline(always)]
    pub fn closing(&self) -> bool {
        self.gate.is_closed()
    }

    /// Takes events one after the other until there are no more or the gate closes: what `step` made of those that it
    /// took, and the events that it did not take.
    ///
    /// It asks [`Run::closing`] before every event, and costs less than a loop that does: no compiler unrolls a loop
    /// that may be left at every turn, so this one is unrolled by hand, and the state goes from step to step by value,
    /// so that it need not be in memory at each way out.
    #[inline(always)]
    pub fn fold<'e, E, S>(
        &self,
        events: &'e [E],
        mut state: S,
        mut step: impl FnMut(S, &'e E) -> S,
    ) -> (S, &'e [E]) {
        let mut left = events;
        while let [a, b, c, d, rest @ ..] = left {
            if self.closing() {
                return (state, left);
            }
            state = step(state, a);
            if self.closing() {
                return (state, &left[1..]);
            }
            state = step(state, b);
            if self.closing() {
                return (state, &left[2..]);
            }
            state = step(state, c);
            if self.closing() {
                return (state, &left[3..]);
            }
            state = step(state, d);
            left = rest;
        }
        while let [event, rest @ ..] = left {
            if self.closing() {
                break;
            }
            state = step(state, event);
            left = rest;
        }
        (state, left)
    }

    /// A unit that outlives the run: counted before the run ends, so that the hand-over is never missed.
    pub fn hand_off(&self) -> Unit {
        self.gate.admit()
    }
}

impl fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Run").field(&self.gate.name()).finish()
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if self.gate.0.core.lane_exit(&self.lane.slot) {
            self.gate.tell_proof();
        }
    }
}

/// One unit of work that passed the gate: `'static` and `Send`, it travels with the work. Dropping it counts down,
/// whether the work succeeded, failed, panicked or was cancelled.
#[must_use = "dropping it says that the work is done"]
pub struct Unit {
    gate: Gate,
    tag: Tag,
}

/// Which shard counts a unit, whether as an event, and where the shard's names say that it runs. One word, so that a unit
/// is two and goes from hand to hand in registers: more are moved through memory, and what has just been written there in
/// pieces and is read as a whole has to be waited for.
#[derive(Clone, Copy)]
struct Tag(u64);

impl Tag {
    const EVENT: u64 = 1 << 8;
    const AT: u32 = 32;

    #[inline(always)]
    fn of(shard: usize) -> Tag {
        Tag(u64::from(NOWHERE) << Tag::AT | shard as u64)
    }

    #[inline(always)]
    fn shard(self) -> usize {
        usize::from(self.0 as u8)
    }

    #[inline(always)]
    fn at(self) -> At {
        (self.0 >> Tag::AT) as At
    }

    #[inline(always)]
    fn set_at(&mut self, at: At) {
        self.0 = u64::from(at) << Tag::AT | u64::from(self.0 as u32);
    }
}

impl Unit {
    #[inline(always)]
    fn of(gate: Gate, shard: usize) -> Unit {
        Unit {
            gate,
            tag: Tag::of(shard),
        }
    }

    /// The gate that was passed.
    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// A unit for work that this work starts. It never asks the gate: what descends from admitted work may finish.
    pub fn child(&self) -> Unit {
        self.gate.admit()
    }

    /// Has it counted among the gate's [`events`](Gate::events) when it ends: a request, where what it starts beside itself is
    /// work and no event.
    #[inline(always)]
    pub fn as_event(mut self) -> Unit {
        self.tag.0 |= Tag::EVENT;
        self
    }

    /// Gives the unit a name and a start, so that status and drain can say what still runs. The name is copied,
    /// without NUL bytes, and cut at 112 bytes.
    #[inline]
    pub fn named(self, name: impl AsRef<str>, since: impl Into<Since>) -> Unit {
        self.named_by(&[name.as_ref()], since)
    }

    /// The same with a name that is put together for this unit, such as a method and a route. Each part takes whole eights
    /// of the 112 bytes.
    // Always, so that a part that the compiler knows is written as it stands and not copied.
    #[inline(always)]
    pub fn named_by(mut self, parts: &[&str], since: impl Into<Since>) -> Unit {
        let takes = match self.tag.shard() {
            common if common >= OWN => Takes::Common,
            // It may have been admitted on another thread.
            own if own == shard() => Takes::Own,
            _ => Takes::Not,
        };
        let at = self.names().run(self.tag.at(), takes, parts, since.into());
        self.tag.set_at(at);
        self
    }

    #[inline(always)]
    fn names(&self) -> &'static Names {
        self.gate.0.core.beside(self.tag.shard())
    }
}

impl Drop for Unit {
    #[inline]
    fn drop(&mut self) {
        // Before it is counted down: what is not in flight any more is not listed either.
        self.names().end(self.tag.at());
        let (core, shard) = (&self.gate.0.core, self.tag.shard());
        let proved = match self.tag.0 & Tag::EVENT {
            0 => core.unit_exit(shard),
            _ => core.unit_done(shard),
        };
        if proved {
            self.gate.tell_proof();
        }
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unit")
            .field("gate", &self.gate.name())
            .finish_non_exhaustive()
    }
}
