//! Azure Key Vault, through the vendor's SDK with its retries off: the poll loop retries.
mod answer;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod tokens;
mod transport;

use crate::credential::CredentialFile;
use crate::http_client::{build, builder};
use crate::{
    Access, AccessFuture, AzureCredential, AzureKeyVaultConfig, ConfigError, Provider, ReadError, ReadFuture,
    Secret, TendFuture,
};
use answer::Where;
use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::TokenCredential;
use azure_core::error::ErrorKind;
use azure_core::http::{ClientOptions, HttpClient, RetryOptions, Transport, Url};
use azure_identity::{
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    DeveloperToolsCredential, ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
    WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use azure_security_keyvault_secrets::{SecretClient, SecretClientOptions, models};
use secrecy::ExposeSecret;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tidegate_gate::Name;
use tokens::Tokens;
use transport::Network;

/// A login over the network that takes longer beside reads is begun anew; within a read it may take as long as that.
const LONGEST_LOGIN: Duration = Duration::from_secs(4);
/// `az` takes seconds to start.
const LONGEST_TOOL: Duration = Duration::from_secs(30);

/// A secret in Azure Key Vault.
///
/// One request per read over one connection that stays open. Tokens are replaced between reads, before they end.
#[derive(Debug)]
pub struct AzureKeyVault {
    place: Name,
    reader: Name,
    secret: String,
    client: Client,
    tokens: Arc<Tokens>,
    login: Login,
}

struct Client(SecretClient);
impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client")
            .field(&self.0.endpoint().as_str())
            .finish()
    }
}

/// How to make the SDK's credential, again and again: it keeps what it was given when it was made.
#[derive(Debug)]
struct Login {
    config: AzureCredential,
    options: ClientOptions,
    /// For the method that has its secret in a file.
    secret_file: Option<CredentialFile>,
}

impl AzureKeyVault {
    /// Validates the configuration and prepares the client; nothing is sent before the first read.
    pub fn new(config: AzureKeyVaultConfig) -> Result<AzureKeyVault, ConfigError> {
        let url = vault_url(&config.vault_url)?;
        let mut http = builder(false, config.ca_file.as_deref())?;
        if let (Some(ip), Some(host)) = (config.resolve_to, url.host_str()) {
            // The port is the URL's.
            http = http.resolve(host, SocketAddr::new(ip, 0));
        }
        AzureKeyVault::over(Arc::new(Network(build(http)?)), config)
    }

    fn over(network: Arc<dyn HttpClient>, config: AzureKeyVaultConfig) -> Result<AzureKeyVault, ConfigError> {
        let url = vault_url(&config.vault_url)?;
        let name = config.secret.trim();
        // It becomes a part of the path, and the SDK does not escape it.
        let is_name =
            (1..=127).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !is_name {
            let why = "expected a secret's name: letters, digits and \"-\", 127 at most";
            return Err(ConfigError::new("secret", why));
        }
        let options = ClientOptions {
            // Within one read the SDK would retry eight times in a minute.
            retry: RetryOptions::none(),
            transport: Some(Transport::new(network)),
            ..ClientOptions::default()
        };
        let longest = match config.credential {
            AzureCredential::DeveloperTools {} => LONGEST_TOOL,
            _ => LONGEST_LOGIN,
        };
        let tokens = Arc::new(Tokens::new(longest));
        let client_options = SecretClientOptions {
            client_options: options.clone(),
            // Said although it is the default: without it a vault could ask for a token of another service.
            verify_challenge_resource: Some(true),
            ..SecretClientOptions::default()
        };
        let client = SecretClient::new(url.as_str(), tokens.clone(), Some(client_options)).map_err(|_| {
            ConfigError::new("vault_url", "expected a URL such as https://ops.vault.azure.net")
        })?;
        Ok(AzureKeyVault {
            place: format!("azure_key_vault {name} in {}", url.as_str().trim_end_matches('/')).into(),
            reader: reader(&config.credential).into(),
            secret: name.to_owned(),
            client: Client(client),
            tokens,
            login: Login::new(config.credential, options)?,
        })
    }

    async fn read_secret(&mut self) -> Result<Secret, ReadError> {
        let at = Where {
            place: &self.place,
            reader: &self.reader,
        };
        self.login.prepare(&self.tokens, &at).await?;
        if self.tokens.is_stuck()
            && let Err(error) = self.login.renew(&self.tokens, &at).await
        {
            // The older login may bring a token yet.
            tracing::debug!("{error}; no other login is begun");
        }
        let outcome = self.client.get(&self.secret).await;
        let outcome = match outcome {
            Err(error) if at.refuses_token(&error) && self.tokens.drop_refused() => {
                self.login.renew(&self.tokens, &at).await?;
                self.client.get(&self.secret).await
            }
            outcome => outcome,
        };
        let found = outcome.map_err(|error| {
            let refusal = at.refusal(&error);
            if matches!(
                (error.kind(), &refusal),
                (ErrorKind::Credential, ReadError::Denied(_))
            ) {
                self.tokens.forget_source();
            }
            refusal
        })?;
        self.tokens.works();
        at.secret(found)
    }
}

impl Client {
    async fn get(&self, name: &str) -> azure_core::Result<models::Secret> {
        self.0.get_secret(name, None).await?.into_model()
    }
}

impl Login {
    fn new(config: AzureCredential, options: ClientOptions) -> Result<Login, ConfigError> {
        let (authority, secret_file) = match &config {
            AzureCredential::WorkloadIdentity { authority_host, .. } => (authority_host.as_deref(), None),
            AzureCredential::ClientSecret {
                authority_host,
                secret_file,
                ..
            } => (
                authority_host.as_deref(),
                Some(CredentialFile::new(secret_file.clone())),
            ),
            AzureCredential::ManagedIdentity { .. } | AzureCredential::DeveloperTools {} => (None, None),
        };
        let cloud = authority.map(authority_cloud).transpose()?.map(Arc::new);
        Ok(Login {
            config,
            options: ClientOptions { cloud, ..options },
            secret_file,
        })
    }

    /// Sees to it that tokens have a source, and to a new one where the secret in its file has changed.
    async fn prepare(&mut self, tokens: &Tokens, at: &Where<'_>) -> Result<(), ReadError> {
        if let Some(file) = &mut self.secret_file {
            match file.changed().await {
                Ok(Some(secret)) => {
                    let source = self.source(Some(secret.expose_secret()));
                    tokens.set_source(source.map_err(|e| at.login(&e))?);
                }
                Ok(None) => {}
                Err(error) if tokens.has_source() => {
                    tracing::debug!("{error}; the secret that was read before stays in use");
                }
                Err(error) => return Err(error),
            }
        }
        if tokens.has_source() {
            return Ok(());
        }
        self.renew(tokens, at).await
    }

    /// A new source, with nothing that the old one kept.
    async fn renew(&mut self, tokens: &Tokens, at: &Where<'_>) -> Result<(), ReadError> {
        let secret = match &self.secret_file {
            Some(file) => Some(crate::credential::read_credential(file.path()).await?),
            None => None,
        };
        let source = self
            .source(secret.as_ref().map(ExposeSecret::expose_secret))
            .map_err(|e| at.login(&e))?;
        tokens.set_source(source);
        Ok(())
    }

    fn source(&self, secret: Option<&str>) -> azure_core::Result<Arc<dyn TokenCredential>> {
        let client_options = self.options.clone();
        Ok(match &self.config {
            AzureCredential::WorkloadIdentity {
                tenant_id,
                client_id,
                token_file,
                ..
            } => WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
                credential_options: ClientAssertionCredentialOptions { client_options },
                client_id: client_id.clone(),
                tenant_id: tenant_id.clone(),
                token_file_path: token_file.clone(),
            }))?,
            AzureCredential::ManagedIdentity { client_id } => {
                ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
                    user_assigned_id: client_id.clone().map(UserAssignedId::ClientId),
                    client_options,
                }))?
            }
            AzureCredential::ClientSecret {
                tenant_id, client_id, ..
            } => ClientSecretCredential::new(
                tenant_id,
                client_id.clone(),
                secret.unwrap_or_default().to_owned().into(),
                Some(ClientSecretCredentialOptions { client_options }),
            )?,
            AzureCredential::DeveloperTools {} => DeveloperToolsCredential::new(None)?,
        })
    }
}

impl Provider for AzureKeyVault {
    fn id(&self) -> Name {
        format!("{} as {}", self.place, self.reader).into()
    }

    fn kind(&self) -> &'static str {
        "azure_key_vault"
    }

    fn read(&mut self) -> ReadFuture<'_> {
        Box::pin(self.read_secret())
    }

    fn tend(&mut self) -> TendFuture<'_> {
        Box::pin(async {
            let at = Where {
                place: &self.place,
                reader: &self.reader,
            };
            self.tokens.tend(&at).await;
        })
    }

    fn access(&mut self) -> AccessFuture<'_> {
        let why = format!(
            "{}: Key Vault does not tell what an identity may do, and trying would write; its role should be \
             \"Key Vault Secrets User\" on this secret and nothing else",
            self.place
        );
        Box::pin(std::future::ready(Access::Unknown(why.into())))
    }
}

/// How it logs in, for people and for telling one reader from another; no id here is a secret.
fn reader(config: &AzureCredential) -> String {
    let or = |text: &Option<String>, default: &str| text.as_deref().unwrap_or(default).to_owned();
    match config {
        AzureCredential::WorkloadIdentity {
            tenant_id,
            client_id,
            token_file,
            authority_host,
        } => {
            let file = token_file
                .as_ref()
                .map_or_else(|| "its own file".into(), |f| f.display().to_string());
            let (client, tenant) = (or(client_id, "of the pod"), or(tenant_id, "of the pod"));
            let authority = or(authority_host, "its own authority");
            format!("workload identity {client} of tenant {tenant} with {file} at {authority}")
        }
        AzureCredential::ManagedIdentity { client_id } => {
            format!("managed identity {}", or(client_id, "of the machine"))
        }
        AzureCredential::ClientSecret {
            tenant_id,
            client_id,
            secret_file,
            authority_host,
        } => {
            let authority = or(authority_host, "its own authority");
            let file = secret_file.display();
            format!("application {client_id} of tenant {tenant_id} with {file} at {authority}")
        }
        AzureCredential::DeveloperTools {} => "whoever is logged in with az or azd".to_owned(),
    }
}

fn vault_url(text: &str) -> Result<Url, ConfigError> {
    let wrong = |why: &str| ConfigError::new("vault_url", why);
    let url = Url::parse(text.trim())
        .ok()
        .filter(|url| url.scheme() == "https" && url.host_str().is_some())
        .ok_or_else(|| wrong("expected a URL such as https://ops.vault.azure.net"))?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if !bare || !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "expected nothing but https:// and the vault's host: name the secret with secret",
        ));
    }
    Ok(url)
}

fn authority_cloud(host: &str) -> Result<CloudConfiguration, ConfigError> {
    let wrong = || {
        ConfigError::new(
            "authority_host",
            "expected a URL such as https://login.microsoftonline.com",
        )
    };
    let url = Url::parse(host.trim()).map_err(|_| wrong())?;
    if url.scheme() != "https" || url.host_str().is_none() {
        return Err(wrong());
    }
    let mut custom = CustomConfiguration::default();
    custom.authority_host = url.into();
    Ok(custom.into())
}

#[cfg(test)]
mod tests;
