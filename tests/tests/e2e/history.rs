//! What happened, over restarts.
use crate::harness::{Running, Site, append, eventually, rows, text_of};
use serde_json::json;
use std::time::SystemTime;
use tidegate::history::history;
use tidegate_admin::Event;

const SECRET: &str = "streams/orders";

async fn site() -> Site {
    let mut site = Site::new().await;
    site.add_top("state_dir = \"{dir}/state\"");
    site.flag(SECRET, false);
    site.vault_switch("ops", &["orders"], SECRET, "")
        .file_stream("orders");
    site
}

fn recorded(site: &Site) -> Vec<Event> {
    let past = history(&site.path("state")).read(None, usize::MAX).unwrap();
    assert_eq!(past.unreadable, 0);
    past.entries.into_iter().map(|entry| entry.what).collect()
}

fn moves(events: &[Event]) -> Vec<&Event> {
    events
        .iter()
        .filter(|event| event.kind == "transition" && event.flip_latency_ms.is_some())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_forgets_no_transition_nor_who_why_which_version_and_how_fast() {
    let site = site().await;
    let running = Running::start(&site).await;
    let client = &running.client;
    client.reads("ops", "running").await;
    client.reaches("orders", "running").await;
    let version = site.put(
        SECRET,
        json!({ "IsPaused": true, "reason": "disk swap", "by": "ana" }),
    );
    client.reaches("orders", "paused").await;
    let released = site.flag(SECRET, false);
    client.reaches("orders", "running").await;
    running.stop().await;

    let restarted = SystemTime::now();
    let running = Running::start(&site).await;
    let client = &running.client;
    client.reads("ops", "running").await;
    client
        .call(
            "POST",
            "/pause",
            Some(&json!({ "reason": "bad data", "by": "ben" })),
        )
        .await;
    client.reaches("orders", "paused").await;
    running.stop().await;

    let events = recorded(&site);
    let starts = events.iter().filter(|event| event.kind == "started").count();
    assert_eq!(starts, 2, "{events:#?}");
    assert_eq!(events.iter().filter(|event| event.kind == "lost").count(), 0);
    let told: Vec<_> = moves(&events)
        .into_iter()
        .map(|event| {
            (
                event.to.as_deref().unwrap(),
                event.controller.as_deref().unwrap(),
                event.by.as_deref(),
                event.reason.as_deref(),
                event.version.clone(),
            )
        })
        .collect();
    let version_of = |version: u64| Some(version.to_string());
    for expected in [
        (
            "paused",
            "switch:ops",
            Some("ana"),
            Some("disk swap"),
            version_of(version),
        ),
        ("running", "switch:ops", None, None, version_of(released)),
        ("paused", "api", Some("ben"), Some("bad data"), None),
    ] {
        assert!(told.contains(&expected), "{expected:?} in {told:#?}");
    }
    // Within one process no record is missing.
    let lives: Vec<&[Event]> = events.split(|event| event.kind == "started").collect();
    assert_eq!(lives[0], []);
    for life in &lives[1..] {
        let numbers: Vec<u64> = life.iter().map(|event| event.seq).collect();
        assert_eq!(numbers, (1..=life.len() as u64).collect::<Vec<_>>());
        assert_eq!(
            life.last().unwrap().to.as_deref(),
            Some("stopped"),
            "to its very end"
        );
    }
    let since = history(&site.path("state"))
        .read(Some(restarted), usize::MAX)
        .unwrap();
    assert_eq!(
        since.entries.len(),
        lives[2].len() + 1,
        "the second start and what followed"
    );
}

/// Exchanges what is in `state_dir` for what is beside it, in one step: whoever finds nothing there makes it anew.
fn swap(site: &Site, name: &str) {
    let (here, there) = (site.path(name), site.path("state").join(name));
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, &here, rustix::fs::CWD, &there, exchange).unwrap();
}

/// Full, read-only, gone: whatever keeps the files from being written. Nobody writes below a file, not even root.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_refuses_is_told_of_delays_no_pause_and_gets_what_it_missed_once_it_takes_it() {
    let site = site().await;
    let running = Running::start(&site).await;
    let client = &running.client;
    client.reads("ops", "running").await;
    append(&site.source("orders"), &rows(0..1));
    eventually("a row moves", async || {
        (text_of(&site.sink("orders")) == rows(0..1)).then_some(())
    })
    .await;

    let folders = ["history", "control", "switches"];
    for folder in folders {
        site.write(folder, "in the way");
        swap(&site, folder);
    }
    client.post("/pause").await;
    client.reaches("orders", "paused").await;
    site.flag(SECRET, true);
    client.reads("ops", "paused").await;
    let alarms = eventually("both alarms", async || {
        let alarms = client.status().await["alarms"].to_string();
        let told = alarms.contains("a restart would forget") && alarms.contains("the history lacks the last");
        told.then_some(alarms)
    })
    .await;
    assert!(
        alarms.contains("history/records.jsonl"),
        "it names the file: {alarms}"
    );
    assert_eq!(client.observe("/readyz").await.0, 200);
    // The button works, in both directions.
    site.flag(SECRET, false);
    client.reads("ops", "running").await;
    assert_eq!(client.post("/resume").await.0, 200);
    client.reaches("orders", "running").await;

    for folder in folders {
        swap(&site, folder);
    }
    eventually("no alarm", async || {
        (client.status().await["alarms"] == json!([])).then_some(())
    })
    .await;
    running.stop().await;
    let events = recorded(&site);
    let numbers: Vec<u64> = events.iter().skip(1).map(|event| event.seq).collect();
    assert_eq!(
        numbers,
        (1..=numbers.len() as u64).collect::<Vec<_>>(),
        "nothing was lost: {events:#?}"
    );
    assert!(moves(&events).len() >= 3);
}
