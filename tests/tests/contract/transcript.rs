//! What was asked and what came back, with everything that differs from run to run taken out.
use crate::target::Target;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A conversation with a target.
pub(crate) struct Transcript<'t> {
    pub(crate) target: &'t Target,
    text: String,
    /// What a scene has been given by name: tokens, accessors, ids. Their values never show.
    names: BTreeMap<String, String>,
}

/// Fields whose values are drawn or counted from a clock: their kind is shown.
const DRAWN: &[&str] = &[
    "accessor",
    "client_token",
    "created_time",
    "creation_time",
    "deletion_time",
    "updated_time",
    "expire_time",
    "explicit_max_ttl",
    "id",
    "issue_time",
    "last_renewal",
    "last_renewal_time",
    "migration_id",
    "role_id",
    "secret_id",
    "secret_id_accessor",
    "time",
    "ttl",
    "uuid",
];

/// Fields that some versions and some products have and others have not, and that no client of ours looks at.
const PRODUCT: &[&str] = &[
    "request_id",
    // Identities are no part of the dev store.
    "entity_id",
    "build_date",
    "cluster_id",
    "cluster_name",
    "mount_type",
    "mount_running_plugin_version",
    "mount_class",
    "namespace_path",
    "namespace",
    "num_uses",
    "local_secret_ids",
    "last_updated_time",
    "last_updated_by",
    "created_by",
    "deleted_by",
    "alias_metadata",
    "current_metadata_version",
    "metadata_cas_required",
    "strictly_bind_secret_id",
    "token_strictly_bind_ip",
];

impl<'t> Transcript<'t> {
    pub(crate) fn new(target: &'t Target) -> Transcript<'t> {
        Transcript {
            target,
            text: String::new(),
            names: BTreeMap::new(),
        }
    }

    /// A heading.
    pub(crate) fn say(&mut self, what: &str) {
        let _ = writeln!(self.text, "\n# {what}");
    }

    /// Asks with the root token.
    pub(crate) async fn root(&mut self, method: &str, path: &str, body: Value) -> Value {
        let token = self.target.token.clone();
        self.names.insert("root".to_owned(), token);
        self.ask("root", method, path, &[], body).await
    }

    /// The same, with headers.
    pub(crate) async fn ask_root(
        &mut self,
        headers: &[(&str, &str)],
        method: &str,
        path: &str,
        body: Value,
    ) -> Value {
        let token = self.target.token.clone();
        self.names.insert("root".to_owned(), token);
        self.ask("root", method, path, headers, body).await
    }

    /// Asks with the token of that name (`-`: without any).
    pub(crate) async fn ask(
        &mut self,
        who: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> Value {
        let token = match who {
            "-" => None,
            name => Some(self.names.get(name).expect("a token of that name").clone()),
        };
        let (path, sent) = (self.filled(path), self.filled(&body.to_string()));
        let body_sent = serde_json::from_str(&sent).unwrap();
        let (status, answer) = self
            .target
            .ask(method, &path, token.as_deref(), headers, &body_sent)
            .await;
        let _ = write!(self.text, "{who}: {method} {}", self.hidden(&path));
        for (name, value) in headers {
            let _ = write!(self.text, " [{name}: {value}]");
        }
        if !body.is_null() {
            let _ = write!(self.text, " {body}");
        }
        let shown = self.hidden(&plain(&answer, "").to_string());
        let _ = writeln!(self.text, "\n  {status} {shown}");
        answer
    }

    /// Gives a value of an answer a name: `{name}` stands for it from now on.
    pub(crate) fn name(&mut self, name: &str, value: &Value) {
        let value = value.as_str().expect("a text to give a name to").to_owned();
        self.names.insert(name.to_owned(), value);
    }

    fn filled(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.names {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        text
    }

    fn hidden(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.names {
            text = text.replace(value.as_str(), &format!("{{{name}}}"));
        }
        text
    }

    pub(crate) fn end(self) -> String {
        self.text
    }
}

fn plain(value: &Value, key: &str) -> Value {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<_> = fields.keys().filter(|k| !PRODUCT.contains(&k.as_str())).collect();
            names.sort();
            let fields = names
                .into_iter()
                // What is null in one product is absent in another.
                .filter(|name| !fields[*name].is_null() || ["data", "auth"].contains(&name.as_str()))
                .map(|name| (name.clone(), plain(&fields[name], name)))
                .collect::<Map<_, _>>();
            Value::Object(fields)
        }
        Value::Array(all) if key == "errors" || key == "warnings" => all
            .iter()
            .map(|one| error(one.as_str().unwrap_or_default()))
            .collect(),
        Value::Array(all) => all.iter().map(|one| plain(one, "")).collect(),
        // A product's; a secret's is a number.
        Value::String(_) if key == "version" => "<text>".into(),
        Value::String(text) if DRAWN.contains(&key) && !text.is_empty() => "<text>".into(),
        Value::Number(n) if DRAWN.contains(&key) && n.as_f64() != Some(0.0) => "<number>".into(),
        other => other.clone(),
    }
}

/// Errors are for people, and products word them differently; what a client may match on stays as it is.
fn error(text: &str) -> Value {
    const MATCHED: &[&str] = &[
        "permission denied",
        "missing client token",
        "Vault is sealed",
        "no handler for route",
        "unsupported operation",
        "unsupported path",
        "check-and-set parameter",
        "namespace not found",
        "invalid secret id",
        "invalid role",
    ];
    MATCHED
        .iter()
        .find(|known| text.contains(**known))
        .map_or_else(|| "<text>".into(), |known| format!("…{known}…").into())
}
