//! Stop means stop: nothing passes a closed gate, what is in flight finishes, the rest goes back.
use crate::rig::*;
use std::sync::Arc;
use std::time::Duration;
use tidegate_gate::{Controller, State};
use tidegate_runtime::{
    Batch, Demand, Event, Fetched, MemorySettle, MemorySource, Outcome, Poison, Report, Source, SourceError,
    Stages, memory,
};
use tokio::sync::Semaphore;

const GRACE: Duration = Duration::from_secs(25);

fn gated(board: &Board) -> (tidegate_gate::Member, Scripted, Arc<Semaphore>) {
    let member = board.member();
    let mut sink = Scripted::willing(member.gate());
    let permits = Arc::new(Semaphore::new(0));
    sink.permits = Some(permits.clone());
    sink.batch = 1;
    (member, sink, permits)
}

async fn fed(events: usize) -> (tidegate_runtime::Feeder, MemorySource) {
    let (feeder, source) = memory(events);
    for payload in numbered(0..events) {
        feeder.send(payload).await;
    }
    (feeder, source)
}

fn only(mut reports: Vec<Report>) -> Report {
    assert_eq!(reports.len(), 1);
    reports.remove(0)
}

/// A memory source that, like a pipe, cannot take back.
struct Pipe(MemorySource);
impl Source for Pipe {
    type Settle = MemorySettle;
    fn describe(&self) -> Arc<str> {
        "pipe".into()
    }
    fn settle(&self) -> MemorySettle {
        self.0.settle()
    }
    fn takes_back(&self) -> bool {
        false
    }
    async fn open(&mut self, epoch: u32) -> Result<(), SourceError> {
        self.0.open(epoch).await
    }
    async fn fetch(&mut self, demand: &Demand, into: &mut Batch) -> Result<Fetched, SourceError> {
        self.0.fetch(demand, into).await
    }
}

#[tokio::test]
async fn stopping_while_paused_lets_no_event_through_and_gives_everything_back() {
    let board = Board::new();
    let (member, sink, permits) = gated(&board);
    let (feeder, source) = fed(10).await;
    let supervisor = supervise(&board, &member, pipeline(source, (), sink.clone()));
    sink.attempted(1).await;
    board.pause();
    permits.add_permits(100);
    board.until_state(State::Paused).await;
    let report = only(soon("stopped", supervisor.stop(GRACE)).await);
    assert_eq!(
        (report.outcome, report.given_back, report.unreturned),
        (Outcome::Stopped, 9, 0)
    );
    assert_eq!((sink.payloads(), *feeder.acked().borrow()), (numbered(0..1), 1));
    let status = board.status();
    assert_eq!(status.state, State::Stopped);
    assert!(status.holds.iter().any(|(c, _)| *c == Controller::Stop));
}

#[tokio::test]
async fn stopping_while_running_finishes_what_is_in_flight_and_acknowledges_it() {
    let board = Board::new();
    let (member, sink, permits) = gated(&board);
    let (feeder, source) = fed(10).await;
    let supervisor = supervise(&board, &member, pipeline(source, (), sink.clone()));
    permits.add_permits(3);
    sink.attempted(4).await;
    let stopping = tokio::spawn(supervisor.stop(GRACE));
    let status = board.until_state(State::Draining).await;
    assert_eq!(status.in_flight, 1);
    permits.add_permits(1);
    let report = only(soon("stopped", stopping).await.unwrap());
    assert_eq!(
        (report.outcome, report.given_back, report.unreturned),
        (Outcome::Stopped, 6, 0)
    );
    assert_eq!((sink.payloads(), *feeder.acked().borrow()), (numbered(0..4), 4));
}

#[tokio::test]
async fn what_cannot_be_given_back_is_written_out_while_the_gate_is_open() {
    let board = Board::new();
    let (member, sink, permits) = gated(&board);
    let (_feeder, source) = fed(10).await;
    let supervisor = supervise(&board, &member, pipeline(Pipe(source), (), sink.clone()));
    sink.attempted(1).await;
    let stopping = tokio::spawn(supervisor.stop(GRACE));
    board.until_state(State::Draining).await;
    permits.add_permits(100);
    let report = only(soon("stopped", stopping).await.unwrap());
    assert_eq!(
        (report.outcome, report.given_back, report.unreturned),
        (Outcome::Stopped, 0, 0)
    );
    assert_eq!(sink.payloads(), numbered(0..10));
}

#[tokio::test]
async fn what_cannot_be_given_back_is_counted_when_the_gate_is_closed() {
    let board = Board::new();
    let (member, sink, permits) = gated(&board);
    let (_feeder, source) = fed(10).await;
    let supervisor = supervise(&board, &member, pipeline(Pipe(source), (), sink.clone()));
    sink.attempted(1).await;
    board.pause();
    permits.add_permits(100);
    board.until_state(State::Paused).await;
    let report = only(soon("stopped", supervisor.stop(GRACE)).await);
    assert_eq!(
        (report.outcome, report.given_back, report.unreturned),
        (Outcome::Stopped, 0, 9)
    );
    assert_eq!(
        sink.payloads(),
        numbered(0..1),
        "not one event passed the closed gate"
    );
}

#[tokio::test]
async fn a_pause_during_the_stop_ends_the_writing_out() {
    let board = Board::new();
    let (member, sink, permits) = gated(&board);
    let (_feeder, source) = fed(10).await;
    let supervisor = supervise(&board, &member, pipeline(Pipe(source), (), sink.clone()));
    sink.attempted(1).await;
    let stopping = tokio::spawn(supervisor.stop(GRACE));
    board.until_state(State::Draining).await;
    permits.add_permits(2);
    sink.attempted(3).await;
    board.pause();
    permits.add_permits(100);
    let report = only(soon("stopped", stopping).await.unwrap());
    assert_eq!((report.outcome, report.unreturned), (Outcome::Stopped, 7));
    assert_eq!(sink.payloads(), numbered(0..3));
}

#[tokio::test(start_paused = true)]
async fn only_the_end_of_the_grace_drops_a_write_and_it_is_never_called_paused() {
    for (source_takes_back, unreturned) in [(true, 0), (false, 10)] {
        let board = Board::new();
        let (member, mut sink, _permits) = gated(&board);
        sink.timeout = Duration::from_secs(3600);
        let (feeder, source) = fed(10).await;
        let supervisor = match source_takes_back {
            true => supervise(&board, &member, pipeline(source, (), sink.clone())),
            false => supervise(&board, &member, pipeline(Pipe(source), (), sink.clone())),
        };
        sink.attempted(1).await;
        let began = tokio::time::Instant::now();
        let report = only(supervisor.stop(GRACE).await);
        assert_eq!(began.elapsed().as_secs(), GRACE.as_secs());
        assert_eq!(
            (report.outcome, report.unreturned),
            (Outcome::CutShort, unreturned)
        );
        assert_eq!(board.status().state, State::Stopped);
        assert_eq!(*feeder.acked().borrow(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_refuses_during_the_stop_gives_its_work_back_at_once() {
    let board = Board::new();
    let member = board.member();
    let sink = Scripted::new(member.gate(), |_, _| Act::Fail(0));
    let (_feeder, source) = fed(10).await;
    let supervisor = supervise(&board, &member, pipeline(source, (), sink.clone()));
    sink.attempted(6).await;
    let began = tokio::time::Instant::now();
    let report = only(supervisor.stop(GRACE).await);
    assert_eq!((report.outcome, report.given_back), (Outcome::Stopped, 10));
    assert!(
        began.elapsed() < Duration::from_millis(100),
        "{:?}",
        began.elapsed()
    );
}

struct Panics;
impl Stages for Panics {
    async fn on(&mut self, _: &Event, _: &mut Vec<Event>) -> Result<(), Poison> {
        panic!("a stage with a bug");
    }
}

#[tokio::test]
async fn a_stage_that_panics_fails_its_stream_and_no_other() {
    let board = Board::new();
    let member = board.member();
    let other = board
        .holds
        .register("other", tidegate_gate::Kind::Stream)
        .unwrap();
    let (_feeder, source) = fed(3).await;
    let (_other_feeder, other_source) = fed(3).await;
    let sink = Scripted::willing(member.gate());
    let other_sink = Scripted::willing(other.gate());
    let supervisor = tidegate_runtime::Supervisor::spawn(
        board.holds.clone(),
        vec![
            tidegate_runtime::Stream::new(member, pipeline(source, Panics, sink)),
            tidegate_runtime::Stream::new(other, pipeline(other_source, (), other_sink.clone())),
        ],
    );
    let status = board.until_state(State::Failed).await;
    assert_eq!(status.in_flight, 0);
    other_sink.has(3).await;
    let reports = supervisor.stop(GRACE).await;
    assert!(matches!(reports[0].outcome, Outcome::Failed(_)), "{reports:?}");
    assert_eq!(reports[1].outcome, Outcome::Stopped);
}

#[tokio::test]
async fn a_source_at_its_end_stops_its_stream_with_everything_written() {
    let board = Board::new();
    let member = board.member();
    let sink = Scripted::willing(member.gate());
    let (feeder, source) = fed(10).await;
    drop(feeder);
    let supervisor = supervise(&board, &member, pipeline(source, (), sink.clone()));
    soon("the end", supervisor.all_ended()).await;
    assert_eq!(board.status().state, State::Stopped);
    let report = only(supervisor.stop(GRACE).await);
    assert_eq!(report.outcome, Outcome::Ended);
    assert_eq!(sink.payloads(), numbered(0..10));
}

#[tokio::test(start_paused = true)]
async fn what_the_sink_took_of_an_attempt_that_failed_is_acknowledged_by_the_stop_and_not_given_back() {
    let board = Board::new();
    let member = board.member();
    let (feeder, source) = fed(5).await;
    let sink = Scripted::new(member.gate(), |attempt, _| match attempt {
        0 => Act::Fail(3),
        _ => Act::Fail(0),
    });
    let (stop, task) = run(&member, pipeline(source, (), sink.clone()));
    sink.attempted(1).await;
    // The retry waits, and behind the closed gate it never begins.
    board.paused().await;
    stop.cancel();
    let report = report(task).await;
    assert_eq!(report.given_back, 2);
    assert_eq!(*feeder.acked().borrow(), 3);
    assert_eq!(sink.payloads(), numbered(0..3));
}
