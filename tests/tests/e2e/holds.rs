//! Who holds, and that nobody but they let go.
use crate::harness::{Client, Running, Site, append, controllers, eventually, rows, text_of};
use serde_json::json;

const SHARED: &str = "streams/shared";

/// Two switches on one secret, a third on a file, one stream.
async fn site() -> Site {
    let mut site = Site::new().await;
    site.put(
        SHARED,
        json!({ "IsPaused": false, "Region": { "IsPaused": false }, "owner": "ana" }),
    );
    site.write("night", "false");
    site.vault_switch("ops", &["orders"], SHARED, "")
        .vault_switch("region", &["orders"], SHARED, "key = \"region:IsPaused\"")
        .file_switch("night", &["orders"], "night", "")
        .file_stream("orders");
    append(&site.source("orders"), &rows(0..10));
    site
}

async fn all_arrive(site: &Site) {
    eventually("every row is in the sink", async || {
        (text_of(&site.sink("orders")) == text_of(&site.source("orders"))).then_some(())
    })
    .await;
}

/// Every change that says nothing about whether to hold, one after the other.
async fn change_everything_else(site: &Site, client: &Client, ops: bool) {
    let changes = [
        json!({ "IsPaused": ops, "Region": { "IsPaused": false }, "owner": "ben" }),
        json!({ "IsPaused": ops, "Region": { "IsPaused": true }, "owner": "ben" }),
        json!({ "IsPaused": ops, "Region": { "IsPaused": false } }),
        json!({ "ispaused": ops.to_string(), "Region:IsPaused": false, "until": "soon", "reason": ["no", "text"] }),
        json!({ "IsPaused": ops }),
    ];
    for change in changes {
        site.put(SHARED, change.clone());
        for night in ["true", "false"] {
            site.write("night", night);
            client.poll().await;
            let stream = client.stream("orders").await;
            assert_eq!(
                (&stream["state"], &stream["in_flight"]),
                (&json!("paused"), &json!(0)),
                "{change}: {stream}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unrelated_change_of_the_secret_never_releases_the_hold_of_the_control_api() {
    let site = site().await;
    let running = Running::start(&site).await;
    let client = &running.client;
    all_arrive(&site).await;
    let body = json!({ "reason": "disk swap", "by": "ana" });
    let (status, said) = client.call("POST", "/pause", Some(&body)).await;
    assert_eq!((status, said), (200, json!({ "message": "Stream paused" })));
    client.reaches("orders", "paused").await;
    append(&site.source("orders"), &rows(10..20));

    change_everything_else(&site, client, false).await;
    let stream = client.stream("orders").await;
    assert_eq!(controllers(&stream), ["api"]);
    assert_eq!(
        (&stream["holds"][0]["reason"], &stream["holds"][0]["by"]),
        (&json!("disk swap"), &json!("ana"))
    );
    assert_eq!(text_of(&site.sink("orders")), rows(0..10));

    let (status, said) = client.post("/resume").await;
    assert_eq!((status, said), (200, json!({ "message": "Stream resumed" })));
    all_arrive(&site).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unrelated_change_of_the_secret_never_releases_a_flag_that_an_operator_has_set() {
    let site = site().await;
    let running = Running::start(&site).await;
    let client = &running.client;
    all_arrive(&site).await;
    site.put(
        SHARED,
        json!({ "IsPaused": true, "reason": "disk swap", "by": "ana" }),
    );
    let since = client.reaches("orders", "paused").await["holds"][0]["since"].clone();
    append(&site.source("orders"), &rows(10..20));

    change_everything_else(&site, client, true).await;
    // Fields of the secret that nobody watches any more are gone, and that is no decision either.
    let stream = client.stream("orders").await;
    assert_eq!(controllers(&stream), ["switch:ops"]);
    assert_eq!(
        stream["holds"][0]["since"], since,
        "one hold, however often its secret is written"
    );
    assert_eq!(text_of(&site.sink("orders")), rows(0..10));

    site.flag(SHARED, false);
    all_arrive(&site).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resume_releases_only_the_apis_hold_and_lists_those_that_remain() {
    let site = site().await;
    let running = Running::start(&site).await;
    let client = &running.client;
    all_arrive(&site).await;
    site.put(
        SHARED,
        json!({ "IsPaused": true, "reason": "disk swap", "by": "ana", "Region": { "IsPaused": true } }),
    );
    site.write("night", "true");
    client.poll().await;
    client.post("/pause").await;
    let stream = client.reaches("orders", "paused").await;
    assert_eq!(
        controllers(&stream),
        ["api", "switch:night", "switch:ops", "switch:region"]
    );

    let (status, body) = client.post("/resume").await;
    assert_eq!(status, 409);
    assert_eq!(body["message"], "Stream still paused");
    let listed: Vec<&str> = body["holds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|h| h["controller"].as_str().unwrap())
        .collect();
    assert_eq!(listed, ["switch:night", "switch:ops", "switch:region"]);
    let ops = &body["holds"][1];
    assert_eq!(
        (&ops["stream"], &ops["reason"], &ops["by"]),
        (&json!("orders"), &json!("disk swap"), &json!("ana"))
    );
    assert_eq!(ops["until"], json!(null));
    assert!(ops["since"].is_string(), "{ops}");

    // One after the other lets go, and only the last opens the gate.
    append(&site.source("orders"), &rows(10..20));
    site.write("night", "false");
    site.put(
        SHARED,
        json!({ "IsPaused": true, "Region": { "IsPaused": false } }),
    );
    client.poll().await;
    let stream = client.stream("orders").await;
    assert_eq!(
        (controllers(&stream), &stream["state"]),
        (vec!["switch:ops"], &json!("paused"))
    );
    assert_eq!(text_of(&site.sink("orders")), rows(0..10));
    site.flag(SHARED, false);
    client.poll().await;
    all_arrive(&site).await;
    let (status, _) = client.post("/resume").await;
    assert_eq!(status, 200, "nothing holds, so nothing is still paused");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pausing_one_stream_leaves_the_other_running() {
    let mut site = Site::new().await;
    site.flag(SHARED, false);
    site.vault_switch("ops", &["*"], SHARED, "")
        .file_stream("orders")
        .file_stream("invoices");
    let running = Running::start(&site).await;
    let client = &running.client;
    client.reads("ops", "running").await;
    let (status, said) = client.post("/streams/orders/pause").await;
    assert_eq!((status, said), (200, json!({ "message": "Stream paused" })));
    client.reaches("orders", "paused").await;

    append(&site.source("orders"), &rows(0..10));
    append(&site.source("invoices"), &rows(0..10));
    eventually("the other stream moves", async || {
        (text_of(&site.sink("invoices")) == rows(0..10)).then_some(())
    })
    .await;
    assert_eq!(text_of(&site.sink("orders")), "");
    assert_eq!(client.stream("invoices").await["state"], "running");

    let (status, body) = client.post("/streams/oders/pause").await;
    assert_eq!(status, 404, "{body}");
    let (status, _) = client.post("/streams/orders/resume").await;
    assert_eq!(status, 200);
    eventually("the stream moves again", async || {
        (text_of(&site.sink("orders")) == rows(0..10)).then_some(())
    })
    .await;

    // The switch holds both, and a resume of one says so of that one.
    site.flag(SHARED, true);
    client.reaches("orders", "paused").await;
    client.reaches("invoices", "paused").await;
    let (status, body) = client.post("/streams/orders/resume").await;
    assert_eq!(status, 409);
    let holds = body["holds"].as_array().unwrap();
    assert!(holds.iter().all(|hold| hold["stream"] == "orders"), "{body}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_override_sets_a_lost_stores_hold_aside_until_its_secret_has_a_new_version() {
    const TOKEN: &str = "the-token-for-the-day-of-the-fire";
    let mut site = Site::new().await;
    site.write("fire", TOKEN);
    site.add(
        "[[control.token]]\nname = \"fire\"\nfile = \"{dir}/fire\"\nallow = [\"read\", \"resume\", \"override\"]\n",
    );
    site.flag(SHARED, true);
    site.vault_switch("ops", &["*"], SHARED, "retry_max = \"200ms\"")
        .file_stream("orders")
        .file_stream("invoices");
    let running = Running::start(&site).await;
    let client = running.client.with_token(TOKEN);
    client.reads("ops", "paused").await;
    append(&site.source("orders"), &rows(0..10));
    append(&site.source("invoices"), &rows(0..10));
    site.store.vault_offline().await.unwrap();
    client.reads("ops", "unavailable").await;

    let body = json!({ "controller": "switch:ops", "reason": "the store has burnt down" });
    let (status, answer) = client.call("POST", "/streams/orders/override", Some(&body)).await;
    assert_eq!((status, &answer["holds"]), (200, &json!([])), "{answer}");
    all_arrive(&site).await;
    // That one stream's, and nobody else's; and what the store last said is no reason to hold again.
    site.store.vault_online().await.unwrap();
    client.reads("ops", "paused").await;
    client.poll().await;
    assert_eq!(client.stream("orders").await["state"], "running");
    assert_eq!(client.stream("invoices").await["state"], "paused");
    assert_eq!(text_of(&site.sink("invoices")), "");

    site.flag(SHARED, true);
    client.reaches("orders", "paused").await;
    running.stop().await;
}
