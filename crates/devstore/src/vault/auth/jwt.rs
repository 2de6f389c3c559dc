//! JWT logins: a token of anybody whose public key was configured.
use super::Granted;
use super::role::TokenSettings;
use crate::jws::{Jws, Key};
use crate::vault::fields::Fields;
use crate::vault::request::Operation;
use crate::vault::response::{Object, Outcome, Refusal, Reply, object};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Clocks may differ by this many seconds where the role does not say.
const LEEWAY: i64 = 60;

/// The configuration and the roles of one mount.
#[derive(Default)]
pub(crate) struct Store {
    config: Option<Config>,
    roles: BTreeMap<String, Role>,
}

struct Config {
    pems: Vec<String>,
    keys: Vec<Key>,
    issuer: String,
    default_role: String,
}

#[derive(Clone, Default)]
struct Role {
    user_claim: String,
    audiences: Vec<String>,
    subject: String,
    claims: Object,
    leeway: i64,
    settings: TokenSettings,
}

impl Store {
    pub(super) fn has_role(&self, name: &str) -> bool {
        self.roles.contains_key(&name.to_lowercase())
    }

    pub(super) fn log_in(&self, fields: &Fields<'_>, now: Timestamp) -> Result<Granted, Refusal> {
        let refuse = |why: &str| Refusal::bad_request(format!("error validating token: {why}"));
        let config = self
            .config
            .as_ref()
            .ok_or_else(|| Refusal::bad_request("could not load configuration"))?;
        let asked = fields.text("role")?.filter(|name| !name.is_empty());
        let name = asked
            .unwrap_or_else(|| config.default_role.clone())
            .to_lowercase();
        if name.is_empty() {
            return Err(Refusal::bad_request("missing role"));
        }
        let role = self
            .roles
            .get(&name)
            .ok_or_else(|| Refusal::bad_request(format!("role {name:?} could not be found")))?;
        let token = fields.text("jwt")?.unwrap_or_default();
        if token.is_empty() {
            return Err(Refusal::bad_request("missing token"));
        }
        let token = Jws::read(token.trim()).ok_or_else(|| refuse("malformed token"))?;
        if !token.verified(&config.keys) {
            return Err(refuse(
                "error verifying token signature: no known key successfully validated the token signature",
            ));
        }
        let leeway = match role.leeway {
            0 => LEEWAY,
            seconds => seconds.max(0),
        };
        if let Some(why) = token.untimely_at_login(now, leeway) {
            return Err(refuse(why));
        }
        if !config.issuer.is_empty() && token.text("iss") != Some(&config.issuer) {
            return Err(refuse("invalid issuer (iss) claim"));
        }
        if !role.subject.is_empty() && token.text("sub") != Some(&role.subject) {
            return Err(refuse("invalid subject (sub) claim"));
        }
        let audiences = token.audiences();
        if role.audiences.is_empty() && !audiences.is_empty() {
            return Err(Refusal::bad_request(
                "audience claim found in JWT but no audiences bound to the role",
            ));
        }
        if !role.audiences.is_empty()
            && !role
                .audiences
                .iter()
                .any(|bound| audiences.contains(&bound.as_str()))
        {
            return Err(refuse(
                "invalid audience (aud) claim: audience claim does not match any expected audience",
            ));
        }
        for (claim, bound) in &role.claims {
            if !matches_bound(named(&token.claims, claim), bound) {
                return Err(Refusal::bad_request(format!(
                    "error validating claims: claim {claim:?} does not match any associated bound claim values"
                )));
            }
        }
        let user = named(&token.claims, &role.user_claim)
            .and_then(Value::as_str)
            .ok_or_else(|| Refusal::bad_request(format!("claim {:?} not found in token", role.user_claim)))?;
        Ok(Granted {
            display_name: user.to_owned(),
            metadata: BTreeMap::from([("role".to_owned(), name.clone())]),
            role: name,
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
        for elsewhere in ["jwks_url", "oidc_discovery_url"] {
            if fields.text(elsewhere)?.is_some_and(|url| !url.is_empty()) {
                return Err(Refusal::bad_request(format!(
                    "this dev store fetches no keys: set jwt_validation_pubkeys instead of {elsewhere}"
                )));
            }
        }
        let pems = fields.list("jwt_validation_pubkeys")?.unwrap_or_default();
        if pems.is_empty() {
            return Err(Refusal::bad_request(
                "exactly one of 'jwt_validation_pubkeys', 'jwks_url' or 'oidc_discovery_url' must be set",
            ));
        }
        let keys = pems
            .iter()
            .map(|pem| Key::from_pem(pem))
            .collect::<Result<_, _>>()
            .map_err(|why| Refusal::bad_request(format!("error parsing public key: {why}")))?;
        Ok(Config {
            pems,
            keys,
            issuer: fields.text("bound_issuer")?.unwrap_or_default(),
            default_role: fields.text("default_role")?.unwrap_or_default(),
        })
    }

    fn show(&self) -> Reply {
        Reply::data(object(json!({
            "bound_issuer": self.issuer,
            "default_role": self.default_role,
            "jwks_url": "",
            "jwt_supported_algs": [],
            "jwt_validation_pubkeys": self.pems,
            "oidc_discovery_url": "",
        })))
    }
}

impl Role {
    fn update(&mut self, fields: &Fields<'_>) -> Result<(), Refusal> {
        match fields.text("role_type")?.as_deref() {
            Some("jwt") => {}
            Some("oidc") | None => {
                return Err(Refusal::bad_request(
                    "'allowed_redirect_uris' must be set if 'role_type' is 'oidc' or unspecified.",
                ));
            }
            Some(other) => return Err(Refusal::bad_request(format!("invalid 'role_type': {other}"))),
        }
        if fields
            .text("bound_claims_type")?
            .is_some_and(|kind| kind != "string")
        {
            return Err(Refusal::bad_request(
                "this dev store matches bound_claims_type \"string\" only",
            ));
        }
        self.settings.update(fields)?;
        if let Some(audiences) = fields.list("bound_audiences")? {
            self.audiences = audiences;
        }
        if let Some(subject) = fields.text("bound_subject")? {
            self.subject = subject;
        }
        if let Some(claims) = fields.object("bound_claims")? {
            self.claims = claims;
        }
        if let Some(claim) = fields.text("user_claim")? {
            self.user_claim = claim;
        }
        if let Some(leeway) = fields.seconds("clock_skew_leeway")? {
            self.leeway = leeway;
        }
        if self.user_claim.is_empty() {
            return Err(Refusal::bad_request("a user claim must be defined on the role"));
        }
        if self.audiences.is_empty() && self.subject.is_empty() && self.claims.is_empty() {
            return Err(Refusal::bad_request(
                "must have at least one bound constraint when creating/updating a role",
            ));
        }
        Ok(())
    }

    fn show(&self) -> Reply {
        let mut data: Object = object(json!({
            "bound_audiences": self.audiences,
            "bound_claims": self.claims,
            "bound_claims_type": "string",
            "bound_subject": self.subject,
            "clock_skew_leeway": self.leeway,
            "role_type": "jwt",
            "user_claim": self.user_claim,
        }));
        self.settings.show(&mut data);
        Reply::data(data)
    }
}

/// A claim by its name, or by a JSON pointer.
fn named<'c>(claims: &'c Object, name: &str) -> Option<&'c Value> {
    let Some(pointer) = name.strip_prefix('/') else {
        return claims.get(name);
    };
    let (first, rest) = match pointer.find('/') {
        Some(end) => pointer.split_at(end),
        None => (pointer, ""),
    };
    claims
        .get(&first.replace("~1", "/").replace("~0", "~"))?
        .pointer(rest)
}

/// One of the claim's values is one of the bound values.
fn matches_bound(claim: Option<&Value>, bound: &Value) -> bool {
    let many = |value: &Value| match value {
        Value::Array(values) => values.clone(),
        one => vec![one.clone()],
    };
    let Some(claim) = claim else {
        return false;
    };
    let bound = many(bound);
    many(claim).iter().any(|value| bound.contains(value))
}
