//! AppRole: a role id that is no secret, and secret ids that are.
use super::Granted;
use super::role::TokenSettings;
use crate::identifiers;
use crate::vault::fields::Fields;
use crate::vault::request::Operation;
use crate::vault::response::{Outcome, Refusal, Reply, object};
use crate::vault::tokens::after;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The roles of one mount.
#[derive(Default)]
pub(crate) struct Store {
    roles: BTreeMap<String, Role>,
}

struct Role {
    role_id: String,
    secret_id_ttl: i64,
    secret_id_num_uses: u64,
    settings: TokenSettings,
    /// By the secret id itself. No `Debug` here: nothing prints one.
    secrets: BTreeMap<String, SecretId>,
}

struct SecretId {
    accessor: String,
    /// 0: as often as one likes.
    uses: u64,
    ttl: i64,
    created: Timestamp,
    updated: Timestamp,
    expires: Option<Timestamp>,
    metadata: BTreeMap<String, String>,
}

impl Store {
    pub(super) fn has_role(&self, name: &str) -> bool {
        self.roles.contains_key(&name.to_lowercase())
    }

    pub(super) fn log_in(&mut self, fields: &Fields<'_>, now: Timestamp) -> Result<Granted, Refusal> {
        // The real one looks for the role before it looks at the request, and stumbles.
        let role_id = fields
            .required("role_id")
            .map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "missing role_id"))?;
        let wrong = || Refusal::bad_request("invalid role or secret ID");
        let (name, role) = self
            .roles
            .iter_mut()
            .find(|(_, role)| role.role_id == role_id.trim())
            .ok_or_else(wrong)?;
        role.expire(now);
        let secret_id = fields.required("secret_id")?;
        let secret = role.secrets.get_mut(secret_id.trim()).ok_or_else(wrong)?;
        let mut metadata = secret.metadata.clone();
        let last = secret.uses == 1;
        secret.uses = secret.uses.saturating_sub(1);
        secret.updated = now;
        if last {
            role.secrets.remove(secret_id.trim());
        }
        metadata.insert("role_name".to_owned(), name.clone());
        Ok(Granted {
            role: name.clone(),
            display_name: String::new(),
            metadata,
            settings: role.settings.clone(),
        })
    }

    pub(super) fn handle(
        &mut self,
        operation: Operation,
        path: &str,
        fields: &Fields<'_>,
        now: Timestamp,
    ) -> Outcome {
        let path = path.trim_end_matches('/');
        if path == "role" {
            return match operation {
                Operation::List => Ok(Reply::keys(self.roles.keys().cloned().collect())),
                _ => Err(Refusal::wrong_method()),
            };
        }
        let rest = path.strip_prefix("role/").ok_or_else(Refusal::wrong_path)?;
        let (name, part) = rest.split_once('/').unwrap_or((rest, ""));
        let name = name.to_lowercase();
        if part.is_empty() {
            return self.role(operation, &name, fields);
        }
        let Some(role) = self.roles.get_mut(&name) else {
            return Err(Refusal::new(
                StatusCode::NOT_FOUND,
                format!("role {name:?} does not exist"),
            ));
        };
        role.expire(now);
        match (part, operation) {
            ("role-id", Operation::Read) => Ok(Reply::data(object(json!({ "role_id": role.role_id })))),
            ("role-id", Operation::Write) => {
                let role_id = fields.required("role_id")?;
                self.rename(&name, role_id)
            }
            ("secret-id", Operation::Write) => role.add(identifiers::uuid(), fields, now),
            ("secret-id", Operation::List) => Ok(Reply::keys(
                role.secrets
                    .values()
                    .map(|secret| secret.accessor.clone())
                    .collect(),
            )),
            ("custom-secret-id", Operation::Write) => role.add(fields.required("secret_id")?, fields, now),
            ("secret-id/lookup", Operation::Write) => {
                let secret_id = fields.required("secret_id")?;
                Ok(role
                    .secrets
                    .get(&secret_id)
                    .map_or(Reply::Nothing, |secret| Reply::data(object(secret.show()))))
            }
            ("secret-id/destroy", Operation::Write | Operation::Delete) => {
                let secret_id = fields.required("secret_id")?;
                role.secrets.remove(&secret_id);
                Ok(Reply::Nothing)
            }
            ("secret-id-accessor/lookup", Operation::Write) => {
                let secret_id = role.by_accessor(fields)?;
                Ok(Reply::data(object(role.secrets[&secret_id].show())))
            }
            ("secret-id-accessor/destroy", Operation::Write | Operation::Delete) => {
                let secret_id = role.by_accessor(fields)?;
                role.secrets.remove(&secret_id);
                Ok(Reply::Nothing)
            }
            (
                "role-id"
                | "secret-id"
                | "custom-secret-id"
                | "secret-id/lookup"
                | "secret-id/destroy"
                | "secret-id-accessor/lookup"
                | "secret-id-accessor/destroy",
                _,
            ) => Err(Refusal::wrong_method()),
            _ => Err(Refusal::wrong_path()),
        }
    }

    fn role(&mut self, operation: Operation, name: &str, fields: &Fields<'_>) -> Outcome {
        match operation {
            Operation::Read => Ok(self.roles.get(name).map_or(Reply::Nothing, Role::show)),
            Operation::Delete => {
                self.roles.remove(name);
                Ok(Reply::Nothing)
            }
            Operation::Write => {
                let known = self.roles.get(name);
                let mut settings = known.map(|role| role.settings.clone()).unwrap_or_default();
                settings.update(fields)?;
                let bind_secret_id = fields.truth("bind_secret_id")?;
                let secret_id_ttl = fields.seconds("secret_id_ttl")?;
                let secret_id_num_uses = uses(fields, "secret_id_num_uses")?;
                // Without a secret id only address ranges would guard the role, and those are not enforced here.
                if bind_secret_id == Some(false) {
                    return Err(Refusal::bad_request(
                        "at least one constraint should be enabled on the role",
                    ));
                }
                let role = self.roles.entry(name.to_owned()).or_insert_with(|| Role {
                    role_id: identifiers::uuid(),
                    secret_id_ttl: 0,
                    secret_id_num_uses: 0,
                    settings: TokenSettings::default(),
                    secrets: BTreeMap::new(),
                });
                role.settings = settings;
                if let Some(ttl) = secret_id_ttl {
                    role.secret_id_ttl = ttl.max(0);
                }
                if let Some(uses) = secret_id_num_uses {
                    role.secret_id_num_uses = uses;
                }
                match fields.text("role_id")?.filter(|id| !id.is_empty()) {
                    Some(role_id) => self.rename(name, role_id),
                    None => Ok(Reply::Nothing),
                }
            }
            _ => Err(Refusal::wrong_method()),
        }
    }

    fn rename(&mut self, name: &str, role_id: String) -> Outcome {
        if self
            .roles
            .iter()
            .any(|(other, role)| other != name && role.role_id == role_id)
        {
            return Err(Refusal::bad_request("role_id already in use"));
        }
        if let Some(role) = self.roles.get_mut(name) {
            role.role_id = role_id;
        }
        Ok(Reply::Nothing)
    }
}

impl Role {
    fn show(&self) -> Reply {
        let mut data = object(json!({
            "bind_secret_id": true,
            "local_secret_ids": false,
            "secret_id_bound_cidrs": null,
            "secret_id_num_uses": self.secret_id_num_uses,
            "secret_id_ttl": self.secret_id_ttl,
        }));
        self.settings.show(&mut data);
        Reply::data(data)
    }

    fn add(&mut self, secret_id: String, fields: &Fields<'_>, now: Timestamp) -> Outcome {
        for name in ["cidr_list", "token_bound_cidrs"] {
            if fields.list(name)?.is_some_and(|list| !list.is_empty()) {
                return Err(Refusal::bad_request(format!(
                    "this dev store does not enforce {name}"
                )));
            }
        }
        if self.secrets.contains_key(&secret_id) {
            return Err(Refusal::bad_request("SecretID is already registered"));
        }
        let ttl = fields.seconds("ttl")?.unwrap_or(self.secret_id_ttl).max(0);
        let uses = uses(fields, "num_uses")?.unwrap_or(self.secret_id_num_uses);
        let accessor = identifiers::uuid();
        let data = object(json!({
            "secret_id": secret_id,
            "secret_id_accessor": accessor,
            "secret_id_num_uses": uses,
            "secret_id_ttl": ttl,
        }));
        let secret = SecretId {
            accessor,
            uses,
            ttl,
            created: now,
            updated: now,
            expires: (ttl > 0).then(|| after(now, ttl)),
            metadata: fields.pairs("metadata")?.unwrap_or_default(),
        };
        self.secrets.insert(secret_id, secret);
        Ok(Reply::data(data))
    }

    fn expire(&mut self, now: Timestamp) {
        self.secrets
            .retain(|_, secret| secret.expires.is_none_or(|expires| now < expires));
    }

    fn by_accessor(&self, fields: &Fields<'_>) -> Result<String, Refusal> {
        let accessor = fields.required("secret_id_accessor")?;
        self.secrets
            .iter()
            .find(|(_, secret)| secret.accessor == accessor)
            .map(|(id, _)| id.clone())
            .ok_or_else(|| {
                Refusal::new(
                    StatusCode::NOT_FOUND,
                    "failed to find accessor entry for the given secret_id_accessor",
                )
            })
    }
}

impl SecretId {
    fn show(&self) -> Value {
        json!({
            "cidr_list": [],
            "creation_time": self.created.to_string(),
            "expiration_time": self.expires.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |at| at.to_string()),
            "last_updated_time": self.updated.to_string(),
            "metadata": self.metadata,
            "secret_id_accessor": self.accessor,
            "secret_id_num_uses": self.uses,
            "secret_id_ttl": self.ttl,
            "token_bound_cidrs": [],
        })
    }
}

fn uses(fields: &Fields<'_>, name: &str) -> Result<Option<u64>, Refusal> {
    fields
        .whole(name)?
        .map(|uses| {
            u64::try_from(uses).map_err(|_| Refusal::bad_request(format!("{name} cannot be negative")))
        })
        .transpose()
}
