//! The demo project of Hiatus for Spring Boot, as a Rust service: a slow `/test`, and the endpoints that take the
//! service out of load balancing and say what still runs. Every `curl` of the original works as it stands.
//!
//! ```text
//! cargo run -p tidegate-http --example hiatus_demo [ADDRESS]     # 127.0.0.1:8080
//!
//! curl -i http://127.0.0.1:8080/actuator/health
//! curl -i http://127.0.0.1:8080/actuator/hiatus
//! curl -i http://127.0.0.1:8080/test > /dev/null 2>&1 &          # a couple of times
//! curl -i http://127.0.0.1:8080/actuator/hiatus                  # the count of those
//! curl -X POST http://127.0.0.1:8080/actuator/hiatus-on
//! curl -i http://127.0.0.1:8080/actuator/health                  # 503: balancers take it out, requests go on
//! curl -X POST http://127.0.0.1:8080/actuator/hiatus-off
//! ```
use axum::Router;
use axum::routing::get;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tidegate_admin::{Admin, AdminError, Hooks, Metrics, Options};
use tidegate_gate::{Clock, Holds, Kind, Life, Moment};
use tidegate_http::{CountLayer, Limits, Listener};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".into());
    let app = app(|| tokio::time::sleep(Duration::from_secs(5)))?;
    let listener = Listener::bind(&address.parse()?, None, Limits::default()).await?;
    let stop = CancellationToken::new();
    let served = listener.serve(app, stop.clone());
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    served.await;
    Ok(())
}

/// The service; `/test` answers when `work` is done.
pub(crate) fn app<W, F>(work: W) -> Result<Router, AdminError>
where
    W: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send,
{
    let holds = Holds::new(Clock::new(|| Moment {
        wall: SystemTime::now(),
        mono: Instant::now(),
    }));
    let member = holds
        .register("demo", Kind::Gate { serves: true })
        .expect("the board is empty");
    member.set_life(Life::Up);
    // There is no switch here, so there is nothing to poll.
    let hooks = Hooks {
        poll: Arc::new(|| Box::pin(async {})),
        ..Hooks::default()
    };
    let metrics = Metrics::new(holds.clone(), env!("CARGO_PKG_VERSION"));
    let admin = Admin::new(holds, metrics, Options::default(), hooks)?;
    let handler = move || async move {
        work().await;
        "Done"
    };
    Ok(Router::new()
        .route("/test", get(handler))
        // One line counts every request, to the end of its answer.
        .layer(CountLayer::of(&member))
        .fallback_service(admin.control()))
}
