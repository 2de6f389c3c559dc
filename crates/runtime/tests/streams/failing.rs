//! What breaks is tried again, in order and behind closed gates; what nobody can take goes to the dead letter.
use crate::rig::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tidegate_gate::{Life, State};
use tidegate_runtime::{
    Batch, DeadLetters, Demand, Event, Fetched, MemorySettle, MemorySource, Outcome, Pipeline, Poison,
    Settle, Source, SourceError, Stage, Stages, memory,
};

async fn fed(events: usize) -> (tidegate_runtime::Feeder, MemorySource) {
    let (feeder, source) = memory(events);
    for payload in numbered(0..events) {
        feeder.send(payload).await;
    }
    (feeder, source)
}

/// Counts how often events meet it.
struct Counting(Arc<AtomicUsize>);
impl Stages for Counting {
    async fn on(&mut self, event: &Event, out: &mut Vec<Event>) -> Result<(), Poison> {
        self.0.fetch_add(1, SeqCst);
        out.push(event.clone());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_fails_is_tried_again_with_what_it_did_not_take_and_stages_run_once() {
    let board = Board::new();
    let member = board.member();
    // Fails after 0, 1, 2 … of what is offered, every other time.
    let sink = Scripted::new(member.gate(), |n, events| match n % 2 {
        0 => Act::Fail((n / 2).min(events.len() - 1)),
        _ => Act::Take,
    });
    let met = Arc::new(AtomicUsize::new(0));
    let (feeder, source) = fed(30).await;
    let mut limited = sink.clone();
    limited.batch = 7;
    let (_stop, _task) = run(&member, pipeline(source, Counting(met.clone()), limited));
    sink.has(30).await;
    assert_eq!(sink.payloads(), numbered(0..30));
    assert_eq!(met.load(SeqCst), 30);
    soon("all acknowledged", feeder.acked().wait_for(|n| *n == 30))
        .await
        .unwrap();
    assert_eq!(board.status().life, Life::Up);
}

#[tokio::test(start_paused = true)]
async fn between_attempts_nothing_is_in_flight_and_a_closed_gate_stops_the_retries() {
    let board = Board::new();
    let member = board.member();
    let works = Arc::new(AtomicUsize::new(0));
    let switch = works.clone();
    let sink = Scripted::new(member.gate(), move |_, _| match switch.load(SeqCst) {
        0 => Act::Fail(0),
        _ => Act::Take,
    });
    let (feeder, source) = fed(3).await;
    let (_stop, _task) = run(&member, pipeline(source, (), sink.clone()));
    let status = board
        .until("a retry", |s| matches!(s.life, Life::Retrying { attempt: 3, .. }))
        .await;
    assert!(
        status.life.error().unwrap().contains("scripted"),
        "{:?}",
        status.life
    );
    let status = board.paused().await;
    assert_eq!(
        (status.in_flight, status.held.events),
        (0, 3),
        "what was tried is held again"
    );
    let attempts = sink.attempts();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(sink.attempts(), attempts, "nothing is tried while paused");
    works.store(1, SeqCst);
    board.resume();
    sink.has(3).await;
    assert_eq!(sink.payloads(), numbered(0..3));
    soon("acknowledged", feeder.acked().wait_for(|n| *n == 3))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dead_destination_keeps_a_stream_pausing_no_longer_than_one_attempt() {
    let board = Board::new();
    let member = board.member();
    let sink = Scripted::new(member.gate(), |n, _| if n == 0 { Act::Hang } else { Act::Take });
    let (_feeder, source) = fed(3).await;
    let (_stop, _task) = run(&member, pipeline(source, (), sink.clone()));
    sink.attempted(1).await;
    let began = tokio::time::Instant::now();
    board.pause();
    assert_eq!(board.status().state, State::Pausing);
    let status = board.until_state(State::Paused).await;
    assert!(
        began.elapsed() <= Duration::from_secs(11),
        "{:?}",
        began.elapsed()
    );
    assert!(
        status.life.error().unwrap().contains("no answer within 10s"),
        "{:?}",
        status.life
    );
    board.resume();
    sink.has(3).await;
    assert_eq!(sink.payloads(), numbered(0..3));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_refused_goes_to_the_dead_letter_and_the_next_goes_on() {
    let board = Board::new();
    let member = board.member();
    let dir = tempfile::tempdir().unwrap();
    let letters = dir.path().join("dead.jsonl");
    let sink = Scripted::new(
        member.gate(),
        |n, _| if n == 0 { Act::Reject(4) } else { Act::Take },
    );
    let (feeder, source) = fed(10).await;
    let (_stop, _task) = run(
        &member,
        Pipeline {
            dead_letters: DeadLetters::at(&letters),
            ..pipeline(source, (), sink.clone())
        },
    );
    soon("all acknowledged", feeder.acked().wait_for(|n| *n == 10))
        .await
        .unwrap();
    let mut expected = numbered(0..10);
    expected.remove(4);
    assert_eq!(sink.payloads(), expected);
    let text = std::fs::read_to_string(&letters).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(
        (line["payload"].as_str(), line["stream"].as_str()),
        (Some("4"), Some("s"))
    );
    assert_eq!(line["reason"], "scripted: as scripted");
    let status = board.until("counted", |s| s.events == 9).await;
    assert_eq!(status.dead_letters, 1);
}

#[tokio::test]
async fn without_a_place_for_dead_letters_the_stream_fails_and_acknowledges_nothing() {
    let board = Board::new();
    let member = board.member();
    let sink = Scripted::new(member.gate(), |_, _| Act::Reject(0));
    let (feeder, source) = fed(3).await;
    let (_stop, task) = run(&member, pipeline(source, (), sink));
    let report = report(task).await;
    assert!(failure(&report).contains("set state_dir"), "{report:?}");
    assert_eq!(report.given_back, 3);
    assert_eq!(*feeder.acked().borrow(), 0);
    assert_eq!(board.status().state, State::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_cannot_be_written_holds_its_event() {
    let board = Board::new();
    let member = board.member();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("not there yet");
    let sink = Scripted::new(
        member.gate(),
        |n, _| if n == 0 { Act::Reject(0) } else { Act::Take },
    );
    let (feeder, source) = fed(3).await;
    let (_stop, _task) = run(
        &member,
        Pipeline {
            dead_letters: DeadLetters::at(folder.join("dead.jsonl")),
            ..pipeline(source, (), sink.clone())
        },
    );
    let status = board
        .until("a retry", |s| matches!(s.life, Life::Retrying { .. }))
        .await;
    assert!(
        status.life.error().unwrap().contains("dead.jsonl"),
        "{:?}",
        status.life
    );
    assert_eq!(*feeder.acked().borrow(), 0);
    board.paused().await;
    std::fs::create_dir(&folder).unwrap();
    board.resume();
    soon("all acknowledged", feeder.acked().wait_for(|n| *n == 3))
        .await
        .unwrap();
    assert_eq!(sink.payloads(), numbered(1..3));
}

#[tokio::test]
async fn twenty_dead_letters_in_a_row_fail_the_stream_and_nineteen_do_not() {
    for (bad, fails) in [(19, false), (20, true)] {
        for batch in [1, 7, 1024] {
            let board = Board::new();
            let member = board.member();
            let dir = tempfile::tempdir().unwrap();
            let letters = dir.path().join("dead.jsonl");
            let mut sink = Scripted::new(member.gate(), move |_, events| {
                let wrong = |e: &Event| {
                    let n: usize = std::str::from_utf8(&e.payload).unwrap().parse().unwrap();
                    (5..5 + bad).contains(&n) || (30..30 + bad).contains(&n)
                };
                events.iter().position(wrong).map_or(Act::Take, Act::Reject)
            });
            sink.batch = batch;
            let (feeder, source) = fed(60).await;
            drop(sink.permits.take());
            let (_stop, task) = run(
                &member,
                Pipeline {
                    dead_letters: DeadLetters::at(&letters),
                    ..pipeline(source, (), sink.clone())
                },
            );
            if fails {
                let report = report(task).await;
                assert!(
                    failure(&report).contains("20 dead letters in a row"),
                    "{report:?}"
                );
                assert_eq!(
                    *feeder.acked().borrow(),
                    25,
                    "what is settled is acknowledged, batch {batch}"
                );
                assert_eq!(sink.payloads(), numbered(0..5));
                assert_eq!(report.given_back, 35);
            } else {
                soon("all acknowledged", feeder.acked().wait_for(|n| *n == 60))
                    .await
                    .unwrap();
                assert_eq!(sink.payloads().len(), 60 - 2 * bad);
                assert!(!is_failed(&board.status().life));
            }
        }
    }
}

/// Refuses every third event, drops every third, passes every third.
struct Picky;
impl Stage for Picky {
    fn on(&mut self, event: &Event, out: &mut Vec<Event>) -> Result<(), Poison> {
        let n: usize = std::str::from_utf8(&event.payload).unwrap().parse().unwrap();
        match n % 3 {
            0 => {
                out.push(event.clone());
                Err(Poison::new("divisible by three"))
            }
            1 => Ok(()),
            _ => {
                out.push(event.clone());
                out.push(event.clone());
                Ok(())
            }
        }
    }
}

#[tokio::test]
async fn a_stage_may_drop_double_or_refuse_and_each_event_is_settled_once() {
    let board = Board::new();
    let member = board.member();
    let dir = tempfile::tempdir().unwrap();
    let letters = dir.path().join("dead.jsonl");
    let sink = Scripted::willing(member.gate());
    let (feeder, source) = fed(90).await;
    let stages: Vec<Box<dyn Stage>> = vec![Box::new(Picky)];
    let (_stop, _task) = run(
        &member,
        Pipeline {
            dead_letters: DeadLetters::at(&letters),
            ..pipeline(source, stages, sink.clone())
        },
    );
    soon("all acknowledged", feeder.acked().wait_for(|n| *n == 90))
        .await
        .unwrap();
    let got = sink.taken.events();
    let payloads: Vec<String> = got
        .iter()
        .map(|e| String::from_utf8(e.payload.to_vec()).unwrap())
        .collect();
    let expected: Vec<String> = (0..90)
        .filter(|n| n % 3 == 2)
        .flat_map(|n| [n.to_string(), n.to_string()])
        .collect();
    assert_eq!(payloads, expected, "the outputs of a refused event are dropped");
    assert_eq!(
        (got[0].token.part, got[1].token.part),
        (0, 1),
        "two outputs of one event can be told apart"
    );
    assert_eq!(std::fs::read_to_string(&letters).unwrap().lines().count(), 30);
    let status = board.until("counted", |s| s.events == 60).await;
    assert_eq!(status.dead_letters, 30, "thirty, but never twenty in a row");
    assert!(!is_failed(&status.life));
}

#[tokio::test]
async fn a_sink_that_is_done_for_fails_the_stream_and_gives_everything_back() {
    let board = Board::new();
    let member = board.member();
    let sink = Scripted::new(member.gate(), |_, _| Act::Fatal);
    let (feeder, source) = fed(3).await;
    let (_stop, task) = run(&member, pipeline(source, (), sink));
    let report = report(task).await;
    assert_eq!(
        (failure(&report), report.given_back),
        ("scripted: as scripted", 3)
    );
    assert_eq!(*feeder.acked().borrow(), 0);
}

/// A memory source that breaks when told to, and remembers its epochs.
struct Fragile {
    inner: MemorySource,
    breaks: Arc<AtomicUsize>,
    open_fails: Arc<AtomicUsize>,
    epoch: Arc<AtomicU32>,
    broken: Arc<tokio::sync::Notify>,
}

impl Source for Fragile {
    type Settle = MemorySettle;
    fn describe(&self) -> Arc<str> {
        "fragile".into()
    }
    fn settle(&self) -> MemorySettle {
        self.inner.settle()
    }
    async fn open(&mut self, epoch: u32) -> Result<(), SourceError> {
        self.epoch.store(epoch, SeqCst);
        let fails = |n: usize| n.checked_sub(1);
        if self.open_fails.fetch_update(SeqCst, SeqCst, fails).is_ok() {
            return Err(SourceError::Broke("no connection".into()));
        }
        self.inner.open(epoch).await
    }
    async fn fetch(&mut self, demand: &Demand, into: &mut Batch) -> Result<Fetched, SourceError> {
        tokio::select! {
            biased;
            () = self.broken.notified() => {
                self.breaks.fetch_add(1, SeqCst);
                Err(SourceError::Broke("connection lost".into()))
            }
            fetched = self.inner.fetch(demand, into) => fetched,
        }
    }
}

fn fragile(inner: MemorySource) -> (Fragile, Arc<tokio::sync::Notify>, Arc<AtomicU32>) {
    let (broken, epoch) = (Arc::new(tokio::sync::Notify::new()), Arc::new(AtomicU32::new(0)));
    let source = Fragile {
        inner,
        breaks: Arc::default(),
        open_fails: Arc::default(),
        epoch: epoch.clone(),
        broken: broken.clone(),
    };
    (source, broken, epoch)
}

#[tokio::test(start_paused = true)]
async fn a_source_that_breaks_while_paused_is_opened_again_and_wedges_nothing() {
    let board = Board::new();
    let member = board.member();
    let (_feeder, source) = fed(10).await;
    let (source, broken, epoch) = fragile(source);
    source.open_fails.store(3, SeqCst);
    let mut sink = Scripted::willing(member.gate());
    sink.permits = Some(Arc::new(tokio::sync::Semaphore::new(0)));
    sink.batch = 1;
    let permits = sink.permits.clone().unwrap();
    let (_stop, _task) = run(&member, pipeline(source, (), sink.clone()));
    sink.attempted(1).await;
    assert_eq!(epoch.load(SeqCst), 4, "three openings failed");
    board.pause();
    permits.add_permits(1);
    board.until_state(State::Paused).await;
    broken.notify_one();
    board
        .until("the next opening", |s| {
            epoch.load(SeqCst) == 5 && s.life == Life::Up
        })
        .await;
    assert_eq!(
        board.status().held.events,
        0,
        "what was held is the source's again"
    );
    permits.add_permits(100);
    board.resume();
    sink.has(10).await;
    assert_eq!(
        sink.payloads(),
        numbered(0..10),
        "each once, as no attempt failed"
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_that_breaks_during_a_write_waits_for_it_and_repeats_nothing() {
    let board = Board::new();
    let member = board.member();
    let (_feeder, source) = fed(10).await;
    let (source, broken, epoch) = fragile(source);
    let mut sink = Scripted::willing(member.gate());
    sink.permits = Some(Arc::new(tokio::sync::Semaphore::new(0)));
    sink.batch = 4;
    let permits = sink.permits.clone().unwrap();
    let (_stop, _task) = run(&member, pipeline(source, (), sink.clone()));
    sink.attempted(1).await;
    broken.notify_one();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        epoch.load(SeqCst),
        1,
        "not opened again while its events are being written"
    );
    permits.add_permits(100);
    sink.has(10).await;
    assert_eq!(sink.payloads(), numbered(0..10));
    assert!(epoch.load(SeqCst) >= 2);
}

#[tokio::test]
async fn acknowledgements_of_an_earlier_opening_are_ignored() {
    let (feeder, mut source) = fed(10).await;
    let board = Board::new();
    let member = board.member();
    // Fetch once in epoch 1 through a stream, keep the tokens, and open again.
    let sink = Scripted::new(member.gate(), |_, _| Act::Fatal);
    source.open(1).await.unwrap();
    let settle = source.settle();
    let old: Vec<_> = (0..5u32)
        .map(|n| tidegate_runtime::Token {
            epoch: 1,
            partition: 0,
            position: n.into(),
            part: 0,
        })
        .collect();
    source.open(2).await.unwrap();
    settle.ack(&old).await.unwrap();
    assert_eq!(*feeder.acked().borrow(), 0);
    let (_stop, task) = run(&member, pipeline(source, (), sink));
    assert!(matches!(report(task).await.outcome, Outcome::Failed(_)));
}
