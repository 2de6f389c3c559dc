//! What a store says that we may do to a secret besides reading it.
use std::future::Future;
use std::pin::Pin;
use tidegate_gate::Name;

/// What [`crate::Provider::access`] returns.
pub type AccessFuture<'a> = Pin<Box<dyn Future<Output = Access> + Send + 'a>>;

/// What the credential of a switch may do. Whoever can only read a switch cannot be made to flip it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// It cannot change the secret.
    ReadOnly,
    /// It can; the text says how, and what to do about it.
    Writes(Name),
    /// It cannot be known without writing; the text says why.
    Unknown(Name),
}
