//! The commands that talk to a running tidegate, against the real control listener and against what is none.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
mod acts;
mod board;
mod drills;
mod links;
mod shows;
mod stub;
mod watches;
