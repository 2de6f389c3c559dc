//! The errors of a key vault, in the words that clients match on.
use crate::identifiers;
use crate::serve::Answer;
use http::StatusCode;
use serde_json::{Value, json};

/// A request that was refused. It carries names, never values.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    code: &'static str,
    inner: Option<&'static str>,
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn body(&self) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(inner) = self.inner {
            error["innererror"] = json!({ "code": inner });
        }
        json!({ "error": error })
    }

    pub(crate) fn answer(&self) -> Answer {
        dressed(Answer::new(
            self.status,
            "application/json; charset=utf-8",
            self.body().to_string(),
        ))
    }
}

/// The headers of every answer.
pub(crate) fn dressed(answer: Answer) -> Answer {
    let header = http::HeaderName::from_static;
    answer
        .with(http::header::CACHE_CONTROL, "no-cache")
        .with(header("x-ms-keyvault-region"), "devstore")
        .with(header("x-ms-request-id"), &identifiers::uuid())
}

fn problem(
    status: StatusCode,
    code: &'static str,
    inner: Option<&'static str>,
    message: impl Into<String>,
) -> Problem {
    Problem {
        status,
        code,
        inner,
        message: message.into(),
    }
}

pub(crate) fn bad_parameter(message: &str) -> Problem {
    problem(StatusCode::BAD_REQUEST, "BadParameter", None, message)
}

pub(crate) fn secret_not_found(name: &str) -> Problem {
    problem(
        StatusCode::NOT_FOUND,
        "SecretNotFound",
        None,
        format!(
            "A secret with (name/id) {name} was not found in this key vault. If you recently deleted this secret you may be \
             able to recover it using the correct recovery command."
        ),
    )
}

pub(crate) fn deleted_not_found(name: &str) -> Problem {
    problem(
        StatusCode::NOT_FOUND,
        "SecretNotFound",
        None,
        format!("Deleted Secret not found: {name}"),
    )
}

pub(crate) fn disabled() -> Problem {
    problem(
        StatusCode::FORBIDDEN,
        "Forbidden",
        Some("SecretDisabled"),
        "Operation get is not allowed on a disabled secret.",
    )
}

pub(crate) fn deleted_but_recoverable(name: &str) -> Problem {
    problem(
        StatusCode::CONFLICT,
        "Conflict",
        Some("ObjectIsDeletedButRecoverable"),
        format!(
            "Secret {name} is currently in a deleted but recoverable state, and its name cannot be reused; in this state, the \
             secret can only be recovered or purged."
        ),
    )
}

/// The line ends are the service's own: a client that reads JSON by hand stumbles here.
pub(crate) fn forbidden(client_id: &str, action: &str) -> Problem {
    problem(
        StatusCode::FORBIDDEN,
        "Forbidden",
        Some("ForbiddenByRbac"),
        format!(
            "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role \
             definitions were changed recently, please observe propagation time.\r\nCaller: appid={client_id}\r\nAction: \
             '{action}'\r\nAssignment: (not found)\r\nDecisionReason: \"DeniedWithNoValidRBAC\"\r\n"
        ),
    )
}

pub(crate) fn unauthorized(message: &str) -> Problem {
    problem(StatusCode::UNAUTHORIZED, "Unauthorized", None, message)
}

pub(crate) fn wrong_method() -> Problem {
    problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "MethodNotAllowed",
        None,
        "The HTTP method is not allowed on this resource.",
    )
}

pub(crate) fn no_such_path() -> Problem {
    problem(
        StatusCode::NOT_FOUND,
        "NotFound",
        None,
        "The resource was not found.",
    )
}

pub(crate) fn wrong_content_type() -> Problem {
    problem(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "UnsupportedMediaType",
        None,
        "The content type must be application/json.",
    )
}

pub(crate) fn not_offered(what: &str) -> Problem {
    problem(
        StatusCode::BAD_REQUEST,
        "NotSupported",
        None,
        format!("This dev store does not offer {what}."),
    )
}

/// For a fault that names only a status.
pub(crate) fn of_status(status: StatusCode) -> Problem {
    match status.as_u16() {
        401 => unauthorized("AKV10032: Invalid issuer."),
        403 => problem(
            status,
            "Forbidden",
            Some("ForbiddenByConnection"),
            "Public network access is disabled.",
        ),
        404 => secret_not_found("(unknown)"),
        429 => problem(
            status,
            "Throttled",
            None,
            "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached",
        ),
        503 => problem(status, "ServiceUnavailable", None, "The service is unavailable."),
        400..=499 => problem(
            status,
            "BadParameter",
            None,
            status.canonical_reason().unwrap_or("refused"),
        ),
        _ => problem(
            status,
            "InternalServerError",
            None,
            "An internal server error occurred.",
        ),
    }
}
