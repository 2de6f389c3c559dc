//! Stages keep what they remember through a pause, and what they cannot digest goes to the dead letter.
use crate::rig::*;
use tidegate_runtime::{Count, DeadLetters, Filter, Map, Pipeline, Stage, StreamConfig, build, memory};

#[tokio::test]
async fn what_a_stage_counts_lives_on_through_a_pause() {
    let board = Board::new();
    let member = board.member();
    let sink = Scripted::willing(member.gate());
    let (feeder, source) = memory(100);
    let stages: Vec<Box<dyn Stage>> = vec![
        Box::new(Filter::new(".n < 100").unwrap()),
        Box::new(Map::new("{carrier}").unwrap()),
        Box::new(Count::new(".carrier", 10).unwrap()),
    ];
    let (_stop, _task) = run(&member, pipeline(source, stages, sink.clone()));
    feeder.send(r#"{"carrier":"UA","n":1}"#).await;
    feeder.send(r#"{"carrier":"UA","n":100}"#).await;
    feeder.send(r#"{"carrier":"AA","n":1}"#).await;
    sink.has(2).await;
    board.paused().await;
    feeder.send(r#"{"carrier":"UA","n":2}"#).await;
    board.resume();
    sink.has(3).await;
    assert_eq!(
        sink.payloads(),
        [
            r#"{"key":"UA","count":1}"#,
            r#"{"key":"AA","count":1}"#,
            r#"{"key":"UA","count":2}"#
        ]
    );
}

#[tokio::test]
async fn an_event_that_an_expression_fails_on_is_a_dead_letter_that_names_the_expression() {
    let board = Board::new();
    let member = board.member();
    let dir = tempfile::tempdir().unwrap();
    let letters = dir.path().join("dead.jsonl");
    let sink = Scripted::willing(member.gate());
    let (feeder, source) = memory(100);
    let stages: Vec<Box<dyn Stage>> = vec![Box::new(Map::new(".a + 1").unwrap())];
    let (_stop, _task) = run(
        &member,
        Pipeline {
            dead_letters: DeadLetters::at(&letters),
            ..pipeline(source, stages, sink.clone())
        },
    );
    for payload in [r#"{"a":1}"#, r#"{"a":[]}"#, "no JSON", r#"{"a":2}"#] {
        feeder.send(payload).await;
    }
    soon("all acknowledged", feeder.acked().wait_for(|n| *n == 4))
        .await
        .unwrap();
    assert_eq!(sink.payloads(), ["2", "3"]);
    let text = std::fs::read_to_string(&letters).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        (lines.len(), &lines[0]["payload"]),
        (2, &serde_json::json!(r#"{"a":[]}"#))
    );
    for line in &lines {
        assert!(line["reason"].as_str().unwrap().contains("\".a + 1\""), "{line}");
    }
    assert!(
        lines[0]["detail"].as_str().unwrap().contains("[]"),
        "{}",
        lines[0]
    );
}

#[tokio::test]
async fn an_expression_that_is_no_good_is_an_error_before_anything_runs() {
    let board = Board::new();
    let config: StreamConfig = serde_json::from_str(
        r#"{"name":"a","source":{"type":"stdin"},"sink":{"type":"stdout"},
            "stage":[{"type":"map","jq":"."},{"type":"filter","jq":"env.HOME"}]}"#,
    )
    .unwrap();
    let error = build(&config, &board.holds, None).unwrap_err().to_string();
    assert!(
        error.contains("stream \"a\", stage 2") && error.contains("switched off"),
        "{error}"
    );
    assert!(board.holds.snapshot().streams.is_empty());
}
