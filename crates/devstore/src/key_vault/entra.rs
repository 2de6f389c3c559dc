//! The authority: where applications trade a secret or a federated token for an access token.
use super::grants::Proof;
use super::{Shared, State};
use crate::clock::Clock;
use crate::identifiers;
use crate::jws::Jws;
use crate::serve::{Answer, Asked};
use http::{Method, StatusCode};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

/// What a service gets: an hour, less the second that the real one takes off.
const LIFETIME: Duration = Duration::from_secs(3599);
const EXCHANGE: &str = "api://AzureADTokenExchange";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

pub(super) fn answer(shared: &Shared, state: &mut State, asked: &Asked) -> Answer {
    let segments: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
    match (&asked.method, segments.as_slice()) {
        (&Method::GET, ["common", "discovery", "instance"]) => {
            json_answer(StatusCode::OK, &instances(shared))
        }
        (&Method::GET, [tenant, "v2.0", ".well-known", "openid-configuration"]) => {
            if shared.is_tenant(tenant) || *tenant == "common" || *tenant == "organizations" {
                json_answer(StatusCode::OK, &openid(shared, tenant))
            } else {
                unknown_tenant(shared, tenant)
            }
        }
        (&Method::POST, [tenant, "oauth2", "v2.0", "token"]) => {
            if !shared.is_tenant(tenant) {
                return unknown_tenant(shared, tenant);
            }
            let now = shared.clock.now();
            match token(shared, state, asked, now) {
                Ok(body) => json_answer(StatusCode::OK, &body),
                Err(refused) => refused.answer(&shared.clock),
            }
        }
        (_, ["common", "discovery", "instance"] | [_, "v2.0", ..] | [_, "oauth2", "v2.0", "token"]) => {
            Answer::empty(StatusCode::METHOD_NOT_ALLOWED)
        }
        _ => Answer::empty(StatusCode::NOT_FOUND),
    }
}

/// An error as this endpoint words it; `code` is its `AADSTS` number, which clients show.
struct Refused {
    status: StatusCode,
    error: &'static str,
    code: u32,
    text: String,
}

impl Refused {
    fn answer(&self, clock: &Clock) -> Answer {
        let timestamp = clock.now().strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        let (trace, correlation) = (identifiers::uuid(), identifiers::uuid());
        json_answer(
            self.status,
            &json!({
                "error": self.error,
                "error_description": format!(
                    "AADSTS{}: {} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {timestamp}",
                    self.code, self.text
                ),
                "error_codes": [self.code],
                "timestamp": timestamp,
                "trace_id": trace,
                "correlation_id": correlation,
            }),
        )
    }
}

fn refuse(status: u16, error: &'static str, code: u32, text: impl Into<String>) -> Refused {
    Refused {
        // The numbers are written out below: all of them are status codes.
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST),
        error,
        code,
        text: text.into(),
    }
}

fn unknown_tenant(shared: &Shared, tenant: &str) -> Answer {
    let text = format!("Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID.");
    refuse(400, "invalid_request", 90002, text).answer(&shared.clock)
}

fn token(shared: &Shared, state: &mut State, asked: &Asked, now: Timestamp) -> Result<Value, Refused> {
    let form: HashMap<String, String> = form_urlencoded::parse(&asked.body).into_owned().collect();
    let field = |name: &str| {
        form.get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    };
    let missing = |name: &str| {
        refuse(
            400,
            "invalid_request",
            900_144,
            format!("The request body must contain the following parameter: '{name}'."),
        )
    };
    let grant_type = field("grant_type").ok_or_else(|| missing("grant_type"))?;
    if grant_type != "client_credentials" {
        return Err(refuse(
            400,
            "unsupported_grant_type",
            70003,
            "The app requested an unsupported grant type.",
        ));
    }
    let client_id = field("client_id").ok_or_else(|| missing("client_id"))?;
    let scope = field("scope").ok_or_else(|| missing("scope"))?;
    // Libraries may ask for these beside the resource.
    let resource = scope
        .split(' ')
        .find(|scope| !matches!(*scope, "openid" | "profile" | "offline_access"))
        .and_then(|scope| scope.strip_suffix("/.default"))
        .ok_or_else(|| {
            refuse(
                400,
                "invalid_scope",
                1_002_012,
                "The provided value for scope is not valid. Client credential flows must have a scope value with /.default \
                 suffixed to the resource identifier.",
            )
        })?;
    if !resource.starts_with("https://") {
        return Err(refuse(
            400,
            "invalid_resource",
            500_011,
            "The resource principal was not found in the tenant.",
        ));
    }
    let identity = state
        .grants
        .identities
        .get(client_id)
        .filter(|identity| !matches!(identity.proof, Proof::Managed { .. }))
        .ok_or_else(|| {
            refuse(
                400,
                "unauthorized_client",
                700_016,
                format!("Application with identifier '{client_id}' was not found in the directory."),
            )
        })?;
    match (&identity.proof, field("client_secret"), field("client_assertion")) {
        (_, Some(secret), None) if identity.has_secret(secret) => {}
        (_, Some(_), None) => {
            return Err(refuse(
                401,
                "invalid_client",
                7_000_215,
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not \
                 the client secret ID.",
            ));
        }
        (Proof::Federated { subject }, None, Some(assertion)) => {
            if field("client_assertion_type") != Some(JWT_BEARER) {
                return Err(missing("client_assertion_type"));
            }
            trusted(shared, assertion, subject, now)?;
        }
        (_, None, Some(_)) => {
            return Err(refuse(
                401,
                "invalid_client",
                70025,
                "The client has no configured federated identity credentials.",
            ));
        }
        _ => {
            return Err(refuse(
                401,
                "invalid_client",
                7_000_218,
                "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
            ));
        }
    }
    let client_id = identity.client_id.clone();
    let token = state.grants.issue(&client_id, resource, LIFETIME, now);
    Ok(json!({
        "token_type": "Bearer",
        "expires_in": LIFETIME.as_secs(),
        "ext_expires_in": LIFETIME.as_secs(),
        "access_token": token.expose_secret(),
    }))
}

/// Whether this is a token of the cluster for exactly this service account and this exchange.
fn trusted(shared: &Shared, assertion: &str, subject: &str, now: Timestamp) -> Result<(), Refused> {
    let invalid = |code, text: &str| refuse(401, "invalid_client", code, text);
    let token = Jws::read(assertion).ok_or_else(|| invalid(50027, "JWT token is invalid or malformed."))?;
    if token.text("iss") != Some(shared.cluster.issuer()) {
        return Err(invalid(
            700_211,
            "No matching federated identity record found for presented assertion issuer.",
        ));
    }
    if !token.verified(&[shared.cluster.key()]) {
        return Err(invalid(
            5_000_013,
            "Client assertion failed signature validation.",
        ));
    }
    if token.untimely(now, 0, true).is_some() {
        return Err(invalid(
            700_024,
            "Client assertion is not within its valid time range.",
        ));
    }
    if token.text("sub") != Some(subject) {
        return Err(invalid(
            700_213,
            "No matching federated identity record found for presented assertion subject.",
        ));
    }
    if !token.audiences().contains(&EXCHANGE) {
        return Err(invalid(
            700_212,
            "No matching federated identity record found for presented assertion audience.",
        ));
    }
    Ok(())
}

fn instances(shared: &Shared) -> Value {
    let host = &shared.authority_host;
    json!({
        "tenant_discovery_endpoint": format!("https://{host}/common/v2.0/.well-known/openid-configuration"),
        "api-version": "1.1",
        "metadata": [{ "preferred_network": host, "preferred_cache": host, "aliases": [host] }],
    })
}

fn openid(shared: &Shared, tenant: &str) -> Value {
    let base = format!("https://{}/{tenant}", shared.authority_host);
    json!({
        "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
        "token_endpoint": format!("{base}/oauth2/v2.0/token"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
        "issuer": format!("{base}/v2.0"),
        "jwks_uri": format!("{base}/discovery/v2.0/keys"),
        "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "subject_types_supported": ["pairwise"],
    })
}

pub(super) fn json_answer(status: StatusCode, body: &Value) -> Answer {
    Answer::new(status, "application/json; charset=utf-8", body.to_string())
}
