//! Starting streams, watching them, and stopping them in the right order.
use crate::event::{Sink, Source, Stages};
use crate::stream::{Outcome, Pipeline, Report, drive_counted};
use futures_util::future::{BoxFuture, join_all};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tidegate_gate::{Cause, Controller, Holds, Life, Member, Name, Scope, Wish};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The longest that the board goes without a look at the wall clock, which may jump.
const LOOK: Duration = Duration::from_secs(1);

type Driver = Box<dyn FnOnce(Member, CancellationToken, Arc<AtomicU64>) -> BoxFuture<'static, Report> + Send>;

/// A stream that is built and stands on the board, and does not run yet.
pub struct Stream {
    member: Member,
    takes_back: bool,
    driver: Driver,
}

impl Stream {
    /// A stream of any pipeline, under the name of its place on the board.
    pub fn new<S: Source, G: Stages, K: Sink>(member: Member, pipeline: Pipeline<S, G, K>) -> Stream {
        Stream {
            member,
            takes_back: pipeline.source.takes_back(),
            driver: Box::new(|member, stop, unfinished| {
                Box::pin(async move { drive_counted(&member, pipeline, stop, unfinished).await })
            }),
        }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        self.member.name()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("name", self.name())
            .finish_non_exhaustive()
    }
}

/// The streams that run. Dropping it leaves them running; stop it.
#[derive(Debug)]
pub struct Supervisor {
    holds: Arc<Holds>,
    running: Vec<Running>,
    ended: watch::Receiver<usize>,
}

#[derive(Debug)]
struct Running {
    name: Name,
    member: Member,
    takes_back: bool,
    stop: CancellationToken,
    unfinished: Arc<AtomicU64>,
    task: JoinHandle<Report>,
}

impl Supervisor {
    /// The one place where streams are spawned. Place the holds that are to stand from the start before this.
    pub fn spawn(holds: Arc<Holds>, streams: Vec<Stream>) -> Supervisor {
        let (tell, ended) = watch::channel(0);
        let tell = Arc::new(tell);
        let start = |stream: Stream| {
            let stop = CancellationToken::new();
            let unfinished = Arc::new(AtomicU64::new(0));
            let name = stream.member.name().clone();
            let ended = Ended {
                tell: tell.clone(),
                member: stream.member.clone(),
            };
            let driver = (stream.driver)(stream.member.clone(), stop.clone(), unfinished.clone());
            let task = tokio::spawn(async move {
                let _ended = ended;
                driver.await
            });
            Running {
                name,
                member: stream.member,
                takes_back: stream.takes_back,
                stop,
                unfinished,
                task,
            }
        };
        Supervisor {
            holds,
            running: streams.into_iter().map(start).collect(),
            ended,
        }
    }

    /// Resolves when every stream has come to its own end or has failed. Cancel-safe.
    pub async fn all_ended(&self) {
        let all = self.running.len();
        // The sender lives until the last stream has told of its end.
        let _ = self.ended.clone().wait_for(|n| *n >= all).await;
    }

    /// Stops all streams: they fetch no more, finish what is in flight, acknowledge it, and give the rest back.
    ///
    /// Each gets the hold `stop`, at once where the source takes work back. Where it cannot (stdin) and the gate is
    /// open, what was read is written first; a gate that is held lets nothing through, and what was read is
    /// reported as `unreturned`. What has not finished after `grace` is dropped and reported as cut short.
    ///
    /// The reports come in the order of the streams.
    pub async fn stop(self, grace: Duration) -> Vec<Report> {
        let deadline = Instant::now() + grace;
        let holds = &self.holds;
        join_all(
            self.running
                .into_iter()
                .map(|stream| stream.stop(holds, deadline)),
        )
        .await
    }
}

impl Running {
    async fn stop(self, holds: &Holds, deadline: Instant) -> Report {
        let Running {
            name,
            member,
            takes_back,
            stop,
            unfinished,
            mut task,
        } = self;
        stop.cancel();
        let close = || {
            let wish = Wish {
                reason: Some("the process is stopping".into()),
                cause: Cause {
                    actor: Some("stop".into()),
                    ..Cause::default()
                },
                ..Wish::default()
            };
            // It is on the board, since it has a member.
            let _ = holds.place(&Controller::Stop, Scope::One(&name), wish);
        };
        if takes_back {
            close();
        }
        let result = tokio::time::timeout_at(deadline, &mut task).await;
        let lost = |outcome| Report {
            stream: name.clone(),
            outcome,
            given_back: 0,
            unreturned: if takes_back { 0 } else { unfinished.load(Relaxed) },
        };
        let report = match result {
            Ok(Ok(report)) => report,
            Ok(Err(error)) => lost(Outcome::Failed(format!("the stream panicked: {error}").into())),
            Err(_) => {
                task.abort();
                // Waits for the drop, so that nothing is written after the report.
                let _ = task.await;
                tracing::error!(stream = %name, "cut short: the shutdown grace is over and a write is not done");
                member.set_life(Life::Stopped);
                lost(Outcome::CutShort)
            }
        };
        close();
        report
    }
}

/// Tells of a stream's end, also when it ends by a panic.
struct Ended {
    tell: Arc<watch::Sender<usize>>,
    member: Member,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = "it panicked, which is a bug in tidegate or in a stage; the log has the message";
            self.member.set_life(Life::Failed { error: error.into() });
        }
        self.tell.send_modify(|n| *n += 1);
    }
}

/// Keeps the board true: turns the proofs of pauses into states, transitions and latencies as they happen, and
/// ends the control API's holds whose time has come. Runs until `stop` is cancelled; spawn it once.
pub async fn herald(holds: Arc<Holds>, stop: CancellationToken) {
    loop {
        // Taken before settling: a proof between the two would be missed otherwise.
        let proof = holds.proof();
        let next = holds.settle();
        // The wall clock may jump, so the wait for a moment of it is a short one; without such a moment there is nothing
        // to wake up for each second.
        let due = async {
            match next {
                Some(next) => tokio::time::sleep(next.min(LOOK)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = proof => {}
            () = due => {}
            () = stop.cancelled() => return,
        }
    }
}
