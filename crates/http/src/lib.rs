//! The hardened listener, the layer that counts requests, and the HTTP gate.
//!
//! - [`Listener`] serves any tower service over TCP or a Unix socket, with or without TLS, under [`Limits`]: slow
//!   peers are timed out, and no number of idle connections keeps a new one out.
//! - [`CountLayer`] counts the requests of a Rust service; [`HttpGate`] stands before an app in any language.
//! - [`Tls`] holds a certificate that is read again when its files change.
mod address;
mod body;
mod connection;
mod counted;
mod doings;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod layer;
mod listener;
mod socket;
mod tls;

pub use address::{Address, BadAddress, BindError, Holder, holder_of};
pub use body::{RequestBody, RequestBodyError};
pub use connection::Peer;
pub use counted::CountedBody;
pub use gate::{AppBody, BadGate, GateBody, GateConfig, HttpGate, OnHold, OnHoldUpgraded};
pub use layer::{Count, CountLayer, Counting, InFlight, OpenConnection};
pub use listener::{Limits, Listener, raise_descriptor_limit};
pub use tls::{Tls, TlsError};
