//! The dashboard and the alerts speak of metrics and labels that a running tidegate has.
use crate::board::{Board, get, post};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use tidegate_gate::{Cause, Controller, Held};
use tokio_util::sync::CancellationToken;

/// Series by name, each with the labels that it has anywhere.
type Known = BTreeMap<String, BTreeSet<String>>;

/// What a process tells in which everything has happened that the files may ask for.
async fn eventful() -> Known {
    let board = Board::new();
    let mono = board.time.lock().unwrap().mono;
    board.orders.meter().set_held(Held {
        events: 1,
        oldest: Some(mono),
        lease_ends: Some(mono + Duration::from_secs(30)),
        parked: false,
    });
    board
        .metrics
        .poll_outcome("ops", "paused", Duration::from_millis(3));
    let stop = CancellationToken::new();
    let (admin, until) = (board.admin.clone(), stop.clone());
    let running = tokio::spawn(async move { admin.run(until).await });
    board.flip(true, "8");
    assert_eq!(board.control(post("/streams/orders/drill")).await.status, 200);
    assert_eq!(
        board
            .control(post("/pause").header("host", "elsewhere.example"))
            .await
            .status,
        403
    );
    let ops = Controller::Switch("ops".into());
    board
        .holds
        .set_aside(&ops, "orders", Some("lost".into()), &Cause::default())
        .unwrap();
    // The journal is followed by a task of its own.
    let text = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let text = board.observe(get("/metrics")).await.text;
            if text.contains("tidegate_store_flip_latency_seconds_bucket{") {
                return text;
            }
            tokio::task::yield_now().await;
        }
    });
    let text = text.await.unwrap();
    stop.cancel();
    running.await.unwrap();
    known(&text)
}

fn known(text: &str) -> Known {
    let mut known = Known::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let (name, labels) = line.split_once(['{', ' ']).unwrap();
        let of = known.entry(name.to_owned()).or_default();
        if line[name.len()..].starts_with('{') {
            of.extend(selected(labels.split_once('}').unwrap().0));
        }
    }
    known
}

/// The label names of `a="x",b=~"y"`.
fn selected(text: &str) -> Vec<String> {
    let mut labels = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(['=', '!']) {
        labels.push(rest[..end].trim_matches([' ', ',']).to_owned());
        let value = &rest[end..];
        let open = value.find('"').expect("a label has a value");
        let close = open + 1 + value[open + 1..].find('"').expect("a value ends");
        rest = &value[close + 1..];
    }
    labels
}

/// What an expression says that no tidegate has. Labels that Prometheus adds, and those of aggregations, are left to it.
fn wrong(known: &Known, expression: &str) -> Vec<String> {
    const ADDED: [&str; 4] = ["job", "instance", "namespace", "pod"];
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut wrong = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find(|c: char| part(c)) {
        let word = &rest[at..];
        let word = &word[..word.find(|c: char| !part(c)).unwrap_or(word.len())];
        rest = &rest[at + word.len()..];
        if !word.starts_with("tidegate_") && !word.starts_with("process_") {
            continue;
        }
        let Some(has) = known.get(word) else {
            wrong.push(format!("there is no {word}"));
            continue;
        };
        if let Some(selector) = rest.strip_prefix('{') {
            let selector = selector.split_once('}').unwrap().0;
            let unknown = selected(selector)
                .into_iter()
                .filter(|l| !ADDED.contains(&l.as_str()) && !has.contains(l));
            wrong.extend(unknown.map(|l| format!("{word} has no label {l}")));
        }
    }
    wrong
}

fn deployed(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deploy")
        .join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The expressions of a file of rules, also those that go over several lines.
fn of_the_rules(file: &str) -> Vec<String> {
    let text = deployed(file);
    let mut expressions: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        let begins = line.strip_prefix("expr:");
        inside = begins.is_some()
            || (inside
                && !["for:", "labels:", "annotations:"]
                    .iter()
                    .any(|key| line.starts_with(key)));
        match (begins, expressions.last_mut()) {
            (Some(first), _) => expressions.push(first.trim_matches([' ', '>', '-']).to_owned()),
            (None, Some(last)) if inside => last.push_str(line),
            _ => {}
        }
    }
    assert_eq!(expressions.len(), text.matches("- alert:").count(), "{file}");
    expressions
}

fn of_the_dashboard() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&deployed("observability/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|p| p["targets"].as_array().unwrap());
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    targets
        .map(|t| &t["expr"])
        .chain(variables.map(|v| &v["definition"]))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn every_alert_and_panel_asks_for_what_there_is() {
    let known = eventful().await;
    let (mut alerts, dashboard) = (of_the_rules("observability/alerts.yaml"), of_the_dashboard());
    assert!(
        alerts.len() >= 10 && dashboard.len() >= 20,
        "{} {}",
        alerts.len(),
        dashboard.len()
    );
    alerts.extend(of_the_rules(
        "kubernetes/components/monitoring/prometheusrule.yaml",
    ));
    for expression in alerts.iter().chain(&dashboard) {
        let asks = expression.contains("tidegate_") || expression.contains("process_");
        assert!(asks, "{expression}");
        assert_eq!(wrong(&known, expression), [""; 0], "in {expression}");
    }
}

#[tokio::test]
async fn a_wrong_name_is_noticed() {
    let known = eventful().await;
    for (expression, expected) in [
        (
            "tidegate_stream_states == 1",
            "there is no tidegate_stream_states",
        ),
        ("rate(tidegate_events[5m])", "there is no tidegate_events"),
        (
            "sum(tidegate_holds{switch=\"ops\",stream!~\"a|b\"})",
            "tidegate_holds has no label switch",
        ),
        (
            "histogram_quantile(0.9, tidegate_flip_latency_seconds_bucket{reading=\"x\"})",
            "tidegate_flip_latency_seconds_bucket has no label reading",
        ),
    ] {
        assert_eq!(wrong(&known, expression), [expected]);
    }
    assert_eq!(selected("a=\"x=y\",b!~\"z\""), ["a", "b"]);
}
