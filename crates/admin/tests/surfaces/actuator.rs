//! The walk through the README of Hiatus for Spring Boot, and what it leaves open.
use crate::board::{Answer, Board, get, post};
use http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;
use tidegate_gate::{Clock, Holds, Kind, Life, Moment, State};

async fn both(board: &Board, path: &str) -> Answer {
    let (control, observe) = (board.control(get(path)).await, board.observe(get(path)).await);
    assert_eq!(control.status, observe.status, "{path}");
    let real = |answer: &Answer| {
        let mut body = answer.json();
        if let Some(disk) = body.get_mut("diskSpace") {
            disk["free"] = json!(0);
        }
        body
    };
    assert_eq!(real(&control), real(&observe), "{path}");
    assert_eq!(observe.header("content-type"), "application/json");
    observe
}

#[tokio::test]
async fn the_readme_of_the_original_works_step_by_step() {
    let board = Board::new();
    let health = both(&board, "/actuator/health").await;
    assert_eq!(health.status, StatusCode::OK);
    assert!(
        health
            .text
            .starts_with(r#"{"status":"UP","diskSpace":{"status":"UP","total":"#),
        "{}",
        health.text
    );
    assert!(
        health
            .text
            .contains(r#","threshold":10485760},"hiatus":{"status":"UP","paused":false,"count":0}"#)
    );
    let idle = both(&board, "/actuator/hiatus").await;
    assert_eq!(
        (idle.status.as_u16(), idle.text.as_str()),
        (200, r#"{"paused":false,"count":0}"#)
    );

    let requests = [(); 3].map(|()| board.app.gate().admit());
    assert_eq!(
        both(&board, "/actuator/hiatus").await.text,
        r#"{"paused":false,"count":3}"#
    );

    let on = board.control(post("/actuator/hiatus-on")).await;
    assert_eq!((on.status.as_u16(), on.text.as_str()), (200, "true"));
    let health = both(&board, "/actuator/health").await;
    assert_eq!(health.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        health
            .text
            .starts_with(r#"{"status":"OUT_OF_SERVICE","diskSpace":{"status":"UP","#)
    );
    assert!(
        health
            .text
            .contains(r#""hiatus":{"status":"OUT_OF_SERVICE","paused":true,"count":3}"#)
    );
    let held = both(&board, "/actuator/hiatus").await;
    assert_eq!(
        (held.status.as_u16(), held.text.as_str()),
        (503, r#"{"paused":true,"count":3}"#)
    );
    // The original goes on serving.
    drop(
        board
            .app
            .gate()
            .try_enter()
            .expect("a gate that serves stays open"),
    );

    drop(requests);
    assert_eq!(
        both(&board, "/actuator/hiatus").await.text,
        r#"{"paused":true,"count":0}"#
    );
    assert_eq!(board.control(post("/actuator/hiatus-on")).await.text, "false");
    assert_eq!(board.control(post("/actuator/hiatus-off")).await.text, "true");
    assert_eq!(board.control(post("/actuator/hiatus-off")).await.text, "false");
    assert_eq!(both(&board, "/actuator/health").await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_gates_are_meant_and_not_the_streams_beside_them() {
    let board = Board::new();
    board.control(post("/actuator/hiatus-on")).await;
    assert!(!board.orders.gate().is_closed());
    assert_eq!(board.holds.snapshot().stream("app").unwrap().state, State::Hiatus);
    board.control(post("/actuator/hiatus-off")).await;
    // A stream that is held takes no gate out of balancing; asked for by name, it says so.
    board.control(post("/streams/orders/pause")).await;
    assert_eq!(both(&board, "/actuator/health").await.status, StatusCode::OK);
    assert_eq!(both(&board, "/actuator/hiatus/app").await.status, StatusCode::OK);
    let orders = both(&board, "/actuator/hiatus/orders").await;
    assert_eq!(
        (orders.status.as_u16(), orders.text.as_str()),
        (503, r#"{"paused":true,"count":0}"#)
    );
    assert_eq!(both(&board, "/actuator/hiatus/nobody").await.refused().0, 404);
}

#[tokio::test]
async fn off_says_false_while_others_hold() {
    let board = Board::new();
    board.flip(true, "8");
    assert_eq!(board.control(post("/actuator/hiatus-on")).await.text, "false");
    assert_eq!(board.control(post("/actuator/hiatus-off")).await.text, "false");
    assert_eq!(
        both(&board, "/actuator/health").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    board.flip(false, "9");
    assert_eq!(both(&board, "/actuator/health").await.status, StatusCode::OK);
}

#[tokio::test]
async fn switches_are_details_and_never_change_the_status() {
    let board = Board::new();
    let mut switch = crate::board::switch();
    switch.reading = "unavailable";
    switch.stale = true;
    switch.settled = false;
    switch.error = Some("vault.internal says nothing".into());
    switch.good_at = Some(board.holds.now().mono);
    board.holds.put_switch(switch);
    board.pass(Duration::from_secs(400));
    let health = both(&board, "/actuator/health").await;
    assert_eq!(health.status, StatusCode::OK);
    assert_eq!(
        health.json()["switches"],
        json!({"ops": {"reading": "unavailable", "ageSeconds": 400.0}})
    );
    assert!(!health.text.contains("vault.internal"));
}

#[tokio::test]
async fn the_disk_figures_are_real() {
    let board = Board::new();
    let disk = board.observe(get("/actuator/health")).await.json()["diskSpace"].clone();
    let (total, free) = (disk["total"].as_u64().unwrap(), disk["free"].as_u64().unwrap());
    assert!(total > 0 && free <= total, "{disk}");
    let df = std::process::Command::new("df")
        .args(["--output=size", "-B1", "."])
        .output()
        .unwrap();
    let df = String::from_utf8(df.stdout).unwrap();
    assert_eq!(
        df.split_whitespace().last().unwrap().parse::<u64>().unwrap(),
        total
    );
    let nowhere = Board::with(|options, dir| options.disk = dir.path().join("absent"));
    let health = nowhere.observe(get("/actuator/health")).await;
    assert_eq!(health.status, StatusCode::OK);
    assert_eq!(health.json()["diskSpace"]["status"], "UNKNOWN");
}

#[tokio::test(start_paused = true)]
async fn a_close_takes_the_service_out_of_balancing_before_its_gates_are_held() {
    let board = Board::with(|options, _| options.drain_delay = Duration::from_secs(5));
    let closing = board.admin.close();
    assert!(
        tokio::time::timeout(Duration::from_secs(1), closing)
            .await
            .is_err()
    );
    assert!(board.holds.snapshot().stream("app").unwrap().holds.is_empty());
    for path in ["/actuator/health", "/actuator/hiatus", "/actuator/hiatus/app"] {
        let answer = both(&board, path).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        let body = answer.json();
        let paused = body.pointer("/hiatus/paused").or(body.get("paused")).unwrap();
        assert_eq!(paused, &Value::Bool(true), "{path}");
    }
}

#[tokio::test]
async fn without_gates_all_streams_are_meant() {
    let now = Moment {
        wall: crate::board::noon(),
        mono: std::time::Instant::now(),
    };
    let holds = Holds::new(Clock::new(move || now));
    let metrics = tidegate_admin::Metrics::new(holds.clone(), "0");
    let hooks = tidegate_admin::Hooks {
        poll: std::sync::Arc::new(|| Box::pin(std::future::ready(()))),
        ..tidegate_admin::Hooks::default()
    };
    let admin = tidegate_admin::Admin::new(holds.clone(), metrics, Default::default(), hooks).unwrap();
    // Nothing at all: nothing changes, and nothing is held.
    assert_eq!(
        post("/actuator/hiatus-on").send(admin.control()).await.text,
        "false"
    );
    assert_eq!(
        get("/actuator/health").send(admin.observe()).await.status,
        StatusCode::OK
    );
    let members = ["a", "b"].map(|name| holds.register(name, Kind::Stream).unwrap());
    members.iter().for_each(|m| m.set_life(Life::Up));
    let _units = members.each_ref().map(|m| m.gate().try_enter().unwrap());
    assert_eq!(
        post("/actuator/hiatus-on").send(admin.control()).await.text,
        "true"
    );
    let answer = get("/actuator/hiatus").send(admin.observe()).await;
    assert_eq!(
        (answer.status.as_u16(), answer.text.as_str()),
        (503, r#"{"paused":true,"count":2}"#)
    );
}

/// Many switch at once; who reads sees one moment. The twin, which reads twice, is caught by the same look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_never_disagrees_with_the_status_code() {
    let board = Board::new();
    let toggling = tokio::spawn({
        let control = board.admin.control();
        async move {
            loop {
                for path in ["/actuator/hiatus-on", "/actuator/hiatus-off"] {
                    assert_eq!(post(path).send(control.clone()).await.status, StatusCode::OK);
                }
                tokio::task::yield_now().await;
            }
        }
    });
    let observe = board.admin.observe();
    let (mut seen, mut twin) = ([0, 0], 0);
    let looking = async {
        while seen.iter().any(|&n| n < 300) || twin == 0 {
            for path in ["/actuator/hiatus", "/actuator/hiatus/app", "/actuator/health"] {
                let answer = get(path).send(observe.clone()).await;
                let body = answer.json();
                let paused = body.pointer("/hiatus/paused").or(body.get("paused")).unwrap() == true;
                assert_eq!(paused, answer.status == StatusCode::SERVICE_UNAVAILABLE, "{path}");
                if let Some(status) = body.get("status") {
                    assert_eq!(paused, status == "OUT_OF_SERVICE");
                }
                seen[usize::from(paused)] += 1;
            }
            let read = || board.holds.snapshot().stream("app").unwrap().holds.is_empty();
            twin += u32::from(read() != read());
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), looking)
        .await
        .expect("both states, and the twin caught");
    toggling.abort();
}
