//! What a reading means for a switch's hold: one pure function, one `match`, one table test.
//!
//! The rule behind every cell: **absence is never a decision**. Only a good reading of a flag resumes anything.
use crate::Name;
use std::fmt;
use std::time::{Duration, SystemTime};

/// The wish that a switch's secret holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Whether the streams of the switch are to stand still.
    pub paused: bool,
    /// Why, in the words of whoever flipped it.
    pub reason: Option<Name>,
    /// Who flipped it, as the secret claims.
    pub by: Option<Name>,
    /// When the wish ends.
    pub until: Option<SystemTime>,
    /// What in the secret was ignored, a sentence each; never a value.
    pub warnings: Vec<Name>,
}

/// Which state of the secret a reading saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The store's name for it (Vault: a number; Key Vault: 32 hex digits; a file: size, inode and mtime).
    pub id: Name,
    /// When the store says it was written, where it says so.
    pub written: Option<SystemTime>,
}

/// What one poll of a switch returned. *Absent*, *unchanged* and *failed* are different things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A flag with its version.
    Good(Flag, Version),
    /// No such secret, or the secret lacks the key.
    Missing,
    /// The secret's current version was deleted or destroyed.
    Deleted,
    /// The secret is switched off at the store.
    Disabled,
    /// The secret is there and is not a flag; the text says what was expected, never what was found.
    Malformed(Name),
    /// The store knows us and refuses, or does not know us.
    Denied,
    /// The store asks for fewer requests.
    Throttled,
    /// The store is sealed.
    Sealed,
    /// No answer that can be used.
    Unavailable,
    /// An older version than one seen before, as a lagging replica serves it.
    Stale,
}

impl Reading {
    /// The word that status, metrics and logs use. A good reading is named after what it asks for.
    pub fn word(&self) -> &'static str {
        match self {
            Reading::Good(flag, _) if flag.paused => "paused",
            Reading::Good(..) => "running",
            Reading::Missing => "missing",
            Reading::Deleted => "deleted",
            Reading::Disabled => "disabled",
            Reading::Malformed(_) => "malformed",
            Reading::Denied => "denied",
            Reading::Throttled => "throttled",
            Reading::Sealed => "sealed",
            Reading::Unavailable => "unavailable",
            Reading::Stale => "stale",
        }
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What to do where the store gives no flag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnAbsence {
    /// Keep what stands.
    #[default]
    Keep,
    /// Hold the streams.
    Pause,
}

/// What to do when a flag's own `until` has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExpiry {
    /// The hold ends, once a good reading at or past that time confirms it.
    #[default]
    Release,
    /// The hold stands on, without expiry.
    Keep,
}

/// A switch's policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// For *missing* and *deleted*.
    pub on_missing: OnAbsence,
    /// For *malformed*.
    pub on_malformed: OnAbsence,
    /// How old the last good reading may grow before `on_stale` applies.
    pub max_stale: Duration,
    /// For any reading that is not good, once the last good one is older than `max_stale`.
    pub on_stale: OnAbsence,
    /// For a flag whose `until` has passed.
    pub on_expiry: OnExpiry,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            on_missing: OnAbsence::Keep,
            on_malformed: OnAbsence::Keep,
            max_stale: Duration::from_secs(300),
            on_stale: OnAbsence::Keep,
            on_expiry: OnExpiry::Release,
        }
    }
}

/// What the last good reading of a switch came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// There was none yet: what stands is what `at_start` said.
    Never,
    /// It released, or its hold expired.
    Running,
    /// It holds.
    Paused,
}

/// Why somebody should look at a switch although its decision may be to change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// The store gave no flag; what stood stands on.
    NotRead,
    /// No good reading for `max_stale`.
    TooOld,
    /// `until` is not later than the version itself: a leftover of an earlier flip. The hold has no expiry.
    LeftoverUntil,
    /// `until` has passed and `on_expiry = "keep"` holds on.
    ExpiredKept,
}

impl Alarm {
    /// The sentence that status and logs show.
    pub fn text(self) -> &'static str {
        match self {
            Alarm::NotRead => "no flag could be read: what stood before stands on",
            Alarm::TooOld => "no good reading for longer than max_stale",
            Alarm::LeftoverUntil => {
                "\"until\" is not later than the version itself, so it is taken for a leftover: the hold has no expiry"
            }
            Alarm::ExpiredKept => "\"until\" has passed; on_expiry = \"keep\" holds on",
        }
    }
}

/// What a switch's hold becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The switch holds its streams.
    Hold {
        /// Why.
        reason: Option<Name>,
        /// Who, as the secret claims.
        by: Option<Name>,
        /// Shown to people; only a good reading at or past it ends the hold.
        until: Option<SystemTime>,
        /// What to tell people besides.
        alarm: Option<Alarm>,
    },
    /// The switch lets its streams go.
    Release,
    /// What stands stands on.
    Keep(Alarm),
}

/// Decides what `seen` means for the switch's hold.
///
/// `last` is what the last good reading came to, `age` how long ago that was (at start: how long the switch has
/// been polled), `now` the wall clock.
pub fn decide(last: Last, seen: &Reading, age: Duration, policy: &Policy, now: SystemTime) -> Decision {
    use OnAbsence::{Keep, Pause};
    let too_old = age >= policy.max_stale;
    match (last, seen) {
        (_, Reading::Good(flag, version)) => good(flag, version, policy, now),
        // A hold that came from a flag keeps the reason people know it by.
        (Last::Paused, _) => Decision::Keep(if too_old { Alarm::TooOld } else { Alarm::NotRead }),
        (_, Reading::Missing | Reading::Deleted) if policy.on_missing == Pause => {
            policy_hold(seen, "on_missing")
        }
        (_, Reading::Malformed(_)) if policy.on_malformed == Pause => policy_hold(seen, "on_malformed"),
        (_, _) => match (too_old, policy.on_stale) {
            (true, Pause) => Decision::Hold {
                reason: Some("no good reading for longer than max_stale (on_stale = \"pause\")".into()),
                by: None,
                until: None,
                alarm: Some(Alarm::TooOld),
            },
            (true, Keep) => Decision::Keep(Alarm::TooOld),
            (false, _) => Decision::Keep(Alarm::NotRead),
        },
    }
}

fn good(flag: &Flag, version: &Version, policy: &Policy, now: SystemTime) -> Decision {
    if !flag.paused {
        return Decision::Release;
    }
    let hold = |until, alarm| Decision::Hold {
        reason: flag.reason.clone(),
        by: flag.by.clone(),
        until,
        alarm,
    };
    match (flag.until, version.written) {
        (None, _) => hold(None, None),
        (Some(until), Some(written)) if until <= written => hold(None, Some(Alarm::LeftoverUntil)),
        (Some(until), _) if until > now => hold(Some(until), None),
        (Some(_), _) => match policy.on_expiry {
            OnExpiry::Release => Decision::Release,
            OnExpiry::Keep => hold(None, Some(Alarm::ExpiredKept)),
        },
    }
}

fn policy_hold(seen: &Reading, option: &str) -> Decision {
    Decision::Hold {
        reason: Some(format!("the secret is {seen} ({option} = \"pause\")").into()),
        by: None,
        until: None,
        alarm: Some(Alarm::NotRead),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::UNIX_EPOCH;

    fn at(s: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(s)
    }
    const NOW: u64 = 1000;
    const FRESH: Duration = Duration::from_secs(1);
    const OLD: Duration = Duration::from_secs(300);

    fn flag(paused: bool, until: Option<u64>, written: u64) -> Reading {
        Reading::Good(
            Flag {
                paused,
                reason: Some("r".into()),
                by: Some("ana".into()),
                until: until.map(at),
                warnings: vec![],
            },
            Version {
                id: "7".into(),
                written: Some(at(written)),
            },
        )
    }
    fn bad() -> Vec<Reading> {
        vec![
            Reading::Missing,
            Reading::Deleted,
            Reading::Disabled,
            Reading::Malformed("a boolean".into()),
            Reading::Denied,
            Reading::Throttled,
            Reading::Sealed,
            Reading::Unavailable,
            Reading::Stale,
        ]
    }
    fn policies() -> Vec<Policy> {
        use OnAbsence::{Keep, Pause};
        let mut all = vec![];
        for on_missing in [Keep, Pause] {
            for on_malformed in [Keep, Pause] {
                for on_stale in [Keep, Pause] {
                    for on_expiry in [OnExpiry::Release, OnExpiry::Keep] {
                        all.push(Policy {
                            on_missing,
                            on_malformed,
                            on_stale,
                            on_expiry,
                            ..Policy::default()
                        });
                    }
                }
            }
        }
        all
    }
    /// What happens to the streams, without the words that go with it.
    fn outcome(d: &Decision) -> &'static str {
        match d {
            Decision::Hold { .. } => "hold",
            Decision::Release => "release",
            Decision::Keep(_) => "keep",
        }
    }

    #[test]
    fn every_cell_of_last_reading_age_and_policy_has_the_documented_outcome() {
        for policy in policies() {
            for last in [Last::Never, Last::Running, Last::Paused] {
                for age in [FRESH, OLD] {
                    for seen in bad() {
                        let by_kind = match seen {
                            Reading::Missing | Reading::Deleted => policy.on_missing,
                            Reading::Malformed(_) => policy.on_malformed,
                            _ => OnAbsence::Keep,
                        };
                        let stale = age == OLD && policy.on_stale == OnAbsence::Pause;
                        let expected = match last {
                            Last::Paused => "keep",
                            _ if by_kind == OnAbsence::Pause || stale => "hold",
                            _ => "keep",
                        };
                        let got = decide(last, &seen, age, &policy, at(NOW));
                        assert_eq!(outcome(&got), expected, "{last:?} {seen:?} {age:?} {policy:?}");
                    }
                    for (seen, expected) in [
                        (flag(false, None, 500), "release"),
                        (flag(false, Some(2000), 500), "release"),
                        (flag(true, None, 500), "hold"),
                        (flag(true, Some(2000), 500), "hold"),
                        (flag(true, Some(400), 500), "hold"),
                        (flag(true, Some(500), 500), "hold"),
                        (
                            flag(true, Some(900), 500),
                            if policy.on_expiry == OnExpiry::Release {
                                "release"
                            } else {
                                "hold"
                            },
                        ),
                        (
                            flag(true, Some(NOW), 500),
                            if policy.on_expiry == OnExpiry::Release {
                                "release"
                            } else {
                                "hold"
                            },
                        ),
                    ] {
                        let got = decide(last, &seen, age, &policy, at(NOW));
                        assert_eq!(outcome(&got), expected, "{last:?} {seen:?} {age:?} {policy:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_but_a_good_reading_ever_releases() {
        for policy in policies() {
            for last in [Last::Never, Last::Running, Last::Paused] {
                for age in [Duration::ZERO, FRESH, OLD, Duration::MAX] {
                    for seen in bad() {
                        assert_ne!(
                            decide(last, &seen, age, &policy, at(NOW)),
                            Decision::Release,
                            "{seen:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_leftover_until_is_no_expiry_and_says_so() {
        let got = decide(
            Last::Running,
            &flag(true, Some(499), 500),
            FRESH,
            &Policy::default(),
            at(NOW),
        );
        assert!(
            matches!(
                got,
                Decision::Hold {
                    until: None,
                    alarm: Some(Alarm::LeftoverUntil),
                    ..
                }
            ),
            "{got:?}"
        );
    }

    #[test]
    fn a_flag_in_force_carries_its_reason_author_and_end() {
        let got = decide(
            Last::Running,
            &flag(true, Some(2000), 500),
            FRESH,
            &Policy::default(),
            at(NOW),
        );
        assert_eq!(
            got,
            Decision::Hold {
                reason: Some("r".into()),
                by: Some("ana".into()),
                until: Some(at(2000)),
                alarm: None
            }
        );
    }
}
