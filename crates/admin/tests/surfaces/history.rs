//! What happened, read back.
use crate::board::{Board, get, post};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_admin::{Admin, Event, Hooks, Metrics, Options, Past};

async fn history(board: &Board, query: &str) -> Value {
    let answer = board.control(get(&format!("/history{query}"))).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

fn kinds(history: &Value) -> Vec<&str> {
    let entries = history["entries"].as_array().unwrap();
    entries.iter().map(|e| e["kind"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn without_a_state_dir_history_is_what_the_process_remembers() {
    let board = Board::new();
    board
        .control(post("/streams/orders/pause").json(&json!({"reason": "disk swap"})))
        .await;
    board.pass(Duration::from_secs(7200));
    board.control(post("/streams/orders/resume")).await;
    let all = history(&board, "").await;
    assert_eq!((&all["kept"], &all["more"]), (&json!(false), &json!(false)));
    assert!(kinds(&all).contains(&"hold_placed"), "{all}");
    for query in ["?since=1h", "?since=2026-11-22T13:00:00Z"] {
        let young = history(&board, query).await;
        assert!(!kinds(&young).contains(&"hold_placed"), "{query}: {young}");
        assert!(kinds(&young).contains(&"hold_released"), "{query}: {young}");
    }
    let newest = history(&board, "?limit=1").await;
    assert_eq!(newest["more"], true);
    assert_eq!(
        newest["entries"][0],
        all["entries"].as_array().unwrap().last().unwrap().clone()
    );
}

#[tokio::test]
async fn what_cannot_be_asked_is_said() {
    let board = Board::new();
    for query in ["?since=yesterday", "?limit=many", "?from=1h", "?since=-1h"] {
        let answer = board.control(get(&format!("/history{query}"))).await;
        assert_eq!(answer.refused().0, 400, "{query}");
    }
    // Before time began is from the beginning; nothing is no number of entries.
    assert_eq!(kinds(&history(&board, "?since=3000y&limit=0").await).len(), 1);
}

#[tokio::test]
async fn with_a_state_dir_history_is_what_the_disk_keeps() {
    let board = Board::new();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    let event = |n: u64| Event {
        seq: n,
        ..Event::bare(crate::board::noon(), "reading", "running")
    };
    let hooks = Hooks {
        past: Some(Arc::new(move |since, most| {
            noted.lock().unwrap().push((since, most));
            let past = match most {
                1001 => Err("the disk is gone".into()),
                _ => Ok(Past {
                    entries: (0..3).map(event).collect(),
                    unreadable: 2,
                }),
            };
            Box::pin(std::future::ready(past))
        })),
        ..Hooks::default()
    };
    let metrics = Metrics::new(board.holds.clone(), "0");
    let admin = Admin::new(board.holds.clone(), metrics, Options::default(), hooks).unwrap();
    let answer = get("/history?since=2026-11-22T11:00:00Z&limit=2")
        .send(admin.control())
        .await
        .json();
    assert_eq!(
        (&answer["kept"], &answer["more"], &answer["unreadable"]),
        (&json!(true), &json!(true), &json!(2))
    );
    let seqs: Vec<&Value> = answer["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["seq"])
        .collect();
    assert_eq!(seqs, [1, 2], "the newest, oldest first");
    assert_eq!(
        asked.lock().unwrap()[0],
        (Some(crate::board::noon() - Duration::from_secs(3600)), 3)
    );
    let broken = get("/history?limit=1000").send(admin.control()).await;
    assert_eq!(
        broken.refused(),
        (503, "the history cannot be read: the disk is gone".into())
    );
}
