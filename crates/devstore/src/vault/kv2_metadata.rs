//! The settings of a KV version 2 key, apart from its values.
use super::fields::{Fields, go_duration};
use super::kv2::{Secret, Store, moment};
use super::response::{Object, Outcome, Refusal, Reply, object};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const MOST_KEYS: usize = 64;
const LONGEST_KEY: usize = 128;
const LONGEST_VALUE: usize = 512;

impl Store {
    pub(super) fn read_metadata(&self, key: &str) -> Reply {
        let Some(secret) = self.secrets.get(key) else {
            return Reply::Nothing;
        };
        let versions: Object = secret
            .versions
            .iter()
            .map(|(number, version)| {
                let version = json!({
                    "created_time": version.created.to_string(),
                    "deletion_time": moment(version.deleted),
                    "destroyed": version.destroyed,
                });
                (number.to_string(), version)
            })
            .collect();
        Reply::data(object(json!({
            "cas_required": secret.cas_required,
            "created_time": secret.created.to_string(),
            "current_version": secret.current,
            "custom_metadata": secret.custom_metadata,
            "delete_version_after": go_duration(secret.delete_version_after),
            "max_versions": secret.max_versions,
            "oldest_version": secret.oldest,
            "updated_time": secret.updated.to_string(),
            "versions": versions,
        })))
    }

    pub(super) fn write_metadata(&mut self, key: &str, fields: &Fields<'_>, now: Timestamp) -> Outcome {
        let Some(settings) = Settings::read(fields)? else {
            return Ok(Reply::Nothing);
        };
        let custom = fields.pairs("custom_metadata")?;
        if let Some(custom) = &custom {
            check_custom(custom)?;
        }
        let warnings = settings.warnings(self.demands_cas());
        let secret = self
            .secrets
            .entry(key.to_owned())
            .or_insert_with(|| Secret::new(now));
        settings.apply(secret, now);
        if custom.is_some() {
            secret.custom_metadata = custom;
        }
        Ok(Reply::done(warnings))
    }

    pub(super) fn patch_metadata(&mut self, key: &str, sent: &Object, now: Timestamp) -> Outcome {
        let Some(settings) = Settings::read(&Fields(sent))? else {
            return Ok(Reply::Nothing);
        };
        let warnings = settings.warnings(self.demands_cas());
        let Some(secret) = self.secrets.get_mut(key) else {
            return Ok(Reply::Bare(StatusCode::NOT_FOUND));
        };
        let mut custom = secret.custom_metadata.clone().unwrap_or_default();
        if let Some(change) = Fields(sent).object("custom_metadata")? {
            let texts = Fields(&change).texts()?;
            for (name, text) in texts {
                match text {
                    Some(text) => custom.insert(name, text),
                    None => custom.remove(&name),
                };
            }
            check_custom(&custom)?;
        }
        settings.apply(secret, now);
        secret.custom_metadata = (!custom.is_empty()).then_some(custom);
        Ok(Reply::done(warnings))
    }
}

struct Settings {
    max_versions: Option<i64>,
    cas_required: Option<bool>,
    delete_version_after: Option<i64>,
}

impl Settings {
    /// `None` when the request sets nothing at all, custom metadata included.
    fn read(fields: &Fields<'_>) -> Result<Option<Settings>, Refusal> {
        let settings = Settings {
            max_versions: fields.whole("max_versions")?,
            cas_required: fields.truth("cas_required")?,
            delete_version_after: fields.seconds("delete_version_after")?,
        };
        if settings.delete_version_after.is_some_and(|seconds| seconds < 0) {
            return Err(Refusal::bad_request(
                "cannot provide negative value for delete_version_after",
            ));
        }
        let any = [
            "max_versions",
            "cas_required",
            "delete_version_after",
            "custom_metadata",
        ]
        .into_iter()
        .any(|name| fields.sent(name).is_some());
        Ok(any.then_some(settings))
    }

    fn warnings(&self, mount_demands_cas: bool) -> Vec<String> {
        if mount_demands_cas && self.cas_required == Some(false) {
            vec![
                "\"cas_required\" set to false, but is mandated by backend config. This value will be ignored."
                    .to_owned(),
            ]
        } else {
            Vec::new()
        }
    }

    fn apply(&self, secret: &mut Secret, now: Timestamp) {
        secret.updated = now;
        if let Some(max) = self.max_versions {
            secret.max_versions = u64::try_from(max).unwrap_or(0);
        }
        if let Some(required) = self.cas_required {
            secret.cas_required = required;
        }
        if let Some(seconds) = self.delete_version_after {
            secret.delete_version_after = seconds;
        }
    }
}

fn check_custom(custom: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let refuse = |problem: String| {
        Err(Refusal::bad_request(format!(
            "custom_metadata validation failed: {problem}"
        )))
    };
    if custom.len() > MOST_KEYS {
        return refuse(format!(
            "payload must contain at most {MOST_KEYS} keys, provided {}",
            custom.len()
        ));
    }
    for (key, value) in custom {
        if key.is_empty() || key.len() > LONGEST_KEY {
            return refuse(format!(
                "length of key is {} but must be 0 < len(key) <= {LONGEST_KEY}",
                key.len()
            ));
        }
        if value.is_empty() || value.len() > LONGEST_VALUE {
            return refuse(format!(
                "length of value for key {key:?} is {} but must be 0 < len(value) <= {LONGEST_VALUE}",
                value.len()
            ));
        }
        if key.chars().chain(value.chars()).any(char::is_control) {
            return refuse(format!(
                "key {key:?} or its value contains unprintable characters"
            ));
        }
    }
    Ok(())
}

impl Fields<'_> {
    /// All fields as text; `null` stays apart, because a patch removes with it.
    fn texts(&self) -> Result<Vec<(String, Option<String>)>, Refusal> {
        self.0
            .iter()
            .map(|(name, value)| match value {
                Value::Null => Ok((name.clone(), None)),
                _ => Ok((name.clone(), self.text(name)?)),
            })
            .collect()
    }
}
