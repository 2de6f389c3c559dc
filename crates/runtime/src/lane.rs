//! The lane: takes what the pump has brought through the gate, the stages and the sink, attempt by attempt.
//!
//! A batch is taken from the hold outside of any run; inside one, events meet all stages one by one, the outputs are
//! written as one attempt, and acknowledged. Between attempts nothing is in flight, and a closed gate starts none.
use crate::dead_letter::{DeadLetterError, DeadLetters};
use crate::event::{Batch, Poison, Settle, SettleError, Sink, SinkError, Source, Stages, Token};
use crate::hold::{Hold, Turn};
use crate::life::Part;
use crate::pace::Pacer;
use crate::pending::Pending;
use crate::vitals::Vitals;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tidegate_gate::{Member, Name, Run, Running};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// So many dead letters in a row, and the stream has failed: whatever is wrong, it is not the single event.
const DEAD_IN_A_ROW: u32 = 20;

/// A sink that asks for more time than this gets this much.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

enum Next {
    Go,
    /// Nothing more in this run; the sink works as far as anybody knows.
    Yield,
    Again(Option<Duration>, Name),
    Fail(Name),
}

pub(crate) struct Worker<'a, T, G, K> {
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

impl<'a, T: Settle, G: Stages, K: Sink> Worker<'a, T, G, K> {
    pub(crate) fn new(
        hold: &'a Arc<Hold>,
        vitals: &'a Vitals<'a>,
        quit: CancellationToken,
        source: &impl Source<Settle = T>,
        stages: G,
        sink: K,
        dead_letters: DeadLetters,
    ) -> Worker<'a, T, G, K> {
        Worker {
            member: hold.member(),
            hold,
            settle: source.settle(),
            stages,
            to: sink.describe(),
            sink,
            sink_open: false,
            dead_letters,
            vitals,
            quit,
            takes_back: source.takes_back(),
            turn: Turn::default(),
            parked: Batch::default(),
            pending: Pending::default(),
            dead_row: 0,
            pacer: Pacer::new(hold.pace()),
            allowed: usize::MAX,
        }
    }

    pub(crate) async fn run(&mut self) {
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

    /// Acknowledges what is done with of a batch that goes no further: given back, it would come a second time.
    pub(crate) async fn settle_done(&mut self) {
        let settled = self.pending.settled();
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
    pub(crate) fn leave(&mut self) -> Vec<Token> {
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
