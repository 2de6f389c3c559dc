//! `auth/…` other than tokens: the ways to log in.
mod approle;
mod jwt;
mod kubernetes;
mod role;

use super::fields::Fields;
use super::mounts::{describe, find, place};
use super::request::{Operation, Request};
use super::response::{Envelope, Object, Outcome, Refusal, Reply, object};
use super::state::{Caller, State};
use super::token_paths;
use super::tokens::{Lifetime, Login, NewToken, lifetime};
use crate::cluster::Cluster;
use crate::identifiers;
use http::StatusCode;
use jiff::Timestamp;
use role::TokenSettings;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A way to log in, at its place. It has no `Debug`: nothing prints a credential.
pub(crate) struct AuthMount {
    method: Method,
    description: String,
    accessor: String,
    uuid: String,
}

enum Method {
    AppRole(approle::Store),
    Kubernetes(kubernetes::Store),
    Jwt(jwt::Store),
}

/// What a login that was accepted gives.
struct Granted {
    role: String,
    /// Whom the method names; nothing where the role is all that is known.
    display_name: String,
    metadata: BTreeMap<String, String>,
    settings: TokenSettings,
}

impl AuthMount {
    fn new(kind: &str, description: String) -> Result<AuthMount, Refusal> {
        let method = match kind {
            "approle" => Method::AppRole(approle::Store::default()),
            "kubernetes" => Method::Kubernetes(kubernetes::Store::default()),
            "jwt" => Method::Jwt(jwt::Store::default()),
            other => {
                return Err(Refusal::bad_request(format!(
                    "plugin not found in the catalog: {other} (this dev store has approle, jwt and kubernetes)"
                )));
            }
        };
        Ok(AuthMount {
            method,
            description,
            accessor: format!("auth_{kind}_{}", identifiers::hex(&identifiers::bytes::<4>())),
            uuid: identifiers::uuid(),
        })
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self.method {
            Method::AppRole(_) => "approle",
            Method::Kubernetes(_) => "kubernetes",
            Method::Jwt(_) => "jwt",
        }
    }

    fn show(&self) -> Value {
        describe(
            self.kind(),
            &self.description,
            &self.accessor,
            &self.uuid,
            &json!({}),
        )
    }

    fn log_in(&mut self, fields: &Fields<'_>, cluster: &Cluster, now: Timestamp) -> Result<Granted, Refusal> {
        match &mut self.method {
            Method::AppRole(store) => store.log_in(fields, now),
            Method::Kubernetes(store) => store.log_in(fields, cluster, now),
            Method::Jwt(store) => store.log_in(fields, now),
        }
    }

    fn handle(&mut self, operation: Operation, path: &str, fields: &Object, now: Timestamp) -> Outcome {
        match &mut self.method {
            Method::AppRole(store) => store.handle(operation, path, &Fields(fields), now),
            Method::Kubernetes(store) => store.handle(operation, path, &Fields(fields)),
            Method::Jwt(store) => store.handle(operation, path, &Fields(fields)),
        }
    }

    fn has_role(&self, name: &str) -> bool {
        match &self.method {
            Method::AppRole(store) => store.has_role(name),
            Method::Kubernetes(store) => store.has_role(name),
            Method::Jwt(store) => store.has_role(name),
        }
    }
}

/// `auth/<mount>/login`, which needs no token; `None` for all other paths.
pub(crate) fn login(
    state: &mut State,
    namespace: &str,
    request: &Request,
    now: Timestamp,
) -> Option<Outcome> {
    let path = request.path.strip_prefix("auth/")?;
    let cluster = state.cluster.clone();
    let space = state.namespaces.get_mut(namespace)?;
    let (at, mount, rest) = find(&mut space.auths, path)?;
    if rest != "login" {
        return None;
    }
    if request.operation != Operation::Write {
        return Some(Err(Refusal::wrong_method()));
    }
    let granted = match mount.log_in(&Fields(&request.fields), &cluster, now) {
        Ok(granted) => granted,
        Err(refusal) => return Some(Err(refusal)),
    };
    Some(admit(state, namespace, &at, granted, now))
}

fn admit(state: &mut State, namespace: &str, at: &str, granted: Granted, now: Timestamp) -> Outcome {
    let settings = granted.settings;
    let life = Lifetime {
        period: settings.period,
        explicit_max: settings.explicit_max_ttl,
        role_ttl: settings.ttl,
        role_max: settings.max_ttl,
    };
    let (ttl, warnings) = lifetime(life, 0, settings.ttl, now, now)?;
    let id = state.tokens.issue(
        NewToken {
            id: None,
            policies: settings.policies(),
            path: format!("auth/{at}login"),
            meta: Some(granted.metadata),
            display_name: display_name(at, &granted.display_name),
            uses: settings.num_uses,
            parent: None,
            namespace: namespace.to_owned(),
            life,
            ttl,
            renewable: true,
            login: Some(Login {
                mount: at.to_owned(),
                role: granted.role,
            }),
        },
        now,
    );
    Ok(Reply::Envelope(Envelope {
        auth: token_paths::auth(state, &id, now),
        warnings,
        ..Envelope::default()
    }))
}

/// The mount, and whom the method names, if it names anybody.
fn display_name(at: &str, who: &str) -> String {
    let mount = at.trim_end_matches('/').replace('/', "-");
    if who.is_empty() {
        mount
    } else {
        format!("{mount}-{who}")
    }
}

/// Everything under a login mount but the login itself.
pub(crate) fn handle(state: &mut State, caller: &Caller, request: &Request) -> Outcome {
    let path = request.path.trim_start_matches("auth/");
    let space = state.space(&caller.namespace)?;
    let (_, mount, rest) = find(&mut space.auths, path).ok_or_else(|| Refusal::no_route(&request.path))?;
    mount.handle(request.operation, &rest, &request.fields, caller.now)
}

/// Whether a write to this path (after `auth/`) would make a new role.
pub(crate) fn creates(auths: &mut BTreeMap<String, AuthMount>, path: &str) -> bool {
    find(auths, path).is_some_and(|(_, mount, rest)| {
        rest.strip_prefix("role/")
            .is_some_and(|name| !name.contains('/') && !mount.has_role(name))
    })
}

/// A token of a login is renewed only as long as its role is there.
pub(crate) fn still_there(state: &State, namespace: &str, login: &Login) -> Result<(), Refusal> {
    let there = state
        .namespaces
        .get(namespace)
        .and_then(|space| space.auths.get(&login.mount))
        .is_some_and(|mount| mount.has_role(&login.role));
    if there {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!(
            "1 error occurred:\n\t* failed to renew entry: role {:?} does not exist during renewal\n\n",
            login.role
        ),
    ))
}

/// `sys/auth` and `sys/auth/<path>`.
pub(crate) fn mounts(state: &mut State, caller: &Caller, request: &Request, path: &str) -> Outcome {
    let space = state.space(&caller.namespace)?;
    if path.is_empty() {
        if request.operation != Operation::Read {
            return Err(Refusal::wrong_method());
        }
        let mut all: Object = space
            .auths
            .iter()
            .map(|(place, mount)| (place.clone(), mount.show()))
            .collect();
        let token = describe("token", "token based credentials", "auth_token", "", &Value::Null);
        all.insert("token/".to_owned(), token);
        return Ok(Reply::data_on_top(all));
    }
    let at = place(path).ok_or_else(|| Refusal::bad_request("not a path for a login"))?;
    let fields = Fields(&request.fields);
    match request.operation {
        Operation::Read => space.auths.get(&at).map_or_else(
            || Err(Refusal::bad_request(format!("No auth engine at {at}"))),
            |mount| Ok(Reply::data_on_top(object(mount.show()))),
        ),
        Operation::Write => {
            if let Some(taken) = space
                .auths
                .keys()
                .map(String::as_str)
                .chain(["token/"])
                .find(|taken| taken.starts_with(&at) || at.starts_with(taken))
            {
                return Err(Refusal::bad_request(format!("path is already in use at {taken}")));
            }
            let kind = fields.required("type")?;
            let mount = AuthMount::new(&kind, fields.text("description")?.unwrap_or_default())?;
            space.auths.insert(at, mount);
            Ok(Reply::Nothing)
        }
        Operation::Delete => {
            if at == "token/" {
                return Err(Refusal::bad_request(
                    "token credential backend cannot be disabled",
                ));
            }
            if space.auths.remove(&at).is_some() {
                state.tokens.revoke_logins(&caller.namespace, &at);
            }
            Ok(Reply::Nothing)
        }
        _ => Err(Refusal::wrong_method()),
    }
}
