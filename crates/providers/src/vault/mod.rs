//! HashiCorp Vault, KV version 1 and 2.
mod auth;
mod auth_approle;
mod auth_jwt;
mod auth_kubernetes;
mod auth_token;
mod capabilities;
mod client;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod read;
mod token;

use crate::{
    Access, AccessFuture, ConfigError, Provider, ReadError, ReadFuture, Secret, TendFuture, VaultConfig,
};
use auth::{Auth, Try};
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
        Vault::over(client, config)
    }

    fn over(client: Client, config: VaultConfig) -> Result<Vault, ConfigError> {
        let secret = SecretAt::new(&config, client.address())?;
        let auth = Auth::new(config.auth)?;
        Ok(Vault {
            id: format!("{secret} as {}", auth.reader()).into(),
            client,
            secret,
            auth,
        })
    }

    async fn read_secret(&mut self) -> Result<Secret, ReadError> {
        let Vault {
            client, secret, auth, ..
        } = self;
        auth.prepare(client).await?;
        let mut logged_in = false;
        loop {
            let Some((which, token)) = auth.token_to_try() else {
                let why = format!("{secret}: there is no token ({})", auth.reader());
                return Err(ReadError::Denied(why.into()));
            };
            let outcome = auth.alongside(secret.read(client, &token)).await;
            match auth.judge(which, &outcome) {
                Try::Other => {}
                // Once: a login whose token is refused at once is not repeated within the same read.
                Try::Login if !logged_in => {
                    auth.log_in(client).await?;
                    logged_in = true;
                }
                Try::Login | Try::Done => return outcome,
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

    fn tend(&mut self) -> TendFuture<'_> {
        Box::pin(self.auth.tend(&self.client))
    }

    fn access(&mut self) -> AccessFuture<'_> {
        let Some((_, token)) = self.auth.token_to_try() else {
            let why = format!("{}: there is no token ({})", self.secret, self.auth.reader());
            return Box::pin(std::future::ready(Access::Unknown(why.into())));
        };
        let (client, secret) = (&self.client, &self.secret);
        Box::pin(async move { capabilities::ask(client, secret, &token).await })
    }
}

#[cfg(test)]
mod life_tests;
#[cfg(test)]
mod stub;
#[cfg(test)]
mod tests;
