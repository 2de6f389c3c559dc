//! Exactness under storm: toggles without end against requests of all kinds, and a count that is right throughout.
//!
//! The same checks are put to a counter as services usually have one, up before the handler and down after it, and
//! must catch it.
use crate::actuator::{Beside, Met};
use crate::support::{App, Gated, Raw, UPGRADE, board, client, serve, until};
use axum::body::Body;
use futures_util::FutureExt;
use http::{Request, Response};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::task::{Context, Poll};
use tidegate_gate::{Cause, Controller, Holds, Kind, Scope, State, Wish};
use tidegate_http::{CountLayer, OnHold};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

const REQUESTS: u64 = 10_000;
const TOGGLERS: usize = 200;

/// The kinds of requests, each to its end or to the client's.
async fn request(n: u64, addr: SocketAddr, client: reqwest::Client) {
    let url = |path: &str| format!("http://{addr}{path}");
    // What becomes of a request that is cut is not asked here; what becomes of the count is.
    match n % 9 {
        0 => drop(client.get(url("/")).send().await),
        1 => drop(
            client
                .post(url("/echo"))
                .body(vec![b'x'; 10_000])
                .send()
                .await
                .map(|a| a.bytes()),
        ),
        2 => drop(client.get(url("/status/500")).send().await),
        // Slow, to its end.
        8 => drop(client.get(url("/slow")).send().await.map(|a| a.bytes())),
        3 => drop(client.get(url("/panic")).send().await),
        // Cancelled before the answer, at some point of its way.
        4 => {
            let mut answer = Box::pin(client.get(url("/slow")).send());
            for _ in 0..n % 50 {
                if answer.as_mut().now_or_never().is_some() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        // Disconnected in the middle of a body, or of an answer.
        5 => {
            if let Ok(mut stream) = tokio::net::TcpStream::connect(addr).await {
                let text = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nsome";
                let _ = stream.write_all(text.as_bytes()).await;
            }
        }
        6 => {
            if let Ok(mut answer) = client.get(url("/drip")).send().await {
                let _ = answer.chunk().await;
            }
        }
        _ => {
            if let Ok(mut stream) = tokio::net::TcpStream::connect(addr).await {
                let _ = stream.write_all(UPGRADE.as_bytes()).await;
                for _ in 0..n % 20 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

/// What the storm found out about a count.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// Looks at which the count was below what was known to run throughout.
    below_the_truth: u64,
    /// Looks at which it was negative.
    negative: u64,
    /// What was left when all had ended.
    left: i64,
}

/// Puts `addr` under a storm of so many requests. `count` is what is put to the test.
async fn storm(
    all: u64,
    app: &App,
    addr: SocketAddr,
    toggle: impl Fn(bool) + Clone + Send + 'static,
    count: impl Fn() -> i64,
    beside: Beside,
) -> (Found, Met) {
    let stop = tokio_util::sync::CancellationToken::new();
    let mut togglers = JoinSet::new();
    for n in 0..TOGGLERS {
        let (toggle, stop) = (toggle.clone(), stop.clone());
        togglers.spawn(async move {
            let mut on = n % 2 == 0;
            while !stop.is_cancelled() {
                toggle(on);
                on = !on;
                // A storm, not a siege: two hundred of these leave the machine to the requests now and then.
                for _ in 0..256 {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    // The app goes on letting slow work go.
    let leave = {
        let (app, stop) = (app.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.is_cancelled() {
                if app.leave.0.available_permits() < 64 {
                    app.leave(1);
                }
                tokio::task::yield_now().await;
            }
        })
    };
    let mut found = Found::default();
    let client = client();
    let mut requests = JoinSet::new();
    let mut sent = 0;
    // One request that is known to run while we look: a reader that has heard the beginning of an answer that
    // does not end.
    while sent < all {
        let mut pinned = Raw::connect(addr).await;
        pinned
            .say("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nknown")
            .await;
        pinned.hear("known").await;
        for _ in 0..250 {
            requests.spawn(request(sent, addr, client.clone()));
            sent += 1;
            while requests.len() > 100 {
                requests.join_next().await;
            }
            let seen = count();
            found.below_the_truth += u64::from(seen < 1);
            found.negative += u64::from(seen < 0);
            tokio::task::yield_now().await;
        }
    }
    while requests.join_next().await.is_some() {}
    stop.cancel();
    while togglers.join_next().await.is_some() {}
    leave.await.unwrap();
    let met = beside.end().await;
    toggle(false);
    // All handlers, bodies and sockets have ended when the app says so.
    until("the app is idle", || {
        app.leave(1);
        app.running() == 0
    })
    .await;
    // The last of them is counted down a moment after it has ended; an inexact count never gets there.
    for _ in 0..10_000 {
        if count() == 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    found.left = count();
    (found, met)
}

fn toggle(holds: &Arc<Holds>) -> impl Fn(bool) + Clone + Send + 'static {
    let holds = holds.clone();
    move |on| {
        if on {
            holds
                .place(&Controller::Api, Scope::All, Wish::default())
                .unwrap();
        } else {
            holds
                .release(&Controller::Api, Scope::All, &Cause::default())
                .unwrap();
        }
    }
}

/// The readers have seen both states, each answer of one piece, and would have noticed one that was not.
fn agreed(met: &Met) {
    assert!(met.answers.iter().all(|&n| n > 100), "{met:?}");
    assert!(met.turned > 0 && met.twin > 0, "{met:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_layers_count_is_exact_under_storm() {
    let holds = board();
    let member = holds.register("app", Kind::Gate { serves: true }).unwrap();
    let app = App::default();
    let server = serve(app.router().layer(CountLayer::of(&member))).await;
    let look = || {
        let snapshot = holds.snapshot();
        let status = snapshot.stream("app").unwrap();
        let held = !status.holds.is_empty();
        // State and count come from one snapshot, so they cannot contradict each other.
        assert_eq!(held, status.state == State::Hiatus);
        i64::try_from(status.in_flight).unwrap()
    };
    let beside = Beside::start(&holds);
    let (found, met) = storm(REQUESTS, &app, server.addr, toggle(&holds), look, beside).await;
    agreed(&met);
    assert_eq!(found, Found::default());
    let status = holds.snapshot().stream("app").unwrap().clone();
    assert_eq!((status.upgraded, status.waiting, status.running.len()), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gates_count_is_exact_under_storm() {
    let app = App::default();
    let upstream = serve(app.router()).await.addr;
    let gated = Gated::with(upstream, |c| {
        c.on_hold = OnHold::Hold;
        c.max_waiting = 100_000;
    })
    .await;
    let look = || {
        let snapshot = gated.holds.snapshot();
        let status = snapshot.stream("app").unwrap();
        // A request is known to run: it may be pausing, never paused.
        assert!(
            matches!(status.state, State::Running | State::Pausing),
            "{:?}",
            status.state
        );
        i64::try_from(status.in_flight + status.upgraded).unwrap()
    };
    let beside = Beside::start(&gated.holds);
    let (found, met) = storm(REQUESTS, &app, gated.addr, toggle(&gated.holds), look, beside).await;
    agreed(&met);
    assert_eq!(found, Found::default());
    let status = gated.status();
    assert_eq!((status.upgraded, status.waiting, status.running.len()), (0, 0, 0));
    assert_eq!(status.state, State::Running);
}

/// Up before the handler, down after it.
#[derive(Clone)]
struct UpAndDown<S> {
    inner: S,
    count: Arc<AtomicI64>,
}

impl<S> tower::Service<Request<Body>> for UpAndDown<S>
where
    S: tower::Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.inner.call(request);
        let count = self.count.clone();
        Box::pin(async move {
            count.fetch_add(1, SeqCst);
            let answer = answer.await;
            count.fetch_sub(1, SeqCst);
            answer
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_that_goes_up_before_the_handler_and_down_after_it_is_caught() {
    let count = Arc::new(AtomicI64::new(0));
    let app = App::default();
    let counter = count.clone();
    let layer = tower::layer::layer_fn(move |inner| UpAndDown {
        inner,
        count: counter.clone(),
    });
    let server = serve(app.router().layer(layer)).await;
    // What beside it is read and turned is another gate's: this counter has no board.
    let holds = board();
    let _member = holds.register("app", Kind::Gate { serves: true }).unwrap();
    let beside = Beside::start(&holds);
    // One storm in five is enough for it.
    let (found, _) = storm(
        REQUESTS / 5,
        &app,
        server.addr,
        |_| {},
        || count.load(SeqCst),
        beside,
    )
    .await;
    assert!(
        found.below_the_truth > 0,
        "a body that streams is work: {found:?}"
    );
    assert!(
        found.left > 0,
        "what panics or is cancelled never counts down: {found:?}"
    );
}
