//! Who holds what, since when, why, until when: the one board that opens and closes gates.
//!
//! A stream is paused while **any** hold stands, and a controller releases only its own: with last-writer-wins two
//! controllers fight, and the one who pauses in an emergency loses to a poll that runs a second later.
use crate::gate::{Gate, Keeper};
use crate::journal::{Act, Journal, Record};
use crate::status::{Held, Kind, LeaseTerms, Life, Snapshot, State, StreamStatus, SwitchStatus};
use crate::{Clock, Moment, Name, Phase, Running, Version};
use event_listener::Event;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// Longer reasons and names are cut: they come from outside and go to terminals, logs and metrics.
const TEXT_LIMIT: usize = 256;

/// Who may hold a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Controller {
    /// The control API; one hold per stream, whoever calls.
    Api,
    /// The end of the process; never released.
    Stop,
    /// The switch of that name.
    Switch(Name),
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Controller::Api => f.write_str("api"),
            Controller::Stop => f.write_str("stop"),
            Controller::Switch(name) => write!(f, "switch:{name}"),
        }
    }
}

impl Controller {
    /// Reads what `Display` wrote.
    pub fn parse(text: &str) -> Option<Controller> {
        match text {
            "api" => Some(Controller::Api),
            "stop" => Some(Controller::Stop),
            _ => text
                .strip_prefix("switch:")
                .filter(|n| !n.is_empty())
                .map(|n| Controller::Switch(n.into())),
        }
    }
}

/// A hold that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Why.
    pub reason: Option<Name>,
    /// Who claims to have placed it.
    pub by: Option<Name>,
    /// Who is known to have placed it: a token's name, `loopback`, `store:<version>`.
    pub actor: Name,
    /// Since when it stands; strengthening it does not change this.
    pub since: SystemTime,
    /// When it ends.
    pub until: Option<SystemTime>,
    /// The version of the secret that asked for it.
    pub version: Option<Version>,
}

/// A controller's wish that streams stand still.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Why; control characters are removed, and what is longer than 256 characters is cut.
    pub reason: Option<Name>,
    /// Who claims to ask; treated as `reason` is.
    pub by: Option<Name>,
    /// When the wish ends. The board ends only the API's holds; a switch's hold ends by a good reading.
    pub until: Option<SystemTime>,
    /// Since when, for a hold that outlived a restart; otherwise now.
    pub since: Option<SystemTime>,
    /// Where the wish comes from.
    pub cause: Cause,
}

/// Where a wish or a release comes from.
#[derive(Clone, Debug, Default)]
pub struct Cause {
    /// Who is known to act: a token's name, `loopback`, `store:<version>`.
    pub actor: Option<Name>,
    /// The version of the secret.
    pub version: Option<Version>,
    /// When it was read; flip latency counts from here. The API leaves it out: it counts from the call.
    pub read_at: Option<Instant>,
    /// The version was first seen while polling, so that its age at the store says how late we are.
    pub first_seen: bool,
    /// Why a hold is released, as its journal record tells; a hold that is placed has its own. Treated as
    /// [`Wish::reason`] is.
    pub reason: Option<Name>,
    /// Who claims to release it.
    pub by: Option<Name>,
}

/// Which streams and gates are meant.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// All.
    All,
    /// One.
    One(&'a str),
    /// These.
    Each(&'a [Name]),
}

/// What a call did.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Streams whose hold of this controller is new, other than before, or gone.
    pub changed: Vec<Name>,
    /// Streams that this call took from not held to held, or back.
    pub turned: Vec<Name>,
    /// The holds that stand now on the streams that were meant.
    pub standing: Vec<(Name, Controller, Hold)>,
}

/// There is no stream or gate of that name.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("no stream or gate is named \"{0}\"")]
pub struct UnknownStream(pub Name);

/// Two streams or gates cannot share a name.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the name \"{0}\" is taken by another stream or gate")]
pub struct NameTaken(pub Name);

/// Why a hold could not be set aside.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum OverrideError {
    /// No such stream.
    #[error(transparent)]
    UnknownStream(#[from] UnknownStream),
    /// Only what a secret asks for can be set aside: the API's hold is released, and the end of the process is
    /// the end.
    #[error(
        "\"{0}\" is not a switch: only a switch's hold can be set aside (the control API's own is ended by resume)"
    )]
    NotASwitch(Controller),
    /// That controller does not hold the stream.
    #[error("\"{controller}\" does not hold \"{stream}\", so there is nothing to set aside")]
    NotHeld {
        /// The stream.
        stream: Name,
        /// The controller.
        controller: Controller,
    },
}

/// The counters of one stream or gate, written by whoever runs it and read by [`Holds::snapshot`].
#[derive(Debug, Default)]
pub struct Meter {
    events: AtomicU64,
    dead_letters: AtomicU64,
    upgraded: AtomicU64,
    upgrades: AtomicU64,
    open_connections: Mutex<BTreeMap<u64, Running>>,
    held: Mutex<Held>,
    lease: Mutex<Option<LeaseTerms>>,
    activity: Mutex<Option<Running>>,
    /// The board's herald: the end of the last upgraded connection can end a `pausing`.
    herald: Arc<Event>,
}

impl Meter {
    /// Counts events whose effect is done, beside those that the gate counts itself
    /// ([`Unit::as_event`](crate::Unit::as_event)).
    pub fn add_events(&self, count: u64) {
        self.events.fetch_add(count, Relaxed);
    }

    /// Counts events written to the dead letter.
    pub fn add_dead_letters(&self, count: u64) {
        self.dead_letters.fetch_add(count, Relaxed);
    }

    /// Counts an upgraded connection until the guard is dropped, and lists it among what runs. Take it while the
    /// request that upgrades is still counted, so that a gate is at no moment `paused` with the connection open.
    pub fn upgraded(self: &Arc<Self>, connection: Running) -> Upgraded {
        let id = self.upgrades.fetch_add(1, Relaxed);
        unpoisoned(&self.open_connections).insert(id, connection);
        self.upgraded.fetch_add(1, Relaxed);
        Upgraded {
            meter: self.clone(),
            id,
        }
    }

    /// Says what is fetched and not past the gate.
    pub fn set_held(&self, held: Held) {
        *unpoisoned(&self.held) = held;
    }

    /// Says how long the source leaves what it hands out with us: once it is open, and whenever it learns better.
    /// A drill compares it with the pause that is planned.
    pub fn set_lease(&self, terms: Option<LeaseTerms>) {
        *unpoisoned(&self.lease) = terms;
    }

    /// Says what the worker does inside its run; `None` when the run ends. One short lock: once per batch.
    pub fn set_activity(&self, activity: Option<Running>) {
        *unpoisoned(&self.activity) = activity;
    }
}

/// Counts an upgraded connection while it lives.
#[derive(Debug)]
#[must_use = "dropping it says that the connection is closed"]
pub struct Upgraded {
    meter: Arc<Meter>,
    id: u64,
}
impl Drop for Upgraded {
    fn drop(&mut self) {
        unpoisoned(&self.meter.open_connections).remove(&self.id);
        if self.meter.upgraded.fetch_sub(1, Release) == 1 {
            self.meter.herald.notify(usize::MAX);
        }
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here leaves the value whole at each step.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A stream's or gate's own place on the board.
#[derive(Clone, Debug)]
pub struct Member {
    holds: Arc<Holds>,
    name: Name,
    gate: Gate,
    meter: Arc<Meter>,
}

impl Member {
    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its gate.
    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// Its counters.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// The board's clock.
    pub fn now(&self) -> Moment {
        self.holds.now()
    }

    /// Says how source and sink are doing.
    pub fn set_life(&self, life: Life) {
        let now = self.holds.now();
        let mut board = self.holds.board();
        if let Ok(i) = board.find(&self.name) {
            if board.entries[i].life == life {
                return;
            }
            board.entries[i].life = life;
            board.settle(now);
            self.holds.publish(&mut board, now);
        }
    }
}

/// The board. One mutex that no event ever touches and that is never held across an await: change the map, move
/// the keeper, publish, unlock.
#[derive(Debug)]
pub struct Holds {
    clock: Clock,
    board: Mutex<Board>,
    out: watch::Sender<Arc<Snapshot>>,
    journal_end: watch::Sender<u64>,
    proved: Arc<Event>,
}

#[derive(Default)]
struct Board {
    entries: Vec<Entry>,
    index: HashMap<Name, usize>,
    switches: Vec<SwitchStatus>,
    alarms: BTreeMap<&'static str, Name>,
    revision: u64,
    dirty: bool,
    journal: Journal,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board")
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

struct Entry {
    name: Name,
    kind: Kind,
    keeper: Keeper,
    meter: Arc<Meter>,
    life: Life,
    holds: BTreeMap<Controller, Hold>,
    set_aside: BTreeMap<Controller, Hold>,
    state: State,
    last_transition: SystemTime,
    /// Why the stream is held, or why it no longer is: told with the transition that follows.
    turn: Option<Turn>,
}

#[derive(Clone)]
struct Turn {
    controller: Controller,
    actor: Option<Name>,
    by: Option<Name>,
    reason: Option<Name>,
    version: Option<Version>,
    first_seen: bool,
    /// Nothing for the hold that stands before the first reading: no latency can be told of it.
    asked_at: Option<Instant>,
}

impl Turn {
    fn of(
        controller: &Controller,
        cause: &Cause,
        now: Moment,
        by: Option<Name>,
        reason: Option<Name>,
    ) -> Turn {
        let asked_at = match controller {
            Controller::Switch(_) => cause.read_at,
            Controller::Api | Controller::Stop => Some(cause.read_at.unwrap_or(now.mono)),
        };
        Turn {
            controller: controller.clone(),
            actor: cause.actor.clone(),
            by,
            reason,
            version: cause.version.clone(),
            first_seen: cause.first_seen,
            asked_at,
        }
    }
}

impl Holds {
    /// An empty board.
    pub fn new(clock: Clock) -> Arc<Holds> {
        let now = clock.now();
        let first = Snapshot {
            revision: 0,
            at: now.wall,
            mono: now.mono,
            streams: Vec::new(),
            switches: Vec::new(),
            alarms: Vec::new(),
        };
        Arc::new(Holds {
            clock,
            board: Mutex::default(),
            out: watch::channel(Arc::new(first)).0,
            journal_end: watch::channel(0).0,
            proved: Arc::new(Event::new()),
        })
    }

    /// The current moment of the board's clock.
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// The board's clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Puts a stream or gate on the board, open and without holds. Register all before binding switches: a switch
    /// on `*` holds those that are there.
    pub fn register(self: &Arc<Self>, name: impl Into<Name>, kind: Kind) -> Result<Member, NameTaken> {
        let name = name.into();
        let now = self.now();
        let mut board = self.board();
        if board.index.contains_key(&name) {
            return Err(NameTaken(name));
        }
        let (gate, keeper) = Gate::heralded(name.clone(), self.proved.clone());
        let meter = Arc::new(Meter {
            herald: self.proved.clone(),
            ..Meter::default()
        });
        let at = board.entries.len();
        board.index.insert(name.clone(), at);
        board.entries.push(Entry {
            name: name.clone(),
            kind,
            keeper,
            meter: meter.clone(),
            life: Life::Starting,
            holds: BTreeMap::new(),
            set_aside: BTreeMap::new(),
            state: State::Starting,
            last_transition: now.wall,
            turn: None,
        });
        board.dirty = true;
        self.publish(&mut board, now);
        Ok(Member {
            holds: self.clone(),
            name,
            gate,
            meter,
        })
    }

    /// Puts a switch on the board, or replaces what it said before.
    pub fn put_switch(&self, status: SwitchStatus) {
        let now = self.now();
        let mut board = self.board();
        match board.switches.iter_mut().find(|s| s.name == status.name) {
            Some(old) => {
                let changed = old.reading != status.reading || old.version != status.version;
                let told = changed
                    || old.error != status.error
                    || old.stale != status.stale
                    || old.settled != status.settled
                    || old.warnings != status.warnings;
                let mut record = Record::new(Act::Reading);
                if changed {
                    record.switch = Some(status.name.clone());
                    record.reason = Some(status.error.clone().unwrap_or_else(|| status.reading.into()));
                    record.version = status.version.as_ref().map(|v| v.id.clone());
                    record.controller = Some(Controller::Switch(status.name.clone()));
                }
                *old = status;
                if changed {
                    board.journal.push(record, now.wall);
                }
                board.dirty |= told;
            }
            None => {
                board.switches.push(status);
                board.dirty = true;
            }
        }
        self.publish(&mut board, now);
    }

    /// Places `who`'s hold on the streams, or strengthens it. Placing a hold that stands unchanged does nothing.
    ///
    /// The API's hold only grows stronger: the later `until` wins, none beats any. A switch's hold follows its
    /// secret. A hold that was set aside stays so until a new version of the secret asks for it.
    pub fn place(&self, who: &Controller, on: Scope<'_>, wish: Wish) -> Result<Applied, UnknownStream> {
        let now = self.now();
        let mut board = self.board();
        let meant = board.scope(on)?;
        let wish = Wish {
            reason: wish.reason.and_then(plain),
            by: wish.by.and_then(plain),
            ..wish
        };
        let mut applied = Applied::default();
        for i in meant {
            board.place(i, who, &wish, now, &mut applied);
        }
        board.settle(now);
        self.publish(&mut board, now);
        drop(board);
        if wish.until.is_some() {
            // Whoever waits for the next hold to end has another one to wait for.
            self.proved.notify(usize::MAX);
        }
        Ok(applied)
    }

    /// Releases `who`'s holds on the streams, and only those.
    pub fn release(&self, who: &Controller, on: Scope<'_>, cause: &Cause) -> Result<Applied, UnknownStream> {
        let now = self.now();
        let mut board = self.board();
        let meant = board.scope(on)?;
        let mut applied = Applied::default();
        for i in meant {
            board.release(i, who, cause, now, Act::Released, &mut applied);
        }
        board.settle(now);
        self.publish(&mut board, now);
        Ok(applied)
    }

    /// Sets `who`'s hold on one stream aside until its secret has a new version: for the day the store is lost.
    pub fn set_aside(
        &self,
        who: &Controller,
        stream: &str,
        reason: Option<Name>,
        cause: &Cause,
    ) -> Result<Applied, OverrideError> {
        let now = self.now();
        let mut board = self.board();
        let i = board.find(stream)?;
        if !matches!(who, Controller::Switch(_)) {
            return Err(OverrideError::NotASwitch(who.clone()));
        }
        let reason = reason.and_then(plain);
        let entry = &mut board.entries[i];
        let Some(hold) = entry.holds.remove(who) else {
            return Err(OverrideError::NotHeld {
                stream: stream.into(),
                controller: who.clone(),
            });
        };
        let mut record = Record::new(Act::Overridden);
        record.stream = Some(entry.name.clone());
        record.controller = Some(who.clone());
        record.actor = cause.actor.clone();
        record.reason = reason.clone();
        record.version = hold.version.as_ref().map(|v| v.id.clone());
        let mut applied = Applied {
            changed: vec![entry.name.clone()],
            ..Applied::default()
        };
        entry.set_aside.insert(who.clone(), hold);
        if entry.holds.is_empty() {
            entry.turn = Some(Turn::of(who, cause, now, None, reason));
            entry.keeper.open();
            applied.turned.push(entry.name.clone());
        }
        applied.standing = entry.standing();
        board.journal.push(record, now.wall);
        board.dirty = true;
        board.settle(now);
        self.publish(&mut board, now);
        Ok(applied)
    }

    /// Raises an alarm of the process as a whole, such as a disk that refuses to remember holds; `None` ends it.
    pub fn set_alarm(&self, about: &'static str, alarm: Option<Name>) {
        let now = self.now();
        let mut board = self.board();
        let before = match alarm.clone() {
            Some(text) => board.alarms.insert(about, text),
            None => board.alarms.remove(about),
        };
        board.dirty |= before != alarm;
        self.publish(&mut board, now);
    }

    /// Writes something into the journal that the board itself does not see, such as a refused call.
    pub fn note(&self, record: Record) {
        let now = self.now();
        let mut board = self.board();
        board.journal.push(record, now.wall);
        self.publish(&mut board, now);
    }

    /// Everything at this moment: body and status code of an answer come from one of these, so they cannot differ.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        let now = self.now();
        let mut board = self.board();
        board.settle(now);
        self.publish(&mut board, now);
        Arc::new(board.snapshot(now))
    }

    /// The snapshot after every change. Counters alone are no change; see [`Holds::snapshot`].
    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.out.subscribe()
    }

    /// The records after `seq` that are still kept, oldest first.
    pub fn journal_after(&self, seq: u64) -> Vec<Arc<Record>> {
        self.board().journal.after(seq)
    }

    /// The number of the newest record, and a wake-up whenever there is a newer one.
    pub fn journal_end(&self) -> watch::Receiver<u64> {
        self.journal_end.subscribe()
    }

    /// Turns proofs into states, records and a snapshot, and ends the API's holds whose time has come. Returns
    /// how long until the next of those ends by the wall clock as it stands, which may jump: call again each
    /// second while there is one.
    pub fn settle(&self) -> Option<Duration> {
        let now = self.now();
        let mut board = self.board();
        board.expire(now);
        board.settle(now);
        self.publish(&mut board, now);
        board.next_expiry(now)
    }

    /// Resolves at the next proof (or lifting) of any pause, and when a hold is placed that ends by itself. Take it
    /// *before* calling [`Holds::settle`].
    pub fn proof(&self) -> event_listener::EventListener {
        self.proved.listen()
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        unpoisoned(&self.board)
    }

    /// Called with the lock held, so that readers see changes in the order in which they were made.
    fn publish(&self, board: &mut Board, now: Moment) {
        if std::mem::take(&mut board.dirty) {
            board.revision += 1;
            let snapshot = Arc::new(board.snapshot(now));
            self.out.send_replace(snapshot);
        }
        let end = board.journal.last();
        self.journal_end
            .send_if_modified(|seen| std::mem::replace(seen, end) != end);
    }
}

impl Board {
    fn find(&self, name: &str) -> Result<usize, UnknownStream> {
        self.index
            .get(name)
            .copied()
            .ok_or_else(|| UnknownStream(name.into()))
    }

    fn scope(&self, on: Scope<'_>) -> Result<Vec<usize>, UnknownStream> {
        match on {
            Scope::All => Ok((0..self.entries.len()).collect()),
            Scope::One(name) => Ok(vec![self.find(name)?]),
            Scope::Each(names) => names.iter().map(|n| self.find(n)).collect(),
        }
    }

    fn place(&mut self, i: usize, who: &Controller, wish: &Wish, now: Moment, applied: &mut Applied) {
        let entry = &mut self.entries[i];
        if let Some(aside) = entry.set_aside.get(who) {
            if same_version(aside.version.as_ref(), wish.cause.version.as_ref()) {
                applied.standing.extend(entry.standing());
                return;
            }
            entry.set_aside.remove(who);
            self.dirty = true;
        }
        let before = entry.holds.get(who);
        let hold = Hold {
            reason: wish.reason.clone(),
            by: wish.by.clone(),
            actor: wish.cause.actor.clone().unwrap_or_else(|| who.to_string().into()),
            since: wish.since.unwrap_or(now.wall),
            until: wish.until,
            version: wish.cause.version.clone(),
        };
        let hold = match before {
            None => hold,
            Some(old) if *who == Controller::Api => strengthened(old, hold),
            Some(old) => Hold {
                since: old.since,
                ..hold
            },
        };
        if before == Some(&hold) {
            applied.standing.extend(entry.standing());
            return;
        }
        let mut record = Record::new(Act::Placed);
        record.stream = Some(entry.name.clone());
        record.controller = Some(who.clone());
        record.actor = Some(hold.actor.clone());
        record.by = hold.by.clone();
        record.reason = hold.reason.clone();
        record.version = hold.version.as_ref().map(|v| v.id.clone());
        applied.changed.push(entry.name.clone());
        if entry.holds.is_empty() {
            applied.turned.push(entry.name.clone());
            entry.turn = Some(Turn::of(
                who,
                &wish.cause,
                now,
                hold.by.clone(),
                hold.reason.clone(),
            ));
            // A gate that serves on is only counted: closing it would stop the requests it promises to serve.
            if entry.kind != (Kind::Gate { serves: true }) {
                entry.keeper.close();
            }
        }
        entry.holds.insert(who.clone(), hold);
        applied.standing.extend(entry.standing());
        self.journal.push(record, now.wall);
        self.dirty = true;
    }

    fn release(
        &mut self,
        i: usize,
        who: &Controller,
        cause: &Cause,
        now: Moment,
        act: Act,
        applied: &mut Applied,
    ) {
        let entry = &mut self.entries[i];
        // A switch that releases has read a new version: what a person set aside is over.
        self.dirty |= entry.set_aside.remove(who).is_some();
        if let Some(hold) = entry.holds.remove(who) {
            let mut record = Record::new(act);
            record.stream = Some(entry.name.clone());
            record.controller = Some(who.clone());
            record.actor = cause.actor.clone();
            record.version = cause.version.as_ref().map(|v| v.id.clone());
            let why = cause.reason.clone().and_then(plain);
            let by = cause.by.clone().and_then(plain);
            record.by = by.clone();
            record.reason = why.clone().or(hold.reason);
            applied.changed.push(entry.name.clone());
            if entry.holds.is_empty() {
                applied.turned.push(entry.name.clone());
                entry.turn = Some(Turn::of(who, cause, now, by, why));
                entry.keeper.open();
            }
            self.journal.push(record, now.wall);
            self.dirty = true;
        }
        applied.standing.extend(entry.standing());
    }

    fn expire(&mut self, now: Moment) {
        let cause = Cause {
            actor: Some("until".into()),
            ..Cause::default()
        };
        for i in 0..self.entries.len() {
            let due = self.entries[i].holds.get(&Controller::Api).and_then(|h| h.until);
            if due.is_some_and(|until| until <= now.wall) {
                self.release(
                    i,
                    &Controller::Api,
                    &cause,
                    now,
                    Act::Expired,
                    &mut Applied::default(),
                );
            }
        }
    }

    fn next_expiry(&self, now: Moment) -> Option<Duration> {
        self.entries
            .iter()
            .filter_map(|e| e.holds.get(&Controller::Api)?.until)
            .min()
            .map(|until| until.duration_since(now.wall).unwrap_or_default())
    }

    /// Brings every entry's state up to what its gate says and writes the transitions down.
    fn settle(&mut self, now: Moment) {
        for entry in &mut self.entries {
            let phase = entry.keeper.gate().sight().phase;
            let state = entry.state_at(phase);
            if state == entry.state {
                continue;
            }
            let mut record = Record::new(Act::Transition);
            record.stream = Some(entry.name.clone());
            record.from = Some(entry.state);
            record.to = Some(state);
            entry.tell_turn(&mut record, state, now);
            entry.state = state;
            entry.last_transition = now.wall;
            self.journal.push(record, now.wall);
            self.dirty = true;
        }
    }

    fn snapshot(&self, now: Moment) -> Snapshot {
        Snapshot {
            revision: self.revision,
            at: now.wall,
            mono: now.mono,
            streams: self.entries.iter().map(Entry::status).collect(),
            switches: self.switches.clone(),
            alarms: self.alarms.values().cloned().collect(),
        }
    }
}

impl Entry {
    fn standing(&self) -> Vec<(Name, Controller, Hold)> {
        self.holds
            .iter()
            .map(|(c, h)| (self.name.clone(), c.clone(), h.clone()))
            .collect()
    }

    /// The state that belongs to a phase seen *before* this call: who upgrades a connection is counted as upgraded
    /// before its request leaves the gate.
    fn state_at(&self, phase: Phase) -> State {
        let open = self.meter.upgraded.load(Acquire) > 0;
        let phase = match (self.kind, phase) {
            (Kind::Gate { serves: false }, Phase::Paused) if open => Phase::Pausing,
            _ => phase,
        };
        State::of(self.kind, &self.life, phase, !self.holds.is_empty())
    }

    fn tell_turn(&mut self, record: &mut Record, to: State, now: Moment) {
        if let Some(error) = self.life.error().filter(|_| to == State::Failed) {
            record.reason = Some(error.clone());
            return;
        }
        if matches!(to, State::Draining | State::Stopped) {
            // Whoever holds it has no part in its end.
            if let Some(stop) = self.holds.get(&Controller::Stop) {
                record.controller = Some(Controller::Stop);
                record.actor = Some(stop.actor.clone());
                record.by = stop.by.clone();
                record.reason = stop.reason.clone();
            }
            return;
        }
        let by_holds = |s| matches!(s, State::Pausing | State::Paused | State::Hiatus);
        let (true, Some(turn)) = (by_holds(to) || by_holds(self.state), &mut self.turn) else {
            return;
        };
        record.controller = Some(turn.controller.clone());
        record.actor = turn.actor.clone();
        record.by = turn.by.clone();
        record.reason = turn.reason.clone();
        record.version = turn.version.as_ref().map(|v| v.id.clone());
        if matches!(to, State::Paused | State::Hiatus | State::Running) {
            // Taken, not read: a stream that fails and comes back behind its closed gate is `paused` again, and the
            // hours between are no latency.
            record.flip_latency = turn
                .asked_at
                .take()
                .map(|at| now.mono.saturating_duration_since(at));
            record.store_latency = turn
                .version
                .as_ref()
                .filter(|_| std::mem::take(&mut turn.first_seen))
                .and_then(|v| v.written)
                // A store whose clock runs ahead of ours would give a negative latency.
                .map(|written| now.wall.duration_since(written).unwrap_or_default());
        }
    }

    fn status(&self) -> StreamStatus {
        let gate = self.keeper.gate();
        let sight = gate.sight();
        let mut running = Vec::new();
        // What was named a moment ago must not be listed beside a proof that it is gone.
        if sight.phase != Phase::Paused {
            running = gate.running();
            running.extend(unpoisoned(&self.meter.activity).clone());
        }
        running.extend(unpoisoned(&self.meter.open_connections).values().cloned());
        running.sort_by_key(|r| r.since);
        // The gate may have been proven since the last settling; the state and the count must belong together.
        let state = self.state_at(sight.phase);
        StreamStatus {
            name: self.name.clone(),
            kind: self.kind,
            state,
            in_flight: sight.in_flight,
            waiting: sight.waiting,
            held: *unpoisoned(&self.meter.held),
            lease: *unpoisoned(&self.meter.lease),
            holds: self.holds.iter().map(|(c, h)| (c.clone(), h.clone())).collect(),
            set_aside: self
                .set_aside
                .iter()
                .map(|(c, h)| (c.clone(), h.clone()))
                .collect(),
            events: self.meter.events.load(Relaxed) + gate.events(),
            dead_letters: self.meter.dead_letters.load(Relaxed),
            upgraded: self.meter.upgraded.load(Relaxed),
            running,
            life: self.life.clone(),
            last_transition: self.last_transition,
        }
    }
}

fn same_version(a: Option<&Version>, b: Option<&Version>) -> bool {
    a.map(|v| &v.id) == b.map(|v| &v.id)
}

fn strengthened(old: &Hold, new: Hold) -> Hold {
    Hold {
        reason: new.reason.or_else(|| old.reason.clone()),
        by: new.by.or_else(|| old.by.clone()),
        actor: new.actor,
        since: old.since,
        until: match (old.until, new.until) {
            (Some(a), Some(b)) => Some(a.max(b)),
            _ => None,
        },
        version: None,
    }
}

/// Characters that break a line or turn the text around them: an audit line could be made to read as another.
fn reorders(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text from outside, fit for a terminal, a log line and a metric: no control characters, at most 256 characters,
/// nothing if nothing is left.
pub fn plain(text: Name) -> Option<Name> {
    let kept: String = text
        .chars()
        .filter(|c| !c.is_control() && !reorders(*c))
        .take(TEXT_LIMIT)
        .collect();
    let kept = kept.trim();
    (!kept.is_empty()).then(|| if *kept == *text { text.clone() } else { kept.into() })
}
