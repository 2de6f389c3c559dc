//! The control and observe surfaces: the only crate that knows the web framework.
//!
//! **Control** (`{base}` is `base_path`); the right that a call needs, where tokens are set:
//!
//! | request | right | file |
//! |---|---|---|
//! | `POST {base}/pause` · `{base}/streams/{name}/pause` | pause | `flowtide.rs` |
//! | `POST {base}/resume` · `{base}/streams/{name}/resume` | resume | `flowtide.rs` |
//! | `POST {base}/streams/{name}/override` | override, and always a token | `flowtide.rs` |
//! | `POST {base}/poll`: reads every switch now, and answers when it is done | resume | `flowtide.rs` |
//! | `POST {base}/drain?timeout=30s` | read; with `close=true` pause | `drain.rs` |
//! | `GET {base}/status` | read | `status.rs` |
//! | `GET {base}/watch` | read | `watch.rs` |
//! | `GET {base}/history?since=1h&limit=200` | read | `history.rs` |
//! | `POST {base}/streams/{name}/drill` | read; with `live` pause | `drill.rs` |
//! | `GET /openapi.json` | read | `openapi.rs` |
//! | `GET /`, its files, `POST /login`, `/logout` | none: whoever has not logged in sees a form | `page/` |
//! | `POST /actuator/hiatus-on` | pause | `actuator.rs` |
//! | `POST /actuator/hiatus-off` | resume | `actuator.rs` |
//! | `GET /actuator/hiatus` · `/actuator/hiatus/{name}` · `/actuator/health` | read | `actuator.rs` |
//!
//! **Observe**: `GET /livez`, `/readyz` (`probes.rs`), `/metrics` (`metrics.rs`), `/status` without reasons,
//! actors, addresses and errors (`status.rs`), `/actuator/hiatus`, `/actuator/hiatus/{name}` and
//! `/actuator/health` (`actuator.rs`).
//!
//! Every answer is JSON but `/watch`, `/metrics` and the page; every refusal is `{"error":"one sentence"}`. A GET changes
//! nothing.
mod actuator;
mod audit;
mod auth;
mod body;
mod drain;
mod drill;
mod error;
mod flood;
mod flowtide;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod history;
mod metrics;
mod openapi;
mod options;
mod page;
mod probes;
mod session;
mod status;
mod token;
mod walls;
mod watch;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tidegate_gate::Holds;
use tokio::sync::watch as cell;
use tokio_util::sync::CancellationToken;

pub use audit::audit;
pub use auth::Right;
pub use drill::{Access, Check, Drill, Examination, Expected, LastDrill, Measured};
pub use history::{History, Past, ReadPast};
pub use metrics::Metrics;
pub use options::{AdminError, ControlOptions, ObserveOptions, Options, TokenSpec, limits};
pub use status::{Change, Event, HoldStatus, Status, StreamStatus, SwitchStatus, Work};
pub use token::TokenFileError;

/// What the surfaces ask of the rest of the process.
#[derive(Clone)]
pub struct Hooks {
    /// Reads every switch now; resolves when the readings are applied, or failed.
    pub poll: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
    /// Reads every switch now and looks at it, for a drill.
    pub examine: Arc<dyn Fn() -> BoxFuture<'static, Vec<Examination>> + Send + Sync>,
    /// Resolves when the holds that stand now will survive the process, or cannot be made to.
    pub kept: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
    /// Reads what happened back from where it outlives the process, if it is kept.
    pub past: Option<history::ReadPast>,
}

impl Default for Hooks {
    /// Of a process without switches that keeps nothing.
    fn default() -> Hooks {
        Hooks {
            poll: Arc::new(|| Box::pin(async {})),
            examine: Arc::new(|| Box::pin(async { Vec::new() })),
            kept: Arc::new(|| Box::pin(async {})),
            past: None,
        }
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

/// Both surfaces over one board. Clones share everything.
#[derive(Clone)]
pub struct Admin(Arc<Core>);

pub(crate) struct Core {
    pub(crate) holds: Arc<Holds>,
    pub(crate) metrics: Metrics,
    pub(crate) options: Options,
    pub(crate) hooks: Hooks,
    pub(crate) auth: auth::Auth,
    pub(crate) hub: watch::Hub,
    pub(crate) closing: cell::Sender<drain::Closing>,
    pub(crate) polling: flowtide::Polling,
    pub(crate) openapi: Bytes,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

/// An answer waits so long at most for the disk; the hold that it tells of stands all the while.
const DISK: Duration = Duration::from_secs(1);

impl Core {
    /// To be awaited between a change of the API's holds and the answer: who has been told that a hold stands finds it
    /// again after a kill -9. A disk that is full, or takes longer than a second, makes an alarm and not a failure.
    pub(crate) async fn kept(&self) {
        // Elapsed or not, the answer is the same.
        let _ = tokio::time::timeout(DISK, (self.hooks.kept)()).await;
    }
}

impl Admin {
    /// Reads the token files and builds both surfaces; nothing listens yet.
    ///
    /// The first of what [`ControlOptions::check`] would list is the error.
    pub fn new(
        holds: Arc<Holds>,
        metrics: Metrics,
        options: Options,
        hooks: Hooks,
    ) -> Result<Admin, AdminError> {
        let base = options.control.base()?;
        let auth = auth::Auth::new(&options.control)?;
        Ok(Admin(Arc::new(Core {
            hub: watch::Hub::new(
                holds.clone(),
                metrics.drills().clone(),
                options.control.max_watchers,
            ),
            closing: cell::channel(drain::Closing::No).0,
            polling: flowtide::Polling::default(),
            openapi: openapi::document(&base),
            holds,
            metrics,
            options,
            hooks,
            auth,
        })))
    }

    /// The control surface, to be served by [`tidegate_http::Listener`] (a request without its
    /// [`tidegate_http::Peer`] counts as coming from far away).
    pub fn control(&self) -> Router {
        let core = &self.0;
        let base = core
            .options
            .control
            .base()
            .expect("`new` has refused a base path that is none");
        let stream = format!("{base}/streams/{{name}}");
        let mut router = Router::new();
        for (path, methods) in [
            (format!("{base}/pause"), post(flowtide::pause_all)),
            (format!("{base}/resume"), post(flowtide::resume_all)),
            (format!("{stream}/pause"), post(flowtide::pause_one)),
            (format!("{stream}/resume"), post(flowtide::resume_one)),
            (format!("{stream}/override"), post(flowtide::set_aside)),
            (format!("{stream}/drill"), post(drill::drill)),
            (format!("{base}/history"), get(history::history)),
            (format!("{base}/poll"), post(flowtide::poll)),
            (format!("{base}/drain"), post(drain::drain)),
            (format!("{base}/status"), get(status::full)),
            (format!("{base}/watch"), get(watch::watch)),
            ("/openapi.json".into(), get(openapi::serve)),
            ("/actuator/hiatus-on".into(), post(actuator::on)),
            ("/actuator/hiatus-off".into(), post(actuator::off)),
            ("/actuator/hiatus".into(), get(actuator::private::hiatus)),
            (
                "/actuator/hiatus/{name}".into(),
                get(actuator::private::hiatus_of),
            ),
            ("/actuator/health".into(), get(actuator::private::health)),
        ] {
            // One slash at the end is a slip of the hand, and this is an emergency button.
            router = router
                .route(&format!("{path}/"), methods.clone())
                .route(&path, methods);
        }
        router
            .merge(page::routes())
            .fallback(error::not_found)
            .method_not_allowed_fallback(error::wrong_method)
            .layer(from_fn_with_state(core.clone(), auth::guard))
            .layer(from_fn(error::no_store))
            .with_state(core.clone())
    }

    /// The observe surface: read-only, for anybody.
    pub fn observe(&self) -> Router {
        Router::new()
            .route("/livez", get(probes::alive))
            .route("/readyz", get(probes::ready))
            .route("/metrics", get(metrics::serve))
            .route("/status", get(status::redacted))
            .route("/actuator/hiatus", get(actuator::hiatus))
            .route("/actuator/hiatus/{name}", get(actuator::hiatus_of))
            .route("/actuator/health", get(actuator::health))
            .fallback(error::not_found)
            .method_not_allowed_fallback(error::wrong_method)
            .layer(from_fn(error::no_store))
            .with_state(self.0.clone())
    }

    /// What has to run beside the listeners, until `stop`: tells watchers, follows the journal for the metrics,
    /// and carries a close through. When it ends, so does every `/watch`.
    pub async fn run(&self, stop: CancellationToken) {
        tokio::join!(
            self.0.hub.run(&stop, &self.0),
            self.0.metrics.follow(&stop),
            drain::carry_through(&self.0, &stop),
        );
    }

    /// Closes for good, as `SIGTERM` does: readiness and health turn 503 at once, HTTP gates are held (`stop`) after
    /// `drain_delay`. Streams are left to whoever stops them; `drain --close` holds them at once. Resolves when the
    /// gates are held; work in flight goes on. Calling it again joins the close under way.
    pub async fn close(&self) {
        drain::close(&self.0, None).await;
    }
}
