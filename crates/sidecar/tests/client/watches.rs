//! What watch shows, and how it lives through the loss of a connection.
use crate::board::{Board, run, start};
use crate::stub;
use serde_json::{Value, json};
use tidegate::client::Look;
use tidegate_gate::Life;

const LIVE: Look = Look {
    colour: true,
    live: true,
    width: 60,
};

#[tokio::test]
async fn watch_prints_a_line_for_each_change() {
    let board = Board::new().await;
    let mut watch = board.start("watch");
    watch.shows("orders: running\n").await;
    watch.shows("app: running\n").await;
    board.flip(true, "8", "db maintenance");
    watch.shows("orders: running -> paused").await;
    watch.shows("app: running -> hiatus").await;
    watch.shows("switch:ops: db maintenance (ana)").await;
    let known = board.holds.snapshot().switch("ops").unwrap().clone();
    board.holds.put_switch(tidegate_gate::SwitchStatus {
        reading: "sealed",
        error: Some("switch \"ops\": the store is sealed; what stood stands on".into()),
        ..known
    });
    watch.shows("the store is sealed").await;
    board.orders.set_life(Life::Retrying {
        attempt: 2,
        error: "the sink refuses".into(),
    });
    watch.shows("orders: the sink refuses").await;
    board.flip(false, "9", "");
    watch.shows("orders: paused -> running").await;
    assert!(
        !watch.screen().contains('\x1b'),
        "no colour and no live line where there is no terminal"
    );
    watch.abort();
}

#[tokio::test]
async fn on_a_terminal_a_live_line_stands_below() {
    let board = Board::new().await;
    board.orders.meter().add_events(5);
    let mut watch = start(&board.at, "watch", LIVE);
    watch.shows("orders \x1b[32mrunning\x1b[0m 0/s").await;
    board.flip(true, "8", "db maintenance");
    watch.shows("\r\x1b[2K").await;
    watch
        .shows("orders \x1b[1;35mpaused\x1b[0m by switch:ops 0/s")
        .await;
    watch.abort();
}

#[tokio::test]
async fn watch_as_json_is_a_line_for_each_event() {
    let board = Board::new().await;
    let mut watch = board.start("watch --json");
    watch.shows("\n").await;
    board.flip(true, "8", "db maintenance");
    watch.shows("\"to\":\"paused\"").await;
    let screen = watch.screen();
    let lines: Vec<Value> = screen.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines[0]["streams"][0]["state"], "running");
    assert!(
        lines.len() > 1 && lines[1..].iter().all(|l| l["ages"].is_object()),
        "{screen}"
    );
    watch.abort();
}

#[tokio::test]
async fn a_connection_that_is_lost_is_made_again_and_what_was_missed_is_told() {
    let mut board = Board::new().await;
    let address = board.at.replace("http://", "");
    let mut watch = board.start("watch");
    watch.shows("orders: running").await;
    board.end().await;
    watch.shows("the watch ends: the process is stopping").await;
    watch.shows("what is shown above is old; trying again").await;
    let board = Board::with(&address, |_, _| None).await;
    board.flip(true, "8", "db maintenance");
    watch.shows("answering again:").await;
    watch.shows("held by switch:ops").await;
    assert_eq!(
        watch.screen().matches("is old").count(),
        1,
        "said once: {}",
        watch.screen()
    );
    watch.abort();
}

#[tokio::test]
async fn a_watch_that_is_refused_ends_with_the_reason() {
    let busy = stub::json(
        503,
        &json!({"error": "too many watch already; status can still be asked for"}),
    )
    .await;
    let ended = run(&busy.at, "watch").await;
    assert_eq!(ended.code, 69, "{}", ended.text);
    assert!(ended.text.contains("too many watch already"), "{}", ended.text);
}
