//! What every role says about the tokens that come from it.
use crate::vault::fields::Fields;
use crate::vault::response::{Object, Refusal};
use crate::vault::token_paths::clean;
use serde_json::json;

/// Lifetimes in seconds; 0 where the role does not say.
#[derive(Clone, Default)]
pub(crate) struct TokenSettings {
    named_policies: Vec<String>,
    no_default_policy: bool,
    pub(crate) ttl: i64,
    pub(crate) max_ttl: i64,
    pub(crate) explicit_max_ttl: i64,
    pub(crate) period: i64,
    pub(crate) num_uses: u64,
}

impl TokenSettings {
    /// Changes what the request names, under today's name or the one it had before.
    pub(crate) fn update(&mut self, fields: &Fields<'_>) -> Result<(), Refusal> {
        for name in [
            "token_bound_cidrs",
            "bound_cidrs",
            "bound_cidr_list",
            "secret_id_bound_cidrs",
        ] {
            if fields.list(name)?.is_some_and(|list| !list.is_empty()) {
                return Err(Refusal::bad_request(format!(
                    "this dev store does not enforce {name}"
                )));
            }
        }
        if fields
            .text("token_type")?
            .is_some_and(|kind| !matches!(kind.as_str(), "" | "service" | "default" | "default-service"))
        {
            return Err(Refusal::bad_request("this dev store makes service tokens only"));
        }
        if let Some(policies) = either(fields, "token_policies", "policies", Fields::list)? {
            if policies.iter().any(|policy| policy.eq_ignore_ascii_case("root")) {
                return Err(Refusal::bad_request(
                    "root policy cannot be granted by an auth method",
                ));
            }
            self.named_policies = clean(policies);
        }
        if let Some(no_default) = fields.truth("token_no_default_policy")? {
            self.no_default_policy = no_default;
        }
        for (now, before, setting) in [
            ("token_ttl", "ttl", &mut self.ttl),
            ("token_max_ttl", "max_ttl", &mut self.max_ttl),
            ("token_period", "period", &mut self.period),
            (
                "token_explicit_max_ttl",
                "explicit_max_ttl",
                &mut self.explicit_max_ttl,
            ),
        ] {
            if let Some(seconds) = either(fields, now, before, Fields::seconds)? {
                if seconds < 0 {
                    return Err(Refusal::bad_request(format!("{now} cannot be negative")));
                }
                *setting = seconds;
            }
        }
        if let Some(uses) = either(fields, "token_num_uses", "num_uses", Fields::whole)? {
            self.num_uses =
                u64::try_from(uses).map_err(|_| Refusal::bad_request("token_num_uses cannot be negative"))?;
        }
        if self.max_ttl > 0 && self.ttl > self.max_ttl {
            return Err(Refusal::bad_request(
                "token_ttl should not be greater than token_max_ttl",
            ));
        }
        Ok(())
    }

    /// The policies of a token that comes from the role.
    pub(crate) fn policies(&self) -> Vec<String> {
        let mut policies = self.named_policies.clone();
        if !self.no_default_policy {
            policies.push("default".to_owned());
        }
        clean(policies)
    }

    /// As a role shows them.
    pub(crate) fn show(&self, data: &mut Object) {
        data.insert("token_policies".to_owned(), json!(self.named_policies));
        data.insert("token_ttl".to_owned(), json!(self.ttl));
        data.insert("token_max_ttl".to_owned(), json!(self.max_ttl));
        data.insert("token_explicit_max_ttl".to_owned(), json!(self.explicit_max_ttl));
        data.insert("token_period".to_owned(), json!(self.period));
        data.insert("token_num_uses".to_owned(), json!(self.num_uses));
        data.insert(
            "token_no_default_policy".to_owned(),
            json!(self.no_default_policy),
        );
        data.insert("token_bound_cidrs".to_owned(), json!([]));
        data.insert("token_type".to_owned(), json!("default"));
    }
}

fn either<'f, T>(
    fields: &Fields<'f>,
    now: &str,
    before: &str,
    read: impl Fn(&Fields<'f>, &str) -> Result<Option<T>, Refusal>,
) -> Result<Option<T>, Refusal> {
    match read(fields, now)? {
        Some(value) => Ok(Some(value)),
        None => read(fields, before),
    }
}
