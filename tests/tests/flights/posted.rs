//! Rows go from a file through jq to an HTTP endpoint that fails at random, while the secret is flipped.
use crate::course::{Course, Store};
use e2e::posts::{Did, Endpoint, Post, Repeats, Still, Wrong, judge};
use e2e::rows::Rows;
use std::fmt::Write;
use std::path::Path;

/// Of 100 requests, so many fail: refused with 5xx, reset before or after the rows were taken, or never answered.
const FAILING: u32 = 20;
/// Rows in one request: one each would take hours with the real table.
const BATCH: usize = 500;

/// One JSON event for each row.
fn events(rows: &Rows) -> String {
    let mut text = String::new();
    for n in 0..rows.len() {
        let line = String::from_utf8_lossy(rows.row(n));
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}", serde_json::json!({ "n": n, "line": line }));
    }
    text
}

fn stream(name: &str, dir: &Path, url: &str, batch: usize) -> String {
    format!(
        r#"
        [[stream]]
        name = "{name}"
        source = {{ type = "file", path = "{dir}/source.jsonl", follow = true }}
        [[stream.stage]]
        type = "map"
        jq = '{{row: .n, carrier: (.line | split(",") | .[9]), line: .line}}'
        [stream.sink]
        type = "http"
        url = "{url}"
        batch = {batch}
        timeout = "1s"
        "#,
        dir = dir.display(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_an_endpoint_that_fails_at_random_every_row_arrives_and_none_while_paused() {
    let (made_up, flips) = (5_000, if Rows::real() { 20 } else { 3 });
    let rows = Rows::flights_or(made_up).unwrap();
    let all = rows.len();
    // As many requests in the short run as it takes to meet each kind of failure.
    let batch = if Rows::real() { BATCH } else { 25 };
    let text = events(&rows);
    let endpoint = Endpoint::start(FAILING, 7).await.unwrap();
    let elsewhere = Endpoint::start(0, 7).await.unwrap();
    let (url, unbound) = (endpoint.url(), elsewhere.url());
    // The twin: the same rows, the same process, but its stream is not bound to the switch. Small requests, so that it
    // is always at it.
    let streams =
        |dir: &Path| stream("flights", dir, &url, batch) + &stream("twin", dir, &unbound, batch.div_ceil(10));
    let course = Course::over(Store::KeyVault, rows, streams).await;
    std::fs::write(course.path("source.jsonl"), text).unwrap();
    course.flag.write(false).await.unwrap();
    let sidecar = course.start();
    sidecar.becomes("flights", "running").await.unwrap();

    let still = |endpoint: &Endpoint, at_paused: usize| Still {
        at_paused,
        before_resume: endpoint.count(),
    };
    // However fast this machine is, something is left to be posted after the last flip.
    let part = all / batch / (flips + 1);
    let (mut stills, mut twins) = (Vec::new(), Vec::new());
    for flip in 1..=flips {
        endpoint.reached(flip * part).await.unwrap();
        course.flag.write(true).await.unwrap();
        let told = sidecar.becomes("flights", "paused").await.unwrap();
        let (at_paused, twin_at_paused) = (endpoint.count(), elsewhere.count());
        assert_eq!(told["in_flight"], 0);
        assert_eq!(told["holds"][0]["controller"], "switch:ops");
        course.polls(2).await;
        stills.push(still(&endpoint, at_paused));
        twins.push(still(&elsewhere, twin_at_paused));
        assert_eq!(sidecar.stream("flights").await.unwrap()["state"], "paused");
        course.flag.write(false).await.unwrap();
        sidecar.becomes("flights", "running").await.unwrap();
    }
    let told = async {
        for name in ["flights", "twin"] {
            while sidecar.stream(name).await.unwrap()["events"] != all {}
        }
    };
    tokio::time::timeout(e2e::PATIENCE * 10, told).await.unwrap();
    let ended = sidecar.stop().await.unwrap();
    assert!(ended.success(), "{ended}");

    let posts = endpoint.posts();
    let Repeats { failed, rows: again } = judge(all, &posts, &stills).unwrap();
    for did in [Did::Refused, Did::Reset, Did::TookAndReset, Did::TookAndHung] {
        assert!(posts.iter().any(|post| post.did == did), "{did:?} was met");
    }
    let unbound = judge(all, &elsewhere.posts(), &twins);
    assert!(matches!(unbound, Err(Wrong::Moved { .. })), "{unbound:?}");
    // And an endpoint that got one request twice, though it had said that it has it.
    let doubled: Vec<Post> = posts
        .iter()
        .flat_map(|post| std::iter::repeat_n(post.clone(), 1 + usize::from(post.rows.contains(&4711))))
        .collect();
    let verdict = judge(all, &doubled, &stills);
    assert!(matches!(verdict, Err(Wrong::Again { .. })), "{verdict:?}");
    println!(
        "{all} rows, {flips} flips: through jq to HTTP in {} requests, {failed} of them failed and {again} rows came \
         again, none while paused",
        posts.len(),
    );
}

#[test]
fn a_verdict_over_requests_tells_what_is_wrong_with_them() {
    let post = |from: usize, to: usize, did| Post {
        key: format!("flights-{from}"),
        rows: (from..to).collect(),
        did,
    };
    let good = [post(0, 5, Did::Took), post(5, 10, Did::Took)];
    assert_eq!(judge(10, &good, &[]).unwrap(), Repeats::default());
    let retried = [
        post(0, 5, Did::Refused),
        post(0, 5, Did::TookAndReset),
        post(0, 5, Did::TookAndHung),
        post(0, 3, Did::Took),
        post(3, 10, Did::Took),
    ];
    let repeats = Repeats { failed: 3, rows: 5 };
    assert_eq!(judge(10, &retried, &[]).unwrap(), repeats);
    let mut renamed = post(0, 5, Did::Took);
    renamed.key = "another".to_owned();
    let moved = Still {
        at_paused: 1,
        before_resume: 2,
    };
    let table: [(&[Post], &[Still], Wrong); 7] = [
        (&good, &[moved], Wrong::Moved { pause: 0, posts: 1 }),
        (&good[..1], &[], Wrong::Missing { row: 5 }),
        (&[post(0, 10, Did::TookAndReset)], &[], Wrong::Missing { row: 0 }),
        (&[post(0, 9, Did::Took)], &[], Wrong::Missing { row: 9 }),
        (
            &[post(0, 10, Did::Took), post(4, 6, Did::Took)],
            &[],
            Wrong::Again { row: 4 },
        ),
        (&[post(0, 5, Did::Reset), renamed], &[], Wrong::Key { row: 0 }),
        (&[post(0, 11, Did::Took)], &[], Wrong::Foreign { row: 10 }),
    ];
    for (posts, stills, wrong) in table {
        assert_eq!(judge(10, posts, stills), Err(wrong), "{posts:?}");
    }
}
