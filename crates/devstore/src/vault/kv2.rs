//! KV version 2: versions of a key, which can be deleted softly, brought back, and destroyed.
use super::fields::{Fields, go_duration};
use super::kv1::children;
use super::response::{Envelope, Object, Outcome, Refusal, Reply, object};
use super::tokens::after;
use crate::vault::request::Operation;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How many versions are kept where nobody says otherwise.
const KEPT_VERSIONS: u64 = 10;

/// One mount of this kind. It has no `Debug`: nothing prints a value.
#[derive(Default)]
pub(crate) struct Store {
    config: Config,
    pub(super) secrets: BTreeMap<String, Secret>,
}

#[derive(Default)]
struct Config {
    max_versions: u64,
    cas_required: bool,
    /// Seconds; negative: keys have no say either.
    delete_version_after: i64,
}

/// A key with its versions and settings.
pub(super) struct Secret {
    pub(super) current: u64,
    pub(super) oldest: u64,
    pub(super) versions: BTreeMap<u64, Version>,
    pub(super) created: Timestamp,
    pub(super) updated: Timestamp,
    pub(super) max_versions: u64,
    pub(super) cas_required: bool,
    pub(super) delete_version_after: i64,
    pub(super) custom_metadata: Option<BTreeMap<String, String>>,
}

pub(super) struct Version {
    /// Gone once the version is destroyed.
    data: Option<Object>,
    pub(super) created: Timestamp,
    /// In the future: it will be deleted then.
    pub(super) deleted: Option<Timestamp>,
    pub(super) destroyed: bool,
}

impl Secret {
    pub(super) fn new(now: Timestamp) -> Secret {
        Secret {
            current: 0,
            oldest: 0,
            versions: BTreeMap::new(),
            created: now,
            updated: now,
            max_versions: 0,
            cas_required: false,
            delete_version_after: 0,
            custom_metadata: None,
        }
    }
}

impl Version {
    fn readable(&self, now: Timestamp) -> Option<&Object> {
        let gone = self.destroyed || self.deleted.is_some_and(|deleted| deleted <= now);
        self.data.as_ref().filter(|_| !gone)
    }
}

impl Store {
    /// Whether a write to this path is an update.
    pub(crate) fn exists(&self, path: &str) -> bool {
        path.split_once('/')
            .is_some_and(|(_, key)| self.secrets.contains_key(key))
    }

    pub(crate) fn handle(
        &mut self,
        operation: Operation,
        path: &str,
        sent: &Object,
        now: Timestamp,
    ) -> Outcome {
        let fields = Fields(sent);
        let (part, key) = path.split_once('/').unwrap_or((path, ""));
        match (part, operation) {
            ("config", Operation::Read) if key.is_empty() => Ok(self.read_config()),
            ("config", Operation::Write) if key.is_empty() => self.write_config(&fields),
            ("metadata", Operation::List) => Ok(Reply::keys(children(self.secrets.keys(), key))),
            ("data" | "metadata" | "delete" | "undelete" | "destroy", _) if key.is_empty() => {
                Ok(Reply::Under(StatusCode::NOT_FOUND, Envelope::warning(ROOT)))
            }
            ("data", Operation::Read) => self.read(key, &fields, now),
            ("data", Operation::Write) => self.write(key, &fields, now),
            ("data", Operation::Patch) => self.patch(key, &fields, now),
            ("data", Operation::Delete) => {
                if let Some(secret) = self.secrets.get_mut(key) {
                    let current = secret.current;
                    secret.delete(current, now);
                }
                Ok(Reply::Nothing)
            }
            ("delete", Operation::Write) => {
                self.each_version(key, &fields, |secret, version| secret.delete(version, now))
            }
            ("undelete", Operation::Write) => {
                let settings = self.config.delete_version_after;
                self.each_version(key, &fields, |secret, version| {
                    let deleted = secret.deleted_at(settings, now);
                    if let Some(version) = secret.versions.get_mut(&version).filter(|v| !v.destroyed) {
                        version.deleted = deleted;
                    }
                })
            }
            ("destroy", Operation::Write) => self.each_version(key, &fields, |secret, version| {
                if let Some(version) = secret.versions.get_mut(&version) {
                    version.destroyed = true;
                    version.data = None;
                }
            }),
            ("metadata", Operation::Read) => Ok(self.read_metadata(key)),
            ("metadata", Operation::Write) => self.write_metadata(key, &fields, now),
            ("metadata", Operation::Patch) => self.patch_metadata(key, sent, now),
            ("metadata", Operation::Delete) => {
                self.secrets.remove(key);
                Ok(Reply::Nothing)
            }
            ("subkeys", Operation::Read) => self.subkeys(key, &fields, now),
            ("config", _) if key.is_empty() => Err(Refusal::wrong_method()),
            ("data" | "delete" | "undelete" | "destroy" | "subkeys", _) => Err(Refusal::wrong_method()),
            _ => Ok(Reply::Under(
                StatusCode::NOT_FOUND,
                Envelope::warning(not_versioned(operation)),
            )),
        }
    }

    fn version<'s>(
        &'s self,
        key: &str,
        fields: &Fields<'_>,
    ) -> Result<Option<(&'s Secret, u64, &'s Version)>, Refusal> {
        let asked = fields.whole("version")?.unwrap_or(0);
        Ok(self.secrets.get(key).and_then(|secret| {
            let number = u64::try_from(asked)
                .ok()
                .filter(|n| *n > 0)
                .unwrap_or(secret.current);
            Some((secret, number, secret.versions.get(&number)?))
        }))
    }

    fn read(&self, key: &str, fields: &Fields<'_>, now: Timestamp) -> Outcome {
        let Some((secret, number, version)) = self.version(key, fields)? else {
            return Ok(Reply::Nothing);
        };
        let data = version.readable(now);
        let envelope = Envelope::data(object(json!({
            "data": data,
            "metadata": metadata_of(secret, number, version),
        })));
        Ok(match data {
            Some(_) => Reply::Envelope(envelope),
            None => Reply::Under(StatusCode::NOT_FOUND, envelope),
        })
    }

    fn subkeys(&self, key: &str, fields: &Fields<'_>, now: Timestamp) -> Outcome {
        let depth = fields.whole("depth")?.unwrap_or(0);
        let Some((secret, number, version)) = self.version(key, fields)? else {
            return Ok(Reply::Nothing);
        };
        let data = version.readable(now);
        let envelope = Envelope::data(object(json!({
            "subkeys": data.map(|data| without_values(data, depth, 1)),
            "metadata": metadata_of(secret, number, version),
        })));
        Ok(match data {
            Some(_) => Reply::Envelope(envelope),
            None => Reply::Under(StatusCode::NOT_FOUND, envelope),
        })
    }

    fn write(&mut self, key: &str, fields: &Fields<'_>, now: Timestamp) -> Outcome {
        let data = sent_data(fields)?;
        let secret = self.secrets.get(key);
        self.config.check_and_set(secret, fields)?;
        Ok(self.add(key, data, now))
    }

    fn patch(&mut self, key: &str, fields: &Fields<'_>, now: Timestamp) -> Outcome {
        let change = sent_data(fields)?;
        let Some(secret) = self.secrets.get(key) else {
            return Ok(Reply::Bare(StatusCode::NOT_FOUND));
        };
        self.config.check_and_set(Some(secret), fields)?;
        let Some(version) = secret.versions.get(&secret.current) else {
            return Ok(Reply::Bare(StatusCode::NOT_FOUND));
        };
        let Some(data) = version.readable(now) else {
            let data = metadata_of(secret, secret.current, version);
            return Ok(Reply::Under(StatusCode::NOT_FOUND, Envelope::data(object(data))));
        };
        let mut data = data.clone();
        merge(&mut data, change);
        Ok(self.add(key, data, now))
    }

    fn add(&mut self, key: &str, data: Object, now: Timestamp) -> Reply {
        let settings = self.config.delete_version_after;
        let kept = self.config.max_versions;
        let secret = self
            .secrets
            .entry(key.to_owned())
            .or_insert_with(|| Secret::new(now));
        secret.current += 1;
        secret.updated = now;
        let version = Version {
            data: Some(data),
            created: now,
            deleted: secret.deleted_at(settings, now),
            destroyed: false,
        };
        secret.versions.insert(secret.current, version);
        let kept = match secret.max_versions.max(kept) {
            0 => KEPT_VERSIONS,
            kept => kept,
        };
        if secret.current - secret.oldest >= kept {
            secret.oldest = secret.current - kept + 1;
            secret.versions = secret.versions.split_off(&secret.oldest);
        }
        let written = &secret.versions[&secret.current];
        Reply::data(object(metadata_of(secret, secret.current, written)))
    }

    fn each_version(
        &mut self,
        key: &str,
        fields: &Fields<'_>,
        mut act: impl FnMut(&mut Secret, u64),
    ) -> Outcome {
        let versions = fields.wholes("versions")?;
        if versions.is_empty() {
            return Err(Refusal::bad_request("No version number provided"));
        }
        if let Some(secret) = self.secrets.get_mut(key) {
            for version in versions {
                act(secret, u64::try_from(version).unwrap_or(0));
            }
        }
        Ok(Reply::Nothing)
    }

    fn read_config(&self) -> Reply {
        Reply::data(object(json!({
            "max_versions": self.config.max_versions,
            "cas_required": self.config.cas_required,
            "delete_version_after": go_duration(self.config.delete_version_after),
        })))
    }

    fn write_config(&mut self, fields: &Fields<'_>) -> Outcome {
        let max_versions = fields.whole("max_versions")?;
        let cas_required = fields.truth("cas_required")?;
        let delete_version_after = fields.seconds("delete_version_after")?;
        if let Some(max) = max_versions {
            self.config.max_versions = u64::try_from(max).unwrap_or(0);
        }
        if let Some(required) = cas_required {
            self.config.cas_required = required;
        }
        if let Some(seconds) = delete_version_after {
            self.config.delete_version_after = seconds.max(-1);
        }
        Ok(Reply::Nothing)
    }

    /// Whether the mount itself demands check-and-set.
    pub(super) fn demands_cas(&self) -> bool {
        self.config.cas_required
    }
}

impl Secret {
    fn delete(&mut self, number: u64, now: Timestamp) {
        if let Some(version) = self.versions.get_mut(&number)
            && version.readable(now).is_some()
        {
            version.deleted = Some(now);
        }
    }

    /// When a version that is written (or brought back) now will delete itself: the shorter of both settings.
    fn deleted_at(&self, mount: i64, now: Timestamp) -> Option<Timestamp> {
        if mount < 0 {
            return None;
        }
        [mount, self.delete_version_after]
            .into_iter()
            .filter(|seconds| *seconds > 0)
            .min()
            .map(|seconds| after(now, seconds))
    }
}

impl Config {
    fn check_and_set(&self, secret: Option<&Secret>, fields: &Fields<'_>) -> Result<(), Refusal> {
        let options = fields.object("options")?.unwrap_or_default();
        let current = secret.map_or(0, |secret| secret.current);
        let required = self.cas_required || secret.is_some_and(|secret| secret.cas_required);
        let options = Fields(&options);
        if options.sent("cas").is_none() {
            return if required {
                Err(Refusal::bad_request(
                    "check-and-set parameter required for this call",
                ))
            } else {
                Ok(())
            };
        }
        let asked = options
            .whole("cas")
            .map_err(|_| Refusal::bad_request("error parsing check-and-set parameter"))?
            .unwrap_or(0);
        if u64::try_from(asked).ok() == Some(current) {
            Ok(())
        } else {
            Err(Refusal::bad_request(
                "check-and-set parameter did not match the current version",
            ))
        }
    }
}

fn sent_data(fields: &Fields<'_>) -> Result<Object, Refusal> {
    if fields.sent("data").is_none() {
        return Err(Refusal::bad_request("no data provided"));
    }
    // `null` is taken for an empty object, as Vault does.
    Ok(fields.object("data")?.unwrap_or_default())
}

fn metadata_of(secret: &Secret, number: u64, version: &Version) -> Value {
    json!({
        "created_time": version.created.to_string(),
        "custom_metadata": secret.custom_metadata,
        "deletion_time": moment(version.deleted),
        "destroyed": version.destroyed,
        "version": number,
    })
}

/// Empty when there is none.
pub(super) fn moment(time: Option<Timestamp>) -> String {
    time.map(|time| time.to_string()).unwrap_or_default()
}

/// JSON merge patch (RFC 7386).
fn merge(target: &mut Object, change: Object) {
    for (key, value) in change {
        match value {
            Value::Null => {
                target.shift_remove(&key);
            }
            Value::Object(change) => {
                let inner = target.entry(key).or_insert(Value::Null);
                if !inner.is_object() {
                    *inner = Value::Object(Object::new());
                }
                if let Value::Object(inner) = inner {
                    merge(inner, change);
                }
            }
            value => {
                target.insert(key, value);
            }
        }
    }
}

fn without_values(data: &Object, depth: i64, level: i64) -> Value {
    let shown = data.iter().map(|(key, value)| {
        let value = match value {
            Value::Object(inner) if !inner.is_empty() && (depth <= 0 || level < depth) => {
                without_values(inner, depth, level + 1)
            }
            _ => Value::Null,
        };
        (key.clone(), value)
    });
    Value::Object(shown.collect())
}

const ROOT: &str = "Non-listing operations on the root of a K/V v2 mount are not supported.";

fn not_versioned(operation: Operation) -> String {
    let command = match operation {
        Operation::Read => "get",
        Operation::List => "list",
        Operation::Write => "put",
        Operation::Patch => "patch",
        Operation::Delete => "delete",
    };
    format!(
        "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use. \
         If using the Vault CLI, use 'vault kv {command}' for this operation."
    )
}
