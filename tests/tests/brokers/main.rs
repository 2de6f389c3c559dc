//! Real brokers: a long pause loses nothing, repeats nothing, and the group does not notice. The servers are started
//! here, on free ports, with their data in a temporary folder; `tests/peers/run.sh` installs them.
//!
//! How long the long pause is, how many rounds of kills and how many messages is in `TIDEGATE_BROKER_PAUSE` (seconds),
//! `TIDEGATE_BROKER_ROUNDS` and `TIDEGATE_BROKER_MESSAGES`; the defaults are short. `TIDEGATE_BROKER_KILL` kills only the
//! sidecar (0), the broker (1) or the link (2). `TIDEGATE_SHIPPED` is a binary with `kafka-tls`, which this build of the
//! tests is without.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops at the first surprise, and says what it measured"
)]

mod access;
mod kafka;
mod kafka_tls;
mod link;
mod nats;
mod post;
mod redis;
mod scenes;
mod server;
mod site;
mod tally;
mod terms;
