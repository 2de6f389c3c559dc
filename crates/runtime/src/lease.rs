//! What is held for how long: leases that are renewed while they can be, and given back before they end.
//!
//! A broker that hands out an event takes it back unless it hears of it in time, and it does not know that its
//! consumer was told to wait. One mechanism serves every such source: a [`Leases`] ledger of what is out, which the
//! source fills and its settle handle answers from; a pure [`plan`] that says what is to be done about it now; and
//! one loop, [`keep`], that does it beside the driver's own two.
//!
//! Rejected: renewing inside each source's fetch. It would be written once per broker, and a fetch that waits for
//! room would have to remember it at every await.
use crate::event::{Settle, Token};
use crate::hold::Hold;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tidegate_gate::{LeaseTerms, Member};

/// A lease is renewed when a third of it is over: two more tries fit before it ends.
const RENEWALS: u32 = 3;

/// Failed renewals are tried again this often in a lease.
const TRIES: u32 = 12;

/// The last part of a lease that counts as over: the broker began to count before the event arrived here.
const MARGIN: u32 = 10;

/// The loop looks this often at least, so that what status says of leases is fresh.
const LOOK: Duration = Duration::from_secs(1);

/// The terms on which a broker hands out events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long the broker leaves an event alone after handing it out, and after each renewal.
    pub lasts: Duration,
    /// Give events back that have been held for so long, though their leases could be renewed. `None`: keep them.
    pub max_hold: Option<Duration>,
}

impl Terms {
    fn renewed_every(&self) -> Duration {
        self.lasts / RENEWALS
    }

    /// So much of a lease is safe to count on.
    fn safe(&self) -> Duration {
        self.lasts - self.lasts / MARGIN
    }
}

/// What is out under leases, in two moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outstanding {
    /// When the event that has been here longest arrived.
    pub oldest: Instant,
    /// When the lease that ends first began or was last renewed.
    pub stalest: Instant,
}

/// Something to do about the leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing for so long.
    Wait(Duration),
    /// Renew every lease that was last renewed at or before this moment.
    Extend(Instant),
    /// Give back what is held.
    Park,
    /// The broker may have given these to another by now: drop those last renewed at or before this moment.
    Expire(Instant),
}

/// What the plan has to know besides the leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The gate is closed.
    pub(crate) paused: bool,
    /// Something is held that has not met a stage, so it can be given back.
    pub(crate) parkable: bool,
    /// When a renewal last failed, unless one has succeeded since.
    pub(crate) failed: Option<Instant>,
}

/// What to do now. Pure: no clock, no broker.
pub(crate) fn plan(terms: &Terms, out: Option<Outstanding>, standing: Standing, now: Instant) -> Step {
    let Some(out) = out else {
        return Step::Wait(terms.renewed_every().min(LOOK));
    };
    let ends = out.stalest + terms.safe();
    if now >= ends {
        return Step::Expire(now.checked_sub(terms.safe()).unwrap_or(out.stalest));
    }
    let mut next = ends;
    if standing.parkable {
        // It cannot be kept, and a broker that refuses renewals may still take it back.
        let last_call = ends.checked_sub(terms.lasts / 4).unwrap_or(out.stalest);
        if standing.failed.is_some() {
            if now >= last_call {
                return Step::Park;
            }
            next = next.min(last_call);
        }
        if let (true, Some(most)) = (standing.paused, terms.max_hold) {
            if now >= out.oldest + most {
                return Step::Park;
            }
            next = next.min(out.oldest + most);
        }
    }
    let mut due = out.stalest + terms.renewed_every();
    if let Some(failed) = standing.failed {
        due = due.max(failed + terms.lasts / TRIES);
    }
    if now >= due {
        // Together with those that would be due soon: one round trip instead of several.
        let soon = terms.renewed_every() / 2;
        return Step::Extend(now.checked_sub(soon).unwrap_or(out.stalest).max(out.stalest));
    }
    Step::Wait(next.min(due).saturating_duration_since(now).min(LOOK))
}

/// Does what the plan says, for as long as it is polled.
pub(crate) async fn keep<T: Settle>(member: &Member, hold: &Arc<Hold>, settle: &T) -> Infallible {
    let mut failed: Option<Instant> = None;
    loop {
        let Some(terms) = settle.terms() else {
            return std::future::pending().await;
        };
        member.meter().set_lease(Some(LeaseTerms {
            term: terms.lasts,
            kept_for: terms.max_hold,
        }));
        let now = member.now().mono;
        let out = settle.outstanding();
        hold.set_lease(out.map(|out| out.stalest + terms.lasts));
        let standing = Standing {
            paused: member.gate().is_closed(),
            parkable: hold.parkable(),
            failed,
        };
        if !standing.paused {
            hold.unpark();
        }
        match plan(&terms, out, standing, now) {
            Step::Wait(wait) => tokio::time::sleep(wait).await,
            Step::Extend(before) => match settle.extend(before).await {
                Ok(lost) => {
                    failed = None;
                    if lost > 0 {
                        tracing::warn!(stream = %member.name(), events = lost, "another consumer has them now; dropped here");
                        hold.lost();
                    }
                }
                Err(error) => {
                    if failed.is_none() {
                        tracing::warn!(stream = %member.name(), %error, "leases are not renewed; tried again");
                    }
                    failed = Some(member.now().mono);
                }
            },
            Step::Park => {
                tracing::info!(stream = %member.name(), "held events are given back to the broker, and fetched again later");
                hold.park();
                // The lane shares this task: it has its turn before the next look.
                tokio::task::yield_now().await;
            }
            Step::Expire(before) => {
                let lost = settle.expire(before);
                if lost > 0 {
                    tracing::warn!(stream = %member.name(), events = lost, "their leases ended unrenewed; dropped here, and the broker hands them out again");
                    hold.lost();
                }
            }
        }
    }
}

/// A ledger of what a source has handed out and nobody has settled, with whatever the broker needs to settle it.
/// Cloned ledgers are one and the same.
#[derive(Debug)]
pub struct Leases<H>(Arc<Mutex<Ledger<H>>>);

#[derive(Debug)]
struct Ledger<H> {
    epoch: u32,
    out: HashMap<Key, Lease<H>>,
}

/// Where an event came from, whatever became of it since.
type Key = (u32, u128);

#[derive(Debug)]
struct Lease<H> {
    handle: H,
    arrived: Instant,
    renewed: Instant,
    /// It is past the gate: its effect may be half done, or done and not acknowledged.
    claimed: bool,
}

impl<H> Clone for Leases<H> {
    fn clone(&self) -> Self {
        Leases(self.0.clone())
    }
}

impl<H> Default for Leases<H> {
    fn default() -> Self {
        Leases(Arc::new(Mutex::new(Ledger {
            epoch: 0,
            out: HashMap::new(),
        })))
    }
}

fn key(token: &Token) -> Key {
    (token.partition, token.position)
}

impl<H: Clone> Leases<H> {
    fn ledger(&self) -> MutexGuard<'_, Ledger<H>> {
        // No critical section below can panic half way.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A new opening: what was out before is the broker's again. The same opening again changes nothing.
    pub fn begin(&self, epoch: u32) {
        let mut ledger = self.ledger();
        if ledger.epoch != epoch {
            ledger.epoch = epoch;
            ledger.out.clear();
        }
    }

    /// Notes an event that the broker has just handed out. False if it is out already: the broker has handed it out
    /// again, its lease has begun anew under the new handle, and it is not to be handed on twice.
    pub fn add(&self, token: &Token, handle: H, now: Instant) -> bool {
        let mut ledger = self.ledger();
        let lease = Lease {
            handle,
            arrived: now,
            renewed: now,
            claimed: false,
        };
        match ledger.out.entry(key(token)) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(lease);
                true
            }
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                let Lease { arrived, claimed, .. } = *entry.get();
                entry.insert(Lease {
                    arrived,
                    claimed,
                    ..lease
                });
                false
            }
        }
    }

    /// Whether it is still this process's to settle.
    pub fn has(&self, token: &Token) -> bool {
        let ledger = self.ledger();
        token.epoch == ledger.epoch && ledger.out.contains_key(&key(token))
    }

    /// Whether it is still this process's to settle; if so, it passes the gate now, and is not given up any more
    /// because its lease is over: the broker may hand it out again to this process, which then knows that it has it.
    pub fn claim(&self, token: &Token) -> bool {
        let mut ledger = self.ledger();
        let epoch = ledger.epoch;
        let lease = ledger.out.get_mut(&key(token)).filter(|_| token.epoch == epoch);
        lease.is_some_and(|lease| {
            lease.claimed = true;
            true
        })
    }

    /// Whether nothing is out.
    pub fn is_empty(&self) -> bool {
        self.ledger().out.is_empty()
    }

    /// The handles of those that are still out, in the order of `tokens`.
    pub fn handles(&self, tokens: &[Token]) -> Vec<H> {
        let ledger = self.ledger();
        let ours = tokens.iter().filter(|token| token.epoch == ledger.epoch);
        ours.filter_map(|token| ledger.out.get(&key(token)))
            .map(|lease| lease.handle.clone())
            .collect()
    }

    /// Settled: acknowledged, given back, or another's.
    pub fn remove(&self, tokens: &[Token]) {
        let mut ledger = self.ledger();
        let epoch = ledger.epoch;
        for token in tokens.iter().filter(|token| token.epoch == epoch) {
            ledger.out.remove(&key(token));
        }
    }

    /// What is out, for the plan.
    pub fn outstanding(&self) -> Option<Outstanding> {
        let ledger = self.ledger();
        let mut all = ledger.out.values();
        let first = all.next()?;
        let first = Outstanding {
            oldest: first.arrived,
            stalest: first.renewed,
        };
        Some(all.fold(first, |out, lease| Outstanding {
            oldest: out.oldest.min(lease.arrived),
            stalest: out.stalest.min(lease.renewed),
        }))
    }

    /// The leases that were last renewed at or before a moment, with what renews them; those that end first come
    /// first.
    pub fn due(&self, before: Instant) -> Vec<(LeaseId, H)> {
        let ledger = self.ledger();
        let due = ledger.out.iter().filter(|(_, lease)| lease.renewed <= before);
        let mut due: Vec<_> = due
            .map(|(key, lease)| (lease.renewed, LeaseId(*key), lease.handle.clone()))
            .collect();
        due.sort_by_key(|(renewed, ..)| *renewed);
        due.into_iter().map(|(_, id, handle)| (id, handle)).collect()
    }

    /// Renewed, counted from when the renewal was sent.
    pub fn renewed(&self, ids: &[LeaseId], sent: Instant) {
        let mut ledger = self.ledger();
        for LeaseId(key) in ids {
            if let Some(lease) = ledger.out.get_mut(key) {
                lease.renewed = lease.renewed.max(sent);
            }
        }
    }

    /// Not ours any more. Returns how many were out until now.
    pub fn lost(&self, ids: &[LeaseId]) -> usize {
        let mut ledger = self.ledger();
        ids.iter()
            .filter(|LeaseId(key)| ledger.out.remove(key).is_some())
            .count()
    }

    /// Forgets those that were last renewed at or before a moment. Returns how many. Those past the gate stay, and
    /// count as renewed now, so that they are tried again.
    pub fn expire(&self, before: Instant, now: Instant) -> usize {
        let mut ledger = self.ledger();
        let was = ledger.out.len();
        ledger.out.retain(|_, lease| {
            if lease.renewed <= before && lease.claimed {
                lease.renewed = now;
            }
            lease.renewed > before
        });
        was - ledger.out.len()
    }
}

/// Names a lease in its ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseId(Key);

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
