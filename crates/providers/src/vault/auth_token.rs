//! `method = "token"`: a token that somebody else obtained and renews, or leaves to us to renew.
use crate::{ConfigError, ReadError};
use secrecy::SecretString;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::SystemTime;
use zeroize::Zeroizing;

/// More than any token; a path that points elsewhere must not be read into memory.
const MOST_CREDENTIAL_BYTES: u64 = 64 << 10;

/// Where the token comes from.
#[derive(Debug)]
pub(super) enum TokenSource {
    /// It was in the environment.
    Env { name: String, token: SecretString },
    /// It is in a file.
    File(CredentialFile),
}

impl fmt::Display for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenSource::Env { name, .. } => write!(f, "token in ${name}"),
            TokenSource::File(file) => write!(f, "token in {}", file.path.display()),
        }
    }
}

impl TokenSource {
    pub(super) fn new(env: Option<String>, file: Option<PathBuf>) -> Result<TokenSource, ConfigError> {
        match (env, file) {
            (Some(name), None) => {
                let text = std::env::var(&name).map(Zeroizing::new).map_err(|_| {
                    ConfigError::new(
                        "env",
                        format!("the environment variable {name} is not set (or not text)"),
                    )
                })?;
                let token = credential(&text).map_err(|why| {
                    ConfigError::new("env", format!("the environment variable {name} {why}"))
                })?;
                Ok(TokenSource::Env { name, token })
            }
            (None, Some(path)) => Ok(TokenSource::File(CredentialFile::new(path))),
            _ => Err(ConfigError::new(
                "auth",
                "expected exactly one of env and file: where the token is",
            )),
        }
    }
}

/// A file that holds one credential and may be replaced at any time.
#[derive(Debug)]
pub(super) struct CredentialFile {
    path: PathBuf,
    /// What the file looked like when it was last read.
    read: Option<(u64, u64, Option<SystemTime>)>,
}

impl CredentialFile {
    pub(super) fn new(path: PathBuf) -> CredentialFile {
        CredentialFile { path, read: None }
    }

    /// The credential, if the file is not the one that was read before.
    pub(super) async fn changed(&mut self) -> Result<Option<SecretString>, ReadError> {
        let wrong = |why: &str| ReadError::Denied(format!("{} {why}", self.path.display()).into());
        let meta = tokio::fs::metadata(&self.path)
            .await
            .map_err(|e| wrong(&format!("cannot be read: {e}")))?;
        let looks = (meta.ino(), meta.len(), meta.modified().ok());
        if self.read == Some(looks) {
            return Ok(None);
        }
        if meta.len() > MOST_CREDENTIAL_BYTES || meta.is_dir() {
            return Err(wrong("is too large for a credential, or no file"));
        }
        let text = tokio::fs::read_to_string(&self.path)
            .await
            .map(Zeroizing::new)
            .map_err(|e| wrong(&format!("cannot be read: {e}")))?;
        let credential = credential(&text).map_err(wrong)?;
        self.read = Some(looks);
        Ok(Some(credential))
    }
}

/// Outer white space is an editor's; anything else that no header may hold is a mistake.
fn credential(text: &str) -> Result<SecretString, &'static str> {
    let text = text.trim();
    if text.is_empty() {
        return Err("is empty: expected a credential");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("holds more than one credential, or characters that none has");
    }
    Ok(text.into())
}
