//! What end-to-end tests and measurements share: rows to move, tidegate as a process, the flag as an operator writes it,
//! and the verdict over what arrived.
//!
//! The tests themselves are in `tests/tests/`, the measurements in `tests/benches/`.
pub mod appender;
pub mod drift;
pub mod fault_proxy;
pub mod flag;
pub mod flatness;
pub mod pki;
pub mod posts;
pub mod proc;
pub mod rows;
pub mod setup;
pub mod sidecar;
pub mod spread;
pub mod tls_front;
pub mod verdict;
pub mod watcher;

use std::time::Duration;

/// Far more than anything takes: a wait that is this long has found a fault.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until a condition holds that can only be looked at: the length of a file, say.
///
/// # Errors
/// After [`PATIENCE`], with what was waited for.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let mut looks = looks(Duration::from_millis(1));
    let looked = async {
        while !holds() {
            looks.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, looked)
        .await
        .map_err(|_| anyhow::anyhow!("waited {PATIENCE:?} in vain: {what}"))
}

/// The first at once, then one so long after the other.
fn looks(apart: Duration) -> tokio::time::Interval {
    let mut looks = tokio::time::interval(apart);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    looks
}
