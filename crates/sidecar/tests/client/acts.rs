//! What pause, resume, override, drain and wait do, say and end with.
use crate::board::{Board, noon, run};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tidegate_admin::Right;
use tidegate_gate::{Life, Scope};

#[tokio::test]
async fn pause_waits_until_it_is_proven_and_shows_what_blocks_it() {
    let board = Board::new().await;
    let unit = board
        .orders
        .gate()
        .try_enter()
        .unwrap()
        .named("write to the sink", Instant::now());
    let mut pause = board.start("pause orders --reason db_work --by ana");
    pause
        .shows("orders  pausing  1 in flight\n  still runs: write to the sink\n")
        .await;
    assert_eq!(board.state("orders"), "pausing");
    drop(unit);
    let ended = pause.end().await;
    assert_eq!(ended.code, 0, "{}", ended.text);
    assert!(
        ended.text.contains("orders  paused  nothing is in flight\n"),
        "{}",
        ended.text
    );
    assert!(
        ended.text.contains("only; other replicas run on"),
        "{}",
        ended.text
    );
    assert!(
        ended.text.contains("unless its state_dir is set"),
        "{}",
        ended.text
    );
    let snapshot = board.holds.snapshot();
    let (_, hold) = &snapshot.stream("orders").unwrap().holds[0];
    assert_eq!(
        (hold.reason.as_deref(), hold.by.as_deref()),
        (Some("db work"), Some("ana"))
    );
    assert_eq!(board.state("app"), "running", "the others were not named");
}

#[tokio::test]
async fn a_pause_that_is_not_proven_in_time_fails_and_its_hold_stands() {
    let board = Board::new().await;
    let _unit = board.orders.gate().try_enter().unwrap();
    let ended = board.run("pause --timeout 0s").await;
    assert_eq!(ended.code, 1, "{}", ended.text);
    assert!(
        ended.text.contains("orders  pausing  1 in flight"),
        "{}",
        ended.text
    );
    assert!(
        ended.text.contains("Not proven within 0s. The hold stands"),
        "{}",
        ended.text
    );
    assert_eq!(board.state("orders"), "pausing");
}

#[tokio::test]
async fn without_waiting_a_pause_promises_nothing() {
    let board = Board::new().await;
    let _unit = board.orders.gate().try_enter().unwrap();
    let ended = board.run("pause --no-wait").await;
    assert_eq!(ended.code, 0);
    assert!(
        ended.text.starts_with("The hold stands. Whether it is proven"),
        "{}",
        ended.text
    );
    assert!(!ended.text.contains("paused"), "{}", ended.text);
}

#[tokio::test]
async fn a_gate_that_serves_on_is_said_to_serve_on() {
    let board = Board::new().await;
    let _request = board.app.gate().admit();
    let ended = board.run("pause").await;
    assert_eq!(ended.code, 0, "{}", ended.text);
    assert!(
        ended
            .text
            .contains("app  hiatus  its health says that it is held, and it serves on"),
        "{}",
        ended.text
    );
    assert!(ended.text.contains("1 in flight"), "{}", ended.text);
}

#[tokio::test]
async fn a_pause_ends_by_itself_when_it_was_told_to() {
    let board = Board::new().await;
    let until = |board: &Board| {
        board.holds.snapshot().stream("orders").unwrap().holds[0]
            .1
            .until
            .unwrap()
    };
    let ended = board.run("pause --until 2026-11-22T13:00:00+00:30").await;
    assert_eq!(ended.code, 0, "{}", ended.text);
    assert_eq!(until(&board), noon() + Duration::from_secs(1800));
    let ended = board.run("pause --until 2026-11-22T11:00:00Z").await;
    assert_eq!(ended.code, 1);
    assert!(ended.text.contains("until"), "{}", ended.text);
    // The board's clock stands in 2026, so that half an hour from now can lie before it or after it.
    let before = jiff::Timestamp::now();
    let link = crate::stub::json(200, &serde_json::json!({"message": "Stream paused"})).await;
    assert_eq!(run(&link.at, "pause --for 30m --no-wait").await.code, 0);
    let asked = link.asked.lock().unwrap()[0].clone();
    let body: serde_json::Value = serde_json::from_str(asked.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let until: jiff::Timestamp = body["until"].as_str().unwrap().parse().unwrap();
    let off = until.duration_since(before).as_secs() - 1800;
    assert!((0..60).contains(&off), "{body}");
}

#[tokio::test]
async fn a_wrong_name_is_answered_with_the_nearest_and_the_right_ones_are_held() {
    let board = Board::new().await;
    let ended = board.run("pause oders").await;
    assert_eq!((ended.code, board.state("orders")), (64, "running"));
    assert_eq!(
        ended.text,
        "no stream or gate is named \"oders\"; did you mean \"orders\"?\n"
    );
    let ended = board.run("pause nonsense orders .. a/../../b").await;
    assert_eq!(
        (ended.code, board.state("orders")),
        (64, "paused"),
        "{}",
        ended.text
    );
    assert!(
        ended
            .text
            .contains("no stream or gate is named \"nonsense\"; known here: orders, app"),
        "{}",
        ended.text
    );
    assert!(
        ended.text.contains("orders  paused  nothing is in flight"),
        "{}",
        ended.text
    );
    let ended = board.run("resume oders").await;
    assert_eq!(ended.code, 64, "{}", ended.text);
    assert!(ended.text.contains("did you mean \"orders\"?"), "{}", ended.text);
}

#[tokio::test]
async fn a_hold_that_somebody_else_lifts_meanwhile_is_no_proof() {
    let board = Board::new().await;
    let unit = board.orders.gate().try_enter().unwrap();
    let mut pause = board.start("pause orders");
    pause.shows("pausing").await;
    assert_eq!(board.run("resume orders").await.code, 0);
    let ended = pause.end().await;
    assert_eq!(ended.code, 1, "{}", ended.text);
    assert!(
        ended.text.contains("orders: the hold is gone again"),
        "{}",
        ended.text
    );
    drop(unit);
}

#[tokio::test]
async fn resume_reads_the_switches_first_and_says_when_nothing_holds() {
    let board = Board::new().await;
    board.run("pause").await;
    let ended = board.run("resume").await;
    assert_eq!(
        (ended.code, ended.text.as_str()),
        (0, "Resumed: nothing holds any more.\n")
    );
    assert_eq!(board.polls.load(Relaxed), 1);
    assert_eq!(
        (board.state("orders"), board.state("app")),
        ("running", "running")
    );
    let ended = board.run("resume orders app").await;
    assert_eq!((ended.code, ended.text.as_str()), (0, "Resumed: orders, app.\n"));
    assert_eq!(board.polls.load(Relaxed), 2, "once for all that are named");
}

#[tokio::test]
async fn resume_says_who_still_holds_and_what_to_do_about_it() {
    let board = Board::new().await;
    board.flip(true, "8", "db maintenance");
    board.run("pause").await;
    let ended = board.run("resume").await;
    assert_eq!(ended.code, 1);
    let text = ended.text;
    assert!(
        text.starts_with("The API's hold is released. Still held:\n"),
        "{text}"
    );
    assert!(text.contains("  orders: held by switch:ops"), "{text}");
    assert!(text.contains("db maintenance (ana, by way of store:8)"), "{text}");
    assert!(
        text.contains("Flip the secret of switch \"ops\" to false."),
        "{text}"
    );
    assert_eq!(
        text.matches("Flip the secret").count(),
        1,
        "once for each switch: {text}"
    );
    assert!(
        text.replace("\n   ", "")
            .contains("tidegate override orders --switch ops --reason"),
        "{text}"
    );
    assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    board.flip(false, "9", "");
    assert_eq!(board.state("orders"), "running", "the API's hold was released");
}

#[tokio::test]
async fn override_sets_a_lost_switch_aside_and_needs_its_own_right() {
    let board = Board::with_tokens(&[
        ("chief", &[Right::Read, Right::Override]),
        ("oncall", &[Right::Read, Right::Pause]),
    ])
    .await;
    board.flip(true, "8", "");
    let line = |who: &str| {
        format!(
            "override orders --switch ops --reason store_lost --token-file {}",
            board.file(who).display()
        )
    };
    let ended = board.run(&line("oncall")).await;
    assert_eq!(
        (ended.code, board.state("orders")),
        (77, "paused"),
        "{}",
        ended.text
    );
    let ended = board.run(&line("chief")).await;
    assert_eq!(
        (ended.code, board.state("orders")),
        (0, "running"),
        "{}",
        ended.text
    );
    assert!(
        ended
            .text
            .starts_with("orders: the hold of switch:ops is set aside"),
        "{}",
        ended.text
    );
    assert_eq!(board.state("app"), "hiatus", "only what was named");
    board
        .holds
        .place(
            &tidegate_gate::Controller::Api,
            Scope::One("app"),
            Default::default(),
        )
        .unwrap();
    let ended = board.run(&line("chief").replace("orders", "app")).await;
    assert_eq!(ended.code, 1, "{}", ended.text);
    assert!(ended.text.contains("app is still held:"), "{}", ended.text);
    let ended = board.run(&line("chief")).await;
    assert_eq!(ended.code, 1, "it holds no more: {}", ended.text);
}

#[tokio::test]
async fn drain_says_what_still_runs() {
    let board = Board::new().await;
    let ended = board.run("drain").await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.text.starts_with("Not drained: nothing is held"),
        "{}",
        ended.text
    );

    let unit = board
        .orders
        .gate()
        .try_enter()
        .unwrap()
        .named("POST /events", Instant::now());
    board.run("pause --no-wait").await;
    board.pass(Duration::from_secs(75));
    let ended = board.run("drain --timeout 1ms").await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.text.contains("Not drained within 1ms: 1 in flight."),
        "{}",
        ended.text
    );
    assert!(
        ended
            .text
            .contains("  orders  1 in flight\n    still runs: POST /events for "),
        "{}",
        ended.text
    );

    let drain = board.start("drain");
    drop(unit);
    let ended = drain.end().await;
    assert_eq!(
        (ended.code, ended.text.as_str()),
        (0, "Drained: nothing is in flight.\n")
    );
    let ended = board.run("drain --timeout 2h").await;
    assert!(
        ended.code == 1 && ended.text.contains("longer than an hour"),
        "{}",
        ended.text
    );
}

#[tokio::test]
async fn drain_with_close_holds_until_the_end_of_the_process() {
    let board = Board::new().await;
    let ended = board.run("drain --close").await;
    assert_eq!(ended.code, 0, "{}", ended.text);
    assert_eq!(board.state("orders"), "paused");
    let ended = board.run("resume").await;
    assert_eq!(ended.code, 1);
    assert!(ended.text.contains("held by stop"), "{}", ended.text);
    assert!(ended.text.contains("The process is stopping"), "{}", ended.text);
}

#[tokio::test]
async fn wait_ends_when_the_state_is_reached() {
    let board = Board::new().await;
    assert_eq!(board.run("wait --until running").await.code, 0);
    let wait = board.start("wait orders --until paused");
    board.flip(true, "8", "");
    assert_eq!(wait.end().await.code, 0);
    assert_eq!(
        board.run("wait --until paused").await.code,
        0,
        "a gate that serves on is as quiet as it gets"
    );
    let ended = board.run("wait --until running --timeout 1ms").await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.text.contains("Not running within 1ms: orders  paused"),
        "{}",
        ended.text
    );
    let ended = board.run("wait oders --until running").await;
    assert!(
        ended.code == 64 && ended.text.contains("did you mean \"orders\"?"),
        "{}",
        ended.text
    );

    let request = board.app.gate().admit();
    let ended = board.run("wait app --until paused --timeout 1ms").await;
    assert_eq!(ended.code, 1, "something is in flight: {}", ended.text);
    drop(request);
    assert_eq!(board.run("wait app --until paused").await.code, 0);
}

#[tokio::test]
async fn wait_does_not_wait_for_what_cannot_come() {
    let board = Board::new().await;
    board.orders.set_life(Life::Failed {
        error: "disk full".into(),
    });
    let ended = board.run("wait --until running").await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.text.contains("orders is failed and stays so: disk full"),
        "{}",
        ended.text
    );
}
