//! A Kubernetes cluster as a secret store sees it: it signs the tokens of service accounts and says which still count.
use crate::clock::{Clock, later};
use crate::identifiers;
use crate::jws::{Jws, Key, P256_PREFIX, compact};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Issues service account tokens as a kubelet mounts them: projected, with an audience, signed with ES256. The store's own
/// is [`DevStore::cluster`](crate::DevStore::cluster); another one's tokens are forgeries to it. Clones are handles on the
/// same cluster.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    clock: Clock,
    key: EcdsaKeyPair,
    /// The uid of each service account, by namespace and name: a deleted and recreated one has another.
    accounts: Mutex<HashMap<(String, String), String>>,
}

/// Who a token speaks for, once the cluster has looked at it.
pub(crate) struct Account {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl Cluster {
    /// A cluster with a key of its own.
    pub fn new(clock: Clock) -> Cluster {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect(
            "making a key needs random bytes and nothing else; without them no token can be made either",
        );
        let key = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random)
            .expect("it reads what it has just written itself");
        Cluster(Arc::new(Inner {
            clock,
            key,
            accounts: Mutex::default(),
        }))
    }

    /// The `iss` of its tokens.
    pub fn issuer(&self) -> &'static str {
        "https://kubernetes.default.svc.cluster.local"
    }

    /// The key that its tokens are checked with, in PEM: for `jwt_validation_pubkeys` and `pem_keys`.
    pub fn public_key_pem(&self) -> String {
        let der = [P256_PREFIX, self.0.key.public_key().as_ref()].concat();
        let text = STANDARD.encode(der);
        let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
        let (first, rest) = text.split_at(text.len().min(64));
        for line in [first, rest] {
            pem.push_str(line);
            pem.push('\n');
        }
        pem.push_str("-----END PUBLIC KEY-----\n");
        pem
    }

    /// A token for a service account, which comes into being with its first.
    pub fn service_account_token(
        &self,
        namespace: &str,
        name: &str,
        audience: &str,
        lifetime: Duration,
    ) -> SecretString {
        let uid = self
            .accounts()
            .entry((namespace.to_owned(), name.to_owned()))
            .or_insert_with(identifiers::uuid)
            .clone();
        let now = self.0.clock.now();
        self.sign(&json!({
            "aud": [audience],
            "exp": later(now, lifetime).as_second(),
            "iat": now.as_second(),
            "iss": self.issuer(),
            "jti": identifiers::uuid(),
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": { "name": name, "uid": uid },
            },
            "nbf": now.as_second(),
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
        }))
    }

    /// Any claims, signed with the cluster's key: for what a well-behaved cluster would never issue.
    pub fn sign(&self, claims: &Value) -> SecretString {
        let header = json!({ "alg": "ES256", "kid": "devstore", "typ": "JWT" });
        let token = compact(&header, claims, |message| {
            let signature = self.0.key.sign(&SystemRandom::new(), message);
            // Fails only without random bytes; an empty signature is one that nobody accepts.
            signature.map(|bytes| bytes.as_ref().to_vec()).unwrap_or_default()
        });
        SecretString::from(token)
    }

    /// Deletes a service account: its tokens count no more, whatever their time says.
    pub fn delete_service_account(&self, namespace: &str, name: &str) {
        self.accounts().remove(&(namespace.to_owned(), name.to_owned()));
    }

    pub(crate) fn key(&self) -> Key {
        Key::p256(self.0.key.public_key().as_ref())
    }

    /// The TokenReview: whose token it is, when it is genuine, in its time and of an account that is still there.
    pub(crate) fn review(&self, token: &Jws<'_>) -> Option<Account> {
        let genuine = token.verified(&[self.key()]) && token.text("iss") == Some(self.issuer());
        if !genuine || token.untimely(self.0.clock.now(), 0, true).is_some() {
            return None;
        }
        let claim = Account::claimed_by(token)?;
        let accounts = self.accounts();
        let uid = accounts.get(&(claim.namespace.clone(), claim.name.clone()))?;
        (*uid == claim.uid).then_some(claim)
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<(String, String), String>> {
        // The table is consistent between any two statements: a panic elsewhere does not make it wrong.
        self.0.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// What a token says of itself.
    pub(crate) fn claimed_by(token: &Jws<'_>) -> Option<Account> {
        let text = |pointer: &str| {
            let claims = token.claims.get("kubernetes.io")?;
            Some(claims.pointer(pointer)?.as_str()?.to_owned())
        };
        Some(Account {
            namespace: text("/namespace")?,
            name: text("/serviceaccount/name")?,
            uid: text("/serviceaccount/uid")?,
        })
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cluster")
    }
}
