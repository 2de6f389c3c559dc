//! The layer that counts: from a request's arrival to the end of its answer's body, whatever happens between.
use crate::support::{App, PATIENCE, Raw, UPGRADE, board, client, serve, until};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tidegate_gate::{Gate, Kind};
use tidegate_http::{CountLayer, InFlight};
use tower::{Layer, ServiceExt};

fn counted(app: &App) -> (Gate, Router) {
    let (gate, _keeper) = Gate::new("layer");
    (gate, app.router().layer(CountLayer::new(gate)))
}
fn ask(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}
fn in_flight(gate: Gate) -> u64 {
    gate.sight().in_flight
}
fn names(gate: Gate) -> Vec<String> {
    gate.running().iter().map(|r| r.name.to_string()).collect()
}

#[tokio::test]
async fn a_request_is_counted_until_its_answers_body_has_ended() {
    let app = App::default();
    let (gate, router) = counted(&app);
    let response = router.clone().oneshot(ask("/drip")).await.unwrap();
    assert_eq!(in_flight(gate), 1, "the answer has begun, not ended");
    let mut body = response.into_body();
    app.leave(1);
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "drip ");
    assert_eq!(in_flight(gate), 1);
    drop(body);
    assert_eq!(in_flight(gate), 0);

    let response = router.oneshot(ask("/")).await.unwrap();
    assert_eq!(in_flight(gate), 1);
    let mut body = response.into_body();
    while body.frame().await.is_some() {}
    assert_eq!(in_flight(gate), 0, "its end is enough, it need not be dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_blocks_its_thread_is_listed_before_it_ever_waits() {
    let (gate, _keeper) = Gate::new("layer");
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let stuck = get(move || {
        let released = released.clone();
        async move { released.lock().unwrap().recv().unwrap() }
    });
    let router = Router::new().route("/stuck/{id}", stuck);
    let before = Instant::now();
    let answer = tokio::spawn(router.layer(CountLayer::new(gate)).oneshot(ask("/stuck/7")));
    until("counted", || in_flight(gate) == 1).await;
    until("named", || !names(gate).is_empty()).await;
    assert_eq!(names(gate), ["GET /stuck/{id}"]);
    // More than a tick, for machines that are stopped for a while.
    let since = gate.running()[0].since;
    assert!(before <= since + Duration::from_secs(1) && since <= Instant::now());
    release.send(()).unwrap();
    answer.await.unwrap().unwrap();
    assert_eq!(in_flight(gate), 0);
}

#[tokio::test]
async fn a_cancelled_request_counts_down() {
    let app = App::default();
    let (gate, router) = counted(&app);
    let mut answer = Box::pin(router.oneshot(ask("/slow")));
    assert!(answer.as_mut().now_or_never().is_none());
    assert_eq!(in_flight(gate), 1);
    drop(answer);
    assert_eq!(in_flight(gate), 0);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_around_it_counts_down() {
    let app = App::default();
    let (gate, router) = counted(&app);
    let answer = tokio::time::timeout(Duration::from_secs(5), router.oneshot(ask("/slow")));
    assert!(answer.await.is_err());
    assert_eq!(in_flight(gate), 0);
}

#[tokio::test]
async fn a_panic_counts_down() {
    let app = App::default();
    let (gate, router) = counted(&app);
    let answer = AssertUnwindSafe(router.oneshot(ask("/panic")))
        .catch_unwind()
        .await;
    assert!(answer.is_err());
    assert_eq!(in_flight(gate), 0);
}

#[tokio::test]
async fn a_client_that_disconnects_counts_down() {
    let app = App::default();
    let (gate, router) = counted(&app);
    let server = serve(router).await;
    for path in ["/slow", "/drip"] {
        let mut raw = Raw::connect(server.addr).await;
        raw.say(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        until("it runs", || app.running() == 1).await;
        assert_eq!(in_flight(gate), 1);
        drop(raw);
        // A body is found out to have no reader when it says more.
        app.leave(if path == "/drip" { 10_000 } else { 0 });
        until("nothing is in flight", || in_flight(gate) == 0).await;
        assert_eq!(app.running(), 0);
    }
}

#[tokio::test]
async fn status_names_the_route_and_not_the_query() {
    let app = App::default();
    let (gate, _keeper) = Gate::new("named");
    let router = Router::new()
        .route("/orders/{id}", get(std::future::pending::<()>))
        .fallback(std::future::pending::<()>)
        .layer(CountLayer::new(gate));
    let mut asked = Box::pin(router.clone().oneshot(ask("/orders/7?token=secret")));
    assert!(asked.as_mut().now_or_never().is_none());
    assert_eq!(names(gate), ["GET /orders/{id}"]);
    drop(asked);
    let long = format!("/{}?token=secret", "ü".repeat(200).replace('ü', "%C3%BC"));
    let mut asked = Box::pin(router.oneshot(ask(&long)));
    assert!(asked.as_mut().now_or_never().is_none());
    assert!(names(gate)[0].starts_with("GET /%C3%BC"));
    assert!(names(gate)[0].len() <= 112);
    assert!(app.running() == 0);
}

#[tokio::test]
async fn an_upgraded_connection_is_counted_apart_until_it_closes() {
    let holds = board();
    let member = holds.register("app", Kind::Gate { serves: true }).unwrap();
    let app = App::default();
    let server = serve(app.router().layer(CountLayer::of(&member))).await;
    let status = || holds.snapshot().stream("app").unwrap().clone();
    let mut raw = Raw::connect(server.addr).await;
    raw.say(UPGRADE).await;
    raw.hear("101 Switching Protocols").await;
    raw.say("ping").await;
    raw.hear("ping").await;
    until("the request is over", || status().in_flight == 0).await;
    assert_eq!(status().upgraded, 1);
    assert_eq!(status().running[0].name, "GET /socket");
    drop(raw);
    until("the connection is over", || status().upgraded == 0).await;
    assert_eq!(status().events, 1, "one request, one event");
}

#[tokio::test]
async fn work_that_goes_on_after_the_answer_is_counted_by_its_child() {
    let (gate, _keeper) = Gate::new("child");
    let app = App::default();
    let leave = app.leave.clone();
    let router = Router::new()
        .route(
            "/",
            get(move |counted: InFlight| async move {
                let unit = counted.child();
                tokio::spawn(async move {
                    leave.0.acquire().await.unwrap().forget();
                    drop(unit);
                });
                "accepted"
            }),
        )
        .layer(CountLayer::new(gate));
    let server = serve(router).await;
    let answer = client()
        .get(format!("http://{}/", server.addr))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.text().await.unwrap(), "accepted");
    until("only the child is left", || in_flight(gate) == 1).await;
    app.leave(1);
    until("nothing is in flight", || in_flight(gate) == 0).await;
}

#[tokio::test]
async fn the_request_that_is_worked_at_is_known_in_its_service_and_nowhere_else() {
    let (outer, _outer) = Gate::new("outer");
    let (inner, _inner) = Gate::new("inner");
    let between = tower::service_fn(move |_: Request<Body>| {
        let called = InFlight::current().map(|counted| counted.child());
        async move {
            tokio::task::yield_now().await;
            let polled = InFlight::current().map(|counted| counted.child());
            let elsewhere = tokio::spawn(async { InFlight::current().is_some() });
            assert!(!elsewhere.await.unwrap(), "a task of its own");
            assert_eq!((in_flight(inner), in_flight(outer)), (3, 1), "the innermost");
            drop((called, polled));
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }
    });
    let counted = CountLayer::new(outer).layer(CountLayer::new(inner).layer(between));
    drop(counted.oneshot(ask("/")).await.unwrap());
    assert!(InFlight::current().is_none());
    assert_eq!((in_flight(inner), in_flight(outer)), (0, 0));
}

#[tokio::test]
async fn an_extractor_without_its_layer_says_what_is_missing() {
    let router: Router = Router::new().route("/", get(|_: InFlight| async {}));
    let response = tokio::time::timeout(PATIENCE, router.oneshot(ask("/")))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(response.status(), 500);
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, "this route extracts InFlight and is not under a CountLayer");
}
