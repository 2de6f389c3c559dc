//! The one driver: source → stages → sink, asking the gate.
//!
//! Two loops in one task, and [the keeper of leases](crate::lease) beside them. The *pump* fetches into the hold and never drops a fetch, whatever the gate says. The
//! *lane* takes a batch from the hold outside of any run, enters its gate lane, takes events through all stages
//! one by one, writes the outputs as one attempt, acknowledges, and leaves. Between attempts nothing is in
//! flight; what is pending then is held, and its stages are not run again.
use crate::dead_letter::{DeadLetterError, DeadLetters};
use crate::event::{
    Batch, Event, Fetched, Poison, Settle, SettleError, Sink, SinkError, Source, SourceError, Stages, Token,
};
use crate::hold::{Demand, Hold, Limits, Turn};
use crate::lease::keep;
use crate::life::{Effect, Health, Input, Part, Vital, backoff, step};
use crate::pace::Pacer;
use crate::together::{together, turn};
use bytes::Bytes;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_gate::{Member, Name, Run, Running};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// So many dead letters in a row, and the stream has failed: whatever is wrong, it is not the single event.
const DEAD_IN_A_ROW: u32 = 20;

/// A sink that asks for more time than this gets this much.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// What [`drive`] drives.
#[derive(Debug)]
pub struct Pipeline<S, G, K> {
    /// Where events come from.
    pub source: S,
    /// What happens to them; `()` for nothing.
    pub stages: G,
    /// Where they go.
    pub sink: K,
    /// Where those go that nobody can take.
    pub dead_letters: DeadLetters,
    /// How much is held before the gate.
    pub limits: Limits,
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The source came to its end, and the sink has everything.
    Ended,
    /// It was told to stop.
    Stopped,
    /// It cannot go on until a person acts.
    Failed(Name),
    /// The grace was over before it had finished.
    CutShort,
}

/// What is left of a stream that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The stream.
    pub stream: Name,
    /// How it ended.
    pub outcome: Outcome,
    /// Events that were fetched, not finished, and given back to the source.
    pub given_back: u64,
    /// Events that were read, not written, and cannot be given back: they are lost when the process ends.
    pub unreturned: u64,
}

/// Drives one stream until its source ends, it fails, or `stop` is cancelled.
///
/// On `stop` it fetches no more, finishes the attempt that is in flight and gives the rest back. A source that
/// cannot take back is written out first while the gate is open; closing the gate ends that too.
///
/// Dropping the future stops the stream where it stands: in-flight work is dropped, nothing is given back, and
/// the gate counts it out. Delivery stays at least once, since what the sink did not confirm is not acknowledged.
pub async fn drive<S: Source, G: Stages, K: Sink>(
    member: &Member,
    pipeline: Pipeline<S, G, K>,
    stop: CancellationToken,
) -> Report {
    drive_counted(member, pipeline, stop, Arc::default()).await
}

/// [`drive`], with a count of what is fetched and not finished that outlives a driver that is dropped.
pub(crate) async fn drive_counted<S: Source, G: Stages, K: Sink>(
    member: &Member,
    pipeline: Pipeline<S, G, K>,
    stop: CancellationToken,
    unfinished: Arc<AtomicU64>,
) -> Report {
    let Pipeline {
        mut source,
        stages,
        sink,
        dead_letters,
        limits,
    } = pipeline;
    let quit = stop.child_token();
    let hold = Arc::new(Hold::new(member.clone(), limits, quit.clone(), unfinished));
    let vitals = Vitals {
        member,
        vital: Mutex::default(),
    };
    let settle = source.settle();
    let takes_back = source.takes_back();
    let mut worker = Worker {
        member,
        hold: &hold,
        settle: settle.clone(),
        stages,
        to: sink.describe(),
        sink,
        sink_open: false,
        dead_letters,
        vitals: &vitals,
        quit: quit.clone(),
        takes_back,
        turn: Turn::default(),
        parked: Batch::default(),
        pending: Pending::default(),
        dead_row: 0,
        pacer: Pacer::new(limits.pace),
        allowed: usize::MAX,
    };
    {
        let told = async {
            stop.cancelled().await;
            vitals.tell(Input::Stop);
        };
        let lane = async {
            worker.run().await;
            quit.cancel();
        };
        let leases = settle.clone();
        let both = async {
            let both = together(pump(&mut source, &hold, &vitals, &quit), lane);
            tokio::select! {
                () = both => {}
                never = keep(member, &hold, &leases) => match never {},
            }
        };
        tokio::pin!(both);
        tokio::select! {
            biased;
            _ = &mut both => {}
            () = told => { both.await; }
        }
    }

    worker.settle_done().await;
    let left = worker.leave();
    let mut report = Report {
        stream: member.name().clone(),
        outcome: Outcome::Ended,
        given_back: 0,
        unreturned: 0,
    };
    if takes_back {
        if !left.is_empty() {
            match settle.give_back(&left).await {
                Ok(()) => report.given_back = left.len() as u64,
                Err(error) => tracing::warn!(
                    stream = %member.name(), events = left.len(), %error,
                    "could not give work back; the source hands it out again when its lease ends"
                ),
            }
        }
    } else {
        report.unreturned = left.len() as u64 + source.unreturned();
    }
    if report.unreturned > 0 {
        tracing::error!(
            stream = %member.name(), events = report.unreturned,
            "read and not written, and {} cannot take it back", source.describe()
        );
    }
    source.close().await;
    vitals.tell(Input::Ended);
    report.outcome = match vitals.failure() {
        Some(error) => Outcome::Failed(error),
        None if stop.is_cancelled() => Outcome::Stopped,
        None => Outcome::Ended,
    };
    report
}

/// Feeds the step function and tells the board.
struct Vitals<'a> {
    member: &'a Member,
    vital: Mutex<Vital>,
}

impl Vitals<'_> {
    fn tell(&self, input: Input) -> Effect {
        // The step function is pure and total: nothing in here can panic half way.
        let mut vital = self.vital.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (next, effect) = step(std::mem::take(&mut *vital), input);
        *vital = next;
        self.member.set_life(vital.life());
        effect
    }

    fn works(&self, part: Part) {
        let vital = self.vital.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let health = match part {
            Part::Source => &vital.source,
            Part::Sink => &vital.sink,
        };
        if *health != Health::Up {
            drop(vital);
            self.tell(Input::Works(part));
        }
    }

    /// The wait before the next try; nothing if there is none.
    fn broke(&self, part: Part, why: Name) -> Option<Duration> {
        match self.tell(Input::Broke(part, why.clone())) {
            Effect::Again(attempt) => {
                let wait = backoff(attempt, fastrand::f64());
                let stream = self.member.name();
                let millis = wait.as_millis();
                // The first failure of a row is news, the hundredth is not.
                if attempt.is_power_of_two() {
                    tracing::warn!(%stream, attempt, error = %why, "tried again in {millis} ms");
                } else {
                    tracing::debug!(%stream, attempt, error = %why, "tried again in {millis} ms");
                }
                Some(wait)
            }
            Effect::Nothing | Effect::Leave => None,
        }
    }

    fn fatal(&self, why: Name) {
        tracing::error!(stream = %self.member.name(), error = %why, "the stream has failed");
        self.tell(Input::Fatal(why));
    }

    fn failure(&self) -> Option<Name> {
        let vital = self.vital.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &vital.course {
            crate::life::Course::Failed(error) => Some(error.clone()),
            _ => None,
        }
    }
}

async fn pump<S: Source>(source: &mut S, hold: &Arc<Hold>, vitals: &Vitals<'_>, quit: &CancellationToken) {
    let demand = Demand(hold.clone());
    // Counts on while a source opens and then breaks before it brought anything.
    let mut fruitless = 0u32;
    let mut epoch = hold.next_epoch();
    let again = |fruitless, source: &S, why: &str| {
        let why = format!("{}: {why}", source.describe()).into();
        let wait = vitals.broke(Part::Source, why)?;
        Some(wait.max(backoff(fruitless, fastrand::f64())))
    };
    'opening: while !quit.is_cancelled() {
        tokio::select! {
            () = hold.lane_caught_up(epoch) => {}
            () = quit.cancelled() => break,
        }
        let mut opened = source.open(epoch).await;
        if opened.is_ok() {
            vitals.works(Part::Source);
        }
        while opened.is_ok() {
            let mut batch = hold.spare();
            match source.fetch(&demand, &mut batch).await {
                Ok(Fetched::Events) => {
                    fruitless = 0;
                    hold.push(batch);
                    // The lane shares this task: what was just read is still in the cache when it is written.
                    turn().await;
                }
                Ok(Fetched::End) => {
                    hold.push(batch);
                    break 'opening;
                }
                Err(error) => opened = Err(error),
            }
        }
        let wait = match opened {
            Err(SourceError::Broke(why)) => {
                // At once: what it takes back must not be begun any more.
                epoch = hold.next_epoch();
                fruitless = fruitless.saturating_add(1);
                again(fruitless, &*source, &why)
            }
            Err(SourceError::Interrupted(why)) => {
                fruitless = fruitless.saturating_add(1);
                again(fruitless, &*source, &why)
            }
            Err(SourceError::Fatal(why)) => {
                vitals.fatal(format!("{}: {why}", source.describe()).into());
                quit.cancel();
                None
            }
            Ok(()) => None,
        };
        let Some(wait) = wait else { break };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = quit.cancelled() => {}
        }
    }
    hold.end();
}

/// What has met the stages and is not acknowledged yet.
#[derive(Default)]
struct Pending {
    out: Vec<Event>,
    /// All of `out` in one piece, if it came as lines and met no stage.
    lines: Option<Bytes>,
    /// So many of `out` are settled: at the sink, or refused by it.
    written: usize,
    /// Its turn at the dead letter has come.
    dead: Option<(Event, Poison)>,
    /// The last admitted event, which no stage could digest: its turn comes when all of `out` is written, so that
    /// "in a row" means what it says.
    poison: Option<(Event, Poison)>,
    done: Vec<Token>,
    dead_count: usize,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    fn clear(&mut self) {
        self.out.clear();
        self.lines = None;
        self.written = 0;
        self.dead = None;
        self.poison = None;
        self.done.clear();
        self.dead_count = 0;
    }

    /// Drops what is not written yet of events that are not `ours`, and their acknowledgements.
    fn retain(&mut self, ours: impl Fn(&Token) -> bool) {
        self.lines = None;
        let source = |token: &Token| Token { part: 0, ..*token };
        let mut at = 0;
        let written = self.written;
        self.out.retain(|event| {
            at += 1;
            at <= written || ours(&source(&event.token))
        });
        self.poison.take_if(|(event, _)| !ours(&event.token));
        self.done.retain(|token| ours(token));
        if self.done.is_empty() {
            self.clear();
        }
    }
}

enum Next {
    Go,
    /// Nothing more in this run; the sink works as far as anybody knows.
    Yield,
    Again(Option<Duration>, Name),
    Fail(Name),
}

struct Worker<'a, T, G, K> {
    member: &'a Member,
    hold: &'a Arc<Hold>,
    settle: T,
    stages: G,
    sink: K,
    to: Name,
    sink_open: bool,
    dead_letters: DeadLetters,
    vitals: &'a Vitals<'a>,
    quit: CancellationToken,
    takes_back: bool,
    turn: Turn,
    parked: Batch,
    pending: Pending,
    dead_row: u32,
    pacer: Pacer,
    /// How many events the pace lets pass in this run.
    allowed: usize,
}

impl<T: Settle, G: Stages, K: Sink> Worker<'_, T, G, K> {
    async fn run(&mut self) {
        let hold = self.hold;
        let quit = self.quit.clone();
        let mut lane = self.member.gate().lane();
        let mut turns = hold.turns();
        loop {
            self.drop_what_is_not_ours().await;
            let leaving = quit.is_cancelled();
            if leaving && self.takes_back {
                return;
            }
            if !self.sink_open {
                match self.open_sink().await {
                    Next::Go => {}
                    Next::Yield => continue,
                    Next::Again(after, why) => match self.broke(after, why) {
                        Some(wait) => {
                            self.rest(wait, &mut turns).await;
                            continue;
                        }
                        None => return,
                    },
                    Next::Fail(why) => return self.vitals.fatal(why),
                }
            }
            if self.pending.is_empty() && self.parked.is_empty() {
                // The pump shares this task, and a sink that never waits would starve its neighbours.
                tokio::task::coop::consume_budget().await;
                tokio::select! {
                    biased;
                    () = quit.cancelled(), if self.takes_back => return,
                    _ = turns.changed() => continue,
                    batch = hold.take() => match batch {
                        Some(batch) => self.parked = batch,
                        None => return,
                    },
                }
            }
            let run = tokio::select! {
                biased;
                _ = turns.changed() => continue,
                run = lane.enter() => run,
                () = std::future::ready(()), if leaving => return,
                () = quit.cancelled() => continue,
            };
            if !self.pacer.is_idle() && self.pending.is_empty() && !leaving {
                let generation = self.member.gate().sight().generation;
                match self.pacer.allow(generation, self.member.now().mono) {
                    Ok(most) => self.allowed = most,
                    Err(wait) => {
                        drop(run);
                        self.rest(wait, &mut turns).await;
                        continue;
                    }
                }
            }
            let next = self.attempt(&run).await;
            self.member.meter().set_activity(None);
            self.held();
            drop(run);
            match next {
                Next::Go => self.vitals.works(Part::Sink),
                Next::Yield => {}
                Next::Again(after, why) => match self.broke(after, why) {
                    Some(wait) => self.rest(wait, &mut turns).await,
                    None => return,
                },
                Next::Fail(why) => return self.vitals.fatal(why),
            }
        }
    }

    fn broke(&self, after: Option<Duration>, why: Name) -> Option<Duration> {
        let wait = self.vitals.broke(Part::Sink, why)?;
        Some(after.map_or(wait, |asked| asked.max(wait).min(LONGEST_ASKED)))
    }

    /// Between attempts: nothing is in flight, and a stop or a source that starts over need not wait.
    async fn rest(&mut self, wait: Duration, turns: &mut watch::Receiver<Turn>) {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.quit.cancelled(), if self.takes_back || self.member.gate().is_closed() => {}
            _ = turns.changed() => {}
        }
    }

    /// What was handed out before the source started over is the source's again, and what it has lost is nobody's.
    async fn drop_what_is_not_ours(&mut self) {
        let turn = self.hold.turn();
        if turn == self.turn {
            return;
        }
        let parks = turn.parks != self.turn.parks;
        if turn.epoch != self.turn.epoch {
            self.pending.clear();
            self.parked.clear();
            self.hold.catch_up(turn.epoch);
        }
        if self.settle.may_lose() {
            self.parked.retain(|token| self.settle.ours(token));
            self.hold.retain(|token| self.settle.ours(token));
            if turn.losses != self.turn.losses {
                self.pending.retain(|token| self.settle.ours(token));
            }
        }
        self.turn = turn;
        if parks {
            self.park().await;
        }
        self.held();
    }

    /// Gives back what is held and has met no stage. What has met one stays: its effect may be half done, and stages
    /// remember.
    async fn park(&mut self) {
        let mut held: Vec<Token> = self.parked.events.iter().map(|event| event.token).collect();
        self.parked.clear();
        for batch in self.hold.drain() {
            held.extend(batch.events.iter().map(|event| event.token));
            self.hold.recycle(batch);
        }
        if !held.is_empty()
            && let Err(error) = self.settle.give_back(&held).await
        {
            tracing::warn!(
                stream = %self.member.name(), events = held.len(), %error,
                "could not give work back; the source hands it out again when its lease ends"
            );
        }
        self.held();
        self.hold.has_parked(!held.is_empty());
    }

    /// Tells the hold that everything unfinished is held, as is true outside a run.
    fn held(&self) {
        let met = self.pending.done.len();
        let unfinished = self.parked.events.len() + met;
        self.hold.lane_has(unfinished, unfinished, met);
    }

    async fn open_sink(&mut self) -> Next {
        let bound = self.sink.timeout();
        let opened = tokio::select! {
            opened = within(bound, self.sink.open()) => opened,
            () = self.quit.cancelled(), if self.takes_back => return Next::Yield,
        };
        match opened {
            Ok(()) => {
                self.sink_open = true;
                self.vitals.works(Part::Sink);
                Next::Go
            }
            Err(SinkError::Retry { after, why, .. }) => Next::Again(after, self.named(&why)),
            Err(SinkError::Reject { why, .. } | SinkError::Fatal(why)) => Next::Fail(self.named(&why)),
        }
    }

    fn named(&self, why: &str) -> Name {
        format!("{}: {why}", self.to).into()
    }

    /// One run: admits events unless some are pending, and brings what is pending as far as it goes.
    async fn attempt(&mut self, run: &Run<'_>) -> Next {
        if self.pending.is_empty() {
            self.admit(run).await;
            if !self.pacer.is_idle() {
                self.pacer.passed(self.pending.done.len());
            }
            if self.pending.is_empty() {
                return Next::Yield;
            }
        }
        let waiting = self.parked.events.len();
        self.hold.lane_has(waiting + self.pending.done.len(), waiting, 0);
        self.say_what_runs();
        loop {
            if let Some((event, poison)) = &self.pending.dead {
                let why = &poison.why;
                let (stream, now) = (self.member.name(), self.member.now().wall);
                match self.dead_letters.write(stream, event, poison, now).await {
                    Ok(()) => {}
                    Err(error @ DeadLetterError::NoPlace) => {
                        return Next::Fail(format!("an event was refused ({why}) and {error}").into());
                    }
                    Err(error) => return Next::Again(None, error.to_string().into()),
                }
                tracing::warn!(%stream, reason = %why, "an event went to the dead letter");
                self.member.meter().add_dead_letters(1);
                self.pending.dead_count += 1;
                self.dead_row += 1;
                let why = why.clone();
                self.pending.dead = None;
                if self.dead_row >= DEAD_IN_A_ROW {
                    return self.give_up(&why).await;
                }
            }
            let from = self.pending.written;
            if from < self.pending.out.len() {
                let to = self
                    .pending
                    .out
                    .len()
                    .min(from.saturating_add(self.sink.batch().max(1)));
                let bound = self.sink.timeout();
                let events = &self.pending.out[from..to];
                let lines = self.pending.lines.as_ref();
                let lines = lines.filter(|_| events.len() == self.pending.out.len());
                let attempt = async {
                    match lines {
                        Some(lines) => self.sink.write_lines(events, lines).await,
                        None => self.sink.write(events).await,
                    }
                };
                match within(bound, attempt).await {
                    Ok(()) => {
                        self.pending.written = to;
                        self.dead_row = 0;
                    }
                    Err(SinkError::Retry { taken, after, why }) => {
                        self.took(taken, to);
                        return Next::Again(after, self.named(&why));
                    }
                    Err(SinkError::Reject { taken, why, detail }) => {
                        self.took(taken, to - 1);
                        let refused = self.pending.out[self.pending.written].clone();
                        let why = self.named(&why);
                        self.pending.dead = Some((refused, Poison { why, detail }));
                        self.pending.written += 1;
                    }
                    Err(SinkError::Fatal(why)) => return Next::Fail(self.named(&why)),
                }
                if self.pending.written < self.pending.out.len() && run.closing() {
                    return Next::Yield;
                }
            } else if let Some(poison) = self.pending.poison.take() {
                if self.pending.out.is_empty() && self.pending.done.len() > 1 {
                    // Those before it passed and had no output.
                    self.dead_row = 0;
                }
                self.pending.dead = Some(poison);
            } else {
                break;
            }
        }
        match self.settle.ack(&self.pending.done).await {
            Ok(()) => {}
            Err(SettleError::Retry(why)) => return Next::Again(None, why),
        }
        let passed = self.pending.done.len() - self.pending.dead_count;
        if passed > 0 && self.pending.out.is_empty() {
            self.dead_row = 0;
        }
        self.member.meter().add_events(passed as u64);
        self.pending.clear();
        if self.parked.is_empty() {
            self.recycle();
        }
        Next::Go
    }

    fn took(&mut self, taken: usize, most: usize) {
        if taken > 0 {
            self.dead_row = 0;
        }
        self.pending.written = (self.pending.written + taken).min(most);
    }

    /// Takes parked events through the stages, as many as one attempt carries.
    async fn admit(&mut self, run: &Run<'_>) {
        let most = self.sink.batch().max(1).min(self.allowed);
        let Pending {
            out,
            lines,
            done,
            poison,
            ..
        } = &mut self.pending;
        let may_lose = self.settle.may_lose();
        if self.stages.pass_through() && self.parked.faults.is_empty() && !may_lose {
            if run.closing() {
                return;
            }
            let n = self.parked.events.len().min(most);
            let whole = self.parked.lines.take();
            if n == self.parked.events.len() {
                // The whole batch changes hands without a copy; its room comes back by `recycle`.
                *out = std::mem::take(&mut self.parked.events).into();
                *lines = whole;
            } else {
                out.extend(self.parked.events.drain(..n));
            }
            done.extend(out.iter().map(|event| event.token));
            return;
        }
        while let Some(event) = self.parked.events.front() {
            if done.len() >= most || run.closing() {
                return;
            }
            if may_lose && !self.settle.claim(&event.token) {
                self.parked.events.pop_front();
                continue;
            }
            let before = out.len();
            let fault = match self.parked.faults.front() {
                Some((token, poison)) if *token == event.token => Err(poison.clone()),
                _ => self.stages.on(event, out).await,
            };
            done.push(event.token);
            match fault {
                Ok(()) => {
                    for (part, output) in (0..).zip(&mut out[before..]) {
                        output.token = Token { part, ..event.token };
                    }
                    self.parked.events.pop_front();
                }
                Err(why) => {
                    out.truncate(before);
                    if self
                        .parked
                        .faults
                        .front()
                        .is_some_and(|(token, _)| *token == event.token)
                    {
                        self.parked.faults.pop_front();
                    }
                    *poison = self.parked.events.pop_front().map(|event| (event, why));
                    return;
                }
            }
        }
    }

    /// Gives the room of a finished batch back to the pump.
    fn recycle(&mut self) {
        let mut batch = std::mem::take(&mut self.parked);
        if batch.events.capacity() == 0 {
            batch.events = VecDeque::from(std::mem::take(&mut self.pending.out));
        }
        self.hold.recycle(batch);
    }

    /// Too many dead letters in a row: acknowledges what is settled, and fails.
    async fn give_up(&mut self, why: &str) -> Next {
        self.settle_done().await;
        Next::Fail(format!("{DEAD_IN_A_ROW} dead letters in a row, the last: {why}").into())
    }

    /// How many of the pending events, from the first, are done with: the sink has them, or the dead letter.
    fn settled(&self) -> usize {
        let pending = &self.pending;
        let place = |token: &Token| {
            let same = |t: &Token| {
                Token {
                    part: token.part,
                    ..*t
                } == *token
            };
            pending.done.iter().position(same).unwrap_or(0)
        };
        match (&pending.dead, pending.out.get(pending.written)) {
            // Refused, and not written down yet.
            (Some((event, _)), _) => place(&event.token),
            (None, Some(next)) => place(&next.token),
            (None, None) => pending
                .done
                .len()
                .saturating_sub(usize::from(pending.poison.is_some())),
        }
    }

    /// Acknowledges what is done with of a batch that goes no further: given back, it would come a second time.
    async fn settle_done(&mut self) {
        let settled = self.settled();
        if settled == 0 {
            return;
        }
        if let Err(error) = self.settle.ack(&self.pending.done[..settled]).await {
            tracing::warn!(stream = %self.member.name(), %error, "not acknowledged; a restart repeats them");
        } else {
            let passed = settled.saturating_sub(self.pending.dead_count);
            self.member.meter().add_events(passed as u64);
            self.pending.done.drain(..settled);
        }
    }

    fn say_what_runs(&self) {
        let events = self.pending.out.len() - self.pending.written;
        let name = match events {
            1 => format!("write 1 event to {}", self.to),
            n => format!("write {n} events to {}", self.to),
        };
        self.member.meter().set_activity(Some(Running {
            name: name.into(),
            since: self.member.now().mono,
        }));
    }

    /// The tokens of everything unfinished, oldest first.
    fn leave(&mut self) -> Vec<Token> {
        let mut left = std::mem::take(&mut self.pending.done);
        left.extend(self.parked.events.drain(..).map(|event| event.token));
        for batch in self.hold.drain() {
            left.extend(batch.events.iter().map(|event| event.token));
        }
        self.hold.lane_has(0, 0, 0);
        left
    }
}

/// Drops an attempt when its time is over. A pause never does this: only the attempt's own time, or the end of
/// the grace, ends a write.
async fn within<F>(bound: Option<Duration>, attempt: F) -> Result<(), SinkError>
where
    F: Future<Output = Result<(), SinkError>>,
{
    let Some(bound) = bound else {
        return attempt.await;
    };
    match tokio::time::timeout(bound, attempt).await {
        Ok(result) => result,
        Err(_) => Err(SinkError::retry(format!(
            "no answer within {}",
            humantime::format_duration(bound)
        ))),
    }
}
