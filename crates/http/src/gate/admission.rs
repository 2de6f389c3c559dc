//! Who passes the gate, who waits before it, and for how long.
use super::config::{GateConfig, OnHold};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tidegate_gate::{Gate, Unit};
use tokio::sync::Semaphore;

/// Why a request gets 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Held,
    Crowded,
    WaitedTooLong,
    Closing,
}

impl Refused {
    pub(super) fn sentence(self) -> &'static str {
        match self {
            Refused::Held => "this service is on hold; try again later\n",
            Refused::Crowded => {
                "this service is on hold and too many requests wait already; try again later\n"
            }
            Refused::WaitedTooLong => {
                "this service is on hold and this request has waited its time; try again later\n"
            }
            Refused::Closing => "this service is stopping; try again at another instance\n",
        }
    }

    /// Seconds. A request that has waited may come again soon; a place to wait is free as soon as one has left.
    pub(super) fn retry_after(self) -> u32 {
        match self {
            Refused::Held => 5,
            Refused::Crowded | Refused::WaitedTooLong | Refused::Closing => 1,
        }
    }
}

pub(super) struct Admission {
    gate: Gate,
    on_hold: OnHold,
    max_waiting: u32,
    max_wait: Duration,
    waiting: AtomicU32,
    /// Without a place, and closed when this is: every request asks whether it is, which takes no lock here, as it does
    /// with a cancellation token.
    open: Semaphore,
}

impl Admission {
    pub(super) fn new(gate: Gate, config: &GateConfig) -> Admission {
        Admission {
            gate,
            on_hold: config.on_hold,
            max_waiting: config.max_waiting,
            max_wait: config.max_wait,
            waiting: AtomicU32::new(0),
            open: Semaphore::new(0),
        }
    }

    pub(super) fn close(&self) {
        self.open.close();
    }

    /// Decides without waiting; nothing means that the request may wait.
    pub(super) fn at_once(&self) -> Result<Option<Unit>, Refused> {
        if self.open.is_closed() {
            return Err(Refused::Closing);
        }
        match self.on_hold {
            OnHold::Serve => Ok(Some(self.gate.admit())),
            OnHold::Hold => Ok(self.gate.try_enter()),
            OnHold::Refuse => self.gate.try_enter().map(Some).ok_or(Refused::Held),
        }
    }

    /// Cancel-safe: who goes away leaves its place.
    pub(super) async fn wait(&self) -> Result<Unit, Refused> {
        let _place = Place::take(&self.waiting, self.max_waiting).ok_or(Refused::Crowded)?;
        tokio::select! {
            biased;
            _ = self.open.acquire() => Err(Refused::Closing),
            unit = self.gate.enter() => Ok(unit),
            () = tokio::time::sleep(self.max_wait) => Err(Refused::WaitedTooLong),
        }
    }
}

struct Place<'a>(&'a AtomicU32);

impl<'a> Place<'a> {
    fn take(of: &'a AtomicU32, max: u32) -> Option<Place<'a>> {
        of.fetch_update(Relaxed, Relaxed, |n| (n < max).then_some(n + 1))
            .ok()
            .map(|_| Place(of))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
