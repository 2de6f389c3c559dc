//! `method = "jwt"`: any signed token that Vault is configured to trust, in a file that its issuer rotates.
use super::client::{Answer, Client};
use super::read::segments;
use crate::credential::read_credential;
use crate::{ConfigError, ReadError};
use secrecy::ExposeSecret;
use std::fmt;
use std::path::PathBuf;
use vaultrs::api::auth::oidc::requests::JWTLoginRequest;

#[derive(Clone, Debug)]
pub(super) struct Jwt {
    mount: String,
    role: String,
    token_file: PathBuf,
}

impl Jwt {
    pub(super) fn new(mount: Option<&str>, role: String, token_file: PathBuf) -> Result<Jwt, ConfigError> {
        Ok(Jwt {
            mount: segments("mount", mount.unwrap_or("jwt"))?,
            role,
            token_file,
        })
    }

    pub(super) async fn login(&self, client: &Client) -> Result<Answer, ReadError> {
        let jwt = read_credential(&self.token_file).await?;
        let request = JWTLoginRequest {
            mount: self.mount.clone(),
            jwt: jwt.expose_secret().to_owned(),
            role: Some(self.role.clone()),
        };
        client.send(&request, None).await
    }
}

impl fmt::Display for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mount, role, file) = (&self.mount, &self.role, self.token_file.display());
        write!(f, "auth/{mount} role {role} with {file}")
    }
}
