//! The dev store over real sockets, one file per side of it.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod any_input;
mod approle;
mod azure;
mod cli;
mod client;
mod entra;
mod faults;
mod jwt;
mod key_vault;
mod kubernetes;
mod kv1;
mod kv2;
mod managed_identity;
mod namespaces;
mod policies;
mod secrecy;
mod store;
mod system;
mod tokens;
