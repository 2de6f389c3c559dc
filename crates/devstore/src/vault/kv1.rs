//! KV version 1: a key holds the last value, no more.
use super::fields::Fields;
use super::response::{Envelope, Object, Outcome, Refusal, Reply};
use super::tokens::LONGEST;
use crate::vault::request::Operation;
use std::collections::BTreeMap;

/// One mount of this kind. It has no `Debug`: nothing prints a value.
#[derive(Default)]
pub(crate) struct Store {
    values: BTreeMap<String, Object>,
}

impl Store {
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.values.contains_key(path)
    }

    pub(crate) fn handle(&mut self, operation: Operation, path: &str, fields: &Object) -> Outcome {
        match operation {
            Operation::Read => Ok(match self.values.get(path) {
                None => Reply::Nothing,
                Some(value) => Reply::Envelope(Envelope {
                    lease_duration: lease(value),
                    ..Envelope::data(value.clone())
                }),
            }),
            Operation::List => Ok(Reply::keys(children(self.values.keys(), path))),
            Operation::Write if path.is_empty() => Err(Refusal::bad_request("missing path")),
            Operation::Write if fields.is_empty() => Err(Refusal::bad_request("missing data fields")),
            Operation::Write => {
                self.values.insert(path.to_owned(), fields.clone());
                Ok(Reply::Nothing)
            }
            Operation::Delete => {
                self.values.remove(path);
                Ok(Reply::Nothing)
            }
            Operation::Patch => Err(Refusal::wrong_method()),
        }
    }
}

/// A field `ttl` or `lease` becomes the lease duration: a hint from who writes to who reads.
fn lease(value: &Object) -> i64 {
    let fields = Fields(value);
    ["ttl", "lease"]
        .into_iter()
        .find(|name| value.contains_key(*name))
        .and_then(|name| fields.seconds(name).ok().flatten())
        .filter(|seconds| *seconds > 0)
        .unwrap_or(LONGEST)
}

/// What lies directly under a folder (`""` or ending in `/`): keys, and folders with a `/`.
pub(crate) fn children<'a>(keys: impl Iterator<Item = &'a String>, folder: &str) -> Vec<String> {
    let mut found: Vec<String> = keys
        .filter_map(|key| key.strip_prefix(folder))
        .filter(|rest| !rest.is_empty())
        .map(|rest| match rest.find('/') {
            Some(end) => rest[..=end].to_owned(),
            None => rest.to_owned(),
        })
        .collect();
    found.sort();
    found.dedup();
    found
}
