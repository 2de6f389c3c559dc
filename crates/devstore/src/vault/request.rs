//! From an HTTP request to what is asked of the store.
use super::response::{Object, Refusal};
use crate::serve::Asked;
use http::{Method, StatusCode};
use serde_json::Value;

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    Read,
    List,
    /// POST or PUT: creates or updates.
    Write,
    Patch,
    Delete,
}

/// A request in the store's own terms.
pub(crate) struct Request {
    pub(crate) operation: Operation,
    /// Without `/v1/`; relative to the namespace once that is known.
    pub(crate) path: String,
    pub(crate) fields: Object,
    pub(crate) token: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) head_only: bool,
}

impl Request {
    /// Whether an empty result means "not found".
    pub(crate) fn reads(&self) -> bool {
        matches!(self.operation, Operation::Read | Operation::List)
    }
}

const MERGE_PATCH: &str = "application/merge-patch+json";

/// The token of a request: Vault's own header before `Authorization`.
pub(crate) fn token(asked: &Asked) -> Option<&str> {
    asked
        .header("x-vault-token")
        .or_else(|| asked.header("authorization")?.strip_prefix("Bearer "))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// Reads the request, or says why it cannot be one.
pub(crate) fn read(asked: &Asked) -> Result<Request, Refusal> {
    let mut path = asked
        .path
        .strip_prefix("/v1/")
        .ok_or_else(|| Refusal::silent(StatusCode::NOT_FOUND))?
        .to_owned();
    if path.split('/').any(|part| part == ".." || part == ".") {
        return Err(Refusal::bad_request("relative paths not supported"));
    }
    if asked
        .header("x-vault-wrap-ttl")
        .is_some_and(|ttl| !ttl.trim().is_empty())
    {
        return Err(Refusal::bad_request(
            "this dev store does not wrap responses: leave X-Vault-Wrap-TTL out",
        ));
    }
    let mut fields = Object::new();
    let operation = match &asked.method {
        &Method::GET | &Method::HEAD => {
            fields = query(&asked.query);
            match fields.shift_remove("list") {
                None => Operation::Read,
                Some(Value::String(text)) => match text.as_str() {
                    "1" | "t" | "T" | "true" | "TRUE" | "True" => Operation::List,
                    "0" | "f" | "F" | "false" | "FALSE" | "False" | "" => Operation::Read,
                    _ => return Err(Refusal::silent(StatusCode::BAD_REQUEST)),
                },
                Some(_) => return Err(Refusal::silent(StatusCode::BAD_REQUEST)),
            }
        }
        &Method::DELETE => {
            fields = query(&asked.query);
            Operation::Delete
        }
        &Method::POST | &Method::PUT => {
            fields = body(asked)?;
            Operation::Write
        }
        &Method::PATCH => {
            patch_type(asked)?;
            fields = json(&asked.body)?;
            Operation::Patch
        }
        method if method.as_str() == "LIST" => Operation::List,
        _ => return Err(Refusal::silent(StatusCode::METHOD_NOT_ALLOWED)),
    };
    if operation == Operation::List && !path.ends_with('/') {
        path.push('/');
    }
    Ok(Request {
        operation,
        path,
        fields,
        token: token(asked).map(str::to_owned),
        namespace: asked.header("x-vault-namespace").map(str::to_owned),
        head_only: asked.method == Method::HEAD,
    })
}

fn query(query: &str) -> Object {
    let mut fields = Object::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let value = Value::String(value.into_owned());
        match fields.get_mut(&*name) {
            // A name that comes twice makes a list.
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
            None => {
                fields.insert(name.into_owned(), value);
            }
        }
    }
    fields
}

/// curl sends JSON under the form type unless told otherwise: what starts like an object is one.
fn body(asked: &Asked) -> Result<Object, Refusal> {
    let form = asked
        .header("content-type")
        .is_some_and(|value| value.starts_with("application/x-www-form-urlencoded"));
    let first = asked.body.iter().find(|byte| !byte.is_ascii_whitespace());
    if form && first != Some(&b'{') {
        let text =
            std::str::from_utf8(&asked.body).map_err(|_| Refusal::bad_request("error parsing form data"))?;
        return Ok(query(text));
    }
    json(&asked.body)
}

fn patch_type(asked: &Asked) -> Result<(), Refusal> {
    let value = asked.header("content-type").unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    if essence.is_empty() {
        return Err(Refusal::bad_request("mime: no media type"));
    }
    if !essence.eq_ignore_ascii_case(MERGE_PATCH) {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("PATCH requires Content-Type of {MERGE_PATCH}, provided {essence}"),
        ));
    }
    Ok(())
}

/// An absent body is an empty object. Read as a value first: the typed parser's errors would quote what was sent.
fn json(body: &[u8]) -> Result<Object, Refusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Object::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(Value::Null) => Ok(Object::new()),
        Ok(_) => Err(Refusal::bad_request(
            "failed to decode JSON input: expected an object",
        )),
        Err(error) => Err(Refusal::bad_request(format!(
            "failed to decode JSON input: {error}"
        ))),
    }
}
