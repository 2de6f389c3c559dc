//! The one driver: source → stages → sink, asking the gate.
//!
//! Two loops in one task, and [the keeper of leases](crate::lease) beside them. The *pump* fetches into the hold and
//! never drops a fetch, whatever the gate says. The [*lane*](crate::lane) takes batches from the hold outside of any run,
//! enters its gate lane, takes events through all stages one by one, writes the outputs as one attempt, acknowledges,
//! and leaves. Between attempts nothing is in flight; what is pending then is held, and its stages are not run again.
use crate::dead_letter::DeadLetters;
use crate::event::{Fetched, Settle, Sink, Source, SourceError, Stages};
use crate::hold::{Demand, Hold, Limits};
use crate::lane::Worker;
use crate::lease::keep;
use crate::life::{Input, Part, backoff};
use crate::together::{together, turn};
use crate::vitals::Vitals;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tidegate_gate::{Member, Name};
use tokio_util::sync::CancellationToken;

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
    let vitals = Vitals::new(member);
    let settle = source.settle();
    let takes_back = source.takes_back();
    let mut worker = Worker::new(&hold, &vitals, quit.clone(), &source, stages, sink, dead_letters);
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
