//! Managed identity, as a machine and as an app service offer it: plain HTTP, guarded by where it listens and by a header.
use super::entra::json_answer;
use super::grants::{Identity, Proof};
use super::{KeyVault, Shared};
use crate::identifiers;
use crate::requests::Side;
use crate::serve::{Answer, Asked, Store};
use http::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

const LIFETIME: Duration = Duration::from_secs(86_399);
const MACHINE: &str = "/metadata/identity/oauth2/token";
const APP_SERVICE: &str = "/msi/token";

/// The endpoint of managed identities, in front of the same tenant.
pub(crate) struct ManagedIdentity(pub(crate) KeyVault);

impl Store for ManagedIdentity {
    fn side(&self) -> Side {
        Side::ManagedIdentity
    }

    fn answer(&self, asked: &Asked) -> Answer {
        let known = asked.path == MACHINE || asked.path == APP_SERVICE;
        if !known {
            return Answer::empty(StatusCode::NOT_FOUND);
        }
        if asked.method != Method::GET {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, "invalid_request", "GET only").answer();
        }
        match self.token(asked) {
            Ok((client_id, body)) => {
                let mut answer = json_answer(StatusCode::OK, &body);
                answer.accessor = Some(client_id);
                answer
            }
            Err(refused) => refused.answer(),
        }
    }

    fn failure(&self, status: StatusCode) -> Answer {
        let text = status.canonical_reason().unwrap_or("failed");
        refuse(status, "server_error", text).answer()
    }

    fn forget_tokens(&self) {
        self.0.forget_tokens();
    }
}

impl ManagedIdentity {
    fn token(&self, asked: &Asked) -> Result<(String, Value), Refused> {
        let bad = |text: &str| refuse(StatusCode::BAD_REQUEST, "invalid_request", text);
        let shared = &self.0.shared;
        let query: HashMap<String, String> = form_urlencoded::parse(asked.query.as_bytes())
            .into_owned()
            .collect();
        let machine = asked.path == MACHINE;
        guard(shared, asked, machine)?;
        let version = if machine { "2018-02-01" } else { "2019-08-01" };
        if query.get("api-version").map(String::as_str) != Some(version) {
            return Err(bad(&format!("api-version must be {version}")));
        }
        let resource = query
            .get("resource")
            .map(|resource| resource.trim_end_matches('/'))
            .filter(|resource| resource.starts_with("https://"))
            .ok_or_else(|| bad("Missing or bad parameter: resource"))?;
        let now = shared.clock.now();
        let mut state = self.0.state();
        let client_id = pick(state.grants.identities.values(), &query).map_err(bad)?;
        let token = state.grants.issue(&client_id, resource, LIFETIME, now);
        let expires = now.as_second() + i64::try_from(LIFETIME.as_secs()).unwrap_or(0);
        // All of these are texts, on both endpoints.
        let body = json!({
            "access_token": token.expose_secret(),
            "client_id": client_id,
            "expires_in": LIFETIME.as_secs().to_string(),
            "expires_on": expires.to_string(),
            "ext_expires_in": LIFETIME.as_secs().to_string(),
            "not_before": now.as_second().to_string(),
            "resource": resource,
            "token_type": "Bearer",
        });
        Ok((client_id, body))
    }
}

/// What keeps a request that was tricked out of somebody from reaching a token.
fn guard(shared: &Shared, asked: &Asked, machine: bool) -> Result<(), Refused> {
    if machine {
        if asked.header("metadata") != Some("true") {
            let text = "Required metadata header not specified";
            return Err(refuse(StatusCode::BAD_REQUEST, "invalid_request", text));
        }
        if asked.headers.contains_key("x-forwarded-for") {
            return Err(refuse(
                StatusCode::FORBIDDEN,
                "invalid_request",
                "X-Forwarded-For is not allowed",
            ));
        }
        return Ok(());
    }
    let header = asked.header("x-identity-header").unwrap_or_default();
    if identifiers::same(header, shared.identity_header.expose_secret()) {
        Ok(())
    } else {
        let text = "The X-IDENTITY-HEADER is missing or wrong";
        Err(refuse(StatusCode::UNAUTHORIZED, "unauthorized_client", text))
    }
}

/// The identity that is named; or the system's; or the only one.
fn pick<'i>(
    identities: impl Iterator<Item = &'i Identity>,
    query: &HashMap<String, String>,
) -> Result<String, &'static str> {
    let mut managed = identities.filter(|identity| matches!(identity.proof, Proof::Managed { .. }));
    if ["object_id", "principal_id", "msi_res_id", "mi_res_id"]
        .iter()
        .any(|name| query.contains_key(*name))
    {
        return Err("Identity not found: this dev store knows identities by client_id");
    }
    if let Some(client_id) = query.get("client_id") {
        return managed
            .find(|identity| identity.client_id == *client_id)
            .map(|identity| identity.client_id.clone())
            .ok_or("Identity not found");
    }
    let managed: Vec<&Identity> = managed.collect();
    let system = managed.iter().find(|identity| {
        matches!(
            identity.proof,
            Proof::Managed {
                system_assigned: true
            }
        )
    });
    match (system, managed.as_slice()) {
        (Some(identity), _) | (None, [identity]) => Ok(identity.client_id.clone()),
        (None, []) => Err("Identity not found"),
        (None, _) => Err(
            "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token \
             request",
        ),
    }
}

struct Refused {
    status: StatusCode,
    error: &'static str,
    text: String,
}

impl Refused {
    fn answer(&self) -> Answer {
        let body = json!({ "error": self.error, "error_description": self.text });
        json_answer(self.status, &body)
    }
}

fn refuse(status: StatusCode, error: &'static str, text: &str) -> Refused {
    Refused {
        status,
        error,
        text: text.to_owned(),
    }
}
