//! The whole state at once, then every change.
use crate::board::{Board, get, post};
use axum::body::Body;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::time::Duration;
use tidegate_admin::{Change, Status};
use tidegate_gate::{Held, SwitchStatus};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// A board whose surfaces run.
struct Live {
    board: Board,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Live {
    fn new(board: Board) -> Live {
        let stop = CancellationToken::new();
        let (admin, until) = (board.admin.clone(), stop.clone());
        let task = tokio::spawn(async move { admin.run(until).await });
        Live { board, stop, task }
    }

    async fn watch(&self) -> Watch {
        let answer = self
            .board
            .admin
            .control()
            .oneshot(get("/watch").request)
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        Watch(answer.into_body())
    }
}

struct Watch(Body);

impl Watch {
    /// The next piece of the answer: one event.
    async fn raw(&mut self) -> Option<Bytes> {
        let frame = timeout(Duration::from_secs(3600), self.0.frame())
            .await
            .expect("an event");
        frame.map(|f| f.unwrap().into_data().unwrap())
    }

    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            let raw = self.raw().await?;
            let text = std::str::from_utf8(&raw)
                .unwrap()
                .strip_suffix("\n\n")
                .expect("a whole event");
            if text.starts_with("event: alive\n") {
                continue;
            }
            let (name, data) = text.split_once('\n').unwrap();
            let name = name.strip_prefix("event: ").unwrap();
            let data = data.strip_prefix("data: ").unwrap();
            assert!(!data.contains('\n'));
            return Some((name.into(), serde_json::from_str(data).unwrap()));
        }
    }

    async fn change(&mut self) -> Value {
        let (name, data) = self.next().await.unwrap();
        assert_eq!(name, "change", "{data}");
        data
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_is_told_the_whole_state_and_then_every_change() {
    let live = Live::new(Board::new());
    live.board.control(post("/streams/orders/pause")).await;
    let mut watch = live.watch().await;
    let (name, state) = watch.next().await.unwrap();
    assert_eq!(name, "state");
    let (mut state, now) = (state, live.board.control(get("/status")).await.json());
    let recent = state.as_object_mut().unwrap().remove("recent").unwrap();
    assert_eq!(state, now);
    assert_eq!(
        state["streams"][0]["state"], "paused",
        "what was answered before is in it"
    );
    assert_eq!(recent.as_array().unwrap().last().unwrap()["to"], "paused");

    live.board.control(post("/streams/orders/resume")).await;
    let change = watch.change().await;
    assert_eq!(change["streams"].as_array().unwrap().len(), 1);
    assert_eq!(change["streams"][0]["state"], "running");
    assert_eq!(change["switches"], json!([]));
    let kinds: Vec<&str> = change["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["hold_released", "transition"]);
    assert_eq!(change["events"][1]["to"], "running");
    let _: Change = serde_json::from_value(change).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_state_that_lasts_no_time_is_told_as_an_event_all_the_same() {
    let live = Live::new(Board::new());
    let mut watch = live.watch().await;
    watch.next().await;
    for _ in 0..3 {
        live.board.control(post("/streams/orders/pause")).await;
        live.board.control(post("/streams/orders/resume")).await;
    }
    let mut transitions = Vec::new();
    while transitions.len() < 6 {
        let change = watch.change().await;
        for event in change["events"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|e| e["kind"] == "transition")
        {
            transitions.push(event["to"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(
        transitions,
        ["paused", "running", "paused", "running", "paused", "running"]
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_changes_after_a_quiet_time_are_told_at_once_and_a_storm_is_gathered() {
    let live = Live::new(Board::new());
    let mut watch = live.watch().await;
    watch.next().await;
    let flip = async |on: bool| {
        let path = if on {
            "/streams/orders/pause"
        } else {
            "/streams/orders/resume"
        };
        live.board.control(post(path)).await
    };
    for round in 0..3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let began = Instant::now();
        for on in [true, false, true, false] {
            flip(on).await;
            let change = watch.change().await;
            let state = if on { "paused" } else { "running" };
            assert_eq!(change["streams"][0]["state"], state);
            assert_eq!(began.elapsed(), Duration::ZERO, "round {round}");
        }
        // From here on it is a storm: what comes within one gathering is one event.
        let mut events = 0;
        for _ in 0..50 {
            flip(true).await;
            flip(false).await;
        }
        while events < 200 {
            events += watch.change().await["events"].as_array().unwrap().len();
            assert_eq!(began.elapsed(), Duration::from_millis(20), "round {round}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_storm_that_lasts_is_told_fifty_times_a_second() {
    let live = Live::new(Board::new());
    let mut watch = live.watch().await;
    watch.next().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let storm = async {
        for i in 0..1000 {
            let path = if i % 2 == 0 {
                "/streams/orders/pause"
            } else {
                "/streams/orders/resume"
            };
            live.board.control(post(path)).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let mut told = 0;
    let counting = async {
        loop {
            watch.change().await;
            told += 1;
        }
    };
    tokio::select! {
        () = storm => {}
        () = counting => {}
    }
    // The four that are lent, and one more if the second begins and ends with one.
    assert!((50..=55).contains(&told), "{told} events in a second");
}

#[tokio::test(start_paused = true)]
async fn counters_are_told_once_a_second_and_only_if_they_changed() {
    let live = Live::new(Board::new());
    let mut watch = live.watch().await;
    watch.next().await;
    live.board.orders.meter().add_events(5);
    live.board.orders.meter().add_events(7);
    let change = watch.change().await;
    assert_eq!(change["streams"][0]["events"], 12);
    assert_eq!(change["events"], json!([]));
    // Nothing more: the next thing that is heard is that we are still here.
    let silence = tokio::time::Instant::now();
    assert_eq!(watch.raw().await.unwrap(), "event: alive\ndata: {}\n\n");
    assert!(
        silence.elapsed() >= Duration::from_secs(4),
        "{:?}",
        silence.elapsed()
    );
    // A reading that was renewed is told as its age alone.
    live.board.pass(Duration::from_secs(10));
    live.board.holds.put_switch(SwitchStatus {
        good_at: Some(live.board.holds.now().mono - Duration::from_millis(1500)),
        next_poll: Some(live.board.holds.now().mono + Duration::from_millis(500)),
        ..crate::board::switch()
    });
    let change = watch.change().await;
    assert_eq!(change["ages"], json!({"ops": 1.5}));
    assert_eq!(change["next_polls"], json!({"ops": 0.5}));
    assert_eq!(
        (&change["streams"], &change["switches"]),
        (&json!([]), &json!([]))
    );
}

/// Whoever adds the changes up has what the status says.
#[tokio::test(start_paused = true)]
async fn the_changes_add_up_to_the_status() {
    let live = Live::new(Board::new());
    let mut watch = live.watch().await;
    let mut seen: Status = serde_json::from_value(watch.next().await.unwrap().1).unwrap();
    let mut units = Vec::new();
    for step in 0..400_u64 {
        match shuffled(step) % 9 {
            0 => drop(live.board.control(post("/pause")).await),
            1 => drop(live.board.control(post("/streams/orders/resume")).await),
            2 => drop(live.board.control(post("/resume")).await),
            3 => live.board.flip(true, &step.to_string()),
            4 => live.board.flip(false, &step.to_string()),
            5 => units.extend(live.board.orders.gate().try_enter()),
            6 => drop(units.pop()),
            7 => live.board.orders.meter().set_held(Held {
                events: step,
                ..Held::default()
            }),
            _ => live
                .board
                .holds
                .set_alarm("x", (step % 2 == 0).then(|| format!("alarm {step}").into())),
        }
        live.board.orders.meter().add_events(1);
        let told = live.board.holds.snapshot().streams[0].events;
        while seen.streams[0].events < told {
            let change: Change = serde_json::from_value(watch.change().await).unwrap();
            assert!(change.revision >= seen.revision);
            for stream in change.streams {
                let old = seen.streams.iter_mut().find(|s| s.name == stream.name).unwrap();
                *old = stream;
            }
            for switch in change.switches {
                let old = seen.switches.iter_mut().find(|s| s.name == switch.name).unwrap();
                *old = switch;
            }
            seen.alarms = change.alarms;
            seen.revision = change.revision;
            seen.closing = change.closing;
        }
        let now: Status = serde_json::from_value(live.board.control(get("/status")).await.json()).unwrap();
        seen.recent.clear();
        assert_eq!(seen, now, "after step {step}");
    }
}

/// A fixed sequence that looks random enough.
fn shuffled(step: u64) -> u64 {
    let x = (step + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_does_not_read_is_dropped_with_a_reason_and_delays_nobody() {
    let live = Live::new(Board::new());
    let mut lazy = live.watch().await;
    let mut keen = live.watch().await;
    keen.next().await;
    for i in 0..150 {
        for (call, state) in [("pause", "paused"), ("resume", "running")] {
            live.board.control(post(&format!("/streams/orders/{call}"))).await;
            let change = keen.change().await;
            assert_eq!(change["streams"][0]["state"], state, "{i}");
        }
    }
    assert_eq!(lazy.next().await.unwrap().0, "state");
    let (name, data) = lazy.next().await.unwrap();
    assert_eq!(name, "dropped");
    assert!(data["reason"].as_str().unwrap().starts_with("too slow"), "{data}");
    assert_eq!(lazy.raw().await, None);
    let gone = live.watch().await;
    live.board.control(post("/pause")).await;
    keen.change().await;
    drop((gone, lazy, keen));
    let metrics = live.board.metrics.text();
    for line in [
        "tidegate_watchers_dropped_total{reason=\"too slow\"} 1",
        "tidegate_watchers_dropped_total{reason=\"not reading\"} 1",
        "tidegate_watchers 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_watcher_too_many_is_told_so_until_another_leaves() {
    let live = Live::new(Board::with(|options, _| options.control.max_watchers = 2));
    let (first, _second) = (live.watch().await, live.watch().await);
    let answer = live.board.control(get("/watch")).await;
    assert_eq!(answer.refused().0, 503);
    assert_eq!(answer.header("retry-after"), "5");
    drop(first);
    live.watch().await;
}

#[tokio::test(start_paused = true)]
async fn stopping_says_goodbye_to_every_watcher() {
    let live = Live::new(Board::new());
    let mut watch = live.watch().await;
    watch.next().await;
    live.board.control(post("/drain?close=true")).await;
    assert_eq!(watch.change().await["closing"], true);
    live.stop.cancel();
    live.task.await.unwrap();
    let (name, data) = watch.next().await.unwrap();
    assert_eq!(
        (name.as_str(), data),
        ("end", json!({"reason": "the process is stopping"}))
    );
    assert_eq!(watch.raw().await, None);
    assert_eq!(live.board.control(get("/watch")).await.refused().0, 503);
}
