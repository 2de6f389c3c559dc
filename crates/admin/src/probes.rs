//! What an orchestrator asks. Liveness is not pause: restarting a paused process would only lose its place.
use crate::Core;
use crate::error::json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use std::sync::Arc;
use tidegate_gate::{Kind, Snapshot};
use utoipa::ToSchema;

/// The process runs.
#[derive(Serialize, ToSchema)]
pub(crate) struct Alive {
    alive: bool,
}

/// Whether to send work here, and if not, why.
#[derive(Serialize, ToSchema)]
pub(crate) struct Ready {
    ready: bool,
    /// A sentence for each thing that is missing.
    waiting_for: Vec<String>,
}

/// 200 while the process runs, paused or not.
#[utoipa::path(get, path = "/livez", tag = "observe", responses(
    (status = 200, description = "The process runs.", body = Alive),
))]
pub(crate) async fn alive() -> Response {
    json(StatusCode::OK, &Alive { alive: true })
}

/// 200 once the readings of the switches that start paused are applied, until the process stops.
#[utoipa::path(get, path = "/readyz", tag = "observe", responses(
    (status = 200, description = "Send work.", body = Ready),
    (status = 503, description = "Send no work now.", body = Ready),
))]
pub(crate) async fn ready(State(core): State<Arc<Core>>) -> Response {
    let waiting_for = missing(
        &core.holds.snapshot(),
        core.is_closing(),
        core.options.observe.ready_while_paused,
    );
    let ready = waiting_for.is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json(status, &Ready { ready, waiting_for })
}

fn missing(snapshot: &Snapshot, closing: bool, ready_while_paused: bool) -> Vec<String> {
    let mut missing = Vec::new();
    if closing {
        missing.push("the process is stopping".into());
    }
    for switch in snapshot.switches.iter().filter(|s| !s.settled) {
        missing.push(format!(
            "switch \"{}\" has had no good reading yet (the last: {})",
            switch.name, switch.reading
        ));
    }
    if !ready_while_paused {
        // A gate that serves on while held says so under /actuator/health, and never here.
        let held = snapshot
            .streams
            .iter()
            .filter(|s| !s.holds.is_empty() && s.kind != (Kind::Gate { serves: true }));
        missing.extend(held.map(|s| format!("{} \"{}\" is {}", s.kind.word(), s.name, s.state.word())));
    }
    missing
}
