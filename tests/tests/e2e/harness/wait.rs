//! Waiting for a condition, never for a time.
use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// Nothing here takes seconds; whoever waits this long waits for something that will not come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks: short against a poll, long against what a look costs.
const LOOK: Duration = Duration::from_millis(20);

/// Looks until there is something, and returns it.
///
/// # Panics
/// When it does not come within [`PATIENCE`]; `what` says what was waited for.
pub(crate) async fn eventually<T, L, F>(what: &str, mut look: L) -> T
where
    L: FnMut() -> F,
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
    }
}

/// A future that has to come to its end.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub(crate) async fn within_patience<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain: {what}"),
    }
}
