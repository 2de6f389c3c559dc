//! What the counting layer costs a trivial axum handler: `cargo bench -p tidegate-http --bench layer`.
//!
//! All services take turns in one run, over real sockets and one kept connection each; the ratios are medians over the
//! rounds. The same services without sockets show the nanoseconds.
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
use std::time::Instant;
use tidegate_gate::Gate;
use tidegate_http::{CountLayer, Limits, Listener, RequestBody};
use tokio_util::sync::CancellationToken;
use tower::util::MapResponseLayer;
use tower::{Layer, Service, ServiceExt};

const ROUNDS: usize = 1201;
const REQUESTS: usize = 100;

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
    let start = Instant::now();
    for _ in 0..REQUESTS {
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
    for _ in 0..10 * REQUESTS {
        let request = Request::get("/orders/7").body(Body::empty()).unwrap();
        let answer = service.clone().oneshot(request).await.unwrap();
        answer.into_body().collect().await.unwrap();
    }
    start.elapsed().as_nanos() as f64 / (10 * REQUESTS) as f64
}

fn median(of: impl Iterator<Item = f64>) -> f64 {
    let mut of: Vec<f64> = of.collect();
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (gate, _keeper) = Gate::new("layer");
    let count = CountLayer::new(gate);
    let plain = app();
    let around = count.layer(app());
    let on_router = app().layer(count.clone());
    // What axum asks for any layer on a router that touches the body.
    let idle = app().layer(MapResponseLayer::new(|answer: Response<Body>| {
        answer.map(|body| Limited::new(body, usize::MAX))
    }));
    let mut sends = [
        connected(plain.clone()).await,
        connected(around.clone()).await,
        connected(on_router.clone()).await,
        connected(idle.clone()).await,
    ];
    let (mut sockets, mut without) = (vec![], vec![]);
    for round in 0..ROUNDS {
        let mut row = [0.0; 4];
        for turn in 0..4 {
            let which = (round + turn) % 4;
            row[which] = over_sockets(&mut sends[which]).await;
        }
        sockets.push(row);
        without.push([
            in_process(&plain).await,
            in_process(&around).await,
            in_process(&on_router).await,
            in_process(&idle).await,
        ]);
    }
    let ratio = |which: usize| median(sockets.iter().map(|row| row[which] / row[0]));
    let alone = median(sockets.iter().map(|row| row[0])) / 1e3;
    let added = |which: usize| median(without.iter().map(|row| row[which] - row[0]));
    println!(
        "\n| on a trivial axum handler ({alone:.1} µs a request) | over sockets | without |\n|---|---|---|"
    );
    for (what, which) in [
        ("the layer around the router", 1),
        ("the layer on the router", 2),
        ("a layer on the router that does nothing", 3),
    ] {
        println!("| {what} | {:.4} × | + {:.0} ns |", ratio(which), added(which));
    }
}
