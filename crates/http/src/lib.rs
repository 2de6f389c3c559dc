//! The hardened listener, the layer that counts requests, and the HTTP gate.
//!
//! - [`Listener`] serves any tower service over TCP or a Unix socket, with or without TLS, under [`Limits`]: slow
//!   peers are timed out, and no number of idle connections keeps a new one out.
//! - [`Tls`] holds a certificate that is read again when its files change.
mod address;
mod connection;
mod listener;
mod tls;

pub use address::{Address, BadAddress, BindError, Holder, holder_of};
pub use connection::{Peer, RequestBody, RequestBodyError};
pub use listener::{Limits, Listener, raise_descriptor_limit};
pub use tls::{Tls, TlsError};
