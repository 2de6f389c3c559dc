//! What the tests of Flowtide's pause and resume ask of it, asked of this API.
use crate::harness::{Running, Site, append, eventually, http_client, rows, text_of};
use futures_util::future::join_all;
use serde_json::json;

async fn site(base: &str) -> Site {
    let mut site = Site::with(&format!(
        "[control]\nlisten = \"127.0.0.1:0\"\nbase_path = \"{base}\"\n[observe]\nlisten = \"127.0.0.1:0\"\n"
    ))
    .await;
    site.add_top("state_dir = \"{dir}/state\"").file_stream("orders");
    site
}

async fn all_arrive(site: &Site) {
    eventually("every row is in the sink", async || {
        (text_of(&site.sink("orders")) == text_of(&site.source("orders"))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_rapid_cycles_of_sixty_rows_keep_the_data_complete_and_in_order() {
    let site = site("").await;
    let running = Running::start(&site).await;
    for cycle in 0..8 {
        let row = cycle * 60;
        append(&site.source("orders"), &rows(row..row + 30));
        assert_eq!(running.client.post("/pause").await.0, 200);
        append(&site.source("orders"), &rows(row + 30..row + 60));
        assert_eq!(running.client.post("/resume").await.0, 200);
    }
    all_arrive(&site).await;
    assert_eq!(text_of(&site.sink("orders")), rows(0..480));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_pauses_and_resumes_never_fail_and_the_last_word_counts() {
    const CALLERS: usize = 8;
    const CALLS: usize = 250;
    let site = site("").await;
    let running = Running::start(&site).await;
    let client = &running.client;
    let call = |caller: usize| async move {
        for n in 0..CALLS {
            let verb = if (caller + n).is_multiple_of(2) {
                "pause"
            } else {
                "resume"
            };
            let (status, body) = client.post(&format!("/{verb}")).await;
            assert_eq!(
                (status, &body["message"]),
                (200, &json!(format!("Stream {verb}d"))),
                "{body}"
            );
        }
    };
    append(&site.source("orders"), &rows(0..1000));
    join_all((0..CALLERS).map(call)).await;

    client.post("/pause").await;
    client.reaches("orders", "paused").await;
    client.post("/resume").await;
    all_arrive(&site).await;
    assert_eq!(text_of(&site.sink("orders")), rows(0..1000));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_then_stopped_completes_and_the_pause_outlives_the_restart_until_the_resume() {
    let site = site("").await;
    let running = Running::start(&site).await;
    append(&site.source("orders"), &rows(0..60));
    all_arrive(&site).await;
    running.client.post("/pause").await;
    running.client.reaches("orders", "paused").await;
    append(&site.source("orders"), &rows(60..120));
    assert!(!running.stop().await.unfinished());
    assert_eq!(text_of(&site.sink("orders")), rows(0..60));

    let running = Running::start(&site).await;
    running.client.reaches("orders", "paused").await;
    assert_eq!(
        text_of(&site.sink("orders")),
        rows(0..60),
        "paused before it starts, it holds until the resume"
    );
    running.client.post("/resume").await;
    all_arrive(&site).await;
    assert_eq!(text_of(&site.sink("orders")), rows(0..120));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_breaks_while_paused_recovers_behind_the_closed_gate() {
    let mut site = site("").await;
    site.add(
        "[[stream]]\nname = \"mail\"\nsource = { type = \"file\", path = \"{dir}/orders.in\", follow = true }\n\
         sink = { type = \"file\", path = \"{dir}/folder/mail.out\" }\n",
    );
    let (folder, sink) = (site.path("folder"), site.path("folder/mail.out"));
    std::fs::create_dir(&folder).unwrap();
    append(&site.source("orders"), &rows(0..60));
    let running = Running::start(&site).await;
    let client = &running.client;
    eventually("the first rows", async || {
        (text_of(&sink) == rows(0..60)).then_some(())
    })
    .await;

    // It breaks while running, and is paused while it is tried again.
    std::fs::rename(&folder, site.path("gone")).unwrap();
    append(&site.source("orders"), &rows(60..120));
    eventually("the sink is broken", async || {
        client.stream("mail").await["error"].is_string().then_some(())
    })
    .await;
    client.post("/pause").await;
    let stream = client.reaches("mail", "paused").await;
    assert_eq!(
        stream["in_flight"], 0,
        "the wait before a retry is not in flight: {stream}"
    );
    std::fs::rename(site.path("gone"), &folder).unwrap();
    assert_eq!(text_of(&sink), rows(0..60));
    client.post("/resume").await;
    eventually("the rest", async || {
        (text_of(&sink) == rows(0..120)).then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_endpoints_answer_as_flowtides_do_below_a_base_path_with_or_without_slashes() {
    for base in ["ui/stream", "/ui/stream", "/ui/stream/"] {
        let site = site(base).await;
        let running = Running::start(&site).await;
        let url = |path: &str| format!("{}{path}", running.client.control);
        for (path, message) in [
            ("/ui/stream/pause", "Stream paused"),
            ("/ui/stream/resume", "Stream resumed"),
        ] {
            let answer = http_client().post(url(path)).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()["content-type"], "application/json");
            assert_eq!(
                answer.text().await.unwrap(),
                format!("{{\"message\":\"{message}\"}}")
            );

            // There, any method does it; here, a look changes nothing.
            let answer = http_client().get(url(path)).send().await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["allow"]),
                (405, &"POST".parse().unwrap())
            );
        }
        let answer = http_client().post(url("/pause")).send().await.unwrap();
        assert_eq!(answer.status(), 404, "only below the base path");
        running.stop().await;
    }
}
