//! What status shows.
use crate::board::{Board, run};
use proptest::prelude::*;
use serde_json::json;
use std::time::{Duration, Instant};
use tidegate_gate::{Held, Life, SwitchStatus};
use unicode_width::UnicodeWidthStr;

async fn busy() -> Board {
    let board = Board::new().await;
    let meter = board.orders.meter().clone();
    meter.add_events(1_204_332);
    meter.add_dead_letters(2);
    board.flip(
        true,
        "8",
        "the database moves to the new rack, and this reason is longer than a line can be",
    );
    board.run("pause app --reason deploy --by ben").await;
    let now = board.time.lock().unwrap().mono;
    meter.set_held(Held {
        events: 512,
        oldest: Some(now),
        lease_ends: Some(now + Duration::from_secs(300)),
        parked: false,
    });
    let known = board.holds.snapshot().switch("ops").unwrap().clone();
    board.holds.put_switch(SwitchStatus {
        reading: "unavailable",
        error: Some(
            "switch \"ops\": no answer from https://vault.internal:8200 within 2s; what stood stands on"
                .into(),
        ),
        ..known
    });
    board.pass(Duration::from_secs(130));
    board
}

#[tokio::test]
async fn status_is_a_table_of_80_columns() {
    let board = busy().await;
    let ended = board.run("status").await;
    assert_eq!(ended.code, 0);
    insta::assert_snapshot!("status", ended.text);
    assert!(ended.text.lines().all(|l| l.width() <= 80), "{}", ended.text);
}

#[tokio::test]
async fn status_as_json_is_what_the_server_says() {
    let board = busy().await;
    let ended = board.run("status --json").await;
    let shown: tidegate_admin::Status = serde_json::from_str(&ended.text).unwrap();
    assert_eq!(shown.streams.len(), 2);
    assert_eq!(ended.text.lines().count(), 1, "a line, for tools that read lines");
    let exact = r#"{"streams":[],"b":1,"a":"\u001b[2J"}"#;
    let server = crate::stub::answer(200, "application/json", exact).await;
    assert_eq!(run(&server.at, "status --json").await.text, format!("{exact}\n"));
}

#[tokio::test]
async fn a_fleet_is_counted_and_who_is_silent_is_named() {
    let [one, two, three] = [Board::new().await, Board::new().await, Board::new().await];
    one.flip(true, "8", "");
    two.flip(true, "8", "");
    let silent = {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", taken.local_addr().unwrap())
    };
    let ended = run(
        "http://127.0.0.1:1",
        &format!("status --fleet {} {} {} {silent}", one.at, two.at, three.at),
    )
    .await;
    assert_eq!(ended.code, 69, "{}", ended.text);
    let lines: Vec<&str> = ended.text.lines().collect();
    assert_eq!(lines[0], format!("{}  orders paused, app hiatus", one.at));
    assert_eq!(lines[2], format!("{}  orders running, app running", three.at));
    assert!(
        lines[3].starts_with(&format!("{silent}  no tidegate answers")),
        "{}",
        ended.text
    );
    assert_eq!(lines[4], "2 of 4 paused");

    let unit = three.orders.gate().try_enter().unwrap();
    three.flip(true, "8", "");
    let fleet = format!("status --fleet {} {} {}", one.at, two.at, three.at);
    let ended = run("http://127.0.0.1:1", &fleet).await;
    assert_eq!(
        (ended.code, ended.text.lines().last()),
        (0, Some("2 of 3 paused")),
        "pausing is not paused: {}",
        ended.text
    );
    drop(unit);
    three.run("wait orders --until paused").await;
    let ended = run("http://127.0.0.1:1", &fleet).await;
    assert_eq!(ended.text.lines().last(), Some("3 of 3 paused"), "{}", ended.text);
    let ended = run("http://127.0.0.1:1", &fleet.replace("--fleet", "--json --fleet")).await;
    let all: serde_json::Value = serde_json::from_str(&ended.text).unwrap();
    assert_eq!(all[2]["url"], three.at.as_str());
    assert_eq!(all[2]["status"]["streams"][0]["state"], "paused");
}

#[tokio::test]
async fn a_process_with_nothing_in_it_is_shown_too() {
    let at = "2026-11-22T12:00:00Z";
    let status =
        json!({"at": at, "revision": 0, "closing": false, "streams": [], "switches": [], "alarms": []});
    let server = crate::stub::json(200, &status).await;
    let ended = run(&server.at, "status").await;
    assert_eq!(ended.code, 0, "{}", ended.text);
    assert!(
        ended.text.contains("(no stream or gate)") && ended.text.contains("(no switch:"),
        "{}",
        ended.text
    );
    let ended = run("http://127.0.0.1:1", &format!("status --fleet {}", server.at)).await;
    assert_eq!(ended.text.lines().last(), Some("0 of 1 paused"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_words_the_table_keeps_to_80_columns(words in prop::collection::vec("\\PC{0,90}", 8), number: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let at = "2026-11-22T12:00:00Z";
            let hold = json!({"controller": words[0], "reason": words[1], "by": words[2], "since": at, "until": null, "actor": words[3]});
            let stream = json!({"name": words[4], "kind": "stream", "state": words[5], "in_flight": number, "held": number, "holds": [hold],
                "events": number, "last_transition": at, "error": words[6], "attempts": 1, "set_aside": [], "waiting": number,
                "dead_letters": 0, "upgraded": 0, "held_oldest_seconds": null, "lease_left_seconds": null, "parked": true,
                "running": [{"name": words[7], "age_seconds": 1.0}]});
            let status = json!({"at": at, "revision": 0, "closing": false, "streams": [stream], "switches": [], "alarms": words});
            let server = crate::stub::json(200, &status).await;
            let ended = run(&server.at, "status").await;
            assert_eq!(ended.code, 0, "{}", ended.text);
            assert!(ended.text.lines().all(|l| l.width() <= 80), "{}", ended.text);
        });
    }
}

#[tokio::test]
async fn a_stream_that_failed_says_why() {
    let board = Board::new().await;
    board.orders.set_life(Life::Failed {
        error: "20 dead letters in a row".into(),
    });
    let _unit = board
        .orders
        .gate()
        .admit()
        .named("a write that hangs", Instant::now());
    let ended = board.run("status").await;
    assert!(
        ended.text.contains("  error: 20 dead letters in a row\n"),
        "{}",
        ended.text
    );
    assert!(
        ended.text.contains("  still runs: a write that hangs"),
        "{}",
        ended.text
    );
}
