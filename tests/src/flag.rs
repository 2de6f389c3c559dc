//! The flag as an operator writes it: through the store's own HTTP API.
use anyhow::{Context, Result, ensure};
use reqwest::Client;
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;
use tidegate_devstore::{DevStore, Identity, Proof, Rights};

/// One flag in a Vault.
#[derive(Clone, Debug)]
pub struct VaultFlag {
    client: Client,
    url: String,
    api_path: String,
    token: SecretString,
}

impl VaultFlag {
    /// The flag at `secret/<path>` of a store; nothing is written yet.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn in_store(store: &DevStore, path: &str) -> Result<VaultFlag> {
        let api_path = format!("/v1/secret/data/{path}");
        Ok(VaultFlag {
            client: client()?,
            url: format!("{}{api_path}", store.vault_url()),
            api_path,
            token: store.root_token().clone(),
        })
    }

    /// The path that a poll asks for.
    pub fn api_path(&self) -> &str {
        &self.api_path
    }

    /// Writes a new version; done when the store has it.
    ///
    /// # Errors
    /// If the store cannot be reached or refuses.
    pub async fn write(&self, paused: bool) -> Result<()> {
        let answer = self
            .client
            .post(&self.url)
            .header("X-Vault-Token", self.token.expose_secret())
            .body(serde_json::json!({ "data": { "IsPaused": paused } }).to_string())
            .send()
            .await
            .context("writing the flag")?;
        ensure!(
            answer.status().is_success(),
            "writing the flag: {}",
            answer.status()
        );
        Ok(())
    }

    /// Reads it as a poll does, and throws the answer away: one round trip.
    ///
    /// # Errors
    /// If the store cannot be reached or refuses.
    pub async fn read(&self) -> Result<()> {
        let request = self.client.get(&self.url);
        let answer = request
            .header("X-Vault-Token", self.token.expose_secret())
            .send()
            .await?;
        ensure!(
            answer.status().is_success(),
            "reading the flag: {}",
            answer.status()
        );
        answer.bytes().await?;
        Ok(())
    }
}

/// One flag in a Key Vault, as an application with every right writes it: over TLS, with a token of the authority's.
#[derive(Clone, Debug)]
pub struct KeyVaultFlag {
    client: Client,
    url: String,
    api_path: String,
    token: SecretString,
}

impl KeyVaultFlag {
    /// The flag in the secret of that name; nothing is written yet.
    ///
    /// # Errors
    /// If the store has no Key Vault side.
    pub fn in_store(store: &DevStore, secret: &str) -> Result<KeyVaultFlag> {
        let vault = store.key_vault().context("no Key Vault side")?;
        let (address, ca) = (store.key_vault_addr(), store.key_vault_ca_pem());
        let (address, ca) = address.zip(ca).context("no Key Vault side")?;
        let host = vault.url();
        let host = host.trim_start_matches("https://");
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .timeout(Duration::from_secs(30))
            .no_proxy()
            .resolve(host, address)
            .tls_certs_only([reqwest::Certificate::from_pem(ca.as_bytes())?])
            .build()
            .context("an HTTPS client")?;
        let proof = Proof::Secret(SecretString::from("of no use here"));
        vault.register(Identity::new("operator", proof).rights(Rights::ALL));
        Ok(KeyVaultFlag {
            client,
            url: format!("{}:{}/secrets/{secret}", vault.url(), address.port()),
            api_path: format!("/secrets/{secret}/"),
            token: vault.issue_token("operator", Duration::from_secs(3600)),
        })
    }

    async fn write(&self, paused: bool) -> Result<()> {
        let answer = self
            .client
            .put(format!("{}?api-version=2025-07-01", self.url))
            .bearer_auth(self.token.expose_secret())
            .header("content-type", "application/json")
            .body(serde_json::json!({ "value": paused.to_string() }).to_string())
            .send()
            .await
            .context("writing the flag")?;
        let status = answer.status();
        ensure!(status.is_success(), "writing the flag: {status}");
        Ok(())
    }
}

/// A flag in one of the stores.
#[derive(Clone, Debug)]
pub enum Flag {
    /// In Vault.
    Vault(VaultFlag),
    /// In Azure Key Vault.
    KeyVault(KeyVaultFlag),
}

impl Flag {
    /// The path that a poll asks for.
    pub fn api_path(&self) -> &str {
        match self {
            Flag::Vault(flag) => flag.api_path(),
            Flag::KeyVault(flag) => &flag.api_path,
        }
    }

    /// Writes a new version; done when the store has it.
    ///
    /// # Errors
    /// If the store cannot be reached or refuses.
    pub async fn write(&self, paused: bool) -> Result<()> {
        match self {
            Flag::Vault(flag) => flag.write(paused).await,
            Flag::KeyVault(flag) => flag.write(paused).await,
        }
    }
}

/// A client for loopback.
///
/// # Errors
/// If none can be made.
pub fn client() -> Result<Client> {
    // No other crate of this process names a provider of cryptography; asking twice does no harm.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .timeout(Duration::from_secs(30))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .context("an HTTP client")
}
