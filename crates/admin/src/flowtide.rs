//! Pause and resume as Flowtide has them, the same for one stream, and the override for the day the store is lost.
use crate::Core;
use crate::auth::{Caller, May, ToOverride, ToPause, ToResume};
use crate::body::{OverrideBody, PauseBody, ResumeBody, Whole};
use crate::error::{ApiError, ErrorBody, json};
use crate::status::HoldStatus;
use axum::extract::{FromRequestParts, RawPathParams, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tidegate_gate::{
    Applied, Cause, Controller, Hold, Name, OverrideError, Scope, UnknownStream, Wish, plain,
};
use tokio::sync::Mutex;
use tokio::time::Instant;
use utoipa::ToSchema;

/// One sentence.
#[derive(Serialize, ToSchema)]
pub(crate) struct Said {
    message: &'static str,
}

/// One sentence and the holds that stand.
#[derive(Serialize, ToSchema)]
pub(crate) struct Standing {
    message: &'static str,
    holds: Vec<StandingHold>,
}

/// A hold and the stream it is on.
#[derive(Serialize, ToSchema)]
pub(crate) struct StandingHold {
    stream: String,
    #[serde(flatten)]
    hold: HoldStatus,
}

impl From<UnknownStream> for ApiError {
    fn from(unknown: UnknownStream) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, unknown.to_string())
    }
}

impl From<OverrideError> for ApiError {
    fn from(error: OverrideError) -> ApiError {
        match error {
            OverrideError::UnknownStream(unknown) => unknown.into(),
            OverrideError::NotHeld { .. } => ApiError::new(StatusCode::CONFLICT, error.to_string()),
            OverrideError::NotASwitch(_) => {
                ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
            }
        }
    }
}

/// `{name}` of the path, decoded.
pub(crate) struct StreamName(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for StreamName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<StreamName, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state).await.ok();
        let name = params.and_then(|p| Some(p.iter().find(|(key, _)| *key == "name")?.1.to_owned()));
        name.map(StreamName).ok_or_else(|| {
            ApiError::new(
                StatusCode::NOT_FOUND,
                "the stream's name in the path is not UTF-8",
            )
        })
    }
}

/// The stream that a path names, for the audit of refused calls; not decoded.
pub(crate) fn stream_in(path: &str) -> Option<&str> {
    path.split_once("/streams/")?
        .1
        .split('/')
        .next()
        .filter(|s| !s.is_empty())
}

/// Pauses all streams and gates.
///
/// The hold stands when this answers, and survives the process where there is a `state_dir` that can be written to;
/// `status` says when the pause is proven. Pausing again only strengthens the
/// hold: the later `until` wins, and none beats any.
#[utoipa::path(post, path = "/pause", tag = "control", request_body = Option<PauseBody>, responses(
    (status = 200, description = "The hold stands.", body = Said, example = json!({"message": "Stream paused"})),
    (status = 400, description = "The body is not JSON.", body = ErrorBody),
    (status = 422, description = "A field is unknown or wrong, or `until` is in the past.", body = ErrorBody),
))]
pub(crate) async fn pause_all(
    State(core): State<Arc<Core>>,
    May { caller, .. }: May<ToPause>,
    body: Whole,
) -> Result<Response, ApiError> {
    pause(&core, &caller, Scope::All, &body).await
}

/// Pauses one stream or gate.
#[utoipa::path(post, path = "/streams/{name}/pause", tag = "control", request_body = Option<PauseBody>,
    params(("name" = String, Path, description = "The stream's or gate's name.")), responses(
    (status = 200, description = "The hold stands.", body = Said),
    (status = 400, description = "The body is not JSON.", body = ErrorBody),
    (status = 404, description = "No stream or gate has that name.", body = ErrorBody),
    (status = 422, description = "A field is unknown or wrong, or `until` is in the past.", body = ErrorBody),
))]
pub(crate) async fn pause_one(
    State(core): State<Arc<Core>>,
    May { caller, .. }: May<ToPause>,
    StreamName(name): StreamName,
    body: Whole,
) -> Result<Response, ApiError> {
    pause(&core, &caller, Scope::One(&name), &body).await
}

/// Releases the API's holds on all streams and gates.
#[utoipa::path(post, path = "/resume", tag = "control", request_body = Option<ResumeBody>, responses(
    (status = 200, description = "Nothing holds any more.", body = Said, example = json!({"message": "Stream resumed"})),
    (status = 400, description = "The body is not JSON.", body = ErrorBody),
    (status = 409, description = "The API's holds are released; these remain.", body = Standing),
    (status = 422, description = "A field is unknown or wrong.", body = ErrorBody),
))]
pub(crate) async fn resume_all(
    State(core): State<Arc<Core>>,
    May { caller, .. }: May<ToResume>,
    body: Whole,
) -> Result<Response, ApiError> {
    resume(&core, &caller, Scope::All, &body).await
}

/// Releases the API's hold on one stream or gate.
#[utoipa::path(post, path = "/streams/{name}/resume", tag = "control", request_body = Option<ResumeBody>,
    params(("name" = String, Path, description = "The stream's or gate's name.")), responses(
    (status = 200, description = "Nothing holds it any more.", body = Said),
    (status = 400, description = "The body is not JSON.", body = ErrorBody),
    (status = 404, description = "No stream or gate has that name.", body = ErrorBody),
    (status = 409, description = "The API's hold is released; these remain.", body = Standing),
    (status = 422, description = "A field is unknown or wrong.", body = ErrorBody),
))]
pub(crate) async fn resume_one(
    State(core): State<Arc<Core>>,
    May { caller, .. }: May<ToResume>,
    StreamName(name): StreamName,
    body: Whole,
) -> Result<Response, ApiError> {
    resume(&core, &caller, Scope::One(&name), &body).await
}

/// Sets one switch's hold on one stream aside until that switch's secret has a new version.
///
/// For the day the store is lost. It always needs a token with the right `override`.
#[utoipa::path(post, path = "/streams/{name}/override", tag = "control", request_body = OverrideBody,
    params(("name" = String, Path, description = "The stream's or gate's name.")), responses(
    (status = 200, description = "The hold is set aside; `holds` are those that remain.", body = Standing),
    (status = 400, description = "The body is not JSON.", body = ErrorBody),
    (status = 404, description = "No stream or gate has that name.", body = ErrorBody),
    (status = 409, description = "That switch does not hold it.", body = ErrorBody),
    (status = 422, description = "A field is missing, unknown or wrong.", body = ErrorBody),
))]
pub(crate) async fn set_aside(
    State(core): State<Arc<Core>>,
    May { caller, .. }: May<ToOverride>,
    StreamName(name): StreamName,
    body: Whole,
) -> Result<Response, ApiError> {
    let wrong = |sentence: &str| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, sentence);
    let Some(asked) = body.json::<OverrideBody>()? else {
        return Err(wrong(
            "the body is missing: it names the controller and the reason",
        ));
    };
    let Some(switch @ Controller::Switch(_)) = Controller::parse(&asked.controller) else {
        return Err(wrong(
            "controller must be a switch, such as \"switch:ops\": the API's own hold ends with resume, and \"stop\" \
             with the process",
        ));
    };
    let Some(reason) = plain(asked.reason.into()) else {
        return Err(wrong(
            "reason is empty: an override is told to whoever comes after",
        ));
    };
    tracing::warn!(stream = %name, controller = %switch, actor = %caller.actor, %reason, "a hold is set aside");
    let applied = core
        .holds
        .set_aside(&switch, &name, Some(reason), &cause(&caller))?;
    Ok(json(StatusCode::OK, &standing("Hold set aside", applied)))
}

/// Reads every switch now, and answers when the readings are applied.
#[utoipa::path(post, path = "/poll", tag = "control", responses(
    (status = 200, description = "Every switch was read, or failed to be: `status` tells which.", body = Said),
    (status = 504, description = "The switches take longer than 30 s to read.", body = ErrorBody),
))]
pub(crate) async fn poll(
    State(core): State<Arc<Core>>,
    _: May<ToResume>,
    _: Whole,
) -> Result<Response, ApiError> {
    let asked = Instant::now();
    let polled = tokio::time::timeout(Duration::from_secs(30), async {
        let mut started = core.polling.0.lock().await;
        // A poll that began after this call came answers it too: a crowd costs two polls, not one each.
        if started.is_none_or(|at| at < asked) {
            *started = Some(Instant::now());
            (core.hooks.poll)().await;
        }
    });
    match polled.await {
        Ok(()) => Ok(json(
            StatusCode::OK,
            &Said {
                message: "Switches read",
            },
        )),
        Err(_) => Err(ApiError::new(
            StatusCode::GATEWAY_TIMEOUT,
            "the switches take longer than 30 s to read; status shows which and why",
        )),
    }
}

/// When the last poll that was asked for began.
#[derive(Debug, Default)]
pub(crate) struct Polling(Mutex<Option<Instant>>);

async fn pause(core: &Core, caller: &Caller, on: Scope<'_>, body: &Whole) -> Result<Response, ApiError> {
    let asked = body.json::<PauseBody>()?.unwrap_or_default();
    let until = asked.until(core.holds.now().wall)?;
    let name = |text: Option<String>| text.map(Name::from);
    let wish = Wish {
        until,
        reason: name(asked.reason),
        by: name(asked.by),
        cause: cause(caller),
        ..Wish::default()
    };
    core.holds.place(&Controller::Api, on, wish)?;
    core.kept().await;
    Ok(json(
        StatusCode::OK,
        &Said {
            message: "Stream paused",
        },
    ))
}

async fn resume(core: &Core, caller: &Caller, on: Scope<'_>, body: &Whole) -> Result<Response, ApiError> {
    let asked = body.json::<ResumeBody>()?.unwrap_or_default();
    let cause = Cause {
        reason: asked.reason.map(Name::from),
        by: asked.by.map(Name::from),
        ..cause(caller)
    };
    let applied = core.holds.release(&Controller::Api, on, &cause)?;
    core.kept().await;
    if applied.standing.is_empty() {
        let said = Said {
            message: "Stream resumed",
        };
        return Ok(json(StatusCode::OK, &said));
    }
    Ok(json(
        StatusCode::CONFLICT,
        &standing("Stream still paused", applied),
    ))
}

pub(crate) fn cause(caller: &Caller) -> Cause {
    Cause {
        actor: Some(caller.actor.clone()),
        ..Cause::default()
    }
}

fn standing(message: &'static str, applied: Applied) -> Standing {
    let told = |(stream, controller, hold): (Name, Controller, Hold)| StandingHold {
        stream: stream.to_string(),
        hold: HoldStatus::new(&controller, &hold),
    };
    Standing {
        message,
        holds: applied.standing.into_iter().map(told).collect(),
    }
}
