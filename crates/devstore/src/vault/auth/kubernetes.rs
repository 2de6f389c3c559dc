//! Kubernetes logins: a service account's token, which the cluster reviews.
//!
//! There is one cluster, the store's own, whatever `kubernetes_host` says.
use super::Granted;
use super::role::TokenSettings;
use crate::cluster::{Account, Cluster};
use crate::jws::{Jws, Key};
use crate::vault::fields::Fields;
use crate::vault::request::Operation;
use crate::vault::response::{Object, Outcome, Refusal, Reply, object};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;

/// Clocks may differ by this many seconds.
const LEEWAY: i64 = 60;

/// The configuration and the roles of one mount.
#[derive(Default)]
pub(crate) struct Store {
    config: Option<Config>,
    roles: BTreeMap<String, Role>,
}

struct Config {
    host: String,
    issuer: String,
    check_issuer: bool,
    pem_keys: Vec<String>,
    keys: Vec<Key>,
}

#[derive(Clone, Default)]
struct Role {
    names: Vec<String>,
    namespaces: Vec<String>,
    audience: String,
    settings: TokenSettings,
}

impl Store {
    pub(super) fn has_role(&self, name: &str) -> bool {
        self.roles.contains_key(&name.to_lowercase())
    }

    pub(super) fn log_in(
        &self,
        fields: &Fields<'_>,
        cluster: &Cluster,
        now: Timestamp,
    ) -> Result<Granted, Refusal> {
        let forbidden = |why: &str| Refusal::new(StatusCode::FORBIDDEN, why);
        let role_name = fields.required("role")?.to_lowercase();
        let token = fields.required("jwt")?;
        let role = self
            .roles
            .get(&role_name)
            .ok_or_else(|| Refusal::bad_request(format!("invalid role name {role_name:?}")))?;
        let config = self.config.as_ref().ok_or_else(|| {
            Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "could not load backend configuration",
            )
        })?;
        let token = Jws::read(token.trim()).ok_or_else(|| forbidden("error parsing token"))?;
        if !config.keys.is_empty() && !token.verified(&config.keys) {
            return Err(Refusal::unknown_token());
        }
        if config.check_issuer && token.text("iss") != Some(&config.issuer) {
            return Err(forbidden("invalid issuer (iss) claim"));
        }
        if let Some(why) = token.untimely(now, LEEWAY, false) {
            return Err(forbidden(why));
        }
        if !role.audience.is_empty() && !token.audiences().contains(&role.audience.as_str()) {
            return Err(forbidden(
                "invalid audience (aud) claim: audience claim does not match any expected audience",
            ));
        }
        let account =
            Account::claimed_by(&token).ok_or_else(|| forbidden("could not parse UID from claims"))?;
        if !listed(&role.names, &account.name) {
            return Err(forbidden("service account name not authorized"));
        }
        if !listed(&role.namespaces, &account.namespace) {
            return Err(forbidden("namespace not authorized"));
        }
        // Last, as it is a request to the cluster: forged, expired to the second, or of an account that is gone.
        let account = cluster.review(&token).ok_or_else(Refusal::unknown_token)?;
        let metadata = BTreeMap::from([
            ("role".to_owned(), role_name.clone()),
            ("service_account_name".to_owned(), account.name.clone()),
            ("service_account_namespace".to_owned(), account.namespace.clone()),
            ("service_account_secret_name".to_owned(), String::new()),
            ("service_account_uid".to_owned(), account.uid),
        ]);
        Ok(Granted {
            role: role_name,
            display_name: format!("{}-{}", account.namespace, account.name),
            metadata,
            settings: role.settings.clone(),
        })
    }

    pub(super) fn handle(&mut self, operation: Operation, path: &str, fields: &Fields<'_>) -> Outcome {
        let path = path.trim_end_matches('/');
        match (path, operation) {
            ("config", Operation::Read) => Ok(self.config.as_ref().map_or(Reply::Nothing, Config::show)),
            ("config", Operation::Write) => {
                self.config = Some(Config::read(fields)?);
                Ok(Reply::Nothing)
            }
            ("role", Operation::List) => Ok(Reply::keys(self.roles.keys().cloned().collect())),
            ("config" | "role", _) => Err(Refusal::wrong_method()),
            _ => match path.strip_prefix("role/") {
                Some(name) if !name.contains('/') => self.role(operation, &name.to_lowercase(), fields),
                _ => Err(Refusal::wrong_path()),
            },
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
                let mut role = self.roles.get(name).cloned().unwrap_or_default();
                role.update(fields)?;
                self.roles.insert(name.to_owned(), role);
                Ok(Reply::Nothing)
            }
            _ => Err(Refusal::wrong_method()),
        }
    }
}

impl Config {
    fn read(fields: &Fields<'_>) -> Result<Config, Refusal> {
        let host = fields.text("kubernetes_host")?.unwrap_or_default();
        if host.is_empty() {
            return Err(Refusal::bad_request("no host provided"));
        }
        let pem_keys = fields.list("pem_keys")?.unwrap_or_default();
        let keys = pem_keys
            .iter()
            .map(|pem| Key::from_pem(pem).map_err(Refusal::bad_request))
            .collect::<Result<_, _>>()?;
        Ok(Config {
            host,
            issuer: fields.text("issuer")?.unwrap_or_default(),
            check_issuer: !fields.truth("disable_iss_validation")?.unwrap_or(true),
            pem_keys,
            keys,
        })
    }

    fn show(&self) -> Reply {
        Reply::data(object(json!({
            "disable_iss_validation": !self.check_issuer,
            "disable_local_ca_jwt": false,
            "issuer": self.issuer,
            "kubernetes_ca_cert": "",
            "kubernetes_host": self.host,
            "pem_keys": self.pem_keys,
            "token_reviewer_jwt_set": false,
        })))
    }
}

impl Role {
    fn update(&mut self, fields: &Fields<'_>) -> Result<(), Refusal> {
        if fields
            .text("bound_service_account_namespace_selector")?
            .is_some_and(|selector| !selector.is_empty())
        {
            return Err(Refusal::bad_request(
                "this dev store does not enforce bound_service_account_namespace_selector",
            ));
        }
        self.settings.update(fields)?;
        for (field, bound) in [
            ("bound_service_account_names", &mut self.names),
            ("bound_service_account_namespaces", &mut self.namespaces),
        ] {
            if let Some(list) = fields.list(field)? {
                *bound = list;
            }
            if bound.is_empty() {
                return Err(Refusal::bad_request(format!("{field:?} can not be empty")));
            }
            if bound.len() > 1 && bound.iter().any(|name| name == "*") {
                return Err(Refusal::bad_request("can not mix \"*\" with values"));
            }
        }
        if let Some(audience) = fields.text("audience")? {
            self.audience = audience;
        }
        Ok(())
    }

    fn show(&self) -> Reply {
        let mut data: Object = object(json!({
            "alias_name_source": "serviceaccount_uid",
            "audience": self.audience,
            "bound_service_account_names": self.names,
            "bound_service_account_namespaces": self.namespaces,
        }));
        self.settings.show(&mut data);
        Reply::data(data)
    }
}

/// A `*` at the end, or alone, stands for anything.
fn listed(allowed: &[String], name: &str) -> bool {
    allowed.iter().any(|allowed| match allowed.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == allowed,
    })
}
