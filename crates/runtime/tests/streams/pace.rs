//! A backlog that built up in a pause does not flood the sink. In paused time.
use crate::rig::*;
use std::num::NonZeroU32;
use std::time::Duration;
use tidegate_runtime::{Limits, MemorySink, Pace, Pipeline, memory};

#[tokio::test(start_paused = true)]
async fn a_backlog_is_let_through_at_the_pace_and_then_as_fast_as_it_goes() {
    let board = Board::new();
    let member = board.member();
    board.pause();
    let (feeder, source) = memory(10_000);
    for payload in numbered(0..10_000) {
        feeder.send(payload).await;
    }
    let sink = MemorySink::new();
    let paced = Pipeline {
        limits: Limits {
            pace: Some(Pace {
                rate: NonZeroU32::new(100).unwrap(),
                ramp: Duration::from_secs(10),
            }),
            ..Limits::default()
        },
        ..pipeline(source, (), sink.clone())
    };
    let (_stop, _task) = run(&member, paced);
    board.until_state(tidegate_gate::State::Paused).await;
    board.resume();
    let resumed = tokio::time::Instant::now();
    let mut count = sink.count();
    soon("the ramp", count.wait_for(|n| *n >= 900)).await.unwrap();
    let took = resumed.elapsed().as_secs_f64();
    assert!(
        (8.0..9.5).contains(&took),
        "900 events at 100 a second in {took} s"
    );
    soon("the rest", count.wait_for(|n| *n == 10_000)).await.unwrap();
    let took = resumed.elapsed().as_secs_f64();
    assert!(
        (9.9..10.2).contains(&took),
        "the ramp of 10 s ended after {took} s"
    );
    let in_order: Vec<_> = sink.events().into_iter().map(|e| e.payload).collect();
    assert_eq!(in_order, numbered(0..10_000));
}
