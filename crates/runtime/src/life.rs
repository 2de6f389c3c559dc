//! How a stream is doing, as one pure step function; whether it may *move* is the gate's business.
use std::time::Duration;
use tidegate_gate::{Life, Name};

/// The two things that break and are tried again, each by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Source,
    Sink,
}

/// How one of them is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Health {
    #[default]
    Opening,
    Up,
    Broken {
        attempt: u32,
        error: Name,
    },
}

/// Where the stream as a whole is headed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Course {
    #[default]
    Running,
    Draining,
    Stopped,
    Failed(Name),
}

/// Everything that [`Life`] is derived from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vital {
    pub(crate) source: Health,
    pub(crate) sink: Health,
    pub(crate) course: Course,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// It is open, or works again.
    Works(Part),
    /// It failed and may work later.
    Broke(Part, Name),
    /// Nothing will work until a person acts.
    Fatal(Name),
    /// The process wants to end.
    Stop,
    /// All is done, or given back.
    Ended,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Nothing,
    /// Try again after a backoff of so many attempts.
    Again(u32),
    /// Fetch no more, and leave between two runs.
    Leave,
}

impl Vital {
    /// What the board says.
    pub(crate) fn life(&self) -> Life {
        match (&self.course, &self.sink, &self.source) {
            (Course::Failed(error), ..) => Life::Failed { error: error.clone() },
            (Course::Stopped, ..) => Life::Stopped,
            (Course::Draining, ..) => Life::Draining,
            // The sink first: it is what keeps events waiting.
            (_, Health::Broken { attempt, error }, _) | (_, _, Health::Broken { attempt, error }) => {
                Life::Retrying {
                    attempt: *attempt,
                    error: error.clone(),
                }
            }
            (_, Health::Up, Health::Up) => Life::Up,
            (..) => Life::Starting,
        }
    }

    fn part(&mut self, part: Part) -> &mut Health {
        match part {
            Part::Source => &mut self.source,
            Part::Sink => &mut self.sink,
        }
    }
}

/// The machine: pure, so that every cell stands in a table.
pub(crate) fn step(mut vital: Vital, input: Input) -> (Vital, Effect) {
    use Course::{Draining, Failed, Running, Stopped};
    let effect = match (&vital.course, input) {
        // What has ended stays ended.
        (Stopped | Failed(_), _) => Effect::Leave,
        (Running | Draining, Input::Works(part)) => {
            *vital.part(part) = Health::Up;
            Effect::Nothing
        }
        (Running | Draining, Input::Broke(part, error)) => {
            let health = vital.part(part);
            let attempt = match health {
                Health::Broken { attempt, .. } => attempt.saturating_add(1),
                Health::Opening | Health::Up => 1,
            };
            *health = Health::Broken { attempt, error };
            Effect::Again(attempt)
        }
        (Running | Draining, Input::Fatal(error)) => {
            vital.course = Failed(error);
            Effect::Leave
        }
        (Running | Draining, Input::Stop) => {
            vital.course = Draining;
            Effect::Leave
        }
        (Running | Draining, Input::Ended) => {
            vital.course = Stopped;
            Effect::Leave
        }
    };
    (vital, effect)
}

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// The wait before attempt number `attempt + 1`: doubles from 100 ms to 5 s, of which `jitter` (0 to 1) takes up
/// to half away, so that many streams before one broken broker do not knock in step.
pub(crate) fn backoff(attempt: u32, jitter: f64) -> Duration {
    let full = FIRST
        .saturating_mul(2u32.saturating_pow(attempt.saturating_sub(1)))
        .min(LONGEST);
    full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vital(source: Health, sink: Health, course: Course) -> Vital {
        Vital { source, sink, course }
    }
    fn broken(attempt: u32) -> Health {
        Health::Broken {
            attempt,
            error: "e".into(),
        }
    }
    fn word(life: &Life) -> &'static str {
        match life {
            Life::Starting => "starting",
            Life::Up => "up",
            Life::Retrying { .. } => "retrying",
            Life::Draining => "draining",
            Life::Stopped => "stopped",
            Life::Failed { .. } => "failed",
        }
    }

    #[test]
    fn every_transition_is_the_documented_one() {
        use Course::{Draining, Failed, Running, Stopped};
        use Health::{Opening, Up};
        use Part::{Sink, Source};
        let failed = || Failed("x".into());
        let broke = |p| Input::Broke(p, "e".into());
        let fatal = || Input::Fatal("x".into());
        // (source, sink, course) + input = (source, sink, course), the life that people see, the effect
        #[rustfmt::skip]
        let table = [
            ((Opening, Opening, Running), Input::Works(Source), (Up, Opening, Running), "starting", Effect::Nothing),
            ((Opening, Opening, Running), Input::Works(Sink), (Opening, Up, Running), "starting", Effect::Nothing),
            ((Up, Opening, Running), Input::Works(Sink), (Up, Up, Running), "up", Effect::Nothing),
            ((Opening, Opening, Running), broke(Source), (broken(1), Opening, Running), "retrying", Effect::Again(1)),
            ((broken(1), Up, Running), broke(Source), (broken(2), Up, Running), "retrying", Effect::Again(2)),
            ((broken(u32::MAX), Up, Running), broke(Source), (broken(u32::MAX), Up, Running), "retrying", Effect::Again(u32::MAX)),
            ((broken(7), Up, Running), Input::Works(Source), (Up, Up, Running), "up", Effect::Nothing),
            ((broken(7), broken(2), Running), Input::Works(Source), (Up, broken(2), Running), "retrying", Effect::Nothing),
            ((Up, Up, Running), broke(Sink), (Up, broken(1), Running), "retrying", Effect::Again(1)),
            ((Up, Up, Running), Input::Works(Sink), (Up, Up, Running), "up", Effect::Nothing),
            ((Up, Up, Running), fatal(), (Up, Up, failed()), "failed", Effect::Leave),
            ((Up, Up, Running), Input::Stop, (Up, Up, Draining), "draining", Effect::Leave),
            ((Up, Up, Running), Input::Ended, (Up, Up, Stopped), "stopped", Effect::Leave),
            ((Up, broken(3), Draining), broke(Sink), (Up, broken(4), Draining), "draining", Effect::Again(4)),
            ((Up, broken(3), Draining), Input::Works(Sink), (Up, Up, Draining), "draining", Effect::Nothing),
            ((Up, Up, Draining), fatal(), (Up, Up, failed()), "failed", Effect::Leave),
            ((Up, Up, Draining), Input::Stop, (Up, Up, Draining), "draining", Effect::Leave),
            ((Up, Up, Draining), Input::Ended, (Up, Up, Stopped), "stopped", Effect::Leave),
        ];
        for ((a, b, c), input, (d, e, f), life, effect) in table {
            let from = vital(a, b, c);
            let (to, did) = step(from.clone(), input.clone());
            assert_eq!((&to, &did), (&vital(d, e, f), &effect), "{from:?} + {input:?}");
            assert_eq!(word(&to.life()), life, "{from:?} + {input:?}");
        }
        for end in [Stopped, failed()] {
            for input in [
                Input::Works(Sink),
                broke(Source),
                fatal(),
                Input::Stop,
                Input::Ended,
            ] {
                let from = vital(Up, broken(1), end.clone());
                assert_eq!(
                    step(from.clone(), input),
                    (from, Effect::Leave),
                    "what has ended stays ended"
                );
            }
        }
    }

    #[test]
    fn the_backoff_grows_to_five_seconds_and_never_beyond() {
        for (attempt, jitter, millis) in [
            (0, 0.0, 100),
            (1, 0.0, 100),
            (2, 0.0, 200),
            (3, 0.0, 400),
            (6, 0.0, 3200),
            (7, 0.0, 5000),
            (u32::MAX, 0.0, 5000),
            (1, 1.0, 50),
            (u32::MAX, 1.0, 2500),
            (1, 9.0, 50),
        ] {
            assert_eq!(
                backoff(attempt, jitter),
                Duration::from_millis(millis),
                "{attempt} {jitter}"
            );
        }
    }
}
