//! Request bodies: small, soon, and told apart from none.
use crate::error::ApiError;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::{Duration, SystemTime};
use utoipa::ToSchema;

const LIMIT: usize = 64 * 1024;
const TIMEOUT: Duration = Duration::from_secs(5);

/// The whole body of a request, at most 64 KiB, within 5 s.
pub(crate) struct Whole(Bytes);

impl<S: Sync> FromRequest<S> for Whole {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Whole, ApiError> {
        whole(request.into_body()).await.map(Whole)
    }
}

async fn whole(body: Body) -> Result<Bytes, ApiError> {
    use axum::body::HttpBody;
    let too_large = || ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 64 KiB");
    if body.size_hint().lower() > LIMIT as u64 {
        return Err(too_large());
    }
    let late = || ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not come within 5 s");
    match tokio::time::timeout(TIMEOUT, Limited::new(body, LIMIT).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) if is_timeout(&*error) => Err(late()),
        Ok(Err(_)) => Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "the body broke off before its end",
        )),
        Err(_) => Err(late()),
    }
}

fn is_timeout(mut error: &(dyn std::error::Error + 'static)) -> bool {
    use tidegate_http::RequestBodyError::Timeout;
    loop {
        if let Some(Timeout(_)) = error.downcast_ref() {
            return true;
        }
        match error.source() {
            Some(source) => error = source,
            None => return false,
        }
    }
}

impl Whole {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The body as JSON; nothing if it is empty, whatever its Content-Type says: clients send one by habit.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<Option<T>, ApiError> {
        if self.0.trim_ascii().is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&self.0).map(Some).map_err(|error| {
            let status = match error.classify() {
                serde_json::error::Category::Data => StatusCode::UNPROCESSABLE_ENTITY,
                _ => StatusCode::BAD_REQUEST,
            };
            ApiError::new(
                status,
                format!("the body is not the JSON object expected: {error}"),
            )
        })
    }
}

/// The body of a pause; all of it may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PauseBody {
    /// Why; at most 256 characters are kept.
    pub(crate) reason: Option<String>,
    /// Who asks, in their own words; at most 256 characters are kept.
    pub(crate) by: Option<String>,
    /// When the hold ends by itself (RFC 3339 with an offset); in the future.
    #[schema(format = DateTime)]
    until: Option<String>,
}

impl PauseBody {
    pub(crate) fn until(&self, now: SystemTime) -> Result<Option<SystemTime>, ApiError> {
        let refuse = |why: &str| {
            Err(ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                format!("until {why}"),
            ))
        };
        let Some(text) = &self.until else {
            return Ok(None);
        };
        match text.parse::<Timestamp>() {
            Ok(until) if SystemTime::from(until) > now => Ok(Some(until.into())),
            Ok(_) => refuse("is in the past"),
            Err(_) => refuse(
                "is no point in time: write it as in \"2026-11-22T18:00:00Z\" or \"2026-11-22T19:00:00+01:00\"",
            ),
        }
    }
}

/// The body of a resume; all of it may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResumeBody {
    /// Why; at most 256 characters are kept.
    pub(crate) reason: Option<String>,
    /// Who asks, in their own words; at most 256 characters are kept.
    pub(crate) by: Option<String>,
}

/// The body of an override; all of it is needed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OverrideBody {
    /// Whose hold: `switch:<name>`.
    #[schema(example = "switch:ops")]
    pub(crate) controller: String,
    /// Why the switch cannot be flipped; at most 256 characters are kept.
    pub(crate) reason: String,
}
