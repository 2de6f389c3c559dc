//! What readings do to a stream, at the store's wire.
use crate::bench::{Bench, Watch, set_paused};
use futures_util::future::join_all;
use tidegate_gate::{Controller, Kind, OnAbsence, Policy, Scope, State, Wish};

/// Decisions 3 and 4: absence is never a decision, and until its first good reading a switch holds.
fn expected(start: &str, word: &str, policy: &Policy) -> State {
    let pauses = match word {
        "missing" | "deleted" => policy.on_missing == OnAbsence::Pause,
        "malformed" => policy.on_malformed == OnAbsence::Pause,
        _ => false,
    };
    match start {
        "running" if !pauses => State::Running,
        _ => State::Paused,
    }
}

pub(crate) async fn every_cell_of_the_policy_has_the_documented_outcome<B: Bench>() {
    // Each ailment at a store of its own, all at once: what takes time is waiting for polls.
    let ailments = B::open().await.ailments();
    assert!(!ailments.is_empty());
    join_all(ailments.into_iter().map(|(word, way)| cells::<B>(word, way))).await;
}

/// What one ailment does after each beginning, with each policy.
async fn cells<B: Bench>(word: &str, way: &str) {
    let bench = B::open().await;
    let policies = [
        Policy::default(),
        Policy {
            on_missing: OnAbsence::Pause,
            ..Policy::default()
        },
        Policy {
            on_malformed: OnAbsence::Pause,
            ..Policy::default()
        },
    ];
    for start in ["starting", "running", "paused"] {
        set_paused(&bench, start == "paused").await;
        if start == "starting" {
            bench.ail(way).await;
        }
        let watches = policies
            .clone()
            .map(|policy| (Watch::start(bench.provider(), policy.clone()), policy));
        if start != "starting" {
            for (watch, _) in &watches {
                watch.until_reading(start).await;
            }
            bench.ail(way).await;
        }
        for (watch, policy) in &watches {
            watch.until_reading(word).await;
            let cell = format!("{start}, then {way}, with {policy:?}");
            assert_eq!(watch.state(), expected(start, word, policy), "{cell}");
            let now = watch.now();
            let status = now.switch("ops").unwrap();
            let error = status.error.as_deref().unwrap_or_default();
            assert!(error.contains("\"ops\""), "{cell}: {error}");
            assert_eq!(status.settled, start != "starting", "{cell}");
        }
        bench.heal().await;
        set_paused(&bench, false).await;
        for (watch, _) in &watches {
            watch.until_state(State::Running).await;
            watch.end().await;
        }
    }
}

pub(crate) async fn a_flip_pauses_and_a_flip_back_resumes<B: Bench>() {
    let bench = B::open().await;
    set_paused(&bench, false).await;
    let watch = Watch::start(bench.provider(), Policy::default());
    watch.until_state(State::Running).await;
    for _ in 0..5 {
        bench
            .set(&[("IsPaused", "true"), ("reason", "db move"), ("by", "ana")])
            .await;
        watch.until_state(State::Paused).await;
        let (controller, hold) = watch.now().stream("orders").unwrap().holds[0].clone();
        assert_eq!(controller, Controller::Switch("ops".into()));
        assert_eq!(
            (hold.reason.as_deref(), hold.by.as_deref()),
            (Some("db move"), Some("ana"))
        );
        assert!(hold.actor.starts_with("store:"), "{}", hold.actor);
        set_paused(&bench, false).await;
        watch.until_state(State::Running).await;
    }
    watch.end().await;
}

pub(crate) async fn an_unrelated_change_releases_nobodys_hold<B: Bench>() {
    let bench = B::open().await;
    bench.set(&[("IsPaused", "false"), ("password", "one")]).await;
    let watch = Watch::start(bench.provider(), Policy::default());
    watch.until_state(State::Running).await;
    let wish = Wish {
        reason: Some("by hand".into()),
        ..Wish::default()
    };
    watch.holds.place(&Controller::Api, Scope::All, wish).unwrap();
    let version = |watch: &Watch| watch.now().switch("ops").unwrap().version.clone().map(|v| v.id);
    let before = version(&watch);
    bench.set(&[("IsPaused", "false"), ("password", "two")]).await;
    watch
        .until("a new version", |now| {
            now.switch("ops").unwrap().version.clone().map(|v| v.id) != before
        })
        .await;
    assert_eq!(watch.state(), State::Paused, "the operator's hold stands");
    assert_eq!(watch.now().stream("orders").unwrap().kind, Kind::Stream);
    watch.end().await;
}
