//! Token files, read again when they change.
use crate::auth::Right;
use crate::options::{AdminError, TokenSpec};
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use subtle::ConstantTimeEq;
use tidegate_gate::Name;

/// Why a token file grants nothing. The token itself is never shown.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("cannot read the token file {}: {error}", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It holds no token that could be used.
    #[error("the token file {} {why}", .file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

pub(crate) struct Token {
    pub(crate) name: Name,
    pub(crate) rights: Arc<[Right]>,
    file: PathBuf,
    kept: Mutex<Kept>,
}

struct Kept {
    token: Arc<SecretString>,
    /// What the file looked like when it was last read, whether that gave a token or not.
    seen: Option<Look>,
    /// Others could read the file when the token in use was read from it.
    open: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Look {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    open: bool,
}

impl Token {
    /// Compares in constant time, but for the length.
    pub(crate) fn is(&self, given: &[u8]) -> bool {
        self.current().expose_secret().as_bytes().ct_eq(given).into()
    }

    /// The token, read again if its file changed: one `stat` a call, so that a token that was replaced is void
    /// at once. A file that no longer holds one leaves the token in use and is complained of once.
    pub(crate) fn current(&self) -> Arc<SecretString> {
        let mut kept = unpoisoned(&self.kept);
        let now = look(&self.file).ok();
        if now != kept.seen {
            kept.seen = now;
            let open = now.is_some_and(|l| l.open);
            match read(&self.file) {
                Ok(_) if open && !kept.open => tracing::error!(
                    token = %self.name,
                    file = %self.file.display(),
                    "the token file became readable for everybody, so what it holds is not used: the token read \
                     before stays in use; set its mode to 0600 or 0640"
                ),
                Ok(token) => {
                    kept.token = Arc::new(token);
                    kept.open = open;
                    tracing::info!(token = %self.name, "the token file changed and was read again");
                }
                Err(error) => tracing::error!(
                    token = %self.name,
                    %error,
                    "the token file changed and cannot be used: the token read before stays in use"
                ),
            }
        }
        kept.token.clone()
    }
}

/// Reads all tokens; everything that is wrong with them.
pub(crate) fn load(specs: &[TokenSpec]) -> Result<Vec<Token>, Vec<AdminError>> {
    let mut wrong = Vec::new();
    let mut tokens: Vec<Token> = Vec::new();
    for spec in specs {
        let seen = look(&spec.file).ok();
        match read(&spec.file) {
            Ok(token) => {
                let twin = tokens
                    .iter()
                    .find(|t| unpoisoned(&t.kept).token.expose_secret() == token.expose_secret());
                if let Some(twin) = twin {
                    wrong.push(AdminError::SameToken(twin.name.to_string(), spec.name.clone()));
                }
                let open = seen.is_some_and(|l| l.open);
                if open {
                    tracing::warn!(
                        token = %spec.name,
                        file = %spec.file.display(),
                        "everybody on this machine can read the token file; set its mode to 0600 or 0640"
                    );
                }
                tokens.push(Token {
                    name: spec.name.as_str().into(),
                    rights: spec.allow.as_slice().into(),
                    file: spec.file.clone(),
                    kept: Mutex::new(Kept {
                        token: Arc::new(token),
                        seen,
                        open,
                    }),
                });
            }
            Err(error) => wrong.push(AdminError::TokenFile {
                name: spec.name.clone(),
                error,
            }),
        }
    }
    if wrong.is_empty() { Ok(tokens) } else { Err(wrong) }
}

fn look(file: &Path) -> io::Result<Look> {
    let meta = std::fs::metadata(file)?;
    Ok(Look {
        inode: meta.ino(),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
        open: meta.mode() & 0o004 != 0,
    })
}

fn read(file: &Path) -> Result<SecretString, TokenFileError> {
    const SHORTEST: usize = 16;
    const LONGEST: u64 = 4096;
    let unusable = |why| TokenFileError::Unusable {
        file: file.into(),
        why,
    };
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|f| f.take(LONGEST + 1).read_to_string(&mut text))
        .map_err(|error| TokenFileError::Io {
            file: file.into(),
            error,
        })?;
    let text = SecretString::from(text);
    let token = text.expose_secret().trim();
    match token {
        _ if text.expose_secret().len() as u64 > LONGEST => Err(unusable("is longer than 4096 bytes")),
        "" => Err(unusable("is empty: it must hold a token of at least 16 bytes")),
        short if short.len() < SHORTEST => Err(unusable(
            "holds a token of fewer than 16 bytes, which can be guessed",
        )),
        token if !token.bytes().all(|b| b.is_ascii_graphic()) => Err(unusable(
            "holds something that a header cannot carry: a token is printable ASCII without spaces",
        )),
        token => Ok(SecretString::from(token)),
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here leaves the value whole at each step.
    mutex.lock().unwrap_or_else(|p| p.into_inner())
}
