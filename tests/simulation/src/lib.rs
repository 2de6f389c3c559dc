//! Poller, holds and streams, the real ones, in simulated time: flips, faults of the store and of the sinks, restarts,
//! expiries and operators, all drawn from a seed, against a short model of when a stream should stand still.
//!
//! ```text
//! cargo test -p simulation                                    400 seeds
//! TIDEGATE_SIM_SEEDS=100000 cargo test -p simulation          more
//! TIDEGATE_SIM_SEED=1234 cargo test -p simulation             one, again
//! ```
//! What is real: the poll loop, the flag's reader, the decision, the holds, the gate, the driver, the supervisor and the
//! herald. What is not: the store (a provider that does what the seed says), source and sink (in memory), the clocks. The wall
//! clock of the process jumps, both ways, by milliseconds and by hours; that of the store does not.
mod model;
mod store;
mod world;

use std::fmt;
use std::time::Duration;
use tidegate_gate::State;
use tidegate_providers::ReadError;

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    /// A secret that goes away resumes, as a missing key does in .NET's configuration.
    ResumesOnMissing,
    /// A store that cannot be reached resumes.
    ResumesOnOutage,
    /// A restart loses the holds that operators placed.
    ForgetsOperators,
    /// How old a reading is is told by the wall clock.
    AgesByTheWall,
    /// An operator's hold ends when it should have as the clock stood when somebody last looked.
    SleepsThroughAJump,
}

impl Twin {
    fn resumes_on(self, error: &ReadError) -> bool {
        match self {
            Twin::ResumesOnMissing => matches!(error, ReadError::Missing(_) | ReadError::Deleted(_)),
            Twin::ResumesOnOutage => matches!(error, ReadError::Unavailable { .. }),
            Twin::ForgetsOperators | Twin::AgesByTheWall | Twin::SleepsThroughAJump => false,
        }
    }
}

/// What a run was made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Moves of somebody's: a flip, a fault, a call.
    pub moves: u64,
    /// Ends of the process.
    pub restarts: u64,
    /// Jumps of the wall clock, back and forth.
    pub jumps: [u64; 2],
    /// Reads of the store that gave an answer.
    pub polls: u64,
    /// Events that arrived.
    pub events: u64,
    /// Those of them that came again after a kill.
    pub repeated: u64,
    /// How often the model was asked, and said that a stream should stand still or not.
    pub compared: [u64; 2],
    /// Of all that was seen, in order.
    pub hash: u64,
}

impl Trace {
    fn add(&mut self, should: bool, state: &State, events: u64) {
        use std::hash::{DefaultHasher, Hash, Hasher};
        self.compared[usize::from(should)] += 1;
        let mut hasher = DefaultHasher::new();
        (self.hash, should, state.word(), events).hash(&mut hasher);
        self.hash = hasher.finish();
    }
}

/// What went wrong, and when.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed that shows it.
    pub seed: u64,
    /// How long after the beginning, in simulated time.
    pub at: Duration,
    /// What.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {} after {:?}: {}\nagain: TIDEGATE_SIM_SEED={} cargo test -p simulation",
            self.seed, self.at, self.what, self.seed
        )
    }
}

impl std::error::Error for Failure {}

/// One run, on this thread.
///
/// # Errors
/// The first thing that is not as the model says.
///
/// # Panics
/// If the machine has no room for a runtime.
pub fn run(seed: u64, twin: Option<Twin>) -> Result<Trace, Failure> {
    // Retries draw their jitter from the thread's generator.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without sockets needs memory only");
    runtime.block_on(async { world::World::new(seed, twin).run().await })
}
