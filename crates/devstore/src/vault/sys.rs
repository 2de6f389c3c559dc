//! `sys/…`: health, seal, mounts, policies, namespaces.
use super::fields::Fields;
use super::request::{Operation, Request};
use super::response::{Object, Outcome, Refusal, Reply, object};
use super::state::{Caller, Namespace, State};
use super::{sys_mounts, sys_policies};
use crate::identifiers;
use http::StatusCode;
use serde_json::{Value, json};

/// The version that the dev store gives itself: the Vault whose answers it follows, and what it is.
pub(crate) const VERSION: &str = "1.20.0+tidegate.devstore";
const CLUSTER: &str = "tidegate-devstore";

/// What is answered without a token and while sealed; `None` for all other paths.
pub(crate) fn without_token(state: &mut State, request: &Request) -> Option<Outcome> {
    let (path, operation) = (request.path.as_str(), request.operation);
    if request.head_only && path != "sys/health" {
        return None;
    }
    let silent = || Err(Refusal::silent(StatusCode::METHOD_NOT_ALLOWED));
    Some(match (path, operation) {
        ("sys/health", Operation::Read) => health(state, &Fields(&request.fields)),
        ("sys/seal-status", Operation::Read) => Ok(seal_status(state)),
        ("sys/unseal", Operation::Write) => unseal(state, &Fields(&request.fields)),
        ("sys/init", Operation::Read) => Ok(Reply::Raw(StatusCode::OK, json!({ "initialized": true }))),
        ("sys/init", Operation::Write) => Err(Refusal::bad_request("Vault is already initialized")),
        ("sys/leader", Operation::Read) => Ok(leader(state)),
        ("sys/seal", Operation::Write) if state.sealed => Ok(Reply::Nothing),
        ("sys/seal", operation) if operation != Operation::Write => silent(),
        ("sys/health" | "sys/seal-status" | "sys/unseal" | "sys/init" | "sys/leader", _) => silent(),
        _ => return None,
    })
}

/// What needs a token, which the caller has shown.
pub(crate) fn handle(state: &mut State, caller: &Caller, request: &Request, path: &str) -> Outcome {
    let fields = Fields(&request.fields);
    let (part, rest) = path.split_once('/').unwrap_or((path, ""));
    match (part, rest, request.operation) {
        ("seal", "", Operation::Write) => {
            state.sealed = true;
            Ok(Reply::Nothing)
        }
        ("mounts", _, _) => sys_mounts::mounts(state, caller, request, rest.trim_end_matches('/')),
        ("remount", _, _) => sys_mounts::remount(state, caller, request, rest),
        ("auth", _, _) => super::auth::mounts(state, caller, request, rest.trim_end_matches('/')),
        ("internal", _, Operation::Read) => sys_mounts::ui(state, caller, rest),
        ("policy", _, _) => sys_policies::handle(state, caller, request, rest, true),
        ("policies", _, _) => match rest.strip_prefix("acl") {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                sys_policies::handle(state, caller, request, rest.trim_start_matches('/'), false)
            }
            _ => Err(Refusal::wrong_path()),
        },
        ("capabilities" | "capabilities-self" | "capabilities-accessor", "", Operation::Write) => {
            capabilities(state, caller, part, &fields)
        }
        ("namespaces", _, _) if state.namespaces_enabled => namespaces(state, caller, request, rest),
        ("seal" | "capabilities" | "capabilities-self" | "capabilities-accessor" | "internal", _, _) => {
            Err(Refusal::wrong_method())
        }
        _ => Err(Refusal::wrong_path()),
    }
}

fn health(state: &State, fields: &Fields<'_>) -> Outcome {
    let code = |name: &str, default: u16| -> Result<StatusCode, Refusal> {
        let bad = || Refusal::silent(StatusCode::BAD_REQUEST);
        let asked = fields.whole(name).map_err(|_| bad())?;
        let code = asked.map_or(Ok(default), |code| u16::try_from(code).map_err(|_| bad()))?;
        StatusCode::from_u16(code).map_err(|_| bad())
    };
    // All are read, whatever applies: a bad one is an error in any state.
    let (active, sealed) = (code("activecode", 200)?, code("sealedcode", 503)?);
    for (name, default) in [
        ("standbycode", 429),
        ("uninitcode", 501),
        ("drsecondarycode", 472),
        ("performancestandbycode", 473),
    ] {
        code(name, default)?;
    }
    for name in ["standbyok", "perfstandbyok"] {
        fields
            .truth(name)
            .map_err(|_| Refusal::silent(StatusCode::BAD_REQUEST))?;
    }
    let mut body = object(json!({
        "initialized": true,
        "sealed": state.sealed,
        "standby": state.sealed,
        "performance_standby": false,
        "replication_performance_mode": if state.sealed { "unknown" } else { "disabled" },
        "replication_dr_mode": if state.sealed { "unknown" } else { "disabled" },
        "server_time_utc": state.clock.now().as_second(),
        "version": VERSION,
        "enterprise": false,
        "echo_duration_ms": 0,
        "clock_skew_ms": 0,
        "replication_primary_canary_age_ms": 0,
    }));
    if !state.sealed {
        body.insert("cluster_name".to_owned(), json!(CLUSTER));
        body.insert("cluster_id".to_owned(), json!(state.cluster_id));
    }
    let status = if state.sealed { sealed } else { active };
    Ok(Reply::Raw(status, Value::Object(body)))
}

fn seal_status(state: &State) -> Reply {
    let mut body = object(json!({
        "type": "shamir",
        "initialized": true,
        "sealed": state.sealed,
        "t": 1,
        "n": 1,
        "progress": 0,
        "nonce": "",
        "version": VERSION,
        "build_date": "",
        "migration": false,
        "recovery_seal": false,
        "storage_type": "inmem",
    }));
    if !state.sealed {
        body.insert("cluster_name".to_owned(), json!(CLUSTER));
        body.insert("cluster_id".to_owned(), json!(state.cluster_id));
    }
    Reply::Raw(StatusCode::OK, Value::Object(body))
}

fn unseal(state: &mut State, fields: &Fields<'_>) -> Outcome {
    if fields.truth("reset")?.unwrap_or(false) {
        if !state.sealed {
            return Err(Refusal::bad_request("vault is unsealed"));
        }
        return Ok(seal_status(state));
    }
    let key = fields.text("key")?.unwrap_or_default();
    if key.is_empty() {
        return Err(Refusal::bad_request(
            "'key' must be specified in request body as JSON, or 'reset' set to true",
        ));
    }
    if state.sealed {
        if !identifiers::same(&key.to_lowercase(), &state.unseal_key) {
            return Err(Refusal::bad_request(
                "failed to decrypt encrypted stored keys: cipher: message authentication failed",
            ));
        }
        state.sealed = false;
    }
    Ok(seal_status(state))
}

fn leader(state: &State) -> Reply {
    Reply::Raw(
        StatusCode::OK,
        json!({
            "ha_enabled": false,
            "is_self": false,
            "active_time": "0001-01-01T00:00:00Z",
            "leader_address": "",
            "leader_cluster_address": "",
            "performance_standby": false,
            "performance_standby_last_remote_wal": 0,
            "sealed": state.sealed,
        }),
    )
}

fn capabilities(state: &State, caller: &Caller, part: &str, fields: &Fields<'_>) -> Outcome {
    let id = match part {
        "capabilities-self" => caller.token.clone(),
        "capabilities-accessor" => state
            .tokens
            .id_of(&fields.required("accessor")?)
            .ok_or_else(|| Refusal::bad_request("invalid accessor"))?,
        _ => fields.required("token")?,
    };
    let acl = state
        .acl(&id)
        .ok_or_else(|| Refusal::bad_request("invalid token"))?;
    let paths = match fields.list("paths")? {
        Some(paths) if !paths.is_empty() => paths,
        _ => fields.list("path")?.unwrap_or_default(),
    };
    if paths.is_empty() {
        return Err(Refusal::bad_request("paths must be supplied"));
    }
    let mut data = Object::new();
    for path in &paths {
        let full = format!("{}{}", caller.namespace, path.trim_start_matches('/'));
        let names = acl
            .on(&full, true)
            .map_or_else(|| vec!["root"], |capabilities| capabilities.names());
        data.insert(path.clone(), json!(names));
    }
    if let [only] = paths.as_slice() {
        let names = data[only].clone();
        data.insert("capabilities".to_owned(), names);
    }
    Ok(Reply::data_on_top(data))
}

fn namespaces(state: &mut State, caller: &Caller, request: &Request, path: &str) -> Outcome {
    let path = path.trim_matches('/');
    if path.is_empty() {
        if request.operation != Operation::List {
            return Err(Refusal::wrong_method());
        }
        let below: Vec<String> = state
            .namespaces
            .keys()
            .filter_map(|known| known.strip_prefix(&caller.namespace))
            .filter(|rest| rest.trim_end_matches('/').split('/').count() == 1 && !rest.is_empty())
            .map(str::to_owned)
            .collect();
        return Ok(Reply::keys(below));
    }
    let full = format!("{}{path}/", caller.namespace);
    let describe = |space: &Namespace| {
        object(json!({
            "custom_metadata": {},
            "id": space.id,
            "path": full,
        }))
    };
    match request.operation {
        Operation::Read => Ok(state
            .namespaces
            .get(&full)
            .map_or(Reply::Nothing, |space| Reply::data(describe(space)))),
        Operation::Write => {
            let place = super::mounts::place(path);
            let Some(name) = place
                .as_deref()
                .filter(|place| place.trim_end_matches('/') == path)
            else {
                return Err(Refusal::bad_request("not a name for a namespace"));
            };
            let first = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            if ["root", "sys", "audit", "auth", "cubbyhole", "identity"].contains(&first) {
                return Err(Refusal::bad_request(format!("{first:?} is a reserved name")));
            }
            let parent = full[..full.len() - 1]
                .rfind('/')
                .map_or("", |end| &full[..=end])
                .to_owned();
            if !state.namespaces.contains_key(&parent) {
                return Err(Refusal::bad_request("parent namespace does not exist"));
            }
            let space = state
                .namespaces
                .entry(full.clone())
                .or_insert_with(|| Namespace::new(&identifiers::letters(5)));
            Ok(Reply::data(describe(space)))
        }
        Operation::Delete => {
            let has_children = state
                .namespaces
                .keys()
                .any(|known| known.len() > full.len() && known.starts_with(&full));
            if has_children {
                return Err(Refusal::bad_request(
                    "cannot delete a namespace that has child namespaces",
                ));
            }
            if state.namespaces.remove(&full).is_some() {
                state.tokens.remove_namespace(&full);
            }
            Ok(Reply::Nothing)
        }
        _ => Err(Refusal::wrong_method()),
    }
}
