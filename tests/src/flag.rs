//! The flag as an operator writes it: through the store's own HTTP API.
use anyhow::{Context, Result, ensure};
use reqwest::Client;
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;
use tidegate_devstore::DevStore;

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
