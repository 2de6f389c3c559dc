//! HashiCorp Vault, KV version 1 and 2.
mod auth;
mod auth_token;
mod client;
mod read;

use crate::{ConfigError, Provider, ReadError, ReadFuture, Secret, VaultAuth, VaultConfig};
use auth::{Auth, Method, Try};
use auth_token::TokenSource;
use client::Client;
use read::SecretAt;
use tidegate_gate::Name;

/// A secret in a KV store of HashiCorp Vault.
///
/// One request per read over one connection that stays open. What keeps the token alive runs beside reads and never
/// in their way: a renewal that fails or hangs leaves the reading as it is while the token is still valid.
#[derive(Debug)]
pub struct Vault {
    id: Name,
    client: Client,
    secret: SecretAt,
    auth: Auth,
}

impl Vault {
    /// Validates the configuration and prepares the client; nothing is sent before the first read.
    pub fn new(config: VaultConfig) -> Result<Vault, ConfigError> {
        let client = Client::new(&config)?;
        let secret = SecretAt::new(&config, client.address())?;
        let (method, reader) = match config.auth {
            VaultAuth::Token { env, file } => {
                let source = TokenSource::new(env, file)?;
                let reader = source.to_string();
                (Method::Token(source), reader)
            }
        };
        Ok(Vault {
            id: format!("{secret} as {reader}").into(),
            auth: Auth::new(method, client.address()),
            client,
            secret,
        })
    }

    async fn read_secret(&mut self) -> Result<Secret, ReadError> {
        let Vault {
            client, secret, auth, ..
        } = self;
        auth.prepare(client).await?;
        loop {
            let Some((which, token)) = auth.token_to_try() else {
                return Err(auth.no_token());
            };
            let outcome = auth.alongside(secret.read(client, &token)).await;
            match auth.judge(which, &outcome) {
                Try::Other => {}
                Try::Done => return outcome,
            }
        }
    }
}

impl Provider for Vault {
    fn id(&self) -> Name {
        self.id.clone()
    }

    fn kind(&self) -> &'static str {
        "vault"
    }

    fn read(&mut self) -> ReadFuture<'_> {
        Box::pin(self.read_secret())
    }
}

#[cfg(test)]
mod stub;
#[cfg(test)]
mod tests;
