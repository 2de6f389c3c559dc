//! The Vault side.
mod acl;
mod auth;
mod fields;
mod kv1;
mod kv2;
mod kv2_metadata;
mod mounts;
mod policy;
mod request;
mod response;
mod state;
mod sys;
mod sys_mounts;
mod sys_policies;
mod token_paths;
mod tokens;

use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::requests::Side;
use crate::serve::{self, Answer, Asked};
use http::header::{HeaderName, LOCATION};
use http::{Method, StatusCode};
use request::{Operation, Request};
use response::Refusal;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use state::State;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The Vault side in process: for what a test does *beside* the wire. Nothing here meets a fault, waits, or is in the
/// request log, and it works while the listener is offline. Clones share one store.
#[derive(Clone)]
pub struct Vault(Arc<Mutex<State>>);

/// A request that the store refused: the status and errors that a client would have seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the dev store answers {status}: {}", errors.join("; "))]
pub struct Refused {
    /// The status.
    pub status: StatusCode,
    /// The texts under `errors`; none for a plain "not found".
    pub errors: Vec<String>,
}

/// A token with its accessor.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The token.
    pub token: SecretString,
    /// Names it in the request log.
    pub accessor: String,
}

impl Vault {
    pub(crate) fn new(clock: Clock, cluster: Cluster, root_token: &SecretString, namespaces: bool) -> Vault {
        let root = root_token.expose_secret().to_owned();
        Vault(Arc::new(Mutex::new(State::new(clock, cluster, root, namespaces))))
    }

    /// Any request, as the root token, in the root namespace: the status and the JSON body (null when there is none).
    /// `LIST` is a method; a query goes into `body` as fields. While sealed it is refused like any other.
    pub fn call(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let operation = match method {
            "GET" => Operation::Read,
            "LIST" => Operation::List,
            "POST" | "PUT" => Operation::Write,
            "PATCH" => Operation::Patch,
            "DELETE" => Operation::Delete,
            _ => return (StatusCode::METHOD_NOT_ALLOWED, json!({ "errors": [] })),
        };
        let mut state = self.state();
        let token = Some(state.root_token.clone());
        let request = Request {
            operation,
            path: path.trim_start_matches('/').trim_start_matches("v1/").to_owned(),
            fields: response::object(body),
            token,
            namespace: None,
            head_only: false,
        };
        let reads = request.reads();
        let handled = state.handle(request);
        drop(state);
        let answer = response::answer(handled.outcome, reads, handled.mount_type);
        let body = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        (answer.status, body)
    }

    fn demand(&self, method: &str, path: &str, body: Value) -> Result<Value, Refused> {
        let (status, body) = self.call(method, path, body);
        if status.is_success() {
            return Ok(body);
        }
        let errors = body["errors"].as_array().into_iter().flatten();
        Err(Refused {
            status,
            errors: errors.filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }

    /// Writes a secret (an object) into a KV mount (`secret`, `kv`) of either version and returns its version: 0 in KV 1.
    pub fn put(&self, mount: &str, path: &str, data: Value) -> Result<u64, Refused> {
        let mount = mount.trim_matches('/');
        let version = {
            let mut state = self.state();
            let space = state.namespaces.get_mut("");
            space
                .and_then(|space| space.mounts.get(&format!("{mount}/")))
                .map(mounts::Mount::version)
        };
        if version == Some(1) {
            self.demand("PUT", &format!("{mount}/{path}"), data)?;
            return Ok(0);
        }
        let written = self.demand("PUT", &format!("{mount}/data/{path}"), json!({ "data": data }))?;
        Ok(written["data"]["version"].as_u64().unwrap_or(0))
    }

    /// Makes a policy, or replaces it.
    pub fn put_policy(&self, name: &str, text: &str) -> Result<(), Refused> {
        self.demand(
            "PUT",
            &format!("sys/policies/acl/{name}"),
            json!({ "policy": text }),
        )
        .map(drop)
    }

    /// Makes a token with the fields of `auth/token/create`: `{"policies": ["read"], "ttl": "10s"}`.
    pub fn create_token(&self, fields: Value) -> Result<Issued, Refused> {
        let body = self.demand("POST", "auth/token/create", fields)?;
        Ok(Issued {
            token: SecretString::from(body["auth"]["client_token"].as_str().unwrap_or_default()),
            accessor: body["auth"]["accessor"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// Makes a namespace with a KV 2 mount `secret/`. Refused with 404 unless
    /// [`Options::namespaces`](crate::Options::namespaces) is on.
    pub fn create_namespace(&self, path: &str) -> Result<(), Refused> {
        self.demand("POST", &format!("sys/namespaces/{path}"), json!({}))?;
        if let Some(space) = self.state().namespaces.get_mut(&format!("{path}/")) {
            space
                .mounts
                .insert("secret/".to_owned(), mounts::Mount::kv(2, ""));
        }
        Ok(())
    }

    /// Seals it: from now on 503. What is stored stays.
    pub fn seal(&self) {
        self.state().sealed = true;
    }

    /// Unseals it, without the key.
    pub fn unseal(&self) {
        self.state().sealed = false;
    }

    /// Whether it is sealed.
    pub fn is_sealed(&self) -> bool {
        self.state().sealed
    }

    /// The one key that `sys/unseal` takes, in hexadecimal.
    pub fn unseal_key(&self) -> SecretString {
        SecretString::from(self.state().unseal_key.clone())
    }

    /// Forgets every token but the root token, as a store that lost its storage does.
    pub fn forget_tokens(&self) {
        self.state().forget_tokens();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics by design; should it, the rest of a dev store is better than none.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault")
    }
}

impl serve::Store for Vault {
    fn side(&self) -> Side {
        Side::Vault
    }

    fn answer(&self, asked: &Asked) -> Answer {
        if asked.path.contains("//") {
            return cleaned(asked);
        }
        let request = match request::read(asked) {
            Ok(request) => request,
            Err(refusal) => return response::answer(Err(refusal), false, ""),
        };
        let reads = request.reads();
        let namespace = request.namespace.clone();
        let handled = self.state().handle(request);
        let mut answer = response::answer(handled.outcome, reads, handled.mount_type);
        answer.accessor = handled.accessor;
        match namespace {
            // The server repeats the header, whether it means anything to it or not.
            Some(namespace) => answer.with(HeaderName::from_static("x-vault-namespace"), &namespace),
            None => answer,
        }
    }

    fn failure(&self, status: StatusCode) -> Answer {
        let text = status.canonical_reason().unwrap_or("failed").to_lowercase();
        let refusal = Refusal::new(status, text);
        response::answer(Err(refusal), false, "")
    }

    fn forget_tokens(&self) {
        Vault::forget_tokens(self);
    }
}

/// Go's router sends a path with doubled slashes to the clean one.
fn cleaned(asked: &Asked) -> Answer {
    let mut path = asked.path.clone();
    while path.contains("//") {
        path = path.replace("//", "/");
    }
    let query = if asked.query.is_empty() {
        String::new()
    } else {
        format!("?{}", asked.query)
    };
    let status = if asked.method == Method::GET {
        StatusCode::MOVED_PERMANENTLY
    } else {
        StatusCode::TEMPORARY_REDIRECT
    };
    let encoded = percent_encoding::utf8_percent_encode(&path, PATH).to_string();
    Answer::empty(status).with(LOCATION, &format!("{encoded}{query}"))
}

/// What must be escaped in a path.
const PATH: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`');

#[cfg(test)]
mod tests {
    use super::response::Reply;
    use super::state::Namespace;
    use super::*;

    #[test]
    fn the_default_policy_of_a_namespace_parses() {
        assert!(Namespace::new("x").policies.contains_key("default"));
    }

    #[test]
    fn a_reply_of_nothing_is_not_found_for_reads_and_no_content_for_writes() {
        assert_eq!(response::answer(Ok(Reply::Nothing), true, "kv").status, 404);
        assert_eq!(response::answer(Ok(Reply::Nothing), false, "kv").status, 204);
    }
}
