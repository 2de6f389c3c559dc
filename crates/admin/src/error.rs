//! What a refused call is told: a status and one sentence, as JSON.
use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of every refusal.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// One sentence for the person who called.
    pub(crate) error: String,
}

#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    sentence: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, sentence: impl Into<String>) -> ApiError {
        ApiError {
            status,
            sentence: sentence.into(),
            header: None,
        }
    }

    pub(crate) fn unauthorized(sentence: impl Into<String>) -> ApiError {
        ApiError {
            header: Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            ..ApiError::new(StatusCode::UNAUTHORIZED, sentence)
        }
    }

    pub(crate) fn retry_after(self, seconds: &'static str) -> ApiError {
        ApiError {
            header: Some((RETRY_AFTER, HeaderValue::from_static(seconds))),
            ..self
        }
    }
}

/// Kept on the response so that the guard can write down why a call was refused.
#[derive(Clone, Debug)]
pub(crate) struct Why(pub(crate) String);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let why = Why(self.sentence.clone());
        let mut response = json(self.status, &ErrorBody { error: self.sentence });
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response.extensions_mut().insert(why);
        response
    }
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let bytes = serde_json::to_vec(body).expect("our own types have string keys and finite numbers");
    (
        status,
        [(CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        bytes,
    )
        .into_response()
}

pub(crate) async fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "there is nothing at this path")
}

pub(crate) async fn wrong_method() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not take that method; the Allow header names those it takes",
    )
}

/// States change between one look and the next, and a proxy must not answer for us.
pub(crate) async fn no_store(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
