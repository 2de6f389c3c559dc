//! Why a secret could not be read: each kind with one line that a person can act on.
use std::time::Duration;
use tidegate_gate::{Name, Reading};

/// Why a provider returned no secret. The text says which secret, what the store answered and what to do; it never
/// holds a value, a token or an answer's body.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReadError {
    /// No such secret.
    #[error("{0}")]
    Missing(Name),
    /// The current version was deleted or destroyed.
    #[error("{0}")]
    Deleted(Name),
    /// The secret is switched off at the store.
    #[error("{0}")]
    Disabled(Name),
    /// It is there and cannot be a flag.
    #[error("{0}")]
    Malformed(Name),
    /// The store refuses us, or our credential cannot be used.
    #[error("{0}")]
    Denied(Name),
    /// The store asks for fewer requests.
    #[error("{why}")]
    Throttled {
        /// What the store said.
        why: Name,
        /// For how long it asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// The store is sealed.
    #[error("{why}")]
    Sealed {
        /// Which store.
        why: Name,
        /// For how long it asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// No answer, or none that can be used.
    #[error("{why}")]
    Unavailable {
        /// What was tried and what came of it.
        why: Name,
        /// For how long it asked to be left alone.
        retry_after: Option<Duration>,
    },
}

impl ReadError {
    /// An [`ReadError::Unavailable`] that nobody asked to wait after.
    pub fn unavailable(why: impl Into<Name>) -> ReadError {
        ReadError::Unavailable {
            why: why.into(),
            retry_after: None,
        }
    }

    /// The kind of reading this is.
    pub fn reading(&self) -> Reading {
        match self {
            ReadError::Missing(_) => Reading::Missing,
            ReadError::Deleted(_) => Reading::Deleted,
            ReadError::Disabled(_) => Reading::Disabled,
            ReadError::Malformed(why) => Reading::Malformed(why.clone()),
            ReadError::Denied(_) => Reading::Denied,
            ReadError::Throttled { .. } => Reading::Throttled,
            ReadError::Sealed { .. } => Reading::Sealed,
            ReadError::Unavailable { .. } => Reading::Unavailable,
        }
    }

    /// For how long the store asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            ReadError::Throttled { retry_after, .. }
            | ReadError::Sealed { retry_after, .. }
            | ReadError::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the store was of no help, so that it should be asked less often. *Missing* and its like are answers:
    /// a secret that is created is noticed within one interval.
    pub(crate) fn is_failure(&self) -> bool {
        match self {
            ReadError::Missing(_)
            | ReadError::Deleted(_)
            | ReadError::Disabled(_)
            | ReadError::Malformed(_) => false,
            ReadError::Denied(_)
            | ReadError::Throttled { .. }
            | ReadError::Sealed { .. }
            | ReadError::Unavailable { .. } => true,
        }
    }
}
