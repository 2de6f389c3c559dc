//! What happened, read back: from where it outlives the process, or from this process's journal.
use crate::Core;
use crate::auth::{May, ToRead};
use crate::error::{ApiError, ErrorBody, json};
use crate::status::{Event, time};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::SystemTime;
use utoipa::{IntoParams, ToSchema};

const LIMIT: usize = 200;
/// A few megabytes.
const MOST: usize = 10_000;

/// Reads the newest entries that are not older than a moment, oldest first; at most so many.
pub type ReadPast =
    Arc<dyn Fn(Option<SystemTime>, usize) -> BoxFuture<'static, Result<Past, String>> + Send + Sync>;

/// What was read back.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Oldest first.
    pub entries: Vec<Event>,
    /// Entries that cannot be read.
    pub unreadable: u64,
}

/// The answer of `GET {base}/history`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// When it was read (RFC 3339, UTC).
    #[schema(format = DateTime)]
    pub at: String,
    /// It outlives the process; without `state_dir` it begins with it.
    pub kept: bool,
    /// Oldest first; beside the kinds of an audit line also `started` (a process began) and `lost`.
    pub entries: Vec<Event>,
    /// There is more of that age than `limit`; the oldest were left out.
    pub more: bool,
    /// Entries that cannot be read.
    #[serde(default)]
    pub unreadable: u64,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct HistoryQuery {
    /// From when on: a point in time (RFC 3339), or how long ago (`1h`).
    since: Option<String>,
    /// How many at most, the newest; 200 if left out, 10,000 at most.
    limit: Option<usize>,
}

/// What happened, oldest first.
///
/// Transitions, holds, readings that changed, drills and refused calls. With `state_dir` it outlives a restart, and is
/// bounded there; without, it is what the process remembers of itself.
#[utoipa::path(get, path = "/history", tag = "control", params(HistoryQuery), responses(
    (status = 200, description = "What happened.", body = History),
    (status = 400, description = "A parameter is unknown or wrong.", body = ErrorBody),
    (status = 503, description = "It cannot be read from the disk.", body = ErrorBody),
))]
pub(crate) async fn history(
    State(core): State<Arc<Core>>,
    _: May<ToRead>,
    query: Result<Query<HistoryQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let wrong = |sentence: &str| ApiError::new(StatusCode::BAD_REQUEST, sentence);
    let Query(asked) = query.map_err(|_| {
        wrong("expected no parameters but since (RFC 3339, or a duration such as 1h) and limit (a number)")
    })?;
    let now = core.holds.now().wall;
    let since = match asked.since.as_deref().map(|text| moment(text, now)) {
        Some(None) => {
            return Err(wrong(
                "since is neither a point in time, such as 2026-11-22T18:00:00Z, nor a duration, such as 1h",
            ));
        }
        Some(since) => since,
        None => None,
    };
    let limit = asked.limit.unwrap_or(LIMIT).clamp(1, MOST);
    // One more than asked for tells whether there are more.
    let (mut past, kept) = match &core.hooks.past {
        Some(read) => {
            let past = read(since, limit + 1).await.map_err(|why| {
                ApiError::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("the history cannot be read: {why}"),
                )
            })?;
            (past, true)
        }
        None => {
            let records = core.holds.journal_after(0);
            let young = records.iter().filter(|r| since.is_none_or(|since| r.at >= since));
            let mut newest: Vec<Event> = young.rev().take(limit + 1).map(|r| Event::of(r)).collect();
            newest.reverse();
            let past = Past {
                entries: newest,
                unreadable: 0,
            };
            (past, false)
        }
    };
    let more = past.entries.len() > limit;
    if more {
        let surplus = past.entries.len() - limit;
        past.entries.drain(..surplus);
    }
    Ok(json(
        StatusCode::OK,
        &History {
            at: time(now),
            kept,
            entries: past.entries,
            more,
            unreadable: past.unreadable,
        },
    ))
}

fn moment(text: &str, now: SystemTime) -> Option<SystemTime> {
    if let Ok(at) = text.trim().parse::<jiff::Timestamp>() {
        return Some(at.into());
    }
    let ago = humantime::parse_duration(text.trim()).ok()?;
    Some(now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH))
}
