//! What of each partition is out, and how far it may be committed.
//!
//! Kafka knows no acknowledgement of an event, but one number for each partition: everything before it is done. So the
//! number follows the oldest event that is not done, whatever was done after it.
use crate::event::Token;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// The ledger of a [`KafkaSource`](super::KafkaSource): no clock, no broker.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    epoch: u32,
    partitions: BTreeMap<u32, Partition>,
}

#[derive(Debug, Default)]
struct Partition {
    /// Handed out and not settled, in the order of their offsets.
    out: VecDeque<Out>,
    /// After the last that was handed out.
    next: Option<i64>,
    /// What the group has been told.
    committed: Option<i64>,
    /// From here on events were given back: they are fetched again, and nothing at or past this may be committed.
    rewind: Option<i64>,
}

#[derive(Debug)]
struct Out {
    offset: i64,
    arrived: Instant,
    /// It is past the gate.
    claimed: bool,
    /// The sink has it, and something before it is not done.
    done: bool,
}

impl Partition {
    fn find(&self, offset: i64) -> Option<usize> {
        self.out.binary_search_by_key(&offset, |out| out.offset).ok()
    }

    /// Everything before this is done. Nothing if nothing was ever handed out.
    fn done_before(&self) -> Option<i64> {
        let next = self.next?;
        let before = self.out.front().map_or(next, |first| first.offset);
        Some(self.rewind.map_or(before, |rewind| before.min(rewind)))
    }
}

fn offset(token: &Token) -> i64 {
    // Tokens of this source are made of offsets, which are not negative.
    i64::try_from(token.position).unwrap_or(i64::MAX)
}

impl Offsets {
    /// A new opening: what was out before is the group's again. The same opening again changes nothing.
    pub(super) fn begin(&mut self, epoch: u32) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.partitions.clear();
        }
    }

    /// This member has the partition from here on.
    pub(super) fn assign(&mut self, partition: u32) {
        self.partitions.entry(partition).or_default();
    }

    /// Another member may have the partition from here on: what is out of it is nobody's here. How many those were.
    pub(super) fn revoke(&mut self, partition: u32) -> usize {
        let gone = self.partitions.remove(&partition);
        gone.map_or(0, |gone| gone.out.iter().filter(|out| !out.done).count())
    }

    /// Notes an event that is handed out. False if it is not to be: it is out already, or its partition is not ours.
    pub(super) fn add(&mut self, token: &Token, now: Instant) -> bool {
        let offset = offset(token);
        let ours = self.epoch == token.epoch;
        let Some(partition) = self.partitions.get_mut(&token.partition).filter(|_| ours) else {
            return false;
        };
        // While it has to go back, what comes is what comes again.
        if partition.rewind.is_some() || partition.out.back().is_some_and(|last| last.offset >= offset) {
            return false;
        }
        partition.out.push_back(Out {
            offset,
            arrived: now,
            claimed: false,
            done: false,
        });
        partition.next = Some(offset + 1);
        // This member began here, so the group knows as much.
        partition.committed.get_or_insert(offset);
        true
    }

    fn of(&mut self, token: &Token) -> Option<&mut Out> {
        let ours = self.epoch == token.epoch;
        let partition = self.partitions.get_mut(&token.partition).filter(|_| ours)?;
        let at = partition.find(offset(token))?;
        partition.out.get_mut(at).filter(|out| !out.done)
    }

    /// Whether it is out.
    pub(super) fn has(&self, token: &Token) -> bool {
        let ours = self.epoch == token.epoch;
        let partition = self.partitions.get(&token.partition).filter(|_| ours);
        partition.is_some_and(|partition| {
            partition
                .find(offset(token))
                .is_some_and(|at| !partition.out[at].done)
        })
    }

    /// Whether it is out; if so, it passes the gate now.
    pub(super) fn claim(&mut self, token: &Token) -> bool {
        self.of(token).is_some_and(|out| {
            out.claimed = true;
            true
        })
    }

    /// The sink has these. Those of partitions that are not ours any more change nothing.
    pub(super) fn done(&mut self, tokens: &[Token]) {
        for token in tokens {
            if let Some(out) = self.of(token) {
                out.done = true;
            }
            if let Some(partition) = self.partitions.get_mut(&token.partition) {
                while partition.out.front().is_some_and(|first| first.done) {
                    partition.out.pop_front();
                }
            }
        }
    }

    /// These are not handed on: their partitions go back to the first of them.
    pub(super) fn give_back(&mut self, tokens: &[Token]) {
        for token in tokens.iter().filter(|token| token.epoch == self.epoch) {
            let Some(partition) = self.partitions.get_mut(&token.partition) else {
                continue;
            };
            let offset = offset(token);
            if let Some(at) = partition.find(offset).filter(|at| !partition.out[*at].done) {
                partition.out.remove(at);
                partition.rewind = Some(partition.rewind.map_or(offset, |first| first.min(offset)));
            }
        }
    }

    /// Partitions that have to go back, and to where.
    pub(super) fn rewinds(&self) -> Vec<(u32, i64)> {
        let all = self.partitions.iter();
        all.filter_map(|(partition, p)| Some((*partition, p.rewind?)))
            .collect()
    }

    /// The partition has gone back: what comes next of it comes from there.
    pub(super) fn rewound(&mut self, partition: u32) {
        let p = self.partitions.get_mut(&partition);
        if let Some((p, first)) = p.and_then(|p| p.rewind.take().map(|first| (p, first))) {
            // What is out after that is handed out again, which `add` has to take.
            p.out.retain(|out| out.offset < first);
            p.next = Some(first);
        }
    }

    /// What the group has to be told: how far each partition is done, where it has not been told yet.
    pub(super) fn uncommitted(&self) -> Vec<(u32, i64)> {
        let all = self.partitions.iter();
        all.filter_map(|(partition, p)| {
            let done = p.done_before()?;
            (p.committed? < done).then_some((*partition, done))
        })
        .collect()
    }

    /// The group has been told.
    pub(super) fn committed(&mut self, partition: u32, offset: i64) {
        if let Some(p) = self.partitions.get_mut(&partition) {
            p.committed = Some(p.committed.map_or(offset, |told| told.max(offset)));
        }
    }

    /// When the event that is out for longest arrived.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let fronts = self.partitions.values().filter_map(|p| p.out.front());
        fronts.map(|out| out.arrived).min()
    }

    /// Forgets everything that is out and not past the gate: the group has taken the partitions. How many those were.
    pub(super) fn expire(&mut self) -> usize {
        let mut gone = 0;
        for p in self.partitions.values_mut() {
            let was = p.out.len();
            let first = p
                .out
                .iter()
                .find(|out| !out.claimed && !out.done)
                .map(|out| out.offset);
            p.out.retain(|out| out.claimed || out.done);
            gone += was - p.out.len();
            if let Some(first) = first {
                p.rewind = Some(p.rewind.map_or(first, |r| r.min(first)));
            }
        }
        gone
    }
}

#[cfg(test)]
#[path = "kafka_offsets_tests.rs"]
mod tests;
