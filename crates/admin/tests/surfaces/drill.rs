//! What a drill finds, who may have one, and where its age is told.
use crate::board::{Board, get, post, sound};
use http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;
use tidegate_admin::{Access, Examination, Right};
use tidegate_gate::{Act, Held, LeaseTerms, Life};

async fn drill(board: &Board, body: Value) -> Value {
    let answer = board.control(post("/streams/orders/drill").json(&body)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    answer.json()
}

fn found(drill: &Value) -> Vec<String> {
    let checks = drill["checks"].as_array().unwrap();
    let found: Vec<String> = checks
        .iter()
        .filter(|c| c["result"] == "found")
        .map(|c| {
            format!(
                "{}: {}",
                c["check"].as_str().unwrap(),
                c["told"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(drill["passed"], found.is_empty(), "{drill}");
    found
}

#[tokio::test]
async fn a_drill_says_what_was_looked_at_and_how_soon_a_flip_would_be_proven() {
    let board = Board::new();
    let unmeasured = drill(&board, json!({})).await;
    assert_eq!(unmeasured["expected"]["quiesce_seconds"], Value::Null);
    board.flip(true, "8");
    board.flip(false, "9");
    let drill = drill(&board, json!({})).await;
    assert_eq!(found(&drill), [""; 0]);
    let expected = &drill["expected"];
    assert_eq!(
        (&expected["interval_seconds"], &expected["read_seconds"]),
        (&json!(1.0), &json!(0.004))
    );
    assert!(expected["quiesce_seconds"].is_number(), "{expected}");
    assert_eq!(expected["typical_seconds"], 0.504);
    assert_eq!(expected["worst_seconds"], 1.004);
}

#[tokio::test]
async fn every_planted_fault_is_found_and_named() {
    let denied = |reading, why: &str| Examination {
        reading,
        error: Some(why.into()),
        acts: Err("there is no flag to flip".into()),
        ..sound()
    };
    let writes = Examination {
        access: Access::Writes("update on secret/data/orders".into()),
        ..sound()
    };
    let deaf = Examination {
        acts: Err("its until has passed".into()),
        ..sound()
    };
    let of_another = Examination {
        streams: vec!["app".into()],
        ..sound()
    };
    for (planted, expected) in [
        (
            denied("denied", "Vault refused the token"),
            "reading: denied: Vault refused the token",
        ),
        (
            denied("missing", "no such secret"),
            "reading: missing: no such secret",
        ),
        (
            denied("stale", "an older version"),
            "reading: stale: an older version",
        ),
        (writes, "access: update on secret/data/orders"),
        (deaf, "decision: its until has passed"),
        (
            of_another,
            "switches: no switch holds it: only the control API can pause it",
        ),
    ] {
        let board = Board::new();
        *board.found.lock().unwrap() = vec![planted];
        assert_eq!(found(&drill(&board, json!({})).await), [expected]);
    }
    let board = Board::new();
    board.orders.set_life(Life::Failed {
        error: "the disk is gone".into(),
    });
    assert_eq!(
        found(&drill(&board, json!({})).await),
        ["stream: it is failed: the disk is gone"]
    );
}

#[tokio::test]
async fn a_lease_that_the_planned_pause_outlives_is_found() {
    let board = Board::new();
    let lease = |kept_for| {
        let term = Duration::from_secs(30);
        board
            .orders
            .meter()
            .set_lease(Some(LeaseTerms { term, kept_for }));
    };
    lease(Some(Duration::from_secs(600)));
    let long = found(&drill(&board, json!({})).await);
    assert!(
        matches!(&long[..], [one] if one.contains("a pause of 30m outlives") && one.contains("after 10m")),
        "{long:?}"
    );
    assert_eq!(found(&drill(&board, json!({ "pause": "5m" })).await), [""; 0]);
    let mono = board.time.lock().unwrap().mono;
    board.orders.meter().set_held(Held {
        events: 3,
        oldest: Some(mono),
        lease_ends: Some(mono + Duration::from_secs(20)),
        parked: false,
    });
    let held = drill(&board, json!({ "pause": "1h" })).await;
    assert!(
        found(&held)[0].contains("has 20s left") || found(&held)[0].contains("has 20 s left"),
        "{held}"
    );
    lease(None);
    assert_eq!(found(&drill(&board, json!({ "pause": "30days" })).await), [""; 0]);
}

#[tokio::test]
async fn what_cannot_be_checked_is_said_and_is_no_fault() {
    let board = Board::new();
    *board.found.lock().unwrap() = vec![Examination {
        access: Access::Unknown("Key Vault does not tell".into()),
        old: true,
        ..sound()
    }];
    let drill = drill(&board, json!({})).await;
    assert_eq!(found(&drill), [""; 0]);
    let unknown = drill["checks"].as_array().unwrap().iter();
    assert_eq!(unknown.filter(|c| c["result"] == "unknown").count(), 2, "{drill}");
}

#[tokio::test]
async fn a_look_needs_the_right_to_read_and_a_live_drill_that_to_pause() {
    let board = Board::with_tokens(&[("viewer", &[Right::Read]), ("button", &[Right::Pause])]);
    let call = |who: &str, body: Value| post("/streams/orders/drill").bearer(who).json(&body);
    for (who, body, status) in [
        ("viewer", json!({}), 200),
        ("viewer", json!({ "live": "1s" }), 403),
        ("button", json!({}), 403),
        ("button", json!({ "live": "1s" }), 403),
    ] {
        let answer = board.control(call(who, body.clone())).await;
        assert_eq!(answer.status.as_u16(), status, "{who} {body}: {}", answer.text);
    }
    assert!(board.holds.snapshot().stream("orders").unwrap().holds.is_empty());
}

#[tokio::test]
async fn the_age_and_the_outcome_of_the_last_drill_are_told_everywhere() {
    let board = Board::new();
    drill(&board, json!({})).await;
    board.pass(Duration::from_secs(90));
    let metrics = board.observe(get("/metrics")).await.text;
    for line in [
        "tidegate_last_drill_age_seconds{stream=\"orders\"} 90.0",
        "tidegate_last_drill_passed{stream=\"orders\"} 1.0",
        "tidegate_drills_total{stream=\"orders\",result=\"passed\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    let status = board.control(get("/status")).await.json();
    assert_eq!(status["drills"][0]["stream"], "orders");
    assert_eq!(status["drills"][0]["told"], "passed");
    // What a drill finds may name addresses.
    let redacted = board.observe(get("/status")).await.json();
    assert_eq!(redacted["drills"], Value::Null);
    let records = board.holds.journal_after(0);
    let record = records.iter().find(|r| r.act == Act::Drill).unwrap();
    assert_eq!(
        (record.reason.as_deref(), record.actor.as_deref()),
        (Some("passed"), Some("loopback"))
    );
}

#[tokio::test]
async fn drills_of_an_earlier_process_keep_their_age() {
    let before = Board::new();
    drill(&before, json!({})).await;
    *before.found.lock().unwrap() = Vec::new();
    before.pass(Duration::from_secs(10));
    drill(&before, json!({})).await;
    let past = before.control(get("/history")).await.json();
    let past: Vec<tidegate_admin::Event> = serde_json::from_value(past["entries"].clone()).unwrap();

    let board = Board::new();
    board.pass(Duration::from_secs(60));
    board.admin.remember_drills(&past);
    let metrics = board.observe(get("/metrics")).await.text;
    for line in [
        "tidegate_last_drill_age_seconds{stream=\"orders\"} 50.0",
        "tidegate_last_drill_passed{stream=\"orders\"} 0.0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}
