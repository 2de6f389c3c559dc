//! What every test stands on: a site (a folder, a dev store, a configuration), the sidecar over it in process or as a
//! process, and a client of its two surfaces that shares no type with them.
mod azure;
mod control;
mod process;
mod running;
mod site;
mod wait;

pub(crate) use azure::CLIENT_SECRET;
pub(crate) use control::{Client, controllers, http_client};
pub(crate) use process::{Ended, Process, run, tidegate};
pub(crate) use running::Running;
pub(crate) use site::{Site, append, rows, text_of};
pub(crate) use wait::{PATIENCE, eventually, within_patience};
