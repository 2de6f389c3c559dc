//! What Hiatus for Spring Boot offers, path by path: `paused` here means that at least one HTTP gate is held (or,
//! where there is no gate, one stream), while requests may well be served on.
use crate::Core;
use crate::auth::{May, ToPause, ToRead, ToResume};
use crate::body::Whole;
use crate::error::{ApiError, ErrorBody, json};
use crate::flowtide::{StreamName, cause};
use crate::status::since;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Serialize, Serializer};
use std::path::Path;
use std::sync::Arc;
use tidegate_gate::{Controller, Kind, Name, Scope, Snapshot, StreamStatus, UnknownStream, Wish};
use utoipa::ToSchema;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) enum Health {
    #[serde(rename = "UP")]
    Up,
    #[serde(rename = "OUT_OF_SERVICE")]
    OutOfService,
    #[serde(rename = "DOWN")]
    Down,
    #[serde(rename = "UNKNOWN")]
    Unknown,
}

/// The answer of `/actuator/hiatus`.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct Hiatus {
    /// At least one gate (or stream) is held, or the process is stopping.
    paused: bool,
    /// Requests (units of work) in progress.
    count: u64,
}

impl Hiatus {
    fn of<'s>(streams: impl Iterator<Item = &'s StreamStatus>, closing: bool) -> Hiatus {
        let none = Hiatus {
            paused: closing,
            count: 0,
        };
        streams.fold(none, |sum, s| Hiatus {
            paused: sum.paused || !s.holds.is_empty(),
            count: sum.count + s.in_flight,
        })
    }

    fn all(snapshot: &Snapshot, closing: bool) -> Hiatus {
        Hiatus::of(meant(snapshot), closing)
    }

    fn health(self) -> Health {
        if self.paused {
            Health::OutOfService
        } else {
            Health::Up
        }
    }

    /// Body and status come from the same value, so that they cannot differ.
    fn code(self) -> StatusCode {
        if self.paused {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::OK
        }
    }
}

/// All HTTP gates; where there is none, all streams.
fn meant(snapshot: &Snapshot) -> impl Iterator<Item = &StreamStatus> {
    let gate = |s: &StreamStatus| matches!(s.kind, Kind::Gate { .. });
    let gates = snapshot.streams.iter().any(gate);
    snapshot.streams.iter().filter(move |s| !gates || gate(s))
}

/// The answer of `/actuator/health`, in the order of the original.
#[derive(Serialize, ToSchema)]
pub(crate) struct Overall {
    status: Health,
    #[serde(rename = "diskSpace")]
    disk_space: DiskSpace,
    hiatus: HiatusHealth,
    /// What each switch said last; it never changes the status.
    #[serde(serialize_with = "by_name")]
    #[schema(value_type = std::collections::BTreeMap<String, SwitchHealth>)]
    switches: Vec<(String, SwitchHealth)>,
}

#[derive(Serialize, ToSchema)]
struct HiatusHealth {
    status: Health,
    #[serde(flatten)]
    hiatus: Hiatus,
}

/// The file system that `state_dir` is on; where there is none, the working directory's. It never changes the
/// status: a pause needs no disk.
#[derive(Serialize, ToSchema)]
struct DiskSpace {
    status: Health,
    /// Bytes.
    total: u64,
    /// Bytes that this process may use.
    free: u64,
    /// Bytes; with less, `DOWN`.
    threshold: u64,
}

#[derive(Serialize, ToSchema)]
struct SwitchHealth {
    /// As in the status.
    reading: &'static str,
    /// As in the status.
    #[serde(rename = "ageSeconds")]
    age_seconds: Option<f64>,
}

fn by_name<S: Serializer>(switches: &[(String, SwitchHealth)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(switches.iter().map(|(name, health)| (name, health)))
}

impl DiskSpace {
    fn at(path: &Path) -> DiskSpace {
        /// Spring Boot's.
        const THRESHOLD: u64 = 10 * 1024 * 1024;
        let (status, total, free) = match rustix::fs::statvfs(path) {
            Ok(fs) => {
                let free = fs.f_bavail * fs.f_frsize;
                let status = if free >= THRESHOLD {
                    Health::Up
                } else {
                    Health::Down
                };
                (status, fs.f_blocks * fs.f_frsize, free)
            }
            Err(_) => (Health::Unknown, 0, 0),
        };
        DiskSpace {
            status,
            total,
            free,
            threshold: THRESHOLD,
        }
    }
}

/// Holds all HTTP gates; where there is none, all streams.
#[utoipa::path(post, path = "/actuator/hiatus-on", tag = "control", responses(
    (status = 200, description = "`true` if this call changed the state, else `false`.", body = bool),
))]
pub(crate) async fn on(
    State(core): State<Arc<Core>>,
    May { caller, .. }: May<ToPause>,
    _: Whole,
) -> Result<Response, ApiError> {
    let names = names(&core);
    let wish = Wish {
        reason: Some("hiatus-on".into()),
        cause: cause(&caller),
        ..Wish::default()
    };
    let applied = core.holds.place(&Controller::Api, Scope::Each(&names), wish)?;
    core.kept().await;
    // Where one of them was held before, `paused` was true before.
    let changed = !names.is_empty() && applied.turned.len() == names.len();
    Ok(json(StatusCode::OK, &changed))
}

/// Releases the API's hold on all HTTP gates; where there is none, on all streams.
#[utoipa::path(post, path = "/actuator/hiatus-off", tag = "control", responses(
    (status = 200, description = "`true` if this call changed the state, else `false`: also when other holds remain.",
        body = bool),
))]
pub(crate) async fn off(
    State(core): State<Arc<Core>>,
    May { caller, .. }: May<ToResume>,
    _: Whole,
) -> Result<Response, ApiError> {
    let names = names(&core);
    let applied = core
        .holds
        .release(&Controller::Api, Scope::Each(&names), &cause(&caller))?;
    core.kept().await;
    let changed = !applied.turned.is_empty() && applied.standing.is_empty();
    Ok(json(StatusCode::OK, &changed))
}

fn names(core: &Core) -> Vec<Name> {
    meant(&core.holds.snapshot()).map(|s| s.name.clone()).collect()
}

/// Whether at least one gate is held, and how many requests are in progress.
#[utoipa::path(get, path = "/actuator/hiatus", tags = ["control", "observe"], responses(
    (status = 200, description = "Nothing is held.", body = Hiatus),
    (status = 503, description = "At least one gate is held.", body = Hiatus),
))]
pub(crate) async fn hiatus(State(core): State<Arc<Core>>) -> Response {
    let hiatus = Hiatus::all(&core.holds.snapshot(), core.is_closing());
    json(hiatus.code(), &hiatus)
}

/// The same for one stream or gate.
#[utoipa::path(get, path = "/actuator/hiatus/{name}", tags = ["control", "observe"],
    params(("name" = String, Path, description = "The stream's or gate's name.")), responses(
    (status = 200, description = "It is not held.", body = Hiatus),
    (status = 404, description = "No stream or gate has that name.", body = ErrorBody),
    (status = 503, description = "It is held.", body = Hiatus),
))]
pub(crate) async fn hiatus_of(
    State(core): State<Arc<Core>>,
    StreamName(name): StreamName,
) -> Result<Response, ApiError> {
    let snapshot = core.holds.snapshot();
    let Some(stream) = snapshot.stream(&name) else {
        return Err(UnknownStream(name.into()).into());
    };
    let hiatus = Hiatus::of(std::iter::once(stream), core.is_closing());
    Ok(json(hiatus.code(), &hiatus))
}

/// What a load balancer asks: 503 while at least one gate is held, or the process is stopping.
#[utoipa::path(get, path = "/actuator/health", tags = ["control", "observe"], responses(
    (status = 200, description = "`UP`: send requests.", body = Overall),
    (status = 503, description = "`OUT_OF_SERVICE`: send them elsewhere.", body = Overall),
))]
pub(crate) async fn health(State(core): State<Arc<Core>>) -> Response {
    let snapshot = core.holds.snapshot();
    let hiatus = Hiatus::all(&snapshot, core.is_closing());
    let overall = Overall {
        status: hiatus.health(),
        disk_space: DiskSpace::at(&core.options.disk),
        hiatus: HiatusHealth {
            status: hiatus.health(),
            hiatus,
        },
        switches: snapshot
            .switches
            .iter()
            .map(|s| {
                let health = SwitchHealth {
                    reading: s.reading,
                    age_seconds: s.good_at.map(|at| since(at, snapshot.mono)),
                };
                (s.name.to_string(), health)
            })
            .collect(),
    };
    json(hiatus.code(), &overall)
}

/// The same three on the control listener, where they need the right to read.
pub(crate) mod private {
    use super::*;

    pub(crate) async fn hiatus(core: State<Arc<Core>>, _: May<ToRead>) -> Response {
        super::hiatus(core).await
    }

    pub(crate) async fn hiatus_of(
        core: State<Arc<Core>>,
        _: May<ToRead>,
        name: StreamName,
    ) -> Result<Response, ApiError> {
        super::hiatus_of(core, name).await
    }

    pub(crate) async fn health(core: State<Arc<Core>>, _: May<ToRead>) -> Response {
        super::health(core).await
    }
}
