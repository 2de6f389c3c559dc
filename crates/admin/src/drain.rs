//! Waiting until nothing is in flight, and closing for good.
use crate::Core;
use crate::auth::{May, Right, ToRead};
use crate::body::Whole;
use crate::error::{ApiError, ErrorBody, json};
use crate::status::Work;
use axum::extract::rejection::QueryRejection;
use axum::extract::{self, Query};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tidegate_gate::{Cause, Controller, Kind, Name, Scope, Snapshot, State, StreamStatus, Wish};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};

/// How far a close has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    No,
    /// Not ready any more, streams held, gates from then on.
    Streams {
        gates_at: Instant,
    },
    All,
}

impl Core {
    pub(crate) fn is_closing(&self) -> bool {
        *self.closing.borrow() != Closing::No
    }
}

/// Closes for good. Streams are held here only on behalf of a caller: a process that stops has its supervisor close
/// them, which knows that standard input cannot take back what was read.
pub(crate) async fn close(core: &Arc<Core>, caller: Option<&str>) {
    let gates_at = Instant::now() + core.options.drain_delay;
    let begun = core.closing.send_if_modified(|closing| {
        let first = *closing == Closing::No;
        if first {
            *closing = Closing::Streams { gates_at };
        }
        first
    });
    if begun && let Some(actor) = caller {
        hold(core, |kind| kind == Kind::Stream, actor);
    }
    finish(core).await;
}

/// Closes the gates when their time has come, whoever began the close: the caller of `drain --close` may be gone.
pub(crate) async fn carry_through(core: &Arc<Core>, stop: &CancellationToken) {
    let mut closing = core.closing.subscribe();
    let begun = async {
        let begun = closing.wait_for(|c| *c != Closing::No).await.is_ok();
        if begun {
            finish(core).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = begun => {}
    }
}

async fn finish(core: &Arc<Core>) {
    let closing = *core.closing.borrow();
    let Closing::Streams { gates_at } = closing else {
        return;
    };
    let gates = |s: &StreamStatus| matches!(s.kind, Kind::Gate { .. });
    if core.holds.snapshot().streams.iter().any(gates) {
        sleep_until(gates_at).await;
    }
    hold(core, |kind| kind != Kind::Stream, "signal");
    core.closing.send_replace(Closing::All);
}

fn hold(core: &Core, which: impl Fn(Kind) -> bool, actor: &str) {
    let streams: Vec<Name> = core
        .holds
        .snapshot()
        .streams
        .iter()
        .filter(|s| which(s.kind) && !s.holds.iter().any(|(c, _)| *c == Controller::Stop))
        .map(|s| s.name.clone())
        .collect();
    let wish = Wish {
        reason: Some("the process is stopping".into()),
        cause: Cause {
            actor: Some(actor.into()),
            ..Cause::default()
        },
        ..Wish::default()
    };
    let placed = core.holds.place(&Controller::Stop, Scope::Each(&streams), wish);
    debug_assert!(
        placed.is_ok(),
        "the names come from the board, which forgets none"
    );
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DrainQuery {
    /// How long to wait, such as `30s` (the default) or `1m 30s`; at most an hour.
    timeout: Option<String>,
    /// Hold everything until the process ends, before waiting: for `preStop`. Needs the right to pause.
    close: Option<bool>,
}

/// What has drained, or what has not.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Drained {
    message: &'static str,
    /// Units of work past the gate and not finished, in all streams that are held.
    in_flight: u64,
    /// The held streams and gates that have some.
    streams: Vec<StillRunning>,
}

/// A stream or gate with work in flight.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StillRunning {
    name: String,
    in_flight: u64,
    /// What still runs, oldest first, as far as it is named.
    running: Vec<Work>,
}

/// Waits until nothing is in flight in whatever is held. It places no hold itself, unless `close=true`.
#[utoipa::path(post, path = "/drain", tag = "control", params(DrainQuery), responses(
    (status = 200, description = "Nothing is in flight.", body = Drained),
    (status = 400, description = "The query cannot be read.", body = ErrorBody),
    (status = 409, description = "Nothing is held, so new work comes as fast as old work ends.", body = ErrorBody),
    (status = 504, description = "This still runs.", body = Drained),
))]
pub(crate) async fn drain(
    extract::State(core): extract::State<Arc<Core>>,
    may: May<ToRead>,
    query: Result<Query<DrainQuery>, QueryRejection>,
    _: Whole,
) -> Result<Response, ApiError> {
    let bad = |sentence: String| ApiError::new(StatusCode::BAD_REQUEST, sentence);
    let Query(query) = query.map_err(|e| bad(format!("the query cannot be read: {e}")))?;
    let timeout = match query.timeout.as_deref().map(humantime::parse_duration) {
        None => Duration::from_secs(30),
        Some(Ok(timeout)) if timeout <= Duration::from_secs(3600) => timeout,
        Some(Ok(_)) => return Err(bad("timeout is longer than an hour".into())),
        Some(Err(_)) => return Err(bad("timeout is no duration: write it as in timeout=30s".into())),
    };
    if query.close == Some(true) {
        may.also(Right::Pause)?;
        close(&core, Some(&may.caller.actor)).await;
    }
    let deadline = Instant::now() + timeout;
    loop {
        let proof = core.holds.proof();
        let mut changed = core.holds.watch();
        changed.mark_unchanged();
        let snapshot = core.holds.snapshot();
        let held: Vec<&StreamStatus> = snapshot.streams.iter().filter(|s| !s.holds.is_empty()).collect();
        if held.is_empty() {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                "nothing is held, so new work comes as fast as old work ends: pause first",
            ));
        }
        // A gate that holds or refuses is `pausing` while upgraded connections are open.
        if held.iter().all(|s| s.in_flight == 0 && s.state != State::Pausing) {
            return Ok(json(StatusCode::OK, &told("Drained", &snapshot, &held)));
        }
        let look_again = async {
            tokio::select! {
                () = proof => {}
                _ = changed.changed() => {}
                // A gate that serves on while held proves nothing: its count just falls to 0.
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        };
        if timeout_at(deadline, look_again).await.is_err() {
            return Ok(json(
                StatusCode::GATEWAY_TIMEOUT,
                &told("Work is still in flight", &snapshot, &held),
            ));
        }
    }
}

fn told(message: &'static str, snapshot: &Snapshot, held: &[&StreamStatus]) -> Drained {
    let busy = |s: &&&StreamStatus| s.in_flight > 0 || s.state == State::Pausing;
    let streams = held.iter().filter(busy).map(|s| StillRunning {
        name: s.name.to_string(),
        in_flight: s.in_flight,
        running: s.running.iter().map(|r| Work::of(r, snapshot.mono)).collect(),
    });
    Drained {
        message,
        in_flight: held.iter().map(|s| s.in_flight).sum(),
        streams: streams.collect(),
    }
}
