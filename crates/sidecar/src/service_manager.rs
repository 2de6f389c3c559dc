//! What systemd is told of a `Type=notify` unit: ready, stopping, how things stand, and that the loops turn.
//!
//! Nothing here does anything where `NOTIFY_SOCKET` is not set.
use sd_notify::NotifyState;
use std::sync::Arc;
use std::time::Duration;
use tidegate_gate::{Holds, Snapshot};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How much later than its `timeout` a poll may come on a machine that is busy with something else.
const LATE: Duration = Duration::from_secs(10);
/// How often the watchdog is fed in its time.
const FEEDS: u32 = 3;
/// How often to look where no watchdog asks.
const LOOK: Duration = Duration::from_secs(60);

/// Tells the service manager until `told`. `stop` is what SIGTERM cancels; `timeout` the longest that one read of a
/// switch may take.
///
/// The watchdog is fed only while every poll loop keeps its appointments: a process that is up and no longer asks its
/// store is the failure that nobody would see. During a stop `shutdown_grace` bounds everything, and it is fed.
pub(crate) async fn tell(
    holds: Arc<Holds>,
    timeout: Duration,
    stop: CancellationToken,
    told: CancellationToken,
) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let watchdog = sd_notify::watchdog_enabled();
    let mut feeding = interval(watchdog.map_or(LOOK, |within| within / FEEDS));
    feeding.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changed = holds.watch();
    let mut before = Said::default();
    loop {
        let feed = tokio::select! {
            () = told.cancelled() => return,
            () = stop.cancelled(), if !before.stopping => false,
            _ = feeding.tick() => watchdog.is_some(),
            // The sender lives in `holds`, which this task keeps.
            _ = changed.changed() => false,
        };
        changed.mark_unchanged();
        let snapshot = holds.snapshot();
        let now = Said::of(&snapshot, stop.is_cancelled(), &before);
        if now.ready && !before.ready {
            notify(&NotifyState::Ready);
        }
        if now.stopping && !before.stopping {
            notify(&NotifyState::Stopping);
        }
        if now.status != before.status {
            notify(&NotifyState::Status(&now.status));
        }
        if feed {
            match late(&snapshot, timeout + LATE).filter(|_| !now.stopping) {
                None => notify(&NotifyState::Watchdog),
                Some(switch) => tracing::error!(
                    switch,
                    "its poll loop has missed its appointment; the watchdog is not fed, and systemd will start this \
                     process anew"
                ),
            }
        }
        before = now;
    }
}

fn notify(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}

#[derive(Debug, Default, PartialEq)]
struct Said {
    ready: bool,
    stopping: bool,
    status: String,
}

impl Said {
    fn of(snapshot: &Snapshot, stopping: bool, before: &Said) -> Said {
        Said {
            // Once said it stays: readiness that comes and goes is for balancers.
            ready: before.ready || snapshot.switches.iter().all(|s| s.settled),
            stopping,
            status: status(snapshot, stopping),
        }
    }
}

/// One line for `systemctl status`, which every user of the machine may read: no reasons, no actors.
fn status(snapshot: &Snapshot, stopping: bool) -> String {
    let all = snapshot.streams.len();
    let held: Vec<String> = snapshot
        .streams
        .iter()
        .filter(|s| !s.holds.is_empty())
        .map(|s| format!("{} {}", s.name, s.state.word()))
        .collect();
    match (stopping, held.as_slice()) {
        (true, _) => "stopping".into(),
        (false, []) => format!("{all} streams and gates, none held"),
        (false, held) => format!(
            "{all} streams and gates, {} held: {}",
            held.len(),
            held.join(", ")
        ),
    }
}

/// A switch whose poll should have ended long ago.
fn late(snapshot: &Snapshot, patience: Duration) -> Option<&str> {
    let missed = |due| snapshot.mono.saturating_duration_since(due) > patience;
    let late = snapshot.switches.iter().find(|s| s.next_poll.is_some_and(missed));
    late.map(|s| &*s.name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;
    use crate::app::clock;
    use tidegate_gate::{Kind, SwitchStatus};
    use tokio::time::Instant;

    fn board(settled: bool, next_poll: Option<Instant>) -> Arc<Holds> {
        let holds = Holds::new(clock());
        holds.register("orders", Kind::Stream).unwrap();
        holds.put_switch(SwitchStatus {
            name: "ops".into(),
            provider: "vault",
            streams: vec!["orders".into()],
            reading: "none",
            version: None,
            good_at: None,
            error: None,
            warnings: Vec::new(),
            next_poll: next_poll.map(Instant::into_std),
            settled,
            stale: false,
        });
        holds
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_loop_that_misses_its_appointment_is_found_and_one_that_is_late_is_not() {
        let patience = Duration::from_secs(12);
        let holds = board(true, Some(Instant::now()));
        tokio::time::advance(patience).await;
        assert_eq!(late(&holds.snapshot(), patience), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(late(&holds.snapshot(), patience), Some("ops"));
        // Before the first poll has ended there is no appointment to miss; its read is bounded by its timeout.
        assert_eq!(late(&board(false, None).snapshot(), patience), None);
    }

    #[tokio::test(start_paused = true)]
    async fn ready_waits_for_every_switch_and_is_never_taken_back() {
        let none = Said::default();
        assert!(!Said::of(&board(false, None).snapshot(), false, &none).ready);
        let ready = Said::of(&board(true, None).snapshot(), false, &none);
        assert!(ready.ready);
        assert!(Said::of(&board(false, None).snapshot(), false, &ready).ready);
    }
}
