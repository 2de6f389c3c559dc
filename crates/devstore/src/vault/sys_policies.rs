//! `sys/policies/acl/…`, and `sys/policy/…` as it was called before.
use super::fields::Fields;
use super::policy::Policy;
use super::request::{Operation, Request};
use super::response::{Envelope, Outcome, Refusal, Reply, object};
use super::state::{Caller, State};
use serde_json::json;

/// `old`: the field is called `rules` too, and the data stands in the top level as well.
pub(crate) fn handle(
    state: &mut State,
    caller: &Caller,
    request: &Request,
    name: &str,
    old: bool,
) -> Outcome {
    let fields = Fields(&request.fields);
    let space = state.space(&caller.namespace)?;
    let name = name.trim_end_matches('/');
    if name.is_empty() {
        if !matches!(request.operation, Operation::List | Operation::Read) {
            return Err(Refusal::wrong_method());
        }
        let mut names: Vec<String> = space.policies.keys().cloned().collect();
        if caller.namespace.is_empty() {
            names.push("root".to_owned());
        }
        let mut data = object(json!({ "keys": names }));
        if old {
            data.insert("policies".to_owned(), json!(names));
        }
        return Ok(Reply::Envelope(Envelope {
            data_on_top: old,
            ..Envelope::data(data)
        }));
    }
    let lower = name.to_lowercase();
    match request.operation {
        Operation::Read => {
            let text = match space.policies.get(&lower) {
                Some(policy) => policy.text.as_str(),
                None if lower == "root" && caller.namespace.is_empty() => "",
                None => return Ok(Reply::Nothing),
            };
            let field = if old { "rules" } else { "policy" };
            Ok(Reply::Envelope(Envelope {
                data_on_top: old,
                ..Envelope::data(object(json!({ "name": lower, field: text })))
            }))
        }
        Operation::Write => {
            if lower == "root" {
                return Err(Refusal::bad_request("cannot update \"root\" policy"));
            }
            let mut text = fields.text("policy")?.unwrap_or_default();
            if text.is_empty() && old {
                text = fields.text("rules")?.unwrap_or_default();
            }
            if text.is_empty() {
                return Err(Refusal::bad_request("'policy' parameter not supplied or empty"));
            }
            let policy = Policy::parse(&text).map_err(Refusal::bad_request)?;
            space.policies.insert(lower.clone(), policy);
            Ok(Reply::done(if lower == name {
                Vec::new()
            } else {
                vec![format!("policy name was converted to {lower}")]
            }))
        }
        Operation::Delete => {
            if lower == "root" || lower == "default" {
                return Err(Refusal::bad_request(format!("cannot delete {lower:?} policy")));
            }
            space.policies.remove(&lower);
            Ok(Reply::Nothing)
        }
        _ => Err(Refusal::wrong_method()),
    }
}
