//! Both surfaces as their callers see them.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
mod actuator;
mod auth;
mod board;
mod calls;
mod hostile;
mod page;
mod records;
mod routes;
mod watch;
