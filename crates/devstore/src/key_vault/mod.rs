//! The Key Vault side, with the authority that its tokens come from.
mod entra;
mod grants;
mod managed;
mod problem;
mod secrets;
pub(crate) mod tls;

use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::identifiers;
use crate::requests::Side;
use crate::serve::{self, Answer, Asked};
use crate::vault::Refused;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use grants::{Action, Grants};
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use problem::Problem;
use secrecy::SecretString;
use secrets::{Page, Secrets};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use grants::{Identity, Proof, Rights};
pub(crate) use managed::ManagedIdentity;

/// Where the Key Vault side listens and what it is called.
#[derive(Clone, Debug)]
pub struct KeyVaultOptions {
    /// HTTPS: the vault and the authority, told apart by the host name; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Plain HTTP: managed identity, as on a machine and in an app service.
    pub identity_listen: SocketAddr,
    /// The vault's host name. Everything after its first dot is the resource that tokens are for.
    pub vault_host: String,
    /// The authority's host name.
    pub authority_host: String,
    /// The tenant.
    pub tenant_id: String,
}

impl Default for KeyVaultOptions {
    /// Loopback, free ports, `myvault.vault.azure.net`, `login.microsoftonline.com` and a fixed tenant.
    fn default() -> KeyVaultOptions {
        KeyVaultOptions {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            identity_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            vault_host: "myvault.vault.azure.net".to_owned(),
            authority_host: "login.microsoftonline.com".to_owned(),
            tenant_id: "11111111-2222-3333-4444-555555555555".to_owned(),
        }
    }
}

/// The Key Vault side in process: for what a test does *beside* the wire. Nothing here meets a fault, waits, or is in the
/// request log, and it works while the listener is offline. Clones share one vault.
#[derive(Clone)]
pub struct KeyVault {
    shared: Arc<Shared>,
    state: Arc<Mutex<State>>,
}

/// What does not change while it runs.
struct Shared {
    clock: Clock,
    cluster: Cluster,
    vault_host: String,
    authority_host: String,
    tenant_id: String,
    identity_header: SecretString,
}

struct State {
    secrets: Secrets,
    grants: Grants,
}

/// The versions of the API that it answers to. What differs between them it does not have.
const VERSIONS: &[&str] = &[
    "2016-10-01",
    "7.0",
    "7.1",
    "7.2",
    "7.3",
    "7.4",
    "7.5",
    "7.6",
    "2025-06-01-preview",
    "2025-07-01",
    "2026-04-01",
];

const LARGEST_PAGE: usize = 25;

impl Shared {
    fn is_tenant(&self, tenant: &str) -> bool {
        tenant.eq_ignore_ascii_case(&self.tenant_id)
    }

    fn resource(&self) -> String {
        let parent = self.vault_host.split_once('.').map_or("", |(_, parent)| parent);
        format!("https://{parent}")
    }
}

impl KeyVault {
    pub(crate) fn new(options: &KeyVaultOptions, clock: Clock, cluster: Cluster) -> KeyVault {
        KeyVault {
            state: Arc::new(Mutex::new(State {
                secrets: Secrets::new(format!("https://{}", options.vault_host)),
                grants: Grants::default(),
            })),
            shared: Arc::new(Shared {
                clock,
                cluster,
                vault_host: options.vault_host.to_lowercase(),
                authority_host: options.authority_host.to_lowercase(),
                tenant_id: options.tenant_id.clone(),
                identity_header: SecretString::from(identifiers::letters(32)),
            }),
        }
    }

    /// Makes an identity known, or replaces the one of its client id.
    pub fn register(&self, identity: Identity) {
        let mut state = self.state();
        state
            .grants
            .identities
            .insert(identity.client_id.clone(), identity);
    }

    /// Takes an identity away. Its tokens are good for nothing from now on.
    pub fn unregister(&self, client_id: &str) {
        self.state().grants.identities.remove(client_id);
    }

    /// An access token for this vault, as the authority would issue it.
    pub fn issue_token(&self, client_id: &str, lifetime: Duration) -> SecretString {
        let now = self.shared.clock.now();
        self.state()
            .grants
            .issue(client_id, &self.shared.resource(), lifetime, now)
    }

    /// Forgets every access token: all clients must ask for new ones.
    pub fn forget_tokens(&self) {
        self.state().grants.forget_tokens();
    }

    /// Writes a new version of a secret and returns its id.
    pub fn put(&self, name: &str, value: &str) -> Result<String, Refused> {
        let (status, body) = self.call("PUT", &format!("secrets/{name}"), json!({ "value": value }));
        let id = body["id"].as_str().and_then(|id| id.rsplit('/').next());
        match id {
            Some(id) if status.is_success() => Ok(id.to_owned()),
            _ => Err(Refused {
                status,
                errors: body["error"]["message"]
                    .as_str()
                    .map(str::to_owned)
                    .into_iter()
                    .collect(),
            }),
        }
    }

    /// Any request (`PATCH`, `secrets/NAME`), allowed everything; a query may follow a `?`, the API version is added. Returns
    /// the status and the JSON body (null when there is none).
    pub fn call(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let Ok(method) = Method::from_bytes(method.as_bytes()) else {
            return (StatusCode::METHOD_NOT_ALLOWED, Value::Null);
        };
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let asked = Asked {
            method,
            path: format!("/{}", path.trim_start_matches('/')),
            query: format!("api-version=2025-07-01&{query}"),
            headers,
            body: body.to_string().into(),
        };
        match self.perform(&mut self.state(), &asked, None) {
            Ok(Some(body)) => (StatusCode::OK, body),
            Ok(None) => (StatusCode::NO_CONTENT, Value::Null),
            Err(problem) => (problem.status, problem.body()),
        }
    }

    /// What an app service puts into `IDENTITY_HEADER`.
    pub fn identity_header(&self) -> &SecretString {
        &self.shared.identity_header
    }

    /// The address of its clients: `https://myvault.vault.azure.net`. The name must be resolved to
    /// [`DevStore::key_vault_addr`](crate::DevStore::key_vault_addr).
    pub fn url(&self) -> String {
        format!("https://{}", self.shared.vault_host)
    }

    /// The authority: `https://login.microsoftonline.com`, at the same address.
    pub fn authority_url(&self) -> String {
        format!("https://{}", self.shared.authority_host)
    }

    /// The tenant.
    pub fn tenant_id(&self) -> &str {
        &self.shared.tenant_id
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics by design; should it, the rest of a dev store is better than none.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who asks; the problem names what is wrong with the token.
    fn caller(&self, state: &State, asked: &Asked) -> Result<Identity, Problem> {
        let token = asked
            .header("authorization")
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| problem::unauthorized("AKV10000: Request is missing a Bearer or PoP token."))?;
        let grant = state
            .grants
            .holder(token, self.shared.clock.now())
            .ok_or_else(|| problem::unauthorized("AKV10046: Unable to resolve the key used for signature validation, or the token is expired."))?;
        if grant.audience != self.shared.resource() {
            return Err(problem::unauthorized("AKV10022: Invalid audience."));
        }
        state
            .grants
            .identities
            .get(&grant.client_id)
            .cloned()
            .ok_or_else(|| problem::unauthorized("AKV10032: Invalid issuer."))
    }

    /// Carries a request out; `None` for `caller` is whoever owns the process. `Ok(None)` is 204.
    fn perform(
        &self,
        state: &mut State,
        asked: &Asked,
        caller: Option<&Identity>,
    ) -> Result<Option<Value>, Problem> {
        let query: HashMap<String, String> = form_urlencoded::parse(asked.query.as_bytes())
            .into_owned()
            .collect();
        match query.get("api-version") {
            None => return Err(problem::bad_parameter("api-version must be specified")),
            Some(version) if !VERSIONS.contains(&version.as_str()) => {
                return Err(problem::bad_parameter(&format!(
                    "The specified version ({version}) is not recognized. Consider using the latest supported version \
                     (2025-07-01)."
                )));
            }
            Some(_) => {}
        }
        let now = self.shared.clock.now();
        state.secrets.expire(now);
        let path = asked.path.trim_start_matches('/').trim_end_matches('/');
        let segments: Vec<&str> = path.split('/').collect();
        if let [_, name, ..] = segments.as_slice() {
            secrets::valid_name(name)?;
        }
        let may = |action: Action, name: Option<&str>| match caller {
            Some(identity) if !identity.may(action, name) => {
                Err(problem::forbidden(&identity.client_id, action.name()))
            }
            _ => Ok(()),
        };
        let secrets = &mut state.secrets;
        match (&asked.method, segments.as_slice()) {
            (&Method::GET, ["secrets"]) => {
                may(Action::List, None)?;
                let (from, count) = paging(&query)?;
                Ok(Some(self.paged("secrets", secrets.list(&from, count), &query)))
            }
            (&Method::GET, ["deletedsecrets"]) => {
                may(Action::List, None)?;
                let (from, count) = paging(&query)?;
                let page = secrets.list_deleted(&from, count);
                Ok(Some(self.paged("deletedsecrets", page, &query)))
            }
            (&Method::GET, ["secrets", name, "versions"]) => {
                may(Action::List, Some(name))?;
                let (from, count) = paging(&query)?;
                let page = secrets.list_versions(name, &from, count)?;
                Ok(Some(self.paged(
                    &format!("secrets/{name}/versions"),
                    page,
                    &query,
                )))
            }
            (&Method::POST, ["secrets", "restore"] | ["secrets", _, "backup"]) => {
                Err(problem::not_offered("backups"))
            }
            (&Method::GET, ["secrets", name, rest @ ..]) if rest.len() <= 1 => {
                may(Action::Get, Some(name))?;
                secrets.get(name, rest.first().copied()).map(Some)
            }
            (&Method::PUT, ["secrets", name]) => {
                may(Action::Set, Some(name))?;
                secrets.set(name, &body(asked)?, now).map(Some)
            }
            (&Method::PATCH, ["secrets", name, rest @ ..]) if rest.len() <= 1 => {
                may(Action::Set, Some(name))?;
                secrets
                    .update(name, rest.first().copied(), &body(asked)?, now)
                    .map(Some)
            }
            (&Method::DELETE, ["secrets", name]) => {
                may(Action::Delete, Some(name))?;
                secrets.delete(name, now).map(Some)
            }
            (&Method::GET, ["deletedsecrets", name]) => {
                may(Action::Get, Some(name))?;
                secrets.get_deleted(name).map(Some)
            }
            (&Method::DELETE, ["deletedsecrets", name]) => {
                may(Action::Purge, Some(name))?;
                secrets.purge(name).map(|()| None)
            }
            (&Method::POST, ["deletedsecrets", name, "recover"]) => {
                may(Action::Recover, Some(name))?;
                secrets.recover(name).map(Some)
            }
            (_, ["secrets" | "deletedsecrets", ..]) if segments.len() <= 3 => Err(problem::wrong_method()),
            _ => Err(problem::no_such_path()),
        }
    }

    fn paged(&self, path: &str, page: Page, query: &HashMap<String, String>) -> Value {
        let next = page.next.map(|next| {
            let mut link =
                form_urlencoded::Serializer::new(format!("https://{}/{path}?", self.shared.vault_host));
            link.append_pair("api-version", query.get("api-version").map_or("", String::as_str));
            link.append_pair("$skiptoken", &URL_SAFE_NO_PAD.encode(next));
            if let Some(count) = query.get("maxresults") {
                link.append_pair("maxresults", count);
            }
            link.finish()
        });
        json!({ "value": page.items, "nextLink": next })
    }

    /// The 401 that tells a client where to get a token, and for what.
    fn challenge(&self, problem: &Problem) -> Answer {
        let challenge = format!(
            "Bearer authorization=\"https://{}/{}\", resource=\"{}\"",
            self.shared.authority_host,
            self.shared.tenant_id,
            self.shared.resource()
        );
        problem.answer().with(WWW_AUTHENTICATE, &challenge)
    }

    fn vault(&self, asked: &Asked) -> Answer {
        let mut state = self.state();
        let caller = match self.caller(&state, asked) {
            Ok(caller) => caller,
            Err(problem) => return self.challenge(&problem),
        };
        let mut answer = match self.perform(&mut state, asked, Some(&caller)) {
            Ok(Some(body)) => problem::dressed(entra::json_answer(StatusCode::OK, &body)),
            Ok(None) => problem::dressed(Answer::empty(StatusCode::NO_CONTENT)),
            Err(problem) => problem.answer(),
        };
        answer.accessor = Some(caller.client_id);
        answer
    }
}

impl fmt::Debug for KeyVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyVault({})", self.shared.vault_host)
    }
}

impl serve::Store for KeyVault {
    fn side(&self) -> Side {
        Side::KeyVault
    }

    fn answer(&self, asked: &Asked) -> Answer {
        // Without the port, as a client names it whose resolver was told where to go.
        let host = asked.header("host").unwrap_or_default().to_lowercase();
        let host = host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host);
        if host == self.shared.authority_host {
            entra::answer(&self.shared, &mut self.state(), asked)
        } else if host == self.shared.vault_host {
            self.vault(asked)
        } else {
            Answer::empty(StatusCode::MISDIRECTED_REQUEST)
        }
    }

    fn failure(&self, status: StatusCode) -> Answer {
        let problem = problem::of_status(status);
        match status {
            StatusCode::UNAUTHORIZED => self.challenge(&problem),
            _ => problem.answer(),
        }
    }

    fn forget_tokens(&self) {
        KeyVault::forget_tokens(self);
    }
}

/// The body of a write. Read as a value first: the typed parser's errors would quote what was sent.
fn body(asked: &Asked) -> Result<Map<String, Value>, Problem> {
    let content_type = asked.header("content-type").unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(problem::wrong_content_type());
    }
    match serde_json::from_slice(&asked.body) {
        Ok(Value::Object(body)) => Ok(body),
        Ok(_) => Err(problem::bad_parameter("The request body is not a JSON object.")),
        Err(error) => Err(problem::bad_parameter(&format!(
            "The request body is not JSON: {error}"
        ))),
    }
}

fn paging(query: &HashMap<String, String>) -> Result<(String, usize), Problem> {
    let count = match query.get("maxresults") {
        None => LARGEST_PAGE,
        Some(text) => text
            .parse()
            .ok()
            .filter(|count| (1..=LARGEST_PAGE).contains(count))
            .ok_or_else(|| problem::bad_parameter("maxresults must be between 1 and 25"))?,
    };
    let from = match query.get("$skiptoken") {
        None => String::new(),
        Some(token) => URL_SAFE_NO_PAD
            .decode(token)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| problem::bad_parameter("$skiptoken is not one of ours"))?,
    };
    Ok((from, count))
}
