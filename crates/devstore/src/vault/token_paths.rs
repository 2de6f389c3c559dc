//! `auth/token/…`: making, looking up, renewing and revoking tokens.
use super::fields::Fields;
use super::request::{Operation, Request};
use super::response::{Envelope, Object, Outcome, Refusal, Reply, object};
use super::state::{Caller, State};
use super::tokens::{Lifetime, NewToken, Token, lifetime};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(crate) fn handle(state: &mut State, caller: &Caller, request: &Request, path: &str) -> Outcome {
    let fields = Fields(&request.fields);
    match (path, request.operation) {
        ("create", Operation::Write) => create(state, caller, &fields, false),
        ("create-orphan", Operation::Write) => create(state, caller, &fields, true),
        ("lookup-self", Operation::Read | Operation::Write) => lookup(state, caller, &caller.token),
        ("lookup", Operation::Read) => lookup(state, caller, &caller.token),
        ("lookup", Operation::Write) => {
            let id = fields.text("token")?.filter(|id| !id.is_empty());
            lookup(state, caller, id.as_deref().unwrap_or(&caller.token))
        }
        ("lookup-accessor", Operation::Write) => {
            let id = by_accessor(state, &fields)?;
            let mut data = describe(state, &id, caller.now)?;
            // An accessor names a token and opens nothing: the token itself stays out.
            data.insert("id".to_owned(), Value::String(String::new()));
            Ok(Reply::data(data))
        }
        ("renew-self", Operation::Write) => renew(state, caller, &caller.token, &fields),
        ("renew", Operation::Write) => renew(state, caller, &named(&fields)?, &fields),
        ("renew-accessor", Operation::Write) => {
            let id = by_accessor(state, &fields)?;
            let mut envelope = renewed(state, caller, &id, &fields)?;
            if let Some(Value::Object(auth)) = &mut envelope.auth {
                auth.insert("client_token".to_owned(), Value::String(String::new()));
            }
            Ok(Reply::Envelope(envelope))
        }
        ("revoke-self", Operation::Write) => revoke(state, caller, &caller.token),
        ("revoke", Operation::Write) => revoke(state, caller, &named(&fields)?),
        ("revoke-accessor", Operation::Write) => match state.tokens.id_of(&fields.required("accessor")?) {
            Some(id) => revoke(state, caller, &id),
            // Not an error: whoever cleans up twice has what they want.
            None => Ok(Reply::Envelope(Envelope::warning(
                "No token found with this accessor",
            ))),
        },
        ("revoke-orphan", Operation::Write) => {
            if !caller.sudo {
                return Err(Refusal::bad_request(
                    "root or sudo privileges required to revoke and orphan",
                ));
            }
            state.tokens.revoke_alone(&named(&fields)?);
            Ok(Reply::Nothing)
        }
        ("accessors/" | "accessors", Operation::List) => {
            Ok(Reply::keys(state.tokens.accessors(&caller.namespace)))
        }
        (
            "create" | "create-orphan" | "lookup" | "lookup-self" | "lookup-accessor" | "renew"
            | "renew-self" | "renew-accessor" | "revoke" | "revoke-self" | "revoke-accessor"
            | "revoke-orphan" | "accessors" | "accessors/",
            _,
        ) => Err(Refusal::wrong_method()),
        _ => Err(Refusal::wrong_path()),
    }
}

fn named(fields: &Fields<'_>) -> Result<String, Refusal> {
    fields
        .text("token")?
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Refusal::bad_request("missing token ID"))
}

fn by_accessor(state: &State, fields: &Fields<'_>) -> Result<String, Refusal> {
    let accessor = fields.required("accessor")?;
    state
        .tokens
        .id_of(&accessor)
        .ok_or_else(|| Refusal::bad_request("invalid accessor"))
}

/// A token is seen from its own namespace and from those above it.
fn visible<'s>(state: &'s State, caller: &Caller, id: &str) -> Option<&'s Token> {
    let own = state
        .tokens
        .get(&caller.token)
        .map(|token| token.namespace.clone())?;
    state
        .tokens
        .get(id)
        .filter(|token| token.namespace.starts_with(&own))
}

fn lookup(state: &State, caller: &Caller, id: &str) -> Outcome {
    if visible(state, caller, id).is_none() {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "bad token"));
    }
    Ok(Reply::data(describe(state, id, caller.now)?))
}

fn describe(state: &State, id: &str, now: Timestamp) -> Result<Object, Refusal> {
    let token = state
        .tokens
        .get(id)
        .ok_or_else(|| Refusal::new(StatusCode::FORBIDDEN, "bad token"))?;
    let mut data = object(json!({
        "accessor": token.accessor,
        "creation_time": token.created.as_second(),
        "creation_ttl": token.creation_ttl,
        "display_name": token.display_name,
        "entity_id": "",
        "expire_time": token.expires.map(|expires| expires.to_string()),
        "explicit_max_ttl": token.life.explicit_max,
        "id": id,
        "meta": token.meta,
        "num_uses": token.uses,
        "orphan": token.parent.is_none(),
        "path": token.path,
        "policies": token.policies,
        "ttl": token.ttl(now),
        "type": "service",
    }));
    if token.expires.is_some() {
        data.insert("issue_time".to_owned(), json!(token.created.to_string()));
        data.insert("renewable".to_owned(), json!(token.renewable));
    }
    if let Some(renewed) = token.renewed {
        data.insert("last_renewal".to_owned(), json!(renewed.to_string()));
        data.insert("last_renewal_time".to_owned(), json!(renewed.as_second()));
    }
    if token.life.period > 0 {
        data.insert("period".to_owned(), json!(token.life.period));
    }
    if !token.namespace.is_empty() {
        data.insert("namespace_path".to_owned(), json!(token.namespace));
    }
    Ok(data)
}

fn create(state: &mut State, caller: &Caller, fields: &Fields<'_>, orphan: bool) -> Outcome {
    let parent = state
        .tokens
        .get(&caller.token)
        .cloned()
        .ok_or_else(|| Refusal::bad_request("parent token lookup failed: no parent found"))?;
    if parent.uses > 0 {
        return Err(Refusal::bad_request(
            "restricted use token cannot generate child tokens",
        ));
    }
    if fields
        .text("type")?
        .is_some_and(|kind| !kind.is_empty() && kind != "service")
    {
        return Err(Refusal::bad_request("this dev store makes service tokens only"));
    }
    let uses = u64::try_from(fields.whole("num_uses")?.unwrap_or(0))
        .map_err(|_| Refusal::bad_request("number of uses cannot be negative"))?;
    let id = fields.text("id")?.filter(|id| !id.is_empty());
    if id.is_some() && !caller.sudo {
        return Err(Refusal::bad_request(
            "root or sudo privileges required to specify token id",
        ));
    }
    if id
        .as_deref()
        .is_some_and(|id| id.contains(['.', ' ']) || id.starts_with("s."))
    {
        return Err(Refusal::bad_request(
            "custom token ID cannot have the 's.' prefix, a dot or a space",
        ));
    }
    if id.as_deref().is_some_and(|id| state.tokens.get(id).is_some()) {
        return Err(Refusal::bad_request("cannot create a token with a duplicate ID"));
    }
    let policies = policies(caller, fields, &parent)?;
    let orphan = if fields.truth("no_parent")?.unwrap_or(false) {
        if !caller.sudo {
            return Err(Refusal::bad_request(
                "root or sudo privileges required to create orphan token",
            ));
        }
        true
    } else {
        orphan
    };
    let life = Lifetime {
        period: fields.seconds("period")?.unwrap_or(0).max(0),
        explicit_max: fields.seconds("explicit_max_ttl")?.unwrap_or(0).max(0),
        ..Lifetime::default()
    };
    if life.period > 0 && !caller.sudo {
        return Err(Refusal::bad_request(
            "root or sudo privileges required to create periodic token",
        ));
    }
    let asked = match fields.seconds("ttl")? {
        Some(ttl) => ttl,
        None => fields.seconds("lease")?.unwrap_or(0),
    };
    if asked < 0 {
        return Err(Refusal::bad_request("ttl must be positive"));
    }
    let root = policies.iter().any(|policy| policy == "root");
    let mut warnings = Vec::new();
    let mut ttl = 0;
    if life.period > 0 || asked > 0 || !root {
        (ttl, warnings) = lifetime(life, asked, 0, caller.now, caller.now)?;
    } else if life.explicit_max > 0 {
        ttl = life.explicit_max;
    }
    if ttl == 0 && parent.expires.is_some() {
        return Err(Refusal::bad_request(
            "expiring root tokens cannot create non-expiring root tokens",
        ));
    }
    let space = state.space(&caller.namespace)?;
    for policy in policies.iter().filter(|policy| *policy != "root") {
        if !space.policies.contains_key(policy) {
            warnings.push(format!("Policy {policy:?} does not exist"));
        }
    }
    let display_name = match fields.text("display_name")?.filter(|name| !name.is_empty()) {
        Some(name) => format!(
            "token-{}",
            name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")
        ),
        None => "token".to_owned(),
    };
    let path = if orphan && !fields.truth("no_parent")?.unwrap_or(false) {
        "auth/token/create-orphan"
    } else {
        "auth/token/create"
    };
    let id = state.tokens.issue(
        NewToken {
            id,
            policies,
            path: path.to_owned(),
            meta: fields.pairs("meta")?,
            display_name,
            uses,
            parent: (!orphan).then(|| caller.token.clone()),
            namespace: caller.namespace.clone(),
            life,
            ttl,
            renewable: fields.truth("renewable")?.unwrap_or(true),
            login: None,
        },
        caller.now,
    );
    Ok(Reply::Envelope(Envelope {
        auth: auth(state, &id, caller.now),
        warnings,
        ..Envelope::default()
    }))
}

fn policies(caller: &Caller, fields: &Fields<'_>, parent: &Token) -> Result<Vec<String>, Refusal> {
    let asked = fields.list("policies")?.unwrap_or_default();
    let no_default = fields.truth("no_default_policy")?.unwrap_or(false);
    let crossing = parent.namespace != caller.namespace;
    if crossing && !caller.sudo {
        return Err(Refusal::bad_request(
            "root or sudo privileges required to directly generate a token in a child namespace",
        ));
    }
    let inherits = asked.is_empty() && !crossing;
    let mut policies = if inherits {
        parent.policies.clone()
    } else {
        clean(asked)
    };
    let parents_default = parent.policies.iter().any(|policy| policy == "default");
    if !inherits && !caller.sudo {
        if policies.iter().any(|policy| !parent.policies.contains(policy)) {
            return Err(Refusal::bad_request("child policies must be subset of parent"));
        }
        if parents_default && !no_default {
            policies.push("default".to_owned());
        }
    } else if !inherits && !no_default {
        policies.push("default".to_owned());
    }
    let mut policies = clean(policies);
    if no_default {
        policies.retain(|policy| policy != "default");
    }
    if policies.iter().any(|policy| policy == "root") {
        if !parent.is_root() || crossing {
            return Err(Refusal::bad_request(
                "root tokens may not be created without parent token being root",
            ));
        }
        policies = vec!["root".to_owned()];
    }
    Ok(policies)
}

/// Lower case, sorted, each once.
pub(crate) fn clean(policies: Vec<String>) -> Vec<String> {
    let mut policies: Vec<String> = policies
        .iter()
        .map(|policy| policy.trim().to_lowercase())
        .collect();
    policies.sort();
    policies.dedup();
    policies
}

fn renew(state: &mut State, caller: &Caller, id: &str, fields: &Fields<'_>) -> Outcome {
    Ok(Reply::Envelope(renewed(state, caller, id, fields)?))
}

fn renewed(state: &mut State, caller: &Caller, id: &str, fields: &Fields<'_>) -> Result<Envelope, Refusal> {
    let token = visible(state, caller, id).ok_or_else(|| Refusal::bad_request("token not found"))?;
    if let Some(login) = token.login.clone() {
        let namespace = token.namespace.clone();
        super::auth::still_there(state, &namespace, &login)?;
    }
    let increment = fields.seconds("increment")?.unwrap_or(0).max(0);
    let (_, warnings) = state.tokens.renew(id, increment, caller.now)?;
    Ok(Envelope {
        auth: auth(state, id, caller.now),
        warnings,
        ..Envelope::default()
    })
}

fn revoke(state: &mut State, caller: &Caller, id: &str) -> Outcome {
    if visible(state, caller, id).is_some() || id == caller.token {
        state.tokens.revoke(id);
    }
    Ok(Reply::Nothing)
}

/// The `auth` part of an answer: how a client learns its token.
pub(crate) fn auth(state: &State, id: &str, now: Timestamp) -> Option<Value> {
    let token = state.tokens.get(id)?;
    let empty = BTreeMap::new();
    Some(json!({
        "client_token": id,
        "accessor": token.accessor,
        "policies": token.policies,
        "token_policies": token.policies,
        "metadata": token.meta.as_ref().or(token.login.as_ref().map(|_| &empty)),
        "lease_duration": token.ttl(now),
        "renewable": token.renewable,
        "entity_id": "",
        "token_type": "service",
        "orphan": token.parent.is_none(),
        "mfa_requirement": null,
        "num_uses": token.uses,
    }))
}
