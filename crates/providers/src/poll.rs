//! The only poll loop. One task per distinct secret reads it, lets each of its switches make a flag of it, and applies
//! what that means; one `select!` waits for whatever comes next.
use crate::backoff::Backoff;
use crate::exam::{Examined, Examiner, Reply};
use crate::nudge::{Nudged, Nudger};
use crate::seen::is_stale;
use crate::switch::Bound;
use crate::timing::{Ended, LEAST_INTERVAL, MOST_RETRY_AFTER, Timing, next_poll};
use crate::{Access, Provider, ReadError, Secret, Seen, Switch};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tidegate_gate::{Flag, Holds, Name, Reading, UnknownStream, Version};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// A loop, to be spawned. It ends when its token is cancelled, within the current turn, and places nothing after that.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Who wants to know what the loops do. Called from the loops: it must return at once.
pub trait Observer: Send + Sync + 'static {
    /// One switch's part in a poll that took `took`.
    fn polled(&self, switch: &Name, reading: &Reading, took: Duration) {
        let _ = (switch, reading, took);
    }

    /// A good reading that differs from the one before it, after it was applied: what a restart should remember.
    fn good(&self, switch: &Name, flag: &Flag, version: &Version) {
        let _ = (switch, flag, version);
    }
}

/// For who does not want to know.
impl Observer for () {}

/// The poll loops, bound to the board and not yet running.
pub struct Poller {
    loops: Vec<Loop>,
    nudger: Nudger,
    examiner: Examiner,
}

impl Poller {
    /// Puts the switches on the board in the order given, and places the holds of those that start paused, so that
    /// nothing moves between this call and the first reading. Register the streams first.
    ///
    /// `seed` spreads the polls of a fleet: give each replica its own. Switches whose providers have equal ids share
    /// one loop, and the first of these providers is the one that reads.
    pub fn bind(
        holds: Arc<Holds>,
        switches: Vec<(Switch, Box<dyn Provider>)>,
        seed: u64,
        observer: impl Observer,
    ) -> Result<Poller, UnknownStream> {
        let observer: Arc<dyn Observer> = Arc::new(observer);
        let mut groups: Vec<(Name, Box<dyn Provider>, Vec<Bound>)> = Vec::new();
        for (switch, provider) in switches {
            let bound = Bound::new(switch, provider.kind(), holds.clone(), observer.clone())?;
            let id = provider.id();
            match groups.iter_mut().find(|(known, ..)| *known == id) {
                Some((.., members)) => members.push(bound),
                None => groups.push((id, provider, vec![bound])),
            }
        }
        let (nudger, sides) = Nudged::pairs(groups.len());
        let (examiner, exams) = Examiner::pairs(groups.len());
        let loops = groups
            .into_iter()
            .zip(sides.into_iter().zip(exams))
            .map(|((id, provider, switches), asked)| {
                Loop::new(
                    id,
                    provider,
                    switches,
                    asked,
                    holds.clone(),
                    observer.clone(),
                    seed,
                )
            })
            .collect();
        Ok(Poller {
            loops,
            nudger,
            examiner,
        })
    }

    /// A handle that makes all loops poll now.
    pub fn nudger(&self) -> Nudger {
        self.nudger.clone()
    }

    /// A handle that has all switches looked at for a drill.
    pub fn examiner(&self) -> Examiner {
        self.examiner.clone()
    }

    /// The loops, one task for each distinct secret. The first poll of each is at once.
    pub fn tasks(self, stop: &CancellationToken) -> Vec<Task> {
        self.loops
            .into_iter()
            .map(|one| -> Task { Box::pin(one.run(stop.clone())) })
            .collect()
    }
}

/// Reads a secret once, for each of `keys`: what `tidegate check` shows.
pub async fn read_once(provider: &mut dyn Provider, keys: &[&str], limit: Duration) -> Vec<Seen> {
    let outcome = read_within(provider, limit).await;
    keys.iter().map(|key| Seen::of(&outcome, key, None)).collect()
}

async fn read_within(provider: &mut dyn Provider, limit: Duration) -> Result<Secret, ReadError> {
    match timeout(limit, provider.read()).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ReadError::unavailable(format!(
            "{} gave no answer within {}",
            provider.id(),
            humantime::format_duration(limit)
        ))),
    }
}

struct Loop {
    id: Name,
    provider: Box<dyn Provider>,
    switches: Vec<Bound>,
    /// The newest version that any read found, whether or not it held a flag.
    newest: Option<Version>,
    nudged: Nudged,
    exams: mpsc::Receiver<Reply>,
    /// Whoever waits for an examination.
    examining: Vec<Reply>,
    holds: Arc<Holds>,
    observer: Arc<dyn Observer>,
    timing: Timing,
    limit: Duration,
    backoff: Backoff,
}

/// When to poll next, and what stands in the way of doing so earlier.
struct Due {
    began: Instant,
    at: Instant,
    /// The store asked to be left alone until then.
    not_before: Option<Instant>,
    failed: bool,
}

impl Loop {
    fn new(
        id: Name,
        provider: Box<dyn Provider>,
        switches: Vec<Bound>,
        (nudged, exams): (Nudged, mpsc::Receiver<Reply>),
        holds: Arc<Holds>,
        observer: Arc<dyn Observer>,
        seed: u64,
    ) -> Loop {
        let each = || switches.iter().map(|bound| &bound.switch);
        let interval = each()
            .map(|s| s.interval)
            .min()
            .unwrap_or_default()
            .max(LEAST_INTERVAL);
        let retry_max = each().map(|s| s.retry_max).min().unwrap_or_default();
        let limit = each().map(|s| s.timeout).max().unwrap_or_default();
        let newest = each()
            .filter_map(|s| s.last.as_ref().map(|(_, version)| version.clone()))
            .max_by_key(|version| version.written);
        let mut hasher = DefaultHasher::new();
        (seed, &id).hash(&mut hasher);
        let mut rng = fastrand::Rng::with_seed(hasher.finish());
        let timing = Timing {
            interval,
            phase: interval.mul_f64(rng.f64()),
        };
        let backoff = Backoff::new(interval, retry_max, rng);
        Loop {
            id,
            provider,
            switches,
            newest,
            nudged,
            exams,
            examining: Vec::new(),
            holds,
            observer,
            timing,
            limit,
            backoff,
        }
    }

    async fn run(mut self, stop: CancellationToken) {
        let started = Instant::now();
        loop {
            let ticket = self.nudged.ticket();
            let began = Instant::now();
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                outcome = read_within(self.provider.as_mut(), self.limit) => outcome,
            };
            let took = began.elapsed();
            let failed = self.apply(&outcome, took);
            let retry_after = outcome.as_ref().err().and_then(ReadError::retry_after);
            let ended = if failed {
                Ended::Failed {
                    delay: self.backoff.after_failure(),
                    retry_after,
                }
            } else {
                self.backoff.reset();
                Ended::Answered
            };
            let now = Instant::now();
            let due = Due {
                began,
                at: started + next_poll(&self.timing, began - started, now - started, ended),
                not_before: retry_after.map(|asked| now + asked.min(MOST_RETRY_AFTER)),
                failed,
            };
            self.publish(due.at);
            self.nudged.serve(ticket);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.examine(took, false) => {}
            }
            if !self.wait(due, took, &stop).await {
                return;
            }
        }
    }

    /// Hands the outcome to every switch. Returns whether the store should be asked less often.
    fn apply(&mut self, outcome: &Result<Secret, ReadError>, took: Duration) -> bool {
        let at = self.holds.now();
        for bound in &mut self.switches {
            let seen = Seen::of(outcome, &bound.switch.key, self.newest.as_ref());
            self.observer.polled(&bound.switch.name, &seen.reading, took);
            bound.apply(seen, at);
        }
        match outcome {
            Ok(secret) => {
                if !is_stale(secret, self.newest.as_ref()) {
                    self.newest = Some(secret.version.clone());
                }
                false
            }
            Err(error) => error.is_failure(),
        }
    }

    fn publish(&self, next_poll: Instant) {
        for bound in &self.switches {
            bound.publish(Some(next_poll.into_std()));
        }
    }

    /// Answers those who asked before the read that was just made, or, if it is `old`, before this.
    async fn examine(&mut self, took: Duration, old: bool) {
        if self.examining.is_empty() {
            return;
        }
        let access = timeout(self.limit, self.provider.access()).await;
        let access = access.unwrap_or_else(|_| Access::Unknown("the store gave no answer in time".into()));
        let now = self.holds.now();
        let all = self.switches.iter().filter_map(|bound| {
            bound.examined(now, |seen, acts| Examined {
                switch: bound.switch.name.clone(),
                streams: bound.switch.streams.clone(),
                seen,
                took,
                interval: self.timing.interval,
                old,
                access: access.clone(),
                acts,
            })
        });
        let all: Vec<Examined> = all.collect();
        for reply in self.examining.drain(..) {
            // Whoever asked may have gone away.
            let _ = reply.send(all.clone());
        }
    }

    /// Waits for the next poll; false when there is none any more.
    async fn wait(&mut self, mut due: Due, took: Duration, stop: &CancellationToken) -> bool {
        if let Some(until) = self.until_by().filter(|_| !due.failed) {
            // A hold that ends by itself ends when a reading confirms it, so one is made then.
            due.at = due.at.min(until.max(due.began + LEAST_INTERVAL));
        }
        loop {
            let overdue = self.switches.iter().filter_map(Bound::overdue_at).min();
            tokio::select! {
                biased;
                () = stop.cancelled() => return false,
                () = self.nudged.asked() => match due.not_before {
                    Some(not_before) if not_before > Instant::now() => {
                        let ticket = self.nudged.ticket();
                        tracing::info!(secret = %self.id, "not polled now: the store asked to be left alone");
                        self.nudged.serve(ticket);
                    }
                    _ => due.at = due.at.min(due.began + LEAST_INTERVAL),
                },
                Some(reply) = self.exams.recv() => {
                    self.examining.push(reply);
                    match due.not_before {
                        Some(not_before) if not_before > Instant::now() => tokio::select! {
                            biased;
                            () = stop.cancelled() => return false,
                            () = self.examine(took, true) => {}
                        },
                        _ => due.at = due.at.min(due.began + LEAST_INTERVAL),
                    }
                }
                () = sleep_until(due.at) => return true,
                () = self.provider.tend() => {}
                fired = at_or_never(overdue) => {
                    let now = self.holds.now();
                    for bound in &mut self.switches {
                        bound.overdue(fired, now);
                    }
                    self.publish(due.at);
                }
            }
        }
    }

    /// The nearest end of a hold, by the wall clock as it stands now.
    fn until_by(&self) -> Option<Instant> {
        let until = self.switches.iter().filter_map(Bound::until).min()?;
        let left = until.duration_since(self.holds.now().wall).unwrap_or_default();
        Instant::now().checked_add(left)
    }
}

async fn at_or_never(at: Option<std::time::Instant>) -> std::time::Instant {
    match at {
        Some(at) => {
            sleep_until(Instant::from_std(at)).await;
            at
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "poll_tests.rs"]
mod tests;
