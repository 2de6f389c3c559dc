//! What a restart must not forget, in small files under one directory.
//!
//! Three kinds, all JSON that a person can read:
//! - a [`StateFile`] is replaced as a whole (temporary file, fsync, rename, fsync of the directory): for what
//!   changes at the pace of people;
//! - a [`Ledger`] is overwritten in place, in turns between two slots: for what changes with every batch;
//! - a [`History`] is appended to, a line for everything that happened, and bounded by turning two files over.
//!
//! Everything here blocks; call it from where blocking is allowed. Nothing here panics: a disk that is full,
//! read-only or damaged is an error that names the file and what to do.
mod dir;
mod file;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod history;
mod ledger;

pub use dir::StateDir;
pub use file::StateFile;
pub use history::{Entry, History, Past};
pub use ledger::Ledger;

use std::io;
use std::path::{Path, PathBuf};

/// The newest layout that this build writes and understands.
const VERSION: u32 = 1;

/// What went wrong with a file or directory of the state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The operating system refused.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is there and cannot be understood.
    #[error("{path} is damaged ({why}); nothing was changed: restore it, or remove it to start without it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file was written by a newer tidegate.
    #[error(
        "{path} has layout {found}, this tidegate knows up to {known}: run the newer one, or remove the file"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u32,
        /// The newest layout known here.
        known: u32,
    },
    /// Another process uses the directory.
    #[error("{path} is in use by another process: every process needs a state_dir of its own")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

impl StateError {
    fn io(what: &'static str, path: &Path, source: io::Error) -> StateError {
        StateError::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }

    fn damaged(path: &Path, why: impl ToString) -> StateError {
        StateError::Damaged {
            path: path.to_owned(),
            why: why.to_string(),
        }
    }
}

/// FNV-1a with 64 bits: tells a torn or foreign record from a whole one. No protection against intent.
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
