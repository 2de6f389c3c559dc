//! What happened, in order: the source of audit lines, flip latencies and the timeline.
use crate::{Controller, Name, State};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How many records are kept for readers that come late.
const KEPT: usize = 4096;

/// What a record tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// A stream's state changed.
    Transition,
    /// A hold was placed or strengthened.
    Placed,
    /// A controller released its hold.
    Released,
    /// A hold of the control API came to its `until`.
    Expired,
    /// A switch's hold was set aside by a person.
    Overridden,
    /// A call to the control API was refused.
    Refused,
    /// A switch's reading changed.
    Reading,
    /// Somebody tried whether a stream could be paused.
    Drill,
}

impl Act {
    /// The word in audit lines.
    pub fn word(self) -> &'static str {
        match self {
            Act::Transition => "transition",
            Act::Placed => "hold_placed",
            Act::Released => "hold_released",
            Act::Expired => "hold_expired",
            Act::Overridden => "override",
            Act::Refused => "refused",
            Act::Reading => "reading",
            Act::Drill => "drill",
        }
    }
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Record {
    /// Counts up by one from 1; a gap means that records were lost to a reader that was too slow.
    pub seq: u64,
    /// When.
    pub at: SystemTime,
    /// What kind of thing.
    pub act: Act,
    /// The stream or gate it happened to.
    pub stream: Option<Name>,
    /// The switch, for readings.
    pub switch: Option<Name>,
    /// State before, for transitions.
    pub from: Option<State>,
    /// State after, for transitions.
    pub to: Option<State>,
    /// Whose hold.
    pub controller: Option<Controller>,
    /// Who is known to have acted: a token's name, `loopback`, `store:<version>`.
    pub actor: Option<Name>,
    /// Who claims to have acted.
    pub by: Option<Name>,
    /// Why.
    pub reason: Option<Name>,
    /// The secret's version.
    pub version: Option<Name>,
    /// From the reading (or the call) to the proven state.
    pub flip_latency: Option<Duration>,
    /// From the store's own time of the version to the proven state.
    pub store_latency: Option<Duration>,
}

impl Record {
    /// A record with nothing but its kind; the journal sets `seq` and `at`.
    pub fn new(act: Act) -> Record {
        Record {
            seq: 0,
            at: SystemTime::UNIX_EPOCH,
            act,
            stream: None,
            switch: None,
            from: None,
            to: None,
            controller: None,
            actor: None,
            by: None,
            reason: None,
            version: None,
            flip_latency: None,
            store_latency: None,
        }
    }
}

#[derive(Default)]
pub(crate) struct Journal {
    last: u64,
    records: VecDeque<Arc<Record>>,
}

impl Journal {
    pub(crate) fn push(&mut self, mut record: Record, at: SystemTime) -> u64 {
        self.last += 1;
        record.seq = self.last;
        record.at = at;
        if self.records.len() == KEPT {
            self.records.pop_front();
        }
        self.records.push_back(Arc::new(record));
        self.last
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn after(&self, seq: u64) -> Vec<Arc<Record>> {
        let wanted = usize::try_from(self.last.saturating_sub(seq)).unwrap_or(usize::MAX);
        let skip = self.records.len().saturating_sub(wanted);
        self.records.iter().skip(skip).cloned().collect()
    }
}
