//! However many secrets the store has and however many switches look at one of them: one request per poll.
use crate::harness::{Client, Running, Site, controllers};
use serde_json::json;

const SWITCHES: [&str; 3] = ["a", "b", "c"];
/// The path that a poll asks for.
const VAULT: &str = "/v1/secret/data/streams/s7";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_switches_on_one_of_five_hundred_secrets_cost_one_request_per_poll() {
    let mut site = Site::new().await;
    for n in 0..500 {
        site.flag(&format!("streams/s{n}"), true);
    }
    let flags = |a: bool, b: bool, c: bool| json!({ "IsPaused": a, "b": b, "deep": { "er": { "c": c } } });
    site.put("streams/s7", flags(false, false, false));
    // So rarely that every poll but the first is one that is asked for here.
    site.vault_switch(
        "a",
        &["a"],
        "streams/s7",
        "interval = \"24h\"\nmax_stale = \"48h\"",
    )
    .vault_switch(
        "b",
        &["b"],
        "streams/s7",
        "interval = \"23h\"\nmax_stale = \"48h\"\nkey = \"b\"",
    )
    .vault_switch(
        "c",
        &["c"],
        "streams/s7",
        "interval = \"22h\"\nmax_stale = \"48h\"\nkey = \"deep:er:c\"",
    );
    for stream in SWITCHES {
        site.file_stream(stream);
    }
    let running = Running::start(&site).await;
    let client = &running.client;
    for switch in SWITCHES {
        client.reads(switch, "running").await;
    }

    // Each flag is its own, in one body.
    for (a, b, c) in [
        (true, false, false),
        (false, true, true),
        (false, false, true),
        (false, false, false),
    ] {
        site.put("streams/s7", flags(a, b, c));
        client.poll().await;
        let status = client.status().await;
        for (n, held) in [a, b, c].into_iter().enumerate() {
            let own = format!("switch:{}", SWITCHES[n]);
            let expected = if held { vec![own.as_str()] } else { vec![] };
            assert_eq!(controllers(&status["streams"][n]), expected, "{a} {b} {c}");
        }
    }
    // Neighbours change and are not looked at.
    for n in (0..500).filter(|n| *n != 7) {
        site.flag(&format!("streams/s{n}"), n % 2 == 0);
    }
    client.poll().await;

    let (asked, polls) = requests_and_polls(&site, &running.client, VAULT).await;
    let neighbours = site.store.requests().count_under("/v1/secret") - asked;
    assert_eq!(neighbours, 0, "another secret was asked for");
    assert_eq!(polls, [asked; 3], "polls of each switch, requests for the secret");
    assert!(asked >= 6, "the first poll and five that were asked for: {asked}");
    running.stop().await;
}

/// How often the secret was asked for, and how often each switch was polled, by the metrics.
async fn requests_and_polls(site: &Site, client: &Client, path: &str) -> (u64, Vec<u64>) {
    let text = client.metrics().await;
    let polls = |switch: &str| -> u64 {
        let series = format!("tidegate_polls_total{{switch=\"{switch}\"");
        let values = text.lines().filter(|line| line.starts_with(&series));
        values
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    };
    let polls = SWITCHES.iter().map(|switch| polls(switch)).collect();
    (site.store.requests().count(path), polls)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_switches_on_one_of_five_hundred_secrets_of_a_key_vault_cost_no_more() {
    let mut site = Site::with_key_vault().await;
    let put = |site: &Site, a: bool, b: bool, c: bool| {
        let flags = json!({ "IsPaused": a, "b": b, "deep": { "er": { "c": c } } });
        site.key_vault().put("s7", &flags.to_string()).unwrap();
    };
    for n in 0..500 {
        site.key_vault_flag(&format!("s{n}"), true);
    }
    put(&site, false, false, false);
    for (switch, hours, key) in [("a", 24, "IsPaused"), ("b", 23, "b"), ("c", 22, "deep:er:c")] {
        let options = format!("interval = \"{hours}h\"\nmax_stale = \"48h\"\nkey = \"{key}\"");
        site.key_vault_switch(switch, &[switch], "s7", &options)
            .file_stream(switch);
    }
    let running = Running::start(&site).await;
    let client = &running.client;
    for switch in SWITCHES {
        client.reads(switch, "running").await;
    }
    for (a, b, c) in [(true, false, false), (false, true, true), (false, false, false)] {
        put(&site, a, b, c);
        client.poll().await;
        let status = client.status().await;
        for (n, held) in [a, b, c].into_iter().enumerate() {
            let own = format!("switch:{}", SWITCHES[n]);
            let expected = if held { vec![own.as_str()] } else { vec![] };
            assert_eq!(controllers(&status["streams"][n]), expected, "{a} {b} {c}");
        }
    }
    let (asked, polls) = requests_and_polls(&site, client, "/secrets/s7/").await;
    let all = site.store.requests().count_under("/secrets");
    assert_eq!(all, asked, "another secret was asked for, or all of them");
    // The very first request goes without a token, and is told where to get one.
    assert_eq!(
        polls,
        [asked - 1; 3],
        "polls of each switch, requests for the secret"
    );
    assert!(
        asked >= 5,
        "the first poll and three that were asked for: {asked}"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twin_switches_with_credentials_of_their_own_share_nothing_and_the_count_shows_it() {
    let mut site = Site::new().await;
    site.flag("streams/s7", false);
    for switch in SWITCHES {
        site.write(switch, site.root_token());
        let url = site.store.vault_url();
        site.add(&format!(
            "[[switch]]\nname = \"{switch}\"\nstreams = [\"{switch}\"]\ninterval = \"24h\"\nmax_stale = \"48h\"\n\
             vault = {{ address = \"{url}\", path = \"streams/s7\", auth = {{ method = \"token\", file = \"{{dir}}/{switch}\" }} }}\n"
        ))
        .file_stream(switch);
    }
    let running = Running::start(&site).await;
    running.client.poll().await;
    let (asked, polls) = requests_and_polls(&site, &running.client, VAULT).await;
    assert_eq!(asked, polls.iter().sum::<u64>(), "{polls:?}");
    assert!(polls.iter().all(|of_one| *of_one < asked), "{asked} {polls:?}");
    running.stop().await;
}
