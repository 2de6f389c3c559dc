//! A drill finds what would keep a flip from pausing a stream, and disturbs nothing.
use crate::harness::{Client, Running, Site, append, eventually, rows, text_of};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::time::Duration;
use tidegate_devstore::{Fault, Rule};

const PATH: &str = "streams/orders";
const READ_ONLY: &str = "path \"secret/data/streams/orders\" { capabilities = [\"read\"] }";

/// A stream behind a switch whose token may do what `policy` says.
async fn site(policy: &str, ttl: &str) -> Site {
    let mut site = Site::new().await;
    site.flag(PATH, false);
    token(&site, policy, ttl);
    site.vault_switch("ops", &["orders"], PATH, "")
        .file_stream("orders");
    append(&site.source("orders"), &rows(0..10));
    site
}

fn token(site: &Site, policy: &str, ttl: &str) {
    let vault = site.store.vault();
    vault.put_policy("sidecar", policy).unwrap();
    let issued = vault
        .create_token(json!({ "policies": ["sidecar"], "ttl": ttl }))
        .unwrap();
    site.write("vault-token", issued.token.expose_secret());
}

async fn moving(site: &Site, client: &Client) {
    client.reads("ops", "running").await;
    eventually("every row is in the sink", async || {
        (text_of(&site.sink("orders")) == text_of(&site.source("orders"))).then_some(())
    })
    .await;
}

async fn drill(client: &Client, body: Value) -> Value {
    let (status, said) = client.call("POST", "/streams/orders/drill", Some(&body)).await;
    assert_eq!(status, 200, "{said}");
    said
}

/// The checks that found something, as (check, sentence).
fn found(drill: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let found: Vec<_> = drill["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|c| c["result"] == "found")
        .map(|c| (text(&c["check"]), text(&c["told"])))
        .collect();
    assert_eq!(drill["passed"], found.is_empty(), "{drill}");
    found
}

/// One fault, and nothing besides.
fn only(drill: &Value, check: &str, word: &str) {
    let found = found(drill);
    assert!(
        matches!(&found[..], [(c, told)] if c == check && told.contains(word)),
        "expected {check} with \"{word}\": {drill:#}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_of_a_sound_stream_passes_and_disturbs_nothing() {
    let site = site(READ_ONLY, "1h").await;
    let running = Running::start(&site).await;
    let client = &running.client;
    moving(&site, client).await;
    let before = client.stream("orders").await;
    site.store.requests().clear();
    let drill = drill(client, json!({})).await;
    assert_eq!(found(&drill), [], "{drill:#}");
    assert_eq!(drill["live"], false);
    let checks: Vec<&str> = drill["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["check"].as_str().unwrap())
        .collect();
    assert_eq!(checks, ["stream", "reading", "access", "decision"], "{drill:#}");
    let expected = &drill["expected"];
    assert_eq!(expected["interval_seconds"], 0.1);
    let (typical, worst) = (
        expected["typical_seconds"].as_f64(),
        expected["worst_seconds"].as_f64(),
    );
    assert!(0.05 < typical.unwrap() && typical < worst, "{expected}");
    let after = client.stream("orders").await;
    assert_eq!(
        (&before["state"], &before["last_transition"], &after["holds"]),
        (&after["state"], &after["last_transition"], &json!([])),
        "nothing moved"
    );
    let asked = site.store.requests();
    assert_eq!(asked.count("/v1/sys/capabilities-self"), 1);
    let others = asked
        .seen()
        .into_iter()
        .filter(|r| r.path != "/v1/sys/capabilities-self");
    assert!(others.into_iter().all(|r| r.method == "GET"), "a drill only asks");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_finds_an_expired_token() {
    let site = site(READ_ONLY, "1h").await;
    let running = Running::start(&site).await;
    moving(&site, &running.client).await;
    site.store.clock().advance(Duration::from_secs(7200));
    only(&drill(&running.client, json!({})).await, "reading", "denied");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_finds_a_token_that_may_write() {
    for (policy, how) in [
        (
            "path \"secret/data/streams/*\" { capabilities = [\"read\", \"update\"] }",
            "update on secret/data/streams/orders",
        ),
        (
            "path \"secret/data/streams/orders\" { capabilities = [\"read\"] }\n\
             path \"secret/metadata/streams/orders\" { capabilities = [\"delete\"] }",
            "delete on secret/metadata/streams/orders",
        ),
        (
            "path \"secret/data/streams/orders\" { capabilities = [\"read\"] }\n\
             path \"secret/destroy/streams/orders\" { capabilities = [\"update\"] }",
            "update on secret/destroy/streams/orders",
        ),
    ] {
        let site = site(policy, "1h").await;
        let running = Running::start(&site).await;
        moving(&site, &running.client).await;
        only(&drill(&running.client, json!({})).await, "access", how);
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_does_not_tell_is_unknown_and_not_passed_as_sound() {
    let site = site(READ_ONLY, "1h").await;
    let running = Running::start(&site).await;
    moving(&site, &running.client).await;
    site.store
        .faults()
        .add(Rule::new(Fault::status(403)).path("/v1/sys/capabilities-self"));
    let drill = drill(&running.client, json!({})).await;
    let access = drill["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["check"] == "access")
        .unwrap();
    assert_eq!(access["result"], "unknown", "{drill:#}");
    assert!(access["told"].as_str().unwrap().contains("403"), "{access}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_finds_a_missing_secret() {
    let site = site(READ_ONLY, "1h").await;
    let running = Running::start(&site).await;
    moving(&site, &running.client).await;
    let (status, _) = site
        .store
        .vault()
        .call("DELETE", "secret/metadata/streams/orders", Value::Null);
    assert!(status.is_success());
    only(&drill(&running.client, json!({})).await, "reading", "missing");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_finds_a_store_that_serves_an_older_version() {
    let site = site(READ_ONLY, "1h").await;
    let running = Running::start(&site).await;
    moving(&site, &running.client).await;
    let older = json!({ "data": {
        "data": { "IsPaused": false },
        "metadata": { "version": 1, "created_time": "2020-01-01T00:00:00Z", "deletion_time": "", "destroyed": false },
    } });
    site.flag(PATH, false);
    eventually("the second version is read", async || {
        (running.client.switch("ops").await["version"] == "2").then_some(())
    })
    .await;
    let lagging = Fault::status(200).body("application/json", &older.to_string());
    site.store
        .faults()
        .add(Rule::new(lagging).path("/v1/secret/data/streams/orders"));
    only(&drill(&running.client, json!({})).await, "reading", "stale");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_finds_that_no_switch_holds_a_stream() {
    let mut site = site(READ_ONLY, "1h").await;
    site.file_stream("other");
    let running = Running::start(&site).await;
    moving(&site, &running.client).await;
    let (status, other) = running.client.post("/streams/other/drill").await;
    assert_eq!(status, 200, "{other}");
    only(&other, "switches", "no switch holds it");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_drill_pauses_measures_and_lets_go_by_itself() {
    let mut site = site(READ_ONLY, "1h").await;
    site.add_top("state_dir = \"{dir}/state\"");
    let running = Running::start(&site).await;
    let client = &running.client;
    moving(&site, client).await;
    let live = drill(client, json!({ "live": "300ms" })).await;
    assert_eq!(found(&live), [], "{live:#}");
    let measured = &live["measured"];
    assert!(measured["paused_seconds"].as_f64().unwrap() < 0.3, "{live:#}");
    assert!(measured["resumed_seconds"].is_number(), "{live:#}");
    assert!(live["expected"]["quiesce_seconds"].is_number(), "{live:#}");
    client.reaches("orders", "running").await;
    append(&site.source("orders"), &rows(10..20));
    moving(&site, client).await;
    assert_eq!(
        client
            .metric("tidegate_last_drill_passed{stream=\"orders\"}")
            .await,
        Some(1.0)
    );
    let age = client
        .metric("tidegate_last_drill_age_seconds{stream=\"orders\"}")
        .await;
    assert!(age.unwrap() >= 0.3, "{age:?}");
    let status = client.status().await;
    assert_eq!(status["drills"][0]["told"], "live, passed");

    // What is held already is left to whoever holds it.
    site.flag(PATH, true);
    client.reaches("orders", "paused").await;
    let (status, said) = client
        .call("POST", "/streams/orders/drill", Some(&json!({ "live": "300ms" })))
        .await;
    assert_eq!(status, 409, "{said}");
    assert!(said["error"].as_str().unwrap().contains("switch:ops"), "{said}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_somebody_places_during_a_live_drill_outlasts_it() {
    let site = site(READ_ONLY, "1h").await;
    let running = Running::start(&site).await;
    let client = &running.client;
    moving(&site, client).await;
    let live = json!({ "live": "1s" });
    let (drilled, ()) = tokio::join!(drill(client, live), async {
        client.reaches("orders", "paused").await;
        let body = json!({ "reason": "a real incident" });
        assert_eq!(client.call("POST", "/pause", Some(&body)).await.0, 200);
    });
    assert_eq!(drilled["measured"]["resumed_seconds"], Value::Null, "{drilled:#}");
    let stream = client.stream("orders").await;
    assert_eq!(stream["state"], "paused");
    assert_eq!(stream["holds"][0]["reason"], "a real incident");
    assert_eq!(stream["holds"][0]["until"], Value::Null);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_is_refused_with_what_was_wrong_about_it() {
    let site = site(READ_ONLY, "1h").await;
    let running = Running::start(&site).await;
    for (path, body, status) in [
        ("/streams/nobody/drill", json!({}), 404),
        ("/streams/orders/drill", json!({ "live": "an hour" }), 422),
        ("/streams/orders/drill", json!({ "live": "1h" }), 422),
        ("/streams/orders/drill", json!({ "life": "1s" }), 422),
    ] {
        let (answered, said) = running.client.call("POST", path, Some(&body)).await;
        assert_eq!(answered, status, "{body}: {said}");
    }
    running.stop().await;
}
