//! `drill` and `history` for people and for scripts.
use crate::board::{Board, run};
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

#[tokio::test]
async fn a_drill_ends_with_1_where_something_is_found_and_says_what() {
    let board = Board::new().await;
    let ended = board.run("drill --stream orders").await;
    // This board's process knows no switch to read.
    assert_eq!(ended.code, 1, "{}", ended.text);
    assert!(
        ended.text.contains("found    switches  no switch holds it"),
        "{}",
        ended.text
    );
    assert!(
        ended.text.contains("orders: drill found 1 to repair"),
        "{}",
        ended.text
    );
    assert!(ended.text.lines().all(|l| l.width() <= 80), "{}", ended.text);
    let json = board.run("drill --stream orders --json").await;
    assert_eq!(json.code, 1);
    let drill: Value = serde_json::from_str(&json.text).unwrap();
    assert_eq!(drill["passed"], false);
}

#[tokio::test]
async fn a_sound_stream_ends_with_0() {
    let sound = r#"{"stream":"orders","at":"2026-11-22T12:00:00Z","live":true,"passed":true,
        "checks":[{"check":"reading","switch":"ops","result":"ok","told":"read in 3 ms: running\u001b[2J"},
            {"check":"access","switch":"ops","result":"unknown","told":"cannot be known"}],
        "expected":{"interval_seconds":1.0,"read_seconds":0.003,"quiesce_seconds":0.0002,"typical_seconds":0.5032,
            "worst_seconds":1.0032},
        "measured":{"paused_seconds":0.0002,"resumed_seconds":0.0011}}"#;
    let server = crate::stub::answer(200, "application/json", sound).await;
    let ended = run(&server.at, "drill --stream orders --live 3s --pause 1h").await;
    assert_eq!(ended.code, 0, "{}", ended.text);
    for part in [
        "ok       reading   ops: read in 3 ms: running",
        "unknown  access    ops: cannot be known",
        "proven after 503.2 ms, 1.00 s at the latest",
        "It was proven paused after 200 µs, and moved again 1.1 ms after the end.",
        "orders: live drill passed",
    ] {
        assert!(ended.text.contains(part), "{part}\n{}", ended.text);
    }
    assert!(!ended.text.contains('\u{1b}'), "{:?}", ended.text);
}

#[tokio::test]
async fn an_unknown_stream_is_bad_use_and_a_silent_process_is_69() {
    let board = Board::new().await;
    let ended = board.run("drill --stream order").await;
    assert_eq!(ended.code, 64, "{}", ended.text);
    assert!(ended.text.contains("orders"), "{}", ended.text);
    assert_eq!(run("http://127.0.0.1:1", "drill --stream orders").await.code, 69);
    assert_eq!(run("http://127.0.0.1:1", "history").await.code, 69);
}

#[tokio::test]
async fn history_is_a_line_for_each_thing_that_happened() {
    let board = Board::new().await;
    board.flip(true, "8", "<script>alert(1)</script>\u{1b}[2J");
    board.run("pause orders --reason deploy --by ben").await;
    board.run("drill --stream orders").await;
    let ended = board.run("history --since 1h").await;
    assert_eq!(ended.code, 0, "{}", ended.text);
    for part in [
        "orders: running -> paused",
        "<script>alert(1)</script>",
        "orders: hold placed  api: deploy (ben)",
        "orders: drill: found 1: no switch holds it",
        "no state_dir is set",
    ] {
        assert!(ended.text.contains(part), "{part}\n{}", ended.text);
    }
    assert!(!ended.text.contains('\u{1b}'), "{:?}", ended.text);
    let json = board.run("history --json --limit 2").await;
    let answer: Value = serde_json::from_str(&json.text).unwrap();
    assert_eq!(answer["entries"].as_array().unwrap().len(), 2);
    assert_eq!(answer["more"], true);
    let only = board.run("history --limit 2").await;
    assert!(only.text.contains("only the newest 2"), "{}", only.text);
}

#[tokio::test]
async fn a_status_and_a_watch_of_an_older_tidegate_are_understood() {
    // What is not in the contract may be missing.
    let older = include_str!("older_status.json");
    let server = crate::stub::answer(200, "application/json", older).await;
    let ended = run(&server.at, "status").await;
    assert_eq!(ended.code, 0, "{}", ended.text);
    assert!(ended.text.contains("orders"), "{}", ended.text);
}
