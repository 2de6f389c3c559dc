//! `sys/mounts`, `sys/remount` and what the official CLI asks before every `kv` command: `sys/internal/ui/mounts`.
use super::fields::Fields;
use super::mounts::{Mount, find, place};
use super::request::{Operation, Request};
use super::response::{Envelope, Object, Outcome, Refusal, Reply, object};
use super::state::{Caller, State};
use crate::identifiers;
use http::StatusCode;
use serde_json::json;

/// Places that belong to the server.
const RESERVED: &[&str] = &["sys/", "auth/", "cubbyhole/", "identity/"];

pub(crate) fn mounts(state: &mut State, caller: &Caller, request: &Request, path: &str) -> Outcome {
    if path.is_empty() {
        if request.operation != Operation::Read {
            return Err(Refusal::wrong_method());
        }
        return Ok(Reply::data_on_top(all(state, caller, |_| true)?));
    }
    if let Some(path) = path.strip_suffix("/tune") {
        return tune(state, caller, request, path);
    }
    let at = place(path).ok_or_else(|| Refusal::bad_request("not a path for a mount"))?;
    let fields = Fields(&request.fields);
    let space = state.space(&caller.namespace)?;
    match request.operation {
        Operation::Read => space.mounts.get(&at).map_or_else(
            || Err(Refusal::bad_request(format!("No secret engine mount at {at}"))),
            |mount| Ok(Reply::data_on_top(object(mount.describe()))),
        ),
        Operation::Write => {
            let version = kv_version(&fields)?;
            if RESERVED.iter().any(|reserved| at.starts_with(reserved)) {
                return Err(Refusal::bad_request(format!("cannot mount {at:?}")));
            }
            if let Some(taken) = space.mounts.keys().find(|taken| overlap(taken, &at)) {
                return Err(Refusal::bad_request(format!("path is already in use at {taken}")));
            }
            let description = fields.text("description")?.unwrap_or_default();
            space.mounts.insert(at, Mount::kv(version, &description));
            Ok(Reply::Nothing)
        }
        Operation::Delete => {
            // Unmounting what is not there is a success too: Vault does not tell what exists.
            space.mounts.remove(&at);
            Ok(Reply::Nothing)
        }
        _ => Err(Refusal::wrong_method()),
    }
}

fn all(state: &mut State, caller: &Caller, shown: impl Fn(&str) -> bool) -> Result<Object, Refusal> {
    let space = state.space(&caller.namespace)?;
    Ok(space
        .mounts
        .iter()
        .filter(|(place, _)| shown(place))
        .map(|(place, mount)| (place.clone(), mount.describe()))
        .collect())
}

/// Mounts cannot lie inside each other.
fn overlap(one: &str, other: &str) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

fn kv_version(fields: &Fields<'_>) -> Result<u8, Refusal> {
    let kind = fields.required("type")?;
    let options = fields.object("options")?.unwrap_or_default();
    let version = Fields(&options).text("version")?.unwrap_or_default();
    match (kind.as_str(), version.as_str()) {
        ("kv" | "generic", "" | "1") => Ok(1),
        ("kv", "2") | ("kv-v2", "" | "2") => Ok(2),
        ("kv-v1", "" | "1") => Ok(1),
        ("kv", _) => Err(Refusal::bad_request("options.version of a kv mount is 1 or 2")),
        (kind, _) => Err(Refusal::bad_request(format!(
            "plugin not found in the catalog: {kind} (this dev store mounts kv only)"
        ))),
    }
}

fn tune(state: &mut State, caller: &Caller, request: &Request, path: &str) -> Outcome {
    if request.operation != Operation::Read {
        return Err(Refusal::wrong_method());
    }
    let at = place(path).ok_or_else(|| Refusal::bad_request("not a path for a mount"))?;
    let space = state.space(&caller.namespace)?;
    space.mounts.get(&at).map_or_else(
        || {
            Err(Refusal::bad_request(format!(
                "cannot fetch sysview for path {at:?}"
            )))
        },
        |mount| Ok(Reply::data_on_top(mount.tuning())),
    )
}

pub(crate) fn remount(state: &mut State, caller: &Caller, request: &Request, rest: &str) -> Outcome {
    if let Some(id) = rest.strip_prefix("status/") {
        if request.operation != Operation::Read {
            return Err(Refusal::wrong_method());
        }
        return Ok(state.migrations.get(id).map_or(Reply::Nothing, |(from, to)| {
            Reply::data(object(json!({
                "migration_id": id,
                "migration_info": { "source_mount": from, "target_mount": to, "status": "success" },
            })))
        }));
    }
    if !rest.is_empty() {
        return Err(Refusal::wrong_path());
    }
    if request.operation != Operation::Write {
        return Err(Refusal::wrong_method());
    }
    let fields = Fields(&request.fields);
    let (Some(from), Some(to)) = (
        fields.text("from")?.as_deref().and_then(place),
        fields.text("to")?.as_deref().and_then(place),
    ) else {
        return Err(Refusal::bad_request(
            "both 'from' and 'to' path must be specified as a string",
        ));
    };
    for path in [&from, &to] {
        if RESERVED.iter().any(|reserved| path.starts_with(reserved)) {
            return Err(Refusal::bad_request(format!("cannot remount {path:?}")));
        }
    }
    let space = state.space(&caller.namespace)?;
    if !space.mounts.contains_key(&from) {
        return Err(Refusal::bad_request(format!("no matching mount at {from:?}")));
    }
    if let Some(taken) = space
        .mounts
        .keys()
        .find(|taken| **taken != from && overlap(taken, &to))
    {
        return Err(Refusal::bad_request(format!("path already in use at {taken:?}")));
    }
    if let Some(mount) = space.mounts.remove(&from) {
        space.mounts.insert(to.clone(), mount);
    }
    let id = identifiers::uuid();
    state.migrations.insert(id.clone(), (from, to));
    Ok(Reply::Envelope(Envelope {
        warnings: vec![
            "Mount move has been queued. Progress will be reported in Vault's server log, tagged with the returned \
             migration_id"
                .to_owned(),
        ],
        data_on_top: true,
        ..Envelope::data(object(json!({ "migration_id": id })))
    }))
}

/// `sys/internal/ui/mounts` and `…/<path>`: what a token may see, which no capability grants or denies by itself.
pub(crate) fn ui(state: &mut State, caller: &Caller, rest: &str) -> Outcome {
    let path = match rest.trim_end_matches('/') {
        "ui/mounts" => {
            let visible = |place: &str| caller.acl.touches(&format!("{}{place}", caller.namespace));
            let secret = all(state, caller, visible)?;
            return Ok(Reply::data(object(json!({ "auth": {}, "secret": secret }))));
        }
        rest => rest.strip_prefix("ui/mounts/").ok_or_else(Refusal::wrong_path)?,
    };
    // Not found and not allowed look the same, so that nobody can try out which mounts there are.
    let refused = || {
        Refusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "preflight capability check returned 403, please ensure client's policies grant access to path {:?}",
                format!("{path}/")
            ),
        )
    };
    let space = state.space(&caller.namespace)?;
    let (at, mount, _) = find(&mut space.mounts, &format!("{path}/")).ok_or_else(refused)?;
    if !caller.acl.touches(&format!("{}{at}", caller.namespace)) {
        return Err(refused());
    }
    let mut data = object(mount.describe());
    data.insert("path".to_owned(), json!(at));
    Ok(Reply::data(data))
}
