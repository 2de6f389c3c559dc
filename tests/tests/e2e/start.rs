//! What happens before the first reading, and what a restart remembers.
use crate::harness::{Running, Site, append, controllers, eventually, rows, text_of};
use serde_json::{Value, json};
use tidegate_devstore::{Fault, Rule};

const SECRET: &str = "/v1/secret/data/streams/orders";

async fn arrived(site: &Site, expected: &str) {
    eventually("the rows are in the sink", async || {
        (text_of(&site.sink("orders")) == expected).then_some(())
    })
    .await;
}

async fn ready(running: &Running) -> (u16, Value) {
    let (status, text) = running.client.observe("/readyz").await;
    (status, serde_json::from_str(&text).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_moves_and_nothing_is_ready_before_the_first_reading_is_applied() {
    for paused in [false, true] {
        let mut site = Site::new().await;
        site.put(
            "streams/orders",
            json!({ "IsPaused": paused, "reason": "disk swap" }),
        );
        site.vault_switch("ops", &["orders"], "streams/orders", "timeout = \"300ms\"")
            .file_stream("orders");
        append(&site.source("orders"), &rows(0..10));
        site.store.faults().add(Rule::new(Fault::Hang).path(SECRET));
        let running = Running::start(&site).await;
        let client = &running.client;

        site.store.requests().reached(SECRET, 2).await;
        let (status, body) = ready(&running).await;
        assert_eq!((status, &body["ready"]), (503, &json!(false)));
        assert!(
            body["waiting_for"][0].as_str().unwrap().contains("\"ops\""),
            "{body}"
        );
        assert_eq!(
            client.observe("/livez").await.0,
            200,
            "a store outage never changes liveness"
        );
        let stream = client.stream("orders").await;
        assert_eq!(
            (&stream["state"], &stream["events"]),
            (&json!("paused"), &json!(0))
        );
        assert_eq!(
            (controllers(&stream), &stream["holds"][0]["reason"]),
            (vec!["switch:ops"], &json!("no reading yet"))
        );
        assert_eq!(text_of(&site.sink("orders")), "");

        site.store.faults().clear();
        eventually("ready", async || (ready(&running).await.0 == 200).then_some(())).await;
        // Ready means applied: the hold of the start is gone the moment that readiness says so.
        let stream = client.stream("orders").await;
        if paused {
            assert_eq!(
                (&stream["state"], &stream["holds"][0]["reason"]),
                (&json!("paused"), &json!("disk swap"))
            );
            client.poll().await;
            assert_eq!(text_of(&site.sink("orders")), "");
            assert_eq!(ready(&running).await.0, 200, "ready while paused");
        } else {
            assert_eq!(controllers(&stream), [""; 0], "{stream}");
            arrived(&site, &rows(0..10)).await;
        }
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_starts_running_delays_nothing_when_its_store_is_away() {
    let mut site = Site::new().await;
    site.store.vault_offline().await.unwrap();
    site.vault_switch("ops", &["orders"], "streams/orders", "at_start = \"running\"")
        .file_stream("orders");
    append(&site.source("orders"), &rows(0..10));
    let running = Running::start(&site).await;
    assert_eq!(ready(&running).await.0, 200);
    arrived(&site, &rows(0..10)).await;
    running.client.reads("ops", "unavailable").await;
    assert_eq!(ready(&running).await.0, 200);

    site.flag("streams/orders", true);
    site.store.vault_online().await.unwrap();
    running.client.reaches("orders", "paused").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_start_last_does_what_the_last_reading_before_the_restart_said_although_the_store_is_away() {
    for paused in [true, false] {
        let word = if paused { "paused" } else { "running" };
        let mut site = Site::new().await;
        site.add_top("state_dir = \"{dir}/state\"");
        site.vault_switch("ops", &["orders"], "streams/orders", "at_start = \"last\"")
            .file_stream("orders");
        // The very first start knows of no reading, and holds.
        site.store.vault_offline().await.unwrap();
        let running = Running::start(&site).await;
        running.client.reads("ops", "unavailable").await;
        assert_eq!(running.client.stream("orders").await["state"], "paused");
        site.flag("streams/orders", paused);
        site.store.vault_online().await.unwrap();
        running.client.reads("ops", word).await;
        running.client.reaches("orders", word).await;
        site.store.vault_offline().await.unwrap();
        running.stop().await;

        append(&site.source("orders"), &rows(0..10));
        let running = Running::start(&site).await;
        running.client.reads("ops", "unavailable").await;
        assert_eq!(ready(&running).await.0, 200, "{word}");
        if paused {
            let stream = running.client.stream("orders").await;
            assert_eq!(
                (controllers(&stream), &stream["state"]),
                (vec!["switch:ops"], &json!("paused"))
            );
            assert_eq!(text_of(&site.sink("orders")), "");
        } else {
            arrived(&site, &rows(0..10)).await;
        }
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_of_the_control_api_outlives_a_restart_where_there_is_a_state_dir_and_only_there() {
    for state_dir in [true, false] {
        let mut site = Site::new().await;
        if state_dir {
            site.add_top("state_dir = \"{dir}/state\"");
        }
        site.flag("streams/orders", false);
        site.vault_switch("ops", &["orders"], "streams/orders", "")
            .file_stream("orders")
            .file_stream("invoices");
        append(&site.source("orders"), &rows(0..10));
        let running = Running::start(&site).await;
        arrived(&site, &rows(0..10)).await;
        let body = json!({ "reason": "disk swap", "by": "ana" });
        running
            .client
            .call("POST", "/streams/orders/pause", Some(&body))
            .await;
        let hold = running.client.reaches("orders", "paused").await["holds"][0].clone();
        running.stop().await;

        append(&site.source("orders"), &rows(10..20));
        let running = Running::start(&site).await;
        running.client.reads("ops", "running").await;
        if state_dir {
            let stream = running.client.stream("orders").await;
            assert_eq!(stream["holds"], json!([hold]), "who, why and since when");
            assert_eq!(text_of(&site.sink("orders")), rows(0..10));
            assert_eq!(running.client.stream("invoices").await["state"], "running");
            assert_eq!(running.client.post("/resume").await.0, 200);
            arrived(&site, &rows(0..20)).await;
        } else {
            // Nothing was written, so the file is read from its beginning and the hold is forgotten.
            arrived(&site, &(rows(0..10) + &rows(0..20))).await;
        }
        running.stop().await;
    }
}
