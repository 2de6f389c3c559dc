//! `method = "token"`: a token that somebody else obtained. It is renewed from here as long as it can be.
use crate::credential::{CredentialFile, checked};
use crate::{ConfigError, ReadError};
use secrecy::SecretString;
use std::fmt;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Where the token comes from.
#[derive(Debug)]
pub(super) enum TokenSource {
    /// It was in the environment when the process started.
    Env {
        name: String,
        /// Handed out once.
        token: Option<SecretString>,
    },
    /// It is in a file.
    File(CredentialFile),
}

impl TokenSource {
    pub(super) fn new(env: Option<String>, file: Option<PathBuf>) -> Result<TokenSource, ConfigError> {
        match (env, file) {
            (Some(name), None) => {
                let wrong =
                    |why: &str| ConfigError::new("env", format!("the environment variable {name} {why}"));
                let text = std::env::var(&name)
                    .map(Zeroizing::new)
                    .map_err(|_| wrong("is not set (or not text)"))?;
                let token = Some(checked(&text).map_err(wrong)?);
                Ok(TokenSource::Env { name, token })
            }
            (None, Some(path)) => Ok(TokenSource::File(CredentialFile::new(path))),
            _ => Err(ConfigError::new(
                "auth",
                "expected exactly one of env and file: where the token is",
            )),
        }
    }

    /// A token that was not handed out before.
    pub(super) async fn newer(&mut self) -> Result<Option<SecretString>, ReadError> {
        match self {
            TokenSource::Env { token, .. } => Ok(token.take()),
            TokenSource::File(file) => file.changed().await,
        }
    }
}

impl fmt::Display for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenSource::Env { name, .. } => write!(f, "token in ${name}"),
            TokenSource::File(file) => write!(f, "token in {}", file.path().display()),
        }
    }
}
