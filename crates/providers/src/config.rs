//! What an operator writes about a switch: every provider on one screen.
//!
//! Raw structs are parsed, then validated once, by building. An error names the key and what was expected, never the
//! value: it may have come out of `${NAME}`.
use crate::{AtStart, AzureKeyVault, File, Fixed, LEAST_INTERVAL, Provider, Switch, Vault};
use secrecy::SecretString;
use serde::de::{Deserialize, Deserializer, Error as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use tidegate_gate::{Name, OnAbsence, OnExpiry, Policy};

/// A key of the configuration that cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{key}: {why}")]
pub struct ConfigError {
    /// The key, without the table it stands in.
    pub key: Name,
    /// What was expected.
    pub why: Name,
}

impl ConfigError {
    pub(crate) fn new(key: &str, why: impl Into<Name>) -> ConfigError {
        ConfigError {
            key: key.into(),
            why: why.into(),
        }
    }
}

/// One `[[switch]]`.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchConfig {
    /// Its name.
    pub name: Name,
    /// Names of streams and gates, or `*`.
    pub streams: Vec<Name>,
    /// Default 1 s, for Key Vault 5 s; 100 ms at least.
    #[serde(default, deserialize_with = "interval")]
    pub interval: Option<Duration>,
    /// One read.
    #[serde(default = "two_seconds", deserialize_with = "duration")]
    pub timeout: Duration,
    /// After failures the delay grows from `interval` to this.
    #[serde(default = "five_seconds", deserialize_with = "duration")]
    pub retry_max: Duration,
    /// The flag's field.
    #[serde(default = "is_paused")]
    pub key: Name,
    /// Until the first good reading.
    #[serde(default)]
    pub at_start: AtStart,
    /// For *missing* and *deleted*.
    #[serde(default)]
    pub on_missing: KeepOrPause,
    /// For *malformed*.
    #[serde(default)]
    pub on_malformed: KeepOrPause,
    /// How old the last good reading may grow before `on_stale` applies.
    #[serde(default = "five_minutes", deserialize_with = "duration")]
    pub max_stale: Duration,
    /// For any reading that is not good, once the last good one is older than `max_stale`.
    #[serde(default)]
    pub on_stale: KeepOrPause,
    /// For a flag whose `until` has passed.
    #[serde(default)]
    pub on_expiry: ReleaseOrKeep,
    /// A secret in HashiCorp Vault.
    pub vault: Option<VaultConfig>,
    /// A secret in Azure Key Vault.
    pub azure_key_vault: Option<AzureKeyVaultConfig>,
    /// A file.
    pub file: Option<FileConfig>,
}

impl SwitchConfig {
    /// The one provider that is configured.
    pub fn provider(&self) -> Result<ProviderConfig, ConfigError> {
        let all = [
            self.vault.clone().map(ProviderConfig::Vault),
            self.azure_key_vault.clone().map(ProviderConfig::AzureKeyVault),
            self.file.clone().map(ProviderConfig::File),
        ];
        let mut given = all.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(one), None) => Ok(one),
            _ => Err(ConfigError::new(
                &self.name,
                "expected exactly one of vault, azure_key_vault, file: where this switch's secret is kept",
            )),
        }
    }

    /// The switch itself, on `streams` (what `*` stands for is known to the caller), and its provider.
    pub fn build(&self, streams: Vec<Name>) -> Result<(Switch, Box<dyn Provider>), ConfigError> {
        if self.key.split(':').any(|part| part.trim().is_empty()) {
            return Err(ConfigError::new(
                "key",
                "expected field names, with \":\" between them",
            ));
        }
        if self.timeout.is_zero() {
            return Err(ConfigError::new("timeout", "expected more than 0s"));
        }
        let provider = self.provider()?;
        let switch = Switch {
            name: self.name.clone(),
            streams,
            key: self.key.clone(),
            interval: self.interval.unwrap_or(provider.interval()),
            timeout: self.timeout,
            retry_max: self.retry_max,
            at_start: self.at_start,
            policy: Policy {
                on_missing: self.on_missing.into(),
                on_malformed: self.on_malformed.into(),
                max_stale: self.max_stale,
                on_stale: self.on_stale.into(),
                on_expiry: self.on_expiry.into(),
            },
            last: None,
        };
        Ok((switch, provider.build()?))
    }
}

/// Where a switch's secret is kept.
#[derive(Clone, Debug)]
pub enum ProviderConfig {
    /// HashiCorp Vault.
    Vault(VaultConfig),
    /// Azure Key Vault.
    AzureKeyVault(AzureKeyVaultConfig),
    /// A file.
    File(FileConfig),
    /// Memory; for embedders and tests, not to be written in a configuration.
    Fixed(Fixed),
}

impl ProviderConfig {
    /// Builds the provider; reads its CA file and its environment variable, and nothing else.
    pub fn build(self) -> Result<Box<dyn Provider>, ConfigError> {
        Ok(match self {
            ProviderConfig::Vault(config) => Box::new(Vault::new(config)?),
            ProviderConfig::AzureKeyVault(config) => Box::new(AzureKeyVault::new(config)?),
            ProviderConfig::File(config) => Box::new(File::new(config.path)),
            ProviderConfig::Fixed(fixed) => Box::new(fixed),
        })
    }

    /// How often to poll unless somebody says.
    pub fn interval(&self) -> Duration {
        match self {
            ProviderConfig::Vault(_) | ProviderConfig::File(_) | ProviderConfig::Fixed(_) => {
                Duration::from_secs(1)
            }
            // Key Vault throttles a vault's readers all together; at this pace a thousand of them stay below half of it.
            ProviderConfig::AzureKeyVault(_) => Duration::from_secs(5),
        }
    }
}

/// `[switch.vault]`: a secret in a KV store of HashiCorp Vault.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// Scheme, host and port, with a path only where Vault stands behind one.
    pub address: String,
    /// Vault Enterprise's namespace.
    pub namespace: Option<String>,
    /// Where the KV store is mounted.
    #[serde(default = "secret")]
    pub mount: String,
    /// The secret's path in it, without `data/`.
    pub path: String,
    /// The KV store's version.
    #[serde(default = "two", deserialize_with = "kv")]
    pub kv: u8,
    /// Trust what this PEM file holds, instead of the system's CA bundle.
    pub ca_file: Option<PathBuf>,
    /// Send the token over `http://` to an address that is not loopback.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// How to log in.
    pub auth: VaultAuth,
}

/// How to log in to Vault.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum VaultAuth {
    /// A token that somebody else obtained: exactly one of `env` and `file`.
    Token {
        /// The environment variable that holds it.
        env: Option<String>,
        /// The file that holds it, read again whenever it changes.
        file: Option<PathBuf>,
    },
    /// AppRole.
    Approle {
        /// Where the method is mounted; default `approle`.
        mount: Option<String>,
        /// The role's id.
        #[serde(deserialize_with = "secret_text")]
        role_id: SecretString,
        /// The file that holds a secret id, read again at each login.
        secret_id_file: PathBuf,
    },
    /// The token of the pod's service account.
    Kubernetes {
        /// Where the method is mounted; default `kubernetes`.
        mount: Option<String>,
        /// The role.
        role: String,
        /// Default `/var/run/secrets/kubernetes.io/serviceaccount/token`, read again at each login.
        token_file: Option<PathBuf>,
    },
    /// A signed token.
    Jwt {
        /// Where the method is mounted; default `jwt`.
        mount: Option<String>,
        /// The role.
        role: String,
        /// The file that holds it, read again at each login.
        token_file: PathBuf,
    },
}

/// `[switch.azure_key_vault]`: a secret in Azure Key Vault.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AzureKeyVaultConfig {
    /// Such as `https://ops.vault.azure.net`.
    pub vault_url: String,
    /// The secret's name; one as .NET configuration uses it (`orders--IsPaused`) works as it is.
    pub secret: String,
    /// Connect to this address instead of what DNS says: a private endpoint, or the dev store. TLS still verifies the
    /// name in `vault_url`.
    pub resolve_to: Option<IpAddr>,
    /// Trust what this PEM file holds, instead of the system's CA bundle; for logins too.
    pub ca_file: Option<PathBuf>,
    /// How to log in.
    pub credential: AzureCredential,
}

/// How to log in to Azure Key Vault.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum AzureCredential {
    /// A workload identity of Kubernetes; what is left out is read from the variables that its webhook sets
    /// (`AZURE_TENANT_ID`, `AZURE_CLIENT_ID`, `AZURE_FEDERATED_TOKEN_FILE`, `AZURE_AUTHORITY_HOST`).
    WorkloadIdentity {
        /// The tenant.
        tenant_id: Option<String>,
        /// The identity's client id.
        client_id: Option<String>,
        /// The file that holds the service account's token.
        token_file: Option<PathBuf>,
        /// Where to log in, for clouds other than the public one.
        authority_host: Option<String>,
    },
    /// The identity of the machine.
    ManagedIdentity {
        /// One that was assigned, by its client id; the machine's own if it is left out.
        client_id: Option<String>,
    },
    /// An application and its secret.
    ClientSecret {
        /// The tenant.
        tenant_id: String,
        /// The application's client id.
        client_id: String,
        /// The file that holds its secret, read again whenever it changes.
        secret_file: PathBuf,
        /// Where to log in, for clouds other than the public one.
        authority_host: Option<String>,
    },
    /// Whoever is logged in with `az` or `azd`; for a developer's machine. With braces, since serde lets a unit variant
    /// of a tagged enum have any keys.
    DeveloperTools {},
}

/// `[switch.file]`: a file, or a directory in which each file is a field, as Kubernetes mounts a Secret.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// Its path.
    pub path: PathBuf,
}

/// `keep` or `pause`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeepOrPause {
    /// Keep what stands.
    #[default]
    Keep,
    /// Hold the streams.
    Pause,
}

impl From<KeepOrPause> for OnAbsence {
    fn from(choice: KeepOrPause) -> Self {
        match choice {
            KeepOrPause::Keep => OnAbsence::Keep,
            KeepOrPause::Pause => OnAbsence::Pause,
        }
    }
}

/// `release` or `keep`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseOrKeep {
    /// The hold ends.
    #[default]
    Release,
    /// The hold stands on.
    Keep,
}

impl From<ReleaseOrKeep> for OnExpiry {
    fn from(choice: ReleaseOrKeep) -> Self {
        match choice {
            ReleaseOrKeep::Release => OnExpiry::Release,
            ReleaseOrKeep::Keep => OnExpiry::Keep,
        }
    }
}

fn two_seconds() -> Duration {
    Duration::from_secs(2)
}
fn five_seconds() -> Duration {
    Duration::from_secs(5)
}
fn five_minutes() -> Duration {
    Duration::from_secs(300)
}
fn is_paused() -> Name {
    "IsPaused".into()
}
fn secret() -> String {
    "secret".into()
}
fn two() -> u8 {
    2
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let expected =
        || D::Error::custom("expected a duration with its unit, such as \"500ms\", \"5s\" or \"2m\"");
    let text = String::deserialize(from).map_err(|_| expected())?;
    humantime::parse_duration(&text).map_err(|_| expected())
}

fn interval<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let interval = duration(from)?;
    if interval < LEAST_INTERVAL {
        return Err(D::Error::custom("expected an interval of 100ms at least"));
    }
    Ok(Some(interval))
}

fn secret_text<'de, D: Deserializer<'de>>(from: D) -> Result<SecretString, D::Error> {
    String::deserialize(from).map(SecretString::from)
}

fn kv<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    match u8::deserialize(from)? {
        version @ (1 | 2) => Ok(version),
        _ => Err(D::Error::custom("expected the version of the KV store, 1 or 2")),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
