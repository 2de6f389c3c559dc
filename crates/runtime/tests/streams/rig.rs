//! A board, a stream on it, and a sink that does what a test says.
use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tidegate_gate::{
    Cause, Clock, Controller, Gate, Holds, Kind, Life, Member, Moment, Phase, Scope, State, StreamStatus,
    Wish,
};
use tidegate_runtime::{
    DeadLetters, Event, Limits, MemorySink, Outcome, Pipeline, Report, Sink, SinkError, Source, Stages,
    Stream, Supervisor, drive, herald,
};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes; only a hang meets it.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LONG, wait).await {
        Ok(done) => done,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

pub(crate) struct Board {
    pub(crate) holds: Arc<Holds>,
    _herald: JoinHandle<()>,
}

impl Board {
    pub(crate) fn new() -> Board {
        let holds = Holds::new(Clock::new(|| Moment {
            wall: SystemTime::now(),
            mono: tokio::time::Instant::now().into_std(),
        }));
        Board {
            _herald: tokio::spawn(herald(holds.clone(), CancellationToken::new())),
            holds,
        }
    }

    pub(crate) fn member(&self) -> Member {
        self.holds.register("s", Kind::Stream).unwrap()
    }

    pub(crate) fn pause(&self) {
        self.holds
            .place(&Controller::Api, Scope::All, Wish::default())
            .unwrap();
    }

    pub(crate) fn resume(&self) {
        self.holds
            .release(&Controller::Api, Scope::All, &Cause::default())
            .unwrap();
    }

    pub(crate) fn status(&self) -> StreamStatus {
        self.holds.snapshot().streams[0].clone()
    }

    pub(crate) async fn until(&self, what: &str, is: impl Fn(&StreamStatus) -> bool) -> StreamStatus {
        let mut watch = self.holds.watch();
        soon(what, async {
            loop {
                let status = self.status();
                if is(&status) {
                    return status;
                }
                // Counters alone wake nobody, so look again now and then.
                let _ = tokio::time::timeout(Duration::from_millis(5), watch.changed()).await;
            }
        })
        .await
    }

    pub(crate) async fn until_state(&self, state: State) -> StreamStatus {
        self.until(state.word(), |s| s.state == state).await
    }

    /// Pauses and waits for the proof.
    pub(crate) async fn paused(&self) -> StreamStatus {
        self.pause();
        self.until_state(State::Paused).await
    }
}

/// What a sink does with one attempt.
pub(crate) enum Act {
    Take,
    /// Takes so many and fails.
    Fail(usize),
    Reject(usize),
    Hang,
    Fatal,
}

type Script = Box<dyn FnMut(usize, &[Event]) -> Act + Send>;

/// A memory sink that follows a script, attempt by attempt (counted from 0), and never writes past a proven pause.
#[derive(Clone)]
pub(crate) struct Scripted {
    pub(crate) taken: MemorySink,
    pub(crate) attempts: Arc<AtomicUsize>,
    pub(crate) permits: Option<Arc<Semaphore>>,
    pub(crate) batch: usize,
    pub(crate) timeout: Duration,
    script: Arc<Mutex<Script>>,
    gate: Gate,
}

impl Scripted {
    pub(crate) fn new(gate: Gate, script: impl FnMut(usize, &[Event]) -> Act + Send + 'static) -> Scripted {
        Scripted {
            taken: MemorySink::new(),
            attempts: Arc::default(),
            permits: None,
            batch: 1024,
            timeout: Duration::from_secs(10),
            script: Arc::new(Mutex::new(Box::new(script))),
            gate,
        }
    }

    pub(crate) fn willing(gate: Gate) -> Scripted {
        Scripted::new(gate, |_, _| Act::Take)
    }

    pub(crate) fn attempts(&self) -> usize {
        self.attempts.load(SeqCst)
    }

    pub(crate) fn payloads(&self) -> Vec<Bytes> {
        self.taken.events().into_iter().map(|e| e.payload).collect()
    }

    pub(crate) async fn has(&self, n: usize) {
        let mut count = self.taken.count();
        soon(&format!("{n} events at the sink"), count.wait_for(|c| *c >= n))
            .await
            .unwrap();
    }

    pub(crate) async fn attempted(&self, n: usize) {
        soon(&format!("{n} attempts"), async {
            while self.attempts() < n {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

impl Sink for Scripted {
    fn describe(&self) -> Arc<str> {
        "scripted".into()
    }

    fn batch(&self) -> usize {
        self.batch
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.timeout)
    }

    async fn write(&mut self, events: &[Event]) -> Result<(), SinkError> {
        assert_ne!(
            self.gate.sight().phase,
            Phase::Paused,
            "a write began in a proven pause"
        );
        let attempt = self.attempts.fetch_add(1, SeqCst);
        if let Some(permits) = &self.permits {
            permits.acquire().await.unwrap().forget();
        }
        let act = (self.script.lock().unwrap())(attempt, events);
        let why = || "as scripted".into();
        let result = match act {
            Act::Take => self.taken.write(events).await,
            Act::Fail(taken) => {
                self.taken.write(&events[..taken]).await?;
                Err(SinkError::Retry {
                    taken,
                    after: None,
                    why: why(),
                })
            }
            Act::Reject(taken) => {
                self.taken.write(&events[..taken]).await?;
                Err(SinkError::Reject {
                    taken,
                    why: why(),
                    detail: None,
                })
            }
            Act::Hang => std::future::pending().await,
            Act::Fatal => Err(SinkError::Fatal(why())),
        };
        assert_ne!(
            self.gate.sight().phase,
            Phase::Paused,
            "a write ended in a proven pause"
        );
        result
    }
}

pub(crate) fn pipeline<S, G, K>(source: S, stages: G, sink: K) -> Pipeline<S, G, K> {
    Pipeline {
        source,
        stages,
        sink,
        dead_letters: DeadLetters::none(),
        limits: Limits::default(),
    }
}

/// Drives in a task; cancelling the token stops it.
pub(crate) fn run<S: Source, G: Stages, K: Sink>(
    member: &Member,
    pipeline: Pipeline<S, G, K>,
) -> (CancellationToken, JoinHandle<Report>) {
    let stop = CancellationToken::new();
    let (member, token) = (member.clone(), stop.clone());
    (
        stop,
        tokio::spawn(async move { drive(&member, pipeline, token).await }),
    )
}

pub(crate) async fn report(task: JoinHandle<Report>) -> Report {
    soon("the end of the stream", task).await.unwrap()
}

pub(crate) fn supervise<S: Source, G: Stages, K: Sink>(
    board: &Board,
    member: &Member,
    pipeline: Pipeline<S, G, K>,
) -> Supervisor {
    Supervisor::spawn(board.holds.clone(), vec![Stream::new(member.clone(), pipeline)])
}

pub(crate) fn numbered(range: std::ops::Range<usize>) -> Vec<Bytes> {
    range.map(|n| Bytes::from(n.to_string())).collect()
}

pub(crate) fn is_failed(life: &Life) -> bool {
    matches!(life, Life::Failed { .. })
}

pub(crate) fn failure(report: &Report) -> &str {
    match &report.outcome {
        Outcome::Failed(error) => error,
        other => panic!("expected a failure, got {other:?}"),
    }
}
