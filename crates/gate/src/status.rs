//! The one snapshot that everybody reads, and the words in it.
use crate::{Controller, Hold, Name, Phase, Running, Version};
use std::time::{Duration, Instant, SystemTime};

/// How the machinery of a stream is doing, whatever its gate says: a source may be retrying behind a closed gate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Life {
    /// Not opened yet.
    #[default]
    Starting,
    /// Source and sink are open.
    Up,
    /// Source or sink broke and is tried again.
    Retrying {
        /// How often it was tried without success.
        attempt: u32,
        /// What broke.
        error: Name,
    },
    /// Finishing what is in flight before it stops.
    Draining,
    /// Ended: the source came to its end, or it was told to stop.
    Stopped,
    /// Ended, and a person has to act.
    Failed {
        /// What broke.
        error: Name,
    },
}

impl Life {
    /// What broke, if something is broken.
    pub fn error(&self) -> Option<&Name> {
        match self {
            Life::Retrying { error, .. } | Life::Failed { error } => Some(error),
            _ => None,
        }
    }
}

/// What a name on the board is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A hosted stream.
    Stream,
    /// An HTTP gate.
    Gate {
        /// It goes on serving while held and only says so (`on_hold = "serve"`), as Hiatus does.
        serves: bool,
    },
}

impl Kind {
    /// `stream` or `gate`.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Stream => "stream",
            Kind::Gate { .. } => "gate",
        }
    }
}

/// The state of a stream or gate in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Not opened yet.
    Starting,
    /// Events move.
    Running,
    /// Closed, with work in flight.
    Pausing,
    /// Closed and proven: nothing moves.
    Paused,
    /// Held, but serving on.
    Hiatus,
    /// Told to stop, finishing what is in flight.
    Draining,
    /// Ended.
    Stopped,
    /// Ended, and a person has to act.
    Failed,
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [State; 8] = [
        State::Starting,
        State::Running,
        State::Pausing,
        State::Paused,
        State::Hiatus,
        State::Draining,
        State::Stopped,
        State::Failed,
    ];

    /// The word that the control API, metrics and logs use.
    pub fn word(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Running => "running",
            State::Pausing => "pausing",
            State::Paused => "paused",
            State::Hiatus => "hiatus",
            State::Draining => "draining",
            State::Stopped => "stopped",
            State::Failed => "failed",
        }
    }

    /// The one place that derives the state.
    pub(crate) fn of(kind: Kind, life: &Life, phase: Phase, held: bool) -> State {
        match (life, kind, phase) {
            (Life::Stopped, ..) => State::Stopped,
            (Life::Failed { .. }, ..) => State::Failed,
            (Life::Draining, ..) => State::Draining,
            (_, Kind::Gate { serves: true }, _) if held => State::Hiatus,
            (_, _, Phase::Paused) => State::Paused,
            (_, _, Phase::Pausing) => State::Pausing,
            (Life::Starting, _, Phase::Open) => State::Starting,
            (_, _, Phase::Open) => State::Running,
        }
    }
}

/// What a source has handed out that has not passed the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Events fetched, not past the gate, not acknowledged.
    pub events: u64,
    /// When the oldest of them was fetched.
    pub oldest: Option<Instant>,
    /// When the source takes the first of them back, for sources with leases.
    pub lease_ends: Option<Instant>,
    /// They were given back to the source, to be fetched again after the pause.
    pub parked: bool,
}

/// How long a source leaves what it has handed out with us, while it is not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// What is not renewed is taken back after this, and handed out again.
    pub term: Duration,
    /// The longest that renewals keep it; equal to `term` where nothing is renewed, and none where there is no end.
    pub kept_for: Option<Duration>,
}

/// One stream or gate in a snapshot.
#[derive(Clone, Debug)]
pub struct StreamStatus {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub kind: Kind,
    /// Its state in one word; `Paused` implies `in_flight == 0`.
    pub state: State,
    /// Units of work past the gate and not finished; never below the truth.
    pub in_flight: u64,
    /// Callers before the closed gate.
    pub waiting: u64,
    /// What is fetched and not past the gate.
    pub held: Held,
    /// How long the source leaves that with us; none for sources without leases.
    pub lease: Option<LeaseTerms>,
    /// The holds that stand.
    pub holds: Vec<(Controller, Hold)>,
    /// The holds that an override has set aside.
    pub set_aside: Vec<(Controller, Hold)>,
    /// Events whose effect is done, since the start of the process.
    pub events: u64,
    /// Events written to the dead letter, since the start of the process.
    pub dead_letters: u64,
    /// Connections that were upgraded (WebSocket) and are open; counted apart from `in_flight`.
    pub upgraded: u64,
    /// What still runs, oldest first, as far as it is named.
    pub running: Vec<Running>,
    /// How source and sink are doing.
    pub life: Life,
    /// When the state last changed.
    pub last_transition: SystemTime,
}

/// What one poll loop last said of a switch.
#[derive(Clone, Debug)]
pub struct SwitchStatus {
    /// Its name.
    pub name: Name,
    /// The kind of store: `vault`, `azure_key_vault`, `file`, `fixed`.
    pub provider: &'static str,
    /// The streams it can hold.
    pub streams: Vec<Name>,
    /// The last reading in a word; `none` before the first poll has ended.
    pub reading: &'static str,
    /// The version of the last good reading.
    pub version: Option<Version>,
    /// When the last good reading was made.
    pub good_at: Option<Instant>,
    /// What is wrong, for a person: which switch, what was expected, what happens now.
    pub error: Option<Name>,
    /// Smaller complaints about a flag that was read (`until` ignored, expiry near).
    pub warnings: Vec<Name>,
    /// When the next poll is due.
    pub next_poll: Option<Instant>,
    /// The process may call itself ready as far as this switch is concerned.
    pub settled: bool,
    /// The last good reading is older than `max_stale`.
    pub stale: bool,
}

/// Everything, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Grows with every change of a state, a hold or a switch; counters alone do not raise it.
    pub revision: u64,
    /// When it was taken.
    pub at: SystemTime,
    /// The same moment on the monotonic clock: ages are counted from here.
    pub mono: Instant,
    /// Streams and gates, by name.
    pub streams: Vec<StreamStatus>,
    /// Switches, in the order of the configuration.
    pub switches: Vec<SwitchStatus>,
    /// What is wrong with the process as a whole, a sentence each.
    pub alarms: Vec<Name>,
}

impl Snapshot {
    /// The stream or gate of that name.
    pub fn stream(&self, name: &str) -> Option<&StreamStatus> {
        self.streams.iter().find(|s| &*s.name == name)
    }

    /// The switch of that name.
    pub fn switch(&self, name: &str) -> Option<&SwitchStatus> {
        self.switches.iter().find(|s| &*s.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_life_and_phase_has_one_word() {
        let retrying = Life::Retrying {
            attempt: 1,
            error: "e".into(),
        };
        let failed = Life::Failed { error: "e".into() };
        let table = [
            (Kind::Stream, Life::Starting, Phase::Open, "starting"),
            (Kind::Stream, Life::Starting, Phase::Pausing, "pausing"),
            (Kind::Stream, Life::Starting, Phase::Paused, "paused"),
            (Kind::Stream, Life::Up, Phase::Open, "running"),
            (Kind::Stream, Life::Up, Phase::Pausing, "pausing"),
            (Kind::Stream, Life::Up, Phase::Paused, "paused"),
            (Kind::Stream, retrying.clone(), Phase::Open, "running"),
            (Kind::Stream, retrying, Phase::Paused, "paused"),
            (Kind::Stream, Life::Draining, Phase::Pausing, "draining"),
            (Kind::Stream, Life::Draining, Phase::Paused, "draining"),
            (Kind::Stream, Life::Stopped, Phase::Paused, "stopped"),
            (Kind::Stream, failed, Phase::Open, "failed"),
            (Kind::Gate { serves: false }, Life::Up, Phase::Paused, "paused"),
            (Kind::Gate { serves: true }, Life::Up, Phase::Open, "hiatus"),
        ];
        for (kind, life, phase, word) in table {
            let held = phase != Phase::Open || word == "hiatus";
            assert_eq!(
                State::of(kind, &life, phase, held).word(),
                word,
                "{kind:?} {life:?} {phase:?}"
            );
        }
        assert_eq!(
            State::of(Kind::Gate { serves: true }, &Life::Up, Phase::Open, false),
            State::Running
        );
    }
}
