//! How a stream fares: what its parts report, fed to the [step function](crate::life) and shown on the board.
use crate::life::{Course, Effect, Health, Input, Part, Vital, backoff, step};
use std::sync::Mutex;
use std::time::Duration;
use tidegate_gate::{Member, Name};

/// Feeds the step function and tells the board.
pub(crate) struct Vitals<'a> {
    member: &'a Member,
    vital: Mutex<Vital>,
}

impl<'a> Vitals<'a> {
    pub(crate) fn new(member: &'a Member) -> Vitals<'a> {
        Vitals {
            member,
            vital: Mutex::default(),
        }
    }

    pub(crate) fn tell(&self, input: Input) -> Effect {
        // The step function is pure and total: nothing in here can panic half way.
        let mut vital = self.vital.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (next, effect) = step(std::mem::take(&mut *vital), input);
        *vital = next;
        self.member.set_life(vital.life());
        effect
    }

    pub(crate) fn works(&self, part: Part) {
        let vital = self.vital.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let health = match part {
            Part::Source => &vital.source,
            Part::Sink => &vital.sink,
        };
        if *health != Health::Up {
            drop(vital);
            self.tell(Input::Works(part));
        }
    }

    /// The wait before the next try; nothing if there is none.
    pub(crate) fn broke(&self, part: Part, why: Name) -> Option<Duration> {
        match self.tell(Input::Broke(part, why.clone())) {
            Effect::Again(attempt) => {
                let wait = backoff(attempt, fastrand::f64());
                let stream = self.member.name();
                let millis = wait.as_millis();
                // The first failure of a row is news, the hundredth is not.
                if attempt.is_power_of_two() {
                    tracing::warn!(%stream, attempt, error = %why, "tried again in {millis} ms");
                } else {
                    tracing::debug!(%stream, attempt, error = %why, "tried again in {millis} ms");
                }
                Some(wait)
            }
            Effect::Nothing | Effect::Leave => None,
        }
    }

    pub(crate) fn fatal(&self, why: Name) {
        tracing::error!(stream = %self.member.name(), error = %why, "the stream has failed");
        self.tell(Input::Fatal(why));
    }

    pub(crate) fn failure(&self) -> Option<Name> {
        let vital = self.vital.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &vital.course {
            Course::Failed(error) => Some(error.clone()),
            _ => None,
        }
    }
}
