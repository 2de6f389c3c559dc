//! The main promise: a secret is flipped through Vault's own API, and a hosted stream provably stands still.
use crate::harness::{Running, Site, append, eventually, http_client, rows, text_of, within_patience};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use tidegate::app::clock;
use tidegate::config;
use tidegate_gate::{Holds, Kind, Life, State};
use tidegate_providers::Poller;
use tokio_util::sync::CancellationToken;

const SECRET: &str = "/v1/secret/data/streams/orders";

async fn site() -> Site {
    let mut site = Site::new().await;
    site.flag("streams/orders", false);
    site.vault_switch("ops", &["orders"], "streams/orders", "")
        .file_stream("orders");
    site
}

/// Flips the secret as an operator does: over the wire.
async fn flip(site: &Site, paused: bool) {
    let url = format!("{}{SECRET}", site.store.vault_url());
    let request = http_client()
        .post(url)
        .header("X-Vault-Token", site.root_token())
        .body(json!({ "data": { "IsPaused": paused } }).to_string());
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// Three rounds of pause and resume with rows on their way: whether anything reached the sink between `paused` and the
/// resume. `had_its_chance` returns when whatever would move the rows that were appended last, in bytes of the source,
/// has got to them.
async fn nothing_arrives_while_paused<F: Future<Output = ()>>(
    site: &Site,
    holds: &Holds,
    had_its_chance: impl Fn(usize) -> F,
) -> Result<(), String> {
    let (source, sink) = (site.source("orders"), site.sink("orders"));
    let all_arrive = || {
        eventually("every row is in the sink", async || {
            (text_of(&sink) == text_of(&source)).then_some(())
        })
    };
    let state_is = |state: State| {
        let mut board = holds.watch();
        async move {
            let reached = board.wait_for(|now| now.stream("orders").is_some_and(|s| s.state == state));
            drop(within_patience("the state", reached).await.unwrap());
        }
    };
    for round in 0..3 {
        let row = round * 300;
        append(&source, &rows(row..row + 100));
        all_arrive().await;

        append(&source, &rows(row + 100..row + 200));
        flip(site, true).await;
        state_is(State::Paused).await;
        let at_paused = text_of(&sink);
        append(&source, &rows(row + 200..row + 300));
        had_its_chance(text_of(&source).len()).await;
        let polls = site.store.requests().count(SECRET);
        within_patience(
            "three more polls",
            site.store.requests().reached(SECRET, polls + 3),
        )
        .await;
        let before_resume = text_of(&sink);
        let status = holds.snapshot().stream("orders").unwrap().clone();
        assert_eq!((status.state, status.in_flight), (State::Paused, 0));

        flip(site, false).await;
        if before_resume != at_paused {
            let bytes = before_resume.len() - at_paused.len();
            return Err(format!("{bytes} bytes arrived between paused and the resume"));
        }
        state_is(State::Running).await;
        all_arrive().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flip_in_vault_holds_every_row_back_and_the_next_lets_each_through_once_and_in_order() {
    let site = site().await;
    let running = Running::start(&site).await;
    // What the source had been asked for before the flip is fetched and held; beyond that nothing is asked for, so that
    // there is nothing else to wait for than the polls.
    nothing_arrives_while_paused(&site, &running.holds, |_| async {})
        .await
        .unwrap();
    assert_eq!(text_of(&site.sink("orders")), rows(0..900));
    running.stop().await;
    assert_eq!(
        text_of(&site.sink("orders")),
        rows(0..900),
        "stopping adds nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twin_a_stream_that_does_not_ask_its_gate_is_caught() {
    let site = site().await;
    let config = config::load(&site.config_file()).unwrap();
    let holds = Holds::new(clock());
    let member = holds.register("orders", Kind::Stream).unwrap();
    let entry = &config.switches[0];
    let switch = entry.config.build(entry.streams.clone()).unwrap();
    let poller = Poller::bind(holds.clone(), vec![switch], 0, ()).unwrap();
    let stop = CancellationToken::new();
    for task in poller.tasks(&stop) {
        tokio::spawn(task);
    }
    member.set_life(Life::Up);
    let _stop = stop.clone().drop_guard();
    let (source, sink) = (Arc::new(site.source("orders")), Arc::new(site.sink("orders")));
    tokio::spawn(stop.run_until_cancelled_owned(copy_for_ever(source, sink.clone())));

    let caught = nothing_arrives_while_paused(&site, &holds, |bytes| {
        let sink = sink.clone();
        async move {
            eventually("the twin has copied", async || {
                (text_of(&sink).len() == bytes).then_some(())
            })
            .await;
        }
    })
    .await
    .expect_err("the check cannot tell a stream from one that ignores its gate");
    assert!(caught.contains("between paused and the resume"), "{caught}");
}

/// A stream like any other, but for the gate.
async fn copy_for_ever(source: Arc<PathBuf>, sink: Arc<PathBuf>) {
    let mut copied = 0;
    loop {
        copied += eventually("something to copy", async || {
            let text = text_of(&source);
            append(&sink, &text[copied..]);
            Some(text.len() - copied).filter(|new| *new > 0)
        })
        .await;
    }
}
