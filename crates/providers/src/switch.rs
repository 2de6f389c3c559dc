//! One switch on the board: what it last read, and what that did to its hold.
use crate::{Observer, Seen};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tidegate_gate::{
    Alarm, Cause, Controller, Decision, Flag, Holds, Last, Moment, Name, Policy, Reading, Scope,
    SwitchStatus, UnknownStream, Version, Wish, decide,
};
use tracing::{error, info, warn};

/// What a switch does until its first good reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AtStart {
    /// It holds its streams.
    #[default]
    Paused,
    /// It lets them run.
    Running,
    /// It does what the last good reading before the restart said, and holds where there is none.
    Last,
}

/// A switch: whose streams it holds, what it looks at, how often, and what it does when the store is of no help.
#[derive(Clone, Debug)]
pub struct Switch {
    /// Its name.
    pub name: Name,
    /// The streams it holds, each by name; `*` has been resolved by whoever knows them all.
    pub streams: Vec<Name>,
    /// The flag's field in the secret; `:` steps into objects.
    pub key: Name,
    /// Between the starts of two polls; at least [`crate::LEAST_INTERVAL`] is kept. Of several switches on one secret
    /// the shortest interval and the shortest `retry_max` count, and the longest `timeout`.
    pub interval: Duration,
    /// The longest that one read may take.
    pub timeout: Duration,
    /// After failures the delay grows from `interval` to this, or stays at `interval` if that is longer.
    pub retry_max: Duration,
    /// Until the first good reading.
    pub at_start: AtStart,
    /// What to do where there is no flag.
    pub policy: Policy,
    /// The last good reading before a restart; only `at_start = "last"` and the staleness of versions look at it.
    pub last: Option<(Flag, Version)>,
}

impl Switch {
    /// A switch with the documented defaults.
    pub fn new<S: Into<Name>>(name: impl Into<Name>, streams: impl IntoIterator<Item = S>) -> Switch {
        Switch {
            name: name.into(),
            streams: streams.into_iter().map(Into::into).collect(),
            key: "IsPaused".into(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            retry_max: Duration::from_secs(5),
            at_start: AtStart::Paused,
            policy: Policy::default(),
            last: None,
        }
    }
}

/// A switch that is bound to the board.
pub(crate) struct Bound {
    pub(crate) switch: Switch,
    controller: Controller,
    provider: &'static str,
    holds: Arc<Holds>,
    observer: Arc<dyn Observer>,
    bound_at: Instant,
    last: Last,
    good: Option<(Flag, Version)>,
    good_at: Option<Instant>,
    /// The hold's end, if the last reading was good and has one.
    until: Option<SystemTime>,
    seen: Option<Seen>,
    warnings: Vec<Name>,
    error: Option<Name>,
    settled: bool,
    too_old: bool,
}

impl Bound {
    /// Puts the switch on the board and places the hold that `at_start` asks for, before anything can run.
    pub(crate) fn new(
        switch: Switch,
        provider: &'static str,
        holds: Arc<Holds>,
        observer: Arc<dyn Observer>,
    ) -> Result<Bound, UnknownStream> {
        let mut bound = Bound {
            controller: Controller::Switch(switch.name.clone()),
            provider,
            bound_at: holds.now().mono,
            last: Last::Never,
            good: None,
            good_at: None,
            until: None,
            seen: None,
            warnings: Vec::new(),
            error: None,
            settled: true,
            too_old: false,
            switch,
            holds,
            observer,
        };
        match (bound.switch.at_start, bound.switch.last.clone()) {
            (AtStart::Running, _) => {
                // Checks the names as placing a hold would.
                bound.release(&Cause::default())?;
            }
            (AtStart::Last, Some((flag, version))) => bound.restore(flag, version)?,
            (AtStart::Paused, _) | (AtStart::Last, None) => {
                bound.settled = false;
                bound.place(Wish {
                    reason: Some("no reading yet".into()),
                    ..Wish::default()
                })?;
            }
        }
        bound.publish(None);
        Ok(bound)
    }

    fn restore(&mut self, flag: Flag, version: Version) -> Result<(), UnknownStream> {
        let cause = cause_of(&version, None, false);
        let reading = Reading::Good(flag.clone(), version.clone());
        self.good = Some((flag, version));
        // Judged at the beginning of time: an end that passed while nobody polled is not confirmed by a reading.
        let epoch = SystemTime::UNIX_EPOCH;
        match decide(Last::Never, &reading, Duration::ZERO, &self.switch.policy, epoch) {
            Decision::Hold {
                reason, by, until, ..
            } => {
                self.last = Last::Paused;
                self.place(Wish {
                    reason,
                    by,
                    until,
                    since: None,
                    cause,
                })
            }
            Decision::Release | Decision::Keep(_) => {
                self.last = Last::Running;
                self.release(&cause)
            }
        }
    }

    /// Applies what one poll of the switch's secret saw: the hold first, then the board's line, so that whoever reads
    /// `settled` may rely on the hold.
    pub(crate) fn apply(&mut self, seen: Seen, at: Moment) {
        let word_before = self.seen.as_ref().map(|s| s.reading.word());
        let Reading::Good(flag, version) = &seen.reading else {
            self.until = None;
            self.act(&seen, false, at);
            if word_before != Some(seen.reading.word()) {
                let error = self.error.as_deref().unwrap_or_default();
                warn!(switch = %self.switch.name, reading = seen.reading.word(), error, "no flag");
            }
            self.seen = Some(seen);
            return;
        };

        let new_version = self.good.as_ref().map(|(_, v)| &v.id) != Some(&version.id);
        // Only a version that turned up between two polls of ours says how late we are.
        let first_seen = new_version && self.good_at.is_some();
        self.good_at = Some(at.mono);
        let decision = self.act(&seen, first_seen, at);
        let (last, until, alarm) = match decision {
            Decision::Hold { until, alarm, .. } => (Last::Paused, until, alarm),
            Decision::Release => (Last::Running, None, None),
            // `decide` never keeps on a good reading; if it did, nothing changed.
            Decision::Keep(alarm) => (self.last, None, Some(alarm)),
        };
        (self.last, self.until) = (last, until);
        self.settled = true;
        self.warnings.clone_from(&flag.warnings);
        self.warnings.extend(alarm.map(|alarm| Name::from(alarm.text())));
        if word_before != Some(seen.reading.word()) {
            info!(switch = %self.switch.name, reading = seen.reading.word(), version = %version.id, "flag read");
        }
        let good = Some((flag.clone(), version.clone()));
        if self.good != good {
            for warning in &self.warnings {
                warn!(switch = %self.switch.name, version = %version.id, "{warning}");
            }
            self.observer.good(&self.switch.name, flag, version);
            self.good = good;
        }
        self.seen = Some(seen);
    }

    fn act(&mut self, seen: &Seen, first_seen: bool, at: Moment) -> Decision {
        let age = at
            .mono
            .saturating_duration_since(self.good_at.unwrap_or(self.bound_at));
        let decision = decide(self.last, &seen.reading, age, &self.switch.policy, at.wall);
        let cause = match &seen.reading {
            Reading::Good(_, version) => cause_of(version, Some(at.mono), first_seen),
            // The version stays the last good one: what a person has overridden is over with the next new version,
            // not with the next failure.
            _ => Cause {
                version: self.good.as_ref().map(|(_, version)| version.clone()),
                read_at: Some(at.mono),
                ..Cause::default()
            },
        };
        let applied = match decision.clone() {
            Decision::Hold {
                reason, by, until, ..
            } => self.place(Wish {
                reason,
                by,
                until,
                since: None,
                cause,
            }),
            Decision::Release => self.release(&cause),
            Decision::Keep(_) => Ok(()),
        };
        if let Err(unknown) = applied {
            // Checked when the switch was bound, and streams never leave the board.
            error!(switch = %self.switch.name, "{unknown}");
        }
        self.error = seen.error.as_ref().map(|error| {
            let now = match &decision {
                Decision::Keep(alarm) => alarm.text(),
                Decision::Hold { reason, .. } => reason.as_deref().unwrap_or("its streams are held"),
                Decision::Release => "its streams run",
            };
            format!("switch \"{}\": {error}; {now}", self.switch.name).into()
        });
        let too_old = seen.error.is_some() && age >= self.switch.policy.max_stale;
        if too_old && !self.too_old {
            let error = self.error.as_deref().unwrap_or_default();
            warn!(switch = %self.switch.name, error, "{}", Alarm::TooOld.text());
        }
        self.too_old = too_old;
        decision
    }

    fn place(&self, wish: Wish) -> Result<(), UnknownStream> {
        let on = Scope::Each(&self.switch.streams);
        self.holds.place(&self.controller, on, wish).map(drop)
    }

    fn release(&self, cause: &Cause) -> Result<(), UnknownStream> {
        let on = Scope::Each(&self.switch.streams);
        self.holds.release(&self.controller, on, cause).map(drop)
    }

    /// What the last read saw and what a flip would come to, made into one by `with`; nothing before the first read.
    pub(crate) fn examined<T>(
        &self,
        at: Moment,
        with: impl FnOnce(Seen, Result<(), Name>) -> T,
    ) -> Option<T> {
        let seen = self.seen.clone()?;
        let acts = self.rehearse(&seen, at.wall);
        Some(with(seen, acts))
    }

    /// Decides about the flag that was read as if it had just been flipped, both ways, and applies nothing.
    fn rehearse(&self, seen: &Seen, now: SystemTime) -> Result<(), Name> {
        let Reading::Good(flag, version) = &seen.reading else {
            return Err("there is no flag to flip".into());
        };
        let decided = |paused| {
            let flag = Flag {
                paused,
                ..flag.clone()
            };
            // A flip is a new version; stores that tell no time tell none of it either.
            let version = Version {
                id: "rehearsal".into(),
                written: version.written.map(|_| now),
            };
            let reading = Reading::Good(flag, version);
            decide(self.last, &reading, Duration::ZERO, &self.switch.policy, now)
        };
        match (decided(true), decided(false)) {
            (Decision::Hold { .. }, Decision::Release) => Ok(()),
            (Decision::Hold { .. }, _) => Err("a flag that says false would not let the streams go".into()),
            _ => Err(
                "a flag that says true would hold nothing: its \"until\" has passed, so remove that field from the \
                 secret"
                    .into(),
            ),
        }
    }

    /// The nearest moment at which something is due although no poll is.
    pub(crate) fn overdue_at(&self) -> Option<Instant> {
        match &self.seen {
            Some(seen) if !self.too_old && !matches!(seen.reading, Reading::Good(..)) => {
                // A deadline that no clock can reach is none.
                self.good_at
                    .unwrap_or(self.bound_at)
                    .checked_add(self.switch.policy.max_stale)
            }
            _ => None,
        }
    }

    /// Decides again about the last reading, if it became too old by `fired`, a moment that has come whatever the
    /// board's clock makes of it.
    pub(crate) fn overdue(&mut self, fired: Instant, now: Moment) {
        if self.overdue_at().is_some_and(|due| due <= fired)
            && let Some(seen) = self.seen.clone()
        {
            let mono = now.mono.max(fired);
            self.act(&seen, false, Moment { mono, ..now });
        }
    }

    /// When the hold's own end comes, as long as the secret can be read: worth a poll of its own.
    pub(crate) fn until(&self) -> Option<SystemTime> {
        self.until
    }

    /// Writes the switch's line on the board.
    pub(crate) fn publish(&self, next_poll: Option<Instant>) {
        self.holds.put_switch(SwitchStatus {
            name: self.switch.name.clone(),
            provider: self.provider,
            streams: self.switch.streams.clone(),
            reading: self.seen.as_ref().map_or("none", |s| s.reading.word()),
            version: self.good.as_ref().map(|(_, version)| version.clone()),
            good_at: self.good_at,
            error: self.error.clone(),
            warnings: self.warnings.clone(),
            next_poll,
            settled: self.settled,
            stale: self.too_old,
        });
    }
}

fn cause_of(version: &Version, read_at: Option<Instant>, first_seen: bool) -> Cause {
    Cause {
        actor: Some(format!("store:{}", version.id).into()),
        version: Some(version.clone()),
        read_at,
        first_seen,
        ..Cause::default()
    }
}
