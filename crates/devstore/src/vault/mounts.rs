//! What is mounted where.
use super::response::Object;
use super::tokens::LONGEST;
use super::{kv1, kv2};
use crate::identifiers;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A secrets engine at its place. It has no `Debug`: nothing prints a value.
pub(crate) struct Mount {
    pub(crate) engine: Engine,
    description: String,
    accessor: String,
    uuid: String,
}

/// The engines of the dev store.
pub(crate) enum Engine {
    /// KV version 1.
    Kv1(kv1::Store),
    /// KV version 2.
    Kv2(kv2::Store),
}

impl Mount {
    /// A KV mount of version 1 or 2.
    pub(crate) fn kv(version: u8, description: &str) -> Mount {
        let engine = match version {
            1 => Engine::Kv1(kv1::Store::default()),
            _ => Engine::Kv2(kv2::Store::default()),
        };
        Mount {
            engine,
            description: description.to_owned(),
            accessor: format!("kv_{}", identifiers::hex(&identifiers::bytes::<4>())),
            uuid: identifiers::uuid(),
        }
    }

    /// Whether a write to this path of the mount is an update rather than a creation.
    pub(crate) fn exists(&self, path: &str) -> bool {
        match &self.engine {
            Engine::Kv1(store) => store.exists(path),
            Engine::Kv2(store) => store.exists(path),
        }
    }

    pub(crate) fn version(&self) -> u8 {
        match &self.engine {
            Engine::Kv1(_) => 1,
            Engine::Kv2(_) => 2,
        }
    }

    pub(crate) fn describe(&self) -> Value {
        describe(
            "kv",
            &self.description,
            &self.accessor,
            &self.uuid,
            &json!({ "version": self.version().to_string() }),
        )
    }

    pub(crate) fn tuning(&self) -> Object {
        super::response::object(json!({
            "default_lease_ttl": LONGEST,
            "description": self.description,
            "force_no_cache": false,
            "max_lease_ttl": LONGEST,
            "options": { "version": self.version().to_string() },
        }))
    }
}

/// How `sys/mounts` and `sys/auth` show an entry.
pub(crate) fn describe(kind: &str, description: &str, accessor: &str, uuid: &str, options: &Value) -> Value {
    json!({
        "accessor": accessor,
        "config": { "default_lease_ttl": 0, "force_no_cache": false, "max_lease_ttl": 0 },
        "deprecation_status": "supported",
        "description": description,
        "external_entropy_access": false,
        "local": false,
        "options": options,
        "plugin_version": "",
        "running_plugin_version": "",
        "running_sha256": "",
        "seal_wrap": false,
        "type": kind,
        "uuid": uuid,
    })
}

/// The entry whose place (ending in `/`) is the longest prefix of the path, and the rest of the path.
pub(crate) fn find<'m, T>(
    mounts: &'m mut BTreeMap<String, T>,
    path: &str,
) -> Option<(String, &'m mut T, String)> {
    let place = mounts
        .keys()
        .filter(|place| path.starts_with(place.as_str()))
        .max_by_key(|place| place.len())?
        .clone();
    let rest = path[place.len()..].to_owned();
    let mount = mounts.get_mut(&place)?;
    Some((place, mount, rest))
}

/// A place as it is kept: no slash before it, one behind it; `None` when it cannot be one.
pub(crate) fn place(text: &str) -> Option<String> {
    let text = text.trim_matches('/');
    let bad = text.is_empty()
        || text.contains("//")
        || text.split('/').any(|part| part == "." || part == "..")
        || text.chars().any(|c| c.is_control() || c.is_whitespace());
    (!bad).then(|| format!("{text}/"))
}
