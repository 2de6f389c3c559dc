//! Every path with every method, and the document that describes them.
use crate::board::{Board, call, get, post};
use http::{Method, StatusCode};
use serde_json::Value;
use std::collections::BTreeSet;

/// (method, path, right)
pub(crate) const CONTROL: [(&str, &str, &str); 17] = [
    ("POST", "/pause", "pause"),
    ("POST", "/resume", "resume"),
    ("POST", "/streams/orders/pause", "pause"),
    ("POST", "/streams/orders/resume", "resume"),
    ("POST", "/streams/orders/override", "override"),
    ("POST", "/streams/orders/drill", "read"),
    ("GET", "/history", "read"),
    ("POST", "/poll", "resume"),
    ("POST", "/drain", "read"),
    ("GET", "/status", "read"),
    ("GET", "/watch", "read"),
    ("GET", "/openapi.json", "read"),
    ("POST", "/actuator/hiatus-on", "pause"),
    ("POST", "/actuator/hiatus-off", "resume"),
    ("GET", "/actuator/hiatus", "read"),
    ("GET", "/actuator/hiatus/orders", "read"),
    ("GET", "/actuator/health", "read"),
];
pub(crate) const OBSERVE: [(&str, &str); 7] = [
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/status"),
    ("GET", "/actuator/hiatus"),
    ("GET", "/actuator/hiatus/orders"),
    ("GET", "/actuator/health"),
];

/// Not in the OpenAPI document: for browsers.
const PAGE: [(&str, &str); 7] = [
    ("GET", "/"),
    ("GET", "/page.js"),
    ("GET", "/page.css"),
    ("GET", "/uplot.js"),
    ("GET", "/uplot.css"),
    ("POST", "/login"),
    ("POST", "/logout"),
];

const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE",
];

fn allows(taken: &str, method: &str) -> bool {
    method == taken || (taken == "GET" && method == "HEAD")
}

#[tokio::test]
async fn every_path_takes_its_method_and_answers_405_with_allow_to_every_other() {
    let board = Board::new();
    let control = CONTROL.map(|(method, path, _)| (board.admin.control(), method, path));
    let observe = OBSERVE.map(|(method, path)| (board.admin.observe(), method, path));
    let page = PAGE.map(|(method, path)| (board.admin.control(), method, path));
    for (router, taken, path) in control.into_iter().chain(observe).chain(page) {
        for method in METHODS {
            // The one answer that never ends.
            if path == "/watch" && method == "GET" {
                continue;
            }
            let request = call(Method::from_bytes(method.as_bytes()).unwrap(), path);
            let answer = request.send(router.clone()).await;
            if allows(taken, method) {
                assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
                assert_ne!(answer.status, StatusCode::NOT_FOUND, "{method} {path}");
            } else {
                assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
                let allow: BTreeSet<&str> = answer.header("allow").split(',').map(str::trim).collect();
                let expected: BTreeSet<&str> = METHODS.into_iter().filter(|m| allows(taken, m)).collect();
                assert_eq!(allow, expected, "{method} {path}");
                if method != "HEAD" {
                    assert!(answer.refused().1.contains("Allow"));
                }
            }
            assert_eq!(answer.header("cache-control"), "no-store", "{method} {path}");
            assert_eq!(
                answer.header("x-content-type-options"),
                "nosniff",
                "{method} {path}"
            );
        }
    }
}

#[tokio::test]
async fn the_openapi_document_names_exactly_the_paths_and_methods_there_are() {
    let board = Board::with(|options, _| options.control.base_path = "ui/stream/".into());
    let answer = board.control(get("/openapi.json")).await;
    assert_eq!(answer.status, StatusCode::OK);
    let document = answer.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut written = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            written.insert((method.to_uppercase(), path.clone()));
        }
    }
    let mut served = BTreeSet::new();
    for (method, path, _) in CONTROL {
        let path = path.replace("orders", "{name}");
        let path = if path == "/openapi.json" || path.starts_with("/actuator/") {
            path
        } else {
            format!("/ui/stream{path}")
        };
        served.insert((method.to_owned(), path));
    }
    for (method, path) in OBSERVE {
        // Both surfaces have a status of the same shape; the document describes the whole one.
        if path != "/status" {
            served.insert((method.to_owned(), path.replace("orders", "{name}")));
        }
    }
    assert_eq!(written, served);
    every_reference_resolves(&document, &document);
}

fn every_reference_resolves(document: &Value, at: &Value) {
    if let Some(Value::String(reference)) = at.get("$ref") {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let inner: Vec<&Value> = match at {
        Value::Object(map) => map.values().collect(),
        Value::Array(list) => list.iter().collect(),
        _ => Vec::new(),
    };
    inner
        .into_iter()
        .for_each(|v| every_reference_resolves(document, v));
}

#[tokio::test]
async fn every_status_that_the_document_names_for_a_get_is_one_it_gives() {
    let board = Board::new();
    for (method, path) in OBSERVE {
        let answer = board.observe(call(method.parse().unwrap(), path)).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_base_path_may_be_written_with_or_without_slashes() {
    for base in ["", "/"] {
        let board = Board::with(|options, _| options.control.base_path = base.into());
        assert_eq!(
            board.control(post("/pause")).await.status,
            StatusCode::OK,
            "{base}"
        );
    }
    for base in ["ui/stream", "/ui/stream", "ui/stream/", "/ui/stream/"] {
        let board = Board::with(|options, _| options.control.base_path = base.into());
        assert_eq!(
            board.control(post("/ui/stream/pause")).await.status,
            StatusCode::OK,
            "{base}"
        );
        assert_eq!(
            board.control(post("/ui/stream/pause/")).await.status,
            StatusCode::OK,
            "{base}"
        );
        assert_eq!(
            board.control(post("/pause")).await.status,
            StatusCode::NOT_FOUND,
            "{base}"
        );
    }
    for base in [
        "//", "a//b", "/a/../b", "a b", "a/{name}", "a?b", "a%2fb", ".", "/*rest",
    ] {
        let options = tidegate_admin::ControlOptions {
            base_path: base.into(),
            ..Default::default()
        };
        let wrong = options.check(&"127.0.0.1:0".parse().unwrap());
        assert_eq!(wrong.len(), 1, "{base}: {wrong:?}");
        assert!(wrong[0].to_string().contains("base_path"), "{}", wrong[0]);
    }
}

#[tokio::test]
async fn tricks_with_paths_reach_nothing() {
    let board = Board::new();
    for path in [
        "//pause",
        "/pause//",
        "/./pause",
        "/x/../pause",
        "/%70ause",
        "/pause%2f",
        "/%2e/pause",
        "/pause;a=b",
        "/PAUSE",
        "/pause/anything",
        "/streams//pause",
        "/streams/orders%2fpause",
        "/streams/orders/%70ause",
    ] {
        let answer = board.control(post(path)).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}: {}", answer.text);
        answer.refused();
    }
    for name in ["nobody", "%2e%2e", "orders%00", "%ff", "Orders", "orders%20", "*"] {
        let answer = board.control(post(&format!("/streams/{name}/pause"))).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{name}: {}", answer.text);
        answer.refused();
    }
    // An encoded name is the name.
    let answer = board.control(post("/streams/%6frders/pause")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(board.orders.gate().is_closed());
}

#[tokio::test]
async fn a_get_changes_nothing() {
    let board = Board::new();
    let before = board.holds.snapshot().revision;
    let last = *board.holds.journal_end().borrow();
    for (_, path, _) in CONTROL.into_iter().filter(|(_, path, _)| *path != "/watch") {
        board.control(get(path)).await;
        board.control(call(Method::HEAD, path)).await;
    }
    for (_, path) in OBSERVE {
        board.observe(get(path)).await;
    }
    assert_eq!(board.holds.snapshot().revision, before);
    assert_eq!(*board.holds.journal_end().borrow(), last);
    assert!(!board.orders.gate().is_closed());
}
