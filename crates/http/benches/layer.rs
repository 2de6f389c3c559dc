//! What the counting layer costs a trivial axum handler: `cargo bench -p tidegate-http --bench layer`.
//!
//! All services take turns in one run, in an order that is drawn anew each time, over real sockets with client and server
//! on one thread and a kept connection each. Every service is a type of its own, so that none shares the code that serves
//! its connection with another. The bare one is in it twice: a layer is compared with the mean of the two, and what they
//! differ by is what the bench cannot tell from nothing. The same services without sockets, with warm caches, show the
//! nanoseconds.
//!
//! Where memory happens to lie moves a figure by more than what is measured, so there are many processes, each from a copy
//! of the program. Where code happens to lie does too, by a quarter of a percent each way, and that is the same in all of
//! them: `tests/compare/layer.sh` links the program anew for each of many orders of its functions.
//!
//! axum puts whatever a layer on a router makes into boxes of its own, the service and the body of each answer. What
//! that costs is shown by a layer that does nothing; a layer around the whole router goes without.
#![allow(missing_docs, reason = "a program, not an interface")]
#![allow(clippy::print_stdout, reason = "its output is its purpose")]
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Instant;
use tidegate_gate::Gate;
use tidegate_http::{CountLayer, Limits, Listener, RequestBody};
use tokio_util::sync::CancellationToken;
use tower::util::MapResponseLayer;
use tower::{Layer, Service, ServiceExt};

const PROCESSES: usize = 32;
const ROUNDS: usize = 10;
const WARM_UP: usize = 2;
const TURNS: usize = 40;
const REQUESTS: usize = 30;
/// Of each turn, not counted: whoever serves alone does not find its code and memory put out by four others.
const AHEAD: usize = 10;
/// Says to be one of the processes.
const ONE: &str = "--one-process";

/// A service as it is, and a type of its own.
#[derive(Clone)]
struct Own<S, const WHICH: usize>(S);

impl<R, S: Service<R>, const WHICH: usize> Service<R> for Own<S, WHICH> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.call(request)
    }
}

fn app() -> Router {
    Router::new().route("/orders/{id}", get(|| async { "an order" }))
}

async fn connected<S, B>(service: S) -> SendRequest<Empty<Bytes>>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(&anywhere, None, Limits::default()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(listener.serve(service, CancellationToken::new()));
    let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    send
}

/// Nanoseconds for each of a run of requests, one after the other.
async fn over_sockets(send: &mut SendRequest<Empty<Bytes>>) -> f64 {
    let mut start = Instant::now();
    for nth in 0..AHEAD + REQUESTS {
        if nth == AHEAD {
            start = Instant::now();
        }
        let request = Request::get("/orders/7")
            .header("host", "x")
            .body(Empty::new())
            .unwrap();
        let answer = send.send_request(request).await.unwrap();
        answer.into_body().collect().await.unwrap();
        send.ready().await.unwrap();
    }
    start.elapsed().as_nanos() as f64 / REQUESTS as f64
}

async fn in_process<S, B>(service: &S) -> f64
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone,
    B: http_body::Body,
    B::Error: std::fmt::Debug,
{
    let start = Instant::now();
    for _ in 0..20 * REQUESTS {
        let request = Request::get("/orders/7").body(Body::empty()).unwrap();
        let answer = service.clone().oneshot(request).await.unwrap();
        answer.into_body().collect().await.unwrap();
    }
    start.elapsed().as_nanos() as f64 / (20 * REQUESTS) as f64
}

fn median(of: impl Iterator<Item = f64>) -> f64 {
    let mut of: Vec<f64> = of.collect();
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// What else the machine does only ever adds.
fn lower_quartile(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 4]
}

const SERVICES: [&str; 5] = [
    "the bare service beside its double",
    "the layer around the router",
    "the layer on the router",
    "a layer on the router that does nothing",
    "the layer on the router, beside the one that does nothing",
];
/// Of each service, over sockets and without: the ratio to the bare one, and the nanoseconds that it takes longer.
type Figures = [f64; 2 * SERVICES.len()];

/// One process: the microseconds of a request to the bare service, and what the others take.
#[tokio::main(flavor = "current_thread")]
async fn one_process() -> (f64, Figures) {
    let (gate, _keeper) = Gate::new("layer");
    let count = CountLayer::new(gate);
    let plain = Own::<_, 0>(app());
    let again = Own::<_, 1>(app());
    let around = Own::<_, 2>(count.layer(app()));
    let on_router = Own::<_, 3>(app().layer(count.clone()));
    // What axum asks for any layer on a router that touches the body.
    let idle =
        MapResponseLayer::new(|answer: Response<Body>| answer.map(|body| Limited::new(body, usize::MAX)));
    let idle = Own::<_, 4>(app().layer(idle));
    let mut order = [0, 1, 2, 3, 4];
    let (mut sockets, mut without) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        // Connections of their own in each round, since where their memory lies makes a difference too.
        let mut sends = [
            connected(plain.clone()).await,
            connected(again.clone()).await,
            connected(around.clone()).await,
            connected(on_router.clone()).await,
            connected(idle.clone()).await,
        ];
        let mut times = [const { Vec::new() }; 5];
        for turn in 0..TURNS + WARM_UP {
            // Who comes after whom makes a difference as well.
            fastrand::shuffle(&mut order);
            for which in order {
                let time = over_sockets(&mut sends[which]).await;
                if turn >= WARM_UP {
                    times[which].push(time);
                }
            }
        }
        sockets.push(times.map(lower_quartile));
        without.push([
            in_process(&plain).await,
            in_process(&again).await,
            in_process(&around).await,
            in_process(&on_router).await,
            in_process(&idle).await,
        ]);
    }
    type Row = [f64; 5];
    let bare = |row: &Row| (row[0] + row[1]) / 2.0;
    let pairs = |row: &Row| {
        [
            (row[1], row[0]),
            (row[2], bare(row)),
            (row[3], bare(row)),
            (row[4], bare(row)),
            (row[3], row[4]),
        ]
    };
    let mut figures = [0.0; 10];
    for at in 0..SERVICES.len() {
        let ratio = |row| pairs(row)[at].0 / pairs(row)[at].1;
        let added = |row| pairs(row)[at].0 - pairs(row)[at].1;
        figures[2 * at] = median(sockets.iter().map(ratio));
        figures[2 * at + 1] = median(without.iter().map(added));
    }
    (median(sockets.iter().map(|row| row[0])) / 1e3, figures)
}

/// The mean, and how far from it one standard error is.
fn mean(of: &[f64]) -> (f64, f64) {
    let n = of.len() as f64;
    let mean = of.iter().sum::<f64>() / n;
    let spread = of.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (spread / n).sqrt())
}

fn main() {
    if std::env::args().any(|arg| arg == ONE) {
        let (alone, figures) = one_process();
        println!("{alone} {}", figures.map(|figure| figure.to_string()).join(" "));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let processes: Vec<Vec<f64>> = (0..PROCESSES)
        .map(|nth| {
            // A copy for each: all processes of one file share the pages that its code lies in.
            let copy = dir.path().join(nth.to_string());
            std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
            let out = std::process::Command::new(copy).arg(ONE).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            let text = String::from_utf8(out.stdout).unwrap();
            text.split_whitespace()
                .map(|figure| figure.parse().unwrap())
                .collect()
        })
        .collect();
    let column = |at: usize| processes.iter().map(|row| row[at]).collect::<Vec<_>>();
    let alone = median(column(0).into_iter());
    println!(
        "\n| on a trivial axum handler ({alone:.1} µs a request) | over sockets | without |\n|---|---|---|"
    );
    for (at, what) in SERVICES.iter().enumerate() {
        let (ratio, error) = mean(&column(1 + 2 * at));
        let (added, _) = mean(&column(2 + 2 * at));
        let percent = 100.0 * (ratio - 1.0);
        println!(
            "| {what} | {percent:+.2} ± {:.2} % | {added:+.0} ns |",
            100.0 * error
        );
    }
}
