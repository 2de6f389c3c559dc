//! Credentials in files, which whoever issues them replaces at any time.
use crate::ReadError;
use secrecy::SecretString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use zeroize::Zeroizing;

/// More than any token; a path that points elsewhere must not be read into memory.
const MOST_BYTES: u64 = 64 << 10;

/// A file that holds one credential.
#[derive(Debug)]
pub(crate) struct CredentialFile {
    path: PathBuf,
    /// What the file looked like when it was last read.
    read: Option<(u64, u64, Option<SystemTime>)>,
}

impl CredentialFile {
    pub(crate) fn new(path: PathBuf) -> CredentialFile {
        CredentialFile { path, read: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The credential, if the file is not the one that was read before.
    pub(crate) async fn changed(&mut self) -> Result<Option<SecretString>, ReadError> {
        let meta = look(&self.path).await?;
        let looks = (meta.ino(), meta.len(), meta.modified().ok());
        if self.read == Some(looks) {
            return Ok(None);
        }
        let credential = read_credential(&self.path).await?;
        self.read = Some(looks);
        Ok(Some(credential))
    }
}

/// The credential in the file as it is now.
pub(crate) async fn read_credential(path: &Path) -> Result<SecretString, ReadError> {
    let meta = look(path).await?;
    if meta.len() > MOST_BYTES || !meta.is_file() {
        return Err(wrong(path, "is too large for a credential, or no file"));
    }
    let text = tokio::fs::read_to_string(path)
        .await
        .map(Zeroizing::new)
        .map_err(|e| wrong(path, &format!("cannot be read: {e}")))?;
    checked(&text).map_err(|why| wrong(path, why))
}

/// Outer white space is an editor's; anything else that no header may hold is a mistake.
pub(crate) fn checked(text: &str) -> Result<SecretString, &'static str> {
    let text = text.trim();
    if text.is_empty() {
        return Err("is empty: expected a credential");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("holds more than one credential, or characters that none has");
    }
    Ok(text.into())
}

async fn look(path: &Path) -> Result<Metadata, ReadError> {
    tokio::fs::metadata(path)
        .await
        .map_err(|e| wrong(path, &format!("cannot be read: {e}")))
}

fn wrong(path: &Path, why: &str) -> ReadError {
    ReadError::Denied(format!("the credential in {} {why}", path.display()).into())
}
