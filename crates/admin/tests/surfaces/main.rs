//! Both surfaces as their callers see them.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise
mod actuator;
mod auth;
mod board;
mod calls;
mod drill;
mod history;
mod hostile;
mod markup;
mod observability;
mod page;
mod records;
mod routes;
mod watch;
