//! One request through the store: who asks, in which namespace, may they, and who answers.
use super::acl::{Acl, Capabilities};
use super::auth::AuthMount;
use super::mounts::{self, Engine, Mount};
use super::policy::Policy;
use super::request::{Operation, Request};
use super::response::{Outcome, Refusal};
use super::tokens::{Lifetime, NewToken, Tokens};
use super::{sys, token_paths};
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::identifiers;
use http::StatusCode;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Everything that the Vault side knows. It has no `Debug`: nothing prints a value or a token.
pub(crate) struct State {
    pub(crate) clock: Clock,
    pub(crate) cluster: Cluster,
    pub(crate) sealed: bool,
    pub(crate) unseal_key: String,
    pub(crate) cluster_id: String,
    pub(crate) root_token: String,
    /// Whether `X-Vault-Namespace` means anything here.
    pub(crate) namespaces_enabled: bool,
    /// By path: `""` is the root, all others end in `/`.
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    pub(crate) tokens: Tokens,
    /// Moves that were asked for, by migration id.
    pub(crate) migrations: BTreeMap<String, (String, String)>,
}

/// One namespace: its own mounts, logins and policies.
pub(crate) struct Namespace {
    pub(crate) id: String,
    pub(crate) mounts: BTreeMap<String, Mount>,
    pub(crate) auths: BTreeMap<String, AuthMount>,
    pub(crate) policies: BTreeMap<String, Policy>,
}

/// What every token may do, whatever else it may.
const DEFAULT_POLICY: &str = r#"
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
path "sys/capabilities-self" { capabilities = ["update"] }
"#;

/// Paths that ask for `sudo` (or root) beside the plain capability.
const SUDO: &[&str] = &[
    "sys/auth/*",
    "sys/remount",
    "sys/seal",
    "auth/token/accessors/",
    "auth/token/create-orphan",
];

impl Namespace {
    pub(crate) fn new(id: &str) -> Namespace {
        let default =
            Policy::parse(DEFAULT_POLICY).expect("the default policy is a constant that a test parses");
        Namespace {
            id: id.to_owned(),
            mounts: BTreeMap::new(),
            auths: BTreeMap::new(),
            policies: BTreeMap::from([("default".to_owned(), default)]),
        }
    }
}

/// Who asks, where, when.
pub(crate) struct Caller {
    /// The namespace that the request is about.
    pub(crate) namespace: String,
    pub(crate) now: Timestamp,
    pub(crate) token: String,
    pub(crate) acl: Acl,
    /// Root, or the `sudo` capability on the path.
    pub(crate) sudo: bool,
}

/// A handled request: the outcome, and what the log wants to know.
pub(crate) struct Handled {
    pub(crate) outcome: Outcome,
    pub(crate) mount_type: &'static str,
    pub(crate) accessor: Option<String>,
}

impl Handled {
    fn refused(refusal: Refusal, mount_type: &'static str) -> Handled {
        Handled {
            outcome: Err(refusal),
            mount_type,
            accessor: None,
        }
    }
}

impl State {
    pub(crate) fn new(clock: Clock, cluster: Cluster, root_token: String, namespaces_enabled: bool) -> State {
        let mut root = Namespace::new("root");
        root.mounts
            .insert("secret/".to_owned(), Mount::kv(2, "key/value secret storage"));
        root.mounts.insert(
            "kv/".to_owned(),
            Mount::kv(1, "key/value secret storage, version 1"),
        );
        let mut state = State {
            sealed: false,
            unseal_key: identifiers::hex(&identifiers::bytes::<32>()),
            cluster_id: identifiers::uuid(),
            namespaces_enabled,
            namespaces: BTreeMap::from([(String::new(), root)]),
            tokens: Tokens::default(),
            migrations: BTreeMap::new(),
            root_token,
            clock,
            cluster,
        };
        let now = state.clock.now();
        state.tokens.issue(
            NewToken {
                id: Some(state.root_token.clone()),
                policies: vec!["root".to_owned()],
                path: "auth/token/root".to_owned(),
                meta: None,
                display_name: "root".to_owned(),
                uses: 0,
                parent: None,
                namespace: String::new(),
                life: Lifetime::default(),
                ttl: 0,
                renewable: false,
                login: None,
            },
            now,
        );
        state
    }

    pub(crate) fn forget_tokens(&mut self) {
        let root = self.root_token.clone();
        self.tokens.keep_only(&root);
    }

    /// Carries a request out, or refuses it.
    pub(crate) fn handle(&mut self, mut request: Request) -> Handled {
        if let Some(outcome) = sys::without_token(self, &request) {
            return Handled {
                outcome,
                mount_type: "system",
                accessor: None,
            };
        }
        if self.sealed {
            return Handled::refused(
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "Vault is sealed"),
                "system",
            );
        }
        let now = self.clock.now();
        self.tokens.expire(now);
        let namespace = match self.namespace_of(&mut request) {
            Ok(namespace) => namespace,
            Err(refusal) => return Handled::refused(refusal, "system"),
        };
        let mount_type = self.mount_type(&namespace, &request.path);
        if request.operation != Operation::Read
            && request.operation != Operation::List
            && request.path.ends_with('/')
        {
            return Handled::refused(
                Refusal::bad_request("cannot write to a path ending in '/'"),
                mount_type,
            );
        }
        if request.head_only {
            return Handled::refused(Refusal::wrong_method(), mount_type);
        }
        let accessor = request
            .token
            .as_deref()
            .and_then(|token| self.tokens.get(token))
            .map(|token| token.accessor.clone());
        let outcome = match super::auth::login(self, &namespace, &request, now) {
            Some(outcome) => outcome,
            None => self.with_token(namespace, &request, now),
        };
        Handled {
            outcome,
            mount_type,
            accessor,
        }
    }

    fn with_token(&mut self, namespace: String, request: &Request, now: Timestamp) -> Outcome {
        let id = request.token.clone().ok_or_else(Refusal::unknown_token)?;
        let acl = self.acl(&id).ok_or_else(Refusal::unknown_token)?;
        // A refused request is a use too.
        let last = self.tokens.take_use(&id);
        let outcome = self.allowed(namespace, request, now, &id, acl);
        if last {
            self.tokens.revoke(&id);
        }
        outcome
    }

    fn allowed(
        &mut self,
        namespace: String,
        request: &Request,
        now: Timestamp,
        id: &str,
        acl: Acl,
    ) -> Outcome {
        let full = format!("{namespace}{}", request.path);
        let lists = request.operation == Operation::List;
        let granted = acl.on(&full, lists);
        let ui_preflight = request.path.starts_with("sys/internal/ui/mounts");
        let sudo = granted.is_none_or(|granted| granted.has(Capabilities::SUDO));
        if let Some(granted) = granted.filter(|_| !ui_preflight) {
            let needed = match request.operation {
                Operation::Read => Capabilities::READ,
                Operation::List => Capabilities::LIST,
                Operation::Patch => Capabilities::PATCH,
                Operation::Delete => Capabilities::DELETE,
                Operation::Write if self.creates(&namespace, &request.path) => Capabilities::CREATE,
                Operation::Write => Capabilities::UPDATE,
            };
            if !granted.has(needed) || (needs_sudo(&request.path) && !sudo) {
                return Err(Refusal::denied());
            }
        }
        let caller = Caller {
            namespace,
            now,
            token: id.to_owned(),
            acl,
            sudo,
        };
        self.route(&caller, request)
    }

    fn route(&mut self, caller: &Caller, request: &Request) -> Outcome {
        let path = request.path.as_str();
        if let Some(rest) = path.strip_prefix("sys/") {
            return sys::handle(self, caller, request, rest);
        }
        if let Some(rest) = path.strip_prefix("auth/token/") {
            return token_paths::handle(self, caller, request, rest);
        }
        if path.starts_with("auth/") {
            return super::auth::handle(self, caller, request);
        }
        let space = self.space(&caller.namespace)?;
        let (_, mount, rest) =
            mounts::find(&mut space.mounts, path).ok_or_else(|| Refusal::no_route(path))?;
        match &mut mount.engine {
            Engine::Kv1(store) => store.handle(request.operation, &rest, &request.fields),
            Engine::Kv2(store) => store.handle(request.operation, &rest, &request.fields, caller.now),
        }
    }

    /// The namespace by its path.
    pub(crate) fn space(&mut self, namespace: &str) -> Result<&mut Namespace, Refusal> {
        self.namespaces
            .get_mut(namespace)
            .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "namespace not found"))
    }

    /// The policies of a token, put together; `None` when nobody knows the token.
    pub(crate) fn acl(&self, id: &str) -> Option<Acl> {
        let token = self.tokens.get(id)?;
        if token.is_root() {
            return Some(Acl::Root {
                namespace: token.namespace.clone(),
            });
        }
        let space = self.namespaces.get(&token.namespace)?;
        let rules = token
            .policies
            .iter()
            .filter_map(|name| space.policies.get(name))
            .flat_map(|policy| &policy.rules)
            .map(|rule| {
                let mut rule = rule.clone();
                rule.path.insert_str(0, &token.namespace);
                rule
            })
            .collect();
        Some(Acl::Rules(rules))
    }

    /// The namespace of a request, from its header and from the start of its path; the path becomes relative to it.
    fn namespace_of(&self, request: &mut Request) -> Result<String, Refusal> {
        if !self.namespaces_enabled {
            return Ok(String::new());
        }
        let header = request.namespace.as_deref().unwrap_or_default().trim_matches('/');
        let mut namespace = match header {
            "" | "root" => String::new(),
            header => format!("{header}/"),
        };
        if !self.namespaces.contains_key(&namespace) {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "namespace not found"));
        }
        let full = format!("{namespace}{}", request.path);
        if let Some(longest) = self
            .namespaces
            .keys()
            .filter(|known| known.len() > namespace.len() && full.starts_with(known.as_str()))
            .max_by_key(|known| known.len())
        {
            namespace.clone_from(longest);
            request.path = full[longest.len()..].to_owned();
        }
        Ok(namespace)
    }

    /// Whether a write would make something new: only engines and roles know; all else is an update.
    fn creates(&mut self, namespace: &str, path: &str) -> bool {
        let Some(space) = self.namespaces.get_mut(namespace) else {
            return false;
        };
        if path.starts_with("sys/") {
            return false;
        }
        if let Some(path) = path.strip_prefix("auth/") {
            return super::auth::creates(&mut space.auths, path);
        }
        match mounts::find(&mut space.mounts, path) {
            None => false,
            Some((_, mount, rest)) => match &mount.engine {
                Engine::Kv2(_) if !rest.starts_with("data/") && !rest.starts_with("metadata/") => false,
                _ => !mount.exists(&rest),
            },
        }
    }

    fn mount_type(&mut self, namespace: &str, path: &str) -> &'static str {
        if path.starts_with("sys/") {
            return "system";
        }
        if path.starts_with("auth/token/") {
            return "token";
        }
        let Some(space) = self.namespaces.get_mut(namespace) else {
            return "";
        };
        if let Some(path) = path.strip_prefix("auth/") {
            return mounts::find(&mut space.auths, path).map_or("", |(_, mount, _)| mount.kind());
        }
        mounts::find(&mut space.mounts, path).map_or("", |_| "kv")
    }
}

fn needs_sudo(path: &str) -> bool {
    SUDO.iter().any(|sudo| match sudo.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == *sudo,
    })
}
