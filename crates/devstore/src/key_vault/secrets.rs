//! What a key vault holds: secrets with their versions, live or deleted.
use super::problem::{self, Problem};
use crate::identifiers;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A value is at most this many bytes.
const LONGEST_VALUE: usize = 25 * 1024;
const MOST_TAGS: usize = 15;
const LONGEST_TAG: usize = 256;
/// Deleted secrets can be recovered for so many days.
const RECOVERABLE_DAYS: i64 = 90;

/// The secrets of one vault. It has no `Debug`: nothing prints a value.
pub(crate) struct Secrets {
    /// `https://myvault.vault.azure.net`: every id starts with it.
    base: String,
    /// By name in lower case: names that differ only in case are one.
    live: BTreeMap<String, Secret>,
    deleted: BTreeMap<String, Deleted>,
}

struct Secret {
    /// As it was first written.
    name: String,
    /// Oldest first; the last is the current one, whatever its state. Never empty.
    versions: Vec<Version>,
}

struct Deleted {
    secret: Secret,
    at: i64,
    purged_at: i64,
}

/// Times are whole seconds: the service has no finer ones.
#[derive(Clone)]
struct Version {
    id: String,
    value: String,
    content_type: Option<String>,
    enabled: bool,
    not_before: Option<i64>,
    expires: Option<i64>,
    created: i64,
    updated: i64,
    tags: Option<BTreeMap<String, String>>,
}

/// What a list shows: the items and whether the next page starts with this name or version.
pub(crate) struct Page {
    pub(crate) items: Vec<Value>,
    pub(crate) next: Option<String>,
}

impl Secrets {
    pub(crate) fn new(base: String) -> Secrets {
        Secrets {
            base,
            live: BTreeMap::new(),
            deleted: BTreeMap::new(),
        }
    }

    /// The current version, or the one of that id.
    pub(crate) fn get(&self, name: &str, version: Option<&str>) -> Result<Value, Problem> {
        let secret = self.live(name)?;
        let version = secret
            .version(version)
            .ok_or_else(|| problem::secret_not_found(name))?;
        if !version.enabled {
            return Err(problem::disabled());
        }
        Ok(self.bundle(secret, version, true))
    }

    pub(crate) fn set(
        &mut self,
        name: &str,
        body: &Map<String, Value>,
        now: Timestamp,
    ) -> Result<Value, Problem> {
        valid_name(name)?;
        let key = name.to_lowercase();
        if self.deleted.contains_key(&key) {
            return Err(problem::deleted_but_recoverable(name));
        }
        let value = match body.get("value") {
            Some(Value::String(value)) => value.clone(),
            _ => {
                return Err(problem::bad_parameter(
                    "The parameter value is missing or is not a string.",
                ));
            }
        };
        if value.len() > LONGEST_VALUE {
            return Err(problem::bad_parameter(
                "The secret value is too large: at most 25 kilobytes.",
            ));
        }
        let now = now.as_second();
        let mut version = Version {
            id: identifiers::hex(&identifiers::bytes::<16>()),
            value,
            content_type: None,
            enabled: true,
            not_before: None,
            expires: None,
            created: now,
            updated: now,
            tags: None,
        };
        version.change(body)?;
        let secret = self.live.entry(key).or_insert_with(|| Secret {
            name: name.to_owned(),
            versions: Vec::new(),
        });
        secret.versions.push(version.clone());
        let secret = self.live(name)?;
        Ok(self.bundle(secret, &version, true))
    }

    /// Changes what the body names; the value cannot be changed.
    pub(crate) fn update(
        &mut self,
        name: &str,
        version: Option<&str>,
        body: &Map<String, Value>,
        now: Timestamp,
    ) -> Result<Value, Problem> {
        let missing = || problem::secret_not_found(name);
        let secret = self.live.get_mut(&name.to_lowercase()).ok_or_else(missing)?;
        let found = match version {
            Some(id) => secret.versions.iter_mut().find(|version| version.id == id),
            None => secret.versions.last_mut(),
        };
        let found = found.ok_or_else(missing)?;
        let mut changed = found.clone();
        changed.change(body)?;
        changed.updated = now.as_second();
        *found = changed.clone();
        let secret = self.live(name)?;
        Ok(self.bundle(secret, &changed, false))
    }

    pub(crate) fn delete(&mut self, name: &str, now: Timestamp) -> Result<Value, Problem> {
        let key = name.to_lowercase();
        let secret = self
            .live
            .remove(&key)
            .ok_or_else(|| problem::secret_not_found(name))?;
        let at = now.as_second();
        let deleted = Deleted {
            secret,
            at,
            purged_at: at + RECOVERABLE_DAYS * 86_400,
        };
        let shown = self.deleted_bundle(&deleted);
        self.deleted.insert(key, deleted);
        Ok(shown)
    }

    pub(crate) fn get_deleted(&self, name: &str) -> Result<Value, Problem> {
        self.deleted
            .get(&name.to_lowercase())
            .map(|deleted| self.deleted_bundle(deleted))
            .ok_or_else(|| problem::deleted_not_found(name))
    }

    pub(crate) fn recover(&mut self, name: &str) -> Result<Value, Problem> {
        let key = name.to_lowercase();
        let deleted = self
            .deleted
            .remove(&key)
            .ok_or_else(|| problem::deleted_not_found(name))?;
        let current = deleted.secret.version(None).cloned();
        self.live.insert(key, deleted.secret);
        let secret = self.live(name)?;
        let current = current.ok_or_else(|| problem::secret_not_found(name))?;
        Ok(self.bundle(secret, &current, false))
    }

    pub(crate) fn purge(&mut self, name: &str) -> Result<(), Problem> {
        self.deleted
            .remove(&name.to_lowercase())
            .map(drop)
            .ok_or_else(|| problem::deleted_not_found(name))
    }

    /// Deleted secrets whose time is over are gone.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        self.deleted
            .retain(|_, deleted| now.as_second() < deleted.purged_at);
    }

    pub(crate) fn list(&self, from: &str, count: usize) -> Page {
        page(self.live.range(from.to_owned()..), count, |(key, secret)| {
            // Items show the current version without naming it.
            let mut item = secret.versions.last().map(Version::show).unwrap_or_default();
            item.insert(
                "id".to_owned(),
                json!(format!("{}/secrets/{}", self.base, secret.name)),
            );
            (key.clone(), Value::Object(item))
        })
    }

    pub(crate) fn list_deleted(&self, from: &str, count: usize) -> Page {
        page(self.deleted.range(from.to_owned()..), count, |(key, deleted)| {
            let mut item = self.deleted_bundle(deleted);
            item["id"] = json!(format!("{}/secrets/{}", self.base, deleted.secret.name));
            (key.clone(), item)
        })
    }

    pub(crate) fn list_versions(&self, name: &str, from: &str, count: usize) -> Result<Page, Problem> {
        let secret = self.live(name)?;
        let mut versions: Vec<&Version> = secret.versions.iter().collect();
        // By id, which says nothing of their age: nor does the service's order.
        versions.sort_by(|a, b| a.id.cmp(&b.id));
        let rest = versions.into_iter().filter(|version| version.id.as_str() >= from);
        Ok(page(rest, count, |version| {
            let mut item = self.bundle(secret, version, false);
            if let Value::Object(item) = &mut item {
                item.shift_remove("value");
            }
            (version.id.clone(), item)
        }))
    }

    fn live(&self, name: &str) -> Result<&Secret, Problem> {
        self.live
            .get(&name.to_lowercase())
            .ok_or_else(|| problem::secret_not_found(name))
    }

    fn bundle(&self, secret: &Secret, version: &Version, with_value: bool) -> Value {
        let mut bundle = Map::new();
        if with_value {
            bundle.insert("value".to_owned(), json!(version.value));
        }
        let id = format!("{}/secrets/{}/{}", self.base, secret.name, version.id);
        bundle.insert("id".to_owned(), json!(id));
        bundle.extend(version.show());
        Value::Object(bundle)
    }

    fn deleted_bundle(&self, deleted: &Deleted) -> Value {
        let mut bundle = match deleted.secret.version(None) {
            Some(version) => self.bundle(&deleted.secret, version, false),
            None => json!({}),
        };
        bundle["recoveryId"] = json!(format!("{}/deletedsecrets/{}", self.base, deleted.secret.name));
        bundle["deletedDate"] = json!(deleted.at);
        bundle["scheduledPurgeDate"] = json!(deleted.purged_at);
        bundle
    }
}

impl Secret {
    fn version(&self, id: Option<&str>) -> Option<&Version> {
        match id {
            Some(id) => self.versions.iter().find(|version| version.id == id),
            None => self.versions.last(),
        }
    }
}

impl Version {
    fn show(&self) -> Map<String, Value> {
        let mut attributes = Map::new();
        attributes.insert("enabled".to_owned(), json!(self.enabled));
        for (name, time) in [("nbf", self.not_before), ("exp", self.expires)] {
            if let Some(time) = time {
                attributes.insert(name.to_owned(), json!(time));
            }
        }
        attributes.insert("created".to_owned(), json!(self.created));
        attributes.insert("updated".to_owned(), json!(self.updated));
        attributes.insert("recoveryLevel".to_owned(), json!("Recoverable+Purgeable"));
        attributes.insert("recoverableDays".to_owned(), json!(RECOVERABLE_DAYS));
        let mut shown = Map::new();
        if let Some(content_type) = &self.content_type {
            shown.insert("contentType".to_owned(), json!(content_type));
        }
        shown.insert("attributes".to_owned(), Value::Object(attributes));
        if let Some(tags) = &self.tags {
            shown.insert("tags".to_owned(), json!(tags));
        }
        shown
    }

    fn change(&mut self, body: &Map<String, Value>) -> Result<(), Problem> {
        let wrong =
            |name: &str| problem::bad_parameter(&format!("The parameter {name} is of the wrong type."));
        match body.get("contentType") {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => self.content_type = Some(text.clone()),
            Some(_) => return Err(wrong("contentType")),
        }
        match body.get("attributes") {
            None | Some(Value::Null) => {}
            Some(Value::Object(attributes)) => {
                match attributes.get("enabled") {
                    None | Some(Value::Null) => {}
                    Some(Value::Bool(enabled)) => self.enabled = *enabled,
                    Some(_) => return Err(wrong("enabled")),
                }
                for (name, time) in [("nbf", &mut self.not_before), ("exp", &mut self.expires)] {
                    match attributes.get(name) {
                        None | Some(Value::Null) => {}
                        Some(value) => *time = Some(value.as_i64().ok_or_else(|| wrong(name))?),
                    }
                }
            }
            Some(_) => return Err(wrong("attributes")),
        }
        if let (Some(begins), Some(ends)) = (self.not_before, self.expires)
            && begins >= ends
        {
            return Err(problem::bad_parameter("The parameter nbf must be before exp."));
        }
        match body.get("tags") {
            None | Some(Value::Null) => {}
            Some(Value::Object(tags)) => self.tags = Some(checked_tags(tags)?),
            Some(_) => return Err(wrong("tags")),
        }
        Ok(())
    }
}

fn checked_tags(tags: &Map<String, Value>) -> Result<BTreeMap<String, String>, Problem> {
    if tags.len() > MOST_TAGS {
        return Err(problem::bad_parameter("At most 15 tags."));
    }
    tags.iter()
        .map(|(name, value)| match value {
            Value::String(value) if name.len() <= LONGEST_TAG && value.len() <= LONGEST_TAG => {
                Ok((name.clone(), value.clone()))
            }
            _ => Err(problem::bad_parameter(
                "Tags are texts of at most 256 characters.",
            )),
        })
        .collect()
}

/// Letters, digits and dashes.
pub(crate) fn valid_name(name: &str) -> Result<(), Problem> {
    let valid = !name.is_empty()
        && name.len() <= 127
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if valid {
        return Ok(());
    }
    Err(problem::bad_parameter(&format!(
        "The request URI contains an invalid name: {name}"
    )))
}

fn page<T>(mut items: impl Iterator<Item = T>, count: usize, show: impl Fn(T) -> (String, Value)) -> Page {
    let shown = items
        .by_ref()
        .take(count)
        .map(&show)
        .map(|(_, item)| item)
        .collect();
    Page {
        items: shown,
        next: items.next().map(|item| show(item).0),
    }
}
