//! Whatever pauses, batches and failures come together: everything arrives, in order, and once unless an attempt
//! failed after it had taken events.
use crate::rig::*;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use tidegate_runtime::{Event, Limits, Pipeline, Poison, Stages, memory};

#[derive(Clone, Debug)]
enum Step {
    Feed(usize),
    Pause,
    Resume,
    Rest(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1usize..200).prop_map(Step::Feed),
        Just(Step::Pause),
        Just(Step::Resume),
        (0u64..3000).prop_map(Step::Rest),
    ]
}

/// Passes everything on, one at a time.
struct Through;
impl Stages for Through {
    async fn on(&mut self, event: &Event, out: &mut Vec<Event>) -> Result<(), Poison> {
        out.push(event.clone());
        Ok(())
    }
}

async fn play(steps: Vec<Step>, failures: Vec<bool>, batch: usize, limit: usize, staged: bool) {
    let board = Arc::new(Board::new());
    let member = board.member();
    let mut sink = Scripted::new(member.gate(), move |n, events| match failures.get(n) {
        Some(true) => Act::Fail(n % events.len()),
        _ => Act::Take,
    });
    sink.batch = batch;
    let (feeder, source) = memory(10_000);
    let limits = Limits {
        events: limit,
        bytes: 1 << 20,
        ..Limits::default()
    };
    let (_stop, task) = match staged {
        true => run(
            &member,
            Pipeline {
                limits,
                ..pipeline(source, Through, sink.clone())
            },
        ),
        false => run(
            &member,
            Pipeline {
                limits,
                ..pipeline(source, (), sink.clone())
            },
        ),
    };
    let mut fed = 0;
    for step in steps {
        match step {
            Step::Feed(n) => {
                for payload in numbered(fed..fed + n) {
                    feeder.send(payload).await;
                }
                fed += n;
            }
            Step::Pause => board.pause(),
            Step::Resume => board.resume(),
            Step::Rest(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
        }
        let status = board.status();
        assert!(status.held.events as usize <= limit + 1, "{status:?}");
    }
    board.resume();
    drop(feeder);
    report(task).await;
    assert_eq!(sink.payloads(), numbered(0..fed));
    assert_eq!(board.status().events as usize, fed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn the_sink_has_what_the_source_had_each_once_and_in_order(
        steps in proptest::collection::vec(step(), 1..20),
        failures in proptest::collection::vec(any::<bool>(), 0..20),
        batch in 1usize..300,
        limit in 1usize..500,
        staged: bool,
    ) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(play(steps, failures, batch, limit, staged));
    }
}
