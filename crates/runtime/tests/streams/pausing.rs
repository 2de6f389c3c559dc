//! Paused means that nothing moves, and resumed that the very next event does.
use crate::rig::*;
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_gate::{Controller, Gate, Holds, Scope, State, Wish};
use tidegate_runtime::{
    Batch, Demand, Event, Fetched, Limits, MemorySink, Pipeline, Poison, Settle, SettleError, Sink, Source,
    SourceError, Stages, Token, memory,
};
use tokio::sync::Semaphore;

/// A system that can be paused, with one write under way that ends when `let_write_end` is called.
struct System {
    sink: Scripted,
    pause: Box<dyn Fn()>,
    claims_paused: Box<dyn Fn() -> bool>,
}

impl System {
    /// Whether anything landed after the system had claimed to be paused.
    async fn moves_while_paused(self) -> bool {
        let permits = self.sink.permits.clone().unwrap();
        permits.add_permits(3);
        self.sink.attempted(4).await;
        (self.pause)();
        let claimed_early = (self.claims_paused)().then(|| self.sink.payloads().len());
        permits.add_permits(100);
        soon("a claim", async {
            while !(self.claims_paused)() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let at_claim = claimed_early.unwrap_or_else(|| self.sink.payloads().len());
        // Everything that is able to move gets ample turns to do so.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        self.sink.payloads().len() != at_claim
    }
}

async fn fed(events: usize) -> tidegate_runtime::MemorySource {
    let (feeder, source) = memory(events);
    for payload in numbered(0..events) {
        feeder.send(payload).await;
    }
    source
}

fn one_by_one(gate: Gate) -> Scripted {
    let mut sink = Scripted::willing(gate);
    sink.permits = Some(Arc::new(Semaphore::new(0)));
    sink.batch = 1;
    sink
}

#[tokio::test]
async fn nothing_lands_between_paused_and_the_resume() {
    let board = Arc::new(Board::new());
    let member = board.member();
    let sink = one_by_one(member.gate());
    let (_stop, _task) = run(&member, pipeline(fed(50).await, (), sink.clone()));
    let (a, b) = (board.clone(), board.clone());
    let system = System {
        sink,
        pause: Box::new(move || a.pause()),
        claims_paused: Box::new(move || b.status().state == State::Paused),
    };
    assert!(!system.moves_while_paused().await);
}

#[tokio::test]
async fn twin_a_flag_that_is_only_looked_at_between_events_moves_while_paused() {
    let (gate, _keeper) = Gate::new("never closed");
    let sink = one_by_one(gate);
    let flag = Arc::new(AtomicBool::new(false));
    let (mut to, paused) = (sink.clone(), flag.clone());
    tokio::spawn(async move {
        for (n, payload) in numbered(0..50).into_iter().enumerate() {
            while paused.load(SeqCst) {
                tokio::task::yield_now().await;
            }
            to.write(&[event(n, payload)]).await.unwrap();
        }
    });
    let twin = flag.clone();
    let system = System {
        sink,
        pause: Box::new(move || flag.store(true, SeqCst)),
        claims_paused: Box::new(move || twin.load(SeqCst)),
    };
    assert!(
        system.moves_while_paused().await,
        "the check cannot tell a gate from a flag"
    );
}

fn event(n: usize, payload: Bytes) -> Event {
    Event {
        payload,
        key: None,
        token: Token {
            epoch: 0,
            partition: 0,
            position: n as u128,
            part: 0,
        },
    }
}

#[tokio::test]
async fn a_stream_is_pausing_and_says_what_runs_until_its_write_is_done() {
    let board = Board::new();
    let member = board.member();
    let sink = one_by_one(member.gate());
    let permits = sink.permits.clone().unwrap();
    let (_stop, _task) = run(&member, pipeline(fed(5).await, (), sink.clone()));
    sink.attempted(1).await;
    board.pause();
    let status = board.until_state(State::Pausing).await;
    assert_eq!(status.in_flight, 1);
    assert_eq!(status.running[0].name, "write 1 event to scripted");
    assert_eq!(status.held.events, 4, "what is in flight is not held");
    permits.add_permits(1);
    let status = board.until_state(State::Paused).await;
    assert_eq!((status.in_flight, status.events, status.held.events), (0, 1, 4));
    assert!(status.running.is_empty());
    assert!(status.held.oldest.is_some());
}

#[tokio::test]
async fn a_resumed_stream_goes_on_with_the_very_event_it_stopped_at() {
    let board = Board::new();
    let member = board.member();
    let sink = one_by_one(member.gate());
    let permits = sink.permits.clone().unwrap();
    let (_stop, _task) = run(&member, pipeline(fed(100).await, (), sink.clone()));
    permits.add_permits(10);
    sink.attempted(11).await;
    board.pause();
    permits.add_permits(1000);
    board.until_state(State::Paused).await;
    let stopped_at = sink.payloads().len();
    assert_eq!(stopped_at, 11);
    board.resume();
    sink.has(100).await;
    assert_eq!(sink.payloads(), numbered(0..100), "stopped at {stopped_at}");
    assert_eq!(
        board.until("all counted", |s| s.events == 100).await.held.events,
        0
    );
}

#[tokio::test]
async fn a_stream_that_starts_held_opens_and_moves_nothing() {
    let board = Board::new();
    let member = board.member();
    board.pause();
    let sink = Scripted::willing(member.gate());
    let (_stop, _task) = run(&member, pipeline(fed(10).await, (), sink.clone()));
    board
        .until("source and sink open", |s| s.life == tidegate_gate::Life::Up)
        .await;
    assert_eq!(board.status().state, State::Paused);
    assert_eq!(
        (sink.attempts(), board.status().held.events),
        (0, 0),
        "nothing was even fetched"
    );
    board.resume();
    sink.has(10).await;
}

/// Closes the gate in the middle of a batch, as an operator would.
struct CloseAt {
    at: usize,
    seen: Arc<AtomicUsize>,
    holds: Arc<Holds>,
}

impl Stages for CloseAt {
    async fn on(&mut self, event: &Event, out: &mut Vec<Event>) -> Result<(), Poison> {
        if self.seen.fetch_add(1, SeqCst) + 1 == self.at {
            self.holds
                .place(&Controller::Api, Scope::All, Wish::default())
                .unwrap();
        }
        out.push(event.clone());
        Ok(())
    }
}

#[tokio::test]
async fn a_pause_in_the_middle_of_a_batch_writes_what_was_admitted_and_shows_the_rest_no_stage() {
    let board = Board::new();
    let member = board.member();
    let sink = Scripted::willing(member.gate());
    let seen = Arc::new(AtomicUsize::new(0));
    let stages = CloseAt {
        at: 100,
        seen: seen.clone(),
        holds: board.holds.clone(),
    };
    let (_stop, _task) = run(&member, pipeline(fed(256).await, stages, sink.clone()));
    let status = board.until_state(State::Paused).await;
    assert_eq!((seen.load(SeqCst), sink.attempts()), (100, 1));
    assert_eq!(sink.payloads(), numbered(0..100));
    assert_eq!((status.events, status.held.events), (100, 156));
    board.resume();
    sink.has(256).await;
    assert_eq!(sink.payloads(), numbered(0..256));
    assert_eq!(seen.load(SeqCst), 256, "no event met a stage twice");
}

/// Always has more, and counts how often it is asked.
struct Firehose {
    requests: Arc<AtomicUsize>,
    position: u128,
}

#[derive(Clone)]
struct NoSettle;

impl Settle for NoSettle {
    async fn ack(&self, _: &[Token]) -> Result<(), SettleError> {
        Ok(())
    }
    async fn give_back(&self, _: &[Token]) -> Result<(), SettleError> {
        Ok(())
    }
}

impl Source for Firehose {
    type Settle = NoSettle;
    fn describe(&self) -> Arc<str> {
        "firehose".into()
    }
    fn settle(&self) -> NoSettle {
        NoSettle
    }
    async fn open(&mut self, _: u32) -> Result<(), SourceError> {
        Ok(())
    }
    async fn fetch(&mut self, demand: &Demand, into: &mut Batch) -> Result<Fetched, SourceError> {
        let Some(ask) = demand.wanted().await else {
            return Ok(Fetched::End);
        };
        self.requests.fetch_add(1, SeqCst);
        for _ in 0..ask.events.min(100) {
            self.position += 1;
            into.push(Event {
                payload: Bytes::from_static(&[b'x'; 1000]),
                key: None,
                token: Token {
                    epoch: 0,
                    partition: 0,
                    position: self.position,
                    part: 0,
                },
            });
        }
        Ok(Fetched::Events)
    }
}

#[tokio::test]
async fn a_firehose_fills_the_hold_and_not_the_memory() {
    for limits in [
        Limits {
            events: 500,
            bytes: usize::MAX,
            ..Limits::default()
        },
        Limits {
            events: usize::MAX,
            bytes: 500_000,
            ..Limits::default()
        },
    ] {
        let board = Board::new();
        let member = board.member();
        // A sink that never finishes: the hold fills behind it.
        let sink = one_by_one(member.gate());
        let requests = Arc::new(AtomicUsize::new(0));
        let source = Firehose {
            requests: requests.clone(),
            position: 0,
        };
        let (stop, task) = run(
            &member,
            Pipeline {
                limits,
                ..pipeline(source, (), sink.clone())
            },
        );
        sink.attempted(1).await;
        board.until("a full hold", |s| s.held.events + 1 >= 500).await;
        board.pause();
        let asked = requests.load(SeqCst);
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(requests.load(SeqCst), asked, "a full hold asks for nothing");
        assert!(
            board.status().held.events <= 500,
            "{limits:?}: {:?}",
            board.status().held
        );
        stop.cancel();
        sink.permits.clone().unwrap().add_permits(1);
        report(task).await;
    }
}

#[tokio::test]
async fn a_paused_stream_starts_no_request_though_the_hold_has_room() {
    let board = Board::new();
    let member = board.member();
    let requests = Arc::new(AtomicUsize::new(0));
    let source = Firehose {
        requests: requests.clone(),
        position: 0,
    };
    let sink = Scripted::willing(member.gate());
    let (_stop, _task) = run(&member, pipeline(source, (), sink.clone()));
    sink.has(1000).await;
    board.paused().await;
    let (asked, taken) = (requests.load(SeqCst), sink.payloads().len());
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!((requests.load(SeqCst), sink.payloads().len()), (asked, taken));
    board.resume();
    sink.has(taken + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_rapid_cycles_of_sixty_rows_keep_the_data_complete() {
    let board = Board::new();
    let member = board.member();
    let sink = Scripted::willing(member.gate());
    let (feeder, source) = memory(1000);
    let (_stop, _task) = run(&member, pipeline(source, (), sink.clone()));
    for cycle in 0..8 {
        board.pause();
        for payload in numbered(cycle * 60..(cycle + 1) * 60) {
            feeder.send(payload).await;
        }
        board.resume();
    }
    sink.has(480).await;
    assert_eq!(sink.payloads(), numbered(0..480));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twice_fifty_thousand_pauses_and_resumes_at_once_never_fail_and_lose_nothing() {
    let board = Arc::new(Board::new());
    let member = board.member();
    let sink = MemorySink::new();
    let (feeder, source) = memory(1000);
    let (_stop, task) = run(&member, pipeline(source, (), sink.clone()));
    let flip = |pause: bool| {
        let board = board.clone();
        tokio::spawn(async move {
            for _ in 0..50_000 {
                if pause {
                    board.pause()
                } else {
                    board.resume()
                }
                tokio::task::coop::consume_budget().await;
            }
        })
    };
    let flips = [flip(true), flip(false)];
    let feed = tokio::spawn(async move {
        for payload in numbered(0..20_000) {
            feeder.send(payload).await;
        }
    });
    for flip in flips {
        soon("50,000 flips", flip).await.unwrap();
    }
    board.resume();
    soon("all fed", feed).await.unwrap();
    report(task).await;
    let got: Vec<Bytes> = sink.events().into_iter().map(|e| e.payload).collect();
    assert_eq!(got.len(), 20_000);
    assert_eq!(got, numbered(0..20_000));
}

#[tokio::test]
async fn a_dropped_driver_leaves_its_gate_quiescent_and_its_events_unacknowledged() {
    let board = Board::new();
    let member = board.member();
    let sink = one_by_one(member.gate());
    let (feeder, source) = memory(10);
    for payload in numbered(0..10) {
        feeder.send(payload).await;
    }
    let (_stop, task) = run(&member, pipeline(source, (), sink.clone()));
    sink.attempted(1).await;
    board.pause();
    assert_eq!(board.status().state, State::Pausing);
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    board.until_state(State::Paused).await;
    assert_eq!(*feeder.acked().borrow(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pause_never_cancels_a_write() {
    let board = Board::new();
    let member = board.member();
    let sink = one_by_one(member.gate());
    let permits = sink.permits.clone().unwrap();
    let (_stop, _task) = run(&member, pipeline(fed(3).await, (), sink.clone()));
    sink.attempted(1).await;
    board.pause();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(board.status().state, State::Pausing);
    permits.add_permits(1);
    board.until_state(State::Paused).await;
    assert_eq!((sink.payloads(), sink.attempts()), (numbered(0..1), 1));
}

#[tokio::test]
async fn what_arrives_in_drops_while_an_attempt_is_under_way_goes_together_in_the_next() {
    let board = Board::new();
    let member = board.member();
    let (feeder, source) = memory(100);
    let sizes: Arc<Mutex<Vec<usize>>> = Arc::default();
    let seen = sizes.clone();
    let mut sink = Scripted::new(member.gate(), move |_, events| {
        seen.lock().unwrap().push(events.len());
        Act::Take
    });
    let permits = Arc::new(Semaphore::new(0));
    sink.permits = Some(permits.clone());
    let (stop, task) = run(&member, pipeline(source, (), sink.clone()));
    feeder.send("0").await;
    sink.attempted(1).await;
    for n in 1..=10_u64 {
        feeder.send(n.to_string()).await;
        board.until("it is held", |s| s.held.events == n).await;
    }
    permits.add_permits(10);
    sink.has(11).await;
    assert_eq!(*sizes.lock().unwrap(), [1, 10]);
    assert_eq!(sink.payloads(), numbered(0..11));
    stop.cancel();
    report(task).await;
}
