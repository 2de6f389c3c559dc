//! What pause, resume, override, poll and drain do and answer.
use crate::board::{Board, Call, get, noon, post};
use http::StatusCode;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tidegate_admin::Right;
use tidegate_gate::{Act, Controller, Phase};

fn hold_of(status: &Value, stream: &str) -> Value {
    let stream = status["streams"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["name"] == stream);
    stream.unwrap()["holds"].clone()
}

#[tokio::test]
async fn pause_and_resume_answer_as_flowtide_does() {
    let board = Board::new();
    for _ in 0..2 {
        let answer = board.control(post("/pause")).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.text, r#"{"message":"Stream paused"}"#);
        assert_eq!(board.orders.gate().sight().phase, Phase::Paused);
    }
    for _ in 0..2 {
        let answer = board.control(post("/resume")).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.text, r#"{"message":"Stream resumed"}"#);
        assert_eq!(board.orders.gate().sight().phase, Phase::Open);
    }
}

#[tokio::test]
async fn one_stream_is_paused_without_the_others() {
    let board = Board::new();
    board.control(post("/streams/orders/pause")).await;
    let status = board.control(get("/status")).await.json();
    assert_eq!(status["streams"][0]["state"], "paused");
    assert_eq!(status["streams"][1]["state"], "running");
    let answer = board.control(post("/streams/app/pause")).await;
    assert_eq!(answer.text, r#"{"message":"Stream paused"}"#);
    let status = board.control(get("/status")).await.json();
    assert_eq!(status["streams"][1]["state"], "hiatus");
    assert_eq!(
        board.control(post("/streams/orders/resume")).await.status,
        StatusCode::OK
    );
    let status = board.control(get("/status")).await.json();
    assert_eq!(status["streams"][0]["state"], "running");
    assert_eq!(status["streams"][1]["state"], "hiatus");
}

#[tokio::test]
async fn a_resume_that_others_forbid_names_them_and_releases_its_own() {
    let board = Board::new();
    board.flip(true, "8");
    board.control(post("/pause")).await;
    let answer = board.control(post("/streams/orders/resume")).await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    insta::assert_json_snapshot!("resume_409", answer.json());
    assert!(board.orders.gate().is_closed());
    board.flip(false, "9");
    assert!(
        !board.orders.gate().is_closed(),
        "the API's hold was released by the 409"
    );
    assert_eq!(
        hold_of(&board.control(get("/status")).await.json(), "app")[0]["controller"],
        "api"
    );
}

#[tokio::test]
async fn an_empty_body_is_no_body_whatever_its_content_type() {
    let board = Board::new();
    for kind in [
        "application/json",
        "text/plain",
        "application/x-www-form-urlencoded",
        "nonsense",
    ] {
        for body in ["", " ", "\r\n"] {
            let answer = board
                .control(post("/pause").header("content-type", kind).body(body))
                .await;
            assert_eq!(answer.status, StatusCode::OK, "{kind} {body:?}: {}", answer.text);
        }
        // What curl -d sends by default.
        let answer = board
            .control(post("/pause").header("content-type", kind).body("{}"))
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{kind}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_pause_carries_reason_by_and_until() {
    let board = Board::new();
    let body = json!({"reason": "db <b>\u{1b}[31m", "by": "ana", "until": "2026-11-22T14:00:00+01:00"});
    let answer = board.control(post("/streams/orders/pause").json(&body)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let holds = hold_of(&board.control(get("/status")).await.json(), "orders");
    insta::assert_json_snapshot!("hold", holds);
}

#[tokio::test]
async fn a_body_that_cannot_be_meant_is_refused_with_its_field() {
    let board = Board::new();
    let table = [
        (r#"{"until":"2026-11-22T11:59:59Z"}"#, 422, "until"),
        (r#"{"until":"2026-11-22T12:00:00Z"}"#, 422, "until"),
        (r#"{"until":"tomorrow"}"#, 422, "until"),
        (r#"{"until":"2026-11-22T18:00:00"}"#, 422, "until"),
        (r#"{"until":1795348800}"#, 422, "string"),
        (r#"{"untill":"2026-11-22T18:00:00Z"}"#, 422, "untill"),
        (r#"{"reason":1}"#, 422, "string"),
        (r#"{"reason":"a","reason":"b"}"#, 422, "reason"),
        (r#"[]"#, 422, "PauseBody"),
        (r#""x""#, 422, "PauseBody"),
        (r#"reason=x"#, 400, "JSON"),
        (r#"{"reason":"#, 400, "JSON"),
        ("\u{0}", 400, "JSON"),
    ];
    for (body, status, part) in table {
        let answer = board.control(post("/pause").body(body)).await;
        let (got, sentence) = answer.refused();
        assert_eq!(got, status, "{body}: {sentence}");
        assert!(sentence.contains(part), "{body}: {sentence}");
        assert!(!board.orders.gate().is_closed(), "{body}");
    }
    board.control(post("/pause")).await;
    for (body, status) in [
        (r#"{"reason":1}"#, 422),
        (r#"{"until":"2026-11-22T18:00:00Z"}"#, 422),
        ("x", 400),
    ] {
        assert_eq!(
            board.control(post("/resume").body(body)).await.refused().0,
            status,
            "{body}"
        );
        assert!(board.orders.gate().is_closed(), "{body}");
    }
}

#[tokio::test]
async fn a_resume_may_say_why() {
    let board = Board::new();
    board
        .control(post("/pause").json(&json!({"reason": "disk full"})))
        .await;
    let body = json!({"reason": "disk is back", "by": "ana"});
    assert_eq!(
        board.control(post("/resume").json(&body)).await.status,
        StatusCode::OK
    );
    let records = board.holds.journal_after(0);
    let last = records.iter().rev().find(|r| r.act == Act::Released).unwrap();
    assert_eq!(
        (last.reason.as_deref(), last.by.as_deref()),
        (Some("disk is back"), Some("ana"))
    );
}

#[tokio::test]
async fn a_body_over_64_kib_is_413_and_one_of_64_kib_is_read() {
    let board = Board::new();
    let body = |size: usize| format!(r#"{{"reason":"{}"}}"#, "x".repeat(size - 13));
    for path in ["/pause", "/resume", "/drain", "/poll", "/streams/orders/pause"] {
        let answer = board.control(post(path).body(body(65_537))).await;
        assert_eq!(answer.refused().0, 413, "{path}");
        // Of unknown length, in pieces.
        let pieces = futures_util::stream::iter((0..17).map(|_| Ok::<_, std::io::Error>("x".repeat(4096))));
        let answer = board
            .control(post(path).body(axum::body::Body::from_stream(pieces)))
            .await;
        assert_eq!(answer.refused().0, 413, "{path}");
    }
    let answer = board.control(post("/pause").body(body(65_536))).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let reason = board.holds.snapshot().streams[0].holds[0]
        .1
        .reason
        .clone()
        .unwrap();
    assert_eq!(reason.chars().count(), 256);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_drips_is_cut_after_five_seconds() {
    let board = Board::new();
    let drip = futures_util::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((Ok::<_, std::io::Error>(" "), ()))
    });
    let answer = board
        .control(post("/pause").body(axum::body::Body::from_stream(drip)))
        .await;
    assert_eq!(answer.refused().0, 408);
    assert!(!board.orders.gate().is_closed());
}

#[tokio::test]
async fn an_override_sets_one_switch_aside_until_its_next_version() {
    let board = Board::with_tokens(&[("chief", &[Right::Override, Right::Read])]);
    let over = |body: Value| post("/streams/orders/override").bearer("chief").json(&body);
    let good = json!({"controller": "switch:ops", "reason": "vault is gone"});
    assert_eq!(board.control(over(good.clone())).await.refused().0, 409);
    board.flip(true, "8");
    let answer = board.control(over(good.clone())).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.json(), json!({"message": "Hold set aside", "holds": []}));
    assert!(!board.orders.gate().is_closed());
    assert_eq!(
        board.holds.snapshot().streams[1].holds.len(),
        1,
        "the other stream keeps its hold"
    );
    board.flip(true, "8");
    assert!(
        !board.orders.gate().is_closed(),
        "the same version holds nothing again"
    );
    board.flip(true, "9");
    assert!(board.orders.gate().is_closed());

    for (body, status) in [
        (json!({"controller": "switch:ops"}), 422),
        (json!({"reason": "x"}), 422),
        (json!({"controller": "switch:ops", "reason": " "}), 422),
        (json!({"controller": "api", "reason": "x"}), 422),
        (json!({"controller": "stop", "reason": "x"}), 422),
        (json!({"controller": "switch:", "reason": "x"}), 422),
        (
            json!({"controller": "switch:ops", "reason": "x", "until": "x"}),
            422,
        ),
        (json!({"controller": "switch:other", "reason": "x"}), 409),
    ] {
        assert_eq!(
            board.control(over(body.clone())).await.refused().0,
            status,
            "{body}"
        );
    }
    assert_eq!(board.control(over(json!({})).body("")).await.refused().0, 422);
    let nobody = post("/streams/nobody/override").bearer("chief").json(&good);
    assert_eq!(board.control(nobody).await.refused().0, 404);
}

#[tokio::test(start_paused = true)]
async fn a_poll_answers_when_it_is_done_and_a_crowd_costs_two() {
    let board = Board::new();
    let start = tokio::time::Instant::now();
    let answer = board.control(post("/poll")).await;
    assert_eq!(answer.json(), json!({"message": "Switches read"}));
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    assert_eq!(board.polls.load(Relaxed), 1);
    // The first of the crowd starts a poll; all others came before the next one starts.
    let crowd = (0..50).map(|_| board.control(post("/poll")));
    let answers = futures_util::future::join_all(crowd).await;
    assert!(answers.iter().all(|a| a.status == StatusCode::OK));
    assert!(board.polls.load(Relaxed) <= 3, "{}", board.polls.load(Relaxed));
}

#[tokio::test(start_paused = true)]
async fn drain_waits_for_what_is_held_and_says_what_still_runs() {
    let board = Board::new();
    assert_eq!(board.control(post("/drain")).await.refused().0, 409);
    let started = board.holds.now().mono;
    let unit = board
        .orders
        .gate()
        .try_enter()
        .unwrap()
        .named("write to sink", started);
    // Work in a stream that nobody holds does not matter.
    let other = board.app.gate().try_enter().unwrap();
    board.control(post("/streams/orders/pause")).await;
    board.pass(Duration::from_secs(3));
    let answer = board.control(post("/drain?timeout=250ms")).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    insta::assert_json_snapshot!("drain_504", answer.json());

    let (drained, ()) = tokio::join!(board.control(post("/drain?timeout=60s")), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(unit);
    });
    assert_eq!(drained.status, StatusCode::OK);
    assert_eq!(
        drained.json(),
        json!({"message": "Drained", "in_flight": 0, "streams": []})
    );

    // A gate that serves on while held proves nothing; its count falls to 0 all the same.
    board.control(post("/streams/app/pause")).await;
    let (drained, ()) = tokio::join!(board.control(post("/drain")), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(other);
    });
    assert_eq!(drained.status, StatusCode::OK);

    for bad in [
        "timeout=x",
        "timeout=30",
        "timeout=-1s",
        "timeout=2h",
        "timeuot=3s",
        "close=perhaps",
        "timeout=1s&timeout=2s",
    ] {
        assert_eq!(
            board.control(post(&format!("/drain?{bad}"))).await.refused().0,
            400,
            "{bad}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_resume_in_the_middle_ends_a_drain() {
    let board = Board::new();
    let _unit = board.orders.gate().try_enter().unwrap();
    board.control(post("/streams/orders/pause")).await;
    let (answer, _) = tokio::join!(board.control(post("/drain?timeout=1h")), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        board.control(post("/resume")).await
    });
    assert_eq!(answer.refused().0, 409);
}

#[tokio::test(start_paused = true)]
async fn drain_with_close_turns_readiness_at_once_and_holds_gates_after_drain_delay() {
    let board = Board::with(|options, _| options.drain_delay = Duration::from_secs(5));
    let stop = |name: &str| {
        let snapshot = board.holds.snapshot();
        snapshot
            .stream(name)
            .unwrap()
            .holds
            .iter()
            .any(|(c, _)| *c == Controller::Stop)
    };
    assert_eq!(board.observe(get("/readyz")).await.status, StatusCode::OK);
    let (answer, ()) = tokio::join!(board.control(post("/drain?close=true")), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let ready = board.observe(get("/readyz")).await;
        assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(ready.text.contains("stopping"));
        assert!(stop("orders") && !stop("app"));
    });
    assert_eq!(answer.status, StatusCode::OK);
    assert!(stop("app"));
    let resume = board.control(post("/resume")).await;
    assert_eq!(resume.status, StatusCode::CONFLICT);
    assert_eq!(resume.json()["holds"][0]["controller"], "stop");
}

#[tokio::test(start_paused = true)]
async fn a_close_goes_on_when_its_caller_is_gone() {
    let board = Board::with(|options, _| options.drain_delay = Duration::from_secs(5));
    let stop = tokio_util::sync::CancellationToken::new();
    let admin = board.admin.clone();
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { admin.run(stop).await }
    });
    let call = board.control(post("/drain?close=true"));
    assert!(tokio::time::timeout(Duration::from_secs(1), call).await.is_err());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(board.holds.snapshot().stream("app").unwrap().holds.len(), 1);
    // A signal that comes after it finds everything done.
    board.admin.close().await;
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn readiness_waits_for_every_switch_and_for_streams_only_if_asked() {
    let board = Board::new();
    let mut switch = crate::board::switch();
    switch.settled = false;
    switch.reading = "unavailable";
    board.holds.put_switch(switch);
    let answer = board.observe(get("/readyz")).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    insta::assert_json_snapshot!("readyz_503", answer.json());
    assert_eq!(board.observe(get("/livez")).await.status, StatusCode::OK);

    let asked = Board::with(|options, _| options.observe.ready_while_paused = false);
    asked.control(post("/streams/app/pause")).await;
    assert_eq!(
        asked.observe(get("/readyz")).await.status,
        StatusCode::OK,
        "a gate that serves never counts"
    );
    asked.control(post("/streams/orders/pause")).await;
    assert_eq!(
        asked.observe(get("/readyz")).await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(asked.observe(get("/livez")).await.status, StatusCode::OK);
    board.control(post("/pause")).await;
}

#[tokio::test]
async fn the_status_shows_everything_and_the_observers_nothing_that_tells() {
    let board = Board::new();
    let mut switch = crate::board::switch();
    switch.reading = "denied";
    switch.error = Some("vault.internal:8200 says 403".into());
    switch.warnings = vec!["until was ignored".into()];
    switch.good_at = Some(board.holds.now().mono);
    switch.next_poll = Some(board.holds.now().mono + Duration::from_millis(1500));
    board.holds.put_switch(switch);
    board.holds.set_alarm("state", Some("the disk is full".into()));
    let started = board.holds.now().mono;
    let _unit = board
        .orders
        .gate()
        .try_enter()
        .unwrap()
        .named("POST /users/42", started);
    board.pass(Duration::from_millis(500));
    board.flip(true, "8");
    let body = json!({"reason": "incident 7", "by": "ana", "until": "2026-11-22T18:00:00Z"});
    board.control(post("/pause").json(&body)).await;
    let whole = board.control(get("/status")).await;
    insta::assert_json_snapshot!("status", whole.json());
    let seen = board.observe(get("/status")).await;
    insta::assert_json_snapshot!("status_redacted", seen.json());
    for told in [
        "incident 7",
        "db maintenance",
        "ana",
        "store:8",
        "loopback",
        "403",
        "vault.internal",
        "until was",
        "disk",
        "users",
    ] {
        assert!(whole.text.contains(told), "{told}");
        assert!(!seen.text.contains(told), "{told}");
    }
    let _: tidegate_admin::Status = serde_json::from_str(&seen.text).unwrap();
    assert_eq!(board.holds.snapshot().at, noon() + Duration::from_millis(500));
}

/// Under a storm of calls, body and status of one answer come from one moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_body_of_readyz_never_disagrees_with_its_status() {
    let board = Board::with(|options, _| options.observe.ready_while_paused = false);
    let (control, observe) = (board.admin.control(), board.admin.observe());
    let toggling = tokio::spawn({
        let control = control.clone();
        async move {
            loop {
                assert_eq!(post("/pause").send(control.clone()).await.status, StatusCode::OK);
                assert_eq!(post("/resume").send(control.clone()).await.status, StatusCode::OK);
                tokio::task::yield_now().await;
            }
        }
    });
    let looking = tokio::spawn(async move {
        let mut seen = [0, 0];
        while seen.iter().any(|&n| n < 500) {
            let answer = get("/readyz").send(observe.clone()).await;
            let ready = answer.json()["ready"].as_bool().unwrap();
            assert_eq!(ready, answer.json()["waiting_for"].as_array().unwrap().is_empty());
            assert_eq!(ready, answer.status == StatusCode::OK);
            let status = get("/status").send(control.clone()).await.json();
            let orders = &status["streams"][0];
            let held = !orders["holds"].as_array().unwrap().is_empty();
            assert_eq!(orders["state"] == "paused", held, "{orders}");
            assert_eq!(orders["state"] == "running", !held, "{orders}");
            seen[usize::from(ready)] += 1;
            tokio::task::yield_now().await;
        }
    });
    tokio::time::timeout(Duration::from_secs(60), looking)
        .await
        .expect("both answers to be seen")
        .unwrap();
    toggling.abort();
}

fn any_call() -> impl Strategy<Value = (String, Vec<u8>)> {
    let known = prop::sample::select(vec![
        "/pause",
        "/resume",
        "/poll",
        "/status",
        "/drain",
        "/streams/orders/pause",
        "/streams/orders/override",
        "/openapi.json",
    ])
    .prop_map(str::to_owned);
    let path = prop_oneof![
        3 => known,
        1 => "(/[a-z%0-9._~{}*-]{0,8}){1,4}",
        1 => "/streams/[^ \\x00-\\x20?#]{0,12}/(pause|resume|override)",
        1 => "/drain\\?[a-z0-9=&%.+]{0,20}timeout=[0-9]{0,3}m?s?",
    ];
    let text = prop_oneof![
        Just(String::new()),
        ".{0,40}",
        r#"\{"(reason|by|until|controller)":("[a-z0-9:TZ-]{0,24}"|[0-9]{1,9}|null|\[\]|\{\})(,"(reason|by|until|x)":"[ -~]{0,9}")?\}"#,
    ];
    let body =
        prop_oneof![3 => text.prop_map(String::into_bytes), 1 => prop::collection::vec(any::<u8>(), 0..64)];
    (path, body)
}

proptest! {
    // Two thousand calls: twenty at each board, since making one takes longer than a call.
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_path_and_no_body_is_ever_a_500(calls in prop::collection::vec((any_call(), any::<bool>()), 20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let board = Board::new();
            for ((path, body), get_it) in calls {
                let Ok(uri) = path.parse::<http::Uri>() else { continue };
                let mut call = if get_it { get("/") } else { post("/") }.body(body);
                *call.request.uri_mut() = uri;
                let answer = Call::send(call, board.admin.control()).await;
                let status = answer.status;
                prop_assert!(status.as_u16() < 500 || status == StatusCode::GATEWAY_TIMEOUT, "{path}: {answer:?}");
                // Everything is JSON but the page.
                if !answer.header("content-type").starts_with("text/html") {
                    let _: Value = answer.json();
                }
            }
            Ok(())
        })?;
    }
}
