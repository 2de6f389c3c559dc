//! `method = "kubernetes"`: the token of the pod's service account, which the kubelet rotates.
use super::client::{Answer, Client};
use super::read::segments;
use crate::credential::read_credential;
use crate::{ConfigError, ReadError};
use secrecy::ExposeSecret;
use std::fmt;
use std::path::PathBuf;
use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;

/// Where Kubernetes mounts it unless somebody says otherwise.
const DEFAULT_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

#[derive(Clone, Debug)]
pub(super) struct Kubernetes {
    mount: String,
    role: String,
    token_file: PathBuf,
}

impl Kubernetes {
    pub(super) fn new(
        mount: Option<&str>,
        role: String,
        token_file: Option<PathBuf>,
    ) -> Result<Kubernetes, ConfigError> {
        Ok(Kubernetes {
            mount: segments("mount", mount.unwrap_or("kubernetes"))?,
            role,
            token_file: token_file.unwrap_or_else(|| DEFAULT_FILE.into()),
        })
    }

    pub(super) async fn login(&self, client: &Client) -> Result<Answer, ReadError> {
        let jwt = read_credential(&self.token_file).await?;
        let request = LoginWithKubernetesRequest {
            mount: self.mount.clone(),
            role: self.role.clone(),
            jwt: jwt.expose_secret().to_owned(),
        };
        client.send(&request, None).await
    }
}

impl fmt::Display for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mount, role, file) = (&self.mount, &self.role, self.token_file.display());
        write!(f, "auth/{mount} role {role} with {file}")
    }
}
