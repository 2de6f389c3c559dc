//! `method = "approle"`: a role's id, and a secret id in a file that is read again at each login.
use super::client::{Answer, Client};
use super::read::segments;
use crate::credential::read_credential;
use crate::{ConfigError, ReadError};
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use vaultrs::api::auth::approle::requests::LoginWithApproleRequest;

#[derive(Clone, Debug)]
pub(super) struct AppRole {
    mount: String,
    role_id: SecretString,
    secret_id_file: PathBuf,
}

impl AppRole {
    pub(super) fn new(
        mount: Option<&str>,
        role_id: SecretString,
        secret_id_file: PathBuf,
    ) -> Result<AppRole, ConfigError> {
        Ok(AppRole {
            mount: segments("mount", mount.unwrap_or("approle"))?,
            role_id,
            secret_id_file,
        })
    }

    pub(super) async fn login(&self, client: &Client) -> Result<Answer, ReadError> {
        let secret_id = read_credential(&self.secret_id_file).await?;
        let request = LoginWithApproleRequest {
            mount: self.mount.clone(),
            role_id: self.role_id.expose_secret().trim().to_owned(),
            secret_id: secret_id.expose_secret().to_owned(),
        };
        client.send(&request, None).await
    }
}

/// Two roles must not look the same, and none needs to be readable: whoever has a role's id has half of a login.
impl fmt::Display for AppRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hasher = DefaultHasher::new();
        self.role_id.expose_secret().hash(&mut hasher);
        let (mount, file) = (&self.mount, self.secret_id_file.display());
        write!(f, "auth/{mount} role {:08x} with {file}", hasher.finish() >> 32)
    }
}
