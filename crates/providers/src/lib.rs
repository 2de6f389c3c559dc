//! Where the flag comes from: the poll loop and the stores it reads.
//!
//! A [`Provider`] does one thing: it reads a secret, once. Everything that has to do with time (intervals, retries,
//! staleness, nudges) is in the one poll loop, everything that has to do with the meaning of a secret is in
//! [`read_flag`], and what a reading means for the streams is decided in `tidegate_gate`.
//!
//! ```no_run
//! # async fn example(holds: std::sync::Arc<tidegate_gate::Holds>) -> Result<(), Box<dyn std::error::Error>> {
//! use tidegate_providers::{Fixed, Poller, Switch};
//! let (switch, hand) = Fixed::new("maintenance", "false");
//! let poller = Poller::bind(holds, vec![(Switch::new("ops", ["orders"]), Box::new(switch))], 0, ())?;
//! let stop = tokio_util::sync::CancellationToken::new();
//! for task in poller.tasks(&stop) {
//!     tokio::spawn(task);
//! }
//! hand.set_text("true"); // paused within a second
//! # Ok(()) }
//! ```
mod access;
mod azure_key_vault;
mod backoff;
mod config;
mod credential;
mod exam;
mod file;
mod fixed;
mod flag;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod http_client;
mod nudge;
mod poll;
mod read_error;
mod secret;
mod seen;
mod switch;
mod timing;
mod vault;

pub use access::{Access, AccessFuture};
pub use azure_key_vault::AzureKeyVault;
pub use config::{
    AzureCredential, AzureKeyVaultConfig, ConfigError, FileConfig, KeepOrPause, ProviderConfig,
    ReleaseOrKeep, SwitchConfig, VaultAuth, VaultConfig,
};
pub use exam::{Examined, Examiner};
pub use file::File;
pub use fixed::{Fixed, FixedHand};
pub use flag::{FlagError, read_flag};
pub use nudge::Nudger;
pub use poll::{Observer, Poller, Task, read_once};
pub use read_error::ReadError;
pub use secret::{Body, Fields, Secret, Value};
pub use seen::Seen;
pub use switch::{AtStart, Switch};
pub use timing::{LEAST_INTERVAL, MOST_RETRY_AFTER};
pub use vault::Vault;

use std::future::Future;
use std::pin::Pin;
use tidegate_gate::Name;

/// Larger secrets are malformed: whoever flips a flag does not write a megabyte.
pub const MOST_BYTES: usize = 1 << 20;

/// What one attempt at a secret comes to.
pub type ReadFuture<'a> = Pin<Box<dyn Future<Output = Result<Secret, ReadError>> + Send + 'a>>;

/// What [`Provider::tend`] returns.
pub type TendFuture<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A place where the wish to pause is kept.
///
/// A provider only reads. It starts no tasks, has no loops and never repeats a read by itself: the poll loop does, so
/// that errors cannot make it poll faster.
pub trait Provider: Send + 'static {
    /// Which secret this is, read as whom. Switches whose providers have equal ids share one loop and one request.
    /// People see it in errors, so it holds no credential.
    fn id(&self) -> Name;

    /// The kind of store, in one word of the configuration.
    fn kind(&self) -> &'static str;

    /// Reads the secret once.
    ///
    /// The future is dropped at the switch's `timeout` and at shutdown, at any point; the next call starts anew.
    fn read(&mut self) -> ReadFuture<'_>;

    /// Sees to what keeps reads possible, such as renewing a token before it ends. Polled between reads, resolves
    /// when one such thing is done, and is dropped at any point when a read is due; what is under way goes on with
    /// the next call. By default there is nothing to see to.
    fn tend(&mut self) -> TendFuture<'_> {
        Box::pin(std::future::pending())
    }

    /// Asks the store what our credential may do besides reading. Only drills ask; dropped at the switch's `timeout`.
    fn access(&mut self) -> AccessFuture<'_> {
        let why = format!("a store of the kind {} cannot be asked", self.kind());
        Box::pin(std::future::ready(Access::Unknown(why.into())))
    }
}
