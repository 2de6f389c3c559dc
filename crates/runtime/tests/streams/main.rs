//! What a hosted stream promises, from outside.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
mod exactly_once;
mod failing;
mod files;
mod http_sink;
mod http_source;
mod leased;
mod pace;
mod pausing;
mod rig;
mod stages;
mod stopping;
