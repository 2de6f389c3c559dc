//! What is measured and written down: a line for each transition, and the exact flip latency.
use crate::harness::{Process, Site};
use serde_json::{Value, json};

const TOKEN: &str = "the-token-of-the-people-on-call";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_transition_is_one_json_line_that_says_who_why_from_what_and_how_fast() {
    let mut site = Site::new().await;
    site.write("oncall", TOKEN);
    site.add("[[control.token]]\nname = \"oncall\"\nfile = \"{dir}/oncall\"\nallow = [\"read\", \"pause\", \"resume\"]\n");
    site.flag("streams/orders", false);
    site.vault_switch("ops", &["orders"], "streams/orders", "")
        .file_stream("orders");
    let (process, client) = Process::run(&site, &[]).await;
    let stranger = client.clone();
    let client = client.with_token(TOKEN);
    client.reaches("orders", "running").await;

    let by_secret = site.put(
        "streams/orders",
        json!({ "IsPaused": true, "reason": "disk swap", "by": "ana" }),
    );
    client.reaches("orders", "paused").await;
    let released = site.flag("streams/orders", false);
    client.reaches("orders", "running").await;
    let body = json!({ "reason": "bad data", "by": "ben" });
    assert_eq!(client.call("POST", "/pause", Some(&body)).await.0, 200);
    client.reaches("orders", "paused").await;
    assert_eq!(stranger.post("/resume").await.0, 401);
    assert_eq!(client.post("/resume").await.0, 200);
    client.reaches("orders", "running").await;
    let metrics = client.metrics().await;
    process.terminate();
    let ended = process.end().await;
    assert_eq!(ended.code, Some(0));

    let audit: Vec<Value> = ended
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .filter(|line: &Value| line["seq"].is_u64())
        .collect();
    let numbers: Vec<u64> = audit.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    assert_eq!(
        numbers,
        (1..=audit.len() as u64).collect::<Vec<_>>(),
        "none is missing, none comes twice"
    );

    let transitions: Vec<&Value> = audit.iter().filter(|line| line["kind"] == "transition").collect();
    for pair in transitions.windows(2) {
        assert_eq!(
            pair[0]["to"], pair[1]["from"],
            "each begins where the one before ended"
        );
    }
    for line in &transitions {
        assert_eq!(line["stream"], "orders", "{line}");
        line["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    }
    let settled = |to: &str, controller: &str| -> &Value {
        let mut found = transitions
            .iter()
            .filter(|l| l["to"] == to && l["controller"] == controller && !l["flip_latency_ms"].is_null());
        let line = found
            .next()
            .unwrap_or_else(|| panic!("{to} by {controller} in {transitions:#?}"));
        assert!(found.next().is_none(), "one line each: {transitions:#?}");
        line
    };
    let expected = [
        (
            "paused",
            "switch:ops",
            json!({ "by": "ana", "reason": "disk swap", "actor": format!("store:{by_secret}"), "version": by_secret.to_string() }),
        ),
        (
            "running",
            "switch:ops",
            json!({ "by": null, "reason": null, "actor": format!("store:{released}"), "version": released.to_string() }),
        ),
        (
            "paused",
            "api",
            json!({ "by": "ben", "reason": "bad data", "actor": "oncall", "version": null }),
        ),
        (
            "running",
            "api",
            json!({ "by": null, "reason": null, "actor": "oncall", "version": null }),
        ),
    ];
    for (to, controller, fields) in expected {
        let line = if (to, controller) == ("running", "switch:ops") {
            // The first of the two ended the hold of the start.
            let mut of_switch = transitions
                .iter()
                .filter(|l| l["to"] == to && l["controller"] == controller);
            of_switch.next_back().unwrap()
        } else {
            settled(to, controller)
        };
        for (key, value) in fields.as_object().unwrap() {
            assert_eq!(line[key], *value, "{key} of {line}");
        }
        assert!(line["flip_latency_ms"].as_f64().unwrap() >= 0.0, "{line}");
        // Only a version of the secret has a time of the store's.
        assert_eq!(line["store_latency_ms"].is_null(), controller == "api", "{line}");
    }
    let refused: Vec<&Value> = audit.iter().filter(|line| line["kind"] == "refused").collect();
    assert_eq!(refused.len(), 1, "{refused:#?}");

    // The metrics count what the lines say, but for those of the end, when nobody asked any more.
    let transitions: Vec<&Value> = transitions
        .into_iter()
        .filter(|line| line["controller"] != "stop")
        .collect();
    let value = |series: &str| -> f64 {
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} in {metrics}"))
            .parse()
            .unwrap()
    };
    assert_eq!(
        value("tidegate_flip_latency_seconds_count{stream=\"orders\",to=\"paused\"}"),
        2.0
    );
    assert_eq!(
        value("tidegate_store_flip_latency_seconds_count{stream=\"orders\",to=\"paused\"}"),
        1.0
    );
    let sum = value("tidegate_flip_latency_seconds_sum{stream=\"orders\",to=\"paused\"}");
    let told: f64 = transitions
        .iter()
        .filter(|line| line["to"] == "paused")
        .filter_map(|line| line["flip_latency_ms"].as_f64())
        .sum();
    assert!(
        (sum * 1e3 - told).abs() < 0.01,
        "metrics {} ms, lines {told} ms",
        sum * 1e3
    );
    for from_to in ["from=\"running\",to=\"paused\"", "from=\"paused\",to=\"running\""] {
        let series = format!("tidegate_transitions_total{{stream=\"orders\",{from_to}}}");
        let counted = metrics
            .lines()
            .find_map(|line| line.strip_prefix(&series)?.trim().parse::<usize>().ok());
        let (from, to) = from_to.split_once(',').unwrap();
        let bare = |text: &str| text.split('"').nth(1).unwrap().to_owned();
        let lines = transitions
            .iter()
            .filter(|l| l["from"] == bare(from) && l["to"] == bare(to))
            .count();
        assert_eq!(counted.unwrap_or_default(), lines, "{from_to}");
    }
}
