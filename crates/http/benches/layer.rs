//! What the counting layer costs a trivial axum handler: `cargo bench -p tidegate-http --bench layer`.
//!
//! Both sides take turns in one run, over real sockets and one kept connection each; the ratio is the median over the
//! rounds. The same two services without sockets show the nanoseconds that the layer adds.
#![allow(missing_docs, reason = "a program, not an interface")]
#![allow(clippy::print_stdout, reason = "its output is its purpose")]
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use std::time::Instant;
use tidegate_gate::Gate;
use tidegate_http::{CountLayer, Limits, Listener};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

const ROUNDS: usize = 151;

fn app() -> Router {
    Router::new().route("/orders/{id}", get(|| async { "an order" }))
}

async fn connected(router: Router) -> SendRequest<Empty<Bytes>> {
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(&anywhere, None, Limits::default()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(listener.serve(router, CancellationToken::new()));
    let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    send
}

/// Seconds for a run of requests, one after the other.
async fn over_sockets(send: &mut SendRequest<Empty<Bytes>>, requests: usize) -> f64 {
    let start = Instant::now();
    for _ in 0..requests {
        let request = Request::get("/orders/7")
            .header("host", "x")
            .body(Empty::new())
            .unwrap();
        let answer = send.send_request(request).await.unwrap();
        answer.into_body().collect().await.unwrap();
        send.ready().await.unwrap();
    }
    start.elapsed().as_secs_f64()
}

async fn in_process(router: &Router, requests: usize) -> f64 {
    let start = Instant::now();
    for _ in 0..requests {
        let request = Request::get("/orders/7").body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        answer.into_body().collect().await.unwrap();
    }
    start.elapsed().as_secs_f64()
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (gate, _keeper) = Gate::new("layer");
    let counted = app().layer(CountLayer::new(gate));
    let (mut plain_send, mut counted_send) = (connected(app()).await, connected(counted.clone()).await);
    let plain = app();
    // What axum itself asks for any layer at all: another box around the route, another around the body.
    let layered = app().layer(tower::layer::layer_fn(|route| route));
    let (mut sockets, mut each) = (vec![], vec![]);
    let (mut without, mut with, mut idle) = (vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        let (p, c) = if round % 2 == 0 {
            let p = over_sockets(&mut plain_send, 200).await;
            (p, over_sockets(&mut counted_send, 200).await)
        } else {
            let c = over_sockets(&mut counted_send, 200).await;
            (over_sockets(&mut plain_send, 200).await, c)
        };
        sockets.push(c / p);
        each.push(p / 200.0 * 1e6);
        without.push(in_process(&plain, 2_000).await / 2_000.0 * 1e9);
        idle.push(in_process(&layered, 2_000).await / 2_000.0 * 1e9);
        with.push(in_process(&counted, 2_000).await / 2_000.0 * 1e9);
    }
    let (without, idle, with) = (median(without), median(idle), median(with));
    println!("\n| what | target | measured |\n|---|---|---|");
    println!(
        "| the layer on a trivial axum handler, over sockets | ≤ 1.01 × | {:.3} × ({:.1} µs a request) |",
        median(sockets),
        median(each)
    );
    println!(
        "| … without sockets | | + {:.0} ns ({without:.0} → {with:.0} ns) |",
        with - without
    );
    println!(
        "| … of which a layer that does nothing | | + {:.0} ns |",
        idle - without
    );
}
