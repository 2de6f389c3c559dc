//! The actuator's endpoints beside a storm: whoever reads them sees one moment, and whoever turns them is answered.
//!
//! The same look catches a reader that takes the body from one moment and the status code from another.
use axum::Router;
use axum::body::Body;
use http::{Method, Request, StatusCode};
use serde_json::Value;
use std::sync::Arc;
use tidegate_admin::{Admin, Hooks, Metrics, Options};
use tidegate_gate::Holds;
use tidegate_http::Peer;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

const READERS: usize = 2;
const OPERATORS: usize = 8;

/// What readers and operators have met.
#[derive(Debug, Default)]
pub(crate) struct Met {
    /// Answers that said not paused, and paused.
    pub(crate) answers: [u64; 2],
    /// How often an operator's call changed the state.
    pub(crate) turned: u64,
    /// How often the reader that looks twice contradicted itself.
    pub(crate) twin: u64,
}

/// Readers and operators at work until they are asked what they have met.
pub(crate) struct Beside {
    stop: CancellationToken,
    tasks: JoinSet<Met>,
}

impl Beside {
    pub(crate) fn start(holds: &Arc<Holds>) -> Beside {
        let metrics = Metrics::new(holds.clone(), "0");
        let admin = Admin::new(holds.clone(), metrics, Options::default(), Hooks::default()).unwrap();
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        for router in [admin.observe(), admin.control()]
            .into_iter()
            .cycle()
            .take(READERS)
        {
            tasks.spawn(read(router, holds.clone(), stop.clone()));
        }
        for _ in 0..OPERATORS {
            tasks.spawn(operate(admin.control(), stop.clone()));
        }
        Beside { stop, tasks }
    }

    pub(crate) async fn end(self) -> Met {
        self.stop.cancel();
        let all = self.tasks.join_all().await;
        all.into_iter().fold(Met::default(), |sum, one| Met {
            answers: [sum.answers[0] + one.answers[0], sum.answers[1] + one.answers[1]],
            turned: sum.turned + one.turned,
            twin: sum.twin + one.twin,
        })
    }
}

async fn ask(router: &Router, method: Method, path: &str) -> (StatusCode, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1:9470")
        .extension(Peer::new(Some("127.0.0.1:5000".parse().unwrap()), None, false))
        .body(Body::empty())
        .unwrap();
    let answer = router.clone().oneshot(request).await.unwrap();
    let status = answer.status();
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn read(router: Router, holds: Arc<Holds>, stop: CancellationToken) -> Met {
    let mut met = Met::default();
    while !stop.is_cancelled() {
        for path in ["/actuator/hiatus", "/actuator/hiatus/app", "/actuator/health"] {
            let (status, body) = ask(&router, Method::GET, path).await;
            let hiatus = body.get("hiatus").unwrap_or(&body);
            let paused = hiatus["paused"].as_bool().unwrap();
            let code = if paused { 503 } else { 200 };
            assert_eq!(status.as_u16(), code, "{path}: {body}");
            assert!(hiatus["count"].as_u64().is_some(), "{path}: {body}");
            if let Some(word) = body.get("status") {
                assert_eq!(word == "OUT_OF_SERVICE", paused, "{path}: {body}");
                assert_eq!(&hiatus["status"], word, "{path}: {body}");
            }
            met.answers[usize::from(paused)] += 1;
        }
        let look = || holds.snapshot().stream("app").unwrap().holds.is_empty();
        let body = look();
        tokio::task::yield_now().await;
        met.twin += u64::from(body != look());
        tokio::task::yield_now().await;
    }
    met
}

async fn operate(router: Router, stop: CancellationToken) -> Met {
    let mut met = Met::default();
    while !stop.is_cancelled() {
        for path in ["/actuator/hiatus-on", "/actuator/hiatus-off"] {
            let (status, changed) = ask(&router, Method::POST, path).await;
            assert_eq!(status, StatusCode::OK);
            met.turned += u64::from(changed.as_bool().unwrap());
            for _ in 0..256 {
                tokio::task::yield_now().await;
            }
        }
    }
    met
}
