//! A pause switch for data streams, kept in the secret store you already run.
//!
//! The parts of the `tidegate` binary, as a library so that tests run it in process.
pub mod app;
pub mod cli;
pub mod client;
pub mod command;
pub mod config;
mod console;
#[cfg(feature = "devstore")]
mod demo;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod history;
mod log;
mod remember;
mod service_manager;
mod state_file;
