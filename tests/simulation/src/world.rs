//! One run: what a seed makes of two switches, two streams, their store, their sinks and an operator.
use crate::model::{Model, Options};
use crate::store::{Content, Fault, Scripted, Store, TIMEOUT, Truth, unpoisoned};
use crate::{Failure, Trace, Twin};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tidegate_gate::{
    Cause, Clock, Controller, Flag, Gate, Holds, Kind, Moment, Name, OnAbsence, OnExpiry, Phase, Policy,
    Scope, State, Version, Wish,
};
use tidegate_providers::{AtStart, Nudger, Observer, Poller, Provider, Switch};
use tidegate_runtime::{
    DeadLetters, Event, Feeder, Limits, Pipeline, Sink, SinkError, Stream, Supervisor, herald, memory,
};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const STREAMS: [&str; 2] = ["a", "b"];
const SWITCHES: [&str; 2] = ["ops", "region"];
/// Moves of one run, each a few hundred milliseconds of its time after the one before.
const MOVES: usize = 60;
/// The longest attempt at a sink.
const ATTEMPT: Duration = Duration::from_millis(500);
/// Everything is over by then: the longest retries (60 s) too.
const LONG: Duration = Duration::from_secs(300);
/// The first of January 2030, noon.
const NOON: u64 = 1_893_499_200;

/// What one stream's sink has, over all processes.
#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// How many more may come again because of a kill.
    again: u64,
    repeated: u64,
    wrong: Option<String>,
}

/// A sink with moods; it judges whatever reaches it.
struct Moody {
    stream: usize,
    gate: Gate,
    truth: Truth,
    taken: Arc<Mutex<Taken>>,
    random: fastrand::Rng,
    sick: Arc<Mutex<bool>>,
}

impl Moody {
    fn wrong(&self, what: impl Into<String>) {
        let mut taken = unpoisoned(&self.taken);
        taken
            .wrong
            .get_or_insert(format!("stream {}: {}", STREAMS[self.stream], what.into()));
    }

    fn take(&self, events: &[Event]) {
        let mut taken = unpoisoned(&self.taken);
        for event in events {
            let number: u64 = std::str::from_utf8(&event.payload)
                .ok()
                .and_then(|text| text.parse().ok())
                .unwrap_or(u64::MAX);
            if number < taken.next && taken.next - number <= taken.again {
                taken.repeated += taken.next - number;
                taken.again = 0;
            } else if number != taken.next {
                let what = format!("event {number} came where {} was due", taken.next);
                drop(taken);
                return self.wrong(what);
            }
            taken.next = number + 1;
        }
    }

    fn must_not_be_paused(&self, when: &str) {
        if self.gate.sight().phase == Phase::Paused {
            self.wrong(format!("a write {when} in a proven pause"));
        }
    }
}

impl Sink for Moody {
    fn describe(&self) -> Name {
        "moody".into()
    }

    fn batch(&self) -> usize {
        8
    }

    fn timeout(&self) -> Option<Duration> {
        Some(ATTEMPT)
    }

    async fn write(&mut self, events: &[Event]) -> Result<(), SinkError> {
        self.must_not_be_paused("began");
        let (now, wall) = (Instant::now(), self.truth.wall());
        let should_pause = {
            let mut model = self.truth.model();
            !model.on_the_edge(now, wall) && model.should_pause(self.stream, now, wall)
        };
        if should_pause {
            self.wrong(format!(
                "{} events moved although it should stand still",
                events.len()
            ));
        }
        if *unpoisoned(&self.sick) {
            match self.random.u8(..4) {
                0 => std::future::pending().await,
                1 => {
                    let taken = self.random.usize(..events.len());
                    self.take(&events[..taken]);
                    return Err(SinkError::Retry {
                        taken,
                        after: None,
                        why: "as the seed says".into(),
                    });
                }
                _ => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(self.random.u64(0..40))).await;
        self.must_not_be_paused("ended");
        self.take(events);
        Ok(())
    }
}

/// One process.
struct Process {
    holds: Arc<Holds>,
    nudger: Nudger,
    stop: CancellationToken,
    supervisor: Option<Supervisor>,
    tasks: JoinSet<()>,
    feeders: Vec<Feeder>,
    /// How many events were fed in all before it, by stream.
    from: Vec<u64>,
}

/// What outlives a process: the last flag that each switch saw, as the sidecar writes it down.
#[derive(Clone, Default)]
struct Remembered(Arc<Mutex<BTreeMap<Name, (Flag, Version)>>>);

impl Observer for Remembered {
    fn good(&self, switch: &Name, flag: &Flag, version: &Version) {
        unpoisoned(&self.0).insert(switch.clone(), (flag.clone(), version.clone()));
    }
}

pub(crate) struct World {
    random: fastrand::Rng,
    seed: u64,
    twin: Option<Twin>,
    truth: Truth,
    options: Vec<Options>,
    intervals: Vec<Duration>,
    stores: Vec<Arc<Mutex<Store>>>,
    taken: Vec<Arc<Mutex<Taken>>>,
    sick: Arc<Mutex<bool>>,
    fed: Vec<u64>,
    acked: Vec<u64>,
    /// When the board says that a stream became `pausing`, and when that was first seen: the board's clock jumps.
    pausing: Vec<Option<(SystemTime, Instant)>>,
    last_jump: Instant,
    /// With a `state_dir`.
    remembers: bool,
    remembered: Remembered,
    trace: Trace,
}

impl World {
    pub(crate) fn new(seed: u64, twin: Option<Twin>) -> World {
        let mut random = fastrand::Rng::with_seed(seed);
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(NOON);
        let streams = [vec![0, 1], vec![0]];
        let options: Vec<Options> = streams.into_iter().map(|on| drawn(&mut random, on)).collect();
        let begin = Instant::now();
        let model = Model::start(&options, &[None, None], BTreeMap::new(), begin);
        let stores = (0..SWITCHES.len())
            .map(|n| Arc::new(Mutex::new(Store::new(n, random.u64(..), noon))))
            .collect();
        World {
            intervals: (0..SWITCHES.len())
                .map(|_| Duration::from_millis(random.u64(100..1000)))
                .collect(),
            remembers: random.bool(),
            truth: Truth {
                model: Arc::new(Mutex::new(model)),
                begin,
                noon,
                off: Arc::default(),
            },
            options,
            stores,
            taken: (0..STREAMS.len()).map(|_| Arc::default()).collect(),
            sick: Arc::default(),
            fed: vec![0; STREAMS.len()],
            acked: vec![0; STREAMS.len()],
            pausing: vec![None; STREAMS.len()],
            last_jump: begin,
            remembered: Remembered::default(),
            trace: Trace::default(),
            random,
            seed,
            twin,
        }
    }

    pub(crate) async fn run(mut self) -> Result<Trace, Failure> {
        let mut process = self.start(BTreeMap::new()).await;
        for _ in 0..MOVES {
            process = self.act(process).await?;
            let long = Duration::from_millis(self.random.u64(20..900));
            self.pass(&process, long).await?;
        }
        self.recover(&process).await?;
        self.end(process, false).await?;
        self.trace.moves += MOVES as u64;
        Ok(self.trace)
    }

    fn fail(&self, what: impl Into<String>) -> Failure {
        Failure {
            seed: self.seed,
            at: self.truth.begin.elapsed(),
            what: what.into(),
        }
    }

    async fn start(&mut self, api: BTreeMap<usize, Option<SystemTime>>) -> Process {
        let truth = self.truth.clone();
        let by_the_wall = self.twin == Some(Twin::AgesByTheWall);
        let holds = Holds::new(Clock::new(move || {
            let (wall, now) = (truth.wall(), Instant::now().into_std());
            let off = wall.duration_since(truth.store_clock()).unwrap_or_default();
            Moment {
                wall,
                mono: if by_the_wall { now + off } else { now },
            }
        }));
        let mut feeders = Vec::new();
        let mut streams = Vec::new();
        for (n, name) in STREAMS.iter().enumerate() {
            let member = holds
                .register(*name, Kind::Stream)
                .expect("two names that differ");
            let (feeder, source) = memory(usize::MAX);
            // What was fed and never acknowledged comes again, as from any source.
            for event in self.acked[n]..self.fed[n] {
                feeder.send(event.to_string()).await;
            }
            feeders.push(feeder);
            let sink = Moody {
                stream: n,
                gate: member.gate(),
                truth: self.truth.clone(),
                taken: self.taken[n].clone(),
                random: self.random.fork(),
                sick: self.sick.clone(),
            };
            let pipeline = Pipeline {
                source,
                stages: (),
                sink,
                dead_letters: DeadLetters::none(),
                limits: Limits {
                    events: 32,
                    bytes: 1 << 16,
                    ..Limits::default()
                },
            };
            streams.push(Stream::new(member, pipeline));
        }
        let lost = self.twin == Some(Twin::ForgetsOperators);
        for (stream, until) in api.iter().filter(|_| !lost) {
            let wish = Wish {
                until: *until,
                ..Wish::default()
            };
            holds
                .place(&Controller::Api, Scope::One(STREAMS[*stream]), wish)
                .expect("it is registered");
        }
        let last: Vec<_> = self
            .stores
            .iter()
            .map(|store| unpoisoned(store).last.clone())
            .collect();
        let now = Instant::now();
        *self.truth.model() = Model::start(&self.options, &last, api, now);
        let switches = (0..SWITCHES.len()).map(|n| self.switch(n)).collect();
        let poller = Poller::bind(
            holds.clone(),
            switches,
            self.random.u64(..),
            self.remembered.clone(),
        )
        .expect("the streams are registered");
        let nudger = poller.nudger();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for task in poller.tasks(&stop) {
            tasks.spawn(task);
        }
        if self.twin == Some(Twin::SleepsThroughAJump) {
            tasks.spawn(sleepy_herald(holds.clone(), stop.clone()));
        } else {
            tasks.spawn(herald(holds.clone(), stop.clone()));
        }
        Process {
            supervisor: Some(Supervisor::spawn(holds.clone(), streams)),
            holds,
            nudger,
            stop,
            tasks,
            feeders,
            from: self.acked.clone(),
        }
    }

    fn switch(&self, n: usize) -> (Switch, Box<dyn Provider>) {
        let o = &self.options[n];
        let mut switch = Switch::new(SWITCHES[n], o.streams.iter().map(|s| STREAMS[*s]));
        switch.interval = self.intervals[n];
        switch.timeout = TIMEOUT;
        switch.retry_max = Duration::from_secs(2);
        switch.at_start = o.at_start;
        switch.policy = Policy {
            on_missing: o.on_missing,
            on_malformed: o.on_malformed,
            max_stale: o.max_stale,
            on_stale: o.on_stale,
            on_expiry: o.on_expiry,
        };
        switch.last = unpoisoned(&self.remembered.0).get(&switch.name).cloned();
        let provider = Scripted {
            store: self.stores[n].clone(),
            truth: self.truth.clone(),
            twin: self.twin,
        };
        (switch, Box::new(provider))
    }

    /// One move of somebody's.
    async fn act(&mut self, mut process: Process) -> Result<Process, Failure> {
        let (wall, written) = (self.truth.wall(), self.truth.store_clock());
        let n = self.random.usize(..SWITCHES.len());
        let streams: Vec<usize> = match self.random.u8(..3) {
            0 => vec![0, 1],
            one => vec![usize::from(one) - 1],
        };
        let edge = self.truth.model().on_the_edge(Instant::now(), wall);
        match self.random.u8(..100) {
            0..30 => {
                let paused = self.random.bool();
                let until = (self.random.u8(..3) == 0)
                    .then(|| written + Duration::from_secs(self.random.u64(0..12)) - Duration::from_secs(2));
                unpoisoned(&self.stores[n]).write(Content::Flag { paused, until }, written);
            }
            30..40 => {
                let all = [
                    Content::NoField,
                    Content::Malformed,
                    Content::Missing,
                    Content::Deleted,
                    Content::Disabled,
                ];
                let content = all[self.random.usize(..all.len())];
                unpoisoned(&self.stores[n]).write(content, written);
            }
            40..52 => {
                let all = [
                    Fault::Denied,
                    Fault::Throttled(Duration::from_millis(self.random.u64(0..4000))),
                    Fault::Sealed,
                    Fault::Unavailable,
                    Fault::Hang,
                    Fault::Lagging,
                ];
                unpoisoned(&self.stores[n]).fault = Some(all[self.random.usize(..all.len())]);
            }
            52..64 => unpoisoned(&self.stores[n]).fault = None,
            64..72 if !edge => {
                let until = self
                    .random
                    .bool()
                    .then(|| wall + Duration::from_millis(self.random.u64(50..6000)));
                for stream in &streams {
                    let wish = Wish {
                        until,
                        ..Wish::default()
                    };
                    self.truth.model().pause(&[*stream], until, wall);
                    let placed = process
                        .holds
                        .place(&Controller::Api, Scope::One(STREAMS[*stream]), wish);
                    placed.map_err(|error| self.fail(error.to_string()))?;
                }
            }
            72..80 => {
                self.truth.model().resume(&streams);
                for stream in &streams {
                    let on = Scope::One(STREAMS[*stream]);
                    let released = process.holds.release(&Controller::Api, on, &Cause::default());
                    released.map_err(|error| self.fail(error.to_string()))?;
                }
            }
            80..84 if !edge => {
                let stream = self.options[n].streams[0];
                let due = self.truth.model().set_aside(n, stream, Instant::now());
                let who = Controller::Switch(SWITCHES[n].into());
                let done = process.holds.set_aside(
                    &who,
                    STREAMS[stream],
                    Some("the store is lost".into()),
                    &Cause::default(),
                );
                if done.is_ok() != due {
                    return Err(self.fail(format!("override of {who} on {}: {done:?}", STREAMS[stream])));
                }
            }
            84..88 => {
                let nudger = process.nudger.clone();
                process.tasks.spawn(async move { nudger.poll_now().await });
            }
            88..91 => {
                let sick = self.random.bool();
                *unpoisoned(&self.sick) = sick;
            }
            91..94 if !edge => {
                let kill = self.random.bool();
                let api = self.end(process, kill).await?;
                self.trace.restarts += 1;
                process = self.start(api).await;
            }
            94..100 if !edge && self.last_jump.elapsed() > Duration::from_secs(2) => self.jump(),
            _ => {}
        }
        let more = self.random.u64(0..20);
        for (n, feeder) in process.feeders.iter().enumerate() {
            for event in self.fed[n]..self.fed[n] + more {
                feeder.send(event.to_string()).await;
            }
            self.fed[n] += more;
        }
        Ok(process)
    }

    /// Somebody sets the clock of the machine, or what keeps it right does.
    fn jump(&mut self) {
        let most = [3_000, 15_000, 3_600_000, 3_600_000][self.random.usize(..4)];
        let by = self.random.i64(1..most);
        // Not so far that it is another day.
        let off = self.truth.off.load(Relaxed);
        let back = off > 10_000_000 || (off > -10_000_000 && self.random.bool());
        self.truth.jump(if back { -by } else { by });
        self.trace.jumps[usize::from(!back)] += 1;
        self.last_jump = Instant::now();
    }

    /// Time goes by; now and then everything is compared.
    async fn pass(&mut self, process: &Process, long: Duration) -> Result<(), Failure> {
        let until = Instant::now() + long;
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(self.random.u64(5..120))).await;
            // Whatever is due at this tick comes first.
            for _ in 0..30 {
                tokio::task::yield_now().await;
            }
            self.compare(process)?;
        }
        Ok(())
    }

    fn compare(&mut self, process: &Process) -> Result<(), Failure> {
        for taken in &self.taken {
            if let Some(wrong) = &unpoisoned(taken).wrong {
                return Err(self.fail(wrong.clone()));
            }
        }
        let (now, wall) = (Instant::now(), self.truth.wall());
        if self.truth.model().on_the_edge(now, wall) {
            return Ok(());
        }
        let snapshot = process.holds.snapshot();
        for (n, name) in STREAMS.iter().enumerate() {
            let should = self.truth.model().should_pause(n, now, wall);
            let stream = snapshot
                .stream(name)
                .ok_or_else(|| self.fail("a stream is not on the board"))?;
            self.trace.add(should, &stream.state, stream.events);
            let held: Vec<String> = stream.holds.iter().map(|(c, _)| c.to_string()).collect();
            let word = stream.state.word();
            if held.is_empty() == should {
                return Err(self.fail(format!(
                    "stream {name} is {word}, held by {held:?}, and should {}stand still; the model: {:?}",
                    if should { "" } else { "not " },
                    self.truth.model(),
                )));
            }
            if should != matches!(stream.state, State::Pausing | State::Paused) {
                return Err(self.fail(format!("stream {name} says {word}, held by {held:?}")));
            }
            if stream.state == State::Paused && stream.in_flight != 0 {
                return Err(self.fail(format!(
                    "stream {name} is paused with {} in flight",
                    stream.in_flight
                )));
            }
            if stream.state != State::Pausing {
                self.pausing[n] = None;
                continue;
            }
            let since = stream.last_transition;
            let seen = self.pausing[n].filter(|(known, _)| *known == since);
            let (_, at) = *self.pausing[n].insert(seen.unwrap_or((since, now)));
            let lasts = at.elapsed();
            if lasts > ATTEMPT * 2 {
                return Err(self.fail(format!("stream {name} is still {word} after {lasts:?}")));
            }
        }
        Ok(())
    }

    /// The process ends, by a kill or by being asked to; says which of the API's holds outlive it.
    async fn end(
        &mut self,
        mut process: Process,
        kill: bool,
    ) -> Result<BTreeMap<usize, Option<SystemTime>>, Failure> {
        let supervisor = process.supervisor.take();
        let mut reports = Vec::new();
        if kill {
            process.tasks.shutdown().await;
            if let Some(supervisor) = supervisor {
                // No grace: what is under way is dropped where it stands, as nearly as one process can do it to itself.
                supervisor.stop(Duration::ZERO).await;
            }
        } else if let Some(supervisor) = supervisor {
            reports = supervisor.stop(Duration::from_secs(5)).await;
            process.stop.cancel();
            while process.tasks.join_next().await.is_some() {}
        }
        for (n, name) in STREAMS.iter().enumerate() {
            self.acked[n] = process.from[n] + *process.feeders[n].acked().borrow();
            let mut taken = unpoisoned(&self.taken[n]);
            let unacknowledged = taken.next.saturating_sub(self.acked[n]);
            // What an earlier kill left may still wait, if nothing has moved since.
            if !kill && unacknowledged > taken.again {
                let (next, again) = (taken.next, taken.again);
                let what = format!(
                    "stream {name} was stopped with {next} events at its sink, {unacknowledged} of them not \
                     acknowledged; {again} are explained by a kill; {:?}",
                    reports.get(n)
                );
                drop(taken);
                return Err(self.fail(what));
            }
            taken.again = unacknowledged;
        }
        let wall = self.truth.wall();
        for store in &self.stores {
            unpoisoned(store).restarted(self.remembers);
        }
        if self.remembers {
            return Ok(self.truth.model().api(wall));
        }
        unpoisoned(&self.remembered.0).clear();
        Ok(BTreeMap::new())
    }

    /// All faults end and nobody wishes a pause any more: everything must arrive.
    async fn recover(&mut self, process: &Process) -> Result<(), Failure> {
        let written = self.truth.store_clock();
        *unpoisoned(&self.sick) = false;
        for store in &self.stores {
            let mut store = unpoisoned(store);
            store.fault = None;
            store.write(
                Content::Flag {
                    paused: false,
                    until: None,
                },
                written,
            );
        }
        self.truth.model().resume(&[0, 1]);
        let released = process
            .holds
            .release(&Controller::Api, Scope::All, &Cause::default());
        released.map_err(|error| self.fail(error.to_string()))?;
        let deadline = Instant::now() + LONG;
        loop {
            self.pass(process, Duration::from_millis(500)).await?;
            let behind = (0..STREAMS.len()).find(|n| unpoisoned(&self.taken[*n]).next < self.fed[*n]);
            let Some(n) = behind else { break };
            if Instant::now() > deadline {
                return Err(self.fail(format!(
                    "stream {}: {} events were fed, {} arrived, although everything is well: {:?}",
                    STREAMS[n],
                    self.fed[n],
                    unpoisoned(&self.taken[n]).next,
                    process.holds.snapshot().stream(STREAMS[n]),
                )));
            }
        }
        for n in 0..STREAMS.len() {
            self.trace.events += self.fed[n];
            self.trace.repeated += unpoisoned(&self.taken[n]).repeated;
            self.trace.polls += self.stores.get(n).map_or(0, |store| unpoisoned(store).reads);
        }
        Ok(())
    }
}

/// The herald as it must not be: it waits for an end as the clock stood, and does not look again.
async fn sleepy_herald(holds: Arc<Holds>, stop: CancellationToken) {
    loop {
        let proof = holds.proof();
        let next = holds.settle().unwrap_or(LONG);
        tokio::select! {
            () = proof => {}
            () = tokio::time::sleep(next) => {}
            () = stop.cancelled() => return,
        }
    }
}

fn drawn(random: &mut fastrand::Rng, streams: Vec<usize>) -> Options {
    let mut absence = || {
        if random.bool() {
            OnAbsence::Keep
        } else {
            OnAbsence::Pause
        }
    };
    let (on_missing, on_malformed, on_stale) = (absence(), absence(), absence());
    Options {
        streams,
        at_start: [AtStart::Paused, AtStart::Running, AtStart::Last][random.usize(..3)],
        on_missing,
        on_malformed,
        on_stale,
        on_expiry: if random.bool() {
            OnExpiry::Release
        } else {
            OnExpiry::Keep
        },
        max_stale: Duration::from_millis(random.u64(500..8000)),
    }
}
