//! Who may ask a key vault for what: identities, how they prove themselves, and the tokens they hold.
use crate::clock::later;
use crate::identifiers;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// An application or a managed identity of the tenant.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its client id (application id).
    pub client_id: String,
    /// How it proves that it is the one.
    pub proof: Proof,
    /// What it may do with secrets.
    pub rights: Rights,
    /// The only secrets it has a role on, by name; `None`: the whole vault. Listing needs the whole vault.
    pub secrets: Option<Vec<String>>,
}

/// How an identity proves itself.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A client secret.
    Secret(SecretString),
    /// A token of the store's [`Cluster`](crate::Cluster) with this subject (`system:serviceaccount:NAMESPACE:NAME`) and the
    /// audience `api://AzureADTokenExchange`: workload identity.
    Federated {
        /// The `sub` of the token.
        subject: String,
    },
    /// Whoever reaches the managed identity endpoint.
    Managed {
        /// The one that answers when nobody is named.
        system_assigned: bool,
    },
}

/// The operations on secrets, as access policies and roles grant them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the operation of that name")]
pub struct Rights {
    pub get: bool,
    pub list: bool,
    pub set: bool,
    pub delete: bool,
    pub recover: bool,
    pub purge: bool,
}

impl Rights {
    /// Everything.
    pub const ALL: Rights = Rights {
        get: true,
        list: true,
        set: true,
        delete: true,
        recover: true,
        purge: true,
    };
    /// The role *Key Vault Secrets User*: values and metadata, read only.
    pub const SECRETS_USER: Rights = Rights {
        get: true,
        list: true,
        ..Rights::NONE
    };
    /// Nothing.
    pub const NONE: Rights = Rights {
        get: false,
        list: false,
        set: false,
        delete: false,
        recover: false,
        purge: false,
    };

    pub(crate) fn allow(self, action: Action) -> bool {
        match action {
            Action::Get => self.get,
            Action::List => self.list,
            Action::Set => self.set,
            Action::Delete => self.delete,
            Action::Recover => self.recover,
            Action::Purge => self.purge,
        }
    }
}

/// What a request wants to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Get,
    List,
    Set,
    Delete,
    Recover,
    Purge,
}

impl Action {
    /// As role definitions call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Action::Get => "Microsoft.KeyVault/vaults/secrets/getSecret/action",
            Action::List => "Microsoft.KeyVault/vaults/secrets/readMetadata/action",
            Action::Set => "Microsoft.KeyVault/vaults/secrets/setSecret/action",
            Action::Delete => "Microsoft.KeyVault/vaults/secrets/delete",
            Action::Recover => "Microsoft.KeyVault/vaults/secrets/recover/action",
            Action::Purge => "Microsoft.KeyVault/vaults/secrets/purge/action",
        }
    }
}

/// The identities of the tenant and the tokens that were issued. It has no `Debug`: nothing prints a token.
#[derive(Default)]
pub(crate) struct Grants {
    pub(crate) identities: BTreeMap<String, Identity>,
    tokens: HashMap<String, Grant>,
}

/// What a token stands for.
pub(crate) struct Grant {
    pub(crate) client_id: String,
    pub(crate) audience: String,
    pub(crate) expires: Timestamp,
}

impl Grants {
    pub(crate) fn issue(
        &mut self,
        client_id: &str,
        audience: &str,
        lifetime: Duration,
        now: Timestamp,
    ) -> SecretString {
        self.tokens.retain(|_, grant| now < grant.expires);
        let token = identifiers::letters(64);
        let grant = Grant {
            client_id: client_id.to_owned(),
            audience: audience.to_owned(),
            expires: later(now, lifetime),
        };
        self.tokens.insert(token.clone(), grant);
        SecretString::from(token)
    }

    pub(crate) fn holder(&self, token: &str, now: Timestamp) -> Option<&Grant> {
        self.tokens.get(token).filter(|grant| now < grant.expires)
    }

    pub(crate) fn forget_tokens(&mut self) {
        self.tokens.clear();
    }
}

impl Identity {
    /// An identity with all rights on the whole vault.
    pub fn new(client_id: &str, proof: Proof) -> Identity {
        Identity {
            client_id: client_id.to_owned(),
            proof,
            rights: Rights::ALL,
            secrets: None,
        }
    }

    /// With these rights only.
    pub fn rights(self, rights: Rights) -> Identity {
        Identity { rights, ..self }
    }

    /// On this secret only.
    pub fn only(self, secret: &str) -> Identity {
        Identity {
            secrets: Some(vec![secret.to_owned()]),
            ..self
        }
    }

    pub(crate) fn has_secret(&self, given: &str) -> bool {
        matches!(&self.proof, Proof::Secret(secret) if identifiers::same(secret.expose_secret(), given))
    }

    /// `secret`: the one it is about; none for lists.
    pub(crate) fn may(&self, action: Action, secret: Option<&str>) -> bool {
        let in_scope = match (&self.secrets, secret) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(names), Some(secret)) => names.iter().any(|name| name.eq_ignore_ascii_case(secret)),
        };
        in_scope && self.rights.allow(action)
    }
}
