//! Paced resume: a backlog that built up in a pause does not flood the sink.
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// How fast events may pass for a while after a resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Events a second at most.
    pub rate: NonZeroU32,
    /// For so long after the gate opened; then as fast as it goes.
    pub ramp: Duration,
}

/// What was not used is kept for this long, so that a sink that takes batches is not fed one by one.
const BURST: Duration = Duration::from_millis(100);

/// Keeps one stream's pace. Pure: told the time and the generation of the gate.
#[derive(Debug)]
pub(crate) struct Pacer {
    pace: Option<Pace>,
    generation: u64,
    /// When the ramp ends, and when the next event is due.
    ramp: Option<(Instant, Instant)>,
}

impl Pacer {
    /// A gate that has never closed has generation 0.
    pub(crate) fn new(pace: Option<Pace>) -> Pacer {
        Pacer {
            pace,
            generation: 0,
            ramp: None,
        }
    }

    /// Whether there is nothing to keep: then nobody need ask for the generation.
    pub(crate) fn is_idle(&self) -> bool {
        self.pace.is_none()
    }

    /// How many events may pass now, at an open gate of this generation; or how long to wait for the first.
    pub(crate) fn allow(&mut self, generation: u64, now: Instant) -> Result<usize, Duration> {
        let Some(pace) = self.pace else {
            return Ok(usize::MAX);
        };
        if generation != self.generation {
            self.generation = generation;
            self.ramp = Some((now + pace.ramp, now));
        }
        let Some((ends, due)) = &mut self.ramp else {
            return Ok(usize::MAX);
        };
        if now >= *ends {
            self.ramp = None;
            return Ok(usize::MAX);
        }
        if now < *due {
            return Err(due.duration_since(now).min(ends.duration_since(now)));
        }
        let kept = now.duration_since(*due).min(BURST);
        *due = now.checked_sub(kept).unwrap_or(now);
        // The product of a rate and a tenth of a second fits.
        Ok(1 + (f64::from(pace.rate.get()) * kept.as_secs_f64()) as usize)
    }

    /// So many have passed.
    pub(crate) fn passed(&mut self, events: usize) {
        if let (Some(pace), Some((_, due))) = (self.pace, &mut self.ramp) {
            *due += Duration::from_secs_f64(events as f64 / f64::from(pace.rate.get()));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test stops at the first surprise
    use super::*;

    /// How many pass in each of the first seconds, with a batch of at most 50 every 10 ms and one resume at the start.
    fn through(pace: Option<Pace>, seconds: usize) -> Vec<usize> {
        let start = Instant::now();
        let mut pacer = Pacer::new(pace);
        let mut passed = vec![0; seconds];
        for step in 0..seconds * 100 {
            let now = start + Duration::from_millis(10 * step as u64);
            if let Ok(most) = pacer.allow(1, now) {
                let n = most.min(50);
                pacer.passed(n);
                passed[step / 100] += n;
            }
        }
        passed
    }

    #[test]
    fn the_rate_is_kept_for_the_ramp_and_no_longer() {
        let pace = Pace {
            rate: NonZeroU32::new(200).unwrap(),
            ramp: Duration::from_secs(3),
        };
        let passed = through(Some(pace), 5);
        for second in &passed[..3] {
            assert!((180..=221).contains(second), "{passed:?}");
        }
        assert_eq!(passed[3..], [5000, 5000]);
        assert_eq!(through(None, 1), [5000]);
    }

    #[test]
    fn a_gate_that_never_closed_is_not_paced_and_each_resume_is() {
        let pace = Pace {
            rate: NonZeroU32::new(10).unwrap(),
            ramp: Duration::from_secs(1),
        };
        let start = Instant::now();
        let mut pacer = Pacer::new(Some(pace));
        assert_eq!(pacer.allow(0, start), Ok(usize::MAX));
        for (generation, at) in [(1, 10), (2, 20)] {
            let resumed = start + Duration::from_secs(at);
            assert_eq!(pacer.allow(generation, resumed), Ok(1));
            pacer.passed(1);
            assert_eq!(pacer.allow(generation, resumed), Err(Duration::from_millis(100)));
            assert_eq!(
                pacer.allow(generation, resumed + Duration::from_secs(1)),
                Ok(usize::MAX)
            );
        }
    }
}
