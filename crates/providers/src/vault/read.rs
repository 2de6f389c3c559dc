//! One GET, and what each answer means.
use super::client::{Answer, Client};
use crate::{Body, ConfigError, Fields, ReadError, Secret, Value, VaultConfig};
use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::time::SystemTime;
use tidegate_gate::{Name, Version};
use vaultrs::api::{kv1::requests::GetSecretRequest, kv2::requests::ReadSecretRequest};

/// Where a secret is.
#[derive(Debug)]
pub(super) struct SecretAt {
    kv: u8,
    mount: String,
    path: String,
    place: Name,
    /// Stands in for the version that KV 1 does not have. Keyed anew in each process: a digest that could be computed
    /// elsewhere would say something about the value.
    digest: RandomState,
}

impl fmt::Display for SecretAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

impl SecretAt {
    pub(super) fn new(config: &VaultConfig, address: Name) -> Result<SecretAt, ConfigError> {
        let mount = segments("mount", &config.mount)?;
        let path = segments("path", &config.path)?;
        let namespace = match config.namespace.as_deref().map(|n| n.trim_matches('/')) {
            None | Some("") => String::new(),
            Some(namespace) => format!(" in namespace {namespace}"),
        };
        Ok(SecretAt {
            kv: config.kv,
            place: format!("vault kv{} {mount}/{path}{namespace} at {address}", config.kv).into(),
            mount,
            path,
            digest: RandomState::new(),
        })
    }

    /// The paths by which the secret can be changed or taken away, the one that is read first.
    pub(super) fn ways_in(&self) -> Vec<String> {
        let (mount, path) = (&self.mount, &self.path);
        match self.kv {
            1 => vec![format!("{mount}/{path}")],
            _ => ["data", "metadata", "delete", "undelete", "destroy"]
                .map(|way| format!("{mount}/{way}/{path}"))
                .into(),
        }
    }

    pub(super) async fn read(&self, client: &Client, token: &SecretString) -> Result<Secret, ReadError> {
        let answer = match self.kv {
            1 => {
                let request = GetSecretRequest {
                    mount: self.mount.clone(),
                    path: self.path.clone(),
                };
                client.send(&request, Some(token)).await?
            }
            _ => {
                let request = ReadSecretRequest {
                    mount: self.mount.clone(),
                    path: self.path.clone(),
                    version: None,
                };
                client.send(&request, Some(token)).await?
            }
        };
        match (answer.status, self.kv) {
            (StatusCode::OK, 1) => self.kv1(&answer),
            (StatusCode::OK, _) => self.kv2(&answer),
            _ => Err(self.refusal(&answer)),
        }
    }

    fn kv1(&self, answer: &Answer) -> Result<Secret, ReadError> {
        let Ok(Envelope { data: Some(fields) }) = serde_json::from_slice::<Envelope<Fields>>(&answer.body)
        else {
            return Err(self.not_vault(answer));
        };
        let mut hasher = self.digest.build_hasher();
        digest(&fields, &mut hasher);
        Ok(Secret {
            body: Body::Fields(fields),
            version: Version {
                id: format!("{:016x}", hasher.finish()).into(),
                written: None,
            },
            serial: None,
            warnings: Vec::new(),
        })
    }

    fn kv2(&self, answer: &Answer) -> Result<Secret, ReadError> {
        let Ok(Envelope { data: Some(current) }) = serde_json::from_slice::<Envelope<Current>>(&answer.body)
        else {
            return Err(self.not_vault(answer));
        };
        let Some(fields) = current.data else {
            return Err(ReadError::Deleted(self.says("its current version is deleted")));
        };
        let meta = current.metadata;
        Ok(Secret {
            body: Body::Fields(fields),
            version: Version {
                id: meta.version.to_string().into(),
                written: meta
                    .created_time
                    .parse::<jiff::Timestamp>()
                    .ok()
                    .map(SystemTime::from),
            },
            serial: Some(meta.version),
            warnings: Vec::new(),
        })
    }

    /// What an answer other than 200 means. Bodies are looked into and never shown.
    fn refusal(&self, answer: &Answer) -> ReadError {
        let retry_after = answer.retry_after;
        let errors =
            serde_json::from_slice::<Errors>(&answer.body).map(|body| body.errors.unwrap_or_default());
        let says = |text: &str| {
            errors
                .as_ref()
                .is_ok_and(|all| all.iter().any(|one| one.contains(text)))
        };
        match answer.status.as_u16() {
            404 => match serde_json::from_slice::<Envelope<Current>>(&answer.body) {
                Ok(Envelope { data: Some(current) }) if current.metadata.destroyed => {
                    ReadError::Deleted(self.says("its current version is destroyed: write a new one"))
                }
                Ok(Envelope { data: Some(_) }) => {
                    ReadError::Deleted(self.says("its current version is deleted: undelete it, or write a new one"))
                }
                _ if errors.is_err() => self.not_vault(answer),
                _ if says("no handler for route") => ReadError::Missing(
                    self.says("nothing is mounted there (404): check mount, or enable the secrets engine"),
                ),
                _ => ReadError::Missing(self.says(match (self.kv, self.path.starts_with("data/")) {
                    (1, _) => "there is no such secret (404): check path, and that the store is KV version 1",
                    (_, true) => "there is no such secret (404): leave \"data/\" out of path",
                    (_, false) => "there is no such secret (404): check path, and that the store is KV version 2",
                })),
            },
            400 if says("missing client token") => {
                ReadError::Denied(self.says("Vault saw no token (400): does a proxy remove X-Vault-Token?"))
            }
            401 | 403 if errors.is_ok() => ReadError::Denied(self.says(
                "Vault refused the token (403): it is not valid, or its policy does not allow \"read\" here",
            )),
            401 | 403 => ReadError::Denied(self.says("refused, and not by Vault (a proxy or a firewall answered)")),
            429 => ReadError::Throttled {
                why: self.says("Vault asks for fewer requests (429)"),
                retry_after,
            },
            503 if says("sealed") => ReadError::Sealed {
                why: self.says("Vault is sealed (503): unseal it"),
                retry_after,
            },
            300..=399 => ReadError::unavailable(self.says(
                "answered with a redirect, which is never followed with a token: name the store's own address",
            )),
            status => ReadError::Unavailable {
                why: self.says(&match status {
                    472 => "answered as a disaster recovery secondary (472)".to_owned(),
                    473 => "answered as a performance standby (473)".to_owned(),
                    _ => format!("answered with status {status}"),
                }),
                retry_after,
            },
        }
    }

    fn not_vault(&self, answer: &Answer) -> ReadError {
        ReadError::Unavailable {
            why: self.says(&format!(
                "the answer (status {}) is not one of Vault's KV version {}: check address, mount and kv",
                answer.status.as_u16(),
                self.kv
            )),
            retry_after: answer.retry_after,
        }
    }

    fn says(&self, what: &str) -> Name {
        format!("{}: {what}", self.place).into()
    }
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: Option<T>,
}

#[derive(Deserialize)]
struct Current {
    data: Option<Fields>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    version: u64,
    created_time: String,
    #[serde(default)]
    destroyed: bool,
}

#[derive(Deserialize)]
struct Errors {
    errors: Option<Vec<String>>,
}

/// Outer slashes are forgiven; what a URL would swallow is not.
pub(super) fn segments(key: &str, text: &str) -> Result<String, ConfigError> {
    let text = text.trim_matches('/');
    let bad = |segment: &str| matches!(segment.trim(), "" | "." | "..") || segment.contains(char::is_control);
    if text.split('/').any(bad) {
        return Err(ConfigError::new(
            key,
            "expected names with single slashes between them",
        ));
    }
    Ok(text.to_owned())
}

fn digest(fields: &Fields, into: &mut impl Hasher) {
    for (name, value) in fields.iter() {
        name.hash(into);
        match value {
            Value::Text(text) => (0u8, text.expose_secret()).hash(into),
            Value::Bool(value) => (1u8, value).hash(into),
            Value::Null => 2u8.hash(into),
            Value::Other => 3u8.hash(into),
            Value::Fields(inner) => {
                4u8.hash(into);
                digest(inner, into);
                5u8.hash(into);
            }
        }
    }
}
