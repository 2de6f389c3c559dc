//! The whole sidecar, in process on free ports and as a process, against the dev store. One binary, so that linking
//! happens once; a file for each promise.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops at the first surprise, and says what it saw"
)]

mod harness;

mod bad_input;
mod beside;
mod devstore;
mod drill;
mod flowtide;
mod history;
mod holds;
mod hostile_peers;
mod http_gate;
mod lifecycle;
mod outage;
mod policy;
mod records;
mod redirect;
mod restarts;
mod rotation;
mod secrecy;
mod shared_secret;
mod start;
mod stop;
mod vault_flag_pauses_stream;
