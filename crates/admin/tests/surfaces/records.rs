//! Metrics and audit lines.
use crate::board::{Board, get, post};
use http::StatusCode;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tidegate_admin::{Event, audit};
use tidegate_gate::{Held, Phase};
use tokio::io::AsyncWrite;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

#[tokio::test(start_paused = true)]
async fn the_metrics_are_open_metrics_text_with_these_names() {
    let board = Board::new();
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (admin, stop) = (board.admin.clone(), stop.clone());
        async move { admin.run(stop).await }
    });
    let started = board.holds.now().mono;
    let unit = board.orders.gate().try_enter().unwrap().named("write", started);
    board.orders.meter().add_events(3);
    board.orders.meter().set_held(Held {
        events: 2,
        oldest: Some(started),
        lease_ends: Some(started + Duration::from_secs(30)),
        parked: false,
    });
    board.flip(true, "8");
    board.pass(Duration::from_millis(1500));
    drop(unit);
    board.holds.settle();
    board
        .metrics
        .poll_outcome("ops", "paused", Duration::from_millis(3));
    board
        .metrics
        .poll_outcome("ops", "denied", Duration::from_millis(3));
    // The journal is followed by a task of its own.
    while !board
        .metrics
        .text()
        .contains("tidegate_transitions_total{stream=\"orders\",from=\"pausing\",to=\"paused\"} 1")
    {
        tokio::task::yield_now().await;
    }
    let answer = board.observe(get("/metrics")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(
        answer.header("content-type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let text = answer.text;
    assert!(text.ends_with("# EOF\n"));
    for line in [
        "tidegate_build_info{version=\"0.0.0-test\"} 1",
        "tidegate_stream_state{stream=\"orders\",kind=\"stream\",state=\"paused\"} 1",
        "tidegate_stream_state{stream=\"orders\",kind=\"stream\",state=\"running\"} 0",
        "tidegate_stream_state{stream=\"app\",kind=\"gate\",state=\"hiatus\"} 1",
        "tidegate_in_flight_units{stream=\"orders\"} 0",
        "tidegate_held_events{stream=\"orders\"} 2",
        "tidegate_held_oldest_age_seconds{stream=\"orders\"} 1.5",
        "tidegate_lease_left_seconds{stream=\"orders\"} 28.5",
        "tidegate_holds{stream=\"orders\",controller=\"api\"} 0",
        "tidegate_holds{stream=\"orders\",controller=\"switch:ops\"} 1",
        "tidegate_events_total{stream=\"orders\"} 3",
        "tidegate_polls_total{switch=\"ops\",outcome=\"paused\"} 1",
        "tidegate_polls_total{switch=\"ops\",outcome=\"denied\"} 1",
        "tidegate_poll_duration_seconds_count{switch=\"ops\"} 2",
        "tidegate_switch_reading{switch=\"ops\",reading=\"running\"} 1.0",
        "tidegate_reading_age_seconds{switch=\"ops\"} 1.5",
        "tidegate_flip_latency_seconds_sum{stream=\"orders\",to=\"paused\"} 1.5",
        // The version was written 250 ms before it was read.
        "tidegate_store_flip_latency_seconds_sum{stream=\"orders\",to=\"paused\"} 1.75",
        "tidegate_audit_lines_lost_total 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    let mut names = BTreeSet::new();
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            names.insert(kind.to_owned());
        }
    }
    insta::assert_snapshot!("metric_names", names.into_iter().collect::<Vec<_>>().join("\n"));
    stop.cancel();
    running.await.unwrap();
}

/// A file that can be made to fail or to hang.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    written: Vec<u8>,
    broken: bool,
    hung: bool,
    waker: Option<std::task::Waker>,
}

impl Disk {
    fn set(&self, broken: bool, hung: bool) {
        let mut inner = self.0.lock().unwrap();
        (inner.broken, inner.hung) = (broken, hung);
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }
    fn lines(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().written.clone()).unwrap();
        let lines = text.lines().filter(|l| !l.is_empty());
        lines
            .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
            .collect()
    }
    async fn wait_for(&self, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let look = async {
            loop {
                let lines = self.lines();
                if enough(&lines) {
                    return lines;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), look).await.expect("those lines")
    }
}

impl AsyncWrite for Disk {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock().unwrap();
        if inner.hung {
            inner.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if inner.broken {
            return Poll::Ready(Err(io::ErrorKind::StorageFull.into()));
        }
        inner.written.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn audited(board: &Board, disk: &Disk) -> (CancellationToken, JoinHandle<()>) {
    let stop = CancellationToken::new();
    let task = audit(
        board.holds.clone(),
        board.metrics.clone(),
        0,
        disk.clone(),
        stop.clone(),
    );
    (stop, tokio::spawn(task))
}

#[tokio::test]
async fn every_transition_is_one_line_that_says_who_why_and_how_fast() {
    let (board, disk) = (Board::new(), Disk::default());
    let (stop, task) = audited(&board, &disk);
    board.pass(Duration::from_millis(10));
    board.flip(true, "8");
    board
        .control(post("/pause").body(r#"{"reason":"<script>\n\u001b[31m","by":"eve"}"#))
        .await;
    board.flip(false, "9");
    board.control(post("/resume")).await;
    let of_orders = |kind: &'static str| move |l: &&Value| l["kind"] == kind && l["stream"] == "orders";
    let lines = disk
        .wait_for(|lines| lines.iter().filter(of_orders("transition")).count() == 3)
        .await;
    let orders: Vec<&Value> = lines.iter().filter(|l| l["stream"] == "orders").collect();
    insta::assert_json_snapshot!("audit", orders);
    // Without a gap, so that a reader can tell that nothing is missing.
    let seqs: Vec<u64> = lines.iter().map(|l| l["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    for line in &lines {
        let _: Event = serde_json::from_value(line.clone()).unwrap();
    }
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_full_disk_delays_no_pause_and_every_lost_line_is_counted() {
    let (board, disk) = (Board::new(), Disk::default());
    let (stop, task) = audited(&board, &disk);
    disk.wait_for(|lines| !lines.is_empty()).await;
    let before = disk.lines().len() as u64;
    disk.set(true, false);
    board.control(post("/streams/orders/pause")).await;
    assert_eq!(board.orders.gate().sight().phase, Phase::Paused);
    let lost = "tidegate_audit_lines_lost_total 2";
    while !board.metrics.text().contains(lost) {
        tokio::task::yield_now().await;
    }
    disk.set(false, false);
    board.control(post("/streams/orders/resume")).await;
    let lines = disk.wait_for(|lines| lines.len() as u64 >= before + 3).await;
    assert_eq!(
        (&lines[before as usize]["kind"], &lines[before as usize]["count"]),
        (&"lost".into(), &2.into())
    );
    assert_eq!(lines[before as usize + 1]["kind"], "hold_released");
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_disk_that_hangs_loses_the_oldest_lines_and_says_how_many() {
    let (board, disk) = (Board::new(), Disk::default());
    disk.set(false, true);
    let (stop, task) = audited(&board, &disk);
    tokio::task::yield_now().await;
    for _ in 0..2500 {
        board.control(post("/streams/orders/pause")).await;
        board.control(post("/streams/orders/resume")).await;
    }
    let end = *board.holds.journal_end().borrow();
    assert!(end > 4096, "{end}");
    disk.set(false, false);
    let lines = disk
        .wait_for(|lines| lines.last().is_some_and(|l| l["seq"] == end))
        .await;
    let told: u64 = lines
        .iter()
        .filter(|l| l["kind"] == "lost")
        .map(|l| l["count"].as_u64().unwrap())
        .sum();
    let written = lines.iter().filter(|l| l["kind"] != "lost").count() as u64;
    assert!(told > 0);
    assert_eq!(told + written, end);
    assert!(
        board
            .metrics
            .text()
            .contains(&format!("tidegate_audit_lines_lost_total {told}\n"))
    );
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn stopping_writes_what_is_left_and_does_not_wait_for_a_disk_that_hangs() {
    let (board, disk) = (Board::new(), Disk::default());
    let (stop, task) = audited(&board, &disk);
    board.control(post("/pause")).await;
    stop.cancel();
    task.await.unwrap();
    assert_eq!(disk.lines().len() as u64, *board.holds.journal_end().borrow());

    disk.set(false, true);
    let (stop, task) = audited(&board, &disk);
    board.control(post("/resume")).await;
    stop.cancel();
    timeout(Duration::from_secs(5), task)
        .await
        .expect("the end")
        .unwrap();
}
