//! The directory, and the lock that keeps a second process out of it.
use crate::{Ledger, StateError, StateFile};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A `state_dir` that this process has to itself while any clone of this lives.
#[derive(Clone, Debug)]
pub struct StateDir {
    root: Arc<PathBuf>,
    /// Held, never read: the lock goes with the descriptor, also when the process is killed.
    _lock: Arc<File>,
}

impl StateDir {
    /// Opens the directory, creating it (for its owner only) where it is missing, and locks it.
    ///
    /// # Errors
    /// [`StateError::InUse`] if another process has it, [`StateError::Io`] if it cannot be created or written.
    pub fn open(root: impl Into<PathBuf>) -> Result<StateDir, StateError> {
        let root = root.into();
        make_private(&root).map_err(|e| StateError::io("create", &root, e))?;
        let path = root.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| StateError::io("create", &path, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::InUse { path: root }),
            Err(TryLockError::Error(e)) => return Err(StateError::io("lock", &path, e)),
        }
        Ok(StateDir {
            root: Arc::new(root),
            _lock: Arc::new(lock),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The path of `name` in the folder `folder`, which is created where it is missing. Names come from
    /// configurations: whatever is not a letter, a digit, `.`, `_` or `-` is percent-encoded.
    ///
    /// # Errors
    /// [`StateError::Io`] if the folder cannot be created.
    pub fn place(&self, folder: &str, name: &str, ending: &str) -> Result<PathBuf, StateError> {
        let folder = self.root.join(folder);
        make_private(&folder).map_err(|e| StateError::io("create", &folder, e))?;
        Ok(folder.join(format!("{}.{ending}", file_name(name))))
    }

    /// A file that is replaced as a whole.
    ///
    /// # Errors
    /// [`StateError::Io`] if its folder cannot be created.
    pub fn file<T>(&self, folder: &str, name: &str) -> Result<StateFile<T>, StateError> {
        Ok(StateFile::at(self.place(folder, name, "json")?))
    }

    /// A record that is overwritten in place.
    ///
    /// # Errors
    /// [`StateError::Io`] if its folder cannot be created.
    pub fn ledger<T>(&self, folder: &str, name: &str) -> Result<Ledger<T>, StateError> {
        Ok(Ledger::at(self.place(folder, name, "ledger")?))
    }
}

/// A folder, with those above it, for its owner only.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn file_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (i, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || (byte == b'.' && i > 0);
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;

    #[test]
    fn no_name_leaves_the_directory_and_no_two_names_meet() {
        assert_eq!(file_name("orders-1_a.b"), "orders-1_a.b");
        assert_eq!(file_name("../../etc/passwd"), "%2e.%2f..%2fetc%2fpasswd");
        assert_eq!(file_name("a%2f"), "a%252f");
        assert_eq!(file_name("ö"), "%c3%b6");
    }

    #[test]
    fn a_second_owner_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path().join("new/state")).unwrap();
        let clone = first.clone();
        drop(first);
        let second = StateDir::open(clone.path());
        assert!(matches!(second, Err(StateError::InUse { .. })), "{second:?}");
        drop(clone);
        StateDir::open(dir.path().join("new/state")).unwrap();
    }

    #[test]
    fn a_place_that_cannot_be_made_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = StateDir::open(file.join("state")).unwrap_err().to_string();
        assert!(error.contains("file/state"), "{error}");
    }
}
