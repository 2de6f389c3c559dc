//! What comes out of the store, and how it looks on the wire.
use crate::identifiers;
use crate::serve::Answer;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde_json::{Map, Value, json};

/// The fields of a JSON object.
pub(crate) type Object = Map<String, Value>;

/// What a handler gives back.
pub(crate) type Outcome = Result<Reply, Refusal>;

/// A request that was carried out.
pub(crate) enum Reply {
    /// 200 with the envelope.
    Envelope(Envelope),
    /// The envelope under another status: a deleted version is 404 *with* a body.
    Under(StatusCode, Envelope),
    /// Nothing to say: 204 after a write, 404 after a read or a list.
    Nothing,
    /// A status without any body.
    Bare(StatusCode),
    /// JSON without the envelope: `sys/health` and its like.
    Raw(StatusCode, Value),
}

/// The body of nearly every answer.
#[derive(Default)]
pub(crate) struct Envelope {
    pub(crate) data: Option<Object>,
    pub(crate) warnings: Vec<String>,
    pub(crate) auth: Option<Value>,
    pub(crate) lease_duration: i64,
    /// Old `sys` endpoints carry their data in the top level as well.
    pub(crate) data_on_top: bool,
}

impl Envelope {
    pub(crate) fn data(data: Object) -> Envelope {
        Envelope {
            data: Some(data),
            ..Envelope::default()
        }
    }

    pub(crate) fn warning(text: impl Into<String>) -> Envelope {
        Envelope {
            warnings: vec![text.into()],
            ..Envelope::default()
        }
    }
}

impl Reply {
    pub(crate) fn data(data: Object) -> Reply {
        Reply::Envelope(Envelope::data(data))
    }

    pub(crate) fn data_on_top(data: Object) -> Reply {
        Reply::Envelope(Envelope {
            data_on_top: true,
            ..Envelope::data(data)
        })
    }

    /// A list; nothing when it is empty, as Vault has it.
    pub(crate) fn keys(keys: Vec<String>) -> Reply {
        if keys.is_empty() {
            return Reply::Nothing;
        }
        Reply::data(object(json!({ "keys": keys })))
    }

    /// 204, or 200 when there is something to warn about.
    pub(crate) fn done(warnings: Vec<String>) -> Reply {
        if warnings.is_empty() {
            return Reply::Nothing;
        }
        Reply::Envelope(Envelope {
            warnings,
            ..Envelope::default()
        })
    }
}

/// The fields of a JSON literal that is an object.
pub(crate) fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        _ => Object::new(),
    }
}

/// A request that was refused. The messages never carry a value that was sent.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) errors: Vec<String>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Refusal {
        Refusal {
            status,
            errors: vec![error.into()],
        }
    }

    pub(crate) fn bad_request(error: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, error)
    }

    /// No token, or one that nobody knows.
    pub(crate) fn unknown_token() -> Refusal {
        Refusal::new(StatusCode::FORBIDDEN, "permission denied")
    }

    /// A good token whose policies do not allow this.
    pub(crate) fn denied() -> Refusal {
        Refusal::new(StatusCode::FORBIDDEN, listed("permission denied"))
    }

    pub(crate) fn wrong_method() -> Refusal {
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, listed("unsupported operation"))
    }

    pub(crate) fn wrong_path() -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, listed("unsupported path"))
    }

    pub(crate) fn no_route(path: &str) -> Refusal {
        Refusal::new(
            StatusCode::NOT_FOUND,
            format!("no handler for route {path:?}. route entry not found."),
        )
    }

    /// `{"errors":[]}`.
    pub(crate) fn silent(status: StatusCode) -> Refusal {
        Refusal {
            status,
            errors: Vec::new(),
        }
    }
}

/// How Go's multierror prints one error: clients match on it.
fn listed(error: &str) -> String {
    format!("1 error occurred:\n\t* {error}\n\n")
}

/// The answer to a request of which is known whether it read (then nothing means 404) and which kind of mount took it.
pub(crate) fn answer(outcome: Outcome, reads: bool, mount_type: &str) -> Answer {
    let answer = match outcome {
        Ok(Reply::Envelope(envelope)) => body(StatusCode::OK, &envelope.into_value(mount_type)),
        Ok(Reply::Under(status, envelope)) => body(status, &envelope.into_value(mount_type)),
        Ok(Reply::Nothing) if reads => body(StatusCode::NOT_FOUND, &json!({ "errors": [] })),
        Ok(Reply::Nothing) => Answer::empty(StatusCode::NO_CONTENT).with(CONTENT_TYPE, "application/json"),
        Ok(Reply::Bare(status)) => Answer::empty(status).with(CONTENT_TYPE, "application/json"),
        Ok(Reply::Raw(status, value)) => body(status, &value),
        Err(refusal) => body(refusal.status, &json!({ "errors": refusal.errors })),
    };
    answer.with(CACHE_CONTROL, "no-store")
}

fn body(status: StatusCode, value: &Value) -> Answer {
    Answer::new(status, "application/json", format!("{value}\n"))
}

impl Envelope {
    fn into_value(self, mount_type: &str) -> Value {
        let on_top = self.data_on_top.then(|| self.data.clone()).flatten();
        let mut value = object(json!({
            "request_id": identifiers::uuid(),
            "lease_id": "",
            "renewable": false,
            "lease_duration": self.lease_duration,
            "data": self.data,
            "wrap_info": null,
            "warnings": if self.warnings.is_empty() { Value::Null } else { json!(self.warnings) },
            "auth": self.auth,
            "mount_type": mount_type,
        }));
        for (key, field) in on_top.into_iter().flatten() {
            value.entry(key).or_insert(field);
        }
        Value::Object(value)
    }
}
